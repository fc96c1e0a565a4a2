//! One upstream, or a few: where its time goes, how its connections end.

use super::expression::{UPSTREAM, classic, native, quantile, rare, rate};
use super::model::{Dashboard, Panel, Row, Variable};

const FAILURES: &str = "why502_upstream_failures_total";
const HEADER: &str = "why502_upstream_header_seconds";
const FIRST_BYTE: &str = "why502_upstream_first_byte_seconds";
const IDLE: &str = "why502_upstream_idle_before_reuse_seconds";
const RACED: &str = r#"cluster=~"$cluster", instance=~"$instance", proxy=~"$proxy", upstream=~"$upstream", raced="true""#;
const NOT_RACED: &str = r#"cluster=~"$cluster", instance=~"$instance", proxy=~"$proxy", upstream=~"$upstream", raced="false""#;

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "why502-upstream",
        title: "why502: upstream detail",
        description: "What an upstream does, as its proxies and the kernel see it. Choose an upstream at the top.",
        variables: &[Variable::Proxy, Variable::Upstream],
        rows: vec![answers(), time(), connections(), keep_alive(), now()],
    }
}

fn answers() -> Row {
    let panels = vec![
        Panel::stack(
            "Failed attempts by cause",
            "reqps",
            "Why attempts failed, hidden by a retry or not. Each cause has a section in docs/diagnosing.md.",
        )
        .query(rare("cause", FAILURES, UPSTREAM), "{{cause}}"),
        Panel::stack(
            "Failed attempts by phase",
            "reqps",
            "In which part of the attempt: connect and tls are before the application has the request; head is after it; body is an answer that was cut.",
        )
        .query(rare("phase", FAILURES, UPSTREAM), "{{phase}}"),
        Panel::stack(
            "Answers by code",
            "reqps",
            "What the application said, complete or not.",
        )
        .query(rate("code", "why502_upstream_responses_total", UPSTREAM), "{{code}}"),
        Panel::lines(
            "Answers by upstream",
            "reqps",
            "Whether all instances get their share. One at 0 was given up by the proxy, or is new.",
        )
        .query(rate("upstream", "why502_upstream_responses_total", UPSTREAM), "{{upstream}}"),
        Panel::stack(
            "Health checks by result",
            "reqps",
            "What the proxies' own checks got. They are in no other panel: a check is no attempt for a request.",
        )
        .query(rare("result", "why502_upstream_health_checks_total", UPSTREAM), "{{result}}"),
    ];
    Row {
        title: "What it answers",
        panels,
    }
}

/// p50 and p99 of a histogram by upstream.
fn quantiles(title: &'static str, histogram: &str, reads: &'static str) -> Panel {
    Panel::lines(title, "s", reads)
        .wide(8)
        .query(
            quantile(0.99, "upstream", histogram, UPSTREAM),
            "p99 {{upstream}}",
        )
        .query(
            quantile(0.5, "upstream", histogram, UPSTREAM),
            "p50 {{upstream}}",
        )
}

fn time() -> Row {
    let panels = vec![
        quantiles(
            "Connect",
            "why502_upstream_connect_seconds",
            "The kernel's handshake alone, on fresh connections. About one round trip; 1 s more is one SYN that was lost, 3 s two.",
        ),
        quantiles(
            "TLS",
            "why502_upstream_tls_seconds",
            "From ClientHello to the first data, on fresh connections. Much more than two round trips: the upstream has no CPU.",
        ),
        quantiles(
            "First byte",
            FIRST_BYTE,
            "From the last byte of the request to the first of the answer: the wait for the application, without network set-up.",
        ),
        quantiles(
            "Response head",
            HEADER,
            "From the start of the attempt to the whole head, connect and TLS included: nginx calls it $upstream_header_time. The SLO of Why502UpstreamSlow is on it: 99 % within 1 s.",
        ),
        quantiles(
            "Whole response",
            "why502_upstream_response_seconds",
            "From the start of the attempt to its last byte or its failure (nginx $upstream_response_time). Timeouts are in it.",
        ),
        quantiles(
            "Round trip",
            "why502_tcp_rtt_seconds",
            "The kernel's own smoothed measure. A rise with the same application times is the network.",
        ),
        Panel::heatmap(
            "First byte (native histogram)",
            "The wait for the application, darker where there are more. Empty when Prometheus scrapes text.",
        )
        .query(native(FIRST_BYTE, UPSTREAM), ""),
        Panel::heatmap(
            "First byte (classic histogram)",
            "The same in fixed buckets. Empty when Prometheus scrapes native histograms only.",
        )
        .query(classic(FIRST_BYTE, UPSTREAM), "{{le}}"),
    ];
    Row {
        title: "Where the time goes",
        panels,
    }
}

