//! Events to series.
//!
//! In: the core's events. Out: counters, gauges and histograms. Here `proxy` and
//! `upstream` are bounded: values beyond the bound are counted under `other`, and counted
//! as overflow.

use std::collections::HashMap;
use std::sync::Arc;

use agent_core::cause::Cause;
use agent_core::event::{
    Attempt, ConnectDone, ConnectResult, Event, Request, ResetSeen, TcpSeen, Upstream,
};
use agent_core::observation::Nanos;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::families::Families;
use super::handles::{GaveUp, Slots, Target, count_traced};
use super::labels::{Code, JoinSet, KindSet, LabelNameSet, ProxyCodeSet, ProxySet, Word};
use crate::config::Settings;
use crate::names::UpstreamNames;

/// Label of what is beyond a bound.
const OTHER: &str = "other";

/// Label `upstream` of an error that comes from no attempt.
const NO_UPSTREAM: &str = "none";

/// How long an upstream must be silent before a new one may take its place, ns. Shorter:
/// a counter that vanishes and returns looks like a restart. Longer: in a cluster whose
/// addresses change, new upstreams wait in `other`.
const RETIRE_AFTER_NANOS: Nanos = 3_600_000_000_000;

/// How often silent upstreams are looked for when there is no room, ns.
const RETIRE_EVERY_NANOS: Nanos = 60_000_000_000;

/// What attempts are under way at one upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct UnderWay {
    /// The proxy's label.
    pub proxy: Arc<str>,
    /// Whom they wait for.
    pub upstream: Upstream,
    /// How many.
    pub requests: u64,
    /// Age of the oldest, seconds.
    pub oldest_seconds: f64,
}

/// The series of traffic.
#[derive(Debug)]
pub struct Traffic {
    families: Families,
    names: UpstreamNames,
    bounds: Bounds,
    upstreams: usize,
    swept: Nanos,
    proxies: HashMap<Arc<str>, Proxy>,
    other: Proxy,
    agent: Agent,
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    upstreams: usize,
    proxies: usize,
}

/// One proxy.
#[derive(Debug)]
struct Proxy {
    label: Arc<str>,
    responses: Slots<Code, Counter>,
    request_seconds: Slots<(), Histogram>,
    targets: HashMap<Upstream, Target>,
    other: Target,
    none: Target,
}

/// Counters about the events themselves.
#[derive(Debug)]
struct Agent {
    connects: Counter,
    attempts: Counter,
    requests: Counter,
    resets: Counter,
    tcp: Counter,
    joins: Slots<agent_core::event::Join, Counter>,
    upstream_overflow: Counter,
    proxy_overflow: Counter,
}

impl Traffic {
    pub(super) fn new(families: Families, settings: &Settings) -> Self {
        let pairs = settings
            .upstream_names
            .iter()
            .map(|(address, name)| (address.as_str(), name.as_str()));
        let agent = Agent::new(&families);
        Self {
            families,
            names: UpstreamNames::new(pairs),
            bounds: Bounds {
                upstreams: settings.max_upstreams,
                proxies: settings.max_proxies,
            },
            upstreams: 0,
            swept: 0,
            proxies: HashMap::new(),
            other: Proxy::new(Arc::from(OTHER)),
            agent,
        }
    }

    /// Counts one event. `now` is the time of the round it came in.
    pub fn record(&mut self, event: &Event, now: Nanos) {
        match event {
            Event::Connect(connect) => self.connect(connect, now),
            Event::Attempt(attempt) => self.attempt(attempt, now),
            Event::Request(request) => self.request(request, now),
            Event::Reset(reset) => self.reset(reset, now),
            Event::Tcp(tcp) => self.tcp(tcp, now),
        }
    }

