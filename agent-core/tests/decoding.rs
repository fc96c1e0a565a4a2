//! Ring records: what is accepted, what is refused, what heads tell.
#![expect(clippy::expect_used, reason = "a test may panic")]

use agent_core::decode::{DecodeError, Record, decode, head};
use agent_core::observation::{
    ConnectOutcome, End, Ended, Framing, Observation, Opening, Side, Talk, What,
};
use agent_wire::limits::SERVER_NAME_BYTES;
use agent_wire::plain::{Plain, bytes_of};
use agent_wire::record::{
    ALERT_BY_PEER, Connect, Death, Dns, End as EndRecord, Errand, Exchange, Header, Hello,
    MessageHead, Path, Reset, Tls, UnixConnect, UnreadClient, end, flag, framing, kind, phase,
    side, talk,
};

fn header(kind: u8) -> Header {
    let mut v4 = [0; 16];
    v4[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 3, 17]);
    Header {
        kind,
        side: side::UPSTREAM,
        flags: flag::SEEN_OPEN,
        tgid: 7,
        time_ns: 50,
        cookie: 9,
        opened_ns: 40,
        local: v4,
        remote: v4,
        local_port: 4711,
        remote_port: 8080,
        ..Header::default()
    }
}

fn message(kind: u8, exchange: Exchange, text: &[u8], final_start: u32) -> Vec<u8> {
    let record = MessageHead {
        header: header(kind),
        exchange,
        captured: u32::try_from(text.len()).expect("short"),
        final_start,
    };
    [bytes_of(&record), text, &[0; 64]].concat()
}

fn with<T: Plain>(record: T, change: impl Fn(&mut T)) -> Vec<u8> {
    let mut record = record;
    change(&mut record);
    bytes_of(&record).to_vec()
}

fn observed(record: &[u8]) -> Observation {
    let record = decode(record).expect("a record");
    record.observation().expect("about a socket")
}

#[test]
fn a_request_record_gives_the_socket_the_exchange_and_the_head() {
    let exchange = Exchange {
        index: 2,
        request_ns: 45,
        request_bytes: 60,
        errand: Errand {
            cookie: 1,
            index: 0,
            age_us: 30,
        },
        ..Exchange::default()
    };
    let text = b"GET /orders?id=7 HTTP/1.1\r\nHost: shop\r\n\r\n";
    let seen = observed(&message(kind::REQUEST, exchange, text, 0));
    assert_eq!(
        seen.socket.remote,
        "10.0.3.17:8080".parse().expect("address")
    );
    assert_eq!(
        (seen.socket.side, seen.socket.tgid),
        (Side::Upstream, Some(7))
    );
    let What::Request { exchange, head } = seen.what else {
        panic!("{seen:?}")
    };
    assert_eq!(
        (
            exchange.index,
            exchange.request.get(),
            exchange.first_byte.get()
        ),
        (2, Some(45), None)
    );
    assert_eq!(exchange.errand.expect("an errand").cookie.get(), 1);
    let head = head.expect("a head");
    assert_eq!(
        (&*head.method, &*head.path, head.host.as_deref()),
        ("GET", "/orders", Some("shop"))
    );
}

#[test]
fn a_response_record_is_read_from_its_final_head() {
    let text = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nServer: app\r\n\r\n";
    let exchange = Exchange {
        end: end::COMPLETE,
        framing: framing::LENGTH,
        content_length: 12,
        ..Exchange::default()
    };
    let seen = observed(&message(kind::RESPONSE, exchange, text, 28));
    let What::Response { exchange, head, .. } = seen.what else {
        panic!("{seen:?}")
    };
    assert_eq!(
        (exchange.end, exchange.framing),
        (Some(End::Complete), Framing::Length(12))
    );
    let head = head.expect("a head");
    assert_eq!((head.status, head.interim), (200, true));
}

#[test]
fn what_is_no_http_says_what_it_starts_as() {
    let opening = |text: &[u8]| {
        let mut record = message(kind::RESPONSE, Exchange::default(), text, 0);
        // The flags are the third and fourth byte of a record.
        record[2..4].copy_from_slice(&flag::NOT_HTTP.to_ne_bytes());
        let seen = observed(&record);
        let What::Response { head, opening, .. } = seen.what else {
            panic!("{seen:?}")
        };
        assert_eq!(head, None);
        opening
    };

    assert_eq!(opening(&[21, 3, 3, 0, 2, 2, 80]), Some(Opening::Tls));
    assert_eq!(opening(&[21, 9, 3, 0, 2, 2, 80]), Some(Opening::Other));
    assert_eq!(opening(b"SSH-2.0-OpenSSH_9.2\r\n"), Some(Opening::Other));
    assert_eq!(opening(b""), None);
}

