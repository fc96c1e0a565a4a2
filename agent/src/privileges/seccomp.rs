//! A filter for system calls: the agent that reads is none that starts programs or changes
//! anything.
//!
//! It is a list of what is refused, with EPERM, and not of what is allowed: which calls libc,
//! resolver and runtime make differs from system to system, and a call that is missing from a
//! list of allowed ones stops an agent somewhere in the night. Landlock would do part of it,
//! and would hide `/proc/PID/exe` of every other process
//! (`docs/decisions/0012-least-privilege.md`).

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// Of bpf(2): reading and changing what is in maps, and asking about what is open. Never to
/// make a map, load or attach a program, or open one by its id (include/uapi/linux/bpf.h).
const BPF_ALLOWED: [u64; 9] = [1, 2, 3, 4, 15, 21, 24, 25, 26];

/// Start another program, or act in one.
const PROGRAMS: [libc::c_long; 10] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pidfd_getfd,
];

/// Change files, or open them in a way that is not seen here.
const FILES: [libc::c_long; 19] = [
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    libc::SYS_io_uring_setup,
    libc::SYS_truncate,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_utimensat,
];

/// The same by older calls, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLD_FILES: [libc::c_long; 11] = [
    libc::SYS_creat,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_mknod,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_FILES: [libc::c_long; 0] = [];

/// Change the system, or leave one's place in it.
const SYSTEM: [libc::c_long; 33] = [
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_personality,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_listen,
    libc::SYS_quotactl,
];

/// The filter cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// There is none for this architecture, or it was made wrongly.
    #[error("no filter for this machine: {0}")]
    Make(#[from] seccompiler::BackendError),
    /// The kernel does not take it.
    #[error("the kernel does not take it: {0}")]
    Apply(#[from] seccompiler::Error),
}

/// Refuses from now on, for this thread and those that it starts.
///
/// # Errors
/// The kernel has no seccomp, or there is no filter for this architecture.
pub fn refuse_changes() -> Result<(), FilterError> {
    Ok(apply_filter(&filter(&BPF_ALLOWED, other_netlink()?)?)?)
}

/// The same for a thread that makes links of BPF programs, and has a right that would open more: of
/// bpf(2) nothing else, and of netlink nothing.
///
/// # Errors
/// As [`refuse_changes`].
pub(super) fn refuse_all_but(link_create: u32) -> Result<(), FilterError> {
    Ok(apply_filter(&filter(
        &[u64::from(link_create)],
        netlink()?,
    )?)?)
}

fn filter(
    bpf_allowed: &[u64],
    refused_netlink: SeccompRule,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let always = PROGRAMS.iter().chain(&FILES).chain(&OLD_FILES);
    for call in always.chain(&SYSTEM) {
        rules.insert(*call, Vec::new());
    }
    rules.insert(libc::SYS_bpf, vec![other_bpf(bpf_allowed)?]);
    rules.insert(libc::SYS_socket, vec![refused_netlink]);
    rules.insert(libc::SYS_openat, to_write(2)?);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, to_write(1)?);
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?.try_into()
}

fn other_bpf(allowed: &[u64]) -> Result<SeccompRule, seccompiler::BackendError> {
    let is_not =
        |command| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, command);
    SeccompRule::new(
        allowed
            .iter()
            .map(|command| is_not(*command))
            .collect::<Result<_, _>>()?,
    )
}

/// All of netlink.
fn netlink() -> Result<SeccompRule, seccompiler::BackendError> {
    let family = u64::from(libc::AF_NETLINK.unsigned_abs());
    let is_netlink = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family)?;
    SeccompRule::new(vec![is_netlink])
}

/// Netlink, through which networks, netfilter and more are set up; but not the part by which libc
/// learns which addresses this host has.
fn other_netlink() -> Result<SeccompRule, seccompiler::BackendError> {
    let argument = |at, operator, value: libc::c_int| {
        SeccompCondition::new(
            at,
            SeccompCmpArgLen::Dword,
            operator,
            u64::from(value.unsigned_abs()),
        )
    };
    SeccompRule::new(vec![
        argument(0, SeccompCmpOp::Eq, libc::AF_NETLINK)?,
        argument(2, SeccompCmpOp::Ne, libc::NETLINK_ROUTE)?,
    ])
}

/// Any of the flags by which a file is made or changed; they are argument `at`.
fn to_write(at: u8) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC]
        .into_iter()
        .map(|flag| {
            let flag = u64::from(flag.unsigned_abs());
            let has = SeccompCmpOp::MaskedEq(flag);
            let has = SeccompCondition::new(at, SeccompCmpArgLen::Dword, has, flag)?;
            SeccompRule::new(vec![has])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{ErrorKind, Write};
    use std::net::{TcpListener, TcpStream, ToSocketAddrs};
    use std::process::Command;
    use std::thread;

    use super::refuse_changes;

    /// Of a thread of its own: the filter stays as long as its thread.
    fn filtered(act: impl FnOnce() + Send + 'static) {
        let done = thread::spawn(|| {
            refuse_changes().unwrap();
            act();
        });
        done.join().unwrap();
    }

    #[test]
    fn what_changes_something_is_refused() {
        let folder = std::env::temp_dir().join(format!("why502-filter-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("file");
        fs::write(&file, "x").unwrap();
        let inside = file.clone();

        filtered(move || {
            let refused = |what: &str, result: std::io::Result<()>| {
                let kind = result.unwrap_err().kind();
                assert_eq!(kind, ErrorKind::PermissionDenied, "{what}");
            };
            refused("start", Command::new("true").status().map(drop));
            refused(
                "create",
                File::create(inside.with_extension("new")).map(drop),
            );
            refused("write", File::options().write(true).open(&inside).map(drop));
            refused(
                "append",
                File::options().append(true).open(&inside).map(drop),
            );
            refused("rename", fs::rename(&inside, inside.with_extension("b")));
            refused("remove", fs::remove_file(&inside));
            refused("mkdir", fs::create_dir(inside.with_extension("d")));
            refused("listen", TcpListener::bind("127.0.0.1:0").map(drop));
            refused(
                "netlink",
                rustix::net::socket_with(
                    rustix::net::AddressFamily::NETLINK,
                    rustix::net::SocketType::RAW,
                    rustix::net::SocketFlags::CLOEXEC,
                    Some(rustix::net::netlink::NETFILTER),
                )
                .map(drop)
                .map_err(Into::into),
            );
            refused(
                "kill",
                rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::CONT,
                )
                .map_err(Into::into),
            );
        });

        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_the_agent_does_later_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let path = std::env::temp_dir().join(format!("why502-open-{}", std::process::id()));
        let mut recording = File::create(&path).unwrap();

        filtered(move || {
            // A file that is open already, a process, a name, a connection, another thread.
            recording.write_all(b"x").unwrap();
            assert!(fs::read_link("/proc/self/exe").is_ok());
            assert!(fs::read_to_string("/etc/hosts").is_ok());
            assert!(fs::read_dir("/proc/self/fd").is_ok());
            assert!(("localhost", 80).to_socket_addrs().is_ok());
            let mut connection = TcpStream::connect(address).unwrap();
            connection.write_all(b"x").unwrap();
            let inner = thread::spawn(|| Command::new("true").status().is_err());
            assert!(
                inner.join().unwrap(),
                "the filter is of its threads as well"
            );
        });

        fs::remove_file(path).unwrap();
    }
}
