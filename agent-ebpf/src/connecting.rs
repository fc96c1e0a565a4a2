//! What `connect(2)` says: where to, and the errors that never become a packet.
//!
//! An asynchronous failure is seen on the socket ([`crate::lifecycle`]); the ones told here
//! are those the call itself returns: no route, no free port, no permission, and every
//! failure of a Unix socket. Before it, `socket(2)` fails when a process has no file left, and
//! `bind(2)` when it is to send from an address that this host does not have.

use agent_wire::limits::{CONNECTING_THREADS, UNIX_PATH_BYTES};
use agent_wire::record::{Connect, Header, Path, UnixConnect, end, flag, kind};
use agent_wire::tally::Tally;
use aya_ebpf::btf_maps::{HashMap, LruHashMap};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::TracePointContext;

use crate::attention;
use crate::calls;
use crate::errand;
use crate::flow::Flow;
use crate::kernel;
use crate::output;
use crate::packet;
use crate::scope;
use crate::tallies;

/// Threads inside `connect(2)`.
#[btf_map]
static CONNECTING: HashMap<u64, Connecting, { CONNECTING_THREADS as usize }> = HashMap::new();

/// The stream socket each thread made last, by task: `connect(2)` does not tell a stream
/// from a datagram, and resolvers connect datagram sockets to unreachable addresses daily.
#[btf_map]
static MADE: LruHashMap<u64, Made, { CONNECTING_THREADS as usize }> = LruHashMap::new();

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOCK_STREAM: u64 = 1;
const SOCK_TYPE_MASK: u64 = 0xf;

const EINTR: i64 = 4;
const EAGAIN: i64 = 11;
const EISCONN: i64 = 106;
const EALREADY: i64 = 114;
const EINPROGRESS: i64 = 115;

/// What `socket(2)` fails with for want of something. Others say that the kernel has no such
/// sockets, which programs try out.
const EPERM: i64 = 1;
const ENOMEM: i64 = 12;
const EACCES: i64 = 13;
const ENFILE: i64 = 23;
const EMFILE: i64 = 24;
const ENOBUFS: i64 = 105;

/// `sys_enter_socket` as a classic tracepoint: its first two arguments.
const SOCKET_FAMILY: usize = 16;
const SOCKET_TYPE: usize = 24;
/// `sys_enter_bind`: descriptor.
const BIND_FD: usize = 16;
/// `sys_enter_connect`: descriptor, address, length.
const CONNECT_FD: usize = 16;
const CONNECT_ADDRESS: usize = 24;
const CONNECT_LENGTH: usize = 32;
/// `sys_exit_*`: the return value.
const RETURNED: usize = 16;

/// A `connect(2)` under way.
#[repr(C)]
struct Connecting {
    started_ns: u64,
    /// Socket that reached SYN_SENT in this call.
    cookie: u64,
    family: u16,
    port: u16,
    /// The call left SYN_SENT again without a packet.
    silent: u8,
    stream: u8,
    path_len: u16,
    address: [u8; 16],
    path: [u8; UNIX_PATH_BYTES],
    /// Thread group, which callbacks cannot ask for.
    tgid: u32,
}

/// A socket just made.
#[repr(C)]
#[derive(Clone, Copy)]
struct Made {
    /// A stream.
    stream: u16,
    /// `bind(2)` is under way on it.
    binding: u16,
    fd: i32,
}

/// `socket(2)` returned.
#[inline(always)]
pub(crate) fn socket_made(family: u64, socket_type: u64, fd: i64) {
    let stream = is_stream(family, socket_type);
    remember_made(stream, fd as i32);
    if stream {
        not_made(fd);
    }
}

#[inline(always)]
pub(crate) fn socket_enter(ctx: &TracePointContext) {
    if let Some(family) = kernel::field::<u64>(ctx, SOCKET_FAMILY)
        && let Some(socket_type) = kernel::field::<u64>(ctx, SOCKET_TYPE)
    {
        remember_made(is_stream(family, socket_type), -1);
    }
}

/// A socket that upstreams are connected to with.
#[inline(always)]
fn is_stream(family: u64, socket_type: u64) -> bool {
    let family = family as u16;
    socket_type & SOCK_TYPE_MASK == SOCK_STREAM
        && (family == AF_INET || family == AF_INET6 || family == AF_UNIX)
}

#[inline(always)]
fn remember_made(stream: bool, fd: i32) {
    let made = Made {
        stream: u16::from(stream),
        binding: 0,
        fd,
    };
    let _ = MADE.insert(kernel::task(), made, 0);
}