#[test]
fn every_code_out_of_range_is_refused() {
    let connect = Connect {
        header: header(kind::CONNECT),
        outcome: end::COMPLETE,
        ..Connect::default()
    };
    let ended = EndRecord {
        header: header(kind::END),
        exchange: Exchange {
            end: end::PEER_FIN,
            ..Exchange::default()
        },
    };
    let reset = Reset {
        header: header(kind::RESET),
        direction: 1,
        ..Reset::default()
    };
    let unix = UnixConnect {
        header: header(kind::UNIX_CONNECT),
        ..UnixConnect::default()
    };
    let accepted = [
        bytes_of(&connect),
        bytes_of(&ended),
        bytes_of(&reset),
        bytes_of(&unix),
    ];
    for bytes in accepted {
        decode(bytes).expect("valid before the change");
        assert!(matches!(
            decode(&bytes[..bytes.len() - 1]),
            Err(DecodeError::Short { .. })
        ));
    }
    let refused = [
        with(connect, |record| record.header.kind = 0),
        with(connect, |record| record.header.kind = kind::COUNT as u8),
        with(connect, |record| record.header.side = 3),
        with(connect, |record| record.header.cookie = 0),
        with(connect, |record| record.header.time_ns = 0),
        with(connect, |record| record.outcome = end::OPEN),
        with(ended, |record| record.exchange.end = end::OPEN),
        with(ended, |record| record.exchange.end = end::COUNT),
        with(ended, |record| record.exchange.framing = framing::COUNT),
        with(reset, |record| record.phase = phase::COUNT),
        with(reset, |record| record.direction = 3),
        with(unix, |record| record.path_len = 109),
        message(
            kind::RESPONSE,
            Exchange::default(),
            b"HTTP/1.1 200 OK\r\n\r\n",
            20,
        ),
        bytes_of(&MessageHead {
            header: header(kind::REQUEST),
            captured: 1,
            ..MessageHead::default()
        })
        .to_vec(),
        bytes_of(&MessageHead {
            header: header(kind::REQUEST),
            captured: u32::MAX,
            ..MessageHead::default()
        })
        .to_vec(),
        Vec::new(),
    ];
    for (at, bytes) in refused.iter().enumerate() {
        assert!(decode(bytes).is_err(), "{at}: {:?}", decode(bytes));
    }
}

#[test]
fn connect_outcomes_are_told_apart() {
    let outcomes = [
        (end::COMPLETE, ConnectOutcome::Established),
        (end::PEER_RESET, ConnectOutcome::Reset),
        (end::LOCAL_CLOSE, ConnectOutcome::ClosedByUs),
        (end::LOCAL_RESET, ConnectOutcome::ClosedByUs),
        (end::KERNEL_ERROR, ConnectOutcome::KernelError),
    ];
    for (code, expected) in outcomes {
        let record = Connect {
            header: header(kind::CONNECT),
            outcome: code,
            ..Connect::default()
        };
        let seen = observed(bytes_of(&record));
        assert!(matches!(
            seen.what,
            What::Connect { outcome, errand: None, listener_silent: false }
                if outcome == expected
        ));
    }
}

#[test]
fn a_tls_handshake_says_who_replied_and_which_alert_passed() {
    let record = Tls {
        header: header(kind::TLS),
        hello_ns: 5,
        reply_ns: 7,
        outcome: end::LOCAL_CLOSE,
        reply: 21,
        alert_by: ALERT_BY_PEER,
        alert: 40,
        ..Tls::default()
    };
    let seen = observed(bytes_of(&record));
    let What::Tls { handshake, .. } = seen.what else {
        panic!("{seen:?}")
    };
    assert_eq!((handshake.hello, handshake.reply), (5, Some(7)));
    assert_eq!(handshake.reply_is_tls, Some(true));
    assert_eq!(handshake.opening, Some(Opening::Tls));
    let alert = handshake.alert.expect("an alert passed");
    assert_eq!((alert.by_peer, alert.description), (true, 40));

    let plain = Tls {
        reply: b'H',
        alert_by: 0,
        ..record
    };
    let seen = observed(bytes_of(&plain));
    let What::Tls { handshake, .. } = seen.what else {
        panic!("{seen:?}")
    };
    assert_eq!(handshake.reply_is_tls, Some(false));
    assert_eq!(handshake.opening, Some(Opening::Http));

    let open = Tls {
        outcome: end::OPEN,
        ..record
    };
    assert!(decode(bytes_of(&open)).is_err(), "it is not decided");
}

