//! Cgroups as a container runtime makes them.

use std::fs;
use std::path::PathBuf;

/// A cgroup of version 2, as the kubelet names that of a container.
#[derive(Debug)]
pub struct Cgroup {
    /// Outermost first.
    folders: Vec<PathBuf>,
}

impl Cgroup {
    /// Moves processes into `kubepods/burstable/podUID/CONTAINER`.
    #[track_caller]
    pub fn of_pod(uid: &str, container: &str, pids: &[u32]) -> Self {
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
        let mut folder = root;
        for name in ["kubepods", "burstable", &format!("pod{uid}"), container] {
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
        Self { folders }
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
