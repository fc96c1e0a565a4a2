//! Podman with a storage of its own: nothing of it is in the way of the host's containers.
//!
//! In: an image made of files, no registry. Out: containers, gone when the [`Images`] are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::podman::Podman;
use crate::process::output_of;

/// The cgroup of its containers, in each hierarchy.
pub const CGROUP: &str = "/e2e-podman";

/// A storage, its images and its containers.
#[derive(Debug, Default)]
pub struct Images {
    podman: Podman,
}

impl Images {
    /// An empty storage.
    #[track_caller]
    pub fn new() -> Self {
        Self::default()
    }

    /// `podman`, with this storage.
    pub fn command(&self) -> Command {
        self.podman.command()
    }

    /// Builds `containerfile` with `program` as its only file.
    #[track_caller]
    pub fn build(&self, containerfile: &Path, program: &Path, tag: &str) {
        let context: PathBuf = self.podman.folder().join("context");
        fs::create_dir_all(&context).expect("the folder is ours");
        fs::copy(program, context.join("why502")).expect("the program can be copied");
        let mut build = self.command();
        build
            .args(["build", "--quiet", "--isolation", "chroot", "--tag", tag])
            .arg("--file")
            .arg(containerfile)
            .arg(&context);
        output_of(&mut build);
    }

    /// What `podman` with these arguments prints on both streams, and whether it succeeded.
    #[track_caller]
    pub fn says(&self, arguments: &[&str]) -> (bool, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = self
            .command()
            .args(arguments)
            .output()
            .expect("podman is installed: apt-get install podman runc");
        let mut text = String::from_utf8_lossy(&stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&stderr));
        (status.success(), text)
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        let _ended = self
            .command()
            .args(["rm", "--force", "--all", "--time", "2"])
            .output();
        // Podman leaves the cgroup, in one or in many hierarchies.
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
        for folder in hierarchies.map(|entry| entry.path()).chain([root.into()]) {
            // And the one it would have used; one that is in use cannot be removed.
            for cgroup in [CGROUP.trim_start_matches('/'), "libpod_parent"] {
                let _removed = Command::new("find")
                    .arg(folder.join(cgroup))
                    .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
                    .output();
            }
        }
    }
}
