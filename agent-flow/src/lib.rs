//! What is understood of the bytes of a connection.
//!
//! In: bytes, by way of [`bytes::Bytes`]. Out: what they say. The probes use this crate in the kernel,
//! the tests on the host. It knows no packet, no map and no helper of the kernel.
//!
//! Modules import in one direction: [`machine`] and [`bytes`] are the ground; [`flags`] stands on it;
//! [`http1`] is on top.
#![no_std]
#![forbid(unsafe_code)]

pub mod bytes;
pub mod flags;
pub mod http1;
pub mod machine;
