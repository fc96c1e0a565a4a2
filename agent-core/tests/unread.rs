//! Upstreams whose talk is not read: FastCGI, HTTP/2, what is inside TLS, Unix sockets.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod support;

use agent_core::ProcessKind;
use agent_core::cause::{Cause, Certainty};
use agent_core::event::{Request, Upstream};
use agent_core::observation::{ConnectOutcome, End, Observation, Side, Talk, What};
use agent_wire::record::flag;
use support::{Ex, PROXY, Sock, Told, client, core, errand, know, sent, told, upstream};

const FPM: &str = "10.0.3.17:9000";
const SOCKET: &str = "/run/php/fpm.sock";

/// A use of `u` that ended at `at`, or began where it has no end.
fn unread(u: &Sock, x: &Ex, at: f64) -> Observation {
    let exchange = x.exchange.clone();
    let mut seen = u.close(at);
    seen.socket.side = Side::Unknown;
    seen.what = What::Unread { exchange };
    seen
}

fn fpm(cookie: u64, at: f64) -> Sock {
    let mut u = upstream(cookie).to(FPM).opened(at);
    u.socket.side = Side::Unknown;
    u
}

/// A request of client 1 at 1 ms, with the records of its attempts, answered `code` at `until` ms.
fn asked(attempts: Vec<Observation>, code: u16, until: f64) -> Vec<Observation> {
    of_client(1, "/app/a", attempts, code, until)
}

fn of_client(
    cookie: u64,
    path: &str,
    attempts: Vec<Observation>,
    code: u16,
    until: f64,
) -> Vec<Observation> {
    let (c, x) = (client(cookie), sent(0, 1.0));
    let mut seen = vec![c.request(&x, "GET", path)];
    seen.extend(attempts);
    seen.push(c.response(&x.answered(code, until)));
    seen
}

/// A connection for client 1's request that was opened at 1.1 ms, carried a request and ended so.
fn used(x: Ex, end: End, at: f64) -> Vec<Observation> {
    let u = fpm(50, 1.1);
    vec![
        u.connect(1.2, ConnectOutcome::Established, errand(1)),
        unread(&u, &x.errand(1, 0, 100).ended(end), at),
        u.close(at),
    ]
}

fn request(told: &Told, path: &str) -> std::sync::Arc<Request> {
    let mut requests = told.requests().into_iter();
    let is_it = |request: &std::sync::Arc<Request>| {
        request.head.as_ref().is_some_and(|head| head.path == path)
    };
    requests.find(is_it).expect("it is told")
}

#[track_caller]
fn verdict(told: &Told) -> (Cause, Certainty, Option<Upstream>) {
    of(&request(told, "/app/a"))
}

fn of(request: &Request) -> (Cause, Certainty, Option<Upstream>) {
    let error = request.error.expect("it got an error");
    let at = request.error_attempt;
    let upstream = at.map(|at| request.attempts[at].upstream.clone());
    (error.cause, error.certainty, upstream)
}

fn at_fpm() -> Option<Upstream> {
    Some(Upstream::Inet(FPM.parse().expect("an address")))
}

fn at_socket() -> Option<Upstream> {
    Some(Upstream::Unix(SOCKET.into()))
}

fn unix(cookie: u64, at: f64) -> Observation {
    upstream(0)
        .opened(at)
        .unix_connect(at, SOCKET, errand(cookie))
}

#[test]
fn closed_without_an_answer_is_told_at_most_as_strong() {
    let seen = asked(used(sent(0, 1.3), End::PeerFin, 9.0), 502, 9.2);
    assert_eq!(
        verdict(&told(&mut core(), seen)),
        (Cause::ClosedBeforeResponse, Certainty::Strong, at_fpm())
    );
}

#[test]
fn silence_until_the_proxy_closed_is_a_timeout() {
    let seen = asked(used(sent(0, 1.3), End::LocalClose, 2001.3), 504, 2001.5);
    assert_eq!(
        verdict(&told(&mut core(), seen)),
        (Cause::ResponseTimeout, Certainty::Strong, at_fpm())
    );
}