#[inline(always)]
pub(crate) fn socket_exit(ctx: &TracePointContext) {
    let Some(fd) = kernel::field::<i64>(ctx, RETURNED) else {
        return;
    };
    if let Some(made) = MADE.get_ptr_mut(kernel::task()) {
        let made = kernel::value(made);
        made.fd = fd as i32;
        if made.stream != 0 {
            not_made(fd);
        }
    }
}

/// `socket(2)` of a stream returned `value`.
#[inline(always)]
fn not_made(value: i64) {
    let wanted = [EPERM, ENOMEM, EACCES, ENFILE, EMFILE, ENOBUFS];
    if wanted.contains(&-value) {
        cannot_connect(-value);
    }
}

/// `bind(2)` returned for the descriptor `fd`.
#[inline(always)]
pub(crate) fn bound(fd: u64, value: i64) {
    if value < 0
        && let Some(made) = MADE.get_ptr_mut(kernel::task())
        && kernel::value(made).is(fd)
    {
        cannot_connect(-value);
    }
}

#[inline(always)]
pub(crate) fn bind_enter(ctx: &TracePointContext) {
    if let Some(fd) = kernel::field::<u64>(ctx, BIND_FD)
        && let Some(made) = MADE.get_ptr_mut(kernel::task())
    {
        let made = kernel::value(made);
        made.binding = u16::from(made.is(fd));
    }
}

#[inline(always)]
pub(crate) fn bind_exit(ctx: &TracePointContext) {
    if let Some(value) = kernel::field::<i64>(ctx, RETURNED)
        && let Some(made) = MADE.get_ptr_mut(kernel::task())
    {
        let made = kernel::value(made);
        if made.binding != 0 && value < 0 {
            cannot_connect(-value);
        }
        made.binding = 0;
    }
}

impl Made {
    /// It is the stream with this descriptor.
    #[inline(always)]
    fn is(&self, fd: u64) -> bool {
        self.stream == 1 && self.fd == fd as i32
    }
}

/// A call that comes before `connect(2)` failed. Told of threads that work for a client only: others
/// make sockets to listen, or to try out what there is.
#[inline(always)]
fn cannot_connect(errno: i64) {
    let now = kernel::now();
    let Some((errand, tgid)) = errand::of_server_thread(now) else {
        return;
    };
    if attention::opens_unseen(tgid) || !scope::is_inside() {
        return;
    }
    calls::disturbed(tgid, now);
    output::emit_with(kind::CONNECT_ERRNO, now, |record: &mut Connect| {
        *record = Connect {
            header: Header {
                flags: flag::ACTIVE_OPEN | flag::SEEN_OPEN | flag::OWN_ERRAND,
                tgid: kernel::tgid(),
                opened_ns: now,
                errno: errno as u16,
                ..Header::default()
            },
            errand,
            outcome: end::KERNEL_ERROR,
            listener_silent: 0,
            reserved: [0; 6],
        };
    });
}

#[inline(always)]
pub(crate) fn connect_enter(ctx: &TracePointContext) {
    let Some(address) = kernel::field::<u64>(ctx, CONNECT_ADDRESS) else {
        return;
    };
    let Some(length) = kernel::field::<u64>(ctx, CONNECT_LENGTH) else {
        return;
    };
    let Some(fd) = kernel::field::<u64>(ctx, CONNECT_FD) else {
        return;
    };
    called(fd, address, length);
}

/// `connect(2)` is called with these arguments; `from` and `length` say where to.
#[inline(always)]
pub(crate) fn called(fd: u64, from: u64, length: u64) {
    let mut start = [0u8; 8];
    if !kernel::read_user(from, &mut start, 8) {
        return;
    }
    let family = u16::from_ne_bytes([start[0], start[1]]);
    if family != AF_INET && family != AF_INET6 && family != AF_UNIX {
        return;
    }
    let tgid = kernel::tgid();
    if attention::opens_unseen(tgid) || !scope::is_inside() {
        return;
    }
    let task = kernel::task();
    let stream = match MADE.get_ptr_mut(task) {
        Some(made) => {
            let stream = u8::from(kernel::value(made).is(fd));
            let _ = MADE.remove(task);
            stream
        }
        None => 0,
    };
    let mut entry = Connecting {
        started_ns: kernel::now(),
        cookie: 0,
        family,
        port: u16::from_be_bytes([start[2], start[3]]),
        silent: 0,
        stream,
        path_len: 0,
        address: [0; 16],
        path: [0; UNIX_PATH_BYTES],
        tgid,
    };
    if family == AF_INET {
        packet::map_v4([start[4], start[5], start[6], start[7]], &mut entry.address);
    } else if family == AF_INET6 {
        kernel::read_user(from + 8, &mut entry.address, 16);
    } else if length > 2 {
        entry.path_len = read_path(from + 2, length - 2, &mut entry.path);
    }
    if CONNECTING.insert(task, entry, 0).is_err() {
        tallies::count(Tally::CONNECTING_FULL);
    }
}

