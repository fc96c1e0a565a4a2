//! Hears of connections as the kernel begins to track them, in the host's network namespace.
//!
//! Who may do it is asked once, when the socket is bound: what is multicast to it later comes
//! without any right (`netlink_bind()`, net/netlink/af_netlink.c), so CAP_NET_ADMIN is given up
//! with the others.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto,
    socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{SockFilter, SockRef};

use super::message::{self, Told};
use crate::identity::neighbours::Netns;

/// Network namespace of this thread, and that of the host.
const OWN: &str = "/proc/thread-self/ns/net";
const HOST: &str = "/proc/1/ns/net";

/// The namespace of process ids, and which is the kernel's first (`PROC_PID_INIT_INO`,
/// include/linux/proc_ns.h).
const PROCESSES: &str = "/proc/self/ns/pid";
const FIRST_PROCESSES: u64 = 0xefff_fffc;

/// The same, where the first process does not let itself be looked at, by the first kernel thread:
/// it is seen outside of containers only, where both are in the kernel's first namespace.
const KERNEL_THREAD: &str = "/proc/2";
const KERNEL_THREAD_NAME: &str = "kthreadd";

/// Whether the kernel tells of connections at all; 0 is no, 1 and 2 are yes.
const EVENTS: &str = "/proc/sys/net/netfilter/nf_conntrack_events";

/// The group of new connections (`NFNLGRP_CONNTRACK_NEW` is 1), as a mask.
const NEW_CONNECTIONS: u32 = 1;

/// Memory for what was told and not yet heard, bytes, of which the kernel takes twice as much. It
/// counts about 1,400 for each connection, and it is emptied every 20 to 80 ms. Smaller: bursts are
/// lost. Larger: kernel memory.
const BUFFER: usize = 4 << 20;

/// Longest datagram: the kernel fills those of an answer up to 32 KiB.
pub(super) const DATAGRAM: usize = 32 << 10;

/// For how long connections that are open already are asked for. A million take about a second.
const LONGEST_ANSWER: Duration = Duration::from_secs(2);

/// Why nothing is heard.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Which namespace the host's is cannot be seen.
    #[error(
        "the host's network namespace cannot be seen at /proc/1/ns/net ({0}): give CAP_SYS_PTRACE and the host's process ids; an AppArmor profile can refuse it as well"
    )]
    Hidden(io::Error),
    /// Whose number 1 is, is not known.
    #[error(
        "the agent has process ids of its own, so which network is the host's cannot be told: give it the host's (hostPID: true, --pid=host)"
    )]
    OwnProcesses,
    /// This process is in another one.
    #[error(
        "the agent has a network of its own and may not enter the host's, where addresses are translated ({0}): run it in the host's network (hostNetwork: true), or give CAP_SYS_ADMIN for the start"
    )]
    Elsewhere(Errno),
    /// It is switched off there.
    #[error("net.netfilter.nf_conntrack_events is 0 on this host: set it to 1")]
    SwitchedOff,
    /// The kernel does not let it.
    #[error(
        "the kernel does not tell of connections ({0}): it needs nf_conntrack_netlink, CAP_NET_ADMIN, and AF_NETLINK among the address families that are allowed"
    )]
    Refused(#[from] Errno),
    /// No thread.
    #[error("no thread can be started: {0}")]
    Thread(io::Error),
}

/// The socket.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    /// Of which network namespace it hears.
    pub(super) netns: Netns,
}

/// What came of listening.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// So many bytes.
    Datagram(usize),
    /// Nothing is there.
    Nothing,
    /// Some was lost: the buffer was full.
    Overrun,
    /// Something that is not from the kernel.
    Foreign,
}

impl Socket {
    /// Listens from now on, and tells of each connection there is already to `each`.
    ///
    /// A thread of its own does it, for that thread may have to enter another namespace; the
    /// socket stays in there when it ends.
    ///
    /// # Errors
    /// Says what is missing and who can give it.
    pub(super) fn open(each: impl FnMut(Told) + Send) -> Result<Self, Unavailable> {
        thread::scope(|scope| {
            let opening = thread::Builder::new()
                .name("conntrack".to_owned())
                .spawn_scoped(scope, || open(each))
                .map_err(Unavailable::Thread)?;
            opening
                .join()
                .unwrap_or_else(|_| Err(Unavailable::Refused(Errno::IO)))
        })
    }

    /// Hears one datagram, without waiting for it.
    ///
    /// # Errors
    /// The socket is of no use any more.
    pub(super) fn hear(&self, buffer: &mut [u8]) -> Result<Heard, Errno> {
        hear(&self.fd, buffer, RecvFlags::DONTWAIT)
    }
}

