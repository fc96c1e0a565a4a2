//! How the kernel side attends to a process: what the daemon writes for it. A process that is not
//! listed is watched.

/// Its sockets are left alone, and nothing is told of them: it was excluded.
pub const IGNORED: u8 = 1;

/// It is no proxy, as far as it has shown: of its sockets only the end is told, and of those that
/// it opens nothing.
pub const PARKED: u8 = 2;
