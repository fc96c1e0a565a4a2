//! Which first bytes pass for those of a request.

use agent_flow::bytes::{Bytes, Payload};
use agent_flow::http1::request_line::is_request;

/// What the probes make of `text` as the first bytes of a segment.
fn passes(text: &str) -> bool {
    let len = text.len() as u32;
    is_request(text.as_bytes().prefix(Payload::at(0, len)), len)
}

#[test]
fn each_method_that_proxies_pass_on_is_a_request() {
    for line in [
        "GET / HTTP/1.1",
        "POST /",
        "HEAD /",
        "PUT /a",
        "DELETE /",
        "OPTIONS * HTTP/1.1",
        "PATCH /",
        "CONNECT example.org:443",
        "TRACE / HTTP/1.1",
        "PROPFIND /",
        "PROPPATCH /",
        "MKCOL /",
        "COPY /",
        "MOVE /",
        "LOCK /",
        "UNLOCK /",
        "REPORT /",
        "SEARCH /",
        "MKCALENDAR /",
        "PURGE /cache",
        "BAN /",
        "M /",
    ] {
        assert!(passes(line), "{line}");
    }
}

#[test]
fn a_part_of_a_method_may_become_one() {
    for line in ["G", "GE", "GET", "GET ", "CONNECT", "OPT", "PROPF"] {
        assert!(passes(line), "{line}");
    }
}

#[test]
fn what_other_protocols_begin_with_is_no_request() {
    for line in [
        "",
        "get / HTTP/1.1",
        "GETX:/ HTTP/1.1",
        "HTTP/1.1 200 OK",
        "PRI * HTTP/2.0",
        "EHLO example.org",
        "SSH-2.0-OpenSSH_9.6",
        "PING\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        " /index.html",
        "ABCDEFG /",
        "\u{16}\u{3}\u{1}\u{2}",
        "\0\0\0\0\0\0\0\0",
    ] {
        assert!(!passes(line), "{line}");
    }
}
