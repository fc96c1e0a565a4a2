//! Handles of one upstream of one proxy: labels are resolved when a series is first
//! needed, and from then on an event touches the series itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use agent_core::cause::{Cause, Certainty};
use agent_core::event::ConnectResult;
use agent_core::observation::{Nanos, Phase, ResetDirection};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::families::{Families, SecondsGauge, Trace, TracedCounter};
use super::labels::{
    Code, ConnectSet, ErrorSet, FailureSet, IdleSet, ResetSet, SynTimeoutSet, TargetCodeSet,
    TargetSet, Word,
};

/// Who gave up on an unanswered connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GaveUp {
    /// The proxy, by its own timer.
    Proxy,
    /// The kernel, out of SYN retries.
    Kernel,
}

/// One upstream of one proxy.
#[derive(Debug)]
pub(super) struct Target {
    proxy: Arc<str>,
    upstream: Arc<str>,
    /// The last event about it.
    pub(super) seen: Nanos,
    errors: Slots<(Code, Cause, Certainty), TracedCounter>,
    responses: Slots<Code, Counter>,
    failures: Slots<(Cause, Phase, Option<bool>), TracedCounter>,
    connect: Slots<(), Histogram>,
    tls: Slots<(), Histogram>,
    first_byte: Slots<(), Histogram>,
    header: Slots<(), Histogram>,
    response: Slots<(), Histogram>,
    idle: Slots<bool, Histogram>,
    outstanding: Slots<(), (Gauge, SecondsGauge)>,
    resets: Slots<(ResetDirection, Phase), Counter>,
    syn_timeouts: Slots<GaveUp, Counter>,
    syn_retransmits: Slots<(), Counter>,
    retransmits: Slots<(), Counter>,
    rtt: Slots<(), Histogram>,
    connects: Slots<ConnectResult, Counter>,
}

/// Series by the labels that vary within a target: a handful, so a list does.
#[derive(Debug)]
pub(super) struct Slots<K, M>(Vec<(K, M)>);

impl Target {
    /// No series yet.
    pub(super) fn new(proxy: Arc<str>, upstream: Arc<str>, seen: Nanos) -> Self {
        Self {
            proxy,
            upstream,
            seen,
            errors: Slots::new(),
            responses: Slots::new(),
            failures: Slots::new(),
            connect: Slots::new(),
            tls: Slots::new(),
            first_byte: Slots::new(),
            header: Slots::new(),
            response: Slots::new(),
            idle: Slots::new(),
            outstanding: Slots::new(),
            resets: Slots::new(),
            syn_timeouts: Slots::new(),
            syn_retransmits: Slots::new(),
            retransmits: Slots::new(),
            rtt: Slots::new(),
            connects: Slots::new(),
        }
    }

    /// `why502_gateway_errors_total`.
    pub(super) fn error(
        &mut self,
        families: &Families,
        key: (Code, Cause, Certainty),
    ) -> &TracedCounter {
        let (proxy, upstream) = (&self.proxy, &self.upstream);
        self.errors.get(key, || {
            families
                .gateway_errors
                .get_or_create_owned(&error_set(proxy, upstream, key))
        })
    }

    /// `why502_upstream_responses_total`.
    pub(super) fn response_code(&mut self, families: &Families, code: Code) -> &Counter {
        let (proxy, upstream) = (&self.proxy, &self.upstream);
        self.responses.get(code, || {
            families
                .upstream_responses
                .get_or_create_owned(&code_set(proxy, upstream, code))
        })
    }

    /// `why502_upstream_failures_total`.
    pub(super) fn failure(
        &mut self,
        families: &Families,
        key: (Cause, Phase, Option<bool>),
    ) -> &TracedCounter {
        let (proxy, upstream) = (&self.proxy, &self.upstream);
        self.failures.get(key, || {
            families
                .upstream_failures
                .get_or_create_owned(&failure_set(proxy, upstream, key))
        })
    }

    /// `why502_upstream_connect_seconds`.
    pub(super) fn connect_seconds(&mut self, families: &Families) -> &Histogram {
        let set = || target_set(&self.proxy, &self.upstream);
        self.connect.get((), || {
            families
                .upstream_connect_seconds
                .get_or_create_owned(&set())
        })
    }

    /// `why502_upstream_tls_seconds`.
    pub(super) fn tls_seconds(&mut self, families: &Families) -> &Histogram {
        let set = || target_set(&self.proxy, &self.upstream);
        self.tls.get((), || {
            families.upstream_tls_seconds.get_or_create_owned(&set())
        })
    }

    /// `why502_upstream_first_byte_seconds`.
    pub(super) fn first_byte_seconds(&mut self, families: &Families) -> &Histogram {
        let set = || target_set(&self.proxy, &self.upstream);
        self.first_byte.get((), || {
            families
                .upstream_first_byte_seconds
                .get_or_create_owned(&set())
        })
    }

