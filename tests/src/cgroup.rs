//! Cgroups as a container runtime makes them.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::wait::eventually;

/// The kernel may take a moment to take an ended process out of its cgroup.
const EMPTY: Duration = Duration::from_secs(10);

/// A cgroup of version 2, as the kubelet names that of a container.
#[derive(Debug)]
pub struct Cgroup {
    root: PathBuf,
    /// Outermost first.
    folders: Vec<PathBuf>,
}

impl Cgroup {
    /// Moves processes into `kubepods/burstable/podUID/CONTAINER`.
    #[track_caller]
    pub fn of_pod(uid: &str, container: &str, pids: &[u32]) -> Self {
        let names = ["kubepods", "burstable", &format!("pod{uid}"), container];
        Self::of_names(&names, pids)
    }

    /// An empty one below the root, as that of a service.
    #[track_caller]
    pub fn of_service(name: &str) -> Self {
        Self::of_names(&[name], &[])
    }

    #[track_caller]
    fn of_names(names: &[&str], pids: &[u32]) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts can be read");
        let root = mounts
            .lines()
            .find_map(|line| {
                let mut words = line.split(' ').skip(1);
                let folder = words.next()?;
                (words.next()? == "cgroup2").then(|| PathBuf::from(folder))
            })
            .expect("cgroup version 2 is mounted");
        let mut folders = Vec::new();
        let mut folder = root.clone();
        for name in names {
            folder = folder.join(name);
            if !folder.is_dir() {
                fs::create_dir(&folder).expect("root may make a cgroup");
                folders.push(folder.clone());
            }
        }
        for pid in pids {
            fs::write(folder.join("cgroup.procs"), pid.to_string())
                .expect("root may move a process");
        }
        Self { root, folders }
    }

    /// Removes the innermost folder, in which nothing is any more, and makes another of its name.
    #[track_caller]
    pub fn renew(&self) {
        let innermost = self.folders.last().expect("one was made");
        eventually(EMPTY, "what was in the cgroup has ended", || {
            fs::remove_dir(innermost).map_err(|error| error.to_string())
        });
        fs::create_dir(innermost).expect("root may make a cgroup");
    }

    /// The outermost folder that was made.
    #[track_caller]
    pub fn outermost(&self) -> &Path {
        self.folders.first().expect("one was made")
    }

    /// Does `start` with this process in the innermost folder, so that what is started stays there.
    #[track_caller]
    pub fn inside<T>(&self, start: impl FnOnce() -> T) -> T {
        let innermost = self.folders.last().expect("one was made");
        let own = fs::read_to_string("/proc/self/cgroup").expect("a process has cgroups");
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let was = self.root.join(own.expect("one is of version 2"));
        let enter = |folder: &Path| {
            fs::write(folder.join("cgroup.procs"), "0").expect("root may move a process");
        };
        enter(innermost);
        // A test that fails in there leaves it too.
        let started = catch_unwind(AssertUnwindSafe(start));
        enter(&was);
        started.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in self.folders.iter().rev() {
            if let Err(error) = fs::remove_dir(folder) {
                eprintln!("{} is left over: {error}", folder.display());
            }
        }
    }
}
