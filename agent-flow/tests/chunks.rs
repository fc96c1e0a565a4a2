//! Chunk sizes at the edges of segments and of what is read.

use std::cell::Cell;

use agent_flow::bytes::Payload;
use agent_flow::flags::Flags;
use agent_flow::http1::chunks::{Chunks, Seen};
use agent_flow::machine::Machine;
use agent_wire::record::flag;
use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

#[derive(Debug)]
struct Host;

impl Machine for Host {
    type Byte = Cell<u8>;
}

/// Follows a body whose segments are these; how far it was seen, the bytes behind its end in the last
/// segment, and whether something stood where a size must stand.
fn follow(segments: &[&[u8]]) -> (Seen, u64, bool) {
    let mut chunks = Chunks::default();
    let flags = Flags::<Host>::default();
    chunks.begin(true);
    for segment in segments {
        chunks.follow(*segment, &flags, Payload::at(0, segment.len() as u32));
    }
    let bad = flags.has::<{ flag::BAD_CHUNK }>();
    (chunks.seen(), chunks.behind(), bad)
}

#[test]
fn a_body_in_one_segment_is_seen_to_its_end() {
    assert_eq!(follow(&[b"3\r\nabc\r\n0\r\n\r\n"]), (Seen::Last, 0, false));
    assert_eq!(follow(&[b"0\r\n\r\n"]), (Seen::Last, 0, false));
    assert_eq!(
        follow(&[b"a\r\n0123456789\r\n0\r\n\r\n"]),
        (Seen::Last, 0, false)
    );
    assert_eq!(
        follow(&[b"A\r\n0123456789\r\n0\r\n\r\n"]),
        (Seen::Last, 0, false)
    );
}

#[test]
fn what_is_behind_the_end_is_counted() {
    assert_eq!(
        follow(&[b"1\r\nx\r\n0\r\n\r\nHTTP/1.1 200 OK"]),
        (Seen::Last, 15, false)
    );
}

#[test]
fn trailers_are_behind_the_last_size() {
    assert_eq!(follow(&[b"0\r\nDigest: x\r\n\r\n"]), (Seen::Last, 0, false));
}

#[test]
fn a_chunk_goes_on_in_the_next_segment() {
    assert_eq!(
        follow(&[b"6\r\nab", b"cdef\r\n", b"0\r\n\r\n"]),
        (Seen::Last, 0, false)
    );
    assert_eq!(follow(&[b"6\r\nab", b"cd"]), (Seen::Middle, 0, false));
    assert_eq!(
        follow(&[b"6\r\nabcdef", b"\r\n0\r\n\r\n"]),
        (Seen::Last, 0, false)
    );
}

#[test]
fn a_size_in_two_segments_is_given_up_and_not_called_wrong() {
    assert_eq!(follow(&[b"1", b"0\r\n"]), (Seen::Unknown, 0, false));
    assert_eq!(
        follow(&[b"1\r\nx\r\n1", b"0\r\n"]),
        (Seen::Unknown, 0, false)
    );
}

#[test]
fn an_extension_is_given_up_and_not_called_wrong() {
    for line in [&b"5;a=b\r\nabcde\r\n"[..], b"5 \r\nabcde", b"5\t\r\n"] {
        assert_eq!(follow(&[line]), (Seen::Unknown, 0, false));
    }
}

#[test]
fn what_is_no_size_is_reported() {
    for body in [
        &b"<html>"[..],
        b"\r\n5\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"0x5\r\nabcde",
        b"3\r\nabcde\r\n",
    ] {
        assert_eq!(
            follow(&[body]),
            (Seen::Unknown, 0, true),
            "{}",
            body.escape_ascii()
        );
    }
}

#[test]
fn a_size_of_seven_digits_is_given_up() {
    assert_eq!(
        follow(&[b"1000000\r\n0123456789"]),
        (Seen::Unknown, 0, false)
    );
    let mut chunks = Chunks::default();
    chunks.begin(true);
    chunks.follow(
        &b"fffffe\r\n"[..],
        &Flags::<Host>::default(),
        Payload::at(0, 8),
    );
    assert!(chunks.is_followed());
}

#[test]
fn more_chunks_in_a_segment_than_are_read_are_given_up() {
    let small = b"1\r\nx\r\n".repeat(9);
    assert_eq!(follow(&[&small]), (Seen::Unknown, 0, false));
    let fewer = b"1\r\nx\r\n".repeat(8);
    assert_eq!(follow(&[&fewer]), (Seen::Middle, 0, false));
}

#[test]
fn a_body_that_is_not_followed_stays_unknown() {
    let mut chunks = Chunks::default();
    chunks.begin(false);
    chunks.follow(
        &b"0\r\n\r\n"[..],
        &Flags::<Host>::default(),
        Payload::at(0, 5),
    );
    assert_eq!(chunks.seen(), Seen::Unknown);
    chunks.begin(true);
    chunks.lose();
    assert_eq!(chunks.seen(), Seen::Unknown);
}

proptest! {
    /// A body of chunks is never seen to end before it does, nor called wrong.
    #[test]
    fn a_body_cut_anywhere_is_followed_or_given_up(
        sizes in prop::collection::vec(1usize..40, 0..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut body = Vec::new();
        for size in &sizes {
            body.extend(format!("{size:x}\r\n").into_bytes());
            // What looks like an end is data.
            body.extend(b"\r\n0\r\n\r\n".iter().cycle().take(*size));
            body.extend(b"\r\n");
        }
        let data = body.len();
        body.extend(b"0\r\n\r\n");
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).collect();
        cuts.push(body.len());
        cuts.sort_unstable();

        let mut chunks = Chunks::default();
        let flags = Flags::<Host>::default();
        chunks.begin(true);
        let mut at = 0;
        for cut in cuts {
            if cut > at {
                let segment = &body[at..cut];
                chunks.follow(segment, &flags, Payload::at(0, segment.len() as u32));
                at = cut;
            }
            if at <= data {
                prop_assert!(chunks.seen() != Seen::Last);
            }
        }
        prop_assert!(chunks.seen() != Seen::Middle);
        prop_assert_eq!(flags.bits(), 0);
    }

    #[test]
    fn any_bytes_are_followed_without_a_panic(
        segments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..8),
    ) {
        let segments: Vec<&[u8]> = segments.iter().map(Vec::as_slice).collect();
        let (_, behind, _) = follow(&segments);
        prop_assert!(behind <= 60);
    }
}
