//! Joins without the request line: proxies rewrite paths, clients pipeline, processes are not known yet.

#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;

use agent_core::cause::{Cause, Certainty};
use agent_core::event::{Join, Request};
use agent_core::observation::{
    ConnectOutcome, End, Errand, Framing, Observation, RequestHead, Talk, What,
};
use agent_core::{Core, ProcessKind};
use agent_wire::record::flag;
use support::{Sock, Told, client, core, errand, know, sent, told, upstream};

/// A proxy in which the thread says little.
const HAPROXY: u32 = 300;

fn haproxy() -> Core {
    let mut core = core();
    know(&mut core, HAPROXY, "haproxy", ProcessKind::Known);
    core
}

fn asks(cookie: u64) -> Sock {
    client(cookie).of(Some(HAPROXY))
}

fn sends(cookie: u64, at: f64) -> Sock {
    upstream(cookie).of(Some(HAPROXY)).opened(at)
}

fn request_of(told: &Told, cookie: u64) -> Arc<Request> {
    let mut requests = told.requests().into_iter();
    requests
        .find(|request| request.cookie == cookie)
        .expect("the request is reported")
}

/// Two requests at a time; an attempt with `sent_path` ends without an answer, and the first client
/// gets 502.
fn two(paths: [&str; 2], sent_path: &str) -> (Told, Core) {
    let mut core = haproxy();
    let (a, b) = (sent(0, 1.0), sent(0, 1.1));
    let x = sent(0, 1.5).ended(End::PeerFin);
    let seen = vec![
        asks(1).request(&a, "GET", paths[0]),
        asks(2).request(&b, "GET", paths[1]),
        sends(10, 1.4).request(&x, "GET", sent_path),
        sends(10, 1.4).end(3.0, &x),
        asks(1).response(&a.answered(502, 3.1)),
        asks(2).response(&b.answered(200, 90.0)),
    ];
    (told(&mut core, seen), core)
}

#[test]
fn the_end_of_the_path_tells_whose_attempt_it_was() {
    let (told, _) = two(["/api/users/1", "/api/users/2"], "/users/1");
    let request = request_of(&told, 1);
    assert_eq!(request.attempts[0].join, Join::PathEnd);
    assert_eq!(request.attempts[0].join_certainty, Some(Certainty::Strong));
    let error = request.error.expect("502");
    assert_eq!(error.cause, Cause::ClosedBeforeResponse);
    let witnesses: Vec<_> = request.attempts[0].witnesses.names().collect();
    assert_eq!(witnesses, ["path_end", "host", "no_other"]);
}

#[test]
fn of_two_with_the_same_end_the_answer_that_followed_decides() {
    let (told, _) = two(["/a/list", "/b/list"], "/list");
    let request = request_of(&told, 1);
    assert_eq!(request.attempts[0].join, Join::Answer);
    assert_eq!(request_of(&told, 2).attempts.len(), 0);
}

#[test]
fn with_nothing_in_common_the_answer_decides_and_the_only_one_that_waits() {
    let (both, _) = two(["/shop/cart", "/shop/item"], "/index.php");
    assert_eq!(request_of(&both, 1).attempts[0].join, Join::Answer);

    let mut core = haproxy();
    let (a, x) = (sent(0, 1.0), sent(0, 1.5).ended(End::PeerFin));
    let seen = vec![
        asks(1).request(&a, "GET", "/shop/cart"),
        sends(10, 1.4).request(&x, "GET", "/index.php"),
        sends(10, 1.4).end(3.0, &x),
        asks(1).response(&a.answered(502, 3.1)),
    ];
    let told = told(&mut core, seen);
    assert_eq!(told.request().attempts[0].join, Join::Waiting);
}

