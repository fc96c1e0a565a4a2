//! How the kernel side attends to a process: what the daemon writes for it. A process that is not
//! listed is watched.

/// Its sockets are left alone, and nothing is told of them: it was excluded.
pub const IGNORED: u8 = 1;

/// It is no proxy, as far as it has shown: of its sockets only the end is told, and of those that
/// it opens nothing.
pub const PARKED: u8 = 2;

/// All goes well there: exchanges that end well are told in brief. The kernel side ends that itself when
/// something goes wrong.
pub const IN_BRIEF: u8 = 3;

/// It is watched, as if it were not listed: the kernel side has ended [`IN_BRIEF`].
pub const WATCHED: u8 = 0;
