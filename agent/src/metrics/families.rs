//! The families that traffic feeds: names, labels, definitions. Names are the public
//! interface.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::CounterWithExemplar;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::buckets;
use super::catalogue::Catalogue;
use super::labels::{
    CheckSet, ConnectSet, ErrorSet, FailureSet, IdleSet, JoinSet, KindSet, LabelNameSet,
    ProxyCodeSet, ProxySet, ResetSet, SynTimeoutSet, TargetCodeSet, TargetSet,
};

/// The exemplar of a failure: the trace it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Trace {
    /// W3C trace id, 32 hex digits.
    pub(super) trace_id: String,
}

/// A counter that keeps the last trace id. Histograms have none: prometheus-client 0.25
/// cannot give exemplars to a histogram with native buckets.
pub(super) type TracedCounter = CounterWithExemplar<Trace>;
/// A gauge of seconds.
pub(super) type SecondsGauge = Gauge<f64, AtomicU64>;
/// A family of histograms.
pub(super) type Histograms<S> = Family<S, Histogram, fn() -> Histogram>;

/// What traffic feeds.
#[derive(Clone, Debug)]
pub(super) struct Families {
    pub(super) gateway_responses: Family<ProxyCodeSet, Counter>,
    pub(super) gateway_errors: Family<ErrorSet, TracedCounter>,
    pub(super) gateway_request_seconds: Histograms<ProxySet>,
    pub(super) upstream_responses: Family<TargetCodeSet, Counter>,
    pub(super) upstream_failures: Family<FailureSet, TracedCounter>,
    pub(super) upstream_health_checks: Family<CheckSet, Counter>,
    pub(super) upstream_connect_seconds: Histograms<TargetSet>,
    pub(super) upstream_tls_seconds: Histograms<TargetSet>,
    pub(super) upstream_first_byte_seconds: Histograms<TargetSet>,
    pub(super) upstream_header_seconds: Histograms<TargetSet>,
    pub(super) upstream_response_seconds: Histograms<TargetSet>,
    pub(super) upstream_idle_before_reuse_seconds: Histograms<IdleSet>,
    pub(super) upstream_outstanding_requests: Family<TargetSet, Gauge>,
    pub(super) upstream_oldest_request_seconds: Family<TargetSet, SecondsGauge>,
    pub(super) tcp_resets: Family<ResetSet, Counter>,
    pub(super) tcp_syn_timeouts: Family<SynTimeoutSet, Counter>,
    pub(super) tcp_syn_retransmits: Family<TargetSet, Counter>,
    pub(super) tcp_retransmits: Family<TargetSet, Counter>,
    pub(super) tcp_rtt_seconds: Histograms<TargetSet>,
    pub(super) tcp_connects: Family<ConnectSet, Counter>,
    pub(super) agent_events: Family<KindSet, Counter>,
    pub(super) agent_attempts: Family<JoinSet, Counter>,
    pub(super) agent_label_overflow: Family<LabelNameSet, Counter>,
}