/// What two requests came to that wait at a time, whose attempts were refused at 2 and 3 ms and which
/// get their errors when `answers` says, ms; the route of the first goes to `elsewhere` as well.
fn refused_two(answers: [f64; 2], elsewhere: bool) -> Vec<Arc<Request>> {
    let mut core = haproxy();
    let dead = |cookie, at| sends(cookie, at).to("10.0.3.18:8080");
    let refused = |cookie, at| dead(cookie, at).connect(at + 0.1, ConnectOutcome::Reset, None);
    let mut seen = vec![];
    if elsewhere {
        let (a, x) = (sent(0, -900.0), sent(0, -899.0).answered(200, -890.0));
        let b = sent(0, -800.0);
        seen.extend([
            asks(8).request(&a, "GET", "/a/0"),
            sends(9, -899.0).request(&x, "GET", "/a/0"),
            sends(9, -899.0).response(&x),
            asks(8).response(&a.answered(200, -889.0)),
            asks(7).request(&b, "GET", "/b/0"),
            refused(6, -799.0),
            asks(7).response(&b.answered(502, -798.0)),
        ]);
    }
    let (a, b) = (sent(0, 1.0), sent(0, 1.1));
    let (first, second) = if elsewhere {
        ("/a/1", "/a/2")
    } else {
        ("/b/1", "/b/2")
    };
    seen.extend([
        asks(1).request(&a, "GET", first),
        asks(2).request(&b, "GET", second),
        refused(10, 2.0),
        refused(11, 3.0),
        asks(1).response(&a.answered(502, answers[0])),
        asks(2).response(&b.answered(502, answers[1])),
    ]);
    let told = told(&mut core, seen);
    vec![request_of(&told, 1), request_of(&told, 2)]
}

#[test]
fn an_answer_that_had_to_wait_for_a_cpu_is_joined_as_a_guess() {
    for request in refused_two([90.0, 91.0], false) {
        let error = request.error.expect("502");
        let found = (error.cause, error.certainty);
        assert_eq!(found, (Cause::ConnectRefused, Certainty::Guess));
        assert_eq!(request.attempts.len(), 1);
        assert_eq!(request.attempts[0].join, Join::Answer);
    }
}

#[test]
fn an_answer_that_came_late_is_of_no_attempt_where_its_route_goes_elsewhere_or_much_later() {
    for (answers, elsewhere) in [([90.0, 91.0], true), ([290.0, 291.0], false)] {
        for request in refused_two(answers, elsewhere) {
            assert_eq!(request.attempts.len(), 0, "{answers:?} {elsewhere}");
        }
    }
}

/// A refused connect on the errand of client 9 or of nobody, beside the only request that nothing
/// explains, which gets `code`; one that talks what is not read is a client too where `unread` is.
fn beside_unread(with_errand: bool, unread: bool, code: u16) -> Option<Certainty> {
    let mut core = core();
    know(&mut core, HAPROXY, "caddy", ProcessKind::Known);
    let a = sent(0, 1.0);
    let mut seen = vec![];
    if unread {
        seen.push(asks(9).unread_client(0.5, Talk::Tls));
    }
    let why = errand(9).filter(|_| with_errand);
    let dead = sends(10, 2.0).to("10.0.3.18:8080");
    seen.extend([
        asks(1).request(&a, "GET", "/t/1"),
        dead.connect(2.1, ConnectOutcome::Reset, why),
        asks(1).response(&a.answered(code, 3.0)),
    ]);
    let told = told(&mut core, seen);
    let attempts = &request_of(&told, 1).attempts;
    attempts.first().and_then(|one| one.join_certainty)
}

#[test]
fn what_may_be_of_a_client_that_is_not_read_is_nobody_elses_for_sure() {
    assert_eq!(beside_unread(false, false, 502), Some(Certainty::Strong));
    assert_eq!(beside_unread(false, true, 502), Some(Certainty::Guess));
    assert_eq!(beside_unread(true, true, 502), None);
}

/// HAProxy answers first; on a busy machine the close is some ms behind.
#[test]
fn a_close_behind_the_answer_is_of_the_request_that_was_answered() {
    let mut core = haproxy();
    let (a, b) = (sent(0, 1.0), sent(0, 1.1));
    let x = sent(0, 1.5).ended(End::LocalClose);
    let seen = vec![
        asks(1).request(&a, "GET", "/shop/cart"),
        asks(2).request(&b, "GET", "/shop/item"),
        sends(10, 1.4).request(&x, "GET", "/index.php"),
        asks(1).response(&a.answered(504, 1001.0)),
        sends(10, 1.4).end(1006.0, &x),
        asks(2).response(&b.answered(200, 1090.0)),
    ];
    let request = request_of(&told(&mut core, seen), 1);
    assert_eq!(request.attempts[0].join, Join::Answer);
}