    /// Sets what is under way now; what is not named is at zero.
    pub fn set_under_way(&mut self, under_way: impl IntoIterator<Item = UnderWay>, now: Nanos) {
        for proxy in self.proxies.values().chain([&self.other]) {
            for target in proxy.targets.values().chain([&proxy.other]) {
                if let Some((requests, oldest)) = target.outstanding_if_any() {
                    requests.set(0);
                    oldest.set(0.0);
                }
            }
        }
        for UnderWay {
            proxy,
            upstream,
            requests,
            oldest_seconds,
        } in under_way
        {
            let (families, target) = self.target(&proxy, &upstream, now);
            let (count, oldest) = target.outstanding(families);
            // Added up, because one name can stand for several addresses.
            count.inc_by(i64::try_from(requests).unwrap_or(i64::MAX));
            if oldest_seconds > oldest.get() {
                oldest.set(oldest_seconds);
            }
        }
    }

    fn connect(&mut self, connect: &ConnectDone, now: Nanos) {
        let ConnectDone {
            proxy,
            upstream,
            result,
            seconds,
            syn_retransmits,
        } = connect;
        self.agent.connects.inc();
        let (families, target) = self.target(&proxy.name, upstream, now);

        target.connect(families, *result).inc();
        match result {
            // A Unix socket has no handshake to time.
            ConnectResult::Established if matches!(upstream, Upstream::Inet(_)) => {
                target.connect_seconds(families).observe(*seconds);
            }
            ConnectResult::TimeoutProxy => {
                target.syn_timeout(families, GaveUp::Proxy).inc();
            }
            ConnectResult::TimeoutKernel => {
                target.syn_timeout(families, GaveUp::Kernel).inc();
            }
            ConnectResult::Established
            | ConnectResult::Refused
            | ConnectResult::Unreachable
            | ConnectResult::LocalError => {}
        }
        if *syn_retransmits > 0 {
            target
                .syn_retransmits(families)
                .inc_by(u64::from(*syn_retransmits));
        }
    }

    fn attempt(&mut self, attempt: &Attempt, now: Nanos) {
        self.agent.attempts.inc();
        let agents = &self.families.agent_attempts;
        let join = attempt.join;
        self.agent
            .joins
            .get(join, || {
                agents.get_or_create_owned(&JoinSet { join: join.into() })
            })
            .inc();
        let (families, target) = self.target(&attempt.proxy.name, &attempt.upstream, now);

        if attempt.code.is_some() {
            target.response_code(families, attempt.code.into()).inc();
        }
        if let Some(seconds) = attempt.first_byte_seconds {
            target.first_byte_seconds(families).observe(seconds);
        }
        if let Some(seconds) = attempt.header_seconds {
            target.header_seconds(families).observe(seconds);
        }
        target
            .response_seconds(families)
            .observe(attempt.response_seconds);
        if let Some(seconds) = attempt.idle_seconds {
            let raced = attempt
                .failure
                .is_some_and(|failure| failure.cause == Cause::KeepaliveRace);
            target.idle_seconds(families, raced).observe(seconds);
        }
        if let Some(failure) = attempt
            .failure
            .filter(|failure| is_failed_attempt(failure.cause))
        {
            let counter = target.failure(families, (failure.cause, failure.phase, attempt.masked));
            count_traced(
                counter,
                attempt
                    .head
                    .as_ref()
                    .and_then(|head| head.trace_id.as_deref()),
            );
        }
    }

    fn request(&mut self, request: &Request, now: Nanos) {
        self.agent.requests.inc();
        // A client that left without an answer was given none: that is not the gateway's.
        if request.code.is_none() && request.client_left {
            return;
        }
        let code = Code::from(request.code);
        let (families, proxy) = self.proxy(&request.proxy.name);
        let label = Arc::clone(&proxy.label);
        proxy
            .responses
            .get(code, || {
                families
                    .gateway_responses
                    .get_or_create_owned(&ProxyCodeSet { proxy: label, code })
            })
            .inc();
        let label = Arc::clone(&proxy.label);
        proxy
            .request_seconds
            .get((), || {
                families
                    .gateway_request_seconds
                    .get_or_create_owned(&ProxySet { proxy: label })
            })
            .observe(request.seconds);

        let Some(error) = request.error else { return };
        let from = request
            .error_attempt
            .and_then(|at| request.attempts.get(at));
        let (families, target) = match from {
            Some(attempt) => self.target(&request.proxy.name, &attempt.upstream, now),
            None => {
                let (families, proxy) = self.proxy(&request.proxy.name);
                (families, &mut proxy.none)
            }
        };
        let counter = target.error(families, (code, error.cause, error.certainty));
        count_traced(
            counter,
            request
                .head
                .as_ref()
                .and_then(|head| head.trace_id.as_deref()),
        );
    }

