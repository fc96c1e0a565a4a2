//! Containers by podman, without a registry: the root of each is an empty folder into which the
//! host's `/usr` is mounted read-only.
//!
//! In: a network namespace and a command. Out: a running [`Container`], its id and process id as
//! podman says them. Containers, storage and folders go when dropped.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::netns::Netns;
use crate::nginx::Config;
use crate::process::{built, output_of};
use crate::wait::eventually;

/// How long a container may take to be ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// Folders of a root; what is mounted needs its place.
const FOLDERS: [&str; 7] = ["usr", "etc", "proc", "sys", "dev", "tmp", "run"];

/// Where programs and libraries are looked for, as links into `/usr`.
const LINKS: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// podman with a storage of its own.
#[derive(Debug)]
pub struct Podman {
    folder: TempDir,
}

/// A running container.
#[derive(Debug)]
pub struct Container<'a> {
    podman: &'a Podman,
    /// Its id: 64 hexadecimal digits.
    pub id: String,
    /// Its first process, as the host sees it.
    pub pid: u32,
    /// What it shares with the host.
    folder: TempDir,
}

impl Podman {
    /// An empty storage.
    #[track_caller]
    pub fn new() -> Self {
        let folder = TempDir::with_prefix("e2e-podman-").expect("a temporary folder can be made");
        Self { folder }
    }

    /// Its folder, which holds more than its storage.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `podman`, with this storage.
    pub fn command(&self) -> Command {
        let path = self.folder.path();
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(path.join("storage"))
            .arg("--runroot")
            .arg(path.join("run"))
            // Roots are folders of ours. The overlay driver mounts its storage and leaves that behind.
            .args(["--storage-driver", "vfs"])
            // runc works with both cgroup versions mounted, crun 1.8 does not; no systemd needed.
            .args(["--runtime", "runc", "--cgroup-manager", "cgroupfs"]);
        command
    }

    /// Starts a program in a container in `netns`, with a folder of its own mounted at the same
    /// path as on the host. `prepare` fills that folder and gives program and arguments.
    #[track_caller]
    pub fn run(&self, netns: &Netns, prepare: impl FnOnce(&Path) -> Vec<String>) -> Container<'_> {
        let folder =
            TempDir::with_prefix("e2e-container-").expect("a temporary folder can be made");
        let shared = folder.path().join("shared");
        fs::create_dir(&shared).expect("a folder can be made");
        let words = prepare(&shared);
        let tools = built("misbehave");
        let tools = tools.parent().expect("a file is in a folder");
        let mut command = self.command();
        command
            .args(["run", "--detach", "--log-driver", "k8s-file"])
            // The usual limits may be above those of who runs the test.
            .args([
                "--ulimit",
                "nofile=1024:1024",
                "--ulimit",
                "nproc=1000:1000",
            ])
            .args(["--network", &format!("ns:{}", netns.path().display())])
            .args(["--volume", "/usr:/usr:ro"])
            .arg(format!("--volume={0}:{0}:ro", tools.display()))
            .arg(format!("--volume={0}:{0}", shared.display()))
            .arg("--rootfs")
            .arg(root(folder.path()))
            .args(words);
        let id = output_of(&mut command).trim().to_owned();
        let pid = output_of(
            self.command()
                .args(["inspect", "--format", "{{.State.Pid}}", &id]),
        );
        Container {
            podman: self,
            id,
            pid: pid
                .trim()
                .parse()
                .expect("a running container has a process"),
            folder,
        }
    }

    /// Upstreams that misbehave, at these ports of `ip`.
    #[track_caller]
    pub fn misbehave(&self, addresses: &[SocketAddr], netns: &Netns) -> Container<'_> {
        let container = self.run(netns, |_| {
            let ip = addresses.first().expect("an address at least").ip();
            let mut words = vec![
                built("misbehave").display().to_string(),
                "--bind".to_owned(),
                ip.to_string(),
            ];
            for address in addresses {
                words.extend(["--port".to_owned(), address.port().to_string()]);
            }
            words
        });
        eventually(PATIENCE, "the upstream in its container listens", || {
            let log = container.log();
            if log.matches("ready ").count() == addresses.len() {
                Ok(())
            } else {
                Err(log)
            }
        });
        container
    }

    /// nginx with this inside of an `http` block.
    #[track_caller]
    pub fn nginx(&self, http: &str, netns: &Netns) -> Container<'_> {
        let container = self.run(netns, |folder| {
            fs::write(folder.join("nginx.conf"), Config::new(http).text())
                .expect("its configuration is written");
            let folder = folder.display().to_string();
            [
                "nginx",
                "-p",
                &folder,
                "-c",
                "nginx.conf",
                "-e",
                "error.log",
            ]
            .map(str::to_owned)
            .to_vec()
        });
        eventually(PATIENCE, "nginx in its container listens", || {
            if container.shared().join("nginx.pid").exists() {
                Ok(())
            } else {
                Err(container.log())
            }
        });
        container
    }
}

impl Default for Podman {
    fn default() -> Self {
        Self::new()
    }
}

impl Container<'_> {
    /// The folder that it shares with the host.
    pub fn shared(&self) -> PathBuf {
        self.folder.path().join("shared")
    }

    /// What it printed.
    pub fn log(&self) -> String {
        let output = self.podman.command().args(["logs", &self.id]).output();
        output.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    }

    /// The container of a process, as its cgroup is named.
    pub fn holds(&self, pid: u32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|cgroups| cgroups.contains(&self.id))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // What podman starts at a container's end goes on after it is removed, and writes into the
        // folder, which is about to go.
        let folder = self.folder.path().as_os_str().as_bytes();
        let started = Instant::now();
        while is_named_by_a_process(folder) && started.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether a process has these bytes in its command line.
fn is_named_by_a_process(word: &[u8]) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .any(|line| line.windows(word.len()).any(|part| part == word))
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // Not `output_of`: a panic while panicking would end the whole test run.
        let removed = self
            .podman
            .command()
            .args(["rm", "--force", "--time", "0", &self.id])
            .output();
        if !removed.is_ok_and(|output| output.status.success()) {
            eprintln!("container {} is left over", self.id);
        }
    }
}

/// The root of a container: enough for a dynamically linked program of the host.
#[track_caller]
fn root(folder: &Path) -> PathBuf {
    let root = folder.join("root");
    for name in FOLDERS {
        fs::create_dir_all(root.join(name)).expect("a folder can be made");
    }
    for name in LINKS {
        symlink(Path::new("usr").join(name), root.join(name)).expect("a link can be made");
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("it is written");
    fs::write(root.join("etc/group"), "root:x:0:\n").expect("it is written");
    root
}
