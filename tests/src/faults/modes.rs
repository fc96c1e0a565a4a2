//! The list of all modes.

use super::{Before, Mode};

/// A megabyte is in flight at most; this is more than all buffers on the way.
const LARGE: usize = 12_000_000;

/// A GET at a group.
const fn get(
    name: &'static str,
    group: &'static str,
    words: &'static str,
    what: &'static str,
) -> Mode {
    Mode {
        name,
        what,
        group,
        words,
        post: None,
        before: Before::Nothing,
        leaves_after: None,
        times: 1,
        slow: false,
    }
}

/// A small POST at a group.
const fn post(
    name: &'static str,
    group: &'static str,
    words: &'static str,
    what: &'static str,
) -> Mode {
    Mode {
        post: Some(100),
        ..get(name, group, words, what)
    }
}

impl Mode {
    const fn large(self) -> Self {
        Self {
            post: Some(LARGE),
            ..self
        }
    }

    const fn slow(self) -> Self {
        Self { slow: true, ..self }
    }

    const fn after(self, before: Before) -> Self {
        Self { before, ..self }
    }

    const fn left_after(self, milliseconds: u64) -> Self {
        Self {
            leaves_after: Some(milliseconds),
            ..self
        }
    }

    const fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }
}

/// All of them, from the first packet of a connection to the last byte of an answer.
pub const MODES: &[Mode] = &[
    // Nothing fails.
    get("ok", "fresh", "ok", "200"),
    get(
        "ok-slow",
        "fresh",
        "wait=300,body=3000,chunked",
        "200 after 300 ms, chunked",
    ),
    get("ok-404", "fresh", "status=404", "404"),
    get(
        "ok-reset-after",
        "fresh",
        "body=10,cut=10,by=rst",
        "200, whole, then RST",
    ),
    get("ok-tls", "tls_ok", "any", "200 over TLS"),
    // Connecting.
    get("refused", "refused", "any", "port closed: RST to the SYN"),
    post("refused-post", "refused_post", "any", "the same, POST"),
    get("syn-swallowed", "dark", "any", "SYN dropped by a firewall").slow(),
    get(
        "accept-queue-full",
        "deaf",
        "any",
        "accept queue of a local listener full",
    )
    .slow(),
    get("icmp-host", "icmp_host", "any", "ICMP host unreachable").slow(),
    get(
        "icmp-admin",
        "icmp_admin",
        "any",
        "ICMP administratively prohibited",
    )
    .slow(),
    get("icmp-port", "icmp_port", "any", "ICMP port unreachable").slow(),
    get("no-route", "no_route", "any", "connect(): ENETUNREACH"),
    get(
        "no-scope",
        "no_scope",
        "any",
        "connect(): EINVAL, link-local address without an interface",
    ),
    get(
        "unix-missing",
        "unix_missing",
        "any",
        "Unix socket: no such file",
    ),
    get(
        "unix-refused",
        "unix_refused",
        "any",
        "Unix socket: nobody listens",
    ),
    get("unix-full", "unix_full", "any", "Unix socket: backlog full").slow(),
    // TLS to the upstream.
    get(
        "tls-closed",
        "tls_closed",
        "any",
        "FIN after the ClientHello",
    ),
    get("tls-reset", "tls_reset", "any", "RST after the ClientHello"),
    get("tls-alert", "tls_alert", "any", "alert handshake_failure"),
    get("tls-plain", "tls_plain", "any", "a server without TLS"),
    get(
        "tls-silent",
        "tls_silent",
        "any",
        "no answer to the ClientHello",
    )
    .slow(),
    get(
        "tls-untrusted",
        "tls_untrusted",
        "any",
        "a self-signed certificate, verified",
    ),
    // Closed before an answer, fresh connection.
    get(
        "fresh-rst",
        "fresh",
        "wait=30,reset",
        "RST after the request",
    ),
    post("fresh-rst-post", "fresh", "wait=30,reset", "the same, POST"),
    get(
        "fresh-fin",
        "fresh",
        "wait=30,close",
        "FIN after the request",
    ),
    post("fresh-fin-post", "fresh", "wait=30,close", "the same, POST"),
    get(
        "fresh-unread",
        "fresh",
        "wait=30,unread",
        "closed with the request unread: RST",
    ),
    get("accept-fin", "slam", "any", "FIN as soon as accepted"),
    get("accept-rst", "slam_rst", "any", "RST as soon as accepted"),
    // The same on a connection that carried a request before.
    get(
        "reused-rst-late",
        "kept",
        "if_reused,wait=60,reset",
        "RST 60 ms after the request",
    )
    .after(Before::Served),
    post(
        "reused-rst-late-post",
        "kept",
        "if_reused,wait=60,reset",
        "the same, POST",
    )
    .after(Before::Served),
    get(
        "reused-fin-late",
        "kept",
        "if_reused,wait=60,close",
        "FIN 60 ms after the request",
    )
    .after(Before::Served),
    post(
        "reused-fin-late-post",
        "kept",
        "if_reused,wait=60,close",
        "the same, POST",
    )
    .after(Before::Served),
    get(
        "reused-unread",
        "kept",
        "if_reused,unread",
        "closed at once with the request unread",
    )
    .after(Before::Served),
    post(
        "reused-unread-post",
        "kept",
        "if_reused,unread",
        "the same, POST",
    )
    .after(Before::Served),
    get("race", "race", "ok", "FIN crosses the request").after(Before::Raced),
    post("race-post", "race", "ok", "the same, POST").after(Before::Raced),
    get("reused-hang", "kept_slow", "if_reused,hang", "no answer")
        .after(Before::Served)
        .slow(),
    // The head.
    get(
        "head-cut-fin",
        "fresh",
        "head_cut=20,by=fin",
        "20 bytes of head, then FIN",
    ),
    get(
        "head-cut-rst",
        "fresh",
        "head_cut=20,by=rst",
        "20 bytes of head, then RST",
    ),
    get(
        "head-cut-stall",
        "fresh",
        "head_cut=20,by=hang",
        "20 bytes of head, then nothing",
    )
    .slow(),
    get(
        "head-drip",
        "fresh",
        "bytewise,pause=25,pad=20",
        "a byte of head each 25 ms",
    )
    .slow(),
    get("hang", "fresh", "hang", "no answer").slow(),
    post("hang-post", "fresh", "hang", "the same, POST").slow(),
    // Not HTTP.
    get(
        "ssh-after",
        "fresh",
        "garbage",
        "an SSH banner as the answer",
    ),
    get(
        "ssh-first",
        "banner",
        "any",
        "an SSH banner before the request",
    )
    .slow(),
    get("http2", "fresh", "h2", "frames of HTTP/2"),
    get(
        "tls-bytes",
        "fresh",
        "tls_bytes",
        "a TLS alert: https port asked in http",
    ),
    get(
        "bad-header",
        "fresh",
        "bad_header",
        "a control character in a header name",
    ),
    get(
        "bad-status",
        "fresh",
        "bad_status",
        "a status code that is no number",
    ),
    get(
        "two-framings",
        "fresh",
        "two_framings,chunked",
        "Content-Length and chunked at once",
    ),
    // Framing fields that break RFC 9112.
    get(
        "two-lengths",
        "fresh",
        "framing=lengths",
        "Content-Length twice, 2 and 9; two bytes, FIN",
    ),
    get(
        "bad-length",
        "fresh",
        "framing=length",
        "Content-Length: 2x",
    ),
    get(
        "huge-length",
        "fresh",
        "framing=huge",
        "Content-Length of 65 bits; two bytes, FIN",
    )
    // HAProxy waits for the rest.
    .slow(),
    get(
        "unknown-coding",
        "fresh",
        "framing=coding",
        "Transfer-Encoding: zip",
    ),
    get(
        "space-colon",
        "fresh",
        "framing=space",
        "Content-Length with a space before its colon",
    ),
    get(
        "bare-cr",
        "fresh",
        "framing=cr",
        "a CR without LF in a field",
    ),
    get(
        "body-204",
        "fresh",
        "framing=empty",
        "204 with Content-Length and a body",
    ),
    get("early-hints", "fresh", "hints", "103 before the answer"),
    get("huge-head", "fresh", "pad=70000", "a head of 70 KB"),
    get(
        "many-cookies",
        "fresh",
        "cookies=25",
        "a head of 10 KB in 25 lines",
    ),
    // The body.
    get(
        "length-cut-fin",
        "fresh",
        "body=9000,cut=1000,by=fin",
        "1,000 bytes of 9,000, then FIN",
    ),
    get(
        "length-cut-rst",
        "fresh",
        "body=9000,cut=1000,by=rst",
        "1,000 bytes of 9,000, then RST",
    ),
    get(
        "length-cut-stall",
        "fresh",
        "body=9000,cut=1000,by=hang",
        "1,000 bytes of 9,000, then nothing",
    )
    .slow(),
    get(
        "length-cut-0",
        "fresh",
        "body=9000,cut=0,by=fin",
        "a head, no body, FIN",
    ),
    get(
        "chunk-cut-fin",
        "fresh",
        "chunked,body=9000,cut=1000,by=fin",
        "no last chunk, FIN",
    ),
    get(
        "chunk-cut-rst",
        "fresh",
        "chunked,body=9000,cut=1000,by=rst",
        "no last chunk, RST",
    ),
    get(
        "chunk-cut-stall",
        "fresh",
        "chunked,body=9000,cut=1000,by=hang",
        "no last chunk, nothing",
    )
    .slow(),
    get(
        "close-cut-rst",
        "fresh",
        "until_close,body=9000,cut=1000,by=rst",
        "body until the close, RST",
    ),
    get(
        "bad-chunk",
        "fresh",
        "chunked,bad_chunk,body=1000",
        "a chunk size that is no number, after a good chunk",
    ),
    get(
        "bad-chunk-first",
        "fresh",
        "chunked,bad_chunk,body=0",
        "the same as the first chunk",
    ),
    // The request's body.
    post(
        "stalled-post",
        "fresh",
        "stall_body",
        "the upstream stops reading 12 MB",
    )
    .large()
    .slow(),
    post(
        "rst-in-post",
        "fresh",
        "reset_body=200000",
        "RST in the middle of 12 MB",
    )
    .large(),
    post(
        "early-413",
        "fresh",
        "early,status=413",
        "413 before 12 MB are read, then RST",
    )
    .large(),
    // The path dies.
    get(
        "lost-kept",
        "lost",
        "ok",
        "a kept connection whose path died",
    )
    .after(Before::Darkened)
    .slow(),
    get(
        "lost-fresh",
        "lost_fresh",
        "ok",
        "connected, then all data is lost",
    )
    .slow(),
    get(
        "lost-answer",
        "lost_answer",
        "ok",
        "the request arrives, the answer is lost",
    )
    .slow(),
    // The upstream's process ends.
    get(
        "killed",
        "killed",
        "wait=20,head_cut=0,by=kill",
        "SIGKILL before the answer",
    ),
    get(
        "segfault",
        "segfault",
        "wait=20,head_cut=0,by=segv",
        "SIGSEGV before the answer",
    ),
    get(
        "killed-in-body",
        "killed_body",
        "body=9000,cut=1000,by=kill",
        "SIGKILL in the middle of the body",
    ),
    // The upstream answers with an error.
    get(
        "status-500",
        "fresh",
        "status=500",
        "the upstream's own 500",
    ),
    get(
        "status-502",
        "fresh",
        "status=502",
        "the upstream's own 502",
    ),
    get(
        "status-503",
        "fresh",
        "status=503",
        "the upstream's own 503",
    ),
    get(
        "status-504",
        "fresh",
        "status=504,chunked",
        "the upstream's own 504",
    ),
    // The client.
    get(
        "client-leaves",
        "fresh",
        "hang",
        "leaves after 300 ms without an answer",
    )
    .left_after(300)
    .slow(),
    get(
        "client-leaves-in-body",
        "fresh",
        "body=400000,piece=1000,pause=10",
        "leaves in the middle of the body",
    )
    .left_after(300)
    .slow(),
    post(
        "client-leaves-post",
        "fresh",
        "wait=900",
        "leaves after a POST",
    )
    .left_after(300)
    .slow(),
    // No attempt.
    get("none-live", "judged", "any", "all servers failed before").after(Before::Failed),
    get(
        "disabled",
        "disabled",
        "any",
        "the only server is switched off",
    ),
    get("static-503", "static", "any", "the proxy's own 503"),
    get(
        "limit",
        "limited",
        "ok",
        "over the limit of concurrent requests",
    )
    .after(Before::Occupied)
    .slow(),
    get("dns-nxdomain", "dns_nx", "any", "the name does not exist").slow(),
    get("dns-servfail", "dns_fail", "any", "the DNS server fails").slow(),
    get(
        "dns-silent",
        "dns_silent",
        "any",
        "the DNS server says nothing",
    )
    .slow(),
    // A retry saves it.
    get(
        "retry-refused",
        "retry_refused",
        "any",
        "one of two servers refuses",
    )
    .times(4),
    get("retry-rst", "retry_rst", "any", "one of two servers resets").times(4),
    // Retries do not save it.
    get(
        "retried-refused",
        "retried_refused",
        "any",
        "the only server refuses, with retries",
    )
    .slow(),
    get(
        "retried-rst",
        "retried_rst",
        "any",
        "both servers reset, with retries",
    )
    .slow(),
];
