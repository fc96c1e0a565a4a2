//! Causes that need more than the connection's own story: what a listener or a process on this
//! host did, what TLS records passed, what window was offered, how long a head was.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod support;

use agent_core::cause::{Cause, Certainty, How};
use agent_core::event::{ServerName, Upstream};
use agent_core::observation::{
    ConnectOutcome, End, Ended, Framing, Observation, Phase, TlsAlert, TlsHandshake,
};
use agent_core::{ProcessInfo, ProcessKind};
use agent_wire::record::flag;
use support::{
    Ex, PROXY, Sock, Told, attempt_of, client, core, errand, exchange_of, know, ms, parts, process,
    sent, told, upstream,
};

fn error(told: &Told) -> (Cause, Certainty, Phase, How) {
    parts(told.request().error.expect("the request got an error"))
}

fn fresh() -> (Sock, Ex) {
    (upstream(2).opened(1.2), sent(0, 2.0).errand(1, 0, 100))
}

fn hello() -> TlsHandshake {
    TlsHandshake {
        end: End::LocalClose,
        hello: ms(1.5),
        reply: None,
        peer_fin: None,
        finished: None,
        reply_is_tls: None,
        opening: None,
        alert: None,
        acked: true,
        said_goodbye: false,
    }
}

/// What a client was told of whose proxy's handshake went so.
fn after_tls(handshake: TlsHandshake, at: f64) -> (Cause, Certainty, Phase, How) {
    let u = upstream(2).opened(1.2);
    let seen: Vec<Observation> = vec![
        u.connect(1.4, ConnectOutcome::Established, errand(1)),
        u.tls(at, handshake, 1),
    ];
    error(&exchange_of(seen, 502, at + 0.2))
}

#[test]
fn a_listener_that_does_not_answer_a_syn_has_a_full_queue() {
    let seen = upstream(2)
        .opened(1.2)
        .syns(2)
        .connect_unaccepted(1001.2, errand(1));
    assert_eq!(
        error(&exchange_of(vec![seen], 504, 1001.4)),
        (
            Cause::AcceptQueueFull,
            Certainty::Strong,
            Phase::Connect,
            How::Timeout
        )
    );
}

#[test]
fn a_unix_connect_that_would_block_is_a_full_queue() {
    let seen = upstream(0)
        .errno(11)
        .unix_connect(1.2, "/run/php.sock", errand(1));
    assert_eq!(
        error(&exchange_of(vec![seen], 502, 1.4)),
        (
            Cause::AcceptQueueFull,
            Certainty::Proof,
            Phase::Connect,
            How::Errno
        )
    );
}

#[test]
fn a_handshake_that_ends_early_is_tls_failed_whoever_ends_it() {
    let alert = |by_peer| TlsHandshake {
        reply: Some(ms(1.6)),
        reply_is_tls: Some(true),
        alert: Some(TlsAlert {
            by_peer,
            description: 40,
        }),
        ..hello()
    };
    let cases = [
        (
            TlsHandshake {
                end: End::PeerFin,
                ..hello()
            },
            1.8,
            How::Fin,
        ),
        (
            TlsHandshake {
                end: End::PeerReset,
                ..hello()
            },
            1.8,
            How::Rst,
        ),
        (alert(true), 1.8, How::None),
        (alert(false), 1.8, How::None),
        (
            TlsHandshake {
                reply: Some(ms(1.6)),
                reply_is_tls: Some(false),
                ..hello()
            },
            1.8,
            How::None,
        ),
        (hello(), 1001.5, How::Timeout),
        (
            TlsHandshake {
                reply: Some(ms(1.6)),
                reply_is_tls: Some(true),
                ..hello()
            },
            1.8,
            How::None,
        ),
    ];
    for (handshake, at, how) in cases {
        assert_eq!(
            after_tls(handshake, at),
            (Cause::TlsFailed, Certainty::Proof, Phase::Tls, how),
            "{handshake:?}"
        );
    }
}

#[test]
fn a_hello_that_nobody_acknowledged_is_no_proof_of_a_tls_fault() {
    let lost = TlsHandshake {
        acked: false,
        said_goodbye: false,
        ..hello()
    };
    let (cause, certainty, ..) = after_tls(lost, 1001.5);
    assert_eq!((cause, certainty), (Cause::TlsFailed, Certainty::Strong));
}