    fn reset(&mut self, reset: &ResetSeen, now: Nanos) {
        let ResetSeen {
            proxy,
            upstream,
            direction,
            phase,
        } = reset;
        self.agent.resets.inc();
        let (families, target) = self.target(&proxy.name, upstream, now);
        target.reset(families, (*direction, *phase)).inc();
    }

    fn tcp(&mut self, tcp: &TcpSeen, now: Nanos) {
        let TcpSeen {
            proxy,
            upstream,
            retransmits,
            rtt_seconds,
        } = tcp;
        self.agent.tcp.inc();
        let (families, target) = self.target(&proxy.name, upstream, now);
        if *retransmits > 0 {
            target.retransmits(families).inc_by(u64::from(*retransmits));
        }
        if let Some(seconds) = rtt_seconds {
            target.rtt_seconds(families).observe(*seconds);
        }
    }

    /// The proxy of this name, or `other`.
    fn proxy(&mut self, name: &Arc<str>) -> (&Families, &mut Proxy) {
        self.admit_proxy(name);
        let Self {
            families,
            proxies,
            other,
            agent,
            ..
        } = self;
        match proxies.get_mut(name) {
            Some(proxy) => (families, proxy),
            None => {
                agent.proxy_overflow.inc();
                (families, other)
            }
        }
    }

    /// The upstream of a proxy, or the proxy's `other`.
    fn target(
        &mut self,
        proxy: &Arc<str>,
        upstream: &Upstream,
        now: Nanos,
    ) -> (&Families, &mut Target) {
        self.admit_proxy(proxy);
        self.admit_upstream(proxy, upstream, now);
        let Self {
            families,
            proxies,
            other,
            agent,
            ..
        } = self;
        let Some(proxy) = proxies.get_mut(proxy) else {
            agent.proxy_overflow.inc();
            return (families, &mut other.other);
        };
        match proxy.targets.get_mut(upstream) {
            Some(target) => {
                target.seen = now;
                (families, target)
            }
            None => {
                agent.upstream_overflow.inc();
                (families, &mut proxy.other)
            }
        }
    }

    fn admit_proxy(&mut self, name: &Arc<str>) {
        if !self.proxies.contains_key(name) && self.proxies.len() < self.bounds.proxies {
            self.proxies
                .insert(Arc::clone(name), Proxy::new(Arc::clone(name)));
        }
    }

    fn admit_upstream(&mut self, proxy: &Arc<str>, upstream: &Upstream, now: Nanos) {
        if self
            .proxies
            .get(proxy)
            .is_none_or(|proxy| proxy.targets.contains_key(upstream))
        {
            return;
        }
        if self.upstreams >= self.bounds.upstreams && !self.make_room(now) {
            return;
        }
        let name = self.names.name(upstream);
        if let Some(proxy) = self.proxies.get_mut(proxy) {
            let target = Target::new(Arc::clone(&proxy.label), name, now);
            proxy.targets.insert(upstream.clone(), target);
            self.upstreams += 1;
        }
    }

    /// Retires upstreams that were silent for long; tells whether there is room now.
    fn make_room(&mut self, now: Nanos) -> bool {
        if now.saturating_sub(self.swept) < RETIRE_EVERY_NANOS {
            return false;
        }
        self.swept = now;
        let Self {
            families,
            names,
            upstreams,
            proxies,
            ..
        } = self;
        for proxy in proxies.values_mut() {
            let silent: Vec<Upstream> = proxy
                .targets
                .iter()
                // A name may stand for several addresses that share their series, and there
                // are only as many names as the operator gave.
                .filter(|(upstream, _)| !names.is_given(upstream))
                .filter(|(_, target)| now.saturating_sub(target.seen) >= RETIRE_AFTER_NANOS)
                .map(|(upstream, _)| upstream.clone())
                .collect();
            for upstream in silent {
                if let Some(target) = proxy.targets.remove(&upstream) {
                    target.retire(families);
                    *upstreams -= 1;
                }
            }
        }
        self.upstreams < self.bounds.upstreams
    }
}

