//! Handshakes of TLS 1.2 and 1.3 (RFC 5246, RFC 8446), from outside.

pub mod handshake;
pub mod hello;
pub mod records;
