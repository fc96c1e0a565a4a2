//! Events and incidents for people: a line for each failed request with its evidence below
//! ([`lines`], [`list`]), one request in full as a timeline ([`in_full`]), and what is under way
//! ([`open_list`]).
//!
//! In: the JSON shapes, whoever sent them. Out: text no wider than 118 columns where words
//! allow. `why502 tail` and `why502 explain` say the same in the same words.

mod evidence;
mod open;
mod timeline;
mod units;

use std::fmt::{self, Write};

use agent_core::cause::Cause;
use jiff::tz::TimeZone;

use self::units::{cut, time_of_day, wrapped};
use super::shape::{AttemptShape, CheckShape, Envelope, Line, LoneAttemptShape, RequestShape};
use crate::knowledge;
use crate::metrics::traffic::is_failed_attempt;

pub use self::open::open_list;
pub use self::timeline::in_full;
pub(crate) use self::units::counted;
pub use self::units::duration;

/// Columns of a line. Wider: it wraps in a terminal of two panes. Narrower: evidence takes
/// three lines.
const WIDTH: usize = 118;

/// Columns before the text of a continued line: the width of a time of day and a gap.
const INDENT: usize = 14;

/// Columns of a path at most; the rest of it is in the full view.
const MAX_PATH: usize = 40;

/// Failed attempts of one request that are told one by one in a list.
const MAX_ATTEMPTS: usize = 4;

/// Widths of the columns.
#[derive(Clone, Copy, Debug)]
struct Columns {
    proxy: usize,
    path: usize,
}

impl Columns {
    /// As wide as these proxies and paths need.
    fn of<'a>(lines: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> Self {
        let (mut proxy, mut path) = (0, 0);
        for (name, of_path) in lines {
            proxy = proxy.max(name.chars().count());
            path = path.max(of_path.unwrap_or("?").chars().count());
        }
        Self {
            proxy: proxy.clamp(5, 16),
            path: path.clamp(8, MAX_PATH),
        }
    }
}

/// For who does not know what comes next.
const STREAM: Columns = Columns { proxy: 7, path: 20 };

/// The event as one or more lines, each with its newline; empty when there is nothing to
/// say to a person. Times of day are in `zone`.
pub fn lines(envelope: &Envelope, zone: &TimeZone) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = match &envelope.line {
        Line::Hello { .. } | Line::Alive { .. } => Ok(()),
        Line::Lost { events } => writeln!(
            out,
            "{:INDENT$}({events} events missed: this reader was too slow)",
            ""
        ),
        Line::Request(request) => request_lines(&mut out, request, STREAM, zone),
        Line::Attempt(attempt) => lone_lines(&mut out, attempt, zone),
    };
    out
}

/// Requests below each other, earliest first, their columns as wide as they need.
pub fn list(requests: &[RequestShape], zone: &TimeZone) -> String {
    let columns = Columns::of(
        requests
            .iter()
            .map(|request| (&*request.proxy.name, request.path.as_deref())),
    );
    let mut sorted: Vec<&RequestShape> = requests.iter().collect();
    // All times have the same form and zone.
    sorted.sort_by(|one, other| one.time.cmp(&other.time));
    let mut out = String::new();
    for request in sorted {
        // Writing to a string cannot fail.
        let _ = request_lines(&mut out, request, columns, zone);
    }
    out
}

fn request_lines(
    out: &mut String,
    request: &RequestShape,
    columns: Columns,
    zone: &TimeZone,
) -> fmt::Result {
    head(
        out,
        (&request.time, zone),
        &request.proxy.name,
        (request.method.as_deref(), request.path.as_deref()),
        columns,
    )?;
    writeln!(out, " → client {:<6} {}", answer(request), verdict(request))?;

    let mut number = request.id.map(|id| format!("#{id}")).unwrap_or_default();
    let mut below = |text: &str| {
        // Only the first line below carries the number.
        let lead = format!(
            "{:>width$}  ",
            std::mem::take(&mut number),
            width = INDENT - 2
        );
        wrapped(&lead, INDENT, WIDTH, text)
    };
    let told: Vec<&AttemptShape> = request
        .attempts
        .iter()
        .filter(|attempt| attempt.cause.is_some())
        .collect();
    for attempt in told.iter().take(MAX_ATTEMPTS) {
        out.push_str(&below(&evidence::sentence(attempt)));
    }
    if told.len() > MAX_ATTEMPTS {
        let more = told.len() - MAX_ATTEMPTS;
        out.push_str(&below(&format!("and {more} more failed attempts")));
    }
    if told.is_empty() && request.cause.is_some() {
        out.push_str(&below(&without_attempt(request)));
    }
    Ok(())
}

