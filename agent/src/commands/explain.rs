//! `why502 explain`: asks a running agent about what happened.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use hyper::StatusCode;
use jiff::tz::TimeZone;

use super::client::{self, Whom};
use crate::events::human;
use crate::incidents::filter::{MAX_LIMIT, encoded};
use crate::incidents::shape::{Listing, Refusal, Single, UnreadClientsShape};
use crate::open::shape::OpenListing;

/// What `--help` says first.
pub(super) const LONG_ABOUT: &str = "\
Say why requests failed.

Without a number it lists the last gateway errors (a 5xx, or a connection closed instead of an \
answer) and masked failures (an attempt failed and the request succeeded), newest last, each \
with the evidence below it. With the number of one (the #17 on its left) it tells that one in \
full: what happened when, the kernel's numbers, what the proxy wrote into its own log, and the \
usual fix. docs/diagnosing.md explains each cause.

With --open it lists what no answer has ended yet: the requests that proxies have now, the oldest first, with the upstream that each waits for, such as one that hangs for longer than any timer.

Needs no rights: it asks a running agent, which keeps the last 1000 (setting incidents).";

/// What `--help` says last.
pub(super) const EXAMPLES: &str = "\
Examples:
  why502 explain                                  the last 20
  why502 explain 17                               one of them in full
  why502 explain --since 10m --code 502           of the last ten minutes
  why502 explain --cause keepalive_race --last 50
  why502 explain --upstream 10.0.3.17:8080 --path /api/
  why502 explain --code none                      connections closed instead of an answer
  why502 explain --open --min-age 10s             requests that have waited for so long by now
  why502 explain --json | jq '.incidents[] | {time, path, cause, upstream}'

Causes:
  connect_refused connect_timeout accept_queue_full host_unreachable connect_local_error
  tls_failed keepalive_race closed_before_response upstream_crashed truncated_response
  invalid_response header_too_big response_timeout request_stalled path_lost upstream_status
  no_live_upstream dns_failure proxy_generated client_abort unattributed";

/// Flags of `explain`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Tell this one in full: the number after # in the list
    #[arg(value_name = "ID", conflicts_with_all = ["proxy", "upstream", "cause", "code", "path", "since", "last"])]
    id: Option<u64>,
    /// Only of this proxy, as in the label `proxy`
    #[arg(long, value_name = "NAME")]
    proxy: Option<String>,
    /// Only with an attempt at this upstream: its address, or the name given to it
    #[arg(long, value_name = "ADDRESS:PORT")]
    upstream: Option<String>,
    /// Only of this cause, of the request or of one of its attempts
    #[arg(long, value_name = "CAUSE")]
    cause: Option<String>,
    /// Only where the client got this status; none: no answer
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Only paths that start so
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Only since then: 10m, 1h30m, or a time such as 2026-11-25T14:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// List the requests that are under way now instead, the oldest first
    #[arg(long, conflicts_with_all = ["id", "cause", "code", "path", "since"])]
    open: bool,
    /// With --open: only those that have been under way for so long: 30s, 10m
    #[arg(
        long,
        value_name = "DURATION",
        requires = "open",
        conflicts_with = "id"
    )]
    min_age: Option<String>,
    /// At most so many, the newest; with --open, the oldest
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = last)]
    last: usize,
    /// Print the agent's answer as JSON (docs/api.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whom: Whom,
}

