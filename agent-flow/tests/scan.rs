//! Where heads end and what frames their bodies, at the edges of what the scanner reads.

use std::cell::Cell;

use agent_flow::http1::scan::{Lines, Scan, found, numbers, scan};
use agent_flow::machine::Machine;
use agent_wire::limits::{HEAD_BYTES, HEAD_SLACK_BYTES};
use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

struct Host;

impl Machine for Host {
    type Byte = Cell<u8>;
}

/// Bytes that the scanner may look at: the head, and what a step may look ahead.
const SPACE: usize = HEAD_BYTES + HEAD_SLACK_BYTES;

/// What the scanner says of `head`, behind which the space holds `rest` again and again.
fn scanned_before(head: &[u8], rest: &[u8], is_response: bool) -> Scan {
    let mut bytes = [0; SPACE];
    for (byte, filler) in bytes.iter_mut().zip(rest.iter().cycle()) {
        *byte = *filler;
    }
    let len = head.len().min(HEAD_BYTES);
    bytes[..len].copy_from_slice(&head[..len]);
    let mut found = Scan::default();
    found.len = len as u32;
    found.is_response = u32::from(is_response);
    scan::<Host, SPACE>(&bytes, &mut Lines::default(), &mut found);
    if found.end != 0 {
        numbers::<Host, SPACE>(&bytes, &mut found);
    }
    found
}

fn request(head: &str) -> Scan {
    scanned_before(head.as_bytes(), b"", false)
}

fn response(head: &str) -> Scan {
    scanned_before(head.as_bytes(), b"", true)
}

fn length(scan: &Scan) -> Option<u64> {
    (scan.found & found::LENGTH != 0).then_some(scan.content_length)
}

fn is_chunked(scan: &Scan) -> bool {
    scan.found & found::CHUNKED != 0
}

#[test]
fn a_head_ends_behind_its_blank_line() {
    assert_eq!(request("GET / HTTP/1.1\r\n\r\n").end, 18);
    assert_eq!(request("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /").end, 27);
    assert_eq!(request("GET / HTTP/1.1\n\n").end, 16);
    assert_eq!(request("GET / HTTP/1.1\r\nHost: a\n\r\n").end, 26);
}

#[test]
fn a_head_without_its_blank_line_has_no_end() {
    let whole = "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n";
    for len in 0..whole.len() {
        assert_eq!(request(&whole[..len]).end, 0, "{len}");
    }
}

#[test]
fn what_a_space_held_before_is_no_part_of_a_head() {
    let whole = b"POST / HTTP/1.1\r\nHost: a\r\n\r\n";
    for len in 0..whole.len() {
        let scan = scanned_before(&whole[..len], b"\r\n\r\n", false);
        assert_eq!(scan.end, 0, "{len}");
    }
}

