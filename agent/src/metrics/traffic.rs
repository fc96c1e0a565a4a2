//! Events to series.
//!
//! In: the core's events. Out: counters, gauges and histograms. Here `proxy` and
//! `upstream` are bounded: values beyond the bound are counted under `other`, and counted
//! as overflow.

mod proxy;

use std::sync::Arc;

use agent_core::cause::Cause;
use agent_core::event::{
    self, Attempt, Check, ConnectDone, ConnectResult, Event, Request, ResetSeen, TcpSeen, TlsDone,
    Upstream,
};
use agent_core::observation::Nanos;
use prometheus_client::metrics::counter::Counter;
use rustc_hash::FxHashMap;

use self::proxy::Proxy;
use super::families::Families;
use super::handles::{GaveUp, Slots, Target, count_traced};
use super::labels::{
    Code, JoinSet, KindSet, LabelNameSet, PlaceLabels, ProxyCodeSet, ProxySet, Word,
};
use super::naming::{Naming, ProxyKey, UpstreamKey};
use crate::config::Settings;
use crate::identity::kubernetes::Directory;
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
    /// Who waits.
    pub proxy: event::Proxy,
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
    naming: Naming,
    bounds: Bounds,
    upstreams: usize,
    swept: Nanos,
    swept_proxies: Nanos,
    proxies: FxHashMap<ProxyKey, Proxy>,
    other: Proxy,
    agent: Agent,
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    upstreams: usize,
    proxies: usize,
}

/// Counters about the events themselves.
#[derive(Debug)]
struct Agent {
    connects: Counter,
    attempts: Counter,
    requests: Counter,
    resets: Counter,
    tcp: Counter,
    checks: Counter,
    joins: Slots<event::Join, Counter>,
    upstream_overflow: Counter,
    proxy_overflow: Counter,
}

impl Traffic {
    pub(super) fn new(families: Families, settings: &Settings) -> Self {
        let agent = Agent::new(&families);
        Self {
            families,
            naming: Naming::new(settings),
            bounds: Bounds {
                upstreams: settings.max_upstreams,
                proxies: settings.max_proxies,
            },
            upstreams: 0,
            swept: 0,
            swept_proxies: 0,
            proxies: FxHashMap::default(),
            other: Proxy::new(ProxyKey {
                name: Arc::from(OTHER),
                place: PlaceLabels::default(),
            }),
            agent,
        }
    }

    /// What the operator calls upstreams; clones share what hosts resolve to.
    pub fn names(&self) -> &UpstreamNames {
        self.naming.given()
    }

    /// Takes names from there as well.
    pub fn name_by(&mut self, directory: Directory) {
        self.naming.set_directory(directory);
    }

    /// The process is in the pod of this uid, or in none.
    pub fn set_pod(&mut self, tgid: u32, uid: Option<Arc<str>>) {
        self.naming.set_pod(tgid, uid);
    }

    /// Ends the series of names that nobody has any more. To be called when names may have
    /// changed; costs nothing when they have not.
    pub fn renew_names(&mut self) {
        let gone = self.naming.renew();
        let Self {
            families,
            upstreams,
            proxies,
            ..
        } = self;
        for key in gone {
            for proxy in proxies.values_mut() {
                if let Some(target) = proxy.targets.remove(&key) {
                    target.retire(families);
                    *upstreams -= 1;
                }
            }
        }
    }

