//! A folder and an address for a proxy, and the processes that run there.

use std::env::consts::ARCH;
use std::fs::{self, File, Permissions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::family;
use crate::agent::take_in_listeners;
use crate::ports;
use crate::process::{Running, command, signal};
use crate::wait::eventually;

/// A proxy may take this long to listen; Varnish compiles its configuration with a C compiler.
pub(super) const START: Duration = Duration::from_secs(30);

/// What every driver starts from.
#[derive(Debug)]
pub(super) struct Launch {
    name: &'static str,
    /// A free address of this host.
    pub(super) address: SocketAddr,
    folder: TempDir,
}

/// A proxy's processes and files.
#[derive(Debug)]
pub(super) struct Launched {
    name: &'static str,
    /// The proxy first, then helpers such as a writer of its log.
    processes: Vec<Running>,
    folder: TempDir,
}

impl Launch {
    #[track_caller]
    pub(super) fn new(name: &'static str) -> Self {
        let folder =
            TempDir::with_prefix(format!("e2e-{name}-")).expect("a temporary folder can be made");
        // A proxy that gives up root has to reach its files.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))
            .expect("our folder is ours");
        Self {
            name,
            address: ports::free(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            folder,
        }
    }

    /// Path of a file in the folder.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file into the folder.
    #[track_caller]
    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).expect("its configuration is written");
    }

    /// Starts `program`; what it prints goes to the file `output`.
    #[track_caller]
    pub(super) fn start(&self, program: &str, set: impl FnOnce(&mut Command)) -> Running {
        self.start_into(program, "output", set)
    }

    /// Starts `program`; what it prints goes to a file.
    #[track_caller]
    pub(super) fn start_into(
        &self,
        program: &str,
        output: &str,
        set: impl FnOnce(&mut Command),
    ) -> Running {
        assert!(
            is_there(program),
            "there is no {program} on this machine: `cargo xtask setup` installs what the tests need"
        );
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.file(output))
            .expect("a file in our folder can be made");
        let errors = output.try_clone().expect("a file can be opened twice");
        let mut command = command(program, None);
        // Apache ends by a signal to its whole group: that must not be the test's.
        set(command
            .process_group(0)
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .stdout(Stdio::from(output))
            .stderr(errors));
        Running::start(self.name, &mut command)
    }

    /// What runs now.
    pub(super) fn done(self, processes: Vec<Running>) -> Launched {
        let Self { name, folder, .. } = self;
        Launched {
            name,
            processes,
            folder,
        }
    }
}

impl Launched {
    /// Process id of the proxy.
    pub(super) fn pid(&self) -> u32 {
        self.processes.first().map_or(0, Running::pid)
    }

    /// Whole lines of a file in the folder: what is after the last line end is still being
    /// written.
    pub(super) fn text(&self, name: &str) -> String {
        let bytes = fs::read(self.folder.path().join(name)).unwrap_or_default();
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        text
    }

    /// Waits until the kernel has a listener at `address`, without connecting to it.
    #[track_caller]
    pub(super) fn wait_until_it_listens(&mut self, address: SocketAddr) {
        let what = format!("{} listens", self.name);
        eventually(START, &what, || {
            for process in &mut self.processes {
                if let Some(status) = process.ended() {
                    let said =
                        fs::read_to_string(self.folder.path().join("output")).unwrap_or_default();
                    panic!("{} ended with {status} at its start: {said}", self.name);
                }
            }
            if listens(address) {
                Ok(())
            } else {
                Err(format!("nobody listens on {address}"))
            }
        });
        take_in_listeners();
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        let Some(proxy) = self.processes.first_mut() else {
            return;
        };
        let children = family(proxy.pid()).split_off(1);
        // A test may have held them still.
        for process in &children {
            signal(*process, Signal::CONT);
        }
        proxy.signal(Signal::CONT);
        proxy.stop(Signal::TERM);
        // Children end with their parent. Those that do not are ended by their ids, which
        // were taken while the parent was still theirs.
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(2) && children.iter().any(|pid| runs(*pid)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        for process in children.into_iter().filter(|pid| runs(*pid)) {
            signal(process, Signal::KILL);
        }
    }
}

/// Whether a process with this id runs.
fn runs(pid: u32) -> bool {
    // A zombie has ended; its third word is Z.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .trim_start()
            .starts_with('Z')
    })
}

fn listens(address: SocketAddr) -> bool {
    let port = format!(":{:04X}", address.port());
    fs::read_to_string("/proc/net/tcp").is_ok_and(|table| {
        table.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let local = words.next().unwrap_or("");
            local.ends_with(&port) && words.nth(1) == Some("0A")
        })
    })
}

/// A program that `cargo xtask setup` unpacks, unless another one is named or installed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unpacked {
    /// The variable that names another one.
    pub(super) variable: &'static str,
    /// Where it is unpacked, below `target/tools`; `{arch}` is the machine's architecture.
    pub(super) unpacked: &'static str,
    /// What it is called on `PATH`; `None` where that is another version.
    pub(super) on_path: Option<&'static str>,
}

/// Of which two versions are run one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// The one that Debian has, on `PATH`.
    Debian,
    /// A current one, which `cargo xtask setup` unpacks.
    Current,
}

impl Unpacked {
    /// The one that is named, else the one that is unpacked, else the one on `PATH`.
    pub(super) fn path(self) -> String {
        if let Ok(named) = std::env::var(self.variable) {
            return named;
        }
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
        let unpacked = target
            .join("tools")
            .join(self.unpacked.replace("{arch}", ARCH));
        match self.on_path {
            Some(on_path) if !unpacked.is_file() => on_path.to_owned(),
            _ => unpacked.to_string_lossy().into_owned(),
        }
    }
}

fn is_there(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).is_file();
    }
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    })
}