#[test]
fn an_error_that_came_back_is_of_nobody_known() {
    let x = sent(0, 1.3).partial_head(120, 5.0);
    let seen = asked(used(x, End::PeerFin, 5.0), 500, 5.2);
    assert_eq!(
        verdict(&told(&mut core(), seen)),
        (Cause::Unattributed, Certainty::Guess, at_fpm())
    );
}

#[test]
fn an_error_behind_an_earlier_refusal_is_not_of_that() {
    let refused = upstream(49).to("10.0.3.18:9000").opened(1.1).connect(
        1.2,
        ConnectOutcome::Reset,
        errand(1),
    );
    let u = fpm(50, 1.3);
    let x = sent(0, 1.5).errand(1, 0, 100).partial_head(120, 5.0);
    let attempts = vec![
        refused,
        u.connect(1.4, ConnectOutcome::Established, errand(1)),
        unread(&u, &x.ended(End::PeerFin), 5.0),
    ];
    assert_eq!(
        verdict(&told(&mut core(), asked(attempts, 503, 5.2))),
        (Cause::Unattributed, Certainty::Guess, at_fpm())
    );
}

#[test]
fn a_connection_that_is_still_open_is_an_attempt() {
    let u = fpm(50, 1.1);
    let open = u.connect(1.2, ConnectOutcome::Established, errand(1));
    assert_eq!(
        verdict(&told(&mut core(), asked(vec![open], 500, 9.0))),
        (Cause::Unattributed, Certainty::Guess, at_fpm())
    );
}

#[test]
fn a_kept_connection_that_is_used_again_is_an_attempt() {
    let u = fpm(50, 0.1);
    let mut seen = vec![u.connect(0.2, ConnectOutcome::Established, None)];
    let again = sent(1, 1.3).errand(1, 0, 100).idle_since(0.5);
    seen.extend(asked(vec![unread(&u, &again, 1.3)], 500, 9.0));
    assert_eq!(
        verdict(&told(&mut core(), seen)),
        (Cause::Unattributed, Certainty::Guess, at_fpm())
    );
}

#[test]
fn a_connection_that_others_use_does_not_hide_the_proxys_own_answer() {
    let u = fpm(50, 0.5);
    let mut seen = of_client(
        2,
        "/php/b",
        vec![u.connect(1.0, ConnectOutcome::Established, errand(2))],
        200,
        3.0,
    );
    seen.extend(asked(vec![], 503, 2.0));
    seen.sort_by_key(|seen| seen.socket.time);
    let (cause, ..) = verdict(&told(&mut core(), seen));
    assert_eq!(cause, Cause::ProxyGenerated);
}

#[test]
fn a_use_by_nobody_known_is_no_answer_of_the_proxys_own() {
    let u = fpm(50, 1.1);
    let mut core = core();
    know(&mut core, PROXY, "haproxy", ProcessKind::Known);
    let x = sent(0, 1.3).partial_head(120, 5.0).ended(End::PeerFin);
    let attempts = vec![
        u.connect(1.2, ConnectOutcome::Established, None),
        unread(&u, &x, 5.0),
        u.close(5.1),
    ];
    assert_eq!(
        verdict(&told(&mut core, asked(attempts, 503, 5.2))),
        (Cause::Unattributed, Certainty::Guess, at_fpm())
    );
}

/// The connection is kept, and carries the next client's request before the first one's error is judged.
#[test]
fn a_kept_connection_that_is_used_again_was_the_first_ones_attempt() {
    for (program, sure) in [("nginx", Certainty::Strong), ("caddy", Certainty::Guess)] {
        let mut core = core();
        know(&mut core, PROXY, program, ProcessKind::Known);
        let mut u = fpm(50, 1.1);
        if program == "caddy" {
            u = u.without_flag(flag::OWN_ERRAND);
        }
        let by = |client, index, at| sent(index, at).errand(client, 0, 100);
        let next = by(2, 1, 5.6).idle_since(5.0);
        let (c, x) = (client(2), sent(0, 5.5));
        let mut seen = asked(
            vec![
                u.connect(1.2, ConnectOutcome::Established, errand(1)),
                unread(&u, &by(1, 0, 1.3), 1.3),
            ],
            503,
            5.2,
        );
        seen.push(c.request(&x, "GET", "/app/b"));
        seen.push(unread(&u, &next, 5.6));
        seen.push(c.response(&x.answered(200, 7.0)));
        seen.push(unread(
            &u,
            &next.partial_head(100, 6.9).ended(End::LocalClose),
            9.0,
        ));
        seen.push(u.close(9.0));

        let told = told(&mut core, seen);

        let first = request(&told, "/app/a");
        let unattributed = (Cause::Unattributed, Certainty::Guess, at_fpm());
        assert_eq!(of(&first), unattributed, "{program}");
        let joined = first.attempts.first().and_then(|one| one.join_certainty);
        assert_eq!(joined, Some(sure), "{program}");
        assert_eq!(request(&told, "/app/b").error, None);
    }
}

