//! Exchanges that may be told in brief.

mod support;

use agent_wire::record::{end, kind};
use support::Connection;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";

fn kinds(connection: &Connection) -> Vec<u8> {
    let records = connection.records();
    records.iter().map(|record| record.kind).collect()
}

/// A request that may be told in brief is on its way to an upstream.
fn asked() -> Connection {
    let mut connection = Connection::to_upstream();
    connection.host.in_brief.set(true);
    connection.segment(true, 0, REQUEST);
    connection
}

#[test]
fn what_goes_well_is_one_record_when_it_is_over() {
    let mut connection = asked();
    connection.segment(false, 0, ANSWER);
    assert_eq!(kinds(&connection), []);

    connection.segment(false, ANSWER.len() as u32, b"well");

    assert_eq!(kinds(&connection), [kind::BRIEF]);
    let brief = connection.records()[0].brief();
    let told = brief.map(|brief| (brief.status, brief.end, brief.index, brief.cookie));
    assert_eq!(told, Some((200, end::COMPLETE, 0, 7)));

    // The next on the connection goes well in one segment.
    connection.segment(true, REQUEST.len() as u32, REQUEST);
    let next = ANSWER.len() as u32 + 4;
    connection.segment(false, next, b"HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(kinds(&connection), [kind::BRIEF; 2]);
}

#[test]
fn what_does_not_is_told_as_ever_behind_the_word_that_something_went_wrong() {
    let mut failed = asked();
    failed.segment(false, 0, b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
    let whole = [kind::REQUEST, kind::RESPONSE];
    assert_eq!(kinds(&failed), [&[kind::DISTURBED], &whole[..]].concat());

    let mut cut = asked();
    cut.segment(false, 0, ANSWER);
    cut.ends(end::PEER_RESET);
    let whole = [kind::REQUEST, kind::RESPONSE, kind::END];
    assert_eq!(kinds(&cut), [&[kind::DISTURBED], &whole[..]].concat());
    assert_eq!(cut.records()[1].head(), REQUEST);
    assert_eq!(cut.records()[2].head(), ANSWER);

    let mut unanswered = asked();
    unanswered.ends(end::LOCAL_CLOSE);
    let whole = [kind::DISTURBED, kind::REQUEST, kind::END];
    assert_eq!(kinds(&unanswered), whole);
}

#[test]
fn what_went_well_is_told_whole_when_something_else_went_wrong_meanwhile() {
    let mut connection = asked();
    connection.segment(false, 0, ANSWER);
    connection.host.in_brief.set(false);

    connection.segment(false, ANSWER.len() as u32, b"well");

    let whole = [kind::REQUEST, kind::RESPONSE, kind::END];
    assert_eq!(kinds(&connection), whole);
}

#[test]
fn what_finds_no_room_is_told_whole() {
    let mut connection = Connection::to_upstream();
    connection.host.in_brief.set(true);
    connection.host.may_hold.set(false);
    connection.segment(true, 0, REQUEST);
    connection.segment(false, 0, ANSWER);
    connection.segment(false, ANSWER.len() as u32, b"well");

    let whole = [kind::REQUEST, kind::RESPONSE, kind::END];
    assert_eq!(kinds(&connection), whole);
}
