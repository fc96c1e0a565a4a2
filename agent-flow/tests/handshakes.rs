//! Handshakes of TLS with an upstream, by the records that pass.

mod support;

use agent_flow::bytes::Payload;
use agent_flow::flow::phase;
use agent_flow::tls::hello::{ServerName, server_name};
use agent_wire::plain::read;
use agent_wire::record::{ALERT_BY_PEER, ALERT_BY_US, Hello, Tls, end, kind};
use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};
use support::Connection;

const ALERT: u8 = 21;
const CHANGE: u8 = 20;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// A record of TLS (RFC 8446, 5.1).
fn record(content: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![content, 3, 3];
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// A ClientHello with other extensions before and behind the name of the server.
fn client_hello(name: Option<&str>, before: usize) -> Vec<u8> {
    let mut extensions = Vec::new();
    for _ in 0..before {
        extensions.extend([0, 43, 0, 3, 2, 3, 4]);
    }
    if let Some(name) = name {
        let len = name.len() as u16;
        extensions.extend([0, 0]);
        extensions.extend((len + 5).to_be_bytes());
        extensions.extend((len + 3).to_be_bytes());
        extensions.push(0);
        extensions.extend(len.to_be_bytes());
        extensions.extend(name.bytes());
    }
    extensions.extend([0, 10, 0, 2, 0, 29]);
    let mut body = vec![1, 0, 0, 0, 3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut hello = record(HANDSHAKE, &body);
    hello[2] = 1;
    hello
}

/// What the hello says, and the name in it.
fn named(hello: &[u8]) -> Option<(ServerName, &[u8])> {
    let said = server_name(hello, Payload::at(0, hello.len() as u32))?;
    let at = said.at as usize;
    Some((said, hello.get(at..at + said.len as usize).unwrap_or(&[])))
}

/// The TLS record that was emitted, if any.
fn reported(connection: &Connection) -> Option<Tls> {
    let records = connection.records();
    let tls = records.iter().find(|record| record.kind == kind::TLS)?;
    read(&tls.bytes)
}

/// A connection on which a ClientHello left, and how long that is.
fn begun() -> (Connection, u32) {
    let mut connection = Connection::to_upstream();
    let hello = client_hello(Some("example.org"), 2);
    connection.segment(true, 0, &hello);
    (connection, hello.len() as u32)
}

#[test]
fn the_name_of_the_server_is_found_behind_other_extensions() {
    for before in [0, 1, 16] {
        let hello = client_hello(Some("upstream.example.org"), before);
        let (said, name) = named(&hello).expect("a whole hello");
        assert!(said.named);
        assert_eq!(name, b"upstream.example.org");
    }
}

#[test]
fn a_hello_without_a_name_says_so_and_part_of_one_says_nothing() {
    let hello = client_hello(None, 3);
    let (said, _) = named(&hello).expect("a whole hello");
    assert_eq!((said.named, said.len), (false, 0));
    for len in 0..hello.len() - 6 {
        assert_eq!(named(&hello[..len]), None, "{len}");
    }
}

#[test]
fn a_name_behind_more_extensions_than_are_read_is_not_denied() {
    assert_eq!(named(&client_hello(Some("a"), 20)), None);
}

#[test]
fn a_hello_is_reported_with_its_name() {
    let (connection, _) = begun();
    assert_eq!(connection.flow.phase, phase::HANDSHAKE);
    let records = connection.records();
    let hello: Hello = read(&records[0].bytes).expect("a record");
    assert_eq!(records[0].kind, kind::HELLO);
    assert_eq!(hello.named, 1);
    assert_eq!(&hello.name[..usize::from(hello.name_len)], b"example.org");
}

/// TLS 1.3: this end's Finished looks like data, and only what follows it shows that all is well.
#[test]
fn a_handshake_is_done_with_the_second_record_of_data() {
    let (mut connection, at) = begun();
    let flight = [
        record(HANDSHAKE, &[2; 90]),
        record(CHANGE, &[1]),
        record(DATA, &[0; 2000]),
    ]
    .concat();
    let mut received = 0;
    for part in flight.chunks(700) {
        connection.segment(false, received, part);
        received += part.len() as u32;
    }
    let finished = record(DATA, &[0; 53]);
    connection.segment(true, at, &finished);
    assert!(reported(&connection).is_none());
    connection.segment(true, at + finished.len() as u32, &record(DATA, &[0; 200]));

    let tls = reported(&connection).expect("it is reported");
    assert_eq!(
        (tls.outcome, tls.reply, tls.alert_by),
        (end::COMPLETE, HANDSHAKE, 0)
    );
    assert!(tls.hello_ns < tls.reply_ns && tls.reply_ns < tls.finished_ns);
    assert_eq!(connection.flow.phase, phase::OPAQUE);
}

#[test]
fn an_alert_of_the_peer_is_reported_with_its_description() {
    let (mut connection, _) = begun();
    connection.segment(false, 0, &record(ALERT, &[2, 40]));
    connection.ends(end::PEER_FIN);
    let tls = reported(&connection).expect("it is reported");
    assert_eq!(
        (tls.outcome, tls.alert_by, tls.alert),
        (end::PEER_FIN, ALERT_BY_PEER, 40)
    );
}

#[test]
fn a_reply_that_is_no_tls_is_reported_by_its_first_byte() {
    let (mut connection, _) = begun();
    connection.segment(false, 0, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    connection.ends(end::PEER_FIN);
    let tls = reported(&connection).expect("it is reported");
    assert_eq!((tls.reply, tls.finished_ns), (b'H', 0));
}

proptest! {
    #[test]
    fn any_name_is_found_as_it_is(name in "[a-z0-9.-]{1,120}", before in 0usize..15) {
        let hello = client_hello(Some(&name), before);
        let said = named(&hello);
        prop_assert_eq!(said.map(|(_, name)| name), Some(name.as_bytes()));
    }

    /// However the flights are cut, what is reported is the same.
    #[test]
    fn a_handshake_cut_anywhere_is_followed(
        server in 1usize..60,
        client in 1usize..60,
        alert in any::<bool>(),
    ) {
        let (mut connection, at) = begun();
        let mut flight = [record(HANDSHAKE, &[2; 90]), record(DATA, &[0; 900])].concat();
        if alert {
            flight.extend(record(ALERT, &[2, 42]));
        }
        let mut received = 0;
        for part in flight.chunks(server + 5) {
            connection.segment(false, received, part);
            received += part.len() as u32;
        }
        let ours = [record(DATA, &[0; 53]), record(DATA, &[0; 300])].concat();
        let mut sent = at;
        for part in ours.chunks(client) {
            connection.segment(true, sent, part);
            sent += part.len() as u32;
        }
        connection.ends(end::LOCAL_CLOSE);
        let tls = reported(&connection);
        prop_assert!(tls.is_some());
        // A header in two segments is not read: then nothing is said of what follows.
        if let Some(tls) = tls {
            prop_assert!(tls.outcome == end::COMPLETE || tls.outcome == end::LOCAL_CLOSE);
            prop_assert!(tls.alert == 0 || alert && tls.alert == 42);
        }
    }

    #[test]
    fn any_bytes_are_no_hello_or_one_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let hello = [&[22, 3, 1, 0, 200, 1][..], &bytes].concat();
        if let Some(said) = server_name(&hello[..], Payload::at(0, hello.len() as u32)) {
            prop_assert!(said.len <= u32::from(u16::MAX));
        }
    }
}

/// TLS 1.2 and 1.3: what leaves sealed behind this end's Finished, and is no longer than an alert.
#[test]
fn an_alert_behind_the_finished_is_the_goodbye_of_who_sends_it() {
    for (finished, alert) in [
        (record(DATA, &[7; 53]), record(DATA, &[7; 19])),
        (
            [record(CHANGE, &[1]), record(HANDSHAKE, &[7; 40])].concat(),
            record(ALERT, &[7; 26]),
        ),
    ] {
        let (mut connection, at) = begun();
        let mut reply = record(HANDSHAKE, &[2; 80]);
        reply.extend(record(CHANGE, &[1]));
        connection.segment(false, 0, &reply);
        connection.segment(true, at, &finished);
        connection.segment(true, at + finished.len() as u32, &alert);
        connection.ends(end::PEER_FIN);
        let tls = reported(&connection).expect("a handshake that ended");
        assert_eq!((tls.alert_by, tls.alert), (ALERT_BY_US, 0));
        assert_ne!(tls.finished_ns, 0);
    }
}
