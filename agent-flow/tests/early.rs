//! What a client sent before there was a socket to see it on.

mod support;

use agent_flow::flow::phase;
use agent_wire::record::{end, talk};
use agent_wire::tally::Tally;
use proptest::prelude::{prop_assert_eq, proptest};
use support::Connection;

const REQUEST: &[u8] = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789";
const ANSWER: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";

#[test]
fn a_request_that_came_early_is_reported_as_any_other() {
    let mut connection = Connection::of_client();
    connection.early(REQUEST);
    connection.segment(true, 0, ANSWER);
    let reported = connection.exchanges();
    assert_eq!(reported[0].request, &REQUEST[..REQUEST.len() - 10]);
    assert_eq!(reported[0].exchange.request_bytes as usize, REQUEST.len());
    assert_eq!(reported[0].exchange.status, 502);
    assert_eq!(reported[0].exchange.end, end::COMPLETE);
}

#[test]
fn early_bytes_that_come_again_count_once() {
    let mut connection = Connection::of_client();
    connection.early(REQUEST);
    connection.segment(false, 0, REQUEST);
    connection.segment(true, 0, ANSWER);
    assert_eq!(connection.tally(Tally::RETRANSMITTED), 1);
    assert_eq!(connection.exchanges().len(), 1);
}

#[test]
fn an_early_hello_of_tls_is_no_http() {
    let mut connection = Connection::of_client();
    connection.early(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]);
    assert_eq!(connection.flow.phase, phase::OPAQUE);
    assert_eq!(connection.flow.talk, talk::TLS);
}

#[test]
fn early_bytes_that_are_nothing_known_leave_it_to_the_next() {
    let mut connection = Connection::of_client();
    connection.early(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    assert_eq!(connection.flow.phase, phase::UNKNOWN);
    connection.segment(false, 36, REQUEST);
    connection.segment(true, 0, ANSWER);
    assert_eq!(connection.exchanges()[0].exchange.status, 502);
}

#[test]
fn an_early_request_longer_than_is_kept_says_that_it_is_cut() {
    let mut connection = Connection::of_client();
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(5000));
    connection.early(long.as_bytes());
    assert_eq!(connection.tally(Tally::HEAD_TOO_LONG), 1);
    connection.segment(true, 0, ANSWER);
    assert_eq!(connection.exchanges()[0].exchange.status, 502);
}

proptest! {
    #[test]
    fn a_request_of_which_any_part_came_early_is_reported_whole(cut in 8usize..REQUEST.len()) {
        let mut connection = Connection::of_client();
        connection.early(&REQUEST[..cut]);
        connection.segment(false, cut as u32, &REQUEST[cut..]);
        connection.segment(true, 0, ANSWER);
        let reported = connection.exchanges();
        prop_assert_eq!(reported.len(), 1);
        prop_assert_eq!(&reported[0].request[..], &REQUEST[..REQUEST.len() - 10]);
        prop_assert_eq!(reported[0].exchange.request_bytes as usize, REQUEST.len());
        prop_assert_eq!(reported[0].exchange.status, 502);
    }
}
