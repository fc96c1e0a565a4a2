//! Where the cgroup v2 hierarchy is, and a program's link to a cgroup of it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::KernelError;

/// Magic number of cgroup2 in `statfs(2)` (`include/uapi/linux/magic.h`).
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// Inode number of the root of the hierarchy, also where a part of it is mounted.
const ROOT_NUMBER: u64 = 1;

/// Where version 2 is in the folder of a host that has both: the nodes of a cluster need not be alike.
const HYBRID: &str = "unified";

/// `BPF_LINK_CREATE` of `enum bpf_cmd` (include/uapi/linux/bpf.h).
pub(super) const LINK_CREATE: u32 = 28;

/// The part of `union bpf_attr` that it reads.
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// The watched cgroup: `named`, or its folder `unified` if `named` is of version 1, or the root of the
/// mounted v2 hierarchy.
///
/// # Errors
/// Nothing is mounted, or the path is not a cgroup v2 directory that can be opened.
pub(super) fn find(named: Option<&Path>) -> Result<PathBuf, KernelError> {
    let path = match named {
        Some(path) => path.to_path_buf(),
        None => find_root().ok_or(KernelError::NoCgroup)?,
    };
    if is_cgroup2(&open(&path)?) {
        return Ok(path);
    }
    version_2(&path).ok_or(KernelError::NotCgroup2 { path })
}

/// Opens a cgroup.
///
/// # Errors
/// It is not there, or may not be opened.
pub(super) fn open(path: &Path) -> Result<File, KernelError> {
    File::open(path).map_err(|source| KernelError::Cgroup {
        path: path.to_path_buf(),
        source,
    })
}

/// Attaches a program to a cgroup, beside whatever others are attached; as long as the link is open.
///
/// # Errors
/// The kernel refuses: the right is missing, or the cgroup is being removed.
pub(super) fn link(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        program: program.as_raw_fd().unsigned_abs(),
        target: cgroup.as_raw_fd().unsigned_abs(),
        attach_type,
        flags: 0,
    };
    // SAFETY: the kernel reads as many bytes as it is given, and those are there.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            LINK_CREATE,
            &raw const attributes,
            size_of::<LinkCreate>(),
        )
    };
    match i32::try_from(result) {
        // SAFETY: the kernel made this descriptor just now, and nobody else knows of it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether it is a part of the host: any cgroup but the root, whose number is 1 (`kernfs_create_root`,
/// fs/kernfs/dir.c).
pub(super) fn is_part(named: Option<&Path>) -> bool {
    find(named).is_ok_and(|path| !is_root(&path))
}

/// It is the root of the hierarchy.
pub fn is_root(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.ino() == ROOT_NUMBER)
}

/// The folder of version 2 that is meant by this one: itself, or what is `unified` in it.
pub fn version_2(path: &Path) -> Option<PathBuf> {
    [path.to_path_buf(), path.join(HYBRID)]
        .into_iter()
        .find(|path| File::open(path).is_ok_and(|file| is_cgroup2(&file)))
}

/// The mount point of the v2 hierarchy. A bind mount of a part of it (a container's view)
/// comes second to a mount of the whole.
pub(super) fn find_root() -> Option<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
    find_root_in(&mountinfo)
}

fn find_root_in(mountinfo: &str) -> Option<PathBuf> {
    let mut partial = None;
    for line in mountinfo.lines() {
        // proc(5): id parent major:minor root mount-point options [fields] - type source
        let Some((front, back)) = line.split_once(" - ") else {
            continue;
        };
        if back.split(' ').next() != Some("cgroup2") {
            continue;
        }
        let mut fields = front.split(' ').skip(3);
        let (Some(root), Some(mount_point)) = (fields.next(), fields.next()) else {
            continue;
        };
        let path = PathBuf::from(mount_point);
        if root == "/" {
            return Some(path);
        }
        partial.get_or_insert(path);
    }
    partial
}

fn is_cgroup2(file: &File) -> bool {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open and the buffer is of the type the call fills.
    let result = unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) };
    if result != 0 {
        return false;
    }
    // SAFETY: the call succeeded, so it filled the buffer.
    unsafe { stat.assume_init() }.f_type == CGROUP2_SUPER_MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hybrid_layout_has_its_root_at_unified() {
        let text = "31 25 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    40 31 0:36 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            find_root_in(text),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
    }

    #[test]
    fn version_2_is_found_where_it_is_meant_and_nowhere_else() {
        assert_eq!(version_2(Path::new("/proc")), None);
        assert_eq!(version_2(Path::new("/nowhere")), None);
        // As this machine has it, if it has.
        let Some(root) = find_root() else {
            return;
        };
        assert_eq!(version_2(&root).as_deref(), Some(root.as_path()));
        if root.ends_with(HYBRID) {
            let both = root.parent().unwrap();
            assert_eq!(version_2(both).as_deref(), Some(root.as_path()));
        }
    }

    #[test]
    fn the_whole_hierarchy_is_preferred_to_a_part() {
        let text = "1 0 0:1 /kubepods/x /part rw - cgroup2 none rw\n2 0 0:1 / /whole rw - cgroup2 none rw\n";
        assert_eq!(find_root_in(text), Some(PathBuf::from("/whole")));
    }

    #[test]
    fn without_cgroup2_there_is_no_root() {
        assert_eq!(
            find_root_in("1 0 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"),
            None
        );
    }
}
