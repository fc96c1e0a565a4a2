//! What looks like the fault of an upstream and has another reason: the client, the proxy itself, another
//! server in its process, an application that runs in it. Nothing of it is told as proof, and what cannot be
//! known is told as a guess or as unattributed.

mod support;

use agent_core::Core;
use agent_core::ProcessKind;
use agent_core::cause::{Cause, Certainty};
use agent_core::event::{Attempt, Join, Upstream};
use agent_core::observation::{
    ConnectOutcome, End, Ended, Framing, Observation, Side, TlsHandshake, What,
};
use agent_wire::record::flag;
use support::{PROXY, Sock, Told, client, core, errand, know, sent, told, upstream};

fn core_of(program: &str) -> Core {
    let mut core = core();
    know(&mut core, PROXY, program, ProcessKind::Known);
    core
}

fn failure(attempt: &Attempt) -> Option<(Cause, Certainty)> {
    let failure = attempt.failure?;
    Some((failure.cause, failure.certainty))
}

fn error(told: &Told) -> Option<(Cause, Certainty)> {
    let error = told.request().error?;
    Some((error.cause, error.certainty))
}

/// A download of which the client got a part, and the end of both connections at `at`, by the proxy.
fn cut_short(c: &Sock, at: f64) -> [Observation; 6] {
    let (u, whole) = (upstream(2).opened(1.5), Framing::Length(50_000_000));
    let x = sent(0, 2.0)
        .errand(1, 0, 100)
        .head(200, 3.0, whole)
        .body(3_000_000, 10.0)
        .ended(End::LocalClose);
    let y = sent(0, 1.0)
        .head(200, 3.2, whole)
        .body(500_000, 10.0)
        .ended(End::LocalClose);
    [
        client(1).request(&sent(0, 1.0), "GET", "/file.iso"),
        u.request(&x, "GET", "/file.iso"),
        u.response(&x),
        client(1).response(&y),
        u.end(at, &x),
        c.end(at + 0.2, &y),
    ]
}

#[test]
fn a_download_that_stops_is_perhaps_a_slow_upstream() {
    for program in ["nginx", "haproxy", "httpd", "envoy"] {
        let told = told(&mut core_of(program), cut_short(&client(1), 60_010.0));
        let timeout = Some((Cause::ResponseTimeout, Certainty::Guess));
        assert_eq!(failure(&told.attempt()), timeout, "{program}");
    }
}

#[test]
fn a_client_that_takes_nothing_more_in_is_no_slow_upstream() {
    for program in ["nginx", "haproxy", "httpd", "envoy"] {
        let stalls = client(1).flag(flag::ZERO_WINDOW);
        let told = told(&mut core_of(program), cut_short(&stalls, 60_010.0));
        let unattributed = Some((Cause::Unattributed, Certainty::Guess));
        assert_eq!(failure(&told.attempt()), unattributed, "{program}");
    }
}

#[test]
fn a_proxy_whose_process_ends_has_waited_for_nothing() {
    let mut seen = cut_short(&client(1), 9000.1).to_vec();
    seen.insert(4, client(1).ends(9000.0, Ended::Signal(9)));
    for program in ["nginx", "haproxy"] {
        let told = told(&mut core_of(program), seen.clone());
        let unattributed = Some((Cause::Unattributed, Certainty::Guess));
        assert_eq!(failure(&told.attempt()), unattributed, "{program}");
    }
}

#[test]
fn an_upload_in_chunks_may_be_what_the_upstream_waits_for() {
    let (c, u) = (client(1), upstream(2).opened(1.5));
    let x = sent(0, 2.0).errand(1, 0, 100).ended(End::LocalClose);
    let mut sends = u.request(&x, "POST", "/upload");
    if let What::Request {
        head: Some(head), ..
    } = &mut sends.what
    {
        head.chunked = true;
    }
    let told = told(
        &mut core_of("traefik"),
        [
            c.request(&sent(0, 1.0), "POST", "/upload"),
            sends,
            u.end(3002.0, &x),
            c.response(&sent(0, 1.0).answered(504, 3002.2)),
        ],
    );
    assert_eq!(
        error(&told),
        Some((Cause::ResponseTimeout, Certainty::Guess))
    );
}