fn open(mut each: impl FnMut(Told)) -> Result<Socket, Unavailable> {
    if fs::metadata(PROCESSES).map_err(Unavailable::Hidden)?.ino() != FIRST_PROCESSES {
        return Err(Unavailable::OwnProcesses);
    }
    let own = fs::metadata(OWN).map_err(Unavailable::Hidden)?.ino();
    let host = host().map_err(Unavailable::Hidden)?;
    let netns = host.metadata().map_err(Unavailable::Hidden)?.ino();
    if own != netns {
        move_into_link_name_space(host.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(Unavailable::Elsewhere)?;
    }
    // It is not there before the first rule that needs it.
    if fs::read_to_string(EVENTS).is_ok_and(|value| value.trim() == "0") {
        return Err(Unavailable::SwitchedOff);
    }
    let socket = netlink()?;
    // Without a larger one it works as well.
    let _ = set_socket_recv_buffer_size_force(&socket, BUFFER);
    // So does it without a filter, which only spares hearing what is skipped then.
    let _ = SockRef::from(&socket).attach_filter(&tcp_only());
    bind(&socket, &SocketAddrNetlink::new(0, NEW_CONNECTIONS))?;
    // Asked behind that, so that none is missed between the two.
    ask_for_all(&mut each)?;
    Ok(Socket { fd: socket, netns })
}

fn host() -> io::Result<File> {
    File::open(HOST).or_else(|error| {
        let thread = Path::new(KERNEL_THREAD);
        let name = fs::read_to_string(thread.join("comm")).unwrap_or_default();
        if name.trim() == KERNEL_THREAD_NAME {
            File::open(thread.join("ns/net"))
        } else {
            Err(error)
        }
    })
}

fn netlink() -> Result<OwnedFd, Errno> {
    socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(NETFILTER),
    )
}

/// Those that are open already. By a socket of its own: an answer that is too long ends with it.
fn ask_for_all(each: &mut impl FnMut(Told)) -> Result<(), Errno> {
    let socket = netlink()?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    let patience = rustix::net::sockopt::Timeout::Recv;
    set_socket_timeout(&socket, patience, Some(LONGEST_ANSWER))?;
    sendto(
        &socket,
        &message::all_connections(),
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;
    let began = Instant::now();
    let mut buffer = vec![0; DATAGRAM];
    while began.elapsed() < LONGEST_ANSWER {
        let Heard::Datagram(length) = hear(&socket, &mut buffer, RecvFlags::empty())? else {
            continue;
        };
        for told in message::read(buffer.get(..length).unwrap_or_default()) {
            match told {
                Told::Done => return Ok(()),
                Told::Refused(errno) => return Err(Errno::from_raw_os_error(errno)),
                told => each(told),
            }
        }
    }
    tracing::warn!(
        "where connections lead that were open before the start is known in part: connection tracking did not tell all of them in time"
    );
    Ok(())
}

fn hear(socket: &OwnedFd, buffer: &mut [u8], flags: RecvFlags) -> Result<Heard, Errno> {
    let (length, address) = loop {
        match recvfrom(socket, &mut *buffer, flags) {
            Ok((length, _, address)) => break (length, address),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Heard::Nothing),
            Err(Errno::NOBUFS) => return Ok(Heard::Overrun),
            Err(error) => return Err(error),
        }
    };
    // Others may send to a netlink socket as well, with CAP_NET_ADMIN; the kernel is number 0.
    let sender = address.and_then(|address| SocketAddrNetlink::try_from(address).ok());
    if sender.is_none_or(|sender| sender.pid() != 0) {
        return Ok(Heard::Foreign);
    }
    Ok(Heard::Datagram(length))
}

/// Keeps what is of another protocol from being heard: most new connections of a cluster's node
/// are questions for names. Classic BPF that looks for the protocol's number with the two calls
/// for netlink attributes (`SKF_AD_NLATTR`, net/core/filter.c); whatever has none passes.
fn tcp_only() -> [SockFilter; 15] {
    // linux/bpf_common.h and linux/filter.h
    const LOAD: u16 = 0x00;
    const LOAD_WORD_AT: u16 = 0x20;
    const LOAD_BYTE_AT_X: u16 = 0x50;
    const LOAD_X: u16 = 0x01;
    const MOVE_TO_X: u16 = 0x07;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const EXTENSIONS: u32 = 0x1000_u32.wrapping_neg();
    const FIND: u32 = EXTENSIONS + 12;
    const FIND_NESTED: u32 = EXTENSIONS + 16;
    const PASS: u32 = u32::MAX;
    let step = |code, value| SockFilter::new(code, 0, 0, value);
    let jump_if = |value, ahead| SockFilter::new(JUMP_IF_EQUAL, ahead, 0, value);
    let attributes = u32::try_from(message::ATTRIBUTES).unwrap_or(u32::MAX);
    [
        step(LOAD, attributes),
        step(LOAD_X, message::CTA_TUPLE_ORIG.into()),
        step(LOAD_WORD_AT, FIND),
        jump_if(0, 9),
        step(LOAD_X, message::CTA_TUPLE_PROTO.into()),
        step(LOAD_WORD_AT, FIND_NESTED),
        jump_if(0, 6),
        step(LOAD_X, message::CTA_PROTO_NUM.into()),
        step(LOAD_WORD_AT, FIND_NESTED),
        jump_if(0, 3),
        step(MOVE_TO_X, 0),
        // Behind the attribute's header.
        step(LOAD_BYTE_AT_X, 4),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, message::TCP.into()),
        step(RETURN, PASS),
        step(RETURN, 0),
    ]
}
