//! One request in full: what happened when, the numbers, the proxy's own words, the fix.

use std::fmt::{self, Write};

use jiff::tz::TimeZone;

use super::evidence::GUESS;
use super::units::{date_and_time, duration, milliseconds_between, wrapped};
use super::{WIDTH, because, evidence, known, verdict};
use crate::events::shape::{AttemptShape, CaseShape, EvidenceShape, RequestShape};
use crate::knowledge;

/// Columns of the names on the left.
const NAME: usize = 10;

/// Columns of an offset.
const OFFSET: usize = 10;

/// The whole of it. Dates are in `zone`.
pub fn in_full(request: &RequestShape, zone: &TimeZone) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_all(&mut out, request, zone);
    out
}

fn write_all(out: &mut String, request: &RequestShape, zone: &TimeZone) -> fmt::Result {
    if let Some(id) = request.id {
        write!(out, "incident {id}: ")?;
    }
    writeln!(out, "{}", verdict(request))?;
    out.push('\n');
    name(out, "request", &line_of(request));
    name(
        out,
        "client",
        &format!("{} got {}", request.client, outcome(request)),
    );
    let proxy = &request.proxy;
    name(out, "proxy", &format!("{}, pid {}", proxy.name, proxy.pid));
    name(out, "time", &date_and_time(&request.time, zone));
    for (what, id) in [
        ("trace", &request.trace_id),
        ("request id", &request.request_id),
    ] {
        if let Some(id) = id {
            name(out, what, id);
        }
    }

    writeln!(
        out,
        "\n{:>OFFSET$}  from the first byte of the request",
        "ms"
    )?;
    for (offset, text) in moments(request) {
        let lead = match offset {
            Some(offset) => format!("{offset:>OFFSET$.1}  "),
            None => format!("{:>OFFSET$}  ", ""),
        };
        out.push_str(&wrapped(&lead, OFFSET + 4, WIDTH, &text));
    }

    let cause = told_cause(request);
    let entry = cause.and_then(known);
    out.push('\n');
    let sure = request.case.as_ref().filter(|case| case.certainty != GUESS);
    match (sure, entry) {
        (Some(case), _) => name(out, "meaning", &case.meaning),
        (None, Some(entry)) => name(out, "meaning", entry.meaning),
        (None, None) => {}
    }
    if let Some(case) = &request.case {
        let CaseShape {
            name: case_name,
            certainty,
            meaning,
            facts: _,
        } = case;
        let possibly = if sure.is_none() {
            format!(". Possibly: {meaning}")
        } else {
            String::new()
        };
        name(out, "case", &format!("{case_name} ({certainty}){possibly}"));
    }
    if let Some(origin) = &request.origin_cause {
        name(
            out,
            "because",
            &because(origin, request.origin_check.as_ref()),
        );
    }
    if let Some(place) = evidence::who(&request.proxy.place) {
        name(out, "proxy", &place);
    }
    for (at, attempt) in request.attempts.iter().enumerate() {
        if attempt.cause.is_some() {
            let number = at + 1;
            name(
                out,
                "evidence",
                &format!("attempt {number}: {}", numbers(attempt)),
            );
        }
    }
    log_words(out, request);
    if let Some(fix) = &request.fix {
        name(out, "fix", fix);
    }
    if let Some(entry) = entry {
        name(out, "more", &knowledge::reference(entry.cause));
    }
    Ok(())
}

/// A name on the left and its text behind it.
fn name(out: &mut String, name: &str, text: &str) {
    let lead = format!("{name:<NAME$}  ");
    out.push_str(&wrapped(&lead, NAME + 2, WIDTH, text));
}

fn line_of(request: &RequestShape) -> String {
    let method = request.method.as_deref().unwrap_or("?");
    let host = request.host.as_deref().unwrap_or_default();
    let path = request.path.as_deref().unwrap_or("?");
    format!("{method} {host}{path}")
}

fn outcome(request: &RequestShape) -> String {
    let after = duration(request.request_seconds);
    match (request.code, request.client_left) {
        (Some(code), false) if request.complete => format!("{code} after {after}"),
        (Some(code), false) => format!("{code} and a cut answer after {after}"),
        (Some(code), true) => format!("{code}, and left before its end after {after}"),
        (None, true) => format!("nothing, and left after {after}"),
        (None, false) => format!("nothing: its connection was closed after {after}"),
    }
}

/// The cause of the error, else of the last failed attempt.
fn told_cause(request: &RequestShape) -> Option<&str> {
    let of_attempts = || {
        request
            .attempts
            .iter()
            .rev()
            .find_map(|attempt| attempt.cause.as_deref())
    };
    request.cause.as_deref().or_else(of_attempts)
}

/// What happened, in order, with the milliseconds since the first byte where they are known.
fn moments(request: &RequestShape) -> Vec<(Option<f64>, String)> {
    let client = &request.client;
    let mut all = vec![(Some(0.0), format!("request arrived from {client}"))];
    for (at, attempt) in request.attempts.iter().enumerate() {
        attempt_moments(&mut all, request, at + 1, attempt);
    }
    let end = match (request.code, request.client_left) {
        (Some(code), false) if request.complete => format!("answered {code}"),
        (Some(code), false) => format!("answer {code} ended incomplete"),
        (Some(code), true) => format!("the client left during the answer {code}"),
        (None, true) => "the client left".to_owned(),
        (None, false) => "the client's connection closed without an answer".to_owned(),
    };
    all.push((Some(request.request_seconds * 1000.0), end));
    all
}

