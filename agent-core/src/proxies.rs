//! What is known of proxies by their name: numbers and habits, no code.
//!
//! Everything here only sharpens a verdict. A proxy that is not listed is treated with care.

use crate::observation::Nanos;
use crate::timing::SECOND;

/// How one proxy behaves where the kernel's evidence leaves a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Habits {
    /// How long an upstream that failed is left alone by default, ns.
    pub(crate) fail_window: Nanos,
    /// The status it gives when it holds every upstream to be down.
    pub(crate) none_left_code: Option<u16>,
    /// The status it gives when it has waited too long for an answer.
    pub(crate) timeout_code: Option<u16>,
    /// It takes an interim response (103, say) for the answer, and gives an error for it. Varnish:
    /// `vbf_stp_startfetch`, where the body of each status below 200 is an error (counter `fetch_1xx`).
    pub(crate) refuses_interim: bool,
    /// It leaves an upstream alone that failed once, unless that is the only one of its group (nginx:
    /// `max_fails` is 1, `ngx_http_upstream_get_round_robin_peer`, `peers->single`). Others may go on:
    /// Envoy without outlier detection, Apache httpd with `retry=0`.
    pub(crate) leaves_alone: bool,
    /// It sends to servers although the checks of all of them fail, unless it is configured otherwise: Envoy's
    /// panic threshold is 50 % by default. That a check fails is no reason to try none, then.
    pub(crate) tries_all_down: bool,
    /// What its threads do without having read from a client just before is a health check, or a
    /// retry. Where that does not hold: nginx delays requests by timers (`limit_req`), Varnish fetches
    /// in the background, Go moves a request from thread to thread.
    pub(crate) checks_by_timer: bool,
    /// A thread that has read a client's request connects upstream for it before it reads from
    /// another client. Where that does not hold, what a thread read last proves nothing: HAProxy
    /// reads all clients that are ready and then runs their streams; Go moves a request from
    /// thread to thread; Varnish fetches in another thread.
    pub(crate) connects_at_once: bool,
    /// The same of sending on a connection that is open. Envoy connects at once, but sends in the
    /// next turn of its loop (ConnectionImpl::write), when it has read all clients that are ready.
    pub(crate) sends_at_once: bool,
    /// It answers its client, and closes the upstream that it has given up after that, when it has a CPU.
    pub(crate) answers_first: bool,
}

/// Fail windows are defaults: nginx `fail_timeout` 10 s; Apache httpd balancer `retry` 60 s; Envoy
/// outlier ejection 30 s; Varnish holds down 0.25 to 10 s; HAProxy checks every 2 s, and what it
/// found holds until the next.
const KNOWN: [(&str, Habits); 10] = [
    ("nginx", NGINX),
    ("openresty", NGINX),
    ("angie", NGINX),
    ("tengine", NGINX),
    ("httpd", waiting(502, checking(at_once(60)))),
    ("envoy", checking(envoy(30))),
    ("haproxy", HAPROXY),
    ("caddy", later(30)),
    ("traefik", later(30)),
    ("varnish", VARNISH),
];

const UNKNOWN: Habits = Habits {
    none_left_code: None,
    timeout_code: None,
    ..later(10)
};

const NGINX: Habits = Habits {
    none_left_code: Some(502),
    leaves_alone: true,
    ..at_once(10)
};

const HAPROXY: Habits = Habits {
    answers_first: true,
    ..checking(later(30))
};

const VARNISH: Habits = Habits {
    refuses_interim: true,
    ..waiting(503, later(10))
};

const fn at_once(seconds: u64) -> Habits {
    Habits {
        fail_window: seconds * SECOND,
        none_left_code: Some(503),
        timeout_code: Some(504),
        refuses_interim: false,
        leaves_alone: false,
        tries_all_down: false,
        checks_by_timer: false,
        connects_at_once: true,
        sends_at_once: true,
        answers_first: false,
    }
}

const fn envoy(seconds: u64) -> Habits {
    Habits {
        sends_at_once: false,
        tries_all_down: true,
        ..at_once(seconds)
    }
}

const fn later(seconds: u64) -> Habits {
    Habits {
        connects_at_once: false,
        sends_at_once: false,
        ..at_once(seconds)
    }
}

const fn checking(habits: Habits) -> Habits {
    Habits {
        checks_by_timer: true,
        ..habits
    }
}

const fn waiting(timeout_code: u16, habits: Habits) -> Habits {
    Habits {
        timeout_code: Some(timeout_code),
        ..habits
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
