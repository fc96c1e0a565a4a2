//! HTTP/1.0 and 1.1 (RFC 9112).
//!
//! [`request_line`], [`scan`] and [`chunks`] read bytes and know no connection. The others act on a
//! flow, each standing on those before: [`queue`], [`body`], [`brief`], [`exchange`], [`head`], [`messages`].

pub mod body;
pub mod brief;
pub mod chunks;
pub mod exchange;
pub mod head;
pub mod messages;
pub mod queue;
pub mod request_line;
pub mod scan;
