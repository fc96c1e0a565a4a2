//! Requests that are answered, tried again, failed by their upstream or refused by the proxy itself,
//! many at once, where little but the time says which attempt is whose: nothing wrong is sure.

#[path = "support/briefly.rs"]
mod briefly;
#[path = "support/random.rs"]
mod random;
mod support;

use std::collections::HashMap;

use agent_core::cause::{Cause, Certainty};
use agent_core::event::{Event, Request, Upstream};
use agent_core::observation::{ConnectOutcome, End, Errand, Observation, Side, What};
use agent_core::{Core, Limits, ProcessKind};
use random::Random;
use support::scenario::time;
use support::{Ex, PROXY, Sock, client, errand, know, sent, upstream};

const REQUESTS: u64 = 300;
const SEEDS: u64 = 4;
const SERVERS: [&str; 3] = ["10.0.3.17:9000", "10.0.3.18:9000", "10.0.3.19:9000"];
/// Between two rounds of the agent, ms.
const ROUND: f64 = 20.0;

/// How an attempt fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failing {
    /// Nobody listens.
    Refused,
    /// Reset, on a connection whose talk is not read.
    Unread,
    /// Reset, after a request whose path lost its first part.
    Stripped,
    /// Answered 503.
    Status,
    /// Reset, after a request whose path is the same for all.
    OnePath,
}

const ALL: [Failing; 5] = [
    Failing::Refused,
    Failing::Unread,
    Failing::Stripped,
    Failing::Status,
    Failing::OnePath,
];

/// How many of a hundred requests are which, and how far apart they come.
#[derive(Clone, Copy, Debug)]
struct Mix {
    /// On average, ms.
    apart: f64,
    own: usize,
    failed: usize,
    retried: usize,
}

/// What became of a request.
enum Truth {
    Answered,
    Own,
    Failed(&'static str),
}

/// How the errors were explained.
#[derive(Debug, Default)]
struct Verdicts {
    right: u32,
    right_guess: u32,
    wrong: u32,
    wrong_guess: u32,
    unattributed: u32,
}

struct Traffic {
    random: Random,
    seen: Vec<Observation>,
    truth: HashMap<u64, Truth>,
    /// When the proxy's only thread read which request, ms.
    read: Vec<(f64, u64)>,
    connections: u64,
}

impl Traffic {
    /// A share of one.
    fn share(&mut self) -> f64 {
        self.random.below(1_000_000) as f64 / 1e6
    }

    /// As waiting times are, ms.
    fn about(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.share()).ln()
    }

    fn errand(&self, at: f64) -> Option<Errand> {
        let (read, cookie) = self.read.iter().rev().find(|(read, _)| *read <= at)?;
        let age_us = ((at - read) * 1000.0) as u32;
        errand(*cookie).map(|errand| Errand { age_us, ..errand })
    }

    fn request(&mut self, id: u64, at: f64, failing: Failing, mix: Mix, retry_after: f64) {
        let (c, x) = (client(id), sent(0, at));
        self.read.push((at, id));
        self.seen
            .push(c.request(&x, "GET", &format!("/api/r/{id}")));
        let drawn = self.random.below(100);
        if drawn < mix.own {
            let lasts = self.about(60.0) + 1.0;
            self.seen.push(c.response(&x.answered(503, at + lasts)));
            self.truth.insert(id, Truth::Own);
            return;
        }
        let failures = match drawn - mix.own {
            drawn if drawn < mix.failed => 2,
            drawn if drawn < mix.failed + mix.retried => 1,
            _ => 0,
        };
        let to = SERVERS[self.random.below(SERVERS.len())];
        let mut over = at;
        for number in 0..failures.max(1) + usize::from(failures == 1) {
            let began = if number == 0 {
                at + 0.2
            } else {
                over + retry_after
            };
            let fails = number < failures;
            over = self.attempt(id, began, to, fails.then_some(failing), failing);
        }
        let (code, truth) = match failures {
            2 if failing == Failing::Status => (503, Truth::Failed(to)),
            2 => (502, Truth::Failed(to)),
            _ => (200, Truth::Answered),
        };
        self.seen.push(c.response(&x.answered(code, over + 0.3)));
        self.truth.insert(id, truth);
    }

    /// When it is over, ms.
    fn attempt(
        &mut self,
        id: u64,
        began: f64,
        to: &str,
        fails: Option<Failing>,
        talk: Failing,
    ) -> f64 {
        self.connections += 1;
        let mut u = upstream(10_000 + self.connections).to(to).opened(began);
        if talk == Failing::Unread {
            u.socket.side = Side::Unknown;
        }
        let connect = self.errand(began);
        if fails == Some(Failing::Refused) {
            let refused = u.connect(began + 0.2, ConnectOutcome::Reset, connect);
            self.seen.push(refused);
            return began + 0.2;
        }
        let established = u.connect(began + 0.2, ConnectOutcome::Established, connect);
        self.seen.push(established);
        let over = began + 0.9 + self.about(30.0);
        let mut y = sent(0, began + 0.4);
        if talk == Failing::Unread {
            let ended = match fails {
                Some(_) => y.ended(End::PeerReset),
                None => y.partial_head(500, over - 0.3).ended(End::LocalClose),
            };
            self.seen.push(unread(&u, &ended, over));
            self.seen.push(u.close(over));
            return over;
        }
        if let Some(errand) = self.errand(began + 0.4) {
            y = y.errand(errand.cookie.get(), errand.index, errand.age_us);
        }
        let path = match talk {
            Failing::OnePath => "/index.php".to_owned(),
            _ => format!("/r/{id}"),
        };
        self.seen.push(u.request(&y, "GET", &path));
        match fails {
            Some(Failing::Status) => self.seen.push(u.response(&y.answered(503, over))),
            Some(_) => self.seen.push(u.end(over, &y.ended(End::PeerReset))),
            None => self.seen.push(u.response(&y.answered(200, over))),
        }
        self.seen.push(u.close(over + 0.1));
        over
    }
}