/// Reads `sun_path`; how many bytes of it count (unix(7)): a path ends with its first zero
/// byte, an abstract name starts with one and has the length given.
#[inline(always)]
fn read_path(from: u64, length: u64, path: &mut [u8; UNIX_PATH_BYTES]) -> u16 {
    let copied = kernel::read_user_str(from, path);
    if copied > 1 {
        return (copied - 1) as u16;
    }
    let length = if length > UNIX_PATH_BYTES as u64 {
        UNIX_PATH_BYTES as u64
    } else {
        length
    };
    if kernel::read_user(from, path, length as u32) {
        length as u16
    } else {
        0
    }
}

#[inline(always)]
pub(crate) fn connect_exit(ctx: &TracePointContext) {
    returned(kernel::field::<i64>(ctx, RETURNED).unwrap_or(0));
}

/// `connect(2)` returned 0 or an errno, negative.
#[inline(always)]
pub(crate) fn returned(value: i64) {
    let task = kernel::task();
    let Some(entry) = CONNECTING.get_ptr_mut(task) else {
        return;
    };
    returned_from_connect(kernel::value(entry), -value);
    let _ = CONNECTING.remove(task);
}

#[inline(always)]
fn returned_from_connect(entry: &Connecting, errno: i64) {
    if entry.stream == 0
        || errno == EINPROGRESS
        || errno == EALREADY
        || errno == EINTR
        || errno == EISCONN
    {
        return;
    }
    let now = kernel::now();
    if entry.family == AF_UNIX {
        output::emit(
            &UnixConnect {
                header: header(entry, errno),
                errand: errand::current(now),
                path_len: entry.path_len,
                reserved: [0; 6],
                path: Path {
                    bytes: entry.path,
                    reserved: [0; 4],
                },
            },
            kind::UNIX_CONNECT,
            now,
        );
        return;
    }
    let told_on_socket = entry.cookie != 0 && entry.silent == 0;
    if errno == 0 || errno == EAGAIN || told_on_socket {
        return;
    }
    calls::disturbed(kernel::tgid(), now);
    output::emit(
        &Connect {
            header: header(entry, errno),
            errand: errand::current(now),
            outcome: end::KERNEL_ERROR,
            listener_silent: 0,
            reserved: [0; 6],
        },
        kind::CONNECT_ERRNO,
        now,
    );
}

#[inline(always)]
fn header(entry: &Connecting, errno: i64) -> Header {
    Header {
        flags: flag::ACTIVE_OPEN | flag::SEEN_OPEN | flag::OWN_ERRAND,
        tgid: kernel::tgid(),
        cookie: entry.cookie,
        opened_ns: entry.started_ns,
        remote: entry.address,
        remote_port: entry.port,
        errno: errno as u16,
        ..Header::default()
    }
}

/// `flow` entered SYN_SENT inside this thread's `connect(2)`: take the address from there.
#[inline(always)]
pub(crate) fn syn_sent(flow: &mut Flow) {
    if let Some(entry) = CONNECTING.get_ptr_mut(kernel::task()) {
        let entry = kernel::value(entry);
        entry.cookie = flow.header.cookie;
        flow.header.remote = entry.address;
        flow.header.remote_port = entry.port;
    }
}

/// Thread group of the running thread, which opens a connection. Callbacks have it from its
/// `connect(2)`; 0 when the connection is opened in another way.
#[inline(always)]
pub(crate) fn thread_group() -> u32 {
    if !kernel::by_cookie() {
        return kernel::tgid();
    }
    match CONNECTING.get_ptr_mut(kernel::task()) {
        Some(entry) => kernel::value(entry).tgid,
        None => 0,
    }
}

/// The running thread is the one `flow` belongs to, and not inside `connect(2)`: what happens to
/// `flow` is its doing, or that of an interrupt at this very moment.
#[inline(always)]
pub(crate) fn acts_itself(flow: &Flow) -> bool {
    let task = kernel::task();
    flow.task == task && CONNECTING.get_ptr(task).is_none()
}

/// `flow` left SYN_SENT. True when it did so inside `connect(2)` without a packet: then
/// the return value tells the failure.
#[inline(always)]
pub(crate) fn failed_in_call(flow: &Flow) -> bool {
    if flow.header.syns != 0 {
        return false;
    }
    match CONNECTING.get_ptr_mut(kernel::task()) {
        Some(entry) => {
            let entry = kernel::value(entry);
            let ours = entry.cookie == flow.header.cookie;
            if ours {
                entry.silent = 1;
            }
            ours
        }
        None => false,
    }
}