    /// `why502_upstream_header_seconds`.
    pub(super) fn header_seconds(&mut self, families: &Families) -> &Histogram {
        let set = || target_set(&self.proxy, &self.upstream);
        self.header.get((), || {
            families.upstream_header_seconds.get_or_create_owned(&set())
        })
    }

    /// `why502_upstream_response_seconds`.
    pub(super) fn response_seconds(&mut self, families: &Families) -> &Histogram {
        let set = || target_set(&self.proxy, &self.upstream);
        self.response.get((), || {
            families
                .upstream_response_seconds
                .get_or_create_owned(&set())
        })
    }

    /// `why502_upstream_idle_before_reuse_seconds`.
    pub(super) fn idle_seconds(&mut self, families: &Families, raced: bool) -> &Histogram {
        let (proxy, upstream) = (&self.proxy, &self.upstream);
        self.idle.get(raced, || {
            families
                .upstream_idle_before_reuse_seconds
                .get_or_create_owned(&idle_set(proxy, upstream, raced))
        })
    }

    /// `why502_upstream_outstanding_requests` and `why502_upstream_oldest_request_seconds`.
    pub(super) fn outstanding(&mut self, families: &Families) -> &(Gauge, SecondsGauge) {
        let set = || target_set(&self.proxy, &self.upstream);
        self.outstanding.get((), || {
            (
                families
                    .upstream_outstanding_requests
                    .get_or_create_owned(&set()),
                families
                    .upstream_oldest_request_seconds
                    .get_or_create_owned(&set()),
            )
        })
    }

    /// The same, when something was outstanding before.
    pub(super) fn outstanding_if_any(&self) -> Option<&(Gauge, SecondsGauge)> {
        self.outstanding.0.first().map(|(_, gauges)| gauges)
    }

    /// `why502_tcp_resets_total`.
    pub(super) fn reset(&mut self, families: &Families, key: (ResetDirection, Phase)) -> &Counter {
        let (proxy, upstream) = (&self.proxy, &self.upstream);
        self.resets.get(key, || {
            families
                .tcp_resets
                .get_or_create_owned(&reset_set(proxy, upstream, key))
        })
    }

    /// `why502_tcp_syn_timeouts_total`.
    pub(super) fn syn_timeout(&mut self, families: &Families, gave_up: GaveUp) -> &Counter {
        let (proxy, upstream) = (&self.proxy, &self.upstream);
        self.syn_timeouts.get(gave_up, || {
            families
                .tcp_syn_timeouts
                .get_or_create_owned(&syn_timeout_set(proxy, upstream, gave_up))
        })
    }

    /// `why502_tcp_syn_retransmits_total`.
    pub(super) fn syn_retransmits(&mut self, families: &Families) -> &Counter {
        let set = || target_set(&self.proxy, &self.upstream);
        self.syn_retransmits.get((), || {
            families.tcp_syn_retransmits.get_or_create_owned(&set())
        })
    }

    /// `why502_tcp_retransmits_total`.
    pub(super) fn retransmits(&mut self, families: &Families) -> &Counter {
        let set = || target_set(&self.proxy, &self.upstream);
        self.retransmits
            .get((), || families.tcp_retransmits.get_or_create_owned(&set()))
    }

    /// `why502_tcp_rtt_seconds`.
    pub(super) fn rtt_seconds(&mut self, families: &Families) -> &Histogram {
        let set = || target_set(&self.proxy, &self.upstream);
        self.rtt
            .get((), || families.tcp_rtt_seconds.get_or_create_owned(&set()))
    }

    /// `why502_tcp_connects_total`.
    pub(super) fn connect(&mut self, families: &Families, result: ConnectResult) -> &Counter {
        let (proxy, upstream) = (&self.proxy, &self.upstream);
        self.connects.get(result, || {
            families
                .tcp_connects
                .get_or_create_owned(&connect_set(proxy, upstream, result))
        })
    }

