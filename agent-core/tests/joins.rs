//! Which attempt belongs to which request.

mod support;

use agent_core::cause::{Cause, Certainty};
use agent_core::event::Join;
use agent_core::observation::{ConnectOutcome, End, Errand, Observation};
use agent_core::{Core, Limits, ProcessKind};
use agent_wire::record::flag;
use support::{Ex, PROXY, client, core, errand, know, sent, told, upstream};

/// A refusal-free exchange on upstream connection `cookie` for `path`, sent at `at`.
fn served(cookie: u64, at: f64, path: &str, x: Ex) -> Vec<Observation> {
    let u = upstream(cookie).opened(at);
    let x = x.answered(200, at + 5.0);
    vec![u.request(&x, "GET", path), u.response(&x)]
}

#[test]
fn of_two_requests_with_one_line_the_errand_tells_which_is_meant() {
    let (a, b) = (client(1), client(2));
    let (xa, xb) = (sent(0, 1.0), sent(0, 1.1));
    let mut seen = vec![a.request(&xa, "GET", "/"), b.request(&xb, "GET", "/")];
    seen.extend(served(10, 1.5, "/", sent(0, 1.5).errand(2, 0, 200)));
    seen.push(a.response(&xa.answered(200, 8.0)));
    seen.push(b.response(&xb.answered(200, 8.0)));
    let told = told(&mut core(), seen);
    let owner = told
        .requests()
        .into_iter()
        .find(|request| !request.attempts.is_empty());
    assert_eq!(owner.expect("joined").cookie, 2);
}

#[test]
fn where_another_with_the_line_has_waited_the_errand_is_a_guess() {
    // nginx's limit_req: the request that waited goes upstream by timer.
    for (waited, certainty) in [(false, Certainty::Proof), (true, Certainty::Guess)] {
        let (a, b) = (client(1), client(2));
        let read = if waited { 30.0 } else { 2.0 };
        let (xa, xb) = (sent(0, 1.0), sent(0, read));
        let mut seen = vec![a.request(&xa, "GET", "/"), b.request(&xb, "GET", "/")];
        let x = sent(0, read + 0.2).errand(2, 0, 200);
        seen.extend(served(10, read + 0.2, "/", x));
        seen.push(a.response(&xa.answered(200, read + 8.0)));
        seen.push(b.response(&xb.answered(200, read + 8.0)));
        let told = told(&mut core(), seen);
        let requests = told.requests();
        let owner = requests.iter().find(|request| !request.attempts.is_empty());
        let attempt = &owner.expect("joined").attempts[0];
        assert_eq!(attempt.join_certainty, Some(certainty), "{waited}");
    }
}

#[test]
fn a_request_that_is_served_by_guess_may_still_be_whom_an_attempt_is_for() {
    let mut core = core();
    know(&mut core, 300, "caddy", ProcessKind::Known);
    let (a, b) = (client(1).of(Some(300)), client(2).of(Some(300)));
    let (xa, xb) = (sent(0, 1.0), sent(0, 1.1));
    let u = |cookie| upstream(cookie).of(Some(300)).opened(1.5);
    // Two of one line: the first attempt is laid at B's door by guess, which makes A no only one.
    let (first, second) = (
        sent(0, 1.6).errand(2, 0, 200),
        sent(0, 1.7).errand(1, 0, 200),
    );
    let seen = vec![
        a.request(&xa, "GET", "/"),
        b.request(&xb, "GET", "/"),
        u(10).flag(flag::OWN_ERRAND).request(&first, "GET", "/"),
        u(11).flag(flag::OWN_ERRAND).request(&second, "GET", "/"),
        u(10).response(&first.answered(200, 5.0)),
        u(11).response(&second.answered(200, 5.1)),
        a.response(&xa.answered(200, 8.0)),
        b.response(&xb.answered(200, 8.0)),
    ];
    let told = told(&mut core, seen);
    let requests = told.requests();
    let all = requests.iter().flat_map(|request| &request.attempts);
    let proven = all.filter(|one| one.join_certainty == Some(Certainty::Proof));
    assert_eq!(proven.count(), 0);
}

