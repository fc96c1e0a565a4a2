//! Connections that begin with a PROXY protocol header: behind a load balancer that sends one, and to
//! an upstream that gets one.

mod support;

use agent_flow::flow::phase;
use agent_wire::record::{end, talk};
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use support::Connection;

const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n";

/// Version 2 with `rest` behind its fixed part.
fn binary(rest: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend((rest.len() as u16).to_be_bytes());
    header.extend(rest);
    header
}

fn headers() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(LINE.to_vec()),
        Just(b"PROXY UNKNOWN\r\n".to_vec()),
        Just(
            b"PROXY TCP6 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff \
              2001:db8:ffff:ffff:ffff:ffff:ffff:fffe 65535 65535\r\n"
                .to_vec()
        ),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(|rest| binary(&rest)),
    ]
}

proptest! {
    #[test]
    fn a_request_behind_a_header_is_reported_as_if_it_came_first(
        header in headers(),
        alone: bool,
        from_client: bool,
    ) {
        let mut connection =
            if from_client { Connection::of_client() } else { Connection::to_upstream() };
        let sends = !from_client;
        let len = header.len() as u32;
        if alone {
            connection.segment(sends, 0, &header);
            connection.segment(sends, len, REQUEST);
        } else {
            connection.segment(sends, 0, &[&header[..], REQUEST].concat());
        }
        connection.segment(!sends, 0, ANSWER);
        let reported = connection.exchanges();
        prop_assert_eq!(reported.len(), 1);
        prop_assert_eq!(&reported[0].request[..], REQUEST);
        prop_assert_eq!(reported[0].exchange.request_bytes as usize, REQUEST.len());
        prop_assert_eq!(reported[0].exchange.status, 502);
        prop_assert_eq!(reported[0].exchange.end, end::COMPLETE);
    }
}

#[test]
fn tls_behind_a_header_is_tls() {
    for header in [LINE.to_vec(), binary(&[0; 12])] {
        let mut connection = Connection::of_client();
        let hello = [&header[..], &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]].concat();
        connection.segment(false, 0, &hello);
        assert_eq!(connection.flow.phase, phase::OPAQUE);
        assert_eq!(connection.flow.talk, talk::TLS);
    }
}

#[test]
fn what_only_begins_like_a_header_is_none() {
    let too_long = [b"PROXY ", &[b'x'; 200][..], b"\r\n"].concat();
    for bytes in [
        &b"PROXY of nobody"[..],
        &too_long,
        b"\r\n\r\n\0\r\nQUIX\n\x21\x11\0\0GET / ",
    ] {
        let mut connection = Connection::of_client();
        let mut at = 0;
        for _ in 0..8 {
            connection.segment(false, at, bytes);
            at += bytes.len() as u32;
        }
        assert_eq!(connection.flow.phase, phase::OPAQUE);
        assert!(connection.exchanges().is_empty());
    }
}
