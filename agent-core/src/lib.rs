//! The pure core: observations in, attempts, requests and causes out.
//!
//! In: records of the kernel side ([`decode()`]), facts about processes
//! ([`Core::know_process`]) and the passing of time ([`Core::advance`]). Out: [`event::Event`]s.
//! It reads no clock, no kernel and no file, and knows neither tokio nor Prometheus: the
//! same input gives the same output, in tests, in replay and in production.
//!
//! Reading order: [`observation`] → [`mod@decode`] → [`mod@core`] → `join` → [`cause`] → [`event`].

mod address;
mod around;
mod attempt;
mod by_ends;
pub mod cause;
mod checks;
mod connection;
pub mod core;
mod deaths;
pub mod decode;
mod departures;
mod errno;
pub mod event;
mod exchanges;
pub mod input;
mod join;
mod limits;
mod lookups;
mod losses;
pub mod network;
pub mod observation;
pub mod open;
mod orphans;
mod outcome;
mod outgoing;
mod pace;
mod parent;
mod patience;
mod peers;
mod places;
mod process;
mod proxies;
mod recent;
mod request;
mod requests;
mod routes;
mod servers;
mod table;
mod timing;
mod transport;
mod unjoined;
mod unread;
mod upstreams;
mod whole;
mod witness;

pub use crate::core::{Core, Outstanding};
pub use crate::decode::{DecodeError, Record, decode};
pub use crate::input::Input;
pub use crate::limits::{Ledger, Limits, Stats};
pub use crate::process::{ProcessInfo, ProcessKind, UnreadClients};
pub use crate::unread::Used;
