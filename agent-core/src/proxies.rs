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
    /// A request may be read by one thread and sent upstream by another: what a thread touched
    /// last proves nothing.
    pub(crate) hops_threads: bool,
}

/// Defaults: nginx `fail_timeout` 10 s; Apache httpd balancer `retry` 60 s; Envoy outlier
/// ejection 30 s; Varnish holds down 0.25 to 10 s; HAProxy checks every 2 s, and what it found
/// holds until the next.
const KNOWN: [(&str, Habits); 10] = [
    ("nginx", in_thread(10)),
    ("openresty", in_thread(10)),
    ("angie", in_thread(10)),
    ("tengine", in_thread(10)),
    ("haproxy", in_thread(30)),
    ("httpd", in_thread(60)),
    ("envoy", in_thread(30)),
    ("caddy", hopping(30)),
    ("traefik", hopping(30)),
    ("varnish", hopping(10)),
];

const UNKNOWN: Habits = in_thread(10);

const fn in_thread(seconds: u64) -> Habits {
    Habits {
        fail_window: seconds * SECOND,
        hops_threads: false,
    }
}

const fn hopping(seconds: u64) -> Habits {
    Habits {
        fail_window: seconds * SECOND,
        hops_threads: true,
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
