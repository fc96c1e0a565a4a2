//! What events become in the registry.

use std::sync::Arc;

use agent_core::cause::Cause;
use agent_core::event::{ConnectDone, ConnectResult, Event, ResetSeen, TcpSeen};
use agent_core::observation::{Phase, ResetDirection};

use super::{RETIRE_AFTER_NANOS, UnderWay};
use crate::config::Settings;
use crate::metrics::Metrics;
use crate::metrics::exposition::Format;
use crate::samples::{TRACE_ID, failed_attempt, good_attempt, proxy, request, upstream};

fn metrics(settings: &str) -> Metrics {
    Metrics::new(&Settings::parse(settings).unwrap())
}

fn text(metrics: &Metrics) -> String {
    String::from_utf8(Format::Text.to_vec(&metrics.registry).unwrap()).unwrap()
}

#[track_caller]
fn assert_line(text: &str, parts: &[&str], value: &str) {
    let found = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .any(|line| {
            parts.iter().all(|part| line.contains(part)) && line.ends_with(&format!(" {value}"))
        });
    assert!(found, "no line with {parts:?} and {value} in\n{text}");
}

fn attempt_at(address: &str) -> Event {
    let mut attempt = good_attempt();
    attempt.upstream = upstream(address);
    Event::LoneAttempt(Arc::new(attempt))
}

#[test]
fn a_502_is_counted_with_its_cause_and_its_failed_attempt() {
    let mut metrics = metrics("");
    let request = request(Some(502), vec![failed_attempt()]);
    metrics
        .traffic
        .record(&Event::Request(Arc::new(request)), 1);

    let text = text(&metrics);

    assert_line(
        &text,
        &["why502_gateway_responses_total{", "code=\"502\""],
        "1",
    );
    assert_line(
        &text,
        &[
            "why502_gateway_errors_total{",
            "cause=\"keepalive_race\"",
            "certainty=\"proof\"",
            "upstream=\"10.0.3.17:8080\"",
        ],
        "1",
    );
    assert_line(
        &text,
        &[
            "why502_upstream_failures_total{",
            "phase=\"request\"",
            "masked=\"false\"",
        ],
        "1",
    );
    assert_line(
        &text,
        &[
            "why502_upstream_idle_before_reuse_seconds_count{",
            "raced=\"true\"",
        ],
        "1",
    );
    assert!(
        !text.contains("why502_upstream_responses_total{"),
        "no answer came\n{text}"
    );
}

#[test]
fn the_trace_of_a_failure_is_its_exemplar_and_without_one_there_is_none() {
    let open = |trace_id: Option<&str>| {
        let mut metrics = metrics("");
        let mut request = request(Some(502), Vec::new());
        request.head.as_mut().unwrap().trace_id = trace_id.map(Into::into);
        metrics
            .traffic
            .record(&Event::Request(Arc::new(request)), 1);
        String::from_utf8(Format::OpenMetrics.to_vec(&metrics.registry).unwrap()).unwrap()
    };

    let traced = open(Some(TRACE_ID));

    let exemplar = format!("# {{trace_id=\"{TRACE_ID}\"}} 1.0");
    assert!(
        traced.lines().any(
            |line| line.starts_with("why502_gateway_errors_total{") && line.contains(&exemplar)
        ),
        "{traced}"
    );
    assert!(!open(None).contains("trace_id"));
}

#[test]
fn a_status_of_the_upstream_is_an_error_and_no_failed_attempt() {
    let mut metrics = metrics("");
    let mut attempt = good_attempt();
    attempt.code = Some(503);
    attempt.failure = attempt
        .failure
        .or(failed_attempt().failure)
        .map(|mut failure| {
            failure.cause = Cause::UpstreamStatus;
            failure
        });

    metrics
        .traffic
        .record(&Event::LoneAttempt(Arc::new(attempt)), 1);

    let text = text(&metrics);
    assert_line(
        &text,
        &["why502_upstream_responses_total{", "code=\"503\""],
        "1",
    );
    assert!(!text.contains("why502_upstream_failures_total{"), "{text}");
}

