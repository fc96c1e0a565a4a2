//! From what `/proc/PID/cgroup` says to a folder of the hierarchy.
//!
//! In: the path of version 2 there, which begins at the root of the reader's cgroup namespace and leads
//! out of it by `..` (cgroup_namespaces(7)). Out: a path below the cgroup that is watched. Whether the
//! process is in that folder, the folder itself says ([`Hierarchy::holds`]).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::identity::cgroup::version_2;
use crate::kernel::is_root;

/// Folders looked at for the agent's own cgroup. Fewer: on a crowded node it is not found. More: a
/// longer start, 10 us each.
const MAX_FOLDERS: usize = 65_536;

/// What a path ends in whose cgroup was removed.
const DELETED: &str = " (deleted)";

/// Where a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In this cgroup, by its path below the one that is watched, whose own is empty.
    Inside(PathBuf),
    /// Not in the cgroup that is watched.
    Outside,
    /// Not known.
    Unknown,
}

/// The hierarchy, seen from the agent.
#[derive(Clone, Debug)]
pub(super) struct Hierarchy {
    /// The folder of the cgroup that is watched.
    watched: PathBuf,
    /// Its path from the root of the hierarchy.
    at: PathBuf,
    /// The root of the agent's cgroup namespace, likewise.
    namespace: PathBuf,
}

impl Hierarchy {
    /// `None` where it is not known how paths of processes lie to the cgroup that is watched.
    pub(super) fn new(watched: &Path, proc: &Path) -> Option<Self> {
        let namespace = namespace(watched, proc)?;
        let at = if is_root(watched) {
            PathBuf::new()
        } else {
            let mounts = fs::read_to_string(proc.join("self/mountinfo")).ok()?;
            at(watched, &namespace, &mounts)?
        };
        Some(Self {
            watched: watched.to_owned(),
            at,
            namespace,
        })
    }

    /// Where a process is whose path of version 2 is this.
    pub(super) fn place(&self, cgroup: &str) -> Place {
        if cgroup.ends_with(DELETED) {
            return Place::Outside;
        }
        match from(&self.namespace, cgroup) {
            Some(absolute) => absolute
                .strip_prefix(&self.at)
                .map_or(Place::Outside, |inside| Place::Inside(inside.to_owned())),
            None => Place::Unknown,
        }
    }

    /// The folder of a cgroup.
    pub(super) fn folder(&self, path: &Path) -> PathBuf {
        folder(&self.watched, path)
    }

    /// The process is in this cgroup.
    pub(super) fn holds(&self, path: &Path, tgid: u32) -> bool {
        holds(&self.folder(path), tgid)
    }
}

/// A cgroup below another. Without a slash behind it where it is that other itself.
pub(super) fn folder(watched: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() {
        watched.to_owned()
    } else {
        watched.join(path)
    }
}

/// By which a cgroup is known again: another one under the same name has another number.
pub(super) fn number(folder: &Path) -> Option<u64> {
    fs::metadata(folder).ok().map(|metadata| metadata.ino())
}

fn holds(folder: &Path, tgid: u32) -> bool {
    match fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => text.lines().any(|line| line.parse() == Ok(tgid)),
        // A cgroup of threads does not list processes.
        Err(error) => error.raw_os_error() == Some(libc::EOPNOTSUPP),
    }
}

/// `path`, seen from `start`; `None` when it leads above the root.
fn from(start: &Path, path: &str) -> Option<PathBuf> {
    let mut absolute = start.to_owned();
    for component in Path::new(path).components() {
        match component {
            Component::ParentDir => {
                if !absolute.pop() {
                    return None;
                }
            }
            Component::Normal(name) => absolute.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(absolute)
}

/// The root of the agent's cgroup namespace. The first process of the host shows how deep it is; the
/// folder of that depth that has the agent in it is the one.
fn namespace(watched: &Path, proc: &Path) -> Option<PathBuf> {
    let read = |name: &str| fs::read_to_string(proc.join(name).join("cgroup"));
    let first = read("1").ok()?;
    let depth = version_2(&first)?.matches("/..").count();
    if depth == 0 {
        return Some(PathBuf::new());
    }
    if !is_root(watched) {
        return None;
    }
    let own = read("self").ok()?;
    let below = version_2(&own)?.trim_start_matches('/');
    let mut folders = vec![PathBuf::new()];
    let mut left = MAX_FOLDERS;
    for _ in 0..depth {
        folders = folders
            .iter()
            .flat_map(|path| children(watched, path))
            .take(left)
            .collect();
        left = left.checked_sub(folders.len())?;
    }
    folders.into_iter().find(|path| {
        holds(
            &folder(&watched.join(path), Path::new(below)),
            std::process::id(),
        )
    })
}

fn children(watched: &Path, path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder(watched, path));
    let folders = entries.into_iter().flatten().flatten();
    folders
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| path.join(entry.file_name()))
        .collect()
}