#[test]
fn framing_fields_are_found_in_any_case() {
    for field in [
        "Content-Length: 5",
        "content-length:5",
        "CONTENT-LENGTH: \t5  ",
    ] {
        let scan = response(&format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n"));
        assert_eq!(length(&scan), Some(5), "{field}");
        assert!(!is_chunked(&scan), "{field}");
    }
    for field in ["Transfer-Encoding: chunked", "transfer-encoding:chunked"] {
        let scan = response(&format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n"));
        assert!(is_chunked(&scan), "{field}");
    }
}

#[test]
fn other_fields_do_not_frame() {
    for field in [
        "X-Content-Length: 5",
        "Content-Lengths: 5",
        "Content-Language: 5",
        "Content-Length : 5",
        "Transfer-Coding: chunked",
        " Content-Length: 5",
        "Content-Length: ",
        "Content-Length: x5",
        "Content-Length: -1",
    ] {
        let scan = response(&format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n"));
        assert_eq!(length(&scan), None, "{field}");
        assert!(!is_chunked(&scan), "{field}");
    }
}

#[test]
fn a_length_of_too_many_digits_is_never_reached() {
    let of = |digits: &str| {
        length(&response(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {digits}\r\n\r\n"
        )))
    };
    assert_eq!(of("999999999999999999"), Some(999_999_999_999_999_999));
    assert_eq!(of("1000000000000000000"), Some(u64::MAX / 2));
    assert_eq!(of("18446744073709551621"), Some(u64::MAX / 2));
    assert_eq!(of("0"), Some(0));
}

#[test]
fn the_status_is_read_of_the_final_head() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(response(ok).status, 200);
    assert_eq!(response("HTTP/1.0 404 \r\n\r\n").status, 404);
    assert_eq!(response("HTTP/1.1 204\r\n\r\n").status, 204);
    assert_eq!(response("HTTP/1.1 2x0 OK\r\n\r\n").status, 0);

    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    let scan = response(&format!("{interim}{ok}"));
    assert_eq!((scan.status, scan.start), (200, interim.len() as u32));
    assert_eq!(scan.end as usize, interim.len() + ok.len());
}

#[test]
fn fields_of_an_interim_head_frame_nothing() {
    let interim =
        "HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n";
    let scan = response(&format!("{interim}HTTP/1.1 200 OK\r\n\r\n"));
    assert_eq!((length(&scan), is_chunked(&scan)), (None, false));
}

#[test]
fn an_interim_head_alone_is_not_the_end() {
    let scan = response("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!((scan.end, scan.start), (0, 25));
}

#[test]
fn a_switch_of_protocols_is_final() {
    let scan = response("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n");
    assert_eq!((scan.status, scan.end), (101, 48));
}

#[test]
fn an_interim_code_in_a_request_is_nothing() {
    assert_eq!(request("GET /abc 100\r\n\r\nrest").end, 16);
}

#[test]
fn the_longest_head_is_read() {
    let fixed = "GET / HTTP/1.1\r\nX: \r\n\r\n".len();
    let of = |len: usize| format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(len - fixed));
    assert_eq!(request(&of(HEAD_BYTES)).end as usize, HEAD_BYTES);
    assert_eq!(request(&of(HEAD_BYTES + 1)).end, 0);
    assert_eq!(request(&of(HEAD_BYTES + 2)).end, 0);
}

#[test]
fn a_head_of_more_lines_than_are_noted_is_too_long() {
    let of = |lines: usize| {
        let head = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(lines));
        (
            request(&head).end as usize == head.len(),
            request(&head).len as usize == HEAD_BYTES,
        )
    };
    assert_eq!(of(126), (true, false));
    assert_eq!(of(127), (false, true));
    assert_eq!(of(200), (false, true));
}

#[test]
fn lines_of_a_body_are_not_taken_for_those_of_the_head() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1200\r\nServer: a\r\n\r\n";
    let scan = response(&format!("{interim}{head}{}", "{\n\n}\n\n".repeat(200)));
    assert_eq!(scan.end as usize, interim.len() + head.len());
    assert_eq!((scan.status, length(&scan)), (200, Some(1200)));
}

proptest! {
    /// Two readers agree: the scanner, and a plain search for the blank line and the fields.
    #[test]
    fn the_scanner_finds_what_a_plain_reader_finds(
        fields in prop::collection::vec(("[A-Za-z-]{1,20}", "[ -~]{4,60}"), 0..20),
        length_of in prop::option::of(0u64..1_000_000_000_000),
        at in any::<prop::sample::Index>(),
        chunked in any::<bool>(),
        rest in "[ -~\r\n]{0,40}",
        is_response in any::<bool>(),
    ) {
        let mut lines: Vec<String> = fields
            .into_iter()
            .map(|(name, value)| format!("X{name}: {value}"))
            .collect();
        if let Some(length) = length_of {
            lines.insert(at.index(lines.len() + 1), format!("Content-Length: {length}"));
        }
        if chunked {
            lines.insert(at.index(lines.len() + 1), "Transfer-Encoding: chunked".to_owned());
        }
        let first = if is_response { "HTTP/1.1 502 Bad Gateway" } else { "GET /a HTTP/1.1" };
        lines.insert(0, first.to_owned());
        let head = format!("{}\r\n\r\n", lines.join("\r\n"));
        let scan = scanned_before(format!("{head}{rest}").as_bytes(), b"\r\n", is_response);

        prop_assert_eq!(scan.end as usize, head.len());
        prop_assert_eq!(scan.status, if is_response { 502 } else { 0 });
        prop_assert_eq!(length(&scan), length_of);
        prop_assert_eq!(is_chunked(&scan), chunked);
    }

    #[test]
    fn any_bytes_are_scanned_without_a_panic(
        bytes in prop::collection::vec(prop::sample::select(&b"\r\n:H1/. 0cC-"[..]), 0..HEAD_BYTES),
        rest in prop::collection::vec(any::<u8>(), 0..64),
        is_response in any::<bool>(),
    ) {
        let scan = scanned_before(&bytes, &rest, is_response);
        prop_assert!(scan.end as usize <= bytes.len());
        prop_assert!(scan.start as usize <= bytes.len());
        prop_assert!(scan.status <= 999);
    }
}
