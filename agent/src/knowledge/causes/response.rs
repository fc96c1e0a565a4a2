//! Causes after the connection stood: the request, the wait, the response.

use agent_core::cause::Cause;

use crate::knowledge::{Entry, check};

pub(in crate::knowledge) const KEEPALIVE_RACE: Entry = Entry {
    cause: Cause::KeepaliveRace,
    meaning: "The upstream closed an idle connection at the moment the proxy sent a request on it; nobody processed the request.",
    gloss: "the close crossed the request",
    evidence: "On a reused connection without a response byte: the FIN or RST acknowledges nothing of the request, or the upstream's kernel says that it was closed with the request unread. `guess` where an RST came at once and nobody says why, and for a bare RST (one that acknowledges nothing at all) without a FIN before it: a firewall or NAT that forgot the connection sends such.",
    check: &[
        check(
            "How long had the connection been idle? The same number again and again is the upstream's keep-alive timeout.",
            "why502 explain --cause keepalive_race --last 20",
        ),
        check(
            "What is that timeout? (node.js 5 s, gunicorn 2 s, Apache 5 s, Tomcat 20 s, nginx 75 s)",
            "",
        ),
        check(
            "How long does the proxy keep idle connections? (nginx keepalive_timeout in upstream, HAProxy pool-purge-delay, Envoy idle_timeout)",
            "",
        ),
    ],
    fix: "Make the proxy's idle timeout shorter than the upstream's keep-alive timeout (5 s in node.js), and retry idempotent requests.",
    lookalikes: &[
        "`closed_before_response`: there the upstream had the request, and acknowledged it, before it closed.",
        "FIN or RST in the proxy's log tells nothing: a race shows as either.",
        "`guess`: the request was acknowledged and an RST came within milliseconds; an application that reads it and resets looks so too.",
    ],
};

pub(in crate::knowledge) const CLOSED_BEFORE_RESPONSE: Entry = Entry {
    cause: Cause::ClosedBeforeResponse,
    meaning: "The upstream closed the connection without answering a byte.",
    gloss: "closed from its side, without an answer",
    evidence: "The request was acknowledged, or the connection was fresh; FIN or RST came from the upstream with no response byte, and it was no race. `strong` at most on a reused connection: the FIN of an idle close may have been lost once and sent again. `guess` for a bare RST without a FIN before it, which no kernel of this host is known to have sent: a firewall or NAT sends such.",
    check: &[
        check(
            "What did the application log in that second?",
            "journalctl -u SERVICE --since '-10 min'",
        ),
        check(
            "Was a worker killed by its manager? (gunicorn WORKER TIMEOUT, php request_terminate_timeout, max_requests)",
            "",
        ),
        check(
            "Did the kernel kill it?",
            "dmesg -T | grep -iE 'killed process|segfault'",
        ),
        check(
            "Is it always the same path, or the same duration?",
            "why502 explain --cause closed_before_response --last 50",
        ),
    ],
    fix: "Read the application's log of that second: a bug, a worker timeout or worker recycling ends the connection.",
    lookalikes: &[
        "`keepalive_race`: on a reused connection, with the request not acknowledged.",
        "`upstream_crashed`: the same on the wire; the process was killed, or exited with a status that is not 0. One that exits with 0 in the middle of a request only closed the connection.",
        "An upstream that is itself a proxy with a shorter timeout: the durations cluster at a round number.",
    ],
};

pub(in crate::knowledge) const UPSTREAM_CRASHED: Entry = Entry {
    cause: Cause::UpstreamCrashed,
    meaning: "The upstream's process was killed by a signal or for memory, or exited with an error, while the request was its to answer.",
    gloss: "the process died",
    evidence: "FIN or RST before the end of the response, and the process that owned the upstream's socket closed it because it ended: by a signal, by the kernel's out-of-memory killer, or by itself with a status that is not 0; also with the request still unread. Upstreams on this host only.",
    check: &[
        check(
            "Out of memory, or a fault?",
            "dmesg -T | grep -iE 'oom|killed process|segfault'",
        ),
        check("Is there a core dump?", "coredumpctl list"),
        check(
            "What was the container's limit?",
            "kubectl describe pod POD | grep -A3 'Last State'",
        ),
    ],
    fix: "Raise the memory limit or repair the leak; for a fault, take the core dump to the application's developers.",
    lookalikes: &[
        "`closed_before_response`, `truncated_response`: the same on the wire without a death that was seen, for example on another host.",
    ],
};

