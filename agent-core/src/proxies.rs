//! What is known of proxies by their name: numbers and habits, no code.
//!
//! Everything here only sharpens a verdict. A proxy that is not listed is treated with care.

use crate::limits::SECOND;
use crate::observation::Nanos;

/// How one proxy behaves where the kernel's evidence leaves a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Habits {
    /// How long an upstream that failed is left alone, ns.
    pub(crate) fail_window: Nanos,
    /// A thread that has read a client's request connects upstream for it before it reads from
    /// another client. Where that does not hold, what a thread read last proves nothing: HAProxy
    /// reads all clients that are ready and then runs their streams; Go moves a request from
    /// thread to thread; Varnish fetches in another thread.
    pub(crate) connects_at_once: bool,
    /// The same of sending on a connection that is open. Envoy connects at once, but sends in the
    /// next turn of its loop (ConnectionImpl::write), when it has read all clients that are ready.
    pub(crate) sends_at_once: bool,
}

/// Fail windows are defaults: nginx `fail_timeout` 10 s; Apache httpd balancer `retry` 60 s; Envoy
/// outlier ejection 30 s; Varnish holds down 0.25 to 10 s; HAProxy checks every 2 s, and what it
/// found holds until the next.
const KNOWN: [(&str, Habits); 10] = [
    ("nginx", at_once(10)),
    ("openresty", at_once(10)),
    ("angie", at_once(10)),
    ("tengine", at_once(10)),
    ("httpd", at_once(60)),
    ("envoy", connects_at_once(30)),
    ("haproxy", later(30)),
    ("caddy", later(30)),
    ("traefik", later(30)),
    ("varnish", later(10)),
];

const UNKNOWN: Habits = later(10);

const fn at_once(seconds: u64) -> Habits {
    Habits {
        fail_window: seconds * SECOND,
        connects_at_once: true,
        sends_at_once: true,
    }
}

const fn connects_at_once(seconds: u64) -> Habits {
    Habits {
        sends_at_once: false,
        ..at_once(seconds)
    }
}

const fn later(seconds: u64) -> Habits {
    Habits {
        fail_window: seconds * SECOND,
        connects_at_once: false,
        sends_at_once: false,
    }
}

impl Default for Habits {
    fn default() -> Self {
        UNKNOWN
    }
}

impl Habits {
    /// Of the program with this name.
    pub(crate) fn of(name: &str) -> Self {
        KNOWN
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(UNKNOWN, |(_, habits)| *habits)
    }
}
