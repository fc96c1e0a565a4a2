//! Any bytes, in any direction and any order: nothing panics, and what is counted is bounded.

mod support;

use agent_flow::segment::{ACK, FIN, RST, SYN};
use agent_wire::limits::HEAD_BYTES;
use agent_wire::record::{end, framing, kind};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_oneof, proptest};
use support::{Connection, Emitted};

/// What streams are made of.
const PIECES: [&[u8]; 24] = [
    b"GET / HTTP/1.1\r\n",
    b"POST /a HTTP/1.1\r\n",
    b"HEAD / HTTP/1.0\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\n",
    b"HTTP/1.1 304 Not\r\n",
    b"HTTP/1.",
    b"Content-Length: 5\r\n",
    b"Content-Length: 18446744073709551615\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"0\r\n\r\n",
    b"5\r\nabcde\r\n",
    b"fffffff\r\n",
    b"ffffffe\r\nx",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x17\x03\x03\x00\x45",
    b"\x14\x03\x03\x00\x01\x01",
    b"\x15\x03\x03\x00\x02\x02\x28",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

/// One segment.
#[derive(Clone, Debug)]
struct Any {
    sent: bool,
    /// Where it begins, from the end of what was said last in its direction.
    skew: i32,
    bytes: Vec<u8>,
    flags: u8,
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::collection::vec(prop::sample::select(&PIECES[..]), 0..12)
        .prop_map(|pieces| pieces.concat());
    let noise = prop::collection::vec(any::<u8>(), 0..200);
    let long = (prop::sample::select(&PIECES[..]), 1usize..300)
        .prop_map(|(piece, times)| piece.repeat(times));
    prop_oneof![6 => pieces, 1 => noise, 1 => long]
}

fn segments() -> impl Strategy<Value = Vec<Any>> {
    let skew = prop_oneof![6 => Just(0i32), 1 => -50i32..50, 1 => any::<i32>()];
    let flags = prop_oneof![8 => Just(ACK), 1 => Just(ACK | FIN), 1 => Just(SYN), 1 => Just(RST)];
    let segment =
        (any::<bool>(), skew, any_bytes(), flags).prop_map(|(sent, skew, bytes, flags)| Any {
            sent,
            skew,
            bytes,
            flags,
        });
    prop::collection::vec(segment, 0..40)
}

/// Whether a record is one that the daemon takes.
fn is_sound(record: &Emitted) -> bool {
    let known = [
        kind::REQUEST,
        kind::RESPONSE,
        kind::END,
        kind::TLS,
        kind::HELLO,
        kind::UNREAD,
    ];
    let exchange = record.exchange().unwrap_or_default();
    let head = match record.kind {
        kind::REQUEST | kind::RESPONSE => record.head().len(),
        _ => 0,
    };
    known.contains(&record.kind)
        && record.header().kind == record.kind
        && head <= HEAD_BYTES
        && exchange.end < end::COUNT
        && exchange.framing < framing::COUNT
        && exchange.status < 1000
        && exchange.head_bytes as usize <= HEAD_BYTES
        && exchange.request_head_bytes as usize <= HEAD_BYTES
}

proptest! {
    #![proptest_config(support::cases(2048))]

    #[test]
    fn any_segments_are_taken(
        segments in segments(),
        to_upstream in any::<bool>(),
        ends in prop::option::of(1u8..end::COUNT),
    ) {
        let mut connection = if to_upstream {
            Connection::to_upstream()
        } else {
            Connection::of_client()
        };
        let mut at = [0u32; 2];
        for segment in &segments {
            let at = &mut at[usize::from(segment.sent)];
            let from = at.wrapping_add_signed(segment.skew);
            connection.segment_with(segment.sent, from, &segment.bytes, segment.flags);
            *at = from.wrapping_add(segment.bytes.len() as u32);
        }
        if let Some(how) = ends {
            connection.ends(how);
        }

        // A segment ends an exchange, begins one and its answer, and has a few answers behind that.
        let most = 12 * (segments.len() as u64 + 1);
        let records = connection.records();
        prop_assert!(records.len() as u64 <= most);
        prop_assert!(connection.tallies() <= most);
        for record in &records {
            prop_assert!(is_sound(record), "{record:?}");
        }
        // Bytes of a hole count, and a hole is shorter than half of the numbers there are.
        let most = (segments.len() as u64 + 1) << 32;
        let exchange = connection.flow.exchange;
        prop_assert!(exchange.request_bytes <= most && exchange.response_bytes <= most);
        prop_assert!(usize::from(connection.flow.queued) <= 2 * segments.len());
        prop_assert!(connection.host.take_and_give_back());
    }
}
