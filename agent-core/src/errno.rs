//! errno values that the core tells apart (errno(3), the same on all Linux architectures that BPF runs
//! on save MIPS and Alpha).

pub(crate) const ENOENT: u16 = 2;
pub(crate) const EINTR: u16 = 4;
pub(crate) const EAGAIN: u16 = 11;
pub(crate) const EPIPE: u16 = 32;
pub(crate) const ENETUNREACH: u16 = 101;
pub(crate) const ECONNABORTED: u16 = 103;
pub(crate) const ECONNRESET: u16 = 104;
pub(crate) const EISCONN: u16 = 106;
pub(crate) const ETIMEDOUT: u16 = 110;
pub(crate) const ECONNREFUSED: u16 = 111;
pub(crate) const EHOSTUNREACH: u16 = 113;
pub(crate) const EALREADY: u16 = 114;
pub(crate) const EINPROGRESS: u16 = 115;
