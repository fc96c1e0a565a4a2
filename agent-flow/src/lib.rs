//! What is understood of the bytes of a connection.
//!
//! In: segments, by way of [`segment`]; their bytes by way of [`bytes::Bytes`]. Out: records, by way of
//! [`world::World`]. The probes use this crate in the kernel, the tests on the host. It knows no packet,
//! no map and no helper of the kernel.
//!
//! Modules import in one direction, from the top of this list down:
//!
//! | floor | modules |
//! | --- | --- |
//! | entry | [`segment`], [`recognition`], [`ending`] |
//! | protocols | [`http1`], [`tls`], and what is not read: [`unread`], [`clients`] |
//! | state | [`world`], [`flow`], [`flags`] |
//! | readers of bytes | [`proxy_header`], [`http1::scan`], [`http1::request_line`], [`http1::chunks`], [`tls::records`], [`tls::hello`] |
//! | ground | [`bytes`], [`machine`] |
#![no_std]
#![forbid(unsafe_code)]

pub mod bytes;
pub mod clients;
pub mod ending;
pub mod flags;
pub mod flow;
pub mod http1;
pub mod machine;
pub mod proxy_header;
pub mod recognition;
pub mod segment;
pub mod tls;
pub mod unread;
pub mod world;