#[test]
fn a_client_hello_names_a_server_or_none() {
    let named = |name: &str, length: usize| {
        let mut record = Hello {
            header: header(kind::HELLO),
            named: 1,
            name_len: length as u16,
            ..Hello::default()
        };
        record.name[..name.len()].copy_from_slice(name.as_bytes());
        record
    };
    let server_name = |record: &Hello| match observed(bytes_of(record)).what {
        What::Hello { server_name } => server_name,
        other => panic!("{other:?}"),
    };

    let whole = named("shop.internal", 13);
    assert_eq!(server_name(&whole).as_deref(), Some("shop.internal"));
    let long = "a".repeat(SERVER_NAME_BYTES);
    assert_eq!(server_name(&named(&long, 250)).as_deref(), Some(&*long));
    let none = Hello { named: 0, ..whole };
    assert_eq!(server_name(&none), None);
    let wrong = Hello { named: 2, ..whole };
    assert!(decode(bytes_of(&wrong)).is_err());
}

#[test]
fn a_name_has_no_socket_and_a_death_is_that_of_a_socket_s_server() {
    let without = |kind| Header {
        cookie: 0,
        ..header(kind)
    };
    let asked = Dns {
        header: without(kind::DNS),
        asked_ns: 9,
        answered: 1,
        rcode: 3,
        ..Dns::default()
    };
    let death = Death {
        header: header(kind::DEATH),
        signal: 11,
        ..Death::default()
    };

    let Ok(Record::Lookup(lookup)) = decode(bytes_of(&asked)) else {
        panic!("a lookup");
    };
    assert_eq!((lookup.time, lookup.tgid, lookup.asked), (50, 7, 9));
    assert_eq!(lookup.answer.map(|answer| answer.rcode), Some(3));
    let nobody = with(asked, |record| record.header.tgid = 0);
    assert_eq!(decode(&nobody), Err(DecodeError::NoProcess(kind::DNS)));
    let seen = observed(bytes_of(&death));
    assert_eq!(
        seen.what,
        What::Death {
            ended: Ended::Signal(11),
            network: None
        }
    );
    let nobodys = Death {
        header: without(kind::DEATH),
        ..death
    };
    assert_eq!(
        decode(bytes_of(&nobodys)),
        Err(DecodeError::NoCookie(kind::DEATH))
    );
}

#[test]
fn a_use_of_a_connection_whose_talk_is_not_read_begins_or_ends() {
    let record = EndRecord {
        header: header(kind::UNREAD),
        exchange: Exchange {
            index: 3,
            ..Exchange::default()
        },
    };
    for (code, expected) in [(end::OPEN, None), (end::PEER_RESET, Some(End::PeerReset))] {
        let seen = observed(&with(record, |record| record.exchange.end = code));
        let What::Unread { exchange } = seen.what else {
            panic!("{seen:?}");
        };
        assert_eq!((exchange.end, exchange.index), (expected, 3));
    }
}

#[test]
fn of_a_client_that_is_not_read_it_is_known_what_it_speaks() {
    let record = UnreadClient {
        header: header(kind::UNREAD_CLIENT),
        talk: talk::TLS,
        reserved: [0; 7],
    };
    let seen = observed(bytes_of(&record));
    assert_eq!(seen.what, What::UnreadClient { talk: Talk::Tls });
    for code in [talk::UNKNOWN, talk::COUNT] {
        decode(&with(record, |record| record.talk = code)).expect_err("no such talk");
    }
}

#[test]
fn some_records_are_a_header_alone() {
    for (kind, what) in [
        (kind::TCP, What::Tcp),
        (kind::IGNORED, What::Ignored),
        (kind::CLIENT_LEFT, What::ClientLeft),
    ] {
        let seen = observed(bytes_of(&header(kind)));
        assert_eq!(seen.what, what);
    }
}