/// The path of a folder from the root of the hierarchy, by what is mounted where.
fn at(folder: &Path, namespace: &Path, mounts: &str) -> Option<PathBuf> {
    let folder = resolve(folder).ok()?;
    let mut best: Option<(usize, PathBuf)> = None;
    for line in mounts.lines() {
        // proc(5): id parent major:minor root mount-point options [fields] - type source
        let Some((front, back)) = line.split_once(" - ") else {
            continue;
        };
        let mut fields = front.split(' ').skip(3);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else {
            continue;
        };
        let Ok(rest) = folder.strip_prefix(point) else {
            continue;
        };
        let length = point.len();
        // Of two at one place the later hides the earlier.
        if best.as_ref().is_some_and(|(longest, _)| *longest > length) {
            continue;
        }
        let is_cgroup2 = back.split(' ').next() == Some("cgroup2");
        let path = is_cgroup2.then(|| from(namespace, root)).flatten();
        best = path.map(|path| (length, path.join(rest)));
    }
    // Without a slash behind it.
    best.map(|(_, path)| path.components().collect())
}

fn resolve(folder: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(folder)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::{Hierarchy, Place, at, from, holds, namespace, version_2};

    fn seen(at: &str, namespace: &str) -> Hierarchy {
        Hierarchy {
            watched: PathBuf::from("/host/cgroup"),
            at: PathBuf::from(at),
            namespace: PathBuf::from(namespace),
        }
    }

    #[test]
    fn a_process_is_in_the_cgroup_that_is_watched_or_outside() {
        let inside = |path: &str| Place::Inside(PathBuf::from(path));
        let host = seen("", "");
        assert_eq!(host.place("/"), inside(""));
        assert_eq!(
            host.place("/system.slice/nginx.service"),
            inside("system.slice/nginx.service")
        );
        assert_eq!(host.place("/web (deleted)"), Place::Outside);
        assert_eq!(host.place("/../x"), Place::Unknown, "no namespace is known");

        let part = seen("system.slice", "");
        assert_eq!(part.place("/system.slice"), inside(""));
        assert_eq!(part.place("/system.slice/a/b"), inside("a/b"));
        assert_eq!(part.place("/system.slice-2/a"), Place::Outside);
        assert_eq!(part.place("/"), Place::Outside);
    }

    #[test]
    fn a_path_leads_out_of_the_namespace_of_the_agent() {
        let pod = "kubepods.slice/kubepods-podA.slice/cri-1.scope";
        let agent = seen("", pod);
        let inside = |path: &str| Place::Inside(PathBuf::from(path));

        assert_eq!(agent.place("/"), inside(pod));
        assert_eq!(
            agent.place("/../../kubepods-podB.slice/cri-2.scope"),
            inside("kubepods.slice/kubepods-podB.slice/cri-2.scope")
        );
        assert_eq!(agent.place("/../../../init.scope"), inside("init.scope"));
        assert_eq!(agent.place("/../../../../x"), Place::Unknown);
    }

    #[test]
    fn a_folder_is_where_its_mount_says() {
        let folder = std::env::temp_dir().canonicalize().unwrap();
        let mounts = |root: &str| {
            format!(
                "1 0 0:1 / / rw - ext4 x rw\n2 0 0:2 {root} {} rw - cgroup2 x rw\n",
                folder.display()
            )
        };

        let host = at(&folder, Path::new(""), &mounts("/"));
        assert_eq!(host, Some(PathBuf::new()));
        let part = at(&folder, Path::new("a/b"), &mounts("/../c"));
        assert_eq!(part, Some(PathBuf::from("a/c")));
        let none = "1 0 0:1 / / rw - ext4 x rw\n";
        assert_eq!(at(&folder, Path::new(""), none), None);
        assert_eq!(from(Path::new("a"), "/../../b"), None);
    }

    #[test]
    fn the_agents_own_cgroup_and_its_members_are_found() {
        assert_eq!(version_2("1:name=systemd:/\n0::/a:b/c\n"), Some("/a:b/c"));
        assert_eq!(version_2("1:name=systemd:/\n"), None);
        let folder = std::env::temp_dir().join(format!("why502-procs-{}", std::process::id()));
        fs::create_dir_all(folder.join("1")).unwrap();
        fs::write(folder.join("cgroup.procs"), "7\n12\n").unwrap();
        fs::write(folder.join("1/cgroup"), "0::/init.scope\n").unwrap();

        assert!(holds(&folder, 12) && !holds(&folder, 1));
        assert!(!holds(&folder.join("nowhere"), 7));
        // The first process of the host is seen from the root.
        assert_eq!(namespace(&folder, &folder), Some(PathBuf::new()));
        // Deep in the hierarchy, and no root to look from.
        fs::write(folder.join("1/cgroup"), "0::/../../init.scope\n").unwrap();
        assert_eq!(namespace(&folder, &folder), None);
        fs::remove_dir_all(folder).unwrap();
    }
}