/// How surely refused connects to a database, at these times, and then the attempt of an upload are joined to
/// that upload, which goes well.
fn joins_beside_refused(at: &[f64]) -> Vec<Option<Certainty>> {
    let (c, asked) = (client(1), sent(0, 1.0));
    let u = upstream(2).opened(900.0);
    let x = sent(0, 901.0).errand(1, 0, 100).answered(200, 905.0);
    let mut seen = vec![c.request(&asked, "POST", "/upload")];
    seen.extend((20..).zip(at).map(|(cookie, at)| {
        let database = upstream(cookie).to("10.0.9.9:3306").opened(at - 0.1);
        database.connect(*at, ConnectOutcome::Reset, errand(1))
    }));
    seen.extend([
        u.connect(900.2, ConnectOutcome::Established, errand(1)),
        u.request(&x, "POST", "/upload"),
        u.response(&x),
        c.response(&asked.answered(200, 905.2)),
    ]);
    let request = told(&mut core(), seen).request();
    let joins = request.attempts.iter().map(|one| one.join_certainty);
    joins.collect()
}

/// nginx `stream`, Envoy's `tcp_proxy`: a thread connects for a client of which it has read nothing.
#[test]
fn a_connect_for_another_server_of_the_process_is_no_proof() {
    let joins = joins_beside_refused(&[300.1]);
    assert_eq!(joins, [Some(Certainty::Guess), Some(Certainty::Proof)]);
}

/// The same twice, at one upstream, at once or later.
#[test]
fn a_second_connect_for_another_server_vouches_for_nothing() {
    for later in [0.5, 50.0] {
        let joins = joins_beside_refused(&[300.1, 300.2 + later]);
        let guess = Some(Certainty::Guess);
        assert_eq!(joins, [guess, guess, Some(Certainty::Proof)], "{later} ms");
    }
}

/// Envoy waits for some milliseconds before it tries again.
#[test]
fn a_connect_that_is_tried_again_in_vain_was_the_requests() {
    let (c, asked) = (client(1), sent(0, 1.0));
    let first = upstream(20).opened(2.0);
    let second = upstream(21).opened(40.0);
    let told = told(
        &mut core_of("envoy"),
        [
            c.request(&asked, "GET", "/"),
            first.connect(2.1, ConnectOutcome::Reset, errand(1)),
            second.connect(40.1, ConnectOutcome::Reset, errand(1)),
            c.response(&asked.answered(503, 40.4)),
        ],
    );
    let request = told.request();
    let joins = request.attempts.iter().map(|one| one.join_certainty);
    assert!(joins.into_iter().all(|one| one == Some(Certainty::Proof)));
    let cause = error(&told).map(|(cause, _)| cause);
    assert_eq!(cause, Some(Cause::ConnectRefused));
}

/// The request has its attempt, which is under way, when the other connect fails.
#[test]
fn an_attempt_that_began_before_is_no_next_try() {
    let (c, asked) = (client(1), sent(0, 1.0));
    let u = upstream(2).opened(1.2);
    let database = upstream(20).to("10.0.9.9:3306").opened(1.8);
    let x = sent(0, 1.5).errand(1, 0, 100).answered(200, 5.0);
    let told = told(
        &mut core_of("envoy"),
        [
            c.request(&asked, "GET", "/"),
            u.connect(1.3, ConnectOutcome::Established, errand(1)),
            u.request(&x, "GET", "/"),
            database.connect(2.0, ConnectOutcome::Reset, errand(1)),
            u.response(&x),
            c.response(&asked.answered(200, 5.2)),
        ],
    );
    let of_database = told.attempts();
    let other = of_database
        .iter()
        .filter(|one| one.upstream != Upstream::Inet(u.socket.remote));
    for one in other {
        assert_ne!(one.join_certainty, Some(Certainty::Proof), "{one:#?}");
    }
}