/// nginx delays requests by a timer (`limit_req`), those of TLS clients as well.
#[test]
fn a_connect_may_be_a_timers_for_a_client_that_is_not_read() {
    let joined = |unread: bool, age_us: u32| {
        let (c, x) = (client(1), sent(0, 1.0));
        let mut seen = vec![];
        if unread {
            seen.push(client(9).unread_client(0.5, Talk::Tls));
        }
        let why = errand(1).map(|errand| Errand { age_us, ..errand });
        let at = 1.0 + f64::from(age_us) / 1000.0;
        let dead = upstream(10).opened(at);
        seen.extend([
            c.request(&x, "GET", "/a"),
            dead.connect(at + 0.1, ConnectOutcome::Reset, why),
            c.response(&x.answered(502, at + 0.2)),
        ]);
        let told = told(&mut core(), seen);
        told.request().attempts[0].join_certainty
    };
    assert_eq!(joined(false, 5_000), Some(Certainty::Proof));
    assert_eq!(joined(true, 100), Some(Certainty::Strong));
    assert_eq!(joined(true, 5_000), Some(Certainty::Guess));
}

/// What it sends then has another path.
#[test]
fn what_is_sent_by_a_timer_beside_clients_that_are_not_read_needs_more_than_the_last_touch() {
    let joined = |unread: bool, sent_path: &str| {
        let (c, x) = (client(1), sent(0, 1.0));
        let y = sent(0, 1.3).errand(1, 0, 100).ended(End::PeerFin);
        let u = upstream(10).opened(1.1);
        let mut seen = vec![];
        if unread {
            seen.push(client(9).unread_client(0.5, Talk::Tls));
        }
        seen.extend([
            c.request(&x, "GET", "/d/x"),
            u.request(&y, "GET", sent_path),
            u.end(2.0, &y),
            c.response(&x.answered(502, 2.1)),
        ]);
        let told = told(&mut core(), seen);
        told.request().attempts[0].join_certainty
    };
    for (unread, sent_path, expected) in [
        (true, "/close", Certainty::Guess),
        (true, "/x", Certainty::Proof),
        (true, "/d/x", Certainty::Proof),
        (false, "/close", Certainty::Strong),
    ] {
        assert_eq!(joined(unread, sent_path), Some(expected), "{sent_path}");
    }
}

#[test]
fn a_refused_connect_is_no_timeout() {
    let (client, x) = (asks(1), sent(0, 1.0));
    let other = sent(0, 1.1);
    let mut core = haproxy();
    let seen = vec![
        client.request(&x, "GET", "/t/1"),
        asks(2).request(&other, "GET", "/u/1"),
        sends(10, 1000.0).connect(1000.1, ConnectOutcome::Reset, None),
        client.response(&x.answered(504, 1001.0)),
        asks(2).response(&other.answered(503, 1001.5)),
    ];
    let told = told(&mut core, seen);
    assert_eq!(request_of(&told, 1).attempts.len(), 0);
    assert_eq!(request_of(&told, 2).attempts.len(), 1);
}

#[test]
fn what_contradicts_excludes() {
    // A body of another size, another method.
    let length = |observation: Observation, length: u64| {
        with_head(observation, |head| {
            head.content_length = Some(length);
        })
    };
    for (method, bytes, joined) in [("POST", 10, true), ("POST", 11, false), ("PUT", 10, false)] {
        let mut core = haproxy();
        let (a, x) = (sent(0, 1.0), sent(0, 1.5).ended(End::PeerFin));
        let seen = vec![
            length(asks(1).request(&a, "POST", "/api/users/1"), 10),
            length(sends(10, 1.4).request(&x, method, "/users/1"), bytes),
            sends(10, 1.4).end(3.0, &x),
            asks(1).response(&a.answered(502, 3.1)),
        ];
        let told = told(&mut core, seen);
        let request = request_of(&told, 1);
        assert_eq!(request.attempts.len() == 1, joined, "{method} {bytes}");
    }
}

#[test]
fn a_process_that_is_not_known_is_not_the_same() {
    // Nobody has answered where the request arrived, and then another program does.
    let mut core = haproxy();
    let (a, x) = (sent(0, 1.0), sent(0, 1.5).answered(200, 3.0));
    let seen = vec![
        client(1).of(None).request(&a, "GET", "/"),
        sends(10, 1.4).request(&x, "GET", "/"),
        sends(10, 1.4).response(&x),
        client(1).of(Some(77)).response(&a.answered(200, 3.1)),
    ];
    assert_eq!(told(&mut core, seen).attempt().join, Join::None);
}