impl Families {
    /// Registers all of them.
    pub(super) fn register(catalogue: &mut Catalogue) -> Self {
        Self {
            gateway_responses: catalogue.family(
                "why502_gateway_responses",
                "Answers given to clients, by status code; `code=\"none\"` is a connection closed without an answer while the client was still there",
            ),
            gateway_errors: catalogue.family(
                "why502_gateway_errors",
                "Gateway errors: a 5xx given to a client, or a connection closed instead of an answer (`code=\"none\"`), by why; `upstream` is that of the attempt the error comes from, `none` without an attempt; the exemplar is a trace id",
            ),
            gateway_request_seconds: catalogue.family_of(
                "why502_gateway_request_seconds",
                "Seconds from the first request byte read from the client to the last response byte given to the kernel (nginx $request_time, HAProxy Ta)",
                buckets::work,
            ),
            upstream_responses: catalogue.family(
                "why502_upstream_responses",
                "Answers received from upstreams, by status code; also those the client never saw",
            ),
            upstream_failures: catalogue.family(
                "why502_upstream_failures",
                "Failed attempts, by why and in which part of the attempt; `masked=\"true\"` when the client's request still succeeded, `unknown` when its request is not known; a complete answer with a 5xx is no failed attempt, nor is a client that left; the exemplar is a trace id",
            ),
            upstream_health_checks: catalogue.family(
                "why502_upstream_health_checks",
                "Health checks that proxies made of upstreams, by result: `passed`, or why it failed (`upstream_status` is a status of 400 or more); `code` is the status, `none` without an answer; they are in no other metric of attempts",
            ),
            upstream_connect_seconds: catalogue.family_of(
                "why502_upstream_connect_seconds",
                "Seconds from SYN to established on fresh upstream connections: the kernel's handshake alone, without TLS",
                buckets::round_trip,
            ),
            upstream_tls_seconds: catalogue.family_of(
                "why502_upstream_tls_seconds",
                "Seconds from ClientHello to the first application data sent, on fresh upstream connections: the TLS handshake and what the proxy takes to use it",
                buckets::round_trip,
            ),
            upstream_first_byte_seconds: catalogue.family_of(
                "why502_upstream_first_byte_seconds",
                "Seconds from the last request byte sent to the first response byte received: the wait for the application",
                buckets::work,
            ),
            upstream_header_seconds: catalogue.family_of(
                "why502_upstream_header_seconds",
                "Seconds from the start of the attempt (connect if fresh, else first request byte) to the complete response head (nginx $upstream_header_time)",
                buckets::work,
            ),
            upstream_response_seconds: catalogue.family_of(
                "why502_upstream_response_seconds",
                "Seconds from the start of the attempt to the last response byte or to the failure (nginx $upstream_response_time)",
                buckets::work,
            ),
            upstream_idle_before_reuse_seconds: catalogue.family_of(
                "why502_upstream_idle_before_reuse_seconds",
                "Seconds an upstream connection lay idle before it was used again; `raced=\"true\"` when the upstream was closing it at that moment",
                buckets::idle,
            ),
            upstream_outstanding_requests: catalogue.family(
                "why502_upstream_outstanding_requests",
                "Attempts under way at the time of the scrape",
            ),
            upstream_oldest_request_seconds: catalogue.family(
                "why502_upstream_oldest_request_seconds",
                "Age in seconds of the oldest attempt under way at the time of the scrape, 0 without one",
            ),
            tcp_resets: catalogue.family(
                "why502_tcp_resets",
                "TCP resets on upstream connections, received or sent by the proxy, by the part of the connection's life",
            ),
            tcp_syn_timeouts: catalogue.family(
                "why502_tcp_syn_timeouts",
                "Connects that no packet ever answered, by who gave up: the proxy by its timer, or the kernel (net.ipv4.tcp_syn_retries)",
            ),
            tcp_syn_retransmits: catalogue
                .family("why502_tcp_syn_retransmits", "SYNs sent beyond the first of a connect"),
            tcp_retransmits: catalogue
                .family("why502_tcp_retransmits", "Segments sent again on upstream connections, SYNs not counted"),
            tcp_rtt_seconds: catalogue.family_of(
                "why502_tcp_rtt_seconds",
                "Smoothed round-trip time in seconds of upstream connections as the kernel measures it, sampled per exchange",
                buckets::round_trip,
            ),
            tcp_connects: catalogue.family(
                "why502_tcp_connects",
                "Connects of proxies to upstreams, of whatever protocol, by result",
            ),
            agent_events: catalogue.family("why502_agent_events", "Events told by the core, by kind"),
            agent_attempts: catalogue.family(
                "why502_agent_attempts",
                "Attempts by how they were joined to a client's request; `none` is an attempt whose request is not known",
            ),
            agent_label_overflow: catalogue.family(
                "why502_agent_label_overflow",
                "Events counted under `other` because the label had as many values as allowed (`max_upstreams`, `max_proxies`)",
            ),
        }
    }
}
