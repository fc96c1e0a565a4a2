//! What is under way, for people: a line for each request with where it is below.

use std::fmt::{self, Write};

use jiff::tz::TimeZone;

use super::evidence::named_as;
use super::units::{age, counted, wrapped};
use super::{Columns, INDENT, WIDTH, head};
use crate::open::shape::{OpenAttemptShape, OpenShape};

/// What is under way, below each other in the order given, columns as wide as they need. Times of day
/// are in `zone`.
pub fn open_list(open: &[OpenShape], zone: &TimeZone) -> String {
    let columns = Columns::of(
        open.iter()
            .map(|one| (&*one.proxy.name, one.path.as_deref())),
    );
    let mut out = String::new();
    for one in open {
        // Writing to a string cannot fail.
        let _ = lines(&mut out, one, columns, zone);
    }
    out
}

fn lines(out: &mut String, open: &OpenShape, columns: Columns, zone: &TimeZone) -> fmt::Result {
    head(
        out,
        (&open.time, zone),
        &open.proxy.name,
        (open.method.as_deref(), open.path.as_deref()),
        columns,
    )?;
    writeln!(out, " → {}  {}", state(open), age(open.seconds))?;
    let mut below = |text: &str| {
        out.push_str(&wrapped(&" ".repeat(INDENT), INDENT, WIDTH, text));
    };
    let client = open.client.as_deref();
    let client = client.map(|client| format!("client {client}; "));
    let mut lead = client.unwrap_or_default();
    if open.attempts.is_empty() {
        below(&(lead + &without_attempt(open)));
        return Ok(());
    }
    for attempt in &open.attempts {
        below(&(std::mem::take(&mut lead) + &at(attempt)));
    }
    match open.earlier_attempts {
        0 => {}
        earlier => below(&format!("after {}", counted(earlier, "earlier attempt"))),
    }
    Ok(())
}

/// What its client has so far, if it has one.
fn state(open: &OpenShape) -> String {
    match (open.request.as_str(), open.code) {
        ("open", Some(code)) => format!("client {code} under way"),
        ("open", None) => "client waits".to_owned(),
        ("over", _) => "request is over".to_owned(),
        _ => "request not known".to_owned(),
    }
}

/// Where it is, how long, and how sure that is.
fn at(attempt: &OpenAttemptShape) -> String {
    let OpenAttemptShape {
        upstream,
        endpoint,
        peer,
        join_certainty,
        seconds,
        read,
        answering,
        ..
    } = attempt;
    let perhaps = match join_certainty.as_deref() {
        Some("guess") => "perhaps ",
        _ => "",
    };
    let state = match (read, answering) {
        (false, _) => "not read, so it may be over",
        (true, false) => "no answer yet",
        (true, true) => "its answer has begun",
    };
    let name = named_as(upstream, endpoint.as_deref(), peer);
    format!("{perhaps}at upstream {name} for {}: {state}", age(*seconds))
}

/// Why it may be that none is known.
fn without_attempt(open: &OpenShape) -> String {
    let earlier = counted(open.earlier_attempts, "earlier attempt");
    let why = match (&open.may_be_at, open.may_be_unread, open.code) {
        (Some(upstream), _, _) => format!(
            "the proxy uses a connection to {upstream} that is not read, and for whom is not known"
        ),
        (None, true, _) => {
            "the proxy uses connections to several upstreams that are not read, and for whom \
             is not known"
                .to_owned()
        }
        (None, false, Some(_)) => "its client is being sent the answer".to_owned(),
        (None, false, None) => {
            "its request is not whole yet, or waits in the proxy or for a connection".to_owned()
        }
    };
    match open.earlier_attempts {
        0 => format!("no attempt is known: {why}"),
        _ => format!("no attempt is known after {earlier}: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use agent_core::Used;
    use agent_core::cause::Certainty;
    use agent_core::open::{Asker, Open};
    use jiff::tz::TimeZone;

    use super::open_list;
    use crate::open::samples::{found_these, hanging, without_attempt};
    use crate::open::shape::OpenListing;
    use crate::samples::upstream;

    fn told(open: Vec<Open>) -> String {
        let count = open.len();
        let listing = OpenListing::new(found_these(open, count)).unwrap();
        open_list(&listing.open, &TimeZone::UTC)
    }

    #[test]
    fn a_request_that_hangs_tells_where_and_for_how_long() {
        assert_eq!(
            told(vec![hanging()]),
            "00:00:10.000  nginx  GET  /slow    → client waits  1 min 30 s\n\
             \u{20}             client 192.0.2.9:51000; at upstream 10.0.3.17:8080 for 1 min 29 s: no answer yet\n"
        );
    }

    #[test]
    fn what_is_not_sure_or_not_read_is_told_as_that() {
        let mut guessed = hanging();
        guessed.attempts[0].join_certainty = Some(Certainty::Guess);
        let mut unread = hanging();
        unread.attempts[0].is_read = false;
        unread.earlier = 1;
        let mut lone = hanging();
        lone.asker = Asker::Unknown;
        let mut over = hanging();
        over.asker = Asker::Over;
        over.attempts[0].is_answering = true;
        for (open, words) in [
            (guessed, "; perhaps at upstream 10.0.3.17:8080"),
            (
                unread.clone(),
                " for 1 min 29 s: not read, so it may be over\n",
            ),
            (unread, "after 1 earlier attempt\n"),
            (lone, "→ request not known  1 min 30 s\n"),
            (over.clone(), "→ request is over  1 min 30 s\n"),
            (over, "its answer has begun\n"),
        ] {
            let told = told(vec![open]);
            assert!(told.contains(words), "{words}: {told}");
        }
    }

    #[test]
    fn without_an_attempt_it_says_what_may_be() {
        let with = |elsewhere: Used, code: Option<u16>, earlier: usize| Open {
            elsewhere,
            code,
            earlier,
            ..without_attempt()
        };
        let one = Used::Only(upstream("10.0.3.17:9000"));
        for (open, words) in [
            (
                with(Used::Nothing, None, 0),
                "no attempt is known: its request is not whole yet, or waits in the proxy",
            ),
            (
                with(Used::Nothing, Some(200), 1),
                "no attempt is known after 1 earlier attempt: its client is being sent the answer",
            ),
            (
                with(one, None, 0),
                "no attempt is known: the proxy uses a connection to 10.0.3.17:9000",
            ),
            (with(Used::Some, None, 0), "several upstreams"),
        ] {
            let told = told(vec![open]).replace('\n', " ");
            let told: Vec<&str> = told.split_whitespace().collect();
            let told = told.join(" ");
            assert!(told.contains(words), "{words}: {told}");
        }
        let answering = told(vec![with(Used::Nothing, Some(200), 1)]);
        assert!(
            answering.contains("→ client 200 under way  1 min 30 s\n"),
            "{answering}"
        );
    }
}
