//! Where a proxy sends what, and how the upstreams there fare.
//!
//! In: the outcome of every attempt. Out: for a request that got an error without any attempt,
//! whether its upstreams had failed and not succeeded since (the proxy had none left to try), or not
//! (the error is the proxy's own).
//!
//! All of it is known of one instance of a proxy at a time: another of the same name on this host has
//! other upstreams, or has not seen them fail. A route is what requests share that an instance sends
//! to the same place, as far as that shows: the Host, and the first segment of the path.
//!
//! For how long an upstream is left alone is not known: it is a setting. An upstream counts as given
//! up from its failure until something succeeds on it ([`health`]).

mod health;

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::cause::Cause;
use crate::event::{Check, Upstream};
use crate::observation::{Nanos, RequestHead};
use health::{Down, Health};

pub(crate) use health::Moment;

/// Routes remembered. With more, those not used lately go.
const ROUTES: usize = 4096;
/// Upstreams of one route. With more it is never all of them that failed.
const UPSTREAMS_A_ROUTE: usize = 64;
/// Upstreams whose health is remembered.
const UPSTREAMS: usize = 16_384;
/// What is older is forgotten when room is needed, ns.
const OLD: Nanos = 120_000_000_000;

/// An upstream that was connected to twice within this time without anybody asking for it is
/// checked, ns. Too small: checks that are far apart are not known as such. Too large: what was
/// under way when the agent started is taken for checks as long.
const CHECKED_WITHIN: Nanos = 300_000_000_000;

/// How often room is made at most, ns: it walks the tables.
const SWEEP_EVERY: Nanos = 1_000_000_000;

/// How the upstreams of a request's route fare, when it made no attempt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fare {
    /// Each failed, and none was used with success since.
    AllDown {
        /// Why.
        origin: Cause,
        /// The health check that failed last, if that is how the last of them failed.
        check: Option<Arc<Check>>,
    },
    /// The route is not known, and every upstream of the proxy is down.
    ProxyAllDown(Cause, Option<Arc<Check>>),
    /// The route is not known, and this check of an upstream to which no request is known to have gone
    /// fails so often in a row that every proxy believes it: the route may be its.
    UnusedDown(Cause, Arc<Check>),
    /// Some failed, or one answers with errors of its own, for which proxies may leave it alone.
    SomeDown,
    /// The route is known, and each succeeded since it last failed.
    Healthy,
    /// Nothing is known.
    Unknown,
}

#[derive(Debug)]
struct Route {
    upstreams: Vec<u64>,
    used: Nanos,
}

/// How an attempt went.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// When a request began to use the upstream; `None` when that may have been a check.
    pub(crate) used: Option<Nanos>,
    /// When it began.
    pub(crate) started: Nanos,
    /// When it was over.
    pub(crate) ended: Nanos,
    /// Its request went on to another upstream, at a proxy that leaves alone what failed.
    pub(crate) passed_over: bool,
    /// Why it failed.
    pub(crate) failure: Option<Cause>,
    /// It was this health check.
    pub(crate) check: Option<Arc<Check>>,
    /// The instance of a proxy whose attempt it was.
    pub(crate) instance: Instance,
    /// Its process.
    pub(crate) tgid: u32,
}

/// Which instance of which proxy: a master process and its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Instance {
    /// As the daemon found out.
    Known(u64),
    /// Nothing is known but the process.
    Process(u32),
}

/// What is known of all proxies' routes.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    routes: FxHashMap<u64, Route>,
    health: FxHashMap<u64, Health>,
    /// The upstreams of each instance.
    of_instances: FxHashMap<Instance, FxHashSet<u64>>,
    /// Those to which no request is known to have gone and whose last check failed.
    unused_down: FxHashMap<Instance, FxHashSet<u64>>,
    /// Of all of those, how many were looked at.
    looked_at: Cell<u64>,
    next_sweep: Nanos,
    /// Clients choose Hosts and paths, and could choose some that collide.
    seed: RandomState,
    routes_refused: u64,
    upstreams_refused: u64,
}

impl Routes {
    /// An attempt at `upstream` is over, for a request with `head` when that is known.
    pub(crate) fn record(
        &mut self,
        head: Option<&RequestHead>,
        upstream: &Upstream,
        outcome: Outcome,
    ) {
        let Outcome {
            used,
            started,
            ended: at,
            passed_over,
            failure,
            check,
            instance,
            tgid,
        } = outcome;
        let name = self.name(&(instance, upstream));
        let route = head.map(|head| self.of_instance(instance, head));
        self.make_room(at);
        if let Some(route) = route {
            self.goes(route, name, at);
        }
        let fails_check = check.is_some() && failure.is_some();
        let Some(health) = self.health_of(instance, name) else {
            return;
        };
        health.has_requests |= used.is_some();
        let is_unused_down = fails_check && !health.has_requests;
        health.first_up = health.first_up.min(used.unwrap_or(at));
        match failure {
            Some(cause) if counts_as_down(cause) || cause == Cause::UpstreamStatus => {
                health.failed(Down {
                    started,
                    began: used,
                    at,
                    cause,
                    seen_by: tgid,
                    check,
                    passed_over,
                    back: None,
                });
            }
            Some(Cause::ClientAbort) => {}
            _ => health.answered(at),
        }
        if let Some(used) = used {
            health.is_up(used);
        }
        if is_unused_down {
            self.unused_down.entry(instance).or_default().insert(name);
        } else if let Some(names) = self.unused_down.get_mut(&instance) {
            names.remove(&name);
        }
    }