/// The upstream had closed long before the client's answer was cut: it may have been whole, and the client slow.
#[test]
fn an_answer_cut_long_after_its_upstream_closed_is_a_guess() {
    let (c, x) = (client(1), sent(0, 1.0));
    let mut seen = vec![c.request(&x, "GET", "/app/a")];
    seen.extend(used(
        sent(0, 1.3).partial_head(4000, 5.0),
        End::PeerFin,
        5.0,
    ));
    let cut = x
        .head(200, 4.0, agent_core::observation::Framing::Chunked)
        .body(3000, 5.0);
    seen.push(c.response(&cut));
    seen.push(c.end(2005.2, &cut.ended(End::LocalClose)));
    let failure = told(&mut core(), seen)
        .attempt()
        .failure
        .expect("it failed");
    assert_eq!(failure.certainty, Certainty::Guess);
}

#[test]
fn an_answer_cut_with_its_upstream_is_an_incident() {
    let (c, x) = (client(1), sent(0, 1.0));
    let body = sent(0, 1.3).partial_head(4000, 5.0);
    let mut seen = vec![c.request(&x, "GET", "/app/a")];
    seen.extend(used(body, End::PeerReset, 5.0));
    let cut = x
        .head(200, 4.0, agent_core::observation::Framing::Chunked)
        .body(3000, 5.0);
    seen.push(c.response(&cut));
    seen.push(c.end(5.2, &cut.ended(End::LocalClose)));
    let told = told(&mut core(), seen);
    let attempt = told.attempt();
    let failure = attempt.failure.expect("it failed");
    assert_eq!(
        (failure.cause, failure.certainty, attempt.masked),
        (Cause::TruncatedResponse, Certainty::Strong, Some(false))
    );
}

/// Caddy uses several upstreams, and no thread says for whom.
#[test]
fn an_answer_cut_beside_several_upstreams_is_an_incident_at_one_that_is_not_known() {
    let mut core = core();
    know(&mut core, PROXY, "caddy", ProcessKind::Known);
    let (c, x) = (client(1), sent(0, 1.0));
    let mut seen = vec![c.request(&x, "GET", "/app/a")];
    for (cookie, to) in [(50, FPM), (51, "10.0.3.18:9000")] {
        let mut u = upstream(cookie).to(to).opened(1.1);
        u.socket.side = Side::Unknown;
        seen.push(u.connect(1.2, ConnectOutcome::Established, None));
        seen.push(unread(&u, &sent(0, 1.3), 1.3));
    }
    let cut = x
        .head(200, 4.0, agent_core::observation::Framing::Chunked)
        .body(3000, 5.0);
    seen.push(c.response(&cut));
    seen.push(c.end(5.2, &cut.ended(End::LocalClose)));
    let request = told(&mut core, seen).request();
    let attempt = request.attempts.first().expect("an attempt");
    let cause = attempt.failure.map(|failure| failure.cause);
    assert_eq!(
        (cause, &attempt.upstream),
        (Some(Cause::Unattributed), &Upstream::Unknown)
    );
}

#[test]
fn what_was_answered_well_tells_nothing() {
    let x = sent(0, 1.3).partial_head(120, 5.0);
    let seen = asked(used(x, End::PeerFin, 5.0), 200, 5.2);
    let told = told(&mut core(), seen);
    assert_eq!(told.attempts().len(), 0);
    assert_eq!(told.request().error, None);
}