#[test]
fn an_error_without_an_attempt_has_no_upstream() {
    let mut metrics = metrics("");

    metrics
        .traffic
        .record(&Event::Request(Arc::new(request(Some(503), Vec::new()))), 1);

    assert_line(
        &text(&metrics),
        &["why502_gateway_errors_total{", "upstream=\"none\""],
        "1",
    );
}

#[test]
fn a_client_that_left_was_given_nothing_and_nothing_is_counted() {
    let mut metrics = metrics("");
    let mut left = request(None, vec![failed_attempt()]);
    left.client_left = true;
    metrics.traffic.record(&Event::Request(Arc::new(left)), 1);
    assert!(!text(&metrics).contains("why502_gateway_responses_total{"));

    metrics.traffic.record(
        &Event::Request(Arc::new(request(None, vec![failed_attempt()]))),
        1,
    );

    let text = text(&metrics);
    assert_line(
        &text,
        &["why502_gateway_responses_total{", "code=\"none\""],
        "1",
    );
    assert_line(
        &text,
        &["why502_gateway_errors_total{", "code=\"none\""],
        "1",
    );
}

#[test]
fn upstreams_beyond_the_bound_are_other_and_counted() {
    let mut metrics = metrics("max_upstreams = 2");

    for port in 1..=5 {
        metrics
            .traffic
            .record(&attempt_at(&format!("10.0.0.1:{port}")), 1);
    }
    metrics.traffic.record(&attempt_at("10.0.0.1:2"), 1);

    let text = text(&metrics);
    let responses = ["why502_upstream_responses_total{"];
    assert_line(&text, &[responses[0], "upstream=\"10.0.0.1:1\""], "1");
    assert_line(&text, &[responses[0], "upstream=\"10.0.0.1:2\""], "2");
    assert_line(&text, &[responses[0], "upstream=\"other\""], "3");
    assert!(!text.contains("10.0.0.1:3"), "{text}");
    assert_line(
        &text,
        &["why502_agent_label_overflow_total{label=\"upstream\"}"],
        "3",
    );
}

#[test]
fn proxies_beyond_the_bound_are_other_and_counted() {
    let mut metrics = metrics("max_proxies = 1");
    for name in ["nginx", "haproxy", "envoy"] {
        let mut attempt = good_attempt();
        attempt.proxy = proxy(name);
        metrics
            .traffic
            .record(&Event::LoneAttempt(Arc::new(attempt)), 1);
    }

    let text = text(&metrics);

    assert_line(
        &text,
        &["why502_upstream_responses_total{", "proxy=\"nginx\""],
        "1",
    );
    assert_line(
        &text,
        &[
            "why502_upstream_responses_total{",
            "proxy=\"other\"",
            "upstream=\"other\"",
        ],
        "2",
    );
    assert_line(
        &text,
        &["why502_agent_label_overflow_total{label=\"proxy\"}"],
        "2",
    );
}

#[test]
fn an_upstream_silent_for_long_gives_its_place_to_a_new_one() {
    let mut metrics = metrics("max_upstreams = 1");
    metrics.traffic.record(&attempt_at("10.0.0.1:1"), 1);

    metrics
        .traffic
        .record(&attempt_at("10.0.0.2:1"), 2 + RETIRE_AFTER_NANOS);

    let text = text(&metrics);
    assert!(!text.contains("10.0.0.1:1"), "{text}");
    assert_line(
        &text,
        &[
            "why502_upstream_responses_total{",
            "upstream=\"10.0.0.2:1\"",
        ],
        "1",
    );
}

#[test]
fn a_proxy_silent_for_long_gives_its_place_to_a_new_one() {
    let mut metrics = metrics("max_proxies = 1");
    for (name, at) in [("nginx", 1), ("haproxy", 2 + RETIRE_AFTER_NANOS)] {
        let mut request = request(Some(502), vec![failed_attempt()]);
        request.proxy = proxy(name);
        let mut attempt = good_attempt();
        attempt.proxy = proxy(name);
        let told = [
            Event::LoneAttempt(Arc::new(attempt)),
            Event::Request(Arc::new(request)),
        ];
        for event in told {
            metrics.traffic.record(&event, at);
        }
    }

    let text = text(&metrics);

    assert!(!text.contains("proxy=\"nginx\""), "{text}");
    assert_line(
        &text,
        &[
            "why502_gateway_responses_total{",
            "proxy=\"haproxy\"",
            "code=\"502\"",
        ],
        "1",
    );
}