pub(in crate::knowledge) const TRUNCATED_RESPONSE: Entry = Entry {
    cause: Cause::TruncatedResponse,
    meaning: "The upstream began its response and closed before the end of it.",
    gloss: "the response was cut short",
    evidence: "Response bytes came, then FIN or RST with the head incomplete (phase head), or short of Content-Length, or without the last chunk (phase body).",
    check: &[
        check(
            "Does the application log a crash or an aborted write in that second?",
            "journalctl -u SERVICE --since '-10 min'",
        ),
        check(
            "Is the Content-Length right?",
            "curl -sv --raw http://ADDRESS:PORT/PATH -o /dev/null",
        ),
        check(
            "Is it always after the same time? Then a device in between cuts idle flows.",
            "why502 explain --cause truncated_response --last 50",
        ),
    ],
    fix: "Find the crash or abort in the middle of the stream; correct a wrong Content-Length; raise the idle timeout of a device in between.",
    lookalikes: &[
        "The client got 200: most proxies pass on what there was, and some close it off cleanly (Caddy for chunked; HAProxy, Envoy and Caddy for bodies until close).",
        "A body without Content-Length or chunks that ends by FIN cannot be told from a complete one.",
    ],
};

pub(in crate::knowledge) const INVALID_RESPONSE: Entry = Entry {
    cause: Cause::InvalidResponse,
    meaning: "What the upstream sent is not HTTP/1, or breaks its grammar.",
    gloss: "not HTTP/1 as the proxy reads it",
    evidence: "The first response bytes are not `HTTP/1.`, or the head is malformed and the proxy did not pass it on, or the proxy closed at once on a response that had begun, or an interim response (103, say) came before the answer and Varnish, which takes none, gave an error of its own.",
    check: &[
        check(
            "What does it send?",
            "printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' | nc -w 2 ADDRESS PORT | head -c 200 | xxd",
        ),
        check(
            "Is it another protocol: https, HTTP/2 without TLS, FastCGI, gRPC?",
            "curl -skv https://ADDRESS:PORT/",
        ),
        check(
            "Did a deploy add a header with a line end or control character?",
            "",
        ),
        check(
            "Behind Varnish: does a 1xx come before the answer?",
            "curl -sv http://ADDRESS:PORT/PATH -o /dev/null 2>&1 | grep '^< HTTP'",
        ),
    ],
    fix: "Correct port or protocol (https, h2c, FastCGI), or the header that holds a CR, LF or control character; behind Varnish, no 1xx (Early Hints) to it.",
    lookalikes: &[
        "`truncated_response`: right as far as it goes, and short.",
        "nginx may pass the raw bytes on without a status line (its log says 009), Apache as 200.",
    ],
};

pub(in crate::knowledge) const HEADER_TOO_BIG: Entry = Entry {
    cause: Cause::HeaderTooBig,
    meaning: "The upstream's response head does not fit the proxy's buffer, and the proxy gave up on it.",
    gloss: "the proxy's buffer is smaller than the head",
    evidence: "The proxy closed at once with the head incomplete and 4 KiB or more of it read, while the upstream had not closed.",
    check: &[
        check(
            "How large is the head?",
            "curl -s -o /dev/null -D - http://ADDRESS:PORT/PATH | wc -c",
        ),
        check(
            "Which headers are large? Cookies, usually.",
            "curl -s -o /dev/null -D - http://ADDRESS:PORT/PATH | awk '{print length, $1}' | sort -rn | head",
        ),
        check(
            "What is the proxy's limit?",
            "nginx -T | grep -E 'proxy_buffer_size|fastcgi_buffer_size'",
        ),
    ],
    fix: "Raise the limit (nginx proxy_buffer_size, HAProxy tune.bufsize, Apache ResponseFieldSize), or shrink the cookies.",
    lookalikes: &["`invalid_response`: a head that breaks the grammar, of any size."],
};

