//! Events as lines for people.

use std::fmt::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::shape::{AttemptShape, Envelope, EvidenceShape, Line, LoneAttemptShape, RequestShape};

/// Columns before the text of a continued line: the width of a time of day and a gap.
const INDENT: &str = "              ";

/// The event as one or more lines, each with its newline; empty when there is nothing to
/// say to a person. Times of day are in `zone`.
pub fn lines(envelope: &Envelope, zone: &TimeZone) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = match &envelope.line {
        Line::Hello { .. } | Line::Alive { .. } => Ok(()),
        Line::Lost { events } => writeln!(
            out,
            "{INDENT}({events} events missed: this reader was too slow)"
        ),
        Line::Request(request) => request_lines(&mut out, request, zone),
        Line::Attempt(attempt) => lone_lines(&mut out, attempt, zone),
    };
    out
}

fn request_lines(out: &mut String, request: &RequestShape, zone: &TimeZone) -> std::fmt::Result {
    let method = request.method.as_deref().unwrap_or("?");
    let path = request.path.as_deref().unwrap_or("?");
    let answer = match request.code {
        Some(code) => code.to_string(),
        None if request.client_left => "left".to_owned(),
        None => "closed".to_owned(),
    };
    write!(
        out,
        "{}  {}  {method:<4} {path:<18} → client {answer:<6}",
        time_of_day(&request.time, zone),
        request.proxy.name
    )?;
    match (&request.cause, &request.certainty) {
        (Some(cause), Some(certainty)) => writeln!(out, " {cause} ({certainty})")?,
        (Some(cause), None) => writeln!(out, " {cause}")?,
        (None, _) if request.attempts.iter().any(is_failure) => {
            writeln!(out, " {}", failures_words(request))?;
        }
        (None, _) => writeln!(out, " {}", duration(request.request_seconds))?,
    }
    for attempt in request
        .attempts
        .iter()
        .filter(|attempt| attempt.cause.is_some())
    {
        writeln!(out, "{INDENT}{}", attempt_words(attempt))?;
    }
    Ok(())
}

/// What failed although the client got no 5xx.
fn failures_words(request: &RequestShape) -> String {
    let failed: Vec<&AttemptShape> = request
        .attempts
        .iter()
        .filter(|attempt| is_failure(attempt))
        .collect();
    let lost: f64 = failed.iter().map(|attempt| attempt.duration_seconds).sum();
    let what: Vec<String> = failed
        .iter()
        .map(|attempt| {
            format!(
                "{} {}",
                attempt.cause.as_deref().unwrap_or("?"),
                attempt.upstream
            )
        })
        .collect();
    let outcome = if request.masked {
        "masked"
    } else {
        "not masked"
    };
    let plural = if failed.len() == 1 {
        "attempt"
    } else {
        "attempts"
    };
    let (count, what, lost) = (failed.len(), what.join(", "), duration(lost));
    format!("{outcome}: {count} failed {plural}, {what}, {lost} lost")
}

fn lone_lines(out: &mut String, lone: &LoneAttemptShape, zone: &TimeZone) -> std::fmt::Result {
    let LoneAttemptShape {
        time,
        proxy,
        method,
        path,
        attempt,
        ..
    } = lone;
    let method = method.as_deref().unwrap_or("?");
    let path = path.as_deref().unwrap_or("?");
    let result = match (&attempt.cause, &attempt.certainty) {
        (Some(cause), Some(certainty)) => format!("{cause} ({certainty})"),
        _ => attempt
            .code
            .map_or_else(|| "no answer".to_owned(), |code| code.to_string()),
    };
    writeln!(
        out,
        "{}  {}  {method:<4} {path:<18} → upstream {result}, without its request",
        time_of_day(time, zone),
        proxy.name
    )?;
    writeln!(out, "{INDENT}{}", attempt_words(attempt))
}