#[test]
fn a_unix_socket_that_was_connected_to_is_named() {
    let seen = asked(vec![unix(1, 1.2)], 502, 9.0);
    assert_eq!(
        verdict(&told(&mut core(), seen)),
        (Cause::Unattributed, Certainty::Guess, at_socket())
    );
}

#[test]
fn a_unix_socket_that_may_be_kept_is_named_on_its_route_only() {
    let mut seen = of_client(2, "/app/b", vec![unix(2, 1.2)], 200, 3.0);
    let (c, x) = (client(1), sent(0, 10.0));
    seen.push(c.request(&x, "GET", "/app/a"));
    seen.push(c.response(&x.answered(500, 12.0)));
    let (c, x) = (client(3), sent(0, 10.0));
    seen.push(c.request(&x, "GET", "/static/a"));
    seen.push(c.response(&x.answered(503, 10.1)));
    let told = told(&mut core(), seen);
    assert_eq!(
        verdict(&told),
        (Cause::Unattributed, Certainty::Guess, at_socket())
    );
    let (cause, certainty, at) = of(&request(&told, "/static/a"));
    assert_eq!(
        (cause, certainty, at),
        (Cause::ProxyGenerated, Certainty::Guess, None)
    );
}

#[test]
fn what_ran_beside_upstreams_that_are_down_forbids_that_none_was_tried() {
    let refused = |cookie, client, at| {
        upstream(cookie).to("10.0.3.18:8080").opened(at).connect(
            at + 0.1,
            ConnectOutcome::Reset,
            errand(client),
        )
    };
    let mut seen = of_client(2, "/app/b", vec![refused(40, 2, 1.1)], 502, 2.0);
    let (c, x) = (client(1), sent(0, 10.0));
    let u = fpm(50, 10.1);
    let y = sent(0, 10.3).partial_head(120, 12.0).ended(End::PeerFin);
    seen.push(c.request(&x, "GET", "/app/a"));
    seen.push(u.connect(10.2, ConnectOutcome::Established, None));
    seen.push(unread(&u, &y, 12.0));
    seen.push(c.response(&x.answered(502, 12.1)));
    assert_eq!(
        verdict(&told(&mut core(), seen)),
        (Cause::Unattributed, Certainty::Guess, at_fpm())
    );
}

#[test]
fn where_connects_are_not_seen_an_error_is_not_the_proxys_own() {
    let seen = asked(vec![], 503, 2.0);
    let mut blind = core();
    blind.connects_unseen();
    let (cause, ..) = verdict(&told(&mut blind, seen));
    assert_eq!(cause, Cause::Unattributed);
}

#[test]
fn a_cut_answer_behind_the_only_upstream_that_was_used_names_it() {
    let (c, x, u) = (client(1), sent(0, 1.0), fpm(50, 1.1));
    let mut core = core();
    know(&mut core, PROXY, "haproxy", ProcessKind::Known);
    let body = sent(0, 1.3).partial_head(4000, 5.0).ended(End::PeerFin);
    let cut = x
        .clone()
        .head(200, 4.0, agent_core::observation::Framing::Chunked)
        .body(3000, 5.0);
    let seen = vec![
        c.request(&x, "GET", "/app/a"),
        u.connect(1.2, ConnectOutcome::Established, None),
        c.response(&cut),
        unread(&u, &body, 5.0),
        c.end(5.2, &cut.ended(End::LocalClose)),
    ];
    let told = told(&mut core, seen);
    let request = request(&told, "/app/a");
    let [attempt] = request.attempts.as_slice() else {
        panic!("{request:#?}");
    };
    let cause = attempt.failure.map(|failure| failure.cause);
    assert_eq!(cause, Some(Cause::Unattributed));
    assert_eq!(attempt.masked, Some(false));
}

