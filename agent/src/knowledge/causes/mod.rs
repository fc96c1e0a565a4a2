//! The entries, by the part of an attempt in which they happen.

pub(super) mod connect;
pub(super) mod request;
pub(super) mod response;
