//! Events as text that stays the same as long as they do.
//!
//! In: events in the order they were told. Out: a line for each request that failed or had a
//! failed attempt, with its attempts below; a line for each failed attempt that has no request;
//! and how many there were of everything. A field added to an event must be dealt with here.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use agent_core::cause::{Cause, Certainty};
use agent_core::event::{Attempt, Event, Evidence, Failure, Join, Request, ServerName, Upstream};
use agent_core::observation::{Ended, Nanos, Opening, RequestHead};

/// What was told so far.
#[derive(Debug, Default)]
pub(crate) struct Told {
    began: Option<Nanos>,
    text: String,
    counts: BTreeMap<String, u64>,
}

impl Told {
    /// Times are told from here.
    pub(crate) fn begins_at(&mut self, time: Nanos) {
        self.began.get_or_insert(time);
    }

    pub(crate) fn take(&mut self, event: &Event) {
        for attempt in event.attempts() {
            self.count(format!("attempts, join {}", join(attempt.join)));
        }
        match event {
            Event::Request(request) => {
                self.count(format!("requests, {}", code(request.code)));
                self.request(request);
            }
            Event::LoneAttempt(attempt) => self.alone(attempt),
            Event::Connect(done) => self.count(format!("connects, {:?}", done.result)),
            Event::Reset(reset) => {
                self.count(format!(
                    "resets, {:?} in {:?}",
                    reset.direction, reset.phase
                ));
            }
            Event::Tls(_) => self.count("TLS handshakes".to_owned()),
            Event::Check(check) => {
                let result = check.failure.map_or("passed", Cause::label);
                self.count(format!("health checks, {result}"));
            }
            // One for nearly every exchange, and only numbers.
            Event::Tcp(_) => {}
        }
    }

    /// Everything.
    pub(crate) fn text(self) -> String {
        let Self {
            mut text, counts, ..
        } = self;
        text.push('\n');
        for (what, count) in counts {
            push(&mut text, format_args!("{count:>6} {what}\n"));
        }
        text
    }

    fn count(&mut self, what: String) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn request(&mut self, request: &Request) {
        let Request {
            proxy,
            client: _,
            cookie: _,
            index: _,
            head,
            started,
            ended: _,
            seconds,
            code: status,
            complete,
            client_left,
            error,
            error_attempt,
            origin,
            origin_check,
            attempts,
        } = request;
        let failed = attempts.iter().any(|attempt| attempt.failure.is_some());
        if error.is_none() && !failed {
            return;
        }
        let mut line = format!(
            "{} {} {} {} in {seconds:.6} s",
            self.at(*started),
            proxy.name,
            head_text(head.as_ref()),
            code(*status)
        );
        if !complete {
            line.push_str(", incomplete");
        }
        if *client_left {
            line.push_str(", client left");
        }
        line.push_str(": ");
        line.push_str(&failure_text(*error));
        if let Some(origin) = origin {
            push(&mut line, format_args!(", origin {}", origin.label()));
        }
        if let Some(check) = origin_check {
            let path = check.path.as_deref().unwrap_or("connect");
            push(
                &mut line,
                format_args!(", by check {path} {}", code(check.code)),
            );
        }
        if let Some(attempt) = error_attempt {
            push(&mut line, format_args!(", of attempt {attempt}"));
        }
        push(&mut self.text, format_args!("{line}\n"));
        for attempt in attempts {
            let line = self.attempt(attempt);
            push(&mut self.text, format_args!("    {line}\n"));
        }
    }

    /// Failed attempts that no request came for.
    fn alone(&mut self, attempt: &Attempt) {
        if attempt.failure.is_none() {
            return;
        }
        let line = self.attempt(attempt);
        let head = head_text(attempt.head.as_ref());
        let name = &attempt.proxy.name;
        push(
            &mut self.text,
            format_args!("alone: {name} {head} {line}\n"),
        );
    }