    /// Counts one event. `now` is the time of the round it came in.
    pub fn record(&mut self, event: &Event, now: Nanos) {
        match event {
            Event::Connect(connect) => self.connect(connect, now),
            Event::Request(request) => {
                for attempt in &request.attempts {
                    self.attempt(attempt, now);
                }
                self.request(request, now);
            }
            Event::LoneAttempt(attempt) => self.attempt(attempt, now),
            Event::Reset(reset) => self.reset(reset, now),
            Event::Tls(tls) => self.tls(tls, now),
            Event::Tcp(tcp) => self.tcp(tcp, now),
            Event::Check(check) => self.check(check, now),
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
        let (families, target) = self.target(proxy, upstream, now);

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

    fn tls(&mut self, tls: &TlsDone, now: Nanos) {
        let TlsDone {
            proxy,
            upstream,
            seconds,
        } = tls;
        let (families, target) = self.target(proxy, upstream, now);
        target.tls_seconds(families).observe(*seconds);
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
        let (families, target) = self.target(&attempt.proxy, &attempt.upstream, now);

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

    fn check(&mut self, check: &Check, now: Nanos) {
        self.agent.checks.inc();
        let (families, target) = self.target(&check.proxy, &check.upstream, now);
        let key = (check.failure, check.code.into());
        target.health_check(families, key).inc();
    }

    fn request(&mut self, request: &Request, now: Nanos) {
        self.agent.requests.inc();
        // A client that left without an answer was given none: that is not the gateway's.
        if request.code.is_none() && request.client_left {
            return;
        }
        let code = Code::from(request.code);
        let (families, proxy) = self.proxy(&request.proxy, now);
        let Proxy {
            key,
            responses,
            request_seconds,
            ..
        } = proxy;
        responses
            .get(code, || {
                families
                    .gateway_responses
                    .get_or_create_owned(&ProxyCodeSet {
                        proxy: Arc::clone(&key.name),
                        code,
                        place: key.place.clone(),
                    })
            })
            .inc();
        request_seconds
            .get((), || {
                families
                    .gateway_request_seconds
                    .get_or_create_owned(&ProxySet {
                        proxy: Arc::clone(&key.name),
                        place: key.place.clone(),
                    })
            })
            .observe(request.seconds);

        let Some(error) = request.error else { return };
        let from = request
            .error_attempt
            .and_then(|at| request.attempts.get(at));
        let (families, target) = match from {
            Some(attempt) => self.target(&request.proxy, &attempt.upstream, now),
            None => {
                let (families, proxy) = self.proxy(&request.proxy, now);
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
        let (families, target) = self.target(proxy, upstream, now);
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
        let (families, target) = self.target(proxy, upstream, now);
        if *retransmits > 0 {
            target.retransmits(families).inc_by(u64::from(*retransmits));
        }
        if let Some(seconds) = rtt_seconds {
            target.rtt_seconds(families).observe(*seconds);
        }
    }

    /// The proxy as it is called, or `other`.
    fn proxy(&mut self, proxy: &event::Proxy, now: Nanos) -> (&Families, &mut Proxy) {
        let key = self.naming.proxy(proxy);
        self.admit_proxy(&key, now);
        let Self {
            families,
            proxies,
            other,
            agent,
            ..
        } = self;
        match proxies.get_mut(&key) {
            Some(proxy) => {
                proxy.seen = now;
                (families, proxy)
            }
            None => {
                agent.proxy_overflow.inc();
                (families, other)
            }
        }
    }

    /// The upstream of a proxy, or the proxy's `other`.
    fn target(
        &mut self,
        proxy: &event::Proxy,
        upstream: &Upstream,
        now: Nanos,
    ) -> (&Families, &mut Target) {
        let proxy = self.naming.proxy(proxy);
        let upstream = self.naming.upstream(upstream);
        self.admit_proxy(&proxy, now);
        self.admit_upstream(&proxy, &upstream, now);
        let Self {
            families,
            proxies,
            other,
            agent,
            ..
        } = self;
        let Some(proxy) = proxies.get_mut(&proxy) else {
            agent.proxy_overflow.inc();
            return (families, &mut other.other);
        };
        proxy.seen = now;
        match proxy.targets.get_mut(&upstream) {
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

    fn admit_proxy(&mut self, key: &ProxyKey, now: Nanos) {
        if self.proxies.contains_key(key) {
            return;
        }
        if self.proxies.len() < self.bounds.proxies || self.make_room_for_proxy(now) {
            self.proxies.insert(key.clone(), Proxy::new(key.clone()));
        }
    }

    /// Retires proxies that were silent for long: with labels of their own, each pod that a proxy
    /// ran in is one. Tells whether there is room now.
    fn make_room_for_proxy(&mut self, now: Nanos) -> bool {
        if now.saturating_sub(self.swept_proxies) < RETIRE_EVERY_NANOS {
            return false;
        }
        self.swept_proxies = now;
        let Self {
            families,
            upstreams,
            proxies,
            ..
        } = self;
        let silent: Vec<ProxyKey> = proxies
            .iter()
            .filter(|(_, proxy)| now.saturating_sub(proxy.seen) >= RETIRE_AFTER_NANOS)
            .map(|(key, _)| key.clone())
            .collect();
        for key in silent {
            if let Some(proxy) = proxies.remove(&key) {
                *upstreams -= proxy.retire(families);
            }
        }
        self.proxies.len() < self.bounds.proxies
    }

    fn admit_upstream(&mut self, proxy: &ProxyKey, upstream: &Arc<UpstreamKey>, now: Nanos) {
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
        if let Some(proxy) = self.proxies.get_mut(proxy) {
            let target = Target::new(&proxy.key, upstream, now);
            proxy.targets.insert(Arc::clone(upstream), target);
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
            upstreams,
            proxies,
            ..
        } = self;
        for proxy in proxies.values_mut() {
            let silent: Vec<Arc<UpstreamKey>> = proxy
                .targets
                .iter()
                .filter(|(_, target)| now.saturating_sub(target.seen) >= RETIRE_AFTER_NANOS)
                .map(|(upstream, _)| Arc::clone(upstream))
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
            checks: kind("check"),
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
mod tests;