/// Traefik writes 499 to a client that has left, and goes on with the handshake.
#[test]
fn a_client_that_left_names_the_only_upstream_that_was_used_meanwhile() {
    for (code, expected) in [(499, Some(Cause::ClientAbort)), (200, None)] {
        let mut core = core();
        know(&mut core, PROXY, "traefik", ProcessKind::Known);
        let (c, asked) = (client(1), sent(0, 1.0));
        let u = fpm(50, 1.1);
        let left = asked.clone().peer_fin(6000.0).answered(code, 6000.5);
        let seen = vec![
            c.request(&asked, "GET", "/app/a"),
            u.connect(1.2, ConnectOutcome::Established, None),
            c.response(&left),
        ];
        let told = told(&mut core, seen);
        let request = request(&told, "/app/a");
        let attempt = request.attempts.first();
        let failure = attempt.and_then(|attempt| attempt.failure);
        assert_eq!(failure.map(|one| one.cause), expected, "{code}");
        assert_eq!(request.error, None);
    }
}

/// FastCGI on a connection that was kept open since before the agent: nothing of it is seen but that it is
/// read from, and who opened it is not known.
#[test]
fn what_is_read_from_a_connection_that_was_there_before_may_be_an_upstreams_answer() {
    let of = |talk: Option<Talk>| {
        let mut core = core();
        let mut seen = Vec::new();
        for n in 0..3u8 {
            let at = 100.0 * f64::from(n) + 1.0;
            let (c, x) = (client(10 + u64::from(n)), sent(0, at));
            let u = upstream(20 + u64::from(n)).opened(at + 0.1);
            let y = sent(0, at + 0.2).errand(10 + u64::from(n), 0, 100);
            let (x, y) = (x.answered(200, at + 3.0), y.answered(200, at + 2.0));
            seen.extend([
                c.request(&x, "GET", "/app/a"),
                u.request(&y, "GET", "/app/a"),
            ]);
            seen.extend([u.response(&y), c.response(&x)]);
        }
        seen.extend(talk.map(|talk| client(30).unread_client(400.0, talk)));
        let (c, x) = (client(40), sent(0, 501.0));
        seen.push(c.request(&x, "GET", "/app/own"));
        seen.push(c.response(&x.answered(500, 501.4)));
        let told = told(&mut core, seen);
        let request = request(&told, "/app/own");
        request.error.map(|error| error.cause)
    };
    assert_eq!(of(None), Some(Cause::ProxyGenerated));
    assert_eq!(of(Some(Talk::Tls)), Some(Cause::ProxyGenerated));
    assert_eq!(of(Some(Talk::BeforeAgent)), Some(Cause::Unattributed));
}

#[test]
fn a_connection_of_envoys_pool_may_serve_another_than_it_was_opened_for() {
    // What was opened for the first is given to the second, and the first gets one that became free.
    let became_free = |at| upstream(40).to("10.0.3.17:8443").opened(at);
    let (first, second) = ((client(1), sent(0, 10.0)), (client(2), sent(0, 10.3)));
    let opened = upstream(41).to("10.0.3.17:8443").opened(10.2);
    let closed = sent(0, 10.9).ended(End::PeerReset);
    let answered = sent(1, 10.5).idle_since(10.4).partial_head(500, 80.0);
    let play = |second_came: bool| {
        let mut core = core();
        know(&mut core, PROXY, "envoy", ProcessKind::Known);
        let mut seen = vec![first.0.request(&first.1, "GET", "/first")];
        if second_came {
            seen.push(second.0.request(&second.1, "GET", "/second"));
        }
        seen.push(opened.connect(10.8, ConnectOutcome::Established, errand(1)));
        seen.push(unread(&opened, &closed, 20.0));
        if second_came {
            seen.push(second.0.response(&second.1.clone().answered(503, 20.3)));
            let over = answered.clone().ended(End::LocalClose);
            seen.push(unread(&became_free(1.2), &over, 81.0));
        }
        let at = if second_came { 80.2 } else { 20.3 };
        seen.push(first.0.response(&first.1.clone().answered(503, at)));
        told(&mut core, seen)
    };

    let alone = of(&request(&play(false), "/first"));
    assert_eq!(
        (alone.0, alone.1),
        (Cause::ClosedBeforeResponse, Certainty::Strong)
    );
    let beside = play(true);
    for path in ["/first", "/second"] {
        let (_, certainty, _) = of(&request(&beside, path));
        assert_eq!(certainty, Certainty::Guess, "{path}");
    }
}