/// The server's end of the same connection, on this host.
fn other_end(u: &Sock, tgid: Option<u32>) -> Sock {
    let mut served = client(3).of(tgid);
    served.socket.local = u.socket.remote;
    served.socket.remote = u.socket.local;
    served
}

#[test]
fn a_connection_broken_by_the_death_of_its_server_is_upstream_crashed() {
    const APP: u32 = 200;
    let mut core = core();
    know(&mut core, APP, "app", ProcessKind::Unknown);
    let (u, x) = fresh();
    // The application's end of the same connection.
    let served = other_end(&u, Some(APP));
    let x = x.ended(End::PeerFin).peer_fin(40.0);
    let (c, asked) = (client(1), sent(0, 1.0));
    let mut seen = vec![
        c.request(&asked, "POST", "/orders"),
        u.request(&x, "POST", "/orders"),
        served.request(&sent(0, 2.1), "POST", "/orders"),
        served.ends(39.0, Ended::Signal(11)),
        u.end(40.0, &x),
        c.response(&asked.answered(502, 40.2)),
    ];
    seen.sort_by_key(|seen| seen.socket.time);
    let told = told(&mut core, seen);
    assert_eq!(
        error(&told),
        (
            Cause::UpstreamCrashed,
            Certainty::Proof,
            Phase::Request,
            How::Fin
        )
    );
    assert_eq!(
        told.attempt().evidence.process_ended,
        Some(Ended::Signal(11))
    );
}

/// The machine of the upstream was away when its process died, and the next request meets its successor.
#[test]
fn a_process_that_died_long_before_the_request_had_it_not_in_hand() {
    const APP: u32 = 200;
    for (died, expected) in [(-3500.0, None), (-40.0, Some(Ended::Signal(9)))] {
        let mut core = core();
        know(&mut core, APP, "app", ProcessKind::Unknown);
        let (u, x) = fresh();
        let x = x.acked(0).ended(End::PeerReset);
        let (c, asked) = (client(1), sent(0, 1.0));
        let seen = vec![
            other_end(&u, Some(APP)).ends(died, Ended::Signal(9)),
            c.request(&asked, "POST", "/orders"),
            u.request(&x, "POST", "/orders"),
            u.end(3.0, &x),
            c.response(&asked.answered(502, 3.2)),
        ];
        let told = told(&mut core, seen);
        assert_eq!(told.attempt().evidence.process_ended, expected, "{died}");
        let (cause, ..) = error(&told);
        assert_eq!(cause == Cause::UpstreamCrashed, expected.is_some());
    }
}

/// What is told of a connection over the loopback of one network that broke 1 ms after a process in
/// another died that served a connection between the same two addresses.
fn after_a_death_elsewhere(own: Option<u64>, other: Option<u64>) -> Told {
    const APP: u32 = 200;
    let mut core = core();
    let of = |name, network| ProcessInfo {
        network,
        ..process(name, ProcessKind::Known)
    };
    core.know_process(PROXY, of("nginx", own));
    core.know_process(APP, of("app", other));
    let (mut u, x) = fresh();
    u.socket.local = "127.0.0.1:41000".parse().expect("address");
    u.socket.remote = "127.0.0.1:8080".parse().expect("address");
    let served = other_end(&u, Some(APP));
    let x = x.ended(End::PeerFin).peer_fin(40.0);
    let (c, asked) = (client(1), sent(0, 1.0));
    let seen = vec![
        c.request(&asked, "POST", "/orders"),
        u.request(&x, "POST", "/orders"),
        served.request(&sent(0, 2.1), "POST", "/orders"),
        served.ends(39.0, Ended::Signal(9)),
        u.end(40.0, &x),
        c.response(&asked.answered(502, 40.2)),
    ];
    told(&mut core, seen)
}

#[test]
fn a_death_in_another_network_breaks_no_connection_between_the_same_loopback_addresses() {
    for (own, other) in [
        (Some(3), Some(4)),
        (None, Some(4)),
        (Some(3), None),
        (None, None),
    ] {
        let told = after_a_death_elsewhere(own, other);
        let (cause, ..) = error(&told);
        assert_eq!(cause, Cause::ClosedBeforeResponse, "{own:?} {other:?}");
    }
    let (cause, certainty, ..) = error(&after_a_death_elsewhere(Some(3), Some(3)));
    assert_eq!(
        (cause, certainty),
        (Cause::UpstreamCrashed, Certainty::Proof)
    );
}

