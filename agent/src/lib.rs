//! The why502 daemon and its commands.
//!
//! In: records of the kernel side ([`kernel`]), settings ([`config`]). Out: metrics
//! ([`metrics`]), a stream of explained requests ([`events`]) and the last of them
//! ([`incidents`]), what is under way ([`open`]), all over HTTP ([`exporter`]). What is known about causes is in [`knowledge`], what the evidence says of one failure beyond that in [`cases`]. Causes are decided in `agent-core`, never here; only [`kernel`] names aya. At which cgroups packets are seen, [`attachment`] decides.
//!
//! Reading order: [`commands`] → [`pipeline`] → [`metrics`] → [`exporter`].

pub mod attachment;
pub mod cases;
pub mod clock;
pub mod commands;
pub mod config;
pub mod events;
pub mod exporter;
pub mod identity;
pub mod incidents;
pub mod kernel;
pub mod knowledge;
mod memory;
pub mod metrics;
pub mod names;
pub mod open;
pub mod pipeline;
pub mod privileges;
pub mod processes;
pub mod recording;
#[cfg(test)]
mod samples;