pub(in crate::knowledge) const RESPONSE_TIMEOUT: Entry = Entry {
    cause: Cause::ResponseTimeout,
    meaning: "The upstream has the request, and nothing of an answer came; the proxy's timer gave up on it.",
    gloss: "delivered, then silence: the app is slow",
    evidence: "The whole request was acknowledged, then silence, then the proxy closed; its client was still there. Not where others on the same route to the same upstream lasted longer, or the proxy gave another status than after a timer, unless it gives them up at the same age again and again. `proof` needs the status that the proxy gives after a timer, or such a row, a client that had not sent its FIN, and an upstream on this host that had read the request and answered nothing: elsewhere an answer may have been lost on its way.",
    check: &[
        check(
            "What was it doing? Slow query, lock, downstream call: the application's trace of that request.",
            "",
        ),
        check(
            "Are all its workers busy?",
            "ss -tn state established 'sport = :PORT' | wc -l",
        ),
        check(
            "Which requests wait now?",
            "why502 explain --open --min-age 1s",
        ),
        check(
            "Which timer was it? Durations cluster at its value.",
            "why502 explain --cause response_timeout --last 50",
        ),
    ],
    fix: "Find the slow query or downstream call, or add workers; raise the timeout only if the work is meant to take that long.",
    lookalikes: &[
        "`path_lost`: the same words and the same 504, but the request never arrived.",
        "`client_abort`: the client left first. HAProxy 2.6, Apache and Varnish log that as a timeout later.",
        "Apache answers 502 for this, Varnish 503.",
        "An answer that is lost on its way (a smaller MTU, a firewall): at the upstream's host it is sent again, `ss -tio` shows `retrans`.",
    ],
};

pub(in crate::knowledge) const REQUEST_STALLED: Entry = Entry {
    cause: Cause::RequestStalled,
    meaning: "The upstream stopped reading the request, a large upload usually, and the proxy gave up.",
    gloss: "the app stopped reading",
    evidence: "The upstream's receive window was shut with request bytes left to send, then the proxy closed.",
    check: &[
        check(
            "Does data wait unread in the upstream's socket (Recv-Q)?",
            "ss -tn 'sport = :PORT'",
        ),
        check(
            "Is it blocked on disk, or on its own downstream?",
            "cat /proc/PID/wchan; iostat -x 1 3",
        ),
        check(
            "How large are the uploads?",
            "why502 explain --cause request_stalled --json | jq '.incidents[].attempts[].evidence.request_bytes'",
        ),
    ],
    fix: "Have the upstream read uploads as they come (disk, workers, its own limits), or raise the proxy's send timeout.",
    lookalikes: &[
        "`path_lost`: the bytes were not acknowledged because the network lost them.",
        "Envoy's route timeout and Varnish do not end this: the request hangs without an error.",
    ],
};

pub(in crate::knowledge) const PATH_LOST: Entry = Entry {
    cause: Cause::PathLost,
    meaning: "The connection stood, but the other end stopped acknowledging: the network lost what was sent.",
    gloss: "not a slow app",
    evidence: "Request bytes not acknowledged and sent again at least twice, then the proxy closed, or the kernel gave up (110, 113); or its keep-alive probes were not answered (110).",
    check: &[
        check("Is the upstream's host alive?", "ping -c 3 ADDRESS"),
        check(
            "Does only large traffic fail? Then it is the MTU.",
            "ping -M do -s 1472 -c 3 ADDRESS",
        ),
        check(
            "Did a NAT or firewall forget an idle connection? Look at the idle time of reused ones.",
            "why502 explain --cause path_lost --last 20",
        ),
        check(
            "Do retransmits grow?",
            "nstat -az TcpRetransSegs TcpExtTCPTimeouts",
        ),
    ],
    fix: "Look at the network, not the app: dead host, a NAT or conntrack entry that expired on an idle connection, MTU.",
    lookalikes: &[
        "`response_timeout`: the same 504 and the same words in the log; there the request was acknowledged.",
    ],
};

pub(in crate::knowledge) const UPSTREAM_STATUS: Entry = Entry {
    cause: Cause::UpstreamStatus,
    meaning: "The upstream itself answered with this status; the proxy only passed it on.",
    gloss: "the upstream's own answer",
    evidence: "A response with a status of 500 or more came from the upstream, and the client was given the same. `strong` at most where the client's answer has another length: the proxy may have a page for that status. `guess` where its status is another, where the upstream reset while it was still being sent to, and where it came when the client had its answer.",
    check: &[
        check(
            "What does the application log for this request?",
            "journalctl -u SERVICE --since '-10 min'",
        ),
        check(
            "Is the upstream a proxy as well? Then run why502 on its host.",
            "",
        ),
    ],
    fix: "Look at the application that answered; if it is a proxy itself, ask why502 there.",
    lookalikes: &["`proxy_generated`: the same status without any attempt at an upstream."],
};