#[test]
fn a_cut_answer_waits_for_the_attempt_that_was_cut() {
    let mut core = haproxy();
    let a = sent(0, 1.0)
        .head(200, 2.0, Framing::Length(9000))
        .body(1000, 2.0);
    let b = sent(0, 1.0);
    let x = sent(0, 1.5)
        .head(200, 1.9, Framing::Length(9000))
        .body(1000, 1.9);
    let (a, x) = (a.ended(End::LocalClose), x.ended(End::PeerFin));
    let seen = vec![
        asks(1).request(&a, "GET", "/shop/cart"),
        asks(2).request(&b, "GET", "/shop/item"),
        sends(10, 1.4).request(&x, "GET", "/index.php"),
        asks(1).end(3.1, &a),
        sends(10, 1.4).end(3.2, &x),
        asks(2).response(&b.answered(200, 90.0)),
    ];
    let told = told(&mut core, seen);
    let attempt = request_of(&told, 1).attempts[0].clone();
    assert_eq!(
        attempt.failure.expect("it was cut").cause,
        Cause::TruncatedResponse
    );
    let witnesses: Vec<_> = attempt.witnesses.names().collect();
    assert!(witnesses.contains(&"answer_length"), "{witnesses:?}");
}

#[test]
fn a_pipelined_request_has_its_attempt() {
    let mut core = core();
    let (first, second) = (
        sent(0, 1.0),
        sent(1, 50.1).idle_since(50.0).answered(502, 50.4),
    );
    let dead = upstream(11).opened(50.2).errno(111);
    let touched = errand(1);
    let seen = vec![
        client(1).request(&first, "GET", "/slow"),
        client(1).response(&first.answered(200, 50.0)),
        dead.connect(50.3, ConnectOutcome::Reset, touched),
        client(1).flag(flag::NO_REQUEST).response(&second),
    ];
    let told = told(&mut core, seen);
    let requests = told.requests();
    let request = requests.iter().find(|request| request.code == Some(502));
    let error = request.expect("502").error.expect("an error");
    assert_eq!(error.cause, Cause::ConnectRefused);
    assert_eq!(error.certainty, Certainty::Strong);
}

/// The second of two pipelined requests, whose connection the proxy closes at `at` ms without an answer.
fn left_unanswered(at: f64) -> Observation {
    let mut second = sent(1, 50.0).idle_since(50.0).ended(End::LocalClose);
    second.exchange.request_bytes = 0;
    second.exchange.request_head_bytes = 0;
    asks(1)
        .flag(flag::NO_REQUEST | flag::PIPELINED)
        .end(at, &second)
}

/// HAProxy closes so where the attempt for a later request of a connection fails. Its thread has read
/// both requests at once, and perhaps from `touched` since.
fn of_haproxy_that_closes(touched: u64, closed: f64) -> Told {
    let mut core = haproxy();
    let (other, first) = (sent(0, 0.2), sent(0, 1.0));
    let (x, y) = (
        sent(0, 1.2).errand(1, 0, 100).answered(200, 49.9),
        sent(1, 50.1).idle_since(49.9).errand(touched, 0, 120),
    );
    let seen = [
        asks(2).request(&other, "GET", "/cached"),
        asks(2).response(&other.answered(200, 0.5)),
        asks(1).request(&first, "GET", "/good/slow"),
        sends(10, 1.1).request(&x, "GET", "/good/slow"),
        sends(10, 1.1).response(&x),
        asks(1).response(&first.answered(200, 50.0)),
        sends(10, 1.1).request(&y, "GET", "/good/next"),
        sends(10, 1.1).end(110.4, &y.ended(End::PeerFin).peer_fin(110.4)),
        left_unanswered(closed),
    ];
    told(&mut core, seen)
}

fn second_of(told: &Told) -> Option<Arc<Request>> {
    let mut requests = told.requests().into_iter();
    requests.find(|request| (request.cookie, request.index) == (1, 1))
}