/// The same beside an application whose talk is not read.
#[test]
fn such_a_connect_does_not_hide_the_application_that_was_asked() {
    let (c, asked) = (client(1), sent(0, 1.0));
    let database = upstream(20).to("10.0.9.9:3306").opened(300.0);
    let mut application = upstream(2).opened(1.2);
    application.socket.side = Side::Unknown;
    let mut used = application.close(3001.4);
    let x = sent(0, 1.5).errand(1, 0, 100).partial_head(500, 3001.3);
    used.what = What::Unread {
        exchange: x.ended(End::LocalClose).exchange,
    };
    let told = told(
        &mut core(),
        [
            c.request(&asked, "POST", "/report"),
            application.connect(1.4, ConnectOutcome::Established, errand(1)),
            database.connect(300.1, ConnectOutcome::Reset, errand(1)),
            used,
            application.close(3001.5),
            c.response(&asked.answered(504, 3001.6)),
        ],
    );
    let (request, error) = (told.request(), error(&told));
    assert_ne!(error.map(|(cause, _)| cause), Some(Cause::ConnectRefused));
    let upstreams = request.attempts.iter().map(|one| one.upstream.clone());
    let application = Upstream::Inet(application.socket.remote);
    assert!(
        upstreams.into_iter().any(|one| one == application),
        "{request:#?}"
    );
}

/// mod_php, Lua: a cache is down and the application goes on without it, and fails of something else.
#[test]
fn an_error_of_an_application_in_the_proxy_is_no_proof() {
    for program in ["httpd", "openresty"] {
        let (c, asked) = (client(1), sent(0, 1.0));
        let cache = upstream(20).to("10.0.9.9:6379").opened(2.0);
        let told = told(
            &mut core_of(program),
            [
                c.request(&asked, "GET", "/wp/"),
                cache.connect(2.1, ConnectOutcome::Reset, errand(1)),
                c.response(&asked.answered(500, 60.0)),
            ],
        );
        let guess = Some((Cause::ConnectRefused, Certainty::Guess));
        assert_eq!(error(&told), guess, "{program}");
    }
}

#[test]
fn a_killed_server_cuts_what_would_end_with_its_connection() {
    let (c, u) = (client(1), upstream(2).opened(1.5));
    let x = sent(0, 2.0)
        .errand(1, 0, 100)
        .head(200, 3.0, Framing::Close)
        .body(5000, 400.0)
        .peer_fin(500.0)
        .ended(End::PeerFin);
    let y = sent(0, 1.0)
        .head(200, 3.1, Framing::Chunked)
        .body(5000, 500.2)
        .ended(End::Complete);
    let mut server = u.clone().of(Some(7777));
    std::mem::swap(&mut server.socket.local, &mut server.socket.remote);
    let killed = |ended| {
        told(
            &mut core(),
            [
                c.request(&sent(0, 1.0), "GET", "/export"),
                u.request(&x, "GET", "/export"),
                u.response(&x),
                c.response(&y),
                server.ends(499.9, ended),
                u.end(500.0, &x),
                c.end(500.3, &y),
            ],
        )
    };
    let crashed = Some((Cause::UpstreamCrashed, Certainty::Proof));
    assert_eq!(failure(&killed(Ended::Signal(9)).attempt()), crashed);
    // One that exits has said what it had to say, as far as is known.
    assert_eq!(failure(&killed(Ended::Status(1)).attempt()), None);
}

/// Varnish fetches with GET what its client asks for with HEAD; leave to serve is asked for with GET.
#[test]
fn what_is_fetched_for_another_method_is_an_attempt_of_its_request() {
    for (program, asked, path, join) in [
        ("varnish", "HEAD", "/page", Join::Errand),
        ("caddy", "POST", "/verify", Join::Waiting),
        ("traefik", "POST", "/verify", Join::Waiting),
    ] {
        let (c, u) = (client(1), upstream(2).opened(1.5));
        let x = sent(0, 2.0).errand(1, 0, 100).ended(End::PeerFin);
        let told = told(
            &mut core_of(program),
            [
                c.request(&sent(0, 1.0), asked, "/page"),
                u.connect(1.8, ConnectOutcome::Established, errand(1)),
                u.request(&x, "GET", path),
                u.end(30.0, &x),
                c.response(&sent(0, 1.0).answered(503, 30.3)),
            ],
        );
        let cause = told.request().error.map(|error| error.cause);
        assert_eq!(cause, Some(Cause::ClosedBeforeResponse), "{program}");
        assert_eq!(told.attempt().join, join, "{program}");
    }
}