#[test]
fn without_an_errand_the_only_request_with_the_same_line_is_meant() {
    let (a, b) = (client(1), client(2));
    let (xa, xb) = (sent(0, 1.0), sent(0, 1.1));
    let mut seen = vec![a.request(&xa, "GET", "/a"), b.request(&xb, "GET", "/b")];
    seen.extend(served(10, 1.5, "/b", sent(0, 1.5)));
    seen.push(b.response(&xb.answered(200, 8.0)));
    let told = told(&mut core(), seen);
    assert_eq!(told.request().attempts.len(), 1);
    assert_eq!(told.attempt().join, Join::RequestLine);
}

#[test]
fn without_an_errand_two_requests_with_the_same_line_are_left_alone() {
    let (a, b) = (client(1), client(2));
    let (xa, xb) = (sent(0, 1.0), sent(0, 1.1));
    let mut seen = vec![a.request(&xa, "GET", "/"), b.request(&xb, "GET", "/")];
    seen.extend(served(10, 1.5, "/", sent(0, 1.5)));
    let mut core = core();
    let told = told(&mut core, seen);
    assert_eq!(told.attempt().join, Join::None);
    assert_eq!(told.attempt().masked, None);
    assert_eq!(core.stats().attempts_unmatched, 1);
}

#[test]
fn an_errand_of_another_process_is_of_no_use() {
    let c = client(1).of(Some(77));
    let mut core = core();
    let x = sent(0, 1.0);
    let mut seen = vec![c.request(&x, "GET", "/")];
    seen.extend(served(10, 1.5, "/", sent(0, 1.5).errand(1, 0, 100)));
    assert_eq!(told(&mut core, seen).attempt().join, Join::None);
    assert!(core.stats().errands_unmatched > 0);
}

#[test]
fn a_rewritten_path_joins_only_while_the_errand_is_fresh() {
    for (age_us, join) in [(300, Join::Errand), (900_000, Join::None)] {
        let (c, x) = (client(1), sent(0, 1.0));
        let mut seen = vec![c.request(&x, "GET", "/public")];
        seen.extend(served(
            10,
            1.5,
            "/internal",
            sent(0, 1.5).errand(1, 0, age_us),
        ));
        seen.push(c.response(&x.answered(200, 8.0)));
        assert_eq!(told(&mut core(), seen).attempt().join, join, "{age_us}");
    }
}

#[test]
fn a_join_by_request_line_makes_an_error_less_sure() {
    let (c, asked) = (client(1), sent(0, 1.0));
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0).acked(0).ended(End::PeerFin);
    let seen = [
        c.request(&asked, "GET", "/"),
        u.request(&x, "GET", "/"),
        u.end(3.0, &x),
        c.response(&asked.answered(502, 3.2)),
    ];
    let request = told(&mut core(), seen).request();
    assert_eq!(request.attempts[0].join, Join::RequestLine);
    assert_eq!(request.error.expect("502").certainty, Certainty::Strong);
}

#[test]
fn tries_again_by_timer_belong_to_the_request_of_the_first() {
    let (c, asked) = (client(1), sent(0, 1.0));
    let mut seen = vec![c.request(&asked, "GET", "/")];
    for attempt in 0..4u32 {
        let at = 1.2 + 1000.0 * f64::from(attempt);
        let mut reason = errand(1);
        if let Some(errand) = &mut reason {
            errand.age_us = 200 + 1_000_000 * attempt;
        }
        let u = upstream(10 + u64::from(attempt)).opened(at);
        seen.push(u.connect(at + 0.1, ConnectOutcome::Reset, reason));
    }
    seen.push(c.response(&asked.answered(503, 3001.5)));
    let request = told(&mut core(), seen).request();
    assert_eq!(request.attempts.len(), 4);
    assert_eq!(request.error_attempt, Some(3));
}

#[test]
fn the_first_request_of_a_client_may_come_without_its_process() {
    let c = client(1);
    let x = sent(0, 1.0);
    let mut seen = vec![c.clone().of(None).request(&x, "GET", "/")];
    seen.extend(served(10, 1.5, "/", sent(0, 1.5).errand(1, 0, 100)));
    seen.push(c.response(&x.answered(200, 8.0)));
    let told = told(&mut core(), seen);
    assert_eq!(told.request().proxy.tgid, PROXY);
    assert_eq!(told.attempt().join, Join::Errand);
}

