//! Bounds shared by kernel side and daemon.

/// Bytes of a message head that are read at most; a multiple of eight. Too small: framing
/// fields late in a long head are missed, and the end of the body is then known only from
/// the next message or the close. Too large: the verifier's work grows with it.
pub const HEAD_BYTES: usize = 4096;

/// Bytes behind a head in the kernel side's scratch space that carry nothing: the scanner
/// reads whole words past the end of a line. Too small: the verifier refuses the scanner.
pub const HEAD_SLACK_BYTES: usize = 64;

/// Bytes of a Unix socket path, as `sun_path` in `sockaddr_un` (unix(7)).
pub const UNIX_PATH_BYTES: usize = 108;

/// Bytes of a TLS server name that are told at most; a power of two. Too small: long names of
/// load balancers are cut. Too large: each handshake with an upstream takes more of the ring.
pub const SERVER_NAME_BYTES: usize = 128;

/// Ring buffer size when the operator says nothing, bytes. A power of two and a multiple
/// of the page size. Too small: bursts are lost (and counted). Too large: locked memory.
pub const DEFAULT_RING_BYTES: u32 = 8 << 20;

/// Threads whose current errand is remembered at once; a power of two.
pub const ERRAND_SLOTS: u32 = 4096;

/// Threads inside `connect(2)` at the same moment.
pub const CONNECTING_THREADS: u32 = 4096;

/// SYNs that arrived at listeners of this host and wait for their SYN-ACK, at once. Too
/// small: a full accept queue passes for a lost SYN.
pub const UNANSWERED_SYNS: u32 = 4096;

/// Processes that crashed and may have left sockets to others. Too small: where many crash at once, the
/// end of who held the socket last passes for that of who served it.
pub const CRASHED_PROCESSES: u32 = 1024;

/// Processes that the daemon can ask the kernel side to leave alone.
pub const IGNORED_PROCESSES: u32 = 4096;

/// Exchanges whose heads are held at once, because they may be told in brief; a power of two. Too small:
/// what finds no room is told whole. Too large: 3 KB of memory each.
pub const HELD_EXCHANGES: u32 = 2048;

/// Bytes of a request head that is held; a multiple of eight. Too small: requests with large cookies are
/// told whole. Too large: memory, and time to copy them.
pub const HELD_REQUEST_BYTES: usize = 1536;

/// The same of a response head.
pub const HELD_RESPONSE_BYTES: usize = 1024;