    /// Requests of that route go to that upstream.
    fn goes(&mut self, route: u64, upstream: u64, at: Nanos) {
        if self.routes.len() >= ROUTES && !self.routes.contains_key(&route) {
            self.routes_refused += 1;
            return;
        }
        let route = self.routes.entry(route).or_insert_with(|| Route {
            upstreams: Vec::new(),
            used: at,
        });
        route.used = route.used.max(at);
        if route.upstreams.len() < UPSTREAMS_A_ROUTE && !route.upstreams.contains(&upstream) {
            route.upstreams.push(upstream);
        }
    }

    /// An attempt of `instance` at `upstream` began at `at`, for a request with `head` if that is sure.
    pub(crate) fn saw_use(
        &mut self,
        instance: Instance,
        upstream: &Upstream,
        head: Option<&RequestHead>,
        at: Nanos,
    ) {
        let name = self.name(&(instance, upstream));
        if let Some(head) = head {
            let route = self.of_instance(instance, head);
            self.goes(route, name, at);
            if let Some(health) = self.health_of(instance, name) {
                health.has_requests = true;
                health.first_up = health.first_up.min(at);
            }
            if let Some(names) = self.unused_down.get_mut(&instance) {
                names.remove(&name);
            }
        }
        if let Some(health) = self.health.get_mut(&name) {
            health.is_up(at);
        }
    }

    /// Whether such requests go to other upstreams, and this one is known for something else: other
    /// requests, or checks.
    pub(crate) fn goes_elsewhere(
        &self,
        instance: Instance,
        head: &RequestHead,
        upstream: &Upstream,
    ) -> bool {
        let name = self.name(&(instance, upstream));
        self.route(instance, head).is_some_and(|route| {
            let full = route.upstreams.len() >= UPSTREAMS_A_ROUTE;
            !full && !route.upstreams.contains(&name) && self.health.contains_key(&name)
        })
    }

    /// Whether requests such as this one are known to go to `upstream`.
    pub(crate) fn goes_to(
        &self,
        instance: Instance,
        head: &RequestHead,
        upstream: &Upstream,
    ) -> bool {
        let name = self.name(&(instance, upstream));
        self.route(instance, head)
            .is_some_and(|route| route.upstreams.contains(&name))
    }

    /// `instance` connected to `upstream` at `at`, and none of its requests waited for an upstream.
    pub(crate) fn saw_unasked(&mut self, instance: Instance, upstream: &Upstream, at: Nanos) {
        let name = self.name(&(instance, upstream));
        if let Some(health) = self.health_of(instance, name) {
            health.unasked = [at, health.unasked[0]];
        }
    }

    /// Whether `instance` connects to `upstream` for others than the requests that are seen as well:
    /// to check it, or for clients that cannot be read.
    pub(crate) fn is_checked(&self, instance: Instance, upstream: &Upstream, at: Nanos) -> bool {
        let health = self.health.get(&self.name(&(instance, upstream)));
        health.is_some_and(|health| {
            let [_, earlier] = health.unasked;
            earlier != 0 && at.saturating_sub(earlier) <= CHECKED_WITHIN
        })
    }

    /// `instance` used `upstream` for a request that is known.
    pub(crate) fn has_requests(&self, instance: Instance, upstream: &Upstream) -> bool {
        let health = self.health.get(&self.name(&(instance, upstream)));
        health.is_some_and(|health| health.has_requests)
    }

    /// Upstreams looked at for requests of which the route is not known.
    pub(crate) fn looked_at(&self) -> u64 {
        self.looked_at.get()
    }

    pub(crate) fn routes(&self) -> usize {
        self.routes.len()
    }

    pub(crate) fn upstreams(&self) -> usize {
        self.health.len()
    }

    /// Routes for which there was no room, so far.
    pub(crate) fn routes_refused(&self) -> u64 {
        self.routes_refused
    }

    /// The same of upstreams.
    pub(crate) fn upstreams_refused(&self) -> u64 {
        self.upstreams_refused
    }

    fn health_of(&mut self, instance: Instance, name: u64) -> Option<&mut Health> {
        if self.health.len() >= UPSTREAMS && !self.health.contains_key(&name) {
            self.upstreams_refused += 1;
            return None;
        }
        self.of_instances.entry(instance).or_default().insert(name);
        Some(self.health.entry(name).or_default())
    }

