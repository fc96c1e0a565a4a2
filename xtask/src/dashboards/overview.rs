//! The first dashboard to open: is there trouble, whose is it, and how sure is that.

use super::expression::{
    PROXY, UPSTREAM, classic, count, grown, native, quantile, rare, rate, sum,
};
use super::model::{Dashboard, Panel, Row, Variable};

const ERRORS: &str = "why502_gateway_errors_total";
const ANSWERS: &str = "why502_gateway_responses_total";
const FAILURES: &str = "why502_upstream_failures_total";
const REQUEST: &str = "why502_gateway_request_seconds";
const RESPONSE: &str = "why502_upstream_response_seconds";

/// 502, 503, 504 and connections closed instead of an answer.
const GATEWAY: &str = r#"cluster=~"$cluster", instance=~"$instance", proxy=~"$proxy", code=~"502|503|504|none", cause!="client_abort""#;
const GATEWAY_OF_UPSTREAM: &str = r#"cluster=~"$cluster", instance=~"$instance", proxy=~"$proxy", upstream=~"$upstream", code=~"502|503|504|none", cause!="client_abort""#;
const MASKED: &str = r#"cluster=~"$cluster", instance=~"$instance", proxy=~"$proxy", upstream=~"$upstream", masked="true""#;

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "why502-gateway",
        title: "why502: gateway overview",
        description: "What clients of the proxies get, and why it is an error.",
        variables: &[Variable::Proxy, Variable::Upstream],
        rows: vec![trouble(), hidden(), whose(), sure()],
    }
}

fn unattributed(with: &str) -> String {
    format!("{with}, cause=\"unattributed\"")
}

fn trouble() -> Row {
    let answers = rate("proxy", ANSWERS, PROXY);
    let all_answers = rate("", ANSWERS, PROXY);
    let panels = vec![
        Panel::stat(
            "Failed",
            "percentunit",
            "Share of requests that ended as 502, 503, 504 or as a connection closed without an answer. The alert Why502GatewayErrors fires at 5 %.",
        )
        .steps(&[(0.01, "orange"), (0.05, "red")])
        .query(
            format!("({} or vector(0)) / {all_answers}", rare("", ERRORS, GATEWAY)),
            "failed",
        ),
        Panel::stat(
            "Errors",
            "reqps",
            "Such requests per second. With few requests a large share is few errors: look at both.",
        )
        .steps(&[(0.1, "orange"), (1.0, "red")])
        .query(format!("{} or vector(0)", rare("", ERRORS, GATEWAY)), "errors"),
        Panel::stat(
            "Saved by retries",
            "reqps",
            "Failed attempts per second whose request succeeded at another upstream. Clients see none of it; when the other upstreams fail as well, they will.",
        )
        .steps(&[(0.1, "orange")])
        .query(format!("{} or vector(0)", rare("", FAILURES, MASKED)), "masked"),
        Panel::stat(
            "Not explained",
            "percentunit",
            "Share of these errors of which the evidence does not tell the cause (unattributed). High: see the dashboard of the agents.",
        )
        .steps(&[(0.1, "orange"), (0.5, "red")])
        .query(
            format!(
                "({} or vector(0)) / ({} > 0)",
                rare("", ERRORS, &unattributed(GATEWAY)),
                rare("", ERRORS, GATEWAY)
            ),
            "unattributed",
        ),
        Panel::stat(
            "Answers",
            "reqps",
            "All answers to clients per second, by all chosen proxies.",
        )
        .query(&all_answers, "answers"),
        Panel::stat(
            "p99",
            "s",
            "99 of 100 requests took at most so long, from the first byte read to the last byte written.",
        )
        .query(quantile(0.99, "", REQUEST, PROXY), "p99"),
        Panel::stack(
            "Errors by cause",
            "reqps",
            "What to read first. Each colour is a cause of docs/diagnosing.md; the height is all 502, 503 and 504 and connections closed without an answer.",
        )
        .query(rare("cause", ERRORS, GATEWAY_OF_UPSTREAM), "{{cause}}"),
        Panel::stack(
            "Errors by code",
            "reqps",
            "The same errors as the client saw them; none is a connection closed without an answer. A proxy gives 504 for what took too long and 502 for what broke; 503 is also what it says when it did not even try.",
        )
        .query(rare("code", ERRORS, GATEWAY_OF_UPSTREAM), "{{code}}"),
        Panel::lines(
            "Failed share by proxy",
            "percentunit",
            "One line a proxy: its errors divided by its answers. One line up: that proxy or its upstreams. All up: what they share, such as network, name server, database.",
        )
        .query(format!("{} / {answers}", rare("proxy", ERRORS, GATEWAY)), "{{proxy}}"),
        Panel::stack(
            "Answers by code",
            "reqps",
            "All answers. A fall of the 200s without errors is missing traffic, not a failing upstream.",
        )
        .query(rate("code", ANSWERS, PROXY), "{{code}}"),
        Panel::table(
            "Errors in this range, by upstream and cause",
            "short",
            "How many in the whole range, most first. An upstream called none had no attempt: the proxy answered by itself. Ask `why502 explain --upstream ADDRESS` on the proxy's host for each of them.",
        )
        .query(
            format!("sort_desc({})", grown("proxy, upstream, cause, code", ERRORS, GATEWAY_OF_UPSTREAM)),
            "",
        ),
        Panel::lines(
            "Upstreams that fail most",
            "reqps",
            "Failed attempts per second of the ten worst upstreams, whether clients saw it or not. One line: that instance. All: the application or what it depends on.",
        )
        .query(format!("topk(10, {})", rare("upstream", FAILURES, UPSTREAM)), "{{upstream}}"),
    ];
    Row {
        title: "Is there trouble",
        panels,
    }
}

