//! The pure core: observations in, attempts, requests and causes out.
//!
//! In: records of the kernel side ([`decode`]), facts about processes
//! ([`Core::know_process`]) and the passing of time ([`Core::advance`]). Out: [`Event`]s.
//! It reads no clock, no kernel and no file, and knows neither tokio nor Prometheus: the
//! same input gives the same output, in tests, in replay and in production.
//!
//! Reading order: [`observation`] → [`event`] → [`cause`].

pub mod cause;
pub mod event;
pub mod observation;