    /// How the upstreams fared that `instance` would have used for `head` at that `moment`. It leaves
    /// one that failed alone for a while; one that it used again since it has not given up.
    pub(crate) fn fare(
        &self,
        instance: Instance,
        head: Option<&RequestHead>,
        moment: Moment,
    ) -> Fare {
        let known = head.and_then(|head| self.route(instance, head));
        let Some(known) = known else {
            return self.fare_of_instance(instance, moment);
        };
        let (mut down, mut up, mut failed, mut check) = (None, false, false, None);
        for name in &known.upstreams {
            let health = self.health.get(name);
            if health.is_some_and(|health| health.is_later(moment)) {
                continue;
            }
            match health.and_then(|health| health.down(moment)) {
                Some(last) => {
                    down = Some(last.cause);
                    check.clone_from(&last.check);
                }
                None => {
                    up = true;
                    // What is under way only has not succeeded yet.
                    failed |=
                        health.is_none_or(|one| !one.has_answered() || one.is_doubtful(moment));
                }
            }
        }
        let full = known.upstreams.len() >= UPSTREAMS_A_ROUTE;
        match (down, up || full) {
            (Some(origin), false) => Fare::AllDown { origin, check },
            (Some(_), true) => Fare::SomeDown,
            (None, _) if failed => Fare::SomeDown,
            (None, true) => Fare::Healthy,
            (None, false) => Fare::Unknown,
        }
    }

    fn fare_of_instance(&self, instance: Instance, moment: Moment) -> Fare {
        let mut fare = Fare::Unknown;
        let names = self.of_instances.get(&instance);
        let own = names.into_iter().flatten().filter_map(|name| {
            self.looked_at.set(self.looked_at.get() + 1);
            self.health.get(name)
        });
        for health in own.filter(|one| !one.is_later(moment)) {
            let Some(down) = health.down(moment) else {
                return self.unused_down(instance, moment);
            };
            fare = Fare::ProxyAllDown(down.cause, down.check.clone());
        }
        fare
    }

    /// Of the upstreams of `instance` to which no request is known to have gone, that whose check failed
    /// last.
    fn unused_down(&self, instance: Instance, moment: Moment) -> Fare {
        let names = self.unused_down.get(&instance);
        let unused = names.into_iter().flatten().filter_map(|name| {
            self.looked_at.set(self.looked_at.get() + 1);
            self.health.get(name)
        });
        let failed = unused.filter_map(|health| health.failed_check(moment.at));
        let last = failed.max_by_key(|(_, check)| (check.ended, check.cookie, check.index));
        last.map_or(Fare::Unknown, |(cause, check)| {
            Fare::UnusedDown(cause, Arc::clone(check))
        })
    }

    /// What requests share that a proxy sends to the same place. A path without a second segment is a
    /// place of its own: `/health` and `/orders` often are.
    pub(crate) fn of(&self, head: &RequestHead) -> u64 {
        let path = head.path.strip_prefix('/').unwrap_or(&head.path);
        let place = path
            .split_once('/')
            .map_or((path, false), |(first, _)| (first, true));
        self.name(&(head.host.as_deref(), place))
    }

    /// What is known of the route of `head`.
    fn route(&self, instance: Instance, head: &RequestHead) -> Option<&Route> {
        self.routes.get(&self.of_instance(instance, head))
    }

    fn of_instance(&self, instance: Instance, head: &RequestHead) -> u64 {
        self.name(&(instance, self.of(head)))
    }

    /// Name of what an instance sends to one upstream for the route of `head`.
    pub(crate) fn of_upstream(
        &self,
        instance: Instance,
        upstream: &Upstream,
        head: Option<&RequestHead>,
    ) -> u64 {
        self.name(&(instance, upstream, head.map(|head| self.of(head))))
    }

    /// By which it is known: never told, and never in an order.
    fn name<T: Hash>(&self, what: &T) -> u64 {
        self.seed.hash_one(what)
    }

    fn make_room(&mut self, now: Nanos) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now.saturating_add(SWEEP_EVERY);
        let old = now.saturating_sub(OLD);
        if self.routes.len() >= ROUTES {
            self.routes.retain(|_, route| route.used >= old);
        }
        if self.health.len() >= UPSTREAMS {
            self.health.retain(|_, health| health.last_told() >= old);
            for of_instances in [&mut self.of_instances, &mut self.unused_down] {
                of_instances.retain(|_, names| {
                    names.retain(|name| self.health.contains_key(name));
                    !names.is_empty()
                });
            }
        }
    }
}

/// A failure on account of which proxies leave an upstream alone for a while.
fn counts_as_down(cause: Cause) -> bool {
    match cause {
        Cause::ConnectRefused
        | Cause::ConnectTimeout
        | Cause::AcceptQueueFull
        | Cause::HostUnreachable
        | Cause::ConnectLocalError
        | Cause::TlsFailed
        | Cause::KeepaliveRace
        | Cause::ClosedBeforeResponse
        | Cause::UpstreamCrashed
        | Cause::TruncatedResponse
        | Cause::InvalidResponse
        | Cause::HeaderTooBig
        | Cause::ResponseTimeout
        | Cause::RequestStalled
        | Cause::PathLost
        | Cause::Unattributed => true,
        Cause::UpstreamStatus
        | Cause::NoLiveUpstream
        | Cause::DnsFailure
        | Cause::ProxyGenerated
        | Cause::ClientAbort => false,
    }
}
