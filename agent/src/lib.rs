//! The why502 daemon and its commands.
//!
//! In: records of the kernel side ([`kernel`]), settings ([`config`]). Out: metrics
//! ([`metrics`]) and a stream of explained requests ([`events`]), both over HTTP
//! ([`exporter`]). Causes are decided in `agent-core`, never here; only [`kernel`] names aya.
//!
//! Reading order: [`commands`] → [`pipeline`] → [`metrics`] → [`exporter`].

pub mod clock;
pub mod commands;
pub mod config;
pub mod events;
pub mod exporter;
pub mod kernel;
pub mod knowledge;
pub mod metrics;
pub mod names;
pub mod pipeline;
pub mod processes;
#[cfg(test)]
mod samples;
