//! Requests that a client sends before it has its answers, and answers that share segments.

mod support;

use agent_flow::segment::{ACK, FIN};
use agent_wire::record::{end, flag};
use agent_wire::tally::Tally;
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
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
    #![proptest_config(support::cases(1024))]

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
        together in 1usize..9,
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

/// A request that begins behind all that were answered, and its answer: read as any other, and nothing
/// waits behind it.
fn assert_goes_on(connection: &mut Connection, asked: u32, answered: u32) {
    connection.segment(false, asked, b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    let next = answer((503, 2, false));
    connection.segment(true, answered, &next);
    connection.segment_with(true, answered + next.len() as u32, &[], ACK | FIN);
    let reported = connection.exchanges();
    let last = reported.last().map(|one| (one.exchange.status, one.flags));
    let (status, flags) = last.unwrap_or_default();
    assert_eq!(status, 503, "{reported:?}");
    assert_eq!(flags & flag::NO_REQUEST, 0, "{reported:?}");
}

const REQUEST_BYTES: u32 = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".len() as u32;

#[test]
fn more_answers_in_a_segment_than_are_looked_at_leave_nobody_waiting() {
    let mut connection = client_that_asked(12);
    let all = answer((200, 2, false)).repeat(12);
    connection.segment(true, 0, &all);
    assert_eq!(statuses(&connection), [200; 9]);
    assert_eq!(connection.tally(Tally::UNSOLICITED), 1);
    assert_goes_on(&mut connection, 12 * REQUEST_BYTES, all.len() as u32);
}

/// The answer to HEAD has no body, whatever its Content-Length says.
#[test]
fn an_answer_to_head_ends_with_its_head() {
    for together in [true, false] {
        let mut connection = Connection::of_client();
        let asked = ["GET", "HEAD", "GET"].map(|method| format!("{method} / HTTP/1.1\r\n\r\n"));
        let mut at = 0;
        for request in &asked {
            connection.segment(false, at, request.as_bytes());
            at += request.len() as u32;
        }
        let of_head = b"HTTP/1.1 200 X\r\nContent-Length: 5000\r\n\r\n".to_vec();
        let answers = [answer((200, 3, false)), of_head, answer((502, 3, false))];
        let mut end = 0;
        if together {
            let all = answers.concat();
            connection.segment(true, 0, &all);
            end = all.len() as u32;
        } else {
            for answer in &answers {
                connection.segment(true, end, answer);
                end += answer.len() as u32;
            }
        }
        assert_eq!(statuses(&connection), [200, 200, 502], "{together}");
        assert_goes_on(&mut connection, at, end);
    }
}

/// What is behind the end of such a body is not known: the answer there is missed, and counted.
#[test]
fn an_answer_behind_trailers_is_missed_and_no_other() {
    let chunks = [
        "2\r\nab\r\n0\r\nDigest: x\r\n\r\n",
        "2\r\nab\r\n0000\r\n\r\n",
    ];
    for chunks in chunks {
        let mut connection = client_that_asked(3);
        let head = "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut all = format!("{head}{chunks}").into_bytes();
        all.extend(answer((404, 3, false)));
        connection.segment(true, 0, &all);
        let own = answer((502, 3, false));
        connection.segment(true, all.len() as u32, &own);
        assert_eq!(statuses(&connection), [200, 502], "{chunks:?}");
        assert_eq!(connection.exchanges()[0].exchange.end, end::COMPLETE);
        let end = (all.len() + own.len()) as u32;
        assert_goes_on(&mut connection, 3 * REQUEST_BYTES, end);
    }
}

/// Chunks with extensions are not followed: the next answer in a segment of its own ends them.
#[test]
fn an_answer_behind_chunks_that_were_not_followed_begins_with_its_segment() {
    let mut connection = client_that_asked(3);
    let first = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nab\r\n0\r\nDigest: x\r\n\r\n";
    connection.segment(true, 0, first);
    let own = answer((502, 3, false));
    connection.segment(true, first.len() as u32, &own);
    assert_eq!(statuses(&connection), [200, 502]);
    let end = (first.len() + own.len()) as u32;
    assert_goes_on(&mut connection, 3 * REQUEST_BYTES, end);
}

#[test]
fn a_letter_behind_a_body_is_no_request() {
    let mut connection = Connection::of_client();
    let post = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nabX\r\n";
    connection.segment(false, 0, post);
    assert_eq!(connection.flow.queued, 0);
}
