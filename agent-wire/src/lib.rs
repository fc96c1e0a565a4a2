//! What the kernel side and the daemon agree on.
//!
//! In: nothing. Out: the layout of every record in the ring buffer ([`record`], [`brief`]), the
//! bounds both sides keep ([`limits`]), what a reset may be for ([`reset_reason`]), the counters the kernel side keeps ([`tally`]),
//! and the one place that turns bytes into a record and back ([`plain`]).
//!
//! This crate has no dependencies, allocates nothing and compiles for the BPF target.
//! Records hold plain integers only: no enum with data crosses the boundary, and the
//! reader validates every kind, length and code (`agent-core`'s `decode`).
#![no_std]

pub mod attention;
pub mod brief;
pub mod limits;
pub mod plain;
pub mod record;
pub mod reset_reason;
pub mod tally;