/// Asks, prints, and ends.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let target = arguments.target();
    let (status, body) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(arguments.whom.get(&target))?;
    let text = match status {
        StatusCode::OK => arguments.text(&body)?,
        status => return Err(refused(arguments.whom.agent, status, &body)),
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the output")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The agent's own sentence, when it has one.
fn refused(agent: SocketAddr, status: StatusCode, body: &Bytes) -> anyhow::Error {
    match serde_json::from_slice::<Refusal>(body) {
        Ok(Refusal { error, .. }) => anyhow!(error),
        Err(_) => client::stranger(agent, status),
    }
}

impl Arguments {
    /// Path and query of the question.
    fn target(&self) -> String {
        let Self {
            id,
            proxy,
            upstream,
            cause,
            code,
            path,
            since,
            open,
            min_age,
            last,
            json: _,
            whom: _,
        } = self;
        if let Some(id) = id {
            return format!("/api/v1/incidents/{id}");
        }
        let what = if *open { "open" } else { "incidents" };
        let mut target = format!("/api/v1/{what}?limit={last}");
        for (name, value) in [
            ("proxy", proxy),
            ("upstream", upstream),
            ("cause", cause),
            ("code", code),
            ("path", path),
            ("since", since),
            ("min_age", min_age),
        ] {
            if let Some(value) = value {
                target.push_str(&format!("&{name}={}", encoded(value)));
            }
        }
        target
    }

    /// The answer as it is printed.
    fn text(&self, body: &Bytes) -> anyhow::Result<String> {
        let agent = self.whom.agent;
        if self.json {
            return String::from_utf8(body.to_vec()).context("the answer is no text");
        }
        let zone = TimeZone::system();
        let unreadable = || format!("the answer of {agent} cannot be read: another version?");
        if self.id.is_some() {
            let single: Single = serde_json::from_slice(body).with_context(unreadable)?;
            return Ok(human::in_full(&single.incident, &zone));
        }
        if self.open {
            let listing: OpenListing = serde_json::from_slice(body).with_context(unreadable)?;
            return Ok(self.open_listed(&listing, &zone));
        }
        let listing: Listing = serde_json::from_slice(body).with_context(unreadable)?;
        Ok(self.listed(&listing, &zone))
    }

    fn listed(&self, listing: &Listing, zone: &TimeZone) -> String {
        let Listing {
            v: _,
            matched,
            truncated,
            kept,
            stored,
            evicted,
            unread_clients,
            incidents,
        } = listing;
        let agent = self.whom.agent;
        let unread = unread(unread_clients, "errors");
        if incidents.is_empty() {
            let nothing = match (*stored, &unread) {
                (0, None) => format!(
                    "Nothing to explain: the agent at {agent} has seen no gateway error since it started.\n"
                ),
                (0, Some(_)) => format!(
                    "No incident: the agent at {agent} has seen no gateway error where it can read.\n"
                ),
                _ => {
                    let gone = match evicted {
                        0 => String::new(),
                        gone => format!("; {gone} older ones are gone"),
                    };
                    format!("Nothing matches: the agent at {agent} keeps {kept} incidents{gone}.\n")
                }
            };
            return nothing + &unread.unwrap_or_default();
        }
        let mut text = human::list(incidents, zone);
        if *truncated {
            let shown = incidents.len();
            let more = if shown == self.last && shown < MAX_LIMIT {
                "--last shows more"
            } else {
                "narrow it with --since, --cause or --path"
            };
            text.push_str(&format!(
                "\nThe newest {shown} of {matched} that match; {more}.\n"
            ));
        }
        if let Some(unread) = unread {
            text.push('\n');
            text.push_str(&unread);
        }
        text
    }

    fn open_listed(&self, listing: &OpenListing, zone: &TimeZone) -> String {
        let OpenListing {
            v: _,
            matched,
            truncated,
            swept,
            unread_clients,
            open,
        } = listing;
        let agent = self.whom.agent;
        let unread = unread(unread_clients, "requests");
        let mut text = human::open_list(open, zone);
        if open.is_empty() {
            let is_filtered =
                self.proxy.is_some() || self.upstream.is_some() || self.min_age.is_some();
            let where_read = if unread.is_some() {
                " where it can read"
            } else {
                ""
            };
            text = if is_filtered {
                format!(
                    "Nothing under way matches, as far as the agent at {agent} sees{where_read}.\n"
                )
            } else {
                format!(
                    "Nothing is under way: the agent at {agent} sees no open request of a proxy{where_read}.\n"
                )
            };
        }
        let mut remarks = String::new();
        if *truncated {
            let shown = open.len();
            let more = if shown == self.last && shown < MAX_LIMIT {
                "--last shows more"
            } else {
                "narrow it with --proxy, --upstream or --min-age"
            };
            remarks.push_str(&format!(
                "The oldest {shown} of {matched} that are under way; {more}.\n"
            ));
        }
        if *swept > 0 {
            remarks.push_str(&format!(
                "{swept} requests on this host without a sign of life for an hour were forgotten: they may be under way.\n"
            ));
        }
        remarks.push_str(&unread.unwrap_or_default());
        if !open.is_empty() && !remarks.is_empty() {
            text.push('\n');
        }
        text + &remarks
    }
}

/// How many connections of clients were not read, so that `what` on them are not known, and why; `None` when all were.
fn unread(clients: &UnreadClientsShape, what: &str) -> Option<String> {
    let UnreadClientsShape {
        tls,
        http2,
        other,
        before_agent,
    } = *clients;
    let kinds = [
        (tls, "TLS"),
        (http2, "HTTP/2 in clear text"),
        (other, "not HTTP"),
        (
            before_agent,
            "open before the agent started (from clients or to upstreams)",
        ),
    ];
    let sum: u64 = kinds.iter().map(|(count, _)| count).sum();
    let connections = match sum {
        0 => return None,
        1 => "1 connection of a proxy's clients was".to_owned(),
        sum => format!("{sum} connections of proxies' clients were"),
    };
    let kinds: Vec<String> = kinds
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, kind)| format!("{count} {kind}"))
        .collect();
    Some(format!(
        "{connections} not read, and {what} on them are not known: {}.\n",
        kinds.join(", ")
    ))
}