#[test]
fn one_name_can_stand_for_several_addresses() {
    let mut metrics =
        metrics("[upstream_names]\n\"10.0.0.1:1\" = \"orders\"\n\"10.0.0.2:1\" = \"orders\"\n");
    for address in ["10.0.0.1:1", "10.0.0.2:1"] {
        metrics.traffic.record(&attempt_at(address), 1);
    }
    let under_way = ["10.0.0.1:1", "10.0.0.2:1"].map(|address| UnderWay {
        proxy: proxy("nginx"),
        upstream: upstream(address),
        requests: 2,
        oldest_seconds: 1.5,
    });

    metrics.traffic.set_under_way(under_way, 1);

    let text = text(&metrics);
    assert_line(
        &text,
        &["why502_upstream_responses_total{", "upstream=\"orders\""],
        "2",
    );
    assert_line(
        &text,
        &[
            "why502_upstream_outstanding_requests{",
            "upstream=\"orders\"",
        ],
        "4",
    );
    assert_line(&text, &["why502_upstream_oldest_request_seconds{"], "1.5");
}

#[test]
fn what_is_no_longer_under_way_is_at_zero() {
    let mut metrics = metrics("");
    let one = UnderWay {
        proxy: proxy("nginx"),
        upstream: upstream("10.0.0.1:1"),
        requests: 2,
        oldest_seconds: 1.5,
    };
    metrics.traffic.set_under_way([one], 1);

    metrics.traffic.set_under_way([], 2);

    let text = text(&metrics);
    assert_line(&text, &["why502_upstream_outstanding_requests{"], "0");
    assert_line(&text, &["why502_upstream_oldest_request_seconds{"], "0.0");
}

#[test]
fn connects_resets_and_round_trips_are_counted() {
    let mut metrics = metrics("");
    let (proxy, upstream) = (proxy("nginx"), upstream("10.0.0.1:1"));
    let connect = |result, seconds, syn_retransmits| {
        Event::Connect(ConnectDone {
            proxy: proxy.clone(),
            upstream: upstream.clone(),
            result,
            seconds,
            syn_retransmits,
        })
    };
    let events = [
        connect(ConnectResult::Established, 0.001, 0),
        connect(ConnectResult::TimeoutProxy, 3.0, 1),
        connect(ConnectResult::TimeoutKernel, 127.0, 6),
        Event::Reset(ResetSeen {
            proxy: proxy.clone(),
            upstream: upstream.clone(),
            direction: ResetDirection::Received,
            phase: Phase::Idle,
        }),
        Event::Tcp(TcpSeen {
            proxy: proxy.clone(),
            upstream: upstream.clone(),
            retransmits: 4,
            rtt_seconds: Some(0.000_2),
        }),
    ];

    for event in &events {
        metrics.traffic.record(event, 1);
    }

    let text = text(&metrics);
    assert_line(
        &text,
        &["why502_tcp_connects_total{", "result=\"established\""],
        "1",
    );
    assert_line(&text, &["why502_upstream_connect_seconds_count{"], "1");
    assert_line(
        &text,
        &["why502_tcp_syn_timeouts_total{", "gave_up=\"proxy\""],
        "1",
    );
    assert_line(
        &text,
        &["why502_tcp_syn_timeouts_total{", "gave_up=\"kernel\""],
        "1",
    );
    assert_line(&text, &["why502_tcp_syn_retransmits_total{"], "7");
    assert_line(
        &text,
        &[
            "why502_tcp_resets_total{",
            "direction=\"received\"",
            "phase=\"idle\"",
        ],
        "1",
    );
    assert_line(&text, &["why502_tcp_retransmits_total{"], "4");
    assert_line(&text, &["why502_tcp_rtt_seconds_count{"], "1");
}
