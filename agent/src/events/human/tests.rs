//! What a person reads.

use std::sync::Arc;

use agent_core::cause::{Cause, Certainty, How};
use agent_core::event::{Evidence, Failure, Request, ServerName};
use agent_core::observation::{Ended, Phase, TlsAlert};
use jiff::tz::TimeZone;

use super::{WIDTH, in_full, lines, list};
use crate::events::shape::{Envelope, Line};
use crate::events::teller::Teller;
use crate::identity::{Peer, Place, Whereabouts};
use crate::samples::{failed_attempt, good_attempt, request};

fn told(request: &Request) -> String {
    let shape = Teller::fixed(0).request(request, &Whereabouts::default(), Some(17));
    lines(
        &Envelope::new(Line::Request(Box::new(shape))),
        &TimeZone::UTC,
    )
}

#[test]
fn an_error_tells_its_cause_and_the_evidence() {
    assert_eq!(
        told(&request(Some(502), vec![failed_attempt()])),
        "00:00:01.999  nginx    POST /api/orders          → client 502    keepalive_race (proof)\n\
         \u{20}        #17  upstream 10.0.3.17:8080, reused connection, idle 7.002 s; 412 bytes sent, \
         none acknowledged, nothing\n\
         \u{20}             received; RST without ACK flag from the upstream after 41.0 ms; \
         the close crossed the request\n"
    );
}

#[test]
fn a_masked_failure_tells_what_it_cost() {
    let mut failed = failed_attempt();
    failed.masked = Some(true);

    let told = told(&request(Some(200), vec![failed, good_attempt()]));

    assert!(
        told.contains("→ client 200    masked: 1 failed attempt, keepalive_race, 41.0 ms lost\n"),
        "{told}"
    );
    assert_eq!(told.matches("upstream 10.0.3.17:8080").count(), 1, "{told}");
}

#[test]
fn an_error_without_an_attempt_says_so_and_has_its_number() {
    let mut request = request(Some(502), Vec::new());
    request.error = Some(Failure {
        cause: Cause::NoLiveUpstream,
        certainty: Certainty::Strong,
        phase: Phase::Idle,
        how: How::None,
    });

    let told = told(&request);

    assert!(told.contains("no_live_upstream (strong)\n"), "{told}");
    assert!(
        told.contains("  #17  no attempt at an upstream; after 43.0 ms;"),
        "{told}"
    );
}

#[test]
fn of_an_error_that_nothing_explains_nobody_says_that_there_was_no_attempt() {
    let mut request = request(Some(500), Vec::new());
    request.error = Some(Failure {
        cause: Cause::Unattributed,
        certainty: Certainty::Guess,
        phase: Phase::Idle,
        how: How::None,
    });

    let told = told(&request);

    assert!(
        told.contains("no attempt is known; after 43.0 ms"),
        "{told}"
    );
}

#[test]
fn of_many_attempts_the_first_are_told_one_by_one() {
    let told = told(&request(Some(503), vec![failed_attempt(); 9]));

    assert_eq!(told.matches("upstream 10.0.3.17:8080").count(), 4, "{told}");
    assert!(told.contains("and 5 more failed attempts\n"), "{told}");
}

#[test]
fn a_list_is_as_wide_as_its_entries_and_no_wider_than_a_terminal() {
    let short = request(Some(502), vec![failed_attempt()]);
    let mut long = short.clone();
    long.proxy.name = "edge-haproxy".into();
    long.head.as_mut().unwrap().path = format!("/{}", "very-long/".repeat(20)).into();
    let teller = Teller::fixed(0);
    let shapes =
        [short, long].map(|request| teller.request(&request, &Whereabouts::default(), Some(1)));

    let text = list(&shapes, &TimeZone::UTC);

    let arrows: Vec<usize> = text
        .lines()
        .filter_map(|line| line.split_once('→'))
        .map(|(before, _)| before.chars().count())
        .collect();
    assert_eq!(arrows.len(), 2);
    assert_eq!(arrows[0], arrows[1], "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= WIDTH + 2, "{line}");
    }
}

#[test]
fn each_way_to_fail_to_connect_has_its_words() {
    for (how, errno, syns, words) in [
        (How::Rst, None, 1, "RST answered the SYN after"),
        (
            How::Timeout,
            None,
            2,
            "no answer to 2 SYNs, given up by the proxy after",
        ),
        (
            How::Errno,
            Some(110),
            7,
            "no answer to 7 SYNs, given up by the kernel after",
        ),
        (
            How::Errno,
            Some(2),
            0,
            "connect failed after 41.0 ms: No such file or directory (errno 2)",
        ),
        (
            How::Icmp,
            Some(113),
            1,
            "the network answered unreachable after",
        ),
    ] {
        let mut attempt = failed_attempt();
        attempt.reused = Some(false);
        attempt.idle_seconds = None;
        attempt.failure = Some(Failure {
            cause: Cause::ConnectRefused,
            certainty: Certainty::Proof,
            phase: Phase::Connect,
            how,
        });
        attempt.evidence = Evidence {
            errno,
            syns,
            ..Evidence::default()
        };

        let told = told(&request(Some(502), vec![attempt])).replace("\n              ", " ");

        assert!(told.contains(words), "{told}");
        assert!(!told.contains("bytes"), "nothing was sent: {told}");
    }
}

