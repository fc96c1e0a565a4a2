//! The list of families, written once: registering a family also enters it here, and
//! `docs/metrics.md` is printed from the entries.

use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Metric, Registry};

use super::labels::Labels;

/// A family as it is documented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Full name, as it is scraped.
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// Label names.
    pub labels: Vec<&'static str>,
    /// Definition, with the unit.
    pub help: &'static str,
}

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Distribution, classic and native.
    Histogram,
}

/// A family that is computed at each scrape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Computed {
    /// Name without `_total`.
    pub(super) name: &'static str,
    /// Its type.
    pub(super) kind: Kind,
    /// Label names.
    pub(super) labels: &'static [&'static str],
    /// Definition, with the unit.
    pub(super) help: &'static str,
}

/// A registry that remembers what it was given.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    pub(super) registry: Registry,
    pub(super) entries: Vec<Entry>,
}

impl Kind {
    /// As Prometheus calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    /// As the encoder wants it.
    pub(super) fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Histogram => MetricType::Histogram,
        }
    }
}

impl Computed {
    /// As it is documented.
    pub(super) fn entry(&self) -> Entry {
        let Self {
            name,
            kind,
            labels,
            help,
        } = *self;
        Entry {
            name: scraped_name(name, kind),
            kind,
            labels: labels.to_vec(),
            help,
        }
    }
}

impl Catalogue {
    /// Registers a family of default metrics. `name` is without `_total`, `help` without
    /// its full stop: the registry adds both.
    pub(super) fn family<S, M>(&mut self, name: &'static str, help: &'static str) -> Family<S, M>
    where
        S: Labels,
        M: TypedMetric + Default,
        Family<S, M>: Metric,
    {
        self.enter(name, help, Family::default())
    }

    /// Registers a family whose metrics need arguments.
    pub(super) fn family_of<S, M, C>(
        &mut self,
        name: &'static str,
        help: &'static str,
        make: C,
    ) -> Family<S, M, C>
    where
        S: Labels,
        M: TypedMetric,
        C: MetricConstructor<M> + Clone,
        Family<S, M, C>: Metric,
    {
        self.enter(name, help, Family::new_with_constructor(make))
    }

    fn enter<S, M, C>(
        &mut self,
        name: &'static str,
        help: &'static str,
        family: Family<S, M, C>,
    ) -> Family<S, M, C>
    where
        S: Labels,
        M: TypedMetric,
        C: Clone,
        Family<S, M, C>: Metric,
    {
        let kind = match M::TYPE {
            MetricType::Counter => Kind::Counter,
            MetricType::Histogram => Kind::Histogram,
            MetricType::Gauge | MetricType::Info | MetricType::Unknown => Kind::Gauge,
        };
        self.entries.push(Entry {
            name: scraped_name(name, kind),
            kind,
            labels: S::NAMES.to_vec(),
            help,
        });
        self.registry.register(name, help, family.clone());
        family
    }
}

fn scraped_name(name: &str, kind: Kind) -> String {
    match kind {
        Kind::Counter => format!("{name}_total"),
        Kind::Gauge | Kind::Histogram => name.to_owned(),
    }
}
