//! Each cause, from the observations that prove it, and its lookalikes.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod support;

use agent_core::cause::{Cause, Certainty, How};
use agent_core::event::{ConnectResult, Event, Join, Upstream};
use agent_core::observation::{ConnectOutcome, End, Framing, Phase};
use agent_wire::record::flag;
use support::{Told, attempt_of, client, core, errand, exchange_of, parts, sent, told, upstream};

fn cause(told: &Told) -> (Cause, Certainty, Phase, How) {
    let failure = told.attempt().failure.expect("the attempt failed");
    parts(failure)
}

fn error(told: &Told) -> (Cause, Certainty, Phase, How) {
    parts(told.request().error.expect("the request got an error"))
}

#[test]
fn a_request_answered_by_its_upstream_is_told_with_its_attempt_and_no_error() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0).errand(1, 0, 300).answered(200, 12.0);
    let mut attempt = vec![u.connect(1.8, ConnectOutcome::Established, errand(1))];
    attempt.extend(attempt_of(&u, &x, 12.0));
    let told = exchange_of(attempt, 200, 13.0);

    let request = told.request();
    assert_eq!(
        (request.code, request.complete, request.error),
        (Some(200), true, None)
    );
    assert_eq!(request.seconds, 0.012);
    let attempt = told.attempt();
    assert_eq!((attempt.failure, attempt.masked), (None, None));
    assert_eq!((attempt.join, attempt.reused), (Join::Errand, Some(false)));
    assert!((attempt.connect_seconds.expect("fresh") - 0.0003).abs() < 1e-9);
    assert!((attempt.header_seconds.expect("head") - 0.0105).abs() < 1e-9);
    assert!((attempt.response_seconds - 0.0105).abs() < 1e-9);
    assert_eq!(request.attempts.len(), 1);
    assert!(told.events.iter().any(|event| matches!(
        event,
        Event::Connect(done) if done.result == ConnectResult::Established
    )));
}

#[test]
fn a_reset_in_answer_to_the_syn_is_connect_refused() {
    let attempt = vec![
        upstream(2)
            .opened(1.2)
            .connect(1.4, ConnectOutcome::Reset, errand(1)),
    ];
    let told = exchange_of(attempt, 502, 1.6);
    let proof = (
        Cause::ConnectRefused,
        Certainty::Proof,
        Phase::Connect,
        How::Rst,
    );
    assert_eq!(cause(&told), proof);
    assert_eq!(error(&told), proof);
    assert_eq!(told.request().error_attempt, Some(0));
    assert_eq!(told.attempt().masked, Some(false));
}

#[test]
fn a_missing_unix_socket_is_connect_refused() {
    let seen = upstream(0)
        .errno(2)
        .unix_connect(1.2, "/run/app.sock", errand(1));
    let told = exchange_of(vec![seen], 502, 1.4);
    assert_eq!(
        cause(&told),
        (
            Cause::ConnectRefused,
            Certainty::Proof,
            Phase::Connect,
            How::Errno
        )
    );
    assert_eq!(
        told.attempt().upstream,
        Upstream::Unix("/run/app.sock".into())
    );
}

#[test]
fn a_missing_name_service_socket_is_no_attempt() {
    let seen = upstream(0)
        .errno(2)
        .unix_connect(1.2, "/var/run/nscd/socket", errand(1));
    let told = exchange_of(vec![seen], 200, 1.4);
    assert_eq!(told.attempts().len(), 0);
}

#[test]
fn a_syn_without_answer_is_connect_timeout_and_says_who_gave_up() {
    let u = upstream(2).opened(1.2).syns(3);
    let by_proxy = vec![u.connect(3001.0, ConnectOutcome::ClosedByUs, errand(1))];
    assert_eq!(
        error(&exchange_of(by_proxy, 504, 3001.5)),
        (
            Cause::ConnectTimeout,
            Certainty::Proof,
            Phase::Connect,
            How::Timeout
        )
    );
    let by_kernel = vec![
        u.errno(110)
            .connect(127_000.0, ConnectOutcome::KernelError, errand(1)),
    ];
    assert_eq!(
        error(&exchange_of(by_kernel, 502, 127_000.5)),
        (
            Cause::ConnectTimeout,
            Certainty::Proof,
            Phase::Connect,
            How::Errno
        )
    );
}