#[test]
fn a_pipelined_request_that_gets_no_answer_has_its_attempt() {
    let told = of_haproxy_that_closes(1, 110.6);
    let request = second_of(&told).expect("it is reported");
    let error = request.error.expect("it got no answer");
    assert_eq!(request.code, None);
    assert_eq!(error.cause, Cause::ClosedBeforeResponse);
    assert_eq!(error.certainty, Certainty::Strong);
    let [attempt] = request.attempts.as_slice() else {
        panic!("one attempt: {request:#?}");
    };
    let head = attempt.head.as_ref().expect("it was read");
    assert_eq!(head.path, "/good/next");
    assert_eq!(told.attempts().len(), 2, "{:#?}", told.events);
}

#[test]
fn that_a_pipelined_request_got_no_answer_for_an_attempt_is_a_guess_where_another_was_read_since() {
    let told = of_haproxy_that_closes(2, 110.6);
    let error = second_of(&told).and_then(|request| request.error);
    let error = error.expect("it got no answer");
    assert_eq!(error.cause, Cause::ClosedBeforeResponse);
    assert_eq!(error.certainty, Certainty::Guess);
}

/// Apache httpd holds the first answer back until it has served the second request as well.
#[test]
fn an_attempt_that_begins_before_the_answer_ahead_has_left_is_of_the_pipelined_request() {
    let mut core = core();
    know(&mut core, HAPROXY, "httpd", ProcessKind::Known);
    let a = asks(1).flag(flag::PIPELINED);
    let (first, used) = (sent(0, 1.0), sends(10, 1.1));
    let x = sent(0, 1.2).errand(1, 0, 100).answered(200, 49.0);
    let y = sent(1, 49.2).idle_since(49.0).errand(1, 0, 120);
    let y = y.ended(End::PeerFin).peer_fin(49.6);
    let mut second = sent(1, 49.9).idle_since(49.9).ended(End::LocalClose);
    second.exchange.request_bytes = 0;
    second.exchange.request_head_bytes = 0;
    let told = told(
        &mut core,
        [
            a.request(&first, "GET", "/good/slow"),
            used.request(&x, "GET", "/good/slow"),
            used.response(&x),
            used.request(&y, "GET", "/good/next"),
            used.end(49.6, &y),
            a.response(&first.answered(200, 49.9)),
            a.flag(flag::NO_REQUEST).end(50.0, &second),
        ],
    );
    let requests = told.requests();
    let first = requests.iter().find(|request| request.index == 0);
    assert_eq!(
        first.expect("it is reported").attempts.len(),
        1,
        "{requests:#?}"
    );
    let request = second_of(&told).expect("it is reported");
    let error = request.error.expect("it got no answer");
    assert_eq!(error.cause, Cause::ClosedBeforeResponse);
    assert_eq!(error.certainty, Certainty::Strong);
}

/// Nobody knows of the request before the connection ends: its attempts are no checks all the same.
#[test]
fn attempts_for_pipelined_requests_are_no_checks_of_their_upstream() {
    let mut core = haproxy();
    let mut seen = Vec::new();
    for number in 0..4_u64 {
        let (cookie, at) = (1 + number, 1000.0 * number as f64);
        let a = asks(cookie).flag(flag::PIPELINED);
        let (first, used) = (sent(0, at + 1.0), sends(10 + number, at + 1.1));
        let x = sent(0, at + 1.2).errand(cookie, 0, 100);
        let x = x.answered(200, at + 49.9);
        let y = sent(1, at + 50.1).idle_since(at + 49.9);
        let y = y.errand(cookie, 0, 120).ended(End::PeerFin);
        let mut second = sent(1, at + 50.0).idle_since(at + 50.0);
        second.exchange.request_bytes = 0;
        second.exchange.request_head_bytes = 0;
        seen.extend([
            a.request(&first, "GET", "/good/slow"),
            used.request(&x, "GET", "/good/slow"),
            used.response(&x),
            a.response(&first.answered(200, at + 50.0)),
            used.request(&y, "GET", "/good/next"),
            used.end(at + 50.4, &y.peer_fin(at + 50.4)),
            a.flag(flag::NO_REQUEST)
                .end(at + 50.5, &second.ended(End::LocalClose)),
        ]);
    }
    let told = told(&mut core, seen);
    let unanswered: Vec<_> = told
        .requests()
        .into_iter()
        .filter(|request| request.code.is_none())
        .collect();
    assert_eq!(unanswered.len(), 4, "{:#?}", told.events);
    for request in unanswered {
        let error = request.error.expect("it got no answer");
        assert_eq!(error.certainty, Certainty::Strong, "{request:#?}");
        assert_eq!(request.attempts.len(), 1, "{request:#?}");
    }
}

