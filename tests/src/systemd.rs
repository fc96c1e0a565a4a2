//! A real systemd as the first process of namespaces of its own, with one service.
//!
//! In: a program, a unit, settings. Out: what systemd and the kernel say of the service. The root
//! is this system under an overlay that is thrown away, without the units that it would start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Running, children_of, command, output_of};
use crate::wait::eventually;

/// The cgroup that systemd takes for the root, in each hierarchy it needs.
const CGROUP: &str = "e2e-systemd";

/// Where both versions of cgroups are mounted, what systemd needs of them. It knows this layout.
const HYBRID: [&str; 4] = ["systemd", "memory", "pids", "unified"];

/// Cgroups are given back when the processes in them are gone.
const SOON: Duration = Duration::from_secs(10);

/// `$1` folder, `$2` program, `$3` unit, `$4` settings. Everything mounted is of these namespaces.
const INSIDE: &str = r#"
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/system"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" none "$1/system"
cp "$2" "$1/system/usr/bin/why502"
mkdir -p "$1/system/etc/why502"
cp "$4" "$1/system/etc/why502/config.toml"
cd "$1/system"
rm -rf lib/systemd/system/*.target.wants etc/systemd/system/* usr/lib/systemd/system-generators/*
for other in systemd-journald systemd-udevd systemd-sysctl; do
    ln -s /dev/null "etc/systemd/system/$other.service"
done
cp "$3" etc/systemd/system/why502.service
mkdir etc/systemd/system/why502.service.d
# Without a journal; it is opened by systemd, before the service may write nothing.
printf '[Service]\nStandardOutput=append:/var/log/why502.log\nStandardError=append:/var/log/why502.log\n' \
    > etc/systemd/system/why502.service.d/log.conf
printf '[Unit]\nRequires=why502.service\n' > etc/systemd/system/e2e.target
hybrid=false
test ! -d /sys/fs/cgroup/unified || hybrid=true
mount -t proc none proc
mount -t sysfs none sys
mount -t tracefs none sys/kernel/tracing
mount --rbind /dev dev
mount -t tmpfs none run
mount -t tmpfs none tmp
if $hybrid; then
    mount -t tmpfs none sys/fs/cgroup
    mkdir sys/fs/cgroup/systemd sys/fs/cgroup/memory sys/fs/cgroup/pids sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd none sys/fs/cgroup/systemd
    mount -t cgroup -o memory none sys/fs/cgroup/memory
    mount -t cgroup -o pids none sys/fs/cgroup/pids
    mount -t cgroup2 none sys/fs/cgroup/unified
else
    mount -t cgroup2 none sys/fs/cgroup
fi
exec env -i container=e2e PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . \
    /lib/systemd/systemd --system --unit=e2e.target --log-target=console --show-status=no
"#;

/// `$1` the script above, then its arguments; the shell becomes `unshare`, in the cgroups.
const OUTSIDE: &str = r#"
inside=$1
shift
for folder in "$@"; do
    case $folder in
    --) break ;;
    esac
    mkdir -p "$folder"
    echo $$ > "$folder/cgroup.procs"
done
while test "$1" != --; do shift; done
shift
exec unshare --mount --propagation private --cgroup --pid --fork --ipc --uts --kill-child \
    sh -euc "$inside" sh "$@"
"#;

/// A running systemd.
#[derive(Debug)]
pub struct Systemd {
    outside: Running,
    cgroups: Vec<PathBuf>,
    _folder: TempDir,
}

impl Systemd {
    /// Starts it, with `program` as `/usr/bin/why502` and the settings where the package has them.
    #[track_caller]
    pub fn start(program: &Path, unit: &Path, settings: &str) -> Self {
        let folder = TempDir::with_prefix("e2e-systemd-").expect("a temporary folder can be made");
        let config = folder.path().join("config.toml");
        fs::write(&config, settings).expect("the folder is ours");
        let system = folder.path().join("system");
        fs::create_dir(&system).expect("the folder is ours");
        let root = Path::new("/sys/fs/cgroup");
        let cgroups: Vec<PathBuf> = if root.join("unified").is_dir() {
            HYBRID.map(|name| root.join(name).join(CGROUP)).to_vec()
        } else {
            vec![root.join(CGROUP)]
        };
        let mut outside = command("sh", None);
        outside
            .args(["-euc", OUTSIDE, "sh", INSIDE])
            .args(&cgroups)
            .arg("--")
            .arg(&system)
            .args([program, unit, &config]);
        Self {
            outside: Running::start("systemd", &mut outside),
            cgroups,
            _folder: folder,
        }
    }

    /// Its process, when it is there.
    fn process(&self) -> Option<u32> {
        children_of(self.outside.pid()).first().copied()
    }

    /// A command where it runs; one that fails when it does not run yet.
    fn within(&self, program: &str) -> Command {
        let process = self.process().unwrap_or_default();
        let mut within = command("nsenter", None);
        within
            .args(["--mount", "--pid", "--root", "--target"])
            .arg(process.to_string())
            .arg(program);
        within
    }

    /// A property of the service.
    #[track_caller]
    pub fn property(&self, name: &str) -> String {
        let mut show = self.within("systemctl");
        let shown = output_of(show.args(["show", "--value", "--property", name, "why502"]));
        shown.trim().to_owned()
    }

    /// What the service has written; nothing before it has.
    pub fn log(&self) -> String {
        let mut cat = self.within("cat");
        cat.arg("/var/log/why502.log");
        cat.output().map_or_else(
            |error| error.to_string(),
            |said| String::from_utf8_lossy(&said.stdout).into_owned(),
        )
    }

    /// A line of `/proc/PID/status` of the service, without its name.
    #[track_caller]
    pub fn status_of_the_process(&self, key: &str) -> String {
        let path = format!("/proc/{}/status", self.property("MainPID"));
        let status = output_of(self.within("cat").arg(path));
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"))
            .unwrap_or_else(|| panic!("no {key} in {status}"));
        line.to_owned()
    }

    /// Stops the service.
    #[track_caller]
    pub fn stop_the_service(&self) {
        output_of(self.within("systemctl").args(["stop", "why502"]));
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // With it go all processes of its namespaces, and their mounts.
        self.outside.stop(Signal::KILL);
        if std::thread::panicking() {
            return;
        }
        eventually(SOON, "the cgroups are given back", || {
            for cgroup in self.cgroups.iter().filter(|cgroup| cgroup.exists()) {
                let mut find = command("find", None);
                find.arg(cgroup)
                    .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"]);
                let said = find.output().map_err(|error| error.to_string())?;
                if !said.status.success() {
                    return Err(String::from_utf8_lossy(&said.stderr).into_owned());
                }
            }
            Ok(())
        });
    }
}