fn attempt_moments(
    all: &mut Vec<(Option<f64>, String)>,
    request: &RequestShape,
    number: usize,
    attempt: &AttemptShape,
) {
    let upstream = &evidence::named(attempt);
    let start = milliseconds_between(&request.time, &attempt.started);
    let later = |seconds: f64| start.map(|start| start + seconds * 1000.0);
    let connecting = attempt.phase.as_deref() == Some("connect");

    if attempt.reused == Some(false) || connecting {
        all.push((start, format!("attempt {number}: connect to {upstream}")));
        if let Some(connect) = attempt.connect_seconds {
            let after = duration(connect);
            all.push((later(connect), format!("  established after {after}")));
        }
    } else {
        let connection = evidence::connection(attempt);
        all.push((
            start,
            format!("attempt {number}: request to {upstream}, {connection}"),
        ));
    }
    if let Some(traffic) = evidence::traffic(attempt) {
        all.push((None, format!("  {traffic}")));
    }
    if let (Some(code), Some(header)) = (attempt.code, attempt.header_seconds) {
        all.push((
            later(header),
            format!("  head of the response complete: {code}"),
        ));
    }
    let end = milliseconds_between(&request.time, &attempt.ended);
    match (&attempt.cause, &attempt.certainty) {
        (Some(cause), Some(certainty)) => {
            if let Some(circumstances) = evidence::circumstances(attempt) {
                all.push((None, format!("  {circumstances}")));
            }
            let ending = evidence::ending(attempt);
            all.push((end, format!("  {ending}: {cause} ({certainty})")));
        }
        _ => all.push((end, "  response complete".to_owned())),
    }
}

/// All numbers of an attempt, also those that the sentence leaves out.
fn numbers(attempt: &AttemptShape) -> String {
    let EvidenceShape {
        errno,
        syns,
        retransmits,
        request_bytes,
        request_acked,
        response_bytes,
        content_length,
        reset_had_ack,
        srtt_us,
        zero_window,
        killed_by,
        out_of_memory,
        exit_status,
        reset_reason,
        tls_alert,
        opening,
        tls_alert_name,
        tls_alert_by,
        server_name,
        server_name_sent,
        request_length,
        carried_requests,
        read_by_upstream,
    } = &attempt.evidence;
    let mut all = vec![
        format!("request_bytes {request_bytes}"),
        format!("request_acked {request_acked}"),
        format!("response_bytes {response_bytes}"),
        format!("syns {syns}"),
        format!("retransmits {retransmits}"),
    ];
    let optional = [
        ("errno", errno.map(u64::from)),
        ("content_length", *content_length),
        ("srtt_us", srtt_us.map(u64::from)),
        ("killed_by", killed_by.map(u64::from)),
        ("exit_status", exit_status.map(u64::from)),
        ("tls_alert", tls_alert.map(u64::from)),
        ("request_length", *request_length),
        ("carried_requests", carried_requests.map(u64::from)),
    ];
    for (name, value) in optional {
        all.extend(value.map(|value| format!("{name} {value}")));
    }
    if *zero_window {
        all.push("zero_window true".to_owned());
    }
    if *out_of_memory {
        all.push("out_of_memory true".to_owned());
    }
    all.extend(reset_had_ack.map(|had| format!("reset_had_ack {had}")));
    let words = [
        ("reset_reason", reset_reason),
        ("opening", opening),
        ("tls_alert_name", tls_alert_name),
        ("tls_alert_by", tls_alert_by),
        ("server_name", server_name),
    ];
    let flags = [
        ("server_name_sent", server_name_sent),
        ("read_by_upstream", read_by_upstream),
    ];
    for (name, value) in words {
        all.extend(value.iter().map(|value| format!("{name} {value}")));
    }
    for (name, value) in flags {
        all.extend(value.map(|value| format!("{name} {value}")));
    }
    all.extend(
        [("phase", &attempt.phase), ("how", &attempt.how)]
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name} {}", value.as_deref()?))),
    );
    let sure = attempt.join_certainty.as_deref();
    let doubt = sure.filter(|sure| *sure != "proof");
    let doubt = doubt.map_or_else(String::new, |sure| {
        let others = attempt.join_evidence.iter();
        let others = others.filter(|one| **one != attempt.join);
        let with: String = others.map(|one| format!(", {one}")).collect();
        format!(" ({sure}{with})")
    });
    all.push(format!("joined by {}{doubt}", attempt.join));
    all.join(", ")
}

/// What to look for in the proxy's log; each phrase once.
fn log_words(out: &mut String, request: &RequestShape) {
    let mut phrases: Vec<&str> = Vec::new();
    let of_attempts = request.attempts.iter().map(|attempt| &attempt.words);
    for words in [&request.words].into_iter().chain(of_attempts).flatten() {
        if !phrases.contains(&words.as_str()) {
            phrases.push(words);
        }
    }
    let proxy = &request.proxy.name;
    if phrases.is_empty() {
        let text = format!("no phrase that {proxy} writes about it is known");
        name(out, "its log", &text);
    }
    for phrase in phrases {
        name(out, "its log", &format!("{proxy} writes: {phrase}"));
    }
}
