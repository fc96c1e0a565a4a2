//! Single cases at the edges of a conversation.

mod support;

use agent_flow::flow::phase;
use agent_flow::segment::{ACK, FIN};
use agent_flow::world::World;
use agent_wire::record::{end, flag, framing, kind};
use agent_wire::tally::Tally;
use support::Connection;

/// Segments of one direction, one behind the other.
struct Stream {
    sent: bool,
    at: u32,
}

impl Stream {
    fn pass(&mut self, connection: &mut Connection, bytes: &[u8]) {
        connection.segment(self.sent, self.at, bytes);
        self.at += bytes.len() as u32;
    }
}

/// A connection to an upstream, what is asked on it, and what is answered.
fn upstream() -> (Connection, Stream, Stream) {
    let asked = Stream { sent: true, at: 0 };
    let answered = Stream { sent: false, at: 0 };
    (Connection::to_upstream(), asked, answered)
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn records_come_in_the_order_of_the_exchange() {
    let (mut connection, mut asked, mut answered) = upstream();
    asked.pass(&mut connection, GET);
    answered.pass(
        &mut connection,
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
    );
    answered.pass(&mut connection, b"abc");
    let kinds: Vec<u8> = connection
        .records()
        .iter()
        .map(|record| record.kind)
        .collect();
    assert_eq!(kinds, [kind::REQUEST, kind::RESPONSE, kind::END]);
}

/// Neither end is seen: the request is chunked, and the answer has a trailer behind chunks that are not
/// followed. Before, every later request counted as a part of the upload.
#[test]
fn a_request_behind_an_exchange_whose_ends_are_not_seen_begins_another() {
    let chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    let with_trailer =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\nDigest: x\r\n\r\n";
    let (mut connection, mut asked, mut answered) = upstream();
    asked.pass(&mut connection, chunked);
    answered.pass(&mut connection, with_trailer);
    asked.pass(&mut connection, GET);
    answered.pass(
        &mut connection,
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    );
    let reported = connection.exchanges();
    assert_eq!(reported.len(), 2);
    assert_eq!(
        (reported[0].exchange.status, reported[0].exchange.end),
        (200, end::SUPERSEDED)
    );
    assert_eq!(
        (reported[1].exchange.status, reported[1].exchange.end),
        (502, end::COMPLETE)
    );
    assert_eq!(reported[0].exchange.request_bytes as usize, chunked.len());
}

#[test]
fn an_upload_that_goes_on_behind_its_answer_stays_an_upload() {
    let (mut connection, mut asked, mut answered) = upstream();
    asked.pass(
        &mut connection,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
    );
    answered.pass(
        &mut connection,
        b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nab",
    );
    asked.pass(&mut connection, b"5\r\nabcde\r\n0\r\n\r\n");
    answered.pass(&mut connection, b"cd");
    let reported = connection.exchanges();
    assert_eq!(reported.len(), 1);
    assert_eq!(reported[0].exchange.request_bytes, u64::from(asked.at));
    assert_eq!(reported[0].exchange.end, end::COMPLETE);
    assert_eq!(connection.tally(Tally::LEFTOVER), 0);
}

/// The time of a first byte is that of the final head: interim ones are not an answer.
#[test]
fn the_first_byte_is_that_of_the_final_head() {
    let interim: &[u8] = b"HTTP/1.1 103 Early Hints\r\n\r\n";
    let last: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let times = |segments: &[&[u8]]| {
        let (mut connection, mut asked, mut answered) = upstream();
        asked.pass(&mut connection, GET);
        let mut starts = Vec::new();
        for segment in segments {
            starts.push(connection.host.now() + 1);
            answered.pass(&mut connection, segment);
        }
        let exchange = connection.exchanges()[0].exchange;
        let place = |time| starts.iter().rposition(|start| *start <= time);
        (place(exchange.first_byte_ns), place(exchange.head_ns))
    };
    let (cut, rest) = last.split_at(20);
    assert_eq!(times(&[last]), (Some(0), Some(0)));
    assert_eq!(times(&[cut, rest]), (Some(0), Some(1)));
    assert_eq!(times(&[interim, last]), (Some(1), Some(1)));
    assert_eq!(times(&[interim, cut, rest]), (Some(1), Some(2)));
    assert_eq!(
        times(&[interim, &[interim, last].concat()]),
        (Some(1), Some(1))
    );
    // Before, the time was that of the interim head where this came in pieces.
    assert_eq!(
        times(&[&interim[..9], &[&interim[9..], last].concat()]),
        (Some(1), Some(1))
    );
}

#[test]
fn an_exchange_begins_with_nothing_of_the_one_before() {
    let (mut connection, mut asked, mut answered) = upstream();
    asked.pass(&mut connection, GET);
    answered.pass(
        &mut connection,
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    );
    asked.pass(&mut connection, GET);
    connection.ends(end::PEER_RESET);
    let exchange = connection.exchanges()[1].exchange;
    assert_eq!((exchange.index, exchange.end), (1, end::PEER_RESET));
    assert_eq!((exchange.status, exchange.framing), (0, framing::UNKNOWN));
    assert_eq!((exchange.response_bytes, exchange.content_length), (0, 0));
    assert_eq!(exchange.head_bytes, 0);
    assert_eq!(
        (
            exchange.first_byte_ns,
            exchange.head_ns,
            exchange.last_byte_ns
        ),
        (0, 0, 0)
    );
    assert!(exchange.idle_since_ns != 0 && exchange.request_ns > exchange.idle_since_ns);
}

#[test]
fn a_few_letters_behind_a_hole_begin_no_request() {
    let mut connection = Connection::of_client();
    connection.segment(false, 0, GET);
    // Its end is not seen, so that another request may begin at any time.
    connection.segment(
        true,
        0,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    let at = GET.len() as u32;
    connection.segment(false, at + 9, b"T");
    connection.segment(false, at + 10, b"P/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(connection.exchanges().len(), 1);
    assert_eq!(connection.tally(Tally::LEFTOVER), 2);
}

#[test]
fn a_tunnel_is_not_read() {
    let (mut connection, mut asked, mut answered) = upstream();
    asked.pass(
        &mut connection,
        b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
    );
    answered.pass(&mut connection, b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
    assert_eq!(connection.exchanges()[0].exchange.end, end::TUNNEL);
    assert_eq!(connection.flow.phase, phase::TUNNEL);
    let records = connection.records().len();
    asked.pass(&mut connection, GET);
    answered.pass(&mut connection, b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
    assert_eq!(connection.records().len(), records);
}

#[test]
fn an_answer_to_connect_begins_a_tunnel() {
    let (mut connection, mut asked, mut answered) = upstream();
    asked.pass(
        &mut connection,
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    );
    answered.pass(&mut connection, b"HTTP/1.1 200 Connected\r\n\r\n");
    assert_eq!(connection.flow.phase, phase::TUNNEL);
}

#[test]
fn an_answer_that_is_no_http_is_reported_by_its_first_bytes() {
    let (mut connection, mut asked, mut answered) = upstream();
    asked.pass(&mut connection, GET);
    answered.pass(
        &mut connection,
        b"SSH-2.0-OpenSSH_9.6p1 Debian-1 and more than is reported\r\n",
    );
    let reported = connection.exchanges();
    assert_ne!(reported[0].flags & flag::NOT_HTTP, 0);
    assert_eq!(reported[0].response.len(), 32);
    assert_eq!(reported[0].exchange.status, 0);
}

#[test]
fn a_head_that_is_too_long_says_so() {
    let (mut connection, mut asked, mut answered) = upstream();
    asked.pass(&mut connection, GET);
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(5000));
    for part in long.as_bytes().chunks(1448) {
        answered.pass(&mut connection, part);
    }
    let reported = connection.exchanges();
    assert_ne!(reported[0].flags & flag::HEAD_CUT, 0);
    assert_eq!(connection.tally(Tally::HEAD_TOO_LONG), 1);
    assert_eq!(reported[0].exchange.framing, framing::UNKNOWN);
}

#[test]
fn a_head_in_two_segments_of_which_the_second_came_first_says_that_it_is_cut() {
    let (mut connection, mut asked, _) = upstream();
    asked.pass(&mut connection, GET);
    let answer = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
    connection.segment(false, 20, &answer[20..]);
    connection.segment(false, 0, &answer[..20]);
    // What came first is counted as seen, and was not read.
    assert_eq!(connection.tally(Tally::HEAD_REORDERED), 1);
    assert_ne!(connection.flow.flags.bits() & flag::HEAD_CUT, 0);
}

#[test]
fn a_body_that_came_before_its_head_is_counted() {
    let (mut connection, mut asked, _) = upstream();
    asked.pass(&mut connection, GET);
    let head = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 7\r\n\r\n";
    connection.segment(false, head.len() as u32, b"1234567");
    connection.segment(false, 0, head);
    let reported = connection.exchanges();
    assert_eq!(
        (reported[0].exchange.status, reported[0].exchange.end),
        (502, end::COMPLETE)
    );
    assert_eq!(connection.tally(Tally::HEAD_REORDERED), 0);
}

/// Before, the agent took the rest for an answer that is no HTTP, and reported that a request got none.
#[test]
fn an_answer_of_which_a_few_bytes_came_behind_another_is_missed_and_nothing_is_made_of_it() {
    let mut connection = Connection::of_client();
    connection.segment(false, 0, GET);
    connection.segment(false, GET.len() as u32, GET);
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let both = [&answer[..], answer].concat();
    let cut = answer.len() + 5;
    connection.segment(true, 0, &both[..cut]);
    connection.segment(true, cut as u32, &both[cut..]);
    connection.segment_with(true, both.len() as u32, &[], ACK | FIN);
    assert_eq!(connection.exchanges().len(), 1);
    assert_eq!(connection.flow.flags.bits() & flag::NOT_HTTP, 0);
    // Its first bytes, and the rest.
    assert_eq!(connection.tally(Tally::UNSOLICITED), 2);
}

#[test]
fn without_memory_a_head_in_pieces_is_cut() {
    let (mut connection, mut asked, mut answered) = upstream();
    asked.pass(&mut connection, GET);
    connection.host.short_of_memory.set(true);
    answered.pass(&mut connection, b"HTTP/1.1 200 OK\r\n");
    assert_eq!(connection.tally(Tally::STORAGE_FAILED), 1);
    assert_ne!(connection.flow.flags.bits() & flag::HEAD_CUT, 0);
}

#[test]
fn a_process_that_is_withdrawn_is_not_reported_of() {
    let (mut connection, mut asked, _) = upstream();
    connection.host.withdrawn.set(true);
    asked.pass(&mut connection, GET);
    assert_eq!(connection.records().len(), 0);
    assert_eq!(connection.flow.phase, phase::PARKED);
}

#[test]
fn an_answer_until_close_is_whole_when_this_end_closes() {
    let mut connection = Connection::of_client();
    connection.segment(false, 0, GET);
    let answer = b"HTTP/1.0 200 OK\r\n\r\nsome";
    connection.segment(true, 0, answer);
    connection.segment_with(true, answer.len() as u32, b"more", ACK | FIN);
    let reported = connection.exchanges();
    assert_eq!(reported[0].exchange.framing, framing::CLOSE);
    assert_eq!(reported[0].exchange.end, end::COMPLETE);
    assert_eq!(
        reported[0].exchange.response_bytes as usize,
        answer.len() + 4
    );
}

#[test]
fn an_answer_before_the_head_of_its_request_is_complete_cuts_it() {
    let mut connection = Connection::of_client();
    connection.segment(false, 0, b"GET / HTTP/1.1\r\nHos");
    connection.segment(
        true,
        0,
        b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n",
    );
    let reported = connection.exchanges();
    assert_eq!(
        (reported[0].exchange.status, reported[0].request.len()),
        (408, 0)
    );
    assert_ne!(reported[0].flags & flag::HEAD_CUT, 0);
}