#[test]
fn a_server_killed_while_the_request_is_on_its_way_makes_no_race() {
    const APP: u32 = 200;
    let mut core = core();
    know(&mut core, APP, "app", ProcessKind::Unknown);
    let u = upstream(2).opened(-9000.0).srtt_us(40_000);
    let x = sent(3, 2.0).idle_since(-5000.0).errand(1, 0, 100).acked(0);
    let x = x.ended(End::PeerFin).peer_fin(24.0);
    let served = other_end(&u, Some(APP)).opened(-8980.0);
    let (c, asked) = (client(1), sent(0, 1.0));
    let mut seen = vec![
        served.request(&sent(2, -5100.0), "POST", "/orders"),
        c.request(&asked, "POST", "/orders"),
        u.request(&x, "POST", "/orders"),
        served.ends(3.0, Ended::Signal(9)),
        u.end(24.0, &x),
        c.response(&asked.answered(502, 24.2)),
    ];
    seen.sort_by_key(|seen| seen.socket.time);

    let told = told(&mut core, seen);

    assert_eq!(
        error(&told),
        (
            Cause::UpstreamCrashed,
            Certainty::Proof,
            Phase::Request,
            How::Fin
        )
    );
}

/// What is told of a fresh connection that breaks with a FIN when the server's process ends so, the
/// server's own socket having been read by nobody.
fn after_the_end_of_the_server(ended: Ended) -> Told {
    let mut core = core();
    let (u, x) = fresh();
    let served = other_end(&u, None);
    let x = x.ended(End::PeerFin).peer_fin(40.0);
    let (c, asked) = (client(1), sent(0, 1.0));
    let mut seen = vec![
        c.request(&asked, "POST", "/orders"),
        u.request(&x, "POST", "/orders"),
        served.request(&sent(0, 2.1), "POST", "/orders"),
        served.ends(39.0, ended),
        u.end(40.0, &x),
        c.response(&asked.answered(502, 40.2)),
    ];
    seen.sort_by_key(|seen| seen.socket.time);
    told(&mut core, seen)
}

#[test]
fn a_server_that_exits_with_an_error_crashed() {
    for ended in [Ended::Status(9), Ended::Signal(15), Ended::OutOfMemory] {
        let told = after_the_end_of_the_server(ended);
        assert_eq!(
            error(&told),
            (
                Cause::UpstreamCrashed,
                Certainty::Proof,
                Phase::Request,
                How::Fin
            )
        );
        assert_eq!(told.attempt().evidence.process_ended, Some(ended));
    }
}

#[test]
fn a_server_that_exits_with_status_0_closed_the_connection() {
    let told = after_the_end_of_the_server(Ended::Status(0));
    assert_eq!(
        error(&told),
        (
            Cause::ClosedBeforeResponse,
            Certainty::Proof,
            Phase::Request,
            How::Fin
        )
    );
    assert_eq!(
        told.attempt().evidence.process_ended,
        Some(Ended::Status(0))
    );
}

#[test]
fn an_upstream_of_a_socket_that_was_never_made_is_not_known() {
    const EMFILE: u16 = 24;
    let c = client(1);
    let asked = sent(0, 1.0);
    let mut failed = upstream(0);
    failed.socket.remote = "[::]:0".parse().expect("an address");
    failed.socket.errno = Some(EMFILE);
    let told = told(
        &mut core(),
        vec![
            c.request(&asked, "GET", "/orders"),
            failed.connect_errno(2.0, errand(1)),
            c.response(&asked.answered(500, 2.2)),
        ],
    );
    assert_eq!(
        error(&told),
        (
            Cause::ConnectLocalError,
            Certainty::Proof,
            Phase::Connect,
            How::Errno
        )
    );
    assert_eq!(told.attempt().upstream, Upstream::Unknown);
}

#[test]
fn a_peer_that_offers_no_window_stalls_the_request() {
    let (u, mut x) = fresh();
    x.exchange.request_bytes = 9000;
    x = x.acked(8000).ended(End::LocalClose);
    let attempt = attempt_of(&u.flag(flag::ZERO_WINDOW), &x, 1002.0);
    assert_eq!(
        error(&exchange_of(attempt, 504, 1002.2)),
        (
            Cause::RequestStalled,
            Certainty::Proof,
            Phase::Request,
            How::Timeout
        )
    );
}

