//! Where a proxy sends what, and how the upstreams there fare.
//!
//! In: the outcome of every attempt. Out: for a request that got an error without any attempt,
//! whether its upstreams had failed shortly before (the proxy had none left to try), or not (the
//! error is the proxy's own).
//!
//! A route is what requests share that a proxy sends to the same place, as far as that shows: its
//! name, the Host, and the first segment of the path.

use std::hash::{Hash, Hasher};

use rustc_hash::{FxHashMap, FxHasher};

use crate::cause::Cause;
use crate::event::Upstream;
use crate::observation::{Nanos, RequestHead};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fare {
    /// Each failed within the proxy's fail window, and none was used with success since; this
    /// process saw it itself, or another of that name did.
    AllDown {
        /// Why.
        origin: Cause,
        /// It was this process.
        own: bool,
    },
    /// The route is not known, and every upstream of the proxy is down.
    ProxyAllDown(Cause),
    /// Some failed within the window.
    SomeDown(Cause),
    /// The route is known, and none failed lately.
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// When a request began to use the upstream; `None` when that may have been a check.
    pub(crate) used: Option<Nanos>,
    /// When it was over.
    pub(crate) ended: Nanos,
    /// Why it failed.
    pub(crate) failure: Option<Cause>,
    /// The process whose attempt it was.
    pub(crate) tgid: u32,
}

#[derive(Clone, Copy, Debug)]
struct Health {
    proxy: u64,
    failed: Option<(Nanos, Cause)>,
    succeeded: Nanos,
    /// When a request last began to use it.
    used: Nanos,
    /// The process that last saw it fail.
    seen_by: u32,
    /// When it was last connected to although no request waited for an upstream, and the time
    /// before that.
    unasked: [Nanos; 2],
}

/// What is known of all proxies' routes.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    routes: FxHashMap<u64, Route>,
    health: FxHashMap<u64, Health>,
    next_sweep: Nanos,
}

impl Routes {
    /// An attempt of `proxy` at `upstream` is over, for a request with `head` when that is known.
    pub(crate) fn record(
        &mut self,
        proxy: &str,
        head: Option<&RequestHead>,
        upstream: &Upstream,
        outcome: Outcome,
    ) {
        let Outcome {
            used,
            ended: at,
            failure,
            tgid,
        } = outcome;
        let name = hash(&(proxy, upstream));
        self.make_room(at);
        if let Some(head) = head
            && (self.routes.len() < ROUTES || self.routes.contains_key(&of(proxy, head)))
        {
            let route = self.routes.entry(of(proxy, head)).or_insert_with(|| Route {
                upstreams: Vec::new(),
                used: at,
            });
            route.used = at;
            if route.upstreams.len() < UPSTREAMS_A_ROUTE && !route.upstreams.contains(&name) {
                route.upstreams.push(name);
            }
        }
        let Some(health) = self.health_of(proxy, name) else {
            return;
        };
        health.used = health.used.max(used.unwrap_or(0));
        match failure {
            Some(cause) if counts_as_down(cause) => {
                health.failed = Some((at, cause));
                health.seen_by = tgid;
            }
            Some(Cause::ClientAbort) => {}
            _ => health.succeeded = health.succeeded.max(at),
        }
    }

    /// `proxy` connected to `upstream` at `at`, and none of its requests waited for an upstream.
    pub(crate) fn saw_unasked(&mut self, proxy: &str, upstream: &Upstream, at: Nanos) {
        if let Some(health) = self.health_of(proxy, hash(&(proxy, upstream))) {
            health.unasked = [at, health.unasked[0]];
        }
    }

    /// Whether `proxy` connects to `upstream` for others than the requests that are seen as well: to
    /// check it, or for clients that cannot be read.
    pub(crate) fn is_checked(&self, proxy: &str, upstream: &Upstream, at: Nanos) -> bool {
        let health = self.health.get(&hash(&(proxy, upstream)));
        health.is_some_and(|health| {
            let [_, earlier] = health.unasked;
            earlier != 0 && at.saturating_sub(earlier) <= CHECKED_WITHIN
        })
    }