/// A proxy may close with requests unread, which the client has to repeat (RFC 9112, 9.3.2).
#[test]
fn a_pipelined_request_that_its_proxy_has_not_begun_is_not_reported() {
    let told = of_haproxy_that_closes(1, 5000.0);
    assert!(second_of(&told).is_none(), "{:#?}", told.events);
    assert_eq!(told.attempts().len(), 2, "{:#?}", told.events);
}

#[test]
fn a_proxy_that_closed_without_an_answer_has_given_its_attempt_up() {
    // The end of that connection comes minutes later, when the upstream takes no more bytes.
    let mut core = haproxy();
    let a = sent(0, 1.0).ended(End::LocalClose);
    let x = sent(0, 1.5).acked(0);
    let long = |observation| with_head(observation, |head| head.content_length = Some(1 << 24));
    let seen = vec![
        long(asks(1).request(&a, "POST", "/post")),
        long(sends(10, 1.4).request(&x, "POST", "/post")),
        asks(1).end(2001.0, &a),
    ];
    let request = told(&mut core, seen).request();
    let error = request.error.expect("no answer");
    assert_eq!(error.cause, Cause::RequestStalled);
}

#[test]
fn an_attempt_whose_end_cannot_be_seen_is_reported_with_its_request() {
    // A head that was too long to be read: the connection is kept, and says nothing more.
    let mut core = haproxy();
    let (a, x) = (sent(0, 1.0), sent(0, 1.5).head(200, 3.0, Framing::Unknown));
    let seen = vec![
        asks(1).request(&a, "GET", "/api/users/1"),
        sends(10, 1.4).request(&x, "GET", "/users/1"),
        sends(10, 1.4).flag(flag::HEAD_CUT).response(&x),
        asks(1).response(&a.answered(200, 3.2)),
    ];
    let request = told(&mut core, seen).request();
    assert_eq!(request.attempts.len(), 1);
    assert_eq!(request.attempts[0].failure, None);
}

#[test]
fn a_close_with_so_linger_0_is_the_proxys_own() {
    let u = sends(11, 1.2).errno(104).syns(1);
    let (asked, mut core) = (sent(0, 1.0), haproxy());
    let seen = vec![
        asks(1).request(&asked, "GET", "/"),
        u.connect(1001.2, ConnectOutcome::KernelError, errand(1)),
        asks(1).response(&asked.answered(503, 1001.3)),
    ];
    let error = told(&mut core, seen).request().error.expect("503");
    assert_eq!(error.cause, Cause::ConnectTimeout);
}

fn with_head(mut observation: Observation, change: impl FnOnce(&mut RequestHead)) -> Observation {
    if let What::Request {
        head: Some(head), ..
    } = &mut observation.what
    {
        change(head);
    }
    observation
}

/// Envoy's `prefix_rewrite`: its thread has read another client since, and sends what is like the first one's.
#[test]
fn a_path_with_another_prefix_is_not_that_of_the_client_that_was_read_last() {
    let mut core = core();
    know(&mut core, HAPROXY, "envoy", ProcessKind::Known);
    let (a, b) = (sent(0, 1.0), sent(0, 1.1));
    let (x, y) = (
        sent(0, 1.5).errand(2, 0, 100).answered(502, 3.0),
        sent(0, 1.6).errand(2, 0, 200).answered(200, 3.5),
    );
    let seen = vec![
        asks(1).request(&a, "GET", "/shop/orders/1/items"),
        asks(2).request(&b, "GET", "/shop/users/2/cart"),
        sends(10, 0.5).request(&x, "GET", "/api/v1/orders/1/items"),
        sends(11, 0.5).request(&y, "GET", "/api/v1/users/2/cart"),
        sends(10, 0.5).response(&x),
        asks(1).response(&a.answered(502, 3.1)),
        sends(11, 0.5).response(&y),
        asks(2).response(&b.answered(200, 3.6)),
    ];
    let told = told(&mut core, seen);
    let error = request_of(&told, 1).error.expect("502");
    assert_eq!(error.cause, Cause::UpstreamStatus);
    let good = request_of(&told, 2);
    assert!(
        good.attempts.iter().all(|one| one.code == Some(200)),
        "{good:#?}"
    );
}
