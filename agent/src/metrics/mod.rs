//! Metrics: families, handles, exposition.
//!
//! In: the core's events ([`traffic`]) and the agent's own state ([`report`]). Out: the
//! registry as bytes ([`exposition`]) and its description ([`mod@reference`]). Names and labels
//! are the public interface; they change only with a "Breaking" line in the changelog.
//!
//! Families are registered once (`families`); labels are resolved once per proxy and
//! upstream (`handles`); an event then touches plain counters.

mod buckets;
mod catalogue;
pub mod exposition;
mod families;
mod handles;
pub mod labels;
mod naming;
mod own;
mod process;
pub mod reference;
pub mod report;
pub mod traffic;

use std::sync::Arc;

use prometheus_client::registry::Registry;

use self::catalogue::{Catalogue, Computed};
pub use self::catalogue::{Entry, Kind};
use self::families::Families;
use self::report::Report;
use self::traffic::Traffic;
use crate::config::Settings;

/// All metrics of one agent.
#[derive(Debug)]
pub struct Metrics {
    /// What is exposed.
    pub registry: Arc<Registry>,
    /// Where events are counted; owned by whoever has the events.
    pub traffic: Traffic,
    /// Where the agent's own state goes.
    pub report: Report,
    /// What is exposed, in words.
    pub entries: Vec<Entry>,
}

impl Metrics {
    /// Registers everything; nothing is counted yet.
    pub fn new(settings: &Settings) -> Self {
        let mut catalogue = Catalogue::default();
        let families = Families::register(&mut catalogue);
        let report = Report::default();
        let Catalogue {
            mut registry,
            mut entries,
        } = catalogue;
        registry.register_collector(Box::new(report.clone()));
        entries.extend(
            own::COMPUTED
                .iter()
                .chain(&process::COMPUTED)
                .map(Computed::entry),
        );
        Self {
            registry: Arc::new(registry),
            traffic: Traffic::new(families, settings),
            report,
            entries,
        }
    }
}