#[test]
fn the_first_request_on_a_connection_from_before_the_agent_is_of_the_thread_that_sent_it() {
    // Nobody has read from the upstream's, or from either: the process is not known until the answer.
    for reader in [Some(PROXY), None] {
        let (c, u) = (client(1), upstream(10).picked_up());
        let x = sent(0, 1.0);
        let sent = sent(0, 1.5).errand(1, 0, 100);
        let seen = vec![
            c.clone().of(reader).request(&x, "GET", "/"),
            u.of(None).request(&sent, "GET", "/"),
            upstream(10).picked_up().response(&sent.answered(200, 5.0)),
            c.response(&x.answered(200, 8.0)),
        ];
        let told = told(&mut core(), seen);
        assert_eq!(told.request().attempts.len(), 1, "{reader:?}");
        assert_eq!(told.attempt().join, Join::Errand);
    }
}

#[test]
fn a_request_that_an_excluded_process_turns_out_to_read_is_given_up() {
    for kernel_knows in [true, false] {
        let mut core = Core::new(Limits::default());
        know(&mut core, PROXY, "excluded", ProcessKind::Excluded);
        let unread = client(1).of(None);
        let x = sent(0, 1.0);
        let seen = [
            unread.request(&x, "GET", "/metrics"),
            if kernel_knows {
                client(1).ignored(1.1)
            } else {
                client(1).response(&x.answered(502, 1.1))
            },
        ];
        assert_eq!(told(&mut core, seen).events.len(), 0);
        let stats = core.stats();
        assert_eq!((stats.requests, stats.connections), (0, 0));
        assert_eq!(stats.request_ledger.foreign, 1, "{kernel_knows}");
    }
}

#[test]
fn a_thread_that_does_not_own_the_socket_has_no_say_in_a_rewritten_path() {
    let (c, x) = (client(1), sent(0, 1.0));
    let u = upstream(10).opened(1.5).without_flag(flag::OWN_ERRAND);
    let y = sent(0, 1.5).errand(1, 0, 100).answered(200, 5.0);
    let seen = [
        c.request(&x, "GET", "/public"),
        u.request(&y, "GET", "/internal"),
        u.response(&y),
    ];
    assert_eq!(told(&mut core(), seen).attempt().join, Join::None);
}

#[test]
fn a_connection_opened_ahead_counts_from_its_request() {
    let (c, asked) = (client(1), sent(0, 500.0));
    let u = upstream(10).opened(1.5);
    let x = sent(0, 500.5).errand(1, 0, 100).answered(200, 510.5);
    let seen = [
        c.request(&asked, "GET", "/"),
        u.request(&x, "GET", "/"),
        u.response(&x),
        c.response(&asked.answered(200, 511.0)),
    ];
    let attempt = told(&mut core(), seen).attempt();
    assert!((attempt.response_seconds - 0.010).abs() < 1e-9);
    assert_eq!(attempt.reused, Some(false));
}

#[test]
fn who_connects_to_where_a_request_arrived_is_a_client_and_no_attempt() {
    let here = "127.0.0.1:80";
    let mut first = client(1).of(None);
    first.socket.local = here.parse().expect("address");
    let asked = sent(0, 1.0);
    let other = upstream(10).of(Some(77)).to(here).opened(1.2);
    let x = sent(0, 1.5);
    let seen = vec![
        first.request(&asked, "GET", "/"),
        other.request(&x, "GET", "/"),
        other.response(&x.answered(502, 4.0)),
        first.of(Some(PROXY)).response(&asked.answered(200, 8.0)),
    ];
    let told = told(&mut core(), seen);
    assert_eq!(told.request().attempts.len(), 0);
}