#[test]
fn a_proxy_that_stops_in_a_long_head_found_it_too_big() {
    let (u, x) = fresh();
    let x = x.partial_head(30_000, 5.0).ended(End::LocalClose);
    let told = exchange_of(attempt_of(&u.flag(flag::HEAD_CUT), &x, 5.2), 502, 5.4);
    assert_eq!(
        error(&told),
        (
            Cause::HeaderTooBig,
            Certainty::Proof,
            Phase::Head,
            How::None
        )
    );
    assert_eq!(told.attempt().code, None, "nothing usable was answered");
}

/// HAProxy has no CPU for a third of a second. It says 504 of timers.
#[test]
fn a_head_that_is_found_too_big_late_is_no_slow_application() {
    let (u, x) = fresh();
    let x = x.partial_head(70_000, 5.0).ended(End::LocalClose);
    let u = u.flag(flag::HEAD_CUT);
    for (closed, code, expected) in [
        (335.2, 502, (Cause::HeaderTooBig, Certainty::Guess)),
        (335.2, 504, (Cause::ResponseTimeout, Certainty::Strong)),
        (5005.2, 502, (Cause::ResponseTimeout, Certainty::Strong)),
    ] {
        let told = exchange_of(attempt_of(&u, &x, closed), code, closed + 0.2);
        let (cause, sure, ..) = error(&told);
        assert_eq!((cause, sure), expected, "{code} at {closed} ms");
    }
}

#[test]
fn a_long_head_that_reached_the_client_is_no_failure() {
    let (u, x) = fresh();
    let mut x = x.partial_head(30_000, 5.0).ended(End::LocalClose);
    x.exchange.status = 200;
    let told = exchange_of(attempt_of(&u.flag(flag::HEAD_CUT), &x, 5.2), 200, 5.4);
    assert_eq!(told.request().error, None);
    assert_eq!(told.attempt().failure, None);
    assert_eq!(told.attempt().code, Some(200));
}

#[test]
fn a_body_that_was_never_chunked_is_invalid_even_when_the_peer_closes() {
    let (u, x) = fresh();
    let x = x
        .head(200, 5.0, Framing::Chunked)
        .body(40, 5.0)
        .ended(End::PeerFin)
        .peer_fin(5.1);
    let told = exchange_of(attempt_of(&u.flag(flag::BAD_CHUNK), &x, 5.1), 200, 5.4);
    let failure = told.attempt().failure.expect("it failed");
    assert_eq!(
        parts(failure),
        (
            Cause::InvalidResponse,
            Certainty::Proof,
            Phase::Body,
            How::Fin
        )
    );
}

#[test]
fn a_handshake_that_failed_is_told_with_the_server_that_it_named() {
    for (name, expected) in [
        (
            Some("shop.internal"),
            ServerName::Sent("shop.internal".into()),
        ),
        (None, ServerName::Absent),
    ] {
        let u = upstream(2).opened(1.2);
        let refused = TlsHandshake {
            end: End::PeerFin,
            ..hello()
        };
        let seen = vec![
            u.connect(1.4, ConnectOutcome::Established, errand(1)),
            u.hello(1.5, name),
            u.tls(1.8, refused, 1),
        ];

        let told = exchange_of(seen, 502, 2.0);

        assert_eq!(told.attempt().evidence.server_name, Some(expected));
    }
}

#[test]
fn a_timeout_is_proof_where_somebody_at_the_upstream_had_read_the_request() {
    let (u, x) = fresh();
    let x = x.acked(412).ended(End::LocalClose);
    for (reader, expected, sure) in [
        (Some(77), Some(true), Certainty::Proof),
        (None, Some(false), Certainty::Strong),
    ] {
        let mut seen = attempt_of(&u, &x, 1002.0);
        seen.push(other_end(&u, reader).abandoned(1002.1));

        let told = exchange_of(seen, 504, 1002.2);

        let (cause, certainty, ..) = error(&told);
        assert_eq!((cause, certainty), (Cause::ResponseTimeout, sure));
        assert_eq!(told.attempt().evidence.read, expected);
    }
    // Elsewhere, or where it answered: what it sent may have been lost on its way.
    let told = exchange_of(attempt_of(&u, &x, 1002.0), 504, 1002.2);
    let (cause, certainty, ..) = error(&told);
    assert_eq!(
        (cause, certainty),
        (Cause::ResponseTimeout, Certainty::Strong)
    );
    assert_eq!(told.attempt().evidence.read, None, "nobody told");
}
