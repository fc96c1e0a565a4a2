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
    CheckSet, Code, ConnectSet, ErrorSet, FailureSet, IdleSet, PlaceLabels, ResetSet,
    SynTimeoutSet, TargetCodeSet, TargetSet, Word,
};
use super::naming::{ProxyKey, UpstreamKey};

/// Label `result` of a health check that passed.
const PASSED: Word = Word::new("passed");

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
    who: Who,
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
    checks: Slots<(Option<Cause>, Code), Counter>,
}

/// The labels that all series of a target have.
#[derive(Clone, Debug)]
struct Who {
    proxy: Arc<str>,
    upstream: Arc<str>,
    place: PlaceLabels,
}

/// Series by the labels that vary within a target: a handful, so a list does.
#[derive(Debug)]
pub(super) struct Slots<K, M>(Vec<(K, M)>);

impl Target {
    /// No series yet.
    pub(super) fn new(proxy: &ProxyKey, upstream: &UpstreamKey, seen: Nanos) -> Self {
        Self {
            who: Who {
                proxy: Arc::clone(&proxy.name),
                upstream: Arc::clone(&upstream.name),
                place: proxy.place.and(&upstream.place),
            },
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
            checks: Slots::new(),
        }
    }

    /// `why502_gateway_errors_total`.
    pub(super) fn error(
        &mut self,
        families: &Families,
        key: (Code, Cause, Certainty),
    ) -> &TracedCounter {
        let who = &self.who;
        self.errors.get(key, || {
            families
                .gateway_errors
                .get_or_create_owned(&error_set(who, key))
        })
    }

    /// `why502_upstream_responses_total`.
    pub(super) fn response_code(&mut self, families: &Families, code: Code) -> &Counter {
        let who = &self.who;
        self.responses.get(code, || {
            families
                .upstream_responses
                .get_or_create_owned(&code_set(who, code))
        })
    }

    /// `why502_upstream_failures_total`.
    pub(super) fn failure(
        &mut self,
        families: &Families,
        key: (Cause, Phase, Option<bool>),
    ) -> &TracedCounter {
        let who = &self.who;
        self.failures.get(key, || {
            families
                .upstream_failures
                .get_or_create_owned(&failure_set(who, key))
        })
    }

    /// `why502_upstream_connect_seconds`.
    pub(super) fn connect_seconds(&mut self, families: &Families) -> &Histogram {
        let set = || target_set(&self.who);
        self.connect.get((), || {
            families
                .upstream_connect_seconds
                .get_or_create_owned(&set())
        })
    }

    /// `why502_upstream_tls_seconds`.
    pub(super) fn tls_seconds(&mut self, families: &Families) -> &Histogram {
        let set = || target_set(&self.who);
        self.tls.get((), || {
            families.upstream_tls_seconds.get_or_create_owned(&set())
        })
    }

    /// `why502_upstream_first_byte_seconds`.
    pub(super) fn first_byte_seconds(&mut self, families: &Families) -> &Histogram {
        let set = || target_set(&self.who);
        self.first_byte.get((), || {
            families
                .upstream_first_byte_seconds
                .get_or_create_owned(&set())
        })
    }

    /// `why502_upstream_header_seconds`.
    pub(super) fn header_seconds(&mut self, families: &Families) -> &Histogram {
        let set = || target_set(&self.who);
        self.header.get((), || {
            families.upstream_header_seconds.get_or_create_owned(&set())
        })
    }

    /// `why502_upstream_response_seconds`.
    pub(super) fn response_seconds(&mut self, families: &Families) -> &Histogram {
        let set = || target_set(&self.who);
        self.response.get((), || {
            families
                .upstream_response_seconds
                .get_or_create_owned(&set())
        })
    }

    /// `why502_upstream_idle_before_reuse_seconds`.
    pub(super) fn idle_seconds(&mut self, families: &Families, raced: bool) -> &Histogram {
        let who = &self.who;
        self.idle.get(raced, || {
            families
                .upstream_idle_before_reuse_seconds
                .get_or_create_owned(&idle_set(who, raced))
        })
    }

    /// `why502_upstream_outstanding_requests` and `why502_upstream_oldest_request_seconds`.
    pub(super) fn outstanding(&mut self, families: &Families) -> &(Gauge, SecondsGauge) {
        let set = || target_set(&self.who);
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
        let who = &self.who;
        self.resets.get(key, || {
            families
                .tcp_resets
                .get_or_create_owned(&reset_set(who, key))
        })
    }

    /// `why502_tcp_syn_timeouts_total`.
    pub(super) fn syn_timeout(&mut self, families: &Families, gave_up: GaveUp) -> &Counter {
        let who = &self.who;
        self.syn_timeouts.get(gave_up, || {
            families
                .tcp_syn_timeouts
                .get_or_create_owned(&syn_timeout_set(who, gave_up))
        })
    }

    /// `why502_tcp_syn_retransmits_total`.
    pub(super) fn syn_retransmits(&mut self, families: &Families) -> &Counter {
        let set = || target_set(&self.who);
        self.syn_retransmits.get((), || {
            families.tcp_syn_retransmits.get_or_create_owned(&set())
        })
    }

    /// `why502_tcp_retransmits_total`.
    pub(super) fn retransmits(&mut self, families: &Families) -> &Counter {
        let set = || target_set(&self.who);
        self.retransmits
            .get((), || families.tcp_retransmits.get_or_create_owned(&set()))
    }