/// As kernels before 5.15 leave it: taken down by the kernel, with no error told.
#[test]
fn a_syn_that_the_kernel_gave_up_without_saying_why_is_not_explained() {
    let u = upstream(2).opened(1.2).syns(3);
    let silent = vec![u.connect(3001.0, ConnectOutcome::KernelError, errand(1))];
    let (cause, certainty, phase, _) = error(&exchange_of(silent, 502, 3001.5));
    assert_eq!(
        (cause, certainty, phase),
        (Cause::Unattributed, Certainty::Guess, Phase::Connect)
    );
}

#[test]
fn no_route_and_icmp_are_host_unreachable() {
    let by_call = vec![upstream(2).errno(101).connect_errno(1.2, errand(1))];
    assert_eq!(
        error(&exchange_of(by_call, 502, 1.3)),
        (
            Cause::HostUnreachable,
            Certainty::Proof,
            Phase::Connect,
            How::Errno
        )
    );
    let u = upstream(2).opened(1.2).flag(flag::SOFT_ERROR);
    let by_icmp = vec![u.connect(1000.0, ConnectOutcome::ClosedByUs, errand(1))];
    assert_eq!(
        error(&exchange_of(by_icmp, 504, 1000.2)),
        (
            Cause::HostUnreachable,
            Certainty::Proof,
            Phase::Connect,
            How::Icmp
        )
    );
}

#[test]
fn a_port_that_an_icmp_calls_unreachable_is_connect_refused() {
    let u = upstream(2).opened(1.2).flag(flag::SOFT_ERROR).errno(111);
    let by_icmp = vec![u.connect(1.3, ConnectOutcome::ClosedByUs, errand(1))];
    assert_eq!(
        error(&exchange_of(by_icmp, 502, 1.4)),
        (
            Cause::ConnectRefused,
            Certainty::Proof,
            Phase::Connect,
            How::Icmp
        )
    );
}

#[test]
fn no_free_port_is_connect_local_error() {
    let attempt = vec![upstream(2).errno(99).connect_errno(1.2, errand(1))];
    let told = exchange_of(attempt, 502, 1.3);
    assert_eq!(
        error(&told),
        (
            Cause::ConnectLocalError,
            Certainty::Proof,
            Phase::Connect,
            How::Errno
        )
    );
}

#[test]
fn a_connect_still_under_way_is_no_failure() {
    let attempt = vec![upstream(2).errno(115).connect_errno(1.2, errand(1))];
    assert_eq!(exchange_of(attempt, 200, 1.3).attempts().len(), 0);
}

#[test]
fn a_fin_that_does_not_acknowledge_the_request_is_a_race() {
    let u = upstream(2).opened(-9000.0).srtt_us(40_000);
    let x = sent(3, 2.0).idle_since(-5000.0).errand(1, 0, 100).acked(0);
    let x = x.ended(End::PeerFin).peer_fin(24.0);
    let told = exchange_of(attempt_of(&u, &x, 24.0), 502, 24.2);
    let proof = (
        Cause::KeepaliveRace,
        Certainty::Proof,
        Phase::Request,
        How::Fin,
    );
    assert_eq!(cause(&told), proof);
    assert_eq!(error(&told), proof);
    let attempt = told.attempt();
    assert_eq!(attempt.reused, Some(true));
    assert!((attempt.idle_seconds.expect("reused") - 5.002).abs() < 1e-9);
}

