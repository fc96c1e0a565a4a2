//! The why502 daemon and its commands.
//!
//! In: records of the kernel side (`kernel`), settings (`config`). Out: metrics and a
//! stream of explained requests over HTTP (`exporter`). Causes are decided in `agent-core`,
//! never here; only [`kernel`] names aya.

pub mod kernel;