fn hidden() -> Row {
    let attempts = format!(
        "({} + {})",
        rate("upstream", "why502_upstream_responses_total", UPSTREAM),
        rare("upstream", FAILURES, UPSTREAM)
    );
    let panels = vec![
        Panel::stack(
            "Failures that retries hid, by cause",
            "reqps",
            "Attempts that failed while the client got its answer from another upstream. They cost time, and are the first sign of an upstream that goes.",
        )
        .query(rare("cause", FAILURES, MASKED), "{{cause}}"),
        Panel::lines(
            "Share of attempts that failed, by upstream",
            "percentunit",
            "Failed attempts divided by all attempts, hidden or not. 100 %: nothing of that upstream works, and the proxy still tries it.",
        )
        .query(
            format!(
                "({}) / ({attempts} or {})",
                rare("upstream", FAILURES, UPSTREAM),
                rare("upstream", FAILURES, UPSTREAM)
            ),
            "{{upstream}}",
        ),
        Panel::stack(
            "Failed attempts by whether the client saw it",
            "reqps",
            "true: a retry saved the request. false: the client got the error. unknown: the attempt could not be joined to a request.",
        )
        .query(rare("masked", FAILURES, UPSTREAM), "masked {{masked}}"),
        Panel::stack(
            "Answers of upstreams by code",
            "reqps",
            "What upstreams said, also when the client got something else. 5xx here are the application's own: the cause is upstream_status.",
        )
        .query(rate("code", "why502_upstream_responses_total", UPSTREAM), "{{code}}"),
    ];
    Row {
        title: "Hidden by retries",
        panels,
    }
}

fn whose() -> Row {
    let requests = count("", REQUEST, PROXY);
    let panels = vec![
        Panel::lines(
            "Is it us or them: seconds per request",
            "s",
            "Mean time of a request, and how much of it was spent at upstreams, all attempts together. Lines close together: the upstreams are slow. Far apart: the proxy waits for clients, for a slot, for a name, or has no CPU.",
        )
        .query(format!("{} / {requests}", sum("", REQUEST, PROXY)), "request")
        .query(
            format!("{} / {requests}", sum("", RESPONSE, PROXY)),
            "of it at upstreams",
        ),
        Panel::lines(
            "The same, 99 of 100",
            "s",
            "The slowest in a hundred. A request above its upstreams: retries, or slow clients. A step at a round number is a timeout.",
        )
        .query(quantile(0.99, "", REQUEST, PROXY), "requests, p99")
        .query(quantile(0.99, "", RESPONSE, UPSTREAM), "attempts at upstreams, p99")
        .query(quantile(0.5, "", REQUEST, PROXY), "requests, p50")
        .query(quantile(0.5, "", RESPONSE, UPSTREAM), "attempts at upstreams, p50"),
        Panel::heatmap(
            "Requests (native histogram)",
            "How long requests took, darker where there are more. Two bands are two kinds of requests; a band at 5, 30 or 60 s is a timeout. Empty when Prometheus scrapes text.",
        )
        .query(native(REQUEST, PROXY), ""),
        Panel::heatmap(
            "Requests (classic histogram)",
            "The same in fixed buckets; a row is everything up to its bound and above the one below. Empty when Prometheus scrapes native histograms only.",
        )
        .query(classic(REQUEST, PROXY), "{{le}}"),
        Panel::heatmap(
            "Attempts at upstreams (native histogram)",
            "How long attempts took, failed ones included. A band that is not in the heatmap of requests was hidden by retries. Empty when Prometheus scrapes text.",
        )
        .query(native(RESPONSE, UPSTREAM), ""),
        Panel::heatmap(
            "Attempts at upstreams (classic histogram)",
            "The same in fixed buckets. Empty when Prometheus scrapes native histograms only.",
        )
        .query(classic(RESPONSE, UPSTREAM), "{{le}}"),
    ];
    Row {
        title: "Is it us or them",
        panels,
    }
}

fn sure() -> Row {
    let panels = vec![
        Panel::stack(
            "Errors by certainty",
            "reqps",
            "proof: the evidence has no other reading. strong: a lookalike is possible. guess: more context is needed. Do not act on guesses alone.",
        )
        .query(rare("certainty", ERRORS, GATEWAY_OF_UPSTREAM), "{{certainty}}"),
        Panel::lines(
            "Not explained, by proxy and code",
            "reqps",
            "Errors counted as unattributed: the evidence was lost, hidden (TLS, HTTP/2), or began before the agent. Traffic to look at in the proxy's own log.",
        )
        .query(
            rare("proxy, code", ERRORS, &unattributed(UPSTREAM)),
            "{{proxy}} {{code}}",
        ),
    ];
    Row {
        title: "How sure is that",
        panels,
    }
}