    fn health_of(&mut self, proxy: &str, name: u64) -> Option<&mut Health> {
        if self.health.len() >= UPSTREAMS && !self.health.contains_key(&name) {
            return None;
        }
        Some(self.health.entry(name).or_insert_with(|| Health {
            proxy: hash(&proxy),
            failed: None,
            succeeded: 0,
            used: 0,
            seen_by: 0,
            unasked: [0; 2],
        }))
    }

    /// How the upstreams fare that `proxy` would have used for `head` at `at`. It leaves one that
    /// failed alone for `window`; one that it used again since, as by what is `under_way`, it has
    /// not given up.
    pub(crate) fn fare<'a>(
        &self,
        proxy: &str,
        head: Option<&RequestHead>,
        tgid: u32,
        window: Nanos,
        at: Nanos,
        under_way: impl Iterator<Item = (&'a Upstream, Nanos)>,
    ) -> Fare {
        let known = head.and_then(|head| self.routes.get(&of(proxy, head)));
        let Some(known) = known else {
            return self.fare_of_proxy(proxy, window, at);
        };
        let (mut down, mut up, mut failed, mut own) = (None, false, None, true);
        let mut used: FxHashMap<u64, Nanos> = FxHashMap::default();
        for (upstream, since) in under_way {
            let latest = used.entry(hash(&(proxy, upstream))).or_default();
            *latest = since.max(*latest);
        }
        for name in &known.upstreams {
            let health = self.health.get(name).map(|health| Health {
                used: health.used.max(used.get(name).copied().unwrap_or(0)),
                ..*health
            });
            match health {
                Some(health) if health.is_down(window, at) => {
                    own &= health.seen_by == tgid;
                    down = health.cause().or(down);
                }
                Some(health) => {
                    up = true;
                    if health.failed_within(window, at) {
                        failed = health.cause();
                    }
                }
                None => up = true,
            }
        }
        let full = known.upstreams.len() >= UPSTREAMS_A_ROUTE;
        match (down, up || full, failed) {
            (Some(origin), false, _) => Fare::AllDown { origin, own },
            (Some(cause), true, _) | (None, _, Some(cause)) => Fare::SomeDown(cause),
            (None, true, None) => Fare::Healthy,
            (None, false, None) => Fare::Unknown,
        }
    }

    fn fare_of_proxy(&self, proxy: &str, window: Nanos, at: Nanos) -> Fare {
        let proxy = hash(&proxy);
        let mut cause = None;
        for health in self.health.values().filter(|one| one.proxy == proxy) {
            if !health.is_down(window, at) {
                return Fare::Unknown;
            }
            cause = health.cause().or(cause);
        }
        cause.map_or(Fare::Unknown, Fare::ProxyAllDown)
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
            self.health.retain(|_, health| {
                health.succeeded.max(health.failed.map_or(0, |(at, _)| at)) >= old
            });
        }
    }
}

impl Health {
    fn failed_within(&self, window: Nanos, at: Nanos) -> bool {
        self.failed
            .is_some_and(|(failed, _)| at.saturating_sub(failed) <= window)
    }

    fn is_down(&self, window: Nanos, at: Nanos) -> bool {
        self.failed_within(window, at)
            && self
                .failed
                .is_some_and(|(failed, _)| failed > self.succeeded.max(self.used))
    }

    fn cause(&self) -> Option<Cause> {
        self.failed.map(|(_, cause)| cause)
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

/// The route of a request at `proxy`.
pub(crate) fn of(proxy: &str, head: &RequestHead) -> u64 {
    let path = head.path.strip_prefix('/').unwrap_or(&head.path);
    let first = path.split_once('/').map(|(first, _)| first);
    hash(&(proxy, head.host.as_deref(), first))
}

fn hash<T: Hash>(what: &T) -> u64 {
    let mut hasher = FxHasher::default();
    what.hash(&mut hasher);
    hasher.finish()
}
