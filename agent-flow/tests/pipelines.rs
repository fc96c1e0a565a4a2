//! Requests that a client sends before it has its answers, and answers that share segments.

mod support;

use agent_flow::segment::{ACK, FIN};
use agent_wire::record::{end, flag};
use agent_wire::tally::Tally;
use proptest::prelude::{
    ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use support::Connection;

/// An answer of that status, with a body of `body` bytes.
fn answer((status, body, chunked): (u16, usize, bool)) -> Vec<u8> {
    let data = "b".repeat(body);
    if chunked && body > 0 {
        let head = format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n");
        return format!("{head}{body:x}\r\n{data}\r\n0\r\n\r\n").into_bytes();
    }
    format!("HTTP/1.1 {status} X\r\nContent-Length: {body}\r\n\r\n{data}").into_bytes()
}

fn answers() -> impl Strategy<Value = Vec<(u16, usize, bool)>> {
    let status = prop::sample::select(&[200u16, 404, 500, 502, 503, 504][..]);
    let body = prop_oneof![0usize..40, 0usize..900];
    prop::collection::vec((status, body, any::<bool>()), 2..7)
}

/// A client that has sent `requests` requests, each in its own segment.
fn client_that_asked(requests: usize) -> Connection {
    let mut connection = Connection::of_client();
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for number in 0..requests {
        connection.segment(false, (number * request.len()) as u32, request);
    }
    connection
}

fn statuses(connection: &Connection) -> Vec<u16> {
    let exchanges = connection.exchanges();
    exchanges
        .iter()
        .map(|reported| reported.exchange.status)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// A proxy that writes each answer by itself.
    #[test]
    fn answers_in_segments_of_their_own_are_reported_in_order(
        answers in answers(),
        cut in prop_oneof![8usize..60, 8usize..1500],
    ) {
        let mut connection = client_that_asked(answers.len());
        let mut at = 0;
        for said in &answers {
            for segment in answer(*said).chunks(cut) {
                connection.segment(true, at, segment);
                at += segment.len() as u32;
            }
        }
        let reported = connection.exchanges();
        let expected: Vec<u16> = answers.iter().map(|(status, ..)| *status).collect();
        prop_assert_eq!(statuses(&connection), expected);
        for (index, reported) in reported.iter().enumerate() {
            prop_assert_eq!(reported.exchange.end, end::COMPLETE);
            prop_assert_eq!(reported.flags & flag::NO_REQUEST != 0, index > 0);
            prop_assert_eq!(reported.flags & (flag::HEAD_CUT | flag::NOT_HTTP), 0);
        }
    }

    /// A proxy that gathers small answers.
    #[test]
    fn answers_that_share_a_segment_are_reported_in_order(
        answers in answers(),
        together in 1usize..5,
    ) {
        let mut connection = client_that_asked(answers.len());
        let mut at = 0;
        for group in answers.chunks(together) {
            let segment: Vec<u8> = group.iter().flat_map(|said| answer(*said)).collect();
            connection.segment(true, at, &segment);
            at += segment.len() as u32;
        }
        let expected: Vec<u16> = answers.iter().map(|(status, ..)| *status).collect();
        prop_assert_eq!(statuses(&connection), expected);
    }

    /// Cut anywhere: no answer has the status of another, and none is called no HTTP.
    #[test]
    fn answers_cut_anywhere_are_reported_or_missed(
        answers in answers(),
        cuts in prop::collection::vec(prop_oneof![1usize..60, 1usize..1500], 1..6),
    ) {
        let mut connection = client_that_asked(answers.len());
        let stream: Vec<u8> = answers.iter().flat_map(|said| answer(*said)).collect();
        let mut at = 0;
        for cut in cuts.iter().cycle() {
            let segment = &stream[at..(at + cut).min(stream.len())];
            connection.segment(true, at as u32, segment);
            at += segment.len();
            if at == stream.len() {
                break;
            }
        }
        let expected: Vec<u16> = answers.iter().map(|(status, ..)| *status).collect();
        let mut left = expected.iter();
        for reported in connection.exchanges() {
            prop_assert_eq!(reported.flags & flag::NOT_HTTP, 0, "{:?}", reported);
            let status = reported.exchange.status;
            prop_assert!(status == 0 || left.any(|it| *it == status), "{:?} of {:?}", reported, expected);
        }
    }
}

#[test]
fn requests_in_one_segment_are_counted_and_the_rest_is_not_read() {
    let mut connection = Connection::of_client();
    connection.segment(false, 0, b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n");
    assert_eq!(connection.tally(Tally::PIPELINED), 1);
    assert_eq!(connection.flow.queued, 1);
    let both = [answer((200, 3, false)), answer((502, 0, false))].concat();
    connection.segment(true, 0, &both);
    assert_eq!(statuses(&connection), [200, 502]);
}

#[test]
fn a_line_end_behind_a_body_is_no_request() {
    let mut connection = Connection::of_client();
    connection.segment(
        false,
        0,
        b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab\r\n",
    );
    assert_eq!(connection.flow.queued, 0);
    let reported = connection.exchanges();
    assert_eq!(reported[0].exchange.request_bytes, 40);
}

#[test]
fn a_request_that_waits_when_its_connection_ends_is_reported() {
    let mut connection = client_that_asked(2);
    let first = answer((200, 3, false));
    connection.segment(true, 0, &first);
    connection.segment_with(true, first.len() as u32, &[], ACK | FIN);
    let reported = connection.exchanges();
    assert_eq!(statuses(&connection), [200, 0]);
    assert_eq!(reported[1].exchange.end, end::LOCAL_CLOSE);
    assert_ne!(reported[1].flags & flag::NO_REQUEST, 0);
}