    /// `why502_tcp_rtt_seconds`.
    pub(super) fn rtt_seconds(&mut self, families: &Families) -> &Histogram {
        let set = || target_set(&self.who);
        self.rtt
            .get((), || families.tcp_rtt_seconds.get_or_create_owned(&set()))
    }

    /// `why502_tcp_connects_total`.
    pub(super) fn connect(&mut self, families: &Families, result: ConnectResult) -> &Counter {
        let who = &self.who;
        self.connects.get(result, || {
            families
                .tcp_connects
                .get_or_create_owned(&connect_set(who, result))
        })
    }

    /// `why502_upstream_health_checks_total`.
    pub(super) fn health_check(
        &mut self,
        families: &Families,
        key: (Option<Cause>, Code),
    ) -> &Counter {
        let who = &self.who;
        self.checks.get(key, || {
            families
                .upstream_health_checks
                .get_or_create_owned(&check_set(who, key))
        })
    }

    /// Takes its series out of the exposition. A field added above must be dealt with here.
    pub(super) fn retire(self, families: &Families) {
        let Self {
            who,
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
            checks,
        } = self;
        let who = &who;
        let target = target_set(who);

        errors.each(|key| families.gateway_errors.remove(&error_set(who, key)));
        responses.each(|code| families.upstream_responses.remove(&code_set(who, code)));
        failures.each(|key| families.upstream_failures.remove(&failure_set(who, key)));
        tls.each(|()| families.upstream_tls_seconds.remove(&target));
        connect.each(|()| families.upstream_connect_seconds.remove(&target));
        first_byte.each(|()| families.upstream_first_byte_seconds.remove(&target));
        header.each(|()| families.upstream_header_seconds.remove(&target));
        response.each(|()| families.upstream_response_seconds.remove(&target));
        idle.each(|raced| {
            families
                .upstream_idle_before_reuse_seconds
                .remove(&idle_set(who, raced))
        });
        outstanding.each(|()| {
            families.upstream_outstanding_requests.remove(&target)
                && families.upstream_oldest_request_seconds.remove(&target)
        });
        resets.each(|key| families.tcp_resets.remove(&reset_set(who, key)));
        syn_timeouts.each(|gave_up| {
            families
                .tcp_syn_timeouts
                .remove(&syn_timeout_set(who, gave_up))
        });
        syn_retransmits.each(|()| families.tcp_syn_retransmits.remove(&target));
        retransmits.each(|()| families.tcp_retransmits.remove(&target));
        rtt.each(|()| families.tcp_rtt_seconds.remove(&target));
        connects.each(|result| families.tcp_connects.remove(&connect_set(who, result)));
        checks.each(|key| families.upstream_health_checks.remove(&check_set(who, key)));
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

    /// Removes all of them.
    pub(super) fn each(self, mut remove: impl FnMut(K) -> bool) {
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

fn target_set(who: &Who) -> TargetSet {
    TargetSet {
        proxy: Arc::clone(&who.proxy),
        upstream: Arc::clone(&who.upstream),
        place: who.place.clone(),
    }
}

fn code_set(who: &Who, code: Code) -> TargetCodeSet {
    TargetCodeSet {
        proxy: Arc::clone(&who.proxy),
        upstream: Arc::clone(&who.upstream),
        place: who.place.clone(),
        code,
    }
}

fn error_set(who: &Who, (code, cause, certainty): (Code, Cause, Certainty)) -> ErrorSet {
    ErrorSet {
        proxy: Arc::clone(&who.proxy),
        code,
        cause: cause.into(),
        upstream: Arc::clone(&who.upstream),
        place: who.place.clone(),
        certainty: certainty.into(),
    }
}

fn failure_set(who: &Who, (cause, phase, masked): (Cause, Phase, Option<bool>)) -> FailureSet {
    FailureSet {
        proxy: Arc::clone(&who.proxy),
        upstream: Arc::clone(&who.upstream),
        place: who.place.clone(),
        cause: cause.into(),
        phase: phase.into(),
        masked: masked.into(),
    }
}

fn idle_set(who: &Who, raced: bool) -> IdleSet {
    IdleSet {
        proxy: Arc::clone(&who.proxy),
        upstream: Arc::clone(&who.upstream),
        place: who.place.clone(),
        raced,
    }
}

fn reset_set(who: &Who, (direction, phase): (ResetDirection, Phase)) -> ResetSet {
    ResetSet {
        proxy: Arc::clone(&who.proxy),
        upstream: Arc::clone(&who.upstream),
        place: who.place.clone(),
        direction: direction.into(),
        phase: phase.into(),
    }
}

fn syn_timeout_set(who: &Who, gave_up: GaveUp) -> SynTimeoutSet {
    let gave_up = match gave_up {
        GaveUp::Proxy => Word::new("proxy"),
        GaveUp::Kernel => Word::new("kernel"),
    };
    SynTimeoutSet {
        proxy: Arc::clone(&who.proxy),
        upstream: Arc::clone(&who.upstream),
        place: who.place.clone(),
        gave_up,
    }
}

fn check_set(who: &Who, (failure, code): (Option<Cause>, Code)) -> CheckSet {
    CheckSet {
        proxy: Arc::clone(&who.proxy),
        upstream: Arc::clone(&who.upstream),
        place: who.place.clone(),
        result: failure.map_or(PASSED, Word::from),
        code,
    }
}

fn connect_set(who: &Who, result: ConnectResult) -> ConnectSet {
    ConnectSet {
        proxy: Arc::clone(&who.proxy),
        upstream: Arc::clone(&who.upstream),
        place: who.place.clone(),
        result: result.into(),
    }
}