fn connections() -> Row {
    let panels = vec![
        Panel::stack(
            "Connects by result",
            "ops",
            "Of whatever protocol. Many established for few answers: no keep-alive. refused: nobody listens. timeout: nothing answers.",
        )
        .query(rare("result", "why502_tcp_connects_total", UPSTREAM), "{{result}}"),
        Panel::stack(
            "Resets by direction and phase",
            "ops",
            "received: the upstream reset; sent: the proxy did. In connect it is a refusal, in idle a keep-alive race or a restart, in head a crash or a closed listener, in body a cut answer.",
        )
        .query(
            rare("direction, phase", "why502_tcp_resets_total", UPSTREAM),
            "{{direction}} in {{phase}}",
        ),
        Panel::lines(
            "SYN timeouts by who gave up",
            "ops",
            "Connects that no packet ever answered. proxy: its connect timeout ended them; kernel: net.ipv4.tcp_syn_retries did, which takes 127 s by default.",
        )
        .query(
            rare("upstream, gave_up", "why502_tcp_syn_timeouts_total", UPSTREAM),
            "{{upstream}} by {{gave_up}}",
        ),
        Panel::lines(
            "SYNs sent again",
            "ops",
            "The first SYN got no answer within 1 s. Some at all upstreams: the network loses packets. Many at one: its accept queue is full, or a firewall drops.",
        )
        .query(rare("upstream", "why502_tcp_syn_retransmits_total", UPSTREAM), "{{upstream}}"),
        Panel::lines(
            "Segments sent again",
            "ops",
            "Retransmissions of the proxy on open connections. With path_lost above, the way is broken; without, it is only lossy.",
        )
        .query(rare("upstream", "why502_tcp_retransmits_total", UPSTREAM), "{{upstream}}"),
        Panel::lines(
            "Requests per connection",
            "short",
            "Answers divided by new connections. 1: each request pays for a connect. Far above: keep-alive works.",
        )
        .query(
            format!(
                "{} / ({} > 0)",
                rate("upstream", "why502_upstream_responses_total", UPSTREAM),
                rate(
                    "upstream",
                    "why502_tcp_connects_total",
                    r#"cluster=~"$cluster", instance=~"$instance", proxy=~"$proxy", upstream=~"$upstream", result="established""#
                )
            ),
            "{{upstream}}",
        ),
    ];
    Row {
        title: "Connections",
        panels,
    }
}

fn keep_alive() -> Row {
    let panels = vec![
        Panel::lines(
            "Idle before reuse: won and raced",
            "s",
            "How long connections had idled when they were used again. A race (raced) stands at the upstream's own timeout: set the proxy's below it. Won reuses just under that line are races to come.",
        )
        .query(quantile(0.5, "upstream", IDLE, RACED), "raced, p50 {{upstream}}")
        .query(quantile(0.99, "upstream", IDLE, NOT_RACED), "won, p99 {{upstream}}"),
        Panel::lines(
            "Keep-alive races",
            "ops",
            "Requests that met the FIN of an idle connection. Never many, and never gone by themselves.",
        )
        .query(
            rare(
                "upstream",
                FAILURES,
                &format!("{UPSTREAM}, cause=\"keepalive_race\""),
            ),
            "{{upstream}}",
        ),
        Panel::heatmap(
            "Idle before reuse (native histogram)",
            "All reuses, won or raced. The upper edge is the shorter of the two timeouts. Empty when Prometheus scrapes text.",
        )
        .query(native(IDLE, UPSTREAM), ""),
        Panel::heatmap(
            "Idle before reuse (classic histogram)",
            "The same in fixed buckets, which sit around usual timeouts: 2, 5, 15, 30, 60, 65 and 75 s. Empty when Prometheus scrapes native histograms only.",
        )
        .query(classic(IDLE, UPSTREAM), "{{le}}"),
    ];
    Row {
        title: "Keep-alive",
        panels,
    }
}

fn now() -> Row {
    let panels = vec![
        Panel::lines(
            "Requests under way",
            "short",
            "At the time of each scrape. A line that only rises is an upstream that takes requests and does not answer.",
        )
        .query(
            format!("sum by (upstream) (why502_upstream_outstanding_requests{{{UPSTREAM}}})"),
            "{{upstream}}",
        ),
        Panel::lines(
            "Oldest request under way",
            "s",
            "Age of the oldest attempt. A straight rise is a hang that no timer ends: WebSockets do that too, and are well.",
        )
        .query(
            format!("max by (upstream) (why502_upstream_oldest_request_seconds{{{UPSTREAM}}})"),
            "{{upstream}}",
        ),
    ];
    Row {
        title: "Now",
        panels,
    }
}