#[test]
fn a_unix_path_ends_at_its_nul_and_an_abstract_name_shows_it() {
    for (name, shown) in [
        (&b"/run/app.sock\0"[..], "/run/app.sock"),
        (b"\0app", "@app"),
    ] {
        let mut path = Path::default();
        path.bytes[..name.len()].copy_from_slice(name);
        let record = UnixConnect {
            header: Header {
                cookie: 0,
                ..header(kind::UNIX_CONNECT)
            },
            path_len: name.len() as u16,
            path,
            ..UnixConnect::default()
        };
        let seen = observed(bytes_of(&record));
        assert!(
            matches!(&seen.what, What::UnixConnect { path, .. } if path == shown),
            "{seen:?}"
        );
    }
}

#[test]
fn a_request_head_gives_ids_and_framing() {
    let head = head::request(
        b"POST http://me:pw@shop.example/pay?card=1#x HTTP/1.1\r\nhost: other\r\n\
          X-Correlation-Id: second\r\nX-Request-Id: first\r\nContent-Length: 12\r\n\
          Transfer-Encoding: gzip, Chunked\r\n\
          traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n",
    )
    .expect("a head");
    assert_eq!((&*head.method, &*head.path), ("POST", "/pay"));
    assert_eq!(head.host.as_deref(), Some("shop.example"));
    assert_eq!(head.request_id.as_deref(), Some("first"));
    assert_eq!(
        head.trace_id.as_deref(),
        Some("4bf92f3577b34da6a3ce929d0e0e4736")
    );
    assert_eq!((head.content_length, head.chunked), (Some(12), true));
}

#[test]
fn a_cut_or_broken_request_head_gives_what_came_before() {
    let cut = head::request(b"GET /a HTTP/1.1\r\nHost: shop\r\nCoo").expect("cut");
    assert_eq!((&*cut.path, cut.host.as_deref()), ("/a", Some("shop")));
    let broken =
        head::request(b"GET /a HTTP/1.1\r\nHost: shop\r\nb\x01d: 1\r\n\r\n").expect("broken");
    assert_eq!(
        (&*broken.path, broken.host.as_deref()),
        ("/a", Some("shop"))
    );
    let long = [b"GET /".as_slice(), &[b'x'; 2000]].concat();
    assert_eq!(head::request(&long).expect("long").path.len(), 512);
    let many = [
        "GET /a HTTP/1.1\r\nHost: shop\r\n",
        &"A: b\r\n".repeat(200),
        "\r\n",
    ]
    .concat();
    assert_eq!(
        head::request(many.as_bytes())
            .expect("many")
            .host
            .as_deref(),
        Some("shop")
    );
    let bytes = head::request(b"GET /\xff\xfe?q HTTP/1.1\r\n\r\n").expect("not UTF-8");
    assert_eq!(bytes.path, "/\u{fffd}\u{fffd}");
    assert_eq!(head::request(b"\x16\x03\x01\x02\x00"), None);
    assert_eq!(head::request(b""), None);
}

#[test]
fn a_cut_or_broken_response_head_gives_its_status() {
    assert_eq!(
        head::response(b"HTTP/1.1 502 Bad").expect("cut").status,
        502
    );
    let broken = head::response(b"HTTP/1.1 200 OK\r\nb\x01d: 1\r\n\r\n").expect("broken");
    assert_eq!((broken.status, broken.malformed), (200, true));
    let lenient =
        head::response(b"HTTP/1.1 200 OK\r\nX : 1\r\nY: 1\r\n 2\r\n\r\n").expect("lenient");
    assert!(!lenient.malformed, "proxies pass it on");
    for (length, malformed) in [
        ("3\r\nContent-Length: 3", false),
        ("3\r\nContent-Length: 4", true),
        ("18446744073709551617", true),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let read = head::response(head.as_bytes()).expect("a head");
        assert_eq!(read.malformed, malformed, "{length}");
    }
    assert_eq!(head::response(b"SSH-2.0-OpenSSH_9.2\r\n"), None);
}

#[test]
fn control_characters_of_a_request_line_are_not_passed_on() {
    let head = head::request(b"GET /\x1b[31mred HTTP/1.1\r\nHost: a\r\n\r\n").expect("a head");
    assert_eq!(head.path, "/.[31mred");
}