/// Time, proxy, method and path, aligned.
fn head(
    out: &mut String,
    (time, zone): (&str, &TimeZone),
    proxy: &str,
    (method, path): (Option<&str>, Option<&str>),
    Columns {
        proxy: proxy_width,
        path: path_width,
    }: Columns,
) -> fmt::Result {
    let method = method.unwrap_or("?");
    let path = cut(path.unwrap_or("?"), MAX_PATH);
    write!(
        out,
        "{}  {proxy:<proxy_width$}  {method:<4} {path:<path_width$}",
        time_of_day(time, zone)
    )
}

/// What the client got.
fn answer(request: &RequestShape) -> String {
    match request.code {
        Some(code) => code.to_string(),
        None if request.client_left => "left".to_owned(),
        None => "closed".to_owned(),
    }
}

/// Why, or what was masked, or how long it took.
fn verdict(request: &RequestShape) -> String {
    match (&request.cause, &request.certainty) {
        (Some(cause), Some(certainty)) => format!("{cause} ({certainty})"),
        (Some(cause), None) => cause.clone(),
        (None, _) if request.attempts.iter().any(is_failure) => failures_words(request),
        (None, _) => duration(request.request_seconds),
    }
}

/// What failed although the client got no 5xx.
fn failures_words(request: &RequestShape) -> String {
    let failed: Vec<&AttemptShape> = request
        .attempts
        .iter()
        .filter(|attempt| is_failure(attempt))
        .collect();
    let lost: f64 = failed.iter().map(|attempt| attempt.duration_seconds).sum();
    let mut causes: Vec<&str> = Vec::new();
    for attempt in &failed {
        let cause = attempt.cause.as_deref().unwrap_or("?");
        if !causes.contains(&cause) {
            causes.push(cause);
        }
    }
    let outcome = match (request.masked, request.complete) {
        (true, _) => "masked",
        (false, true) => "not masked",
        (false, false) => "answer cut",
    };
    let plural = if failed.len() == 1 {
        "attempt"
    } else {
        "attempts"
    };
    let (count, what, lost) = (failed.len(), causes.join(", "), duration(lost));
    format!("{outcome}: {count} failed {plural}, {what}, {lost} lost")
}

/// An error that comes from no attempt.
fn without_attempt(request: &RequestShape) -> String {
    let after = duration(request.request_seconds);
    // An attempt may have been made that could not be read.
    let is_unknown = request.cause.as_deref() == Some(Cause::Unattributed.label());
    let mut parts = vec![match request.attempts.last() {
        None if is_unknown => format!("no attempt is known; after {after}"),
        None => format!("no attempt at an upstream; after {after}"),
        Some(last) => format!("upstream {} answered; after {after}", evidence::named(last)),
    }];
    let gloss = request.cause.as_deref().map(evidence::gloss);
    match (&request.origin_cause, gloss) {
        (Some(origin), _) => parts.push(because(origin, request.origin_check.as_ref())),
        (None, None | Some("")) => {}
        (None, Some(gloss)) => parts.push(gloss.to_owned()),
    }
    parts.join("; ")
}

/// Why no upstream was left.
fn because(origin: &str, check: Option<&CheckShape>) -> String {
    let Some(check) = check else {
        return format!("its upstreams had failed before with {origin}");
    };
    let CheckShape {
        upstream,
        method,
        path,
        code,
    } = check;
    let line = match (method, path) {
        (Some(method), Some(path)) => format!(" {method} {path}"),
        _ => String::new(),
    };
    let result = code.map_or_else(
        || format!("failed with {origin}"),
        |code| format!("was answered {code}"),
    );
    format!("the health check{line} of {upstream} {result}")
}

fn lone_lines(out: &mut String, lone: &LoneAttemptShape, zone: &TimeZone) -> fmt::Result {
    let LoneAttemptShape {
        time,
        proxy,
        method,
        path,
        attempt,
        ..
    } = lone;
    let result = match (&attempt.cause, &attempt.certainty) {
        (Some(cause), Some(certainty)) => format!("{cause} ({certainty})"),
        _ => attempt
            .code
            .map_or_else(|| "no answer".to_owned(), |code| code.to_string()),
    };
    head(
        out,
        (time, zone),
        &proxy.name,
        (method.as_deref(), path.as_deref()),
        STREAM,
    )?;
    writeln!(out, " → upstream {result}, without its request")?;
    let lead = " ".repeat(INDENT);
    out.push_str(&wrapped(&lead, INDENT, WIDTH, &evidence::sentence(attempt)));
    Ok(())
}

fn is_failure(attempt: &AttemptShape) -> bool {
    attempt
        .cause
        .as_deref()
        .is_some_and(|cause| knowledge::by_label(cause).is_none_or(is_failed_attempt))
}

/// What is known about a cause of this name; a newer agent may have more names.
fn known(label: &str) -> Option<&'static knowledge::Entry> {
    knowledge::by_label(label).map(knowledge::of)
}

#[cfg(test)]
mod tests;