#[test]
fn where_threads_hop_a_refused_connect_is_no_earlier_try_of_whoever_comes_next() {
    for (rival, attempts) in [(false, 2), (true, 1)] {
        let mut core = core();
        know(&mut core, 300, "haproxy", ProcessKind::Known);
        let (a, b) = (client(1).of(Some(300)), client(2).of(Some(300)));
        let (xa, xb) = (sent(0, 1.0), sent(0, 1.0));
        let refused = upstream(10).of(Some(300)).opened(1.2);
        let u = upstream(11).of(Some(300)).opened(1.4);
        let x = sent(0, 1.5);
        let mut seen = vec![a.request(&xa, "GET", "/a")];
        if rival {
            seen.push(b.request(&xb, "GET", "/b"));
        }
        seen.push(refused.connect(1.3, ConnectOutcome::Reset, errand(1)));
        if rival {
            seen.push(b.response(&xb.answered(503, 1.35)));
        }
        seen.push(u.request(&x, "GET", "/a"));
        seen.push(u.response(&x.answered(200, 4.0)));
        seen.push(a.response(&xa.answered(200, 4.1)));
        let told = told(&mut core, seen);
        let served = told
            .requests()
            .into_iter()
            .find(|request| request.cookie == 1);
        assert_eq!(served.expect("told").attempts.len(), attempts, "{rival}");
    }
}

#[test]
fn a_refused_connect_of_an_unknown_process_is_no_earlier_try_of_another_unknown_one() {
    for (process, attempts) in [(Some(300), 2), (None, 1)] {
        let mut core = core();
        know(&mut core, 300, "haproxy", ProcessKind::Known);
        let a = client(1).of(Some(300));
        let xa = sent(0, 1.0);
        let refused = upstream(10).of(process).opened(1.2);
        let u = upstream(11).of(process).opened(1.4);
        let x = sent(0, 1.5).errand(1, 0, 100);
        let seen = vec![
            a.request(&xa, "GET", "/a"),
            refused.connect(1.3, ConnectOutcome::Reset, None),
            u.request(&x, "GET", "/a"),
            u.of(Some(300)).response(&x.answered(200, 4.0)),
            a.response(&xa.answered(200, 4.1)),
        ];
        let told = told(&mut core, seen);
        assert_eq!(told.request().attempts.len(), attempts, "{process:?}");
    }
}

/// Records of two CPUs: that of the attempt that followed a refused connect may come before that of the
/// connect, and that of another request after it.
#[test]
fn a_refused_connect_is_no_earlier_try_if_another_request_made_an_attempt_since() {
    for (other_began, attempts) in [(1.25, 2), (1.35, 1)] {
        let mut core = core();
        know(&mut core, 300, "caddy", ProcessKind::Known);
        let [a, b] = [1, 2].map(|cookie| client(cookie).of(Some(300)));
        let (xa, xb) = (sent(0, 1.0), sent(0, 1.1));
        let [u, v] = [(11, other_began), (12, 1.45)]
            .map(|(cookie, at)| upstream(cookie).of(Some(300)).opened(at));
        let xu = sent(0, other_began).errand(1, 0, 100).answered(200, 3.0);
        let xv = sent(0, 1.5).errand(2, 0, 100).answered(200, 4.0);
        let seen = vec![
            a.request(&xa, "GET", "/a"),
            u.request(&xu, "GET", "/a"),
            refused(1.3),
            b.request(&xb, "GET", "/b"),
            v.request(&xv, "GET", "/b"),
            u.response(&xu),
            v.response(&xv),
            a.response(&xa.answered(200, 3.1)),
            b.response(&xb.answered(200, 4.1)),
        ];
        let told = told(&mut core, seen);
        let requests = told.requests();
        let of_b = requests.iter().find(|request| request.cookie == 2);
        let found = of_b.map(|request| request.attempts.len());
        assert_eq!(found, Some(attempts), "{other_began}");
    }
}