#[test]
fn a_reset_that_acknowledges_nothing_may_be_a_race_and_one_after_a_part_was_read_is_not() {
    let u = upstream(2)
        .opened(-9000.0)
        .flag(flag::PEER_RESET)
        .srtt_us(1000);
    let x = sent(3, 2.0)
        .idle_since(-5000.0)
        .errand(1, 0, 100)
        .ended(End::PeerReset);
    let partly = attempt_of(&u, &x.clone().acked(40), 43.0);
    assert_ne!(
        cause(&exchange_of(partly, 502, 43.2)).0,
        Cause::KeepaliveRace
    );
    let bare = attempt_of(&u, &x.clone().acked(0), 43.0);
    assert_eq!(
        cause(&exchange_of(bare, 502, 43.2)),
        (
            Cause::KeepaliveRace,
            Certainty::Guess,
            Phase::Request,
            How::Rst
        )
    );
    let late = attempt_of(&u.flag(flag::RESET_HAD_ACK), &x, 43.0);
    assert_eq!(
        cause(&exchange_of(late, 502, 43.2)),
        (
            Cause::ClosedBeforeResponse,
            Certainty::Strong,
            Phase::Request,
            How::Rst
        )
    );
}

#[test]
fn an_early_close_of_an_acknowledged_request_is_perhaps_a_race() {
    let u = upstream(2)
        .opened(-9000.0)
        .flag(flag::PEER_RESET | flag::RESET_HAD_ACK);
    let x = sent(3, 2.0)
        .idle_since(-5000.0)
        .errand(1, 0, 100)
        .ended(End::PeerReset);
    assert_eq!(
        cause(&exchange_of(attempt_of(&u, &x, 4.0), 502, 4.2)),
        (
            Cause::KeepaliveRace,
            Certainty::Guess,
            Phase::Request,
            How::Rst
        )
    );
}

#[test]
fn an_early_fin_that_acknowledges_the_request_is_no_race() {
    let u = upstream(2).opened(-9000.0);
    let x = sent(3, 2.0)
        .idle_since(-5000.0)
        .errand(1, 0, 100)
        .ended(End::PeerFin)
        .peer_fin(4.0);
    assert_eq!(
        cause(&exchange_of(attempt_of(&u, &x, 4.0), 502, 4.2)),
        (
            Cause::ClosedBeforeResponse,
            Certainty::Strong,
            Phase::Request,
            How::Fin
        )
    );
}

#[test]
fn on_a_connection_of_unknown_age_a_race_is_no_proof() {
    let u = upstream(2).picked_up();
    let x = sent(0, 2.0)
        .errand(1, 0, 100)
        .acked(0)
        .ended(End::PeerFin)
        .peer_fin(3.0);
    let told = exchange_of(attempt_of(&u, &x, 3.0), 502, 3.2);
    assert_eq!(
        cause(&told),
        (
            Cause::KeepaliveRace,
            Certainty::Strong,
            Phase::Request,
            How::Fin
        )
    );
    assert_eq!(told.attempt().reused, None);
}

#[test]
fn on_a_fresh_connection_it_is_never_a_race() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0)
        .errand(1, 0, 100)
        .acked(0)
        .ended(End::PeerFin)
        .peer_fin(2.2);
    assert_eq!(
        cause(&exchange_of(attempt_of(&u, &x, 2.2), 502, 2.4)),
        (
            Cause::ClosedBeforeResponse,
            Certainty::Proof,
            Phase::Request,
            How::Fin
        )
    );
}

#[test]
fn a_response_that_breaks_off_is_truncated_in_head_or_body() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0).errand(1, 0, 100).ended(End::PeerReset);
    let head = attempt_of(&u, &x.clone().partial_head(30, 9.0), 10.0);
    assert_eq!(
        error(&exchange_of(head, 502, 10.2)),
        (
            Cause::TruncatedResponse,
            Certainty::Proof,
            Phase::Head,
            How::Rst
        )
    );
    let short = x.head(200, 9.0, Framing::Length(1000)).body(400, 9.5);
    let told = exchange_of(attempt_of(&u, &short, 10.0), 200, 10.2);
    assert_eq!(
        cause(&told),
        (
            Cause::TruncatedResponse,
            Certainty::Proof,
            Phase::Body,
            How::Rst
        )
    );
    assert_eq!(told.request().error, None, "the client got 200");
    assert_eq!(told.attempt().masked, Some(false), "and a cut body");
}