/// Envoy goes on with servers whose checks fail: a 503 of its own may be of a limit.
#[test]
fn checks_that_fail_do_not_say_why_a_proxy_answers_that_tries_all_the_same() {
    let (a, b) = (client(1), client(3));
    let (first, second) = (sent(0, 1.0), sent(0, 9500.0));
    let u = upstream(2).opened(1.2);
    let mut seen = vec![
        a.request(&first, "GET", "/shop/a"),
        u.connect(1.4, ConnectOutcome::Established, errand(1)),
        u.request(&sent(0, 1.5), "GET", "/shop/a"),
    ];
    for number in 0..4u32 {
        let at = 1000.0 + 2000.0 * f64::from(number);
        let check = upstream(100 + u64::from(number)).opened(at);
        let x = sent(0, at + 0.1).ended(End::LocalClose);
        seen.extend([
            check.connect(at + 0.05, ConnectOutcome::Established, None),
            check.request(&x, "GET", "/healthz"),
            check.end(at + 1000.0, &x),
        ]);
    }
    seen.extend([
        b.request(&second, "GET", "/shop/b"),
        b.response(&second.answered(503, 9500.1)),
    ]);
    let told = told(&mut core_of("envoy"), seen);
    let overflow = told.requests().into_iter().find(|one| one.cookie == 3);
    let certainty = overflow.and_then(|request| Some(request.error?.certainty));
    assert_eq!(certainty, Some(Certainty::Guess));
}

/// nginx `error_page`, Traefik's `errors`: the page that tells of an error comes from another server.
#[test]
fn the_page_that_tells_of_an_error_is_not_what_failed() {
    let (c, asked) = (client(1), sent(0, 1.0));
    let refused = upstream(20).to("10.0.3.18:9000").opened(2.0);
    let pages = upstream(2).to("10.0.3.99:8080").opened(2.3);
    for given in [2.9, 4.0] {
        let x = sent(0, 2.6).errand(1, 0, 100).answered(503, given);
        let told = told(
            &mut core(),
            [
                c.request(&asked, "GET", "/shop/1"),
                refused.connect(2.1, ConnectOutcome::Reset, errand(1)),
                pages.connect(2.4, ConnectOutcome::Established, errand(1)),
                pages.request(&x, "GET", "/custom-error"),
                pages.response(&x),
                c.response(&asked.clone().answered(503, 4.3)),
            ],
        );
        let refused = Some((Cause::ConnectRefused, Certainty::Guess));
        assert_eq!(error(&told), refused, "the page came at {given} ms");
    }
}

/// HAProxy `check ssl`, Go with a connection too many: the handshake was all that was wanted.
#[test]
fn a_handshake_that_was_completed_and_closed_by_the_proxy_is_no_failure() {
    let done = TlsHandshake {
        end: End::LocalClose,
        hello: support::ms(2.0),
        reply: Some(support::ms(3.0)),
        peer_fin: None,
        finished: Some(support::ms(4.0)),
        reply_is_tls: Some(true),
        opening: None,
        alert: None,
        acked: true,
        said_goodbye: false,
    };
    let u = upstream(2).opened(1.0);
    let alone = told(
        &mut core_of("haproxy"),
        [
            u.connect(1.2, ConnectOutcome::Established, None),
            u.tls(4.5, done, 0),
            u.close(4.6),
        ],
    );
    // The upstream's FIN overtook the proxy's.
    let overtaken = TlsHandshake {
        end: End::PeerFin,
        peer_fin: Some(support::ms(4.4)),
        said_goodbye: true,
        ..done
    };
    let other = upstream(3).opened(1.0);
    let spare = told(
        &mut core_of("caddy"),
        [
            other.connect(1.2, ConnectOutcome::Established, None),
            other.tls(4.5, overtaken, 0),
            other.close(4.6),
        ],
    );
    for attempt in alone.attempts().iter().chain(&spare.attempts()) {
        assert_eq!(failure(attempt), None, "{attempt:#?}");
    }
    // nginx looks at the certificate last: its request has an error then.
    let (c, asked) = (client(1), sent(0, 0.5));
    let told = told(
        &mut core(),
        [
            c.request(&asked, "GET", "/"),
            u.connect(1.2, ConnectOutcome::Established, errand(1)),
            u.tls(4.5, done, 1),
            c.response(&asked.answered(502, 4.7)),
        ],
    );
    assert_eq!(error(&told), Some((Cause::TlsFailed, Certainty::Strong)));
}