#[test]
fn a_connect_by_timer_belongs_to_who_was_answered_for_it_and_not_to_who_was_read_last() {
    let (a, b) = (client(1), client(2));
    let (xa, xb) = (sent(0, 1.0), sent(0, 30.0));
    let u = upstream(11).opened(80.0);
    let x = sent(0, 80.2).errand(2, 0, 50_000);
    let seen = vec![
        a.request(&xa, "GET", "/a"),
        b.request(&xb, "GET", "/b"),
        upstream(10)
            .opened(30.2)
            .connect(30.3, ConnectOutcome::Reset, errand(2)),
        a.response(&xa.answered(502, 30.5)),
        u.request(&x, "GET", "/b"),
        u.response(&x.answered(200, 81.0)),
        b.response(&xb.answered(200, 81.2)),
    ];
    let told = told(&mut core(), seen);
    let of = |cookie| {
        let requests = told.requests();
        let found = requests
            .into_iter()
            .find(|request| request.cookie == cookie);
        found.expect("told")
    };
    let error = of(1).error.expect("502");
    let found = (error.cause, error.certainty);
    assert_eq!(found, (Cause::ConnectRefused, Certainty::Guess));
    assert_eq!(of(2).attempts.len(), 1);
}

/// A connect that was refused, of a process whose errands say nothing.
/// By a thread that has read from client 1 at 1 ms, or from nobody yet.
fn refused(at: f64) -> Observation {
    let age_us = ((at - 1.0) * 1000.0) as u32;
    let why = errand(1).map(|errand| Errand { age_us, ..errand });
    let cookie = 1000 + at.to_bits() % 1_000_003;
    let u = upstream(cookie).of(Some(300)).opened(at);
    u.connect(at + 0.1, ConnectOutcome::Reset, why.filter(|_| at > 1.0))
}

#[test]
fn a_connect_to_an_upstream_that_is_checked_is_no_earlier_try() {
    // Two, for the first may have been made for a request that was under way before the agent was.
    for (checks, attempts) in [(&[][..], 2), (&[-90.0], 2), (&[-90.0, -40.0], 1)] {
        let mut core = core();
        know(&mut core, 300, "haproxy", ProcessKind::Known);
        let a = client(1).of(Some(300));
        let xa = sent(0, 1.0);
        let mut seen: Vec<_> = checks.iter().map(|at| refused(*at)).collect();
        seen.push(a.request(&xa, "GET", "/a"));
        seen.push(refused(1.2));
        let u = upstream(11).of(Some(300)).opened(1.4);
        let x = sent(0, 1.5);
        seen.push(u.request(&x, "GET", "/a"));
        seen.push(u.response(&x.answered(200, 4.0)));
        seen.push(a.response(&xa.answered(200, 4.1)));
        let told = told(&mut core, seen);
        assert_eq!(told.request().attempts.len(), attempts, "{checks:?}");
    }
}

#[test]
fn checks_are_known_beside_a_server_on_this_host_that_does_not_answer() {
    let mut core = core();
    know(&mut core, 300, "haproxy", ProcessKind::Known);
    let stuck = client(3).of(None);
    let a = client(1).of(Some(300));
    let xa = sent(0, 1.0);
    let u = upstream(11).of(Some(300)).opened(1.4);
    let x = sent(0, 1.5);
    let seen = vec![
        stuck.request(&sent(0, -100.0), "GET", "/slow"),
        refused(-90.0),
        refused(-40.0),
        a.request(&xa, "GET", "/a"),
        refused(1.2),
        u.request(&x, "GET", "/a"),
        u.response(&x.answered(200, 4.0)),
        a.response(&xa.answered(200, 4.1)),
    ];
    let told = told(&mut core, seen);
    assert_eq!(told.request().attempts.len(), 1);
}

#[test]
fn tries_a_second_apart_are_of_the_only_request_that_waits() {
    for rival in [None, Some(300), Some(400)] {
        let mut core = core();
        know(&mut core, 300, "haproxy", ProcessKind::Known);
        know(&mut core, 400, "app", ProcessKind::Unknown);
        let a = client(1).of(Some(300));
        let xa = sent(0, 1.0);
        let b = client(2).of(rival);
        let xb = sent(0, 0.5);
        let mut seen = Vec::new();
        if rival.is_some() {
            seen.push(b.request(&xb, "GET", "/b"));
        }
        seen.push(a.request(&xa, "GET", "/a"));
        seen.extend([1.2, 1001.4, 2001.6, 3001.8].map(refused));
        seen.push(a.response(&xa.answered(503, 3002.0)));
        let told = told(&mut core, seen);
        // Whose the tries are is not known when two wait: the answer tells of the last one, which a timer
        // made, perhaps for a check.
        let again = [Join::Waiting, Join::Errand, Join::Errand, Join::Errand];
        let (expected, sure) = match rival {
            Some(300) => (&[Join::Answer][..], Certainty::Guess),
            _ => (&again[..], Certainty::Strong),
        };
        let request = told.request();
        let joins = request.attempts.iter().map(|one| one.join);
        assert_eq!(joins.collect::<Vec<_>>(), expected, "{rival:?}");
        let error = request.error.expect("503");
        let found = (error.cause, error.certainty);
        assert_eq!(found, (Cause::ConnectRefused, sure));
    }
}