impl Proxy {
    fn new(label: Arc<str>) -> Self {
        let target = |upstream: &str| Target::new(Arc::clone(&label), Arc::from(upstream), 0);
        Self {
            responses: Slots::new(),
            request_seconds: Slots::new(),
            targets: HashMap::new(),
            other: target(OTHER),
            none: target(NO_UPSTREAM),
            label,
        }
    }
}

impl Agent {
    fn new(families: &Families) -> Self {
        let kind = |word| {
            families.agent_events.get_or_create_owned(&KindSet {
                kind: Word::new(word),
            })
        };
        let overflow = |word| {
            families
                .agent_label_overflow
                .get_or_create_owned(&LabelNameSet {
                    label: Word::new(word),
                })
        };
        Self {
            connects: kind("connect"),
            attempts: kind("attempt"),
            requests: kind("request"),
            resets: kind("reset"),
            tcp: kind("tcp"),
            joins: Slots::new(),
            upstream_overflow: overflow("upstream"),
            proxy_overflow: overflow("proxy"),
        }
    }
}

/// A complete answer of the upstream's own is no failed attempt, and a client that left is
/// no fault of the upstream.
pub fn is_failed_attempt(cause: Cause) -> bool {
    !matches!(cause, Cause::UpstreamStatus | Cause::ClientAbort)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agent_core::cause::Cause;
    use agent_core::event::{ConnectDone, ConnectResult, Event, ResetSeen, TcpSeen};
    use agent_core::observation::{Phase, ResetDirection};

    use super::{RETIRE_AFTER_NANOS, UnderWay};
    use crate::config::Settings;
    use crate::metrics::Metrics;
    use crate::metrics::exposition::Format;
    use crate::samples::{failed_attempt, good_attempt, proxy, request, upstream};

    fn metrics(settings: &str) -> Metrics {
        Metrics::new(&Settings::parse(settings).unwrap())
    }

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(Format::Text.write(&metrics.registry).unwrap()).unwrap()
    }

    #[track_caller]
    fn assert_line(text: &str, parts: &[&str], value: &str) {
        let found = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .any(|line| {
                parts.iter().all(|part| line.contains(part)) && line.ends_with(&format!(" {value}"))
            });
        assert!(found, "no line with {parts:?} and {value} in\n{text}");
    }

    fn attempt_at(address: &str) -> Event {
        let mut attempt = good_attempt();
        attempt.upstream = upstream(address);
        Event::Attempt(Arc::new(attempt))
    }

    #[test]
    fn a_502_is_counted_with_its_cause_and_its_failed_attempt() {
        let mut metrics = metrics("");
        let request = request(Some(502), vec![failed_attempt()]);
        for attempt in &request.attempts {
            metrics
                .traffic
                .record(&Event::Attempt(Arc::clone(attempt)), 1);
        }
        metrics
            .traffic
            .record(&Event::Request(Arc::new(request)), 1);

        let text = text(&metrics);

        assert_line(
            &text,
            &["why502_gateway_responses_total{", "code=\"502\""],
            "1",
        );
        assert_line(
            &text,
            &[
                "why502_gateway_errors_total{",
                "cause=\"keepalive_race\"",
                "certainty=\"proof\"",
                "upstream=\"10.0.3.17:8080\"",
            ],
            "1",
        );
        assert_line(
            &text,
            &[
                "why502_upstream_failures_total{",
                "phase=\"request\"",
                "masked=\"false\"",
            ],
            "1",
        );
        assert_line(
            &text,
            &[
                "why502_upstream_idle_before_reuse_seconds_count{",
                "raced=\"true\"",
            ],
            "1",
        );
        assert!(
            !text.contains("why502_upstream_responses_total{"),
            "no answer came\n{text}"
        );
    }

    #[test]
    fn a_status_of_the_upstream_is_an_error_and_no_failed_attempt() {
        let mut metrics = metrics("");
        let mut attempt = good_attempt();
        attempt.code = Some(503);
        attempt.failure = attempt
            .failure
            .or(failed_attempt().failure)
            .map(|mut failure| {
                failure.cause = Cause::UpstreamStatus;
                failure
            });

        metrics
            .traffic
            .record(&Event::Attempt(Arc::new(attempt)), 1);

        let text = text(&metrics);
        assert_line(
            &text,
            &["why502_upstream_responses_total{", "code=\"503\""],
            "1",
        );
        assert!(!text.contains("why502_upstream_failures_total{"), "{text}");
    }

    #[test]
    fn an_error_without_an_attempt_has_no_upstream() {
        let mut metrics = metrics("");

        metrics
            .traffic
            .record(&Event::Request(Arc::new(request(Some(503), Vec::new()))), 1);

        assert_line(
            &text(&metrics),
            &["why502_gateway_errors_total{", "upstream=\"none\""],
            "1",
        );
    }

    #[test]
    fn a_client_that_left_was_given_nothing_and_nothing_is_counted() {
        let mut metrics = metrics("");
        let mut left = request(None, vec![failed_attempt()]);
        left.client_left = true;
        metrics.traffic.record(&Event::Request(Arc::new(left)), 1);
        assert!(!text(&metrics).contains("why502_gateway_responses_total{"));

        metrics.traffic.record(
            &Event::Request(Arc::new(request(None, vec![failed_attempt()]))),
            1,
        );

        let text = text(&metrics);
        assert_line(
            &text,
            &["why502_gateway_responses_total{", "code=\"none\""],
            "1",
        );
        assert_line(
            &text,
            &["why502_gateway_errors_total{", "code=\"none\""],
            "1",
        );
    }

    #[test]
    fn upstreams_beyond_the_bound_are_other_and_counted() {
        let mut metrics = metrics("max_upstreams = 2");

        for port in 1..=5 {
            metrics
                .traffic
                .record(&attempt_at(&format!("10.0.0.1:{port}")), 1);
        }
        metrics.traffic.record(&attempt_at("10.0.0.1:2"), 1);

        let text = text(&metrics);
        let responses = ["why502_upstream_responses_total{"];
        assert_line(&text, &[responses[0], "upstream=\"10.0.0.1:1\""], "1");
        assert_line(&text, &[responses[0], "upstream=\"10.0.0.1:2\""], "2");
        assert_line(&text, &[responses[0], "upstream=\"other\""], "3");
        assert!(!text.contains("10.0.0.1:3"), "{text}");
        assert_line(
            &text,
            &["why502_agent_label_overflow_total{label=\"upstream\"}"],
            "3",
        );
    }

    #[test]
    fn proxies_beyond_the_bound_are_other_and_counted() {
        let mut metrics = metrics("max_proxies = 1");
        for name in ["nginx", "haproxy", "envoy"] {
            let mut attempt = good_attempt();
            attempt.proxy = proxy(name);
            metrics
                .traffic
                .record(&Event::Attempt(Arc::new(attempt)), 1);
        }

        let text = text(&metrics);

        assert_line(
            &text,
            &["why502_upstream_responses_total{", "proxy=\"nginx\""],
            "1",
        );
        assert_line(
            &text,
            &[
                "why502_upstream_responses_total{",
                "proxy=\"other\"",
                "upstream=\"other\"",
            ],
            "2",
        );
        assert_line(
            &text,
            &["why502_agent_label_overflow_total{label=\"proxy\"}"],
            "2",
        );
    }

    #[test]
    fn an_upstream_silent_for_long_gives_its_place_to_a_new_one() {
        let mut metrics = metrics("max_upstreams = 1");
        metrics.traffic.record(&attempt_at("10.0.0.1:1"), 1);

        metrics
            .traffic
            .record(&attempt_at("10.0.0.2:1"), 2 + RETIRE_AFTER_NANOS);

        let text = text(&metrics);
        assert!(!text.contains("10.0.0.1:1"), "{text}");
        assert_line(
            &text,
            &[
                "why502_upstream_responses_total{",
                "upstream=\"10.0.0.2:1\"",
            ],
            "1",
        );
    }

    #[test]
    fn one_name_can_stand_for_several_addresses() {
        let mut metrics =
            metrics("[upstream_names]\n\"10.0.0.1:1\" = \"orders\"\n\"10.0.0.2:1\" = \"orders\"\n");
        for address in ["10.0.0.1:1", "10.0.0.2:1"] {
            metrics.traffic.record(&attempt_at(address), 1);
        }
        let under_way = ["10.0.0.1:1", "10.0.0.2:1"].map(|address| UnderWay {
            proxy: Arc::from("nginx"),
            upstream: upstream(address),
            requests: 2,
            oldest_seconds: 1.5,
        });

        metrics.traffic.set_under_way(under_way, 1);

        let text = text(&metrics);
        assert_line(
            &text,
            &["why502_upstream_responses_total{", "upstream=\"orders\""],
            "2",
        );
        assert_line(
            &text,
            &[
                "why502_upstream_outstanding_requests{",
                "upstream=\"orders\"",
            ],
            "4",
        );
        assert_line(&text, &["why502_upstream_oldest_request_seconds{"], "1.5");
    }

    #[test]
    fn what_is_no_longer_under_way_is_at_zero() {
        let mut metrics = metrics("");
        let one = UnderWay {
            proxy: Arc::from("nginx"),
            upstream: upstream("10.0.0.1:1"),
            requests: 2,
            oldest_seconds: 1.5,
        };
        metrics.traffic.set_under_way([one], 1);

        metrics.traffic.set_under_way([], 2);

        let text = text(&metrics);
        assert_line(&text, &["why502_upstream_outstanding_requests{"], "0");
        assert_line(&text, &["why502_upstream_oldest_request_seconds{"], "0.0");
    }

    #[test]
    fn connects_resets_and_round_trips_are_counted() {
        let mut metrics = metrics("");
        let (proxy, upstream) = (proxy("nginx"), upstream("10.0.0.1:1"));
        let connect = |result, seconds, syn_retransmits| {
            Event::Connect(ConnectDone {
                proxy: proxy.clone(),
                upstream: upstream.clone(),
                result,
                seconds,
                syn_retransmits,
            })
        };
        let events = [
            connect(ConnectResult::Established, 0.001, 0),
            connect(ConnectResult::TimeoutProxy, 3.0, 1),
            connect(ConnectResult::TimeoutKernel, 127.0, 6),
            Event::Reset(ResetSeen {
                proxy: proxy.clone(),
                upstream: upstream.clone(),
                direction: ResetDirection::Received,
                phase: Phase::Idle,
            }),
            Event::Tcp(TcpSeen {
                proxy: proxy.clone(),
                upstream: upstream.clone(),
                retransmits: 4,
                rtt_seconds: Some(0.000_2),
            }),
        ];

        for event in &events {
            metrics.traffic.record(event, 1);
        }

        let text = text(&metrics);
        assert_line(
            &text,
            &["why502_tcp_connects_total{", "result=\"established\""],
            "1",
        );
        assert_line(&text, &["why502_upstream_connect_seconds_count{"], "1");
        assert_line(
            &text,
            &["why502_tcp_syn_timeouts_total{", "gave_up=\"proxy\""],
            "1",
        );
        assert_line(
            &text,
            &["why502_tcp_syn_timeouts_total{", "gave_up=\"kernel\""],
            "1",
        );
        assert_line(&text, &["why502_tcp_syn_retransmits_total{"], "7");
        assert_line(
            &text,
            &[
                "why502_tcp_resets_total{",
                "direction=\"received\"",
                "phase=\"idle\"",
            ],
            "1",
        );
        assert_line(&text, &["why502_tcp_retransmits_total{"], "4");
        assert_line(&text, &["why502_tcp_rtt_seconds_count{"], "1");
    }
}