    /// Takes its series out of the exposition. A field added above must be dealt with here.
    pub(super) fn retire(self, families: &Families) {
        let Self {
            proxy,
            upstream,
            seen: _,
            errors,
            responses,
            failures,
            connect,
            tls,
            first_byte,
            header,
            response,
            idle,
            outstanding,
            resets,
            syn_timeouts,
            syn_retransmits,
            retransmits,
            rtt,
            connects,
        } = self;
        let (proxy, upstream) = (&proxy, &upstream);
        let target = target_set(proxy, upstream);

        errors.each(|key| {
            families
                .gateway_errors
                .remove(&error_set(proxy, upstream, key))
        });
        responses.each(|code| {
            families
                .upstream_responses
                .remove(&code_set(proxy, upstream, code))
        });
        failures.each(|key| {
            families
                .upstream_failures
                .remove(&failure_set(proxy, upstream, key))
        });
        tls.each(|()| families.upstream_tls_seconds.remove(&target));
        connect.each(|()| families.upstream_connect_seconds.remove(&target));
        first_byte.each(|()| families.upstream_first_byte_seconds.remove(&target));
        header.each(|()| families.upstream_header_seconds.remove(&target));
        response.each(|()| families.upstream_response_seconds.remove(&target));
        idle.each(|raced| {
            families
                .upstream_idle_before_reuse_seconds
                .remove(&idle_set(proxy, upstream, raced))
        });
        outstanding.each(|()| {
            families.upstream_outstanding_requests.remove(&target)
                && families.upstream_oldest_request_seconds.remove(&target)
        });
        resets.each(|key| families.tcp_resets.remove(&reset_set(proxy, upstream, key)));
        syn_timeouts.each(|gave_up| {
            families
                .tcp_syn_timeouts
                .remove(&syn_timeout_set(proxy, upstream, gave_up))
        });
        syn_retransmits.each(|()| families.tcp_syn_retransmits.remove(&target));
        retransmits.each(|()| families.tcp_retransmits.remove(&target));
        rtt.each(|()| families.tcp_rtt_seconds.remove(&target));
        connects.each(|result| {
            families
                .tcp_connects
                .remove(&connect_set(proxy, upstream, result))
        });
    }
}

impl<K: Copy + PartialEq, M> Slots<K, M> {
    /// Empty.
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    /// The series of `key`, made when it is not there.
    pub(super) fn get(&mut self, key: K, make: impl FnOnce() -> M) -> &M {
        let at = match self.0.iter().position(|(other, _)| *other == key) {
            Some(at) => at,
            None => {
                self.0.push((key, make()));
                self.0.len() - 1
            }
        };
        &self.0[at].1
    }

    fn each(self, mut remove: impl FnMut(K) -> bool) {
        for (key, _) in self.0 {
            remove(key);
        }
    }
}

/// Counts one; a trace id, when there is one, becomes the exemplar.
pub(super) fn count_traced(counter: &TracedCounter, trace_id: Option<&str>) {
    match trace_id {
        Some(trace_id) => {
            let trace = Trace {
                trace_id: trace_id.to_owned(),
            };
            counter.inc_by(1, Some(trace), Some(SystemTime::now()));
        }
        // inc_by without labels would drop the exemplar there is.
        None => {
            counter.inner().fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn target_set(proxy: &Arc<str>, upstream: &Arc<str>) -> TargetSet {
    TargetSet {
        proxy: Arc::clone(proxy),
        upstream: Arc::clone(upstream),
    }
}

fn code_set(proxy: &Arc<str>, upstream: &Arc<str>, code: Code) -> TargetCodeSet {
    TargetCodeSet {
        proxy: Arc::clone(proxy),
        upstream: Arc::clone(upstream),
        code,
    }
}

fn error_set(
    proxy: &Arc<str>,
    upstream: &Arc<str>,
    (code, cause, certainty): (Code, Cause, Certainty),
) -> ErrorSet {
    ErrorSet {
        proxy: Arc::clone(proxy),
        code,
        cause: cause.into(),
        upstream: Arc::clone(upstream),
        certainty: certainty.into(),
    }
}

fn failure_set(
    proxy: &Arc<str>,
    upstream: &Arc<str>,
    (cause, phase, masked): (Cause, Phase, Option<bool>),
) -> FailureSet {
    FailureSet {
        proxy: Arc::clone(proxy),
        upstream: Arc::clone(upstream),
        cause: cause.into(),
        phase: phase.into(),
        masked: masked.into(),
    }
}

fn idle_set(proxy: &Arc<str>, upstream: &Arc<str>, raced: bool) -> IdleSet {
    IdleSet {
        proxy: Arc::clone(proxy),
        upstream: Arc::clone(upstream),
        raced,
    }
}

fn reset_set(
    proxy: &Arc<str>,
    upstream: &Arc<str>,
    (direction, phase): (ResetDirection, Phase),
) -> ResetSet {
    ResetSet {
        proxy: Arc::clone(proxy),
        upstream: Arc::clone(upstream),
        direction: direction.into(),
        phase: phase.into(),
    }
}

fn syn_timeout_set(proxy: &Arc<str>, upstream: &Arc<str>, gave_up: GaveUp) -> SynTimeoutSet {
    let gave_up = match gave_up {
        GaveUp::Proxy => Word::new("proxy"),
        GaveUp::Kernel => Word::new("kernel"),
    };
    SynTimeoutSet {
        proxy: Arc::clone(proxy),
        upstream: Arc::clone(upstream),
        gave_up,
    }
}

fn connect_set(proxy: &Arc<str>, upstream: &Arc<str>, result: ConnectResult) -> ConnectSet {
    ConnectSet {
        proxy: Arc::clone(proxy),
        upstream: Arc::clone(upstream),
        result: result.into(),
    }
}