fn unread(u: &Sock, x: &Ex, at: f64) -> Observation {
    let mut seen = u.close(at);
    let exchange = x.exchange.clone();
    seen.what = What::Unread { exchange };
    seen
}

fn judge(request: &Request, failing: Failing, truth: &Truth, verdicts: &mut Verdicts) {
    let Some(failure) = request.error else { return };
    let attempt = request
        .error_attempt
        .and_then(|number| request.attempts.get(number));
    let cause = match failing {
        Failing::Refused => Cause::ConnectRefused,
        Failing::Status => Cause::UpstreamStatus,
        Failing::Unread | Failing::Stripped | Failing::OnePath => Cause::ClosedBeforeResponse,
    };
    let is_right = match truth {
        Truth::Answered => false,
        Truth::Own => failure.cause == Cause::ProxyGenerated,
        Truth::Failed(to) => {
            let to = to.parse().map(Upstream::Inet);
            let attempt = attempt.map(|attempt| &attempt.upstream);
            failure.cause == cause && to.is_ok_and(|to| attempt == Some(&to))
        }
    };
    let is_guess = failure.certainty == Certainty::Guess;
    let count = match (failure.cause, is_right, is_guess) {
        (Cause::Unattributed, ..) => &mut verdicts.unattributed,
        (_, true, false) => &mut verdicts.right,
        (_, true, true) => &mut verdicts.right_guess,
        (_, false, false) => &mut verdicts.wrong,
        (_, false, true) => &mut verdicts.wrong_guess,
    };
    *count += 1;
}

/// How much of it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    /// All.
    Whole,
    /// What goes well in brief, while nothing went wrong a moment ago.
    Brief,
}

fn play(
    name: &str,
    failing: Failing,
    (mix, telling): (Mix, Telling),
    seed: u64,
    verdicts: &mut Verdicts,
) {
    let mut traffic = Traffic {
        random: Random::new(seed),
        seen: Vec::new(),
        truth: HashMap::new(),
        read: Vec::new(),
        connections: 0,
    };
    // HAProxy waits before it connects to the same server again.
    let retry_after = match (name, failing) {
        ("haproxy", Failing::Refused) => 1000.0,
        _ => 0.3,
    };
    let mut at = 10.0;
    for id in 1..=REQUESTS {
        at += traffic.about(mix.apart);
        traffic.request(id, at, failing, mix, retry_after);
    }
    traffic.seen.sort_by_key(time);
    if telling == Telling::Brief {
        traffic.seen = briefly::told(traffic.seen);
    }

    let mut core = Core::new(Limits::default());
    know(&mut core, PROXY, name, ProcessKind::Known);
    let mut events = Vec::new();
    let mut now = traffic.seen.first().map_or(0, time);
    let round = support::ms(ROUND) - support::ms(0.0);
    for observation in traffic.seen {
        while now + round < time(&observation) {
            now += round;
            core.advance(now, &mut events);
        }
        core.observe(observation, &mut events);
    }
    core.finish(&mut events);
    for event in &events {
        if let Event::Request(request) = event {
            let truth = &traffic.truth[&request.cookie];
            judge(request, failing, truth, verdicts);
        }
    }
}

/// Of every mix, by name of the proxy.
fn all_mixes(name: &str, telling: Telling) {
    let few = Mix {
        apart: 30.0,
        own: 5,
        failed: 10,
        retried: 5,
    };
    let many = Mix {
        apart: 5.0,
        own: 10,
        failed: 20,
        retried: 10,
    };
    let rare = Mix {
        apart: 5.0,
        own: 1,
        failed: 2,
        retried: 2,
    };
    let mixes: &[Mix] = match telling {
        Telling::Whole => &[few, many],
        Telling::Brief => &[few, many, rare],
    };
    // Who uses connections that are not read is told of whole.
    let may_be = |failing: &Failing| telling == Telling::Whole || *failing != Failing::Unread;
    for failing in ALL.into_iter().filter(may_be) {
        for mix in mixes.iter().copied() {
            let mut verdicts = Verdicts::default();
            for seed in 1..=SEEDS {
                play(name, failing, (mix, telling), seed, &mut verdicts);
            }
            println!("{name} {failing:?} {telling:?} {mix:?}: {verdicts:?}");
            assert_eq!(
                verdicts.wrong, 0,
                "{name} {failing:?} {telling:?} {mix:?}: {verdicts:?}"
            );
            assert!(
                verdicts.right + verdicts.right_guess > 20,
                "nothing was explained: {verdicts:?}"
            );
        }
    }
}

#[test]
fn nothing_wrong_is_sure_where_a_loop_reads_and_serves() {
    for name in ["nginx", "httpd", "envoy"] {
        all_mixes(name, Telling::Whole);
    }
}

#[test]
fn nothing_wrong_is_sure_where_what_goes_well_is_told_in_brief() {
    for name in [
        "nginx", "httpd", "envoy", "haproxy", "caddy", "traefik", "varnish",
    ] {
        all_mixes(name, Telling::Brief);
    }
}

#[test]
fn nothing_wrong_is_sure_where_threads_and_timers_serve() {
    for name in ["haproxy", "caddy", "traefik", "varnish"] {
        all_mixes(name, Telling::Whole);
    }
}