#[test]
fn a_request_that_was_left_unread_is_not_said_to_have_been_in_hand() {
    let race = failed_attempt().failure;
    for (cause, says) in [
        (Cause::KeepaliveRace, "the close crossed the request"),
        (
            Cause::ClosedBeforeResponse,
            "had not read all of the request",
        ),
    ] {
        let mut attempt = failed_attempt();
        attempt.failure = race.map(|race| Failure { cause, ..race });
        attempt.evidence.request_acked = attempt.evidence.request_bytes;
        attempt.evidence.reset_reason = Some("tcp_abort_on_close");
        let words = told(&request(Some(502), vec![attempt])).replace("\n              ", " ");
        assert!(words.contains("it closed with data unread"), "{words}");
        assert!(words.contains(says), "{words}");
        assert!(!words.contains("in hand"), "{words}");
    }
}

#[test]
fn a_connection_that_was_not_seen_to_be_used_is_a_possibility() {
    for (cookie, says) in [
        (0, "perhaps a connection that is not read"),
        (77, "connection from before the agent"),
    ] {
        let mut attempt = failed_attempt();
        (attempt.cookie, attempt.reused) = (cookie, None);
        let words = told(&request(Some(502), vec![attempt])).replace("\n              ", " ");
        assert!(words.contains(says), "{words}");
    }
}

#[test]
fn what_few_attempts_have_is_told_where_it_was_seen() {
    let mut attempt = failed_attempt();
    attempt.evidence.process_ended = Some(Ended::OutOfMemory);
    attempt.evidence.tls_alert = Some(TlsAlert {
        by_peer: true,
        description: 40,
    });
    attempt.evidence.server_name = Some(ServerName::Sent("shop.internal".into()));
    attempt.evidence.read = Some(false);
    attempt.evidence.carried = Some(100);
    attempt.evidence.request_length = Some(9000);
    attempt.evidence.zero_window = true;
    let request = request(Some(502), vec![attempt]);

    let list = told(&request).replace("\n              ", " ");
    let full = in_full(
        &Teller::fixed(0).request(&request, &Whereabouts::default(), None),
        &TimeZone::UTC,
    );

    let full = full.replace("\n              ", " ");

    for words in [
        "the upstream offered no window",
        "killed by signal 9",
        "TLS alert handshake_failure (40) from the upstream",
        "the proxy asked for server name shop.internal",
        "no process of the upstream had read anything of it",
        "after 100 requests",
        "412 of 9000 bytes sent",
    ] {
        assert!(list.contains(words), "{list}");
        assert!(full.contains(words), "{full}");
    }
}

#[test]
fn in_full_it_is_a_timeline_with_numbers_words_and_fix() {
    let shape = Teller::fixed(0).request(
        &request(Some(502), vec![failed_attempt()]),
        &Whereabouts::default(),
        Some(17),
    );

    let text = in_full(&shape, &TimeZone::UTC);

    assert_eq!(
        text,
        "\
incident 17: keepalive_race (proof)

request     POST shop.example/api/orders
client      192.0.2.9:51000 got 502 after 43.0 ms
proxy       nginx, pid 4242
time        1970-01-01 00:00:01.999 UTC
trace       4bf92f3577b34da6a3ce929d0e0e4736
request id  r-1

        ms  from the first byte of the request
       0.0  request arrived from 192.0.2.9:51000
       1.0  attempt 1: request to 10.0.3.17:8080, reused connection, idle 7.002 s
              412 bytes sent, none acknowledged, nothing received
      42.0    RST without ACK flag from the upstream after 41.0 ms: keepalive_race (proof)
      43.0  answered 502

meaning     The upstream closed an idle connection at the moment the proxy sent a request on it; nobody processed the
            request.
evidence    attempt 1: request_bytes 412, request_acked 0, response_bytes 0, syns 1, retransmits 0, srtt_us 250,
            reset_had_ack false, phase request, how rst, joined by errand
its log     nginx writes: upstream prematurely closed connection while reading response header
fix         Make the proxy's idle timeout shorter than the upstream's keep-alive timeout (5 s in node.js), and retry
            idempotent requests.
more        docs/diagnosing.md#keepalive_race
"
    );
}

#[test]
fn an_upstream_is_told_with_where_it_was_translated_to() {
    let place = Place {
        namespace: Some(Arc::from("shop")),
        service: Some(Arc::from("cart")),
        pod: Some(Arc::from("cart-7d9")),
        ..Place::default()
    };
    let whereabouts = Whereabouts {
        upstreams: vec![Peer {
            place,
            endpoint: Some("10.244.1.7:8080".parse().unwrap()),
            ready_endpoints: Some(0),
            unconnected: None,
            known: crate::identity::served::Known::default(),
        }],
        ..Whereabouts::default()
    };
    let shape = Teller::fixed(0).request(
        &request(Some(502), vec![failed_attempt()]),
        &whereabouts,
        None,
    );

    let words = "10.0.3.17:8080 → 10.244.1.7:8080 (shop/cart, pod cart-7d9)";
    let told = [
        list(std::slice::from_ref(&shape), &TimeZone::UTC),
        in_full(&shape, &TimeZone::UTC),
    ];
    for text in told {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for words in [words, "no endpoint of its Service is ready"] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
    }
}

#[test]
fn a_fresh_attempt_that_succeeded_has_its_milestones() {
    let mut failed = failed_attempt();
    failed.masked = Some(true);
    let shape = Teller::fixed(0).request(
        &request(Some(200), vec![failed, good_attempt()]),
        &Whereabouts::default(),
        None,
    );

    let text = in_full(&shape, &TimeZone::UTC);

    for words in [
        "masked: 1 failed attempt, keepalive_race",
        "attempt 2: connect to 10.0.3.17:8080",
        "established after 300 µs",
        "head of the response complete: 200",
        "response complete",
        "answered 200",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
}

#[test]
fn signs_of_life_are_not_shown() {
    let envelope = Envelope::new(Line::Alive {
        time: String::new(),
    });

    assert_eq!(lines(&envelope, &TimeZone::UTC), "");
}