#[test]
fn an_error_that_follows_a_check_is_explained_by_it_only_as_a_guess() {
    for (checks, certainty) in [
        (&[][..], Certainty::Strong),
        (&[-90.0, -40.0], Certainty::Guess),
    ] {
        let mut core = core();
        know(&mut core, 300, "haproxy", ProcessKind::Known);
        let a = client(1).of(Some(300));
        let xa = sent(0, 1.0);
        let mut seen: Vec<_> = checks.iter().map(|at| refused(*at)).collect();
        seen.push(a.request(&xa, "GET", "/a"));
        seen.push(refused(1.2));
        seen.push(a.response(&xa.answered(503, 1.5)));
        let told = told(&mut core, seen);
        let error = told.request().error.expect("503");
        let found = (error.cause, error.certainty);
        assert_eq!(found, (Cause::ConnectRefused, certainty), "{checks:?}");
    }
}

#[test]
fn an_attempt_of_nobody_known_behind_a_failed_connect_makes_that_a_guess() {
    for (between, certainty) in [(false, Certainty::Proof), (true, Certainty::Guess)] {
        let (a, b, c) = (client(1), client(2), client(3));
        let (xa, xb) = (sent(0, 1.0), sent(0, 1.1));
        let mut seen = vec![
            a.request(&xa, "POST", "/"),
            b.request(&xb, "POST", "/"),
            c.request(&xb, "POST", "/"),
            upstream(10)
                .opened(1.2)
                .connect(1.3, ConnectOutcome::Reset, errand(1)),
        ];
        if between {
            let u = upstream(11).opened(-9000.0);
            let x = sent(3, 1.4).ended(End::PeerFin).peer_fin(30.0);
            seen.push(u.request(&x, "POST", "/"));
            seen.push(u.end(30.0, &x));
        }
        seen.push(a.response(&xa.answered(502, 30.2)));
        let told = told(&mut core(), seen);
        let failed = told
            .requests()
            .into_iter()
            .find(|request| request.cookie == 1)
            .expect("told");
        assert_eq!(failed.error.expect("502").certainty, certainty, "{between}");
    }
}

/// HAProxy answers 503 for a connect that failed: one that it closed without a word on failed of something else.
#[test]
fn a_failed_connect_explains_a_client_without_an_answer_as_a_guess() {
    for (code, certainty) in [(Some(503), Certainty::Strong), (None, Certainty::Guess)] {
        let mut core = core();
        know(&mut core, PROXY, "haproxy", ProcessKind::Known);
        let (a, b) = (client(1), client(2));
        let (xa, xb) = (sent(0, 1.0), sent(0, 1.1));
        let mut seen = vec![
            a.request(&xa, "GET", "/"),
            b.request(&xb, "GET", "/"),
            upstream(10)
                .opened(1.2)
                .connect(30.0, ConnectOutcome::Reset, errand(1)),
        ];
        match code {
            Some(code) => seen.push(a.response(&xa.answered(code, 30.2))),
            None => seen.push(a.end(30.2, &xa.ended(End::LocalClose))),
        }
        seen.push(b.response(&xb.answered(200, 90.0)));
        let told = told(&mut core, seen);
        let requests = told.requests();
        let failed = requests.iter().find(|request| request.cookie == 1);
        let error = failed.and_then(|request| request.error).expect("an error");
        assert_eq!(error.cause, Cause::ConnectRefused, "{code:?}");
        assert_eq!(error.certainty, certainty, "{code:?}");
    }
}