fn last(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|last| (1..=MAX_LIMIT).contains(last))
        .ok_or_else(|| format!("write a number from 1 to {MAX_LIMIT}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use jiff::tz::TimeZone;

    use super::{Arguments, EXAMPLES};
    use crate::events::teller::Teller;
    use crate::identity::Whereabouts;
    use crate::incidents::shape::{Listing, UnreadClientsShape};
    use crate::knowledge;
    use crate::open::samples::{found, found_these};
    use crate::open::shape::OpenListing;
    use crate::samples::{failed_attempt, request};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(line: &[&str]) -> Arguments {
        Line::parse_from([&["explain"], line].concat()).arguments
    }

    fn listing(count: u64) -> Listing {
        let request = request(Some(502), vec![failed_attempt()]);
        Listing {
            v: 1,
            matched: count,
            truncated: false,
            kept: count,
            stored: count,
            evicted: 0,
            unread_clients: UnreadClientsShape::default(),
            incidents: (1..=count)
                .rev()
                .map(|id| {
                    Teller::fixed(i128::from(id) * 1_000_000).request(
                        &request,
                        &Whereabouts::default(),
                        Some(id),
                    )
                })
                .collect(),
        }
    }

    #[test]
    fn flags_become_the_question() {
        assert_eq!(arguments(&[]).target(), "/api/v1/incidents?limit=20");
        assert_eq!(arguments(&["17"]).target(), "/api/v1/incidents/17");
        assert_eq!(
            arguments(&["--path", "/a b&c", "--since", "10m", "--last", "3"]).target(),
            "/api/v1/incidents?limit=3&path=/a%20b%26c&since=10m"
        );
    }

    #[test]
    fn what_is_under_way_is_another_question() {
        assert_eq!(arguments(&["--open"]).target(), "/api/v1/open?limit=20");
        assert_eq!(
            arguments(&["--open", "--upstream", "10.0.3.17:80", "--min-age", "10s"]).target(),
            "/api/v1/open?limit=20&upstream=10.0.3.17:80&min_age=10s"
        );
        for line in [
            &["explain", "--open", "--cause", "path_lost"][..],
            &["explain", "--open", "17"],
            &["explain", "--min-age", "10s"],
        ] {
            assert!(Line::try_parse_from(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn where_nothing_is_under_way_it_says_so_and_what_it_cannot_see() {
        let nothing = OpenListing::new(found_these(Vec::new(), 0)).unwrap();
        let text = |flags: &[&str], listing: &OpenListing| {
            arguments(&[&["--open"], flags].concat()).open_listed(listing, &TimeZone::UTC)
        };
        assert_eq!(
            text(&[], &nothing),
            "Nothing is under way: the agent at 127.0.0.1:9502 sees no open request of a proxy.\n"
        );
        let filtered = text(&["--proxy", "nginx"], &nothing);
        assert!(
            filtered.starts_with("Nothing under way matches"),
            "{filtered}"
        );

        let mut unread = nothing;
        unread.unread_clients.tls = 2;
        unread.swept = 3;
        assert_eq!(
            text(&[], &unread),
            "Nothing is under way: the agent at 127.0.0.1:9502 sees no open request of a proxy where it can \
             read.\n\
             3 requests on this host without a sign of life for an hour were forgotten: they may be under \
             way.\n\
             2 connections of proxies' clients were not read, and requests on them are not known: 2 TLS.\n"
        );
    }

    #[test]
    fn a_list_of_what_is_under_way_that_is_cut_says_of_how_many() {
        let listing = OpenListing::new(found(2)).unwrap();

        let text = arguments(&["--open", "--last", "2"]).open_listed(&listing, &TimeZone::UTC);

        assert_eq!(text.matches("/slow").count(), 2, "{text}");
        let words = "\n\nThe oldest 2 of 3 that are under way; --last shows more.\n";
        assert!(text.ends_with(words), "{text}");
    }

    #[test]
    fn a_number_goes_with_no_filter() {
        assert!(Line::try_parse_from(["explain", "17", "--cause", "path_lost"]).is_err());
        assert!(Line::try_parse_from(["explain", "--last", "0"]).is_err());
    }

    #[test]
    fn the_newest_comes_last() {
        let text = arguments(&[]).listed(&listing(2), &TimeZone::UTC);

        let first = text.find("#1 ").unwrap();
        let second = text.find("#2 ").unwrap();
        assert!(first < second, "{text}");
    }

    #[test]
    fn an_empty_list_says_why_it_is_empty() {
        let none = arguments(&[]).listed(&listing(0), &TimeZone::UTC);
        let mut filtered = listing(0);
        filtered.kept = 1000;
        filtered.stored = 1200;
        filtered.evicted = 200;

        assert!(none.contains("has seen no gateway error"), "{none}");
        let filtered = arguments(&[]).listed(&filtered, &TimeZone::UTC);
        assert!(
            filtered.contains("keeps 1000 incidents; 200 older ones are gone"),
            "{filtered}"
        );
    }

    #[test]
    fn where_clients_were_not_read_it_never_says_that_there_was_no_error() {
        let unread_clients = UnreadClientsShape {
            tls: 12,
            http2: 3,
            other: 0,
            before_agent: 1,
        };
        let words = "16 connections of proxies' clients were not read, and errors on them are not known: \
             12 TLS, 3 HTTP/2 in clear text, 1 open before the agent started (from clients or to \
             upstreams).\n";
        let mut nothing_matches = listing(0);
        nothing_matches.stored = 5;
        for found in [listing(0), nothing_matches, listing(2)] {
            let found = Listing {
                unread_clients,
                ..found
            };
            let text = arguments(&[]).listed(&found, &TimeZone::UTC);
            assert!(text.ends_with(words), "{text}");
            assert!(!text.contains("Nothing to explain"), "{text}");
        }
    }

    #[test]
    fn a_list_that_is_cut_says_of_how_many() {
        let mut cut = listing(2);
        cut.matched = 57;
        cut.truncated = true;

        let text = arguments(&["--last", "2"]).listed(&cut, &TimeZone::UTC);

        assert!(
            text.ends_with("The newest 2 of 57 that match; --last shows more.\n"),
            "{text}"
        );
    }

    #[test]
    fn the_help_names_every_cause() {
        for label in knowledge::labels() {
            assert!(
                EXAMPLES.split_whitespace().any(|word| word == label),
                "{label}"
            );
        }
    }
}
