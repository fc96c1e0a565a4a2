//! Connections whose bytes are not read: how requests fare on them, by the length of segments.

mod support;

use agent_flow::flow::phase;
use agent_wire::plain::read;
use agent_wire::record::{End, Errand, UnreadClient, end, flag, kind, side, talk};
use agent_wire::tally::Tally;
use support::Connection;

/// How FastCGI begins.
const FASTCGI: &[u8] = &[1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0];
const ANSWER: &[u8] = &[1, 6, 0, 1, 0, 4, 4, 0, b'S', b't', b'a', b't', 0, 0, 0, 0];

/// The UNREAD records, how each ended and the bytes of both directions.
fn uses(connection: &Connection) -> Vec<(u8, u64, u64)> {
    let records = connection.records();
    let unread = records.iter().filter(|record| record.kind == kind::UNREAD);
    unread
        .filter_map(|record| read::<End>(&record.bytes))
        .map(|it| {
            (
                it.exchange.end,
                it.exchange.request_bytes,
                it.exchange.response_bytes,
            )
        })
        .collect()
}

#[test]
fn a_use_is_reported_when_its_connection_ends() {
    let mut connection = Connection::to_upstream();
    connection.segment(true, 0, FASTCGI);
    connection.segment(false, 0, ANSWER);
    connection.ends(end::PEER_FIN);
    assert_eq!(uses(&connection), [(end::PEER_FIN, 16, 16)]);
}

#[test]
fn a_kept_connection_is_used_again_on_another_errand_only() {
    let mut connection = Connection::to_upstream();
    let errand = |cookie| Errand {
        cookie,
        index: 0,
        age_us: 0,
    };
    // Given up as not HTTP with the fourth segment.
    let (mut sent, mut received) = (0, 0);
    for cookie in [5, 5, 5, 6] {
        connection.host.errand.set(errand(cookie));
        connection.segment(true, sent, FASTCGI);
        connection.segment(false, received, ANSWER);
        sent += 16;
        received += 16;
    }
    assert_eq!(connection.flow.phase, phase::OPAQUE);
    let uses = uses(&connection);
    assert_eq!(uses.iter().filter(|(how, ..)| *how == end::OPEN).count(), 2);
    assert_eq!(connection.flow.exchange.errand.cookie, 6);
}

#[test]
fn an_answer_in_http_to_what_is_not_is_read() {
    let mut connection = Connection::to_upstream();
    connection.segment(true, 0, &[0, 10, 0, 0, 7, 0, b'R', b'E', b'Q']);
    connection.segment(
        false,
        0,
        b"HTTP/1.1 500 Internal\r\nContent-Length: 0\r\n\r\n",
    );
    let reported = connection.exchanges();
    assert_eq!(reported[0].exchange.status, 500);
    assert_ne!(reported[0].flags & flag::NO_REQUEST, 0);
    assert_eq!(connection.flow.header.side, side::UPSTREAM);
}

#[test]
fn a_server_that_speaks_first_is_noted() {
    let mut connection = Connection::to_upstream();
    connection.segment(false, 0, b"220 smtp.example.org ESMTP\r\n");
    connection.segment(true, 0, b"GET / HTTP/1.1\r\n\r\n");
    connection.segment(false, 28, b"500 unrecognised command\r\n");
    let reported = connection.exchanges();
    assert_ne!(reported[0].flags & flag::NOT_HTTP, 0);
    assert_eq!(reported[0].exchange.status, 0);
}

#[test]
fn a_client_that_is_not_read_is_reported_once() {
    for (first, spoken) in [
        (&[22, 3, 1, 2, 0, 1, 0, 1, 252][..], talk::TLS),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", talk::HTTP2),
    ] {
        let mut connection = Connection::of_client();
        connection.segment(false, 0, first);
        connection.is_read();
        connection.is_read();
        let records = connection.records();
        assert_eq!(records.len(), 1);
        let record: UnreadClient = read(&records[0].bytes).expect("a record");
        assert_eq!(
            (records[0].kind, record.talk),
            (kind::UNREAD_CLIENT, spoken)
        );
        assert_eq!(connection.tally(Tally::NOT_HTTP), 1);
    }
}

#[test]
fn a_connection_is_given_up_after_a_few_segments() {
    let mut connection = Connection::of_client();
    for number in 0..4 {
        assert_eq!(connection.flow.phase, phase::UNKNOWN);
        connection.segment(false, number * 9, b"something");
    }
    assert_eq!(connection.flow.phase, phase::OPAQUE);
    connection.segment(false, 36, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(connection.records().len(), 0);
}