#[test]
fn chunks_without_the_last_are_truncated_and_a_body_until_close_is_not() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0)
        .errand(1, 0, 100)
        .ended(End::PeerFin)
        .peer_fin(10.0);
    let chunked = x.clone().head(200, 9.0, Framing::Chunked).body(400, 9.5);
    assert_eq!(
        cause(&exchange_of(attempt_of(&u, &chunked, 10.0), 200, 10.2)).0,
        Cause::TruncatedResponse
    );
    let until_close = x.head(200, 9.0, Framing::Close).body(400, 9.5);
    let fin = exchange_of(attempt_of(&u, &until_close, 10.0), 200, 10.2);
    assert_eq!(fin.attempt().failure, None);
    let reset = until_close.ended(End::PeerReset);
    assert_eq!(
        cause(&exchange_of(attempt_of(&u, &reset, 9.8), 200, 10.2)).0,
        Cause::TruncatedResponse
    );
}

#[test]
fn bytes_that_are_not_http_are_an_invalid_response() {
    // Of two under way at once on a connection, it may be the other's.
    for (pipelined, certainty) in [(0, Certainty::Proof), (flag::PIPELINED, Certainty::Strong)] {
        let u = upstream(2).opened(1.5).flag(flag::NOT_HTTP | pipelined);
        let x = sent(0, 2.0)
            .errand(1, 0, 100)
            .partial_head(30, 3.0)
            .ended(End::PeerFin)
            .peer_fin(4.0);
        assert_eq!(
            error(&exchange_of(attempt_of(&u, &x, 4.0), 502, 4.2)),
            (Cause::InvalidResponse, certainty, Phase::Head, How::Fin)
        );
    }
}

#[test]
fn a_head_the_proxy_would_not_have_is_perhaps_an_invalid_response() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0)
        .errand(1, 0, 100)
        .head(200, 3.0, Framing::Chunked);
    let told = exchange_of(attempt_of(&u, &x.ended(End::LocalClose), 3.1), 502, 3.2);
    assert_eq!(
        error(&told),
        (
            Cause::InvalidResponse,
            Certainty::Guess,
            Phase::Body,
            How::None
        )
    );
}

#[test]
fn a_proxy_that_closes_after_silence_ran_into_its_timeout() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0).errand(1, 0, 100).ended(End::LocalClose);
    let strong = (
        Cause::ResponseTimeout,
        Certainty::Strong,
        Phase::Request,
        How::Timeout,
    );
    let closes_first = exchange_of(attempt_of(&u, &x, 5002.0), 504, 5002.2);
    assert_eq!(error(&closes_first), strong);

    let (c, asked) = (client(1), sent(0, 1.0));
    let answers_first = told(
        &mut core(),
        [
            c.request(&asked, "POST", "/orders"),
            u.request(&x, "POST", "/orders"),
            c.response(&asked.answered(504, 5002.0)),
            u.end(5002.5, &x.ended(End::LocalReset)),
        ],
    );
    assert_eq!(error(&answers_first), strong);
}

/// Of a client that speaks TLS nothing is read: it may have left.
#[test]
fn a_proxy_that_closes_after_silence_may_have_lost_a_client_that_was_not_read() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0).ended(End::LocalClose);
    let told = told(&mut core(), attempt_of(&u, &x, 5002.0));
    assert_eq!(
        cause(&told),
        (
            Cause::ResponseTimeout,
            Certainty::Guess,
            Phase::Request,
            How::Timeout
        )
    );
}