fn attempt_words(attempt: &AttemptShape) -> String {
    let EvidenceShape {
        errno,
        syns,
        retransmits,
        request_bytes,
        request_acked,
        response_bytes,
        content_length,
        reset_had_ack: _,
        srtt_us: _,
        zero_window,
        killed_by,
        tls_alert,
    } = &attempt.evidence;
    let mut words = vec![format!("upstream {}", attempt.upstream)];
    match (attempt.reused, attempt.idle_seconds) {
        (Some(true), Some(idle)) => {
            words.push(format!("reused connection, idle {}", duration(idle)))
        }
        (Some(true), None) => words.push("reused connection".to_owned()),
        (Some(false), _) => words.push("fresh connection".to_owned()),
        (None, _) => {}
    }
    let ended = match attempt.how.as_deref() {
        Some("fin") => "the upstream closed",
        Some("rst") => "the upstream reset",
        Some("timeout") => "the proxy gave up",
        Some("errno") => "the kernel failed it",
        Some("icmp") => "an ICMP error came",
        _ => "it ended",
    };
    let phase = attempt
        .phase
        .as_deref()
        .map(|phase| format!(" (phase {phase})"))
        .unwrap_or_default();
    words.push(format!(
        "{ended} after {}{phase}",
        duration(attempt.duration_seconds)
    ));
    if let Some(signal) = killed_by {
        words.push(format!("its process was killed by signal {signal}"));
    }
    if let Some(alert) = tls_alert {
        words.push(format!("TLS alert {alert}"));
    }
    if *zero_window {
        words.push("the upstream offered no window".to_owned());
    }
    if let Some(code) = attempt.code {
        words.push(format!("answered {code}"));
    }
    if *request_bytes > 0 {
        words.push(if request_acked >= request_bytes {
            format!("{request_bytes} bytes sent and acknowledged")
        } else {
            format!("{request_bytes} bytes sent, {request_acked} acknowledged")
        });
        words.push(match content_length {
            Some(length) => format!("{response_bytes} bytes received of a body of {length}"),
            None => format!("{response_bytes} bytes received"),
        });
    }
    if *syns > 1 {
        words.push(format!("{syns} SYNs"));
    }
    if *retransmits > 0 {
        words.push(format!("{retransmits} retransmits"));
    }
    if let Some(errno) = errno {
        let name = std::io::Error::from_raw_os_error(i32::from(*errno));
        words.push(format!("errno {name}"));
    }
    words.join(", ")
}

fn is_failure(attempt: &AttemptShape) -> bool {
    attempt
        .cause
        .as_deref()
        .is_some_and(|cause| cause != "upstream_status" && cause != "client_abort")
}

fn time_of_day(time: &str, zone: &TimeZone) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => time
            .to_zoned(zone.clone())
            .strftime("%H:%M:%S.%3f")
            .to_string(),
        Err(_) => time.to_owned(),
    }
}

fn duration(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1000.0)
    } else {
        format!("{seconds:.3} s")
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::lines;
    use crate::events::shape::{Envelope, Line};
    use crate::events::teller::Teller;
    use crate::samples::{failed_attempt, good_attempt, request};

    fn told(request: &agent_core::event::Request) -> String {
        let shape = Teller::fixed(0).request(request, None);
        lines(
            &Envelope::new(Line::Request(Box::new(shape))),
            &TimeZone::UTC,
        )
    }

    #[test]
    fn an_error_tells_its_cause_and_the_evidence() {
        assert_eq!(
            told(&request(Some(502), vec![failed_attempt()])),
            "00:00:01.999  nginx  POST /api/orders        → client 502    keepalive_race (proof)\n\
             \u{20}             upstream 10.0.3.17:8080, reused connection, idle 5.002 s, \
             the upstream reset after 41.0 ms (phase request), \
             412 bytes sent, 0 acknowledged, 0 bytes received\n"
        );
    }

    #[test]
    fn a_masked_failure_tells_what_it_cost() {
        let mut failed = failed_attempt();
        failed.masked = Some(true);

        let told = told(&request(Some(200), vec![failed, good_attempt()]));

        assert!(
            told.contains("→ client 200    masked: 1 failed attempt, keepalive_race 10.0.3.17:8080, 41.0 ms lost\n"),
            "{told}"
        );
    }

    #[test]
    fn signs_of_life_are_not_shown() {
        let envelope = Envelope::new(Line::Alive {
            time: String::new(),
        });

        assert_eq!(lines(&envelope, &TimeZone::UTC), "");
    }
}
