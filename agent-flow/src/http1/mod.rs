//! HTTP/1.0 and 1.1 (RFC 9112).

pub mod chunks;
pub mod request_line;
pub mod scan;