#[test]
fn a_request_that_is_sent_again_and_again_is_a_lost_path_not_a_slow_application() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0)
        .errand(1, 0, 100)
        .acked(0)
        .ended(End::LocalClose);
    let mut attempt = attempt_of(&u, &x, 5002.0);
    attempt[1].socket.retransmits = 4;
    assert_eq!(
        error(&exchange_of(attempt, 504, 5002.2)),
        (
            Cause::PathLost,
            Certainty::Proof,
            Phase::Request,
            How::Timeout
        )
    );
}

#[test]
fn a_kernel_that_gives_up_is_no_slow_application() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0)
        .errand(1, 0, 100)
        .acked(0)
        .ended(End::KernelError);
    let attempt = attempt_of(&u.errno(110), &x, 900_000.0);
    assert_eq!(
        error(&exchange_of(attempt, 502, 900_000.2)),
        (
            Cause::PathLost,
            Certainty::Proof,
            Phase::Request,
            How::Errno
        )
    );
}

#[test]
fn a_kernel_that_gives_up_on_a_peer_that_offers_no_window_is_a_stalled_request() {
    let lasting = [(2502.0, Certainty::Strong), (900_000.0, Certainty::Guess)];
    for (ended, expected) in lasting {
        let u = upstream(2).opened(1.5).flag(flag::ZERO_WINDOW).errno(110);
        let x = sent(0, 2.0)
            .errand(1, 0, 100)
            .acked(0)
            .ended(End::KernelError);
        let attempt = attempt_of(&u, &x, ended);
        let found = error(&exchange_of(attempt, 502, ended + 0.2));
        let stalled = Cause::RequestStalled;
        assert_eq!(found, (stalled, expected, Phase::Request, How::Errno));
    }
}

#[test]
fn a_connection_that_somebody_had_the_kernel_end_is_no_lost_path() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0).errand(1, 0, 100).ended(End::KernelError);
    let attempt = attempt_of(&u.errno(103), &x, 900.0);
    assert_eq!(
        error(&exchange_of(attempt, 502, 900.2)),
        (
            Cause::Unattributed,
            Certainty::Guess,
            Phase::Request,
            How::None
        )
    );
}

#[test]
fn an_upstream_that_answers_503_itself_is_upstream_status() {
    let u = upstream(2).opened(1.5);
    let x = sent(0, 2.0).errand(1, 0, 100).answered(503, 9.0);
    let told = exchange_of(attempt_of(&u, &x, 9.0), 503, 9.5);
    assert_eq!(
        error(&told),
        (
            Cause::UpstreamStatus,
            Certainty::Proof,
            Phase::Body,
            How::None
        )
    );
}

#[test]
fn an_error_after_an_attempt_that_succeeded_is_unattributed() {
    let x = sent(0, 2.0).errand(1, 0, 100).answered(200, 9.0);
    let told = exchange_of(attempt_of(&upstream(2).opened(1.5), &x, 9.0), 502, 9.5);
    let failure = told.request().error.expect("an error");
    assert_eq!(
        (failure.cause, failure.certainty),
        (Cause::Unattributed, Certainty::Guess)
    );
    assert_eq!(told.attempt().failure, None);
}

#[test]
fn a_failed_attempt_that_another_one_made_good_is_masked() {
    let refused = upstream(2).opened(1.2).to("10.0.3.18:8080");
    let good = upstream(3).opened(1.6);
    let x = sent(0, 2.0).errand(1, 0, 900).answered(200, 9.0);
    let mut attempts = vec![refused.connect(1.4, ConnectOutcome::Reset, errand(1))];
    attempts.extend(attempt_of(&good, &x, 9.0));
    let told = exchange_of(attempts, 200, 9.5);
    let request = told.request();
    assert_eq!(request.error, None);
    assert_eq!(request.attempts.len(), 2);
    assert_eq!(request.attempts[0].masked, Some(true));
    assert_eq!(
        request.attempts[0].failure.expect("refused").cause,
        Cause::ConnectRefused
    );
    assert_eq!(request.attempts[1].masked, None);
}
