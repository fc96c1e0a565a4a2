//! Causes of a request's error that come from no attempt, and those that are no fault.

use agent_core::cause::Cause;

use crate::knowledge::{Entry, check};

pub(in crate::knowledge) const NO_LIVE_UPSTREAM: Entry = Entry {
    cause: Cause::NoLiveUpstream,
    meaning: "The proxy holds every upstream of the group to be down: it tried nobody, or ended what was under way at a server that it took out of service.",
    gloss: "the proxy holds all of them to be down",
    evidence: "A 5xx without any attempt, with the status that this proxy gives then, after every upstream of the request's route had failed and before one of them was used with success. `guess`: a rule, a limit or a cache of the proxy may have answered with that status meanwhile. Or an attempt that the proxy closed right after a health check of its upstream had failed, with another answer than after a timer (HAProxy `on-marked-down shutdown-sessions`).",
    check: &[
        check(
            "What failed first? That is the cause.",
            "why502 explain --since 2m",
        ),
        check(
            "How long does the proxy shun? (nginx fail_timeout 10 s, Apache balancer 60 s, Varnish 0.25 to 10 s)",
            "",
        ),
        check(
            "Do its health checks pass?",
            "curl -sv http://ADDRESS:PORT/HEALTH",
        ),
    ],
    fix: "Repair what failed first; then look whether max_fails, fail_timeout or the health check shun too eagerly.",
    lookalikes: &[
        "`proxy_generated`: no attempt either, but nothing had failed before: a limit, a queue, a rule.",
        "nginx says `no live upstreams` also when max_conns is reached.",
        "A health check that was answered 400 by a server that is well: it may be plain HTTP to a port for TLS, a PROXY header that is not expected (`send-proxy` without `accept-proxy`), or HTTP/1.1 without Host.",
    ],
};

pub(in crate::knowledge) const DNS_FAILURE: Entry = Entry {
    cause: Cause::DnsFailure,
    meaning: "The proxy tried nobody: the upstream's name did not resolve.",
    gloss: "the upstream's name did not resolve",
    evidence: "A 5xx without any attempt, and just before it a DNS question of the proxy that failed or stayed unanswered.",
    check: &[
        check(
            "Does the name resolve, at the resolver that the proxy uses?",
            "dig NAME @RESOLVER",
        ),
        check(
            "Which resolver is that?",
            "cat /etc/resolv.conf; nginx -T | grep resolver",
        ),
        check(
            "Does the resolver answer at all?",
            "tcpdump -ni any port 53",
        ),
    ],
    fix: "Repair the resolver or the name; in Kubernetes look at CoreDNS and at the service's name.",
    lookalikes: &["`no_live_upstream`: Envoy answers `no_healthy_upstream` for both."],
};

pub(in crate::knowledge) const PROXY_GENERATED: Entry = Entry {
    cause: Cause::ProxyGenerated,
    meaning: "The proxy answered by itself: a rate limit, a queue, a circuit breaker, a rule, a maintenance page, or servers that an operator took out of service.",
    gloss: "the proxy's own answer, as far as is seen",
    evidence: "A 5xx without any attempt, with no earlier failure and no DNS question that would explain it.",
    check: &[
        check(
            "Is there a limit or a fixed answer for this path?",
            "nginx -T | grep -E 'limit_req|limit_conn|return 50'",
        ),
        check(
            "Is a queue full? (HAProxy maxconn, timeout queue; Envoy circuit breakers; Apache max=)",
            "echo 'show stat' | socat stdio /run/haproxy/admin.sock | cut -d, -f1-5",
        ),
        check("What does the proxy's log say at that time?", ""),
    ],
    fix: "Look at limits, queues, circuit breakers, rules and servers out of service at the proxy first: no attempt at an upstream was seen.",
    lookalikes: &[
        "`no_live_upstream`: all upstreams had failed shortly before.",
        "A connection that was open before the agent started may hide the attempt.",
    ],
};

pub(in crate::knowledge) const CLIENT_ABORT: Entry = Entry {
    cause: Cause::ClientAbort,
    meaning: "The client left before it had its answer; nothing failed at the upstream.",
    gloss: "the client left first",
    evidence: "FIN or RST from the client before its answer was complete; then the proxy closed upstream, or wrote a 5xx to nobody. Not where a client that had only shut down its sending side got its error, nor where the proxy gave 504 as the client left: its timer ran out. Of clients that speak TLS only that they left is seen: `strong` at proxies that close upstream before they answer (nginx, Apache httpd), where the thread that made the attempt served that client; else `guess`, for who has an answer leaves too.",
    check: &[
        check(
            "How long had they waited? A cluster at a round number is the client's own timeout.",
            "why502 explain --cause client_abort --last 50",
        ),
        check(
            "Is the upstream slower than usual?",
            "curl -s http://127.0.0.1:9502/metrics | grep upstream_first_byte_seconds",
        ),
    ],
    fix: "No fault to repair; if many leave after the same time, the answer is slower than their timeout.",
    lookalikes: &[
        "`response_timeout`: the proxy's own timer, with the client still there. HAProxy 2.6, Apache and Varnish log aborts as timeouts.",
    ],
};

pub(in crate::knowledge) const UNATTRIBUTED: Entry = Entry {
    cause: Cause::Unattributed,
    meaning: "The evidence does not tell: it is incomplete, hidden by TLS, or from before the agent; or the proxy cut a valid answer, waited for its client, or was stopped.",
    gloss: "the evidence does not tell",
    evidence: "An error without evidence that allows one reading only. It is counted, not guessed. Where the upstream is named, a connection to it was opened or used for the request, and what was said on it is not read (FastCGI, uwsgi, HTTP/2, TLS, a Unix socket).",
    check: &[
        check(
            "Were records lost?",
            "curl -s http://127.0.0.1:9502/metrics | grep why502_agent_losses_total | grep -v ' 0$'",
        ),
        check("What does this kernel not allow?", "sudo why502 doctor"),
        check(
            "Was a valid answer cut? Then the proxy's own log says why: a full disk, a temporary file that it may not write, a limit.",
            "",
        ),
        check(
            "Is the upstream spoken to over TLS, HTTP/2, FastCGI or a Unix socket? That is not read: its own log has the answer.",
            "",
        ),
    ],
    fix: "Look at the incident's numbers and the proxy's log; if records were lost, give the agent a larger --ring-bytes; if the proxy was stopped, drain it first.",
    lookalikes: &[],
};