    fn attempt(&self, attempt: &Attempt) -> String {
        let Attempt {
            proxy: _,
            upstream,
            local: _,
            cookie: _,
            index: _,
            join: joined,
            join_certainty,
            head: _,
            started,
            ended: _,
            reused,
            idle_seconds,
            connect_seconds,
            first_byte_seconds,
            header_seconds,
            response_seconds,
            code: status,
            failure,
            masked,
            evidence,
            witnesses: _,
        } = attempt;
        let mut line = format!("{} ", self.at(*started));
        match upstream {
            Upstream::Inet(address) => push(&mut line, format_args!("{address}")),
            Upstream::Unix(path) => push(&mut line, format_args!("unix:{path}")),
            Upstream::Unknown => push(&mut line, format_args!("unknown")),
        }
        line.push_str(match reused {
            Some(true) => " reused",
            Some(false) => " fresh",
            None => " of unknown age",
        });
        push(
            &mut line,
            format_args!(
                ", join {}{}, {}: ",
                join(*joined),
                doubt(*join_certainty),
                code(*status)
            ),
        );
        line.push_str(&failure_text(*failure));
        match masked {
            Some(true) => line.push_str(", masked"),
            Some(false) => {}
            None => line.push_str(", masked or not"),
        }
        number(&mut line, "idle", seconds(*idle_seconds));
        number(&mut line, "connect", seconds(*connect_seconds));
        number(&mut line, "first_byte", seconds(*first_byte_seconds));
        number(&mut line, "header", seconds(*header_seconds));
        number(&mut line, "response", seconds(Some(*response_seconds)));
        evidence_text(&mut line, evidence);
        line
    }

    /// Seconds since the beginning.
    fn at(&self, time: Nanos) -> String {
        let began = self.began.unwrap_or(time);
        let nanos = i128::from(time) - i128::from(began);
        format!("{:.6}", nanos as f64 / 1e9)
    }
}

fn evidence_text(line: &mut String, evidence: &Evidence) {
    let Evidence {
        errno,
        syns,
        retransmits,
        request_bytes,
        request_acked,
        response_bytes,
        content_length,
        reset_had_ack,
        srtt_us: _,
        zero_window,
        process_ended,
        reset_reason,
        tls_alert,
        opening,
        server_name,
        request_length,
        carried: _,
        read,
    } = evidence;
    number(line, "errno", *errno);
    number(line, "syns", (*syns > 1).then_some(syns));
    number(
        line,
        "retransmits",
        (*retransmits > 0).then_some(retransmits),
    );
    push(
        line,
        format_args!(", request {request_acked}/{request_bytes}"),
    );
    number(
        line,
        "response",
        (*response_bytes > 0).then_some(response_bytes),
    );
    number(line, "content_length", *content_length);
    number(line, "reset_had_ack", *reset_had_ack);
    number(line, "zero_window", zero_window.then_some(true));
    match *process_ended {
        Some(Ended::Signal(signal)) => number(line, "killed_by", Some(signal)),
        Some(Ended::Status(status)) => number(line, "exit_status", Some(status)),
        Some(Ended::OutOfMemory) => push(line, format_args!(", out_of_memory")),
        None => {}
    }
    number(line, "reset_reason", *reset_reason);
    number(line, "tls_alert", tls_alert.map(|alert| alert.description));
    match server_name {
        Some(ServerName::Sent(name)) => number(line, "server_name", Some(name)),
        Some(ServerName::Absent) => push(line, format_args!(", no server_name")),
        None => {}
    }
    number(
        line,
        "request_length",
        request_length.filter(|length| length > request_bytes),
    );
    number(line, "read", *read);
    number(line, "opening", opening.map(Opening::label));
}

fn number(line: &mut String, name: &str, value: Option<impl Display>) {
    if let Some(value) = value {
        push(line, format_args!(", {name} {value}"));
    }
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a String takes all");
}

fn seconds(value: Option<f64>) -> Option<String> {
    value.map(|value| format!("{value:.6} s"))
}

fn code(code: Option<u16>) -> String {
    code.map_or("no answer".to_owned(), |code| code.to_string())
}

fn head_text(head: Option<&RequestHead>) -> String {
    head.map_or("-".to_owned(), |head| {
        format!("{} {}", head.method, head.path)
    })
}

fn failure_text(failure: Option<Failure>) -> String {
    let Some(Failure {
        cause,
        certainty,
        phase,
        how,
    }) = failure
    else {
        return "ok".to_owned();
    };
    format!(
        "{} {} in {phase:?} by {}",
        cause.label(),
        certainty.label(),
        how.label()
    )
}

fn doubt(certainty: Option<Certainty>) -> &'static str {
    match certainty {
        Some(Certainty::Strong) => " (strong)",
        Some(Certainty::Guess) => " (guess)",
        Some(Certainty::Proof) | None => "",
    }
}

fn join(join: Join) -> &'static str {
    match join {
        Join::Errand => "errand",
        Join::RequestLine => "request_line",
        Join::PathEnd => "path_end",
        Join::Answer => "answer",
        Join::Retry => "retry",
        Join::Waiting => "waiting",
        Join::InBrief => "in_brief",
        Join::None => "none",
    }
}
