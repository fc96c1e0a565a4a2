//! nginx's error log: which words it has for which failure.
//!
//! In: a line. Out: what failed, in a closed set of [`Words`], with the request's path and
//! the upstream. [`Words::causes`] says which causes can be behind them; several can, for
//! nginx does not see what the kernel sees.

use std::fmt;

/// A line about a request.
#[derive(Clone, Debug)]
pub struct ErrorLine {
    /// What it says.
    pub words: Words,
    /// Path of the client's request.
    pub path: String,
    /// Address of the upstream, when the line names one.
    pub upstream: Option<String>,
    /// Between brackets after the words.
    pub errno: Option<i32>,
    /// All of it.
    pub line: String,
}

/// What nginx says about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Words {
    /// `connect() failed (111`
    Refused,
    /// `connect() failed (113` or `(101`
    Unreachable,
    /// `connect() failed (110`
    ConnectGaveUp,
    /// `connect()` or `bind()` failed with an errno of this host
    LocalError,
    /// `upstream timed out` while connecting
    ConnectTimedOut,
    /// `upstream timed out` while sending the request
    SendTimedOut,
    /// `upstream timed out` while reading the head
    HeadTimedOut,
    /// `upstream timed out` while reading the body
    BodyTimedOut,
    /// errno 110 without a timer of nginx's, after the connection was made
    GaveUp,
    /// `prematurely closed` while reading the head
    ClosedInHead,
    /// errno 104 while reading the head
    ResetInHead,
    /// errno 104 or 32 while sending the request
    ResetInRequest,
    /// `prematurely closed` while reading the body
    ClosedInBody,
    /// errno 104 while reading the body
    ResetInBody,
    /// `no valid HTTP/1.0 header`
    NotHttp,
    /// `invalid header` and its like
    InvalidHead,
    /// `invalid chunked response`
    InvalidChunk,
    /// `too big header`
    TooBig,
    /// `no live upstreams`
    NoLive,
    /// The client closed first
    ClientLeft,
    /// Words that are about no failure of an attempt
    Other,
}

impl Words {
    /// The causes that may be behind these words; empty for words about no failure.
    pub fn causes(self) -> &'static [&'static str] {
        match self {
            Self::Refused => &["connect_refused"],
            Self::Unreachable => &["host_unreachable"],
            Self::ConnectGaveUp | Self::ConnectTimedOut => {
                &["connect_timeout", "accept_queue_full"]
            }
            Self::LocalError => &["connect_local_error"],
            Self::SendTimedOut => &["request_stalled", "path_lost"],
            Self::HeadTimedOut => &["response_timeout", "path_lost"],
            Self::BodyTimedOut => &["response_timeout", "path_lost"],
            Self::GaveUp => &["path_lost"],
            Self::ClosedInHead | Self::ResetInHead => &[
                "keepalive_race",
                "closed_before_response",
                "upstream_crashed",
                "truncated_response",
            ],
            Self::ResetInRequest => &[
                "keepalive_race",
                "closed_before_response",
                "upstream_crashed",
            ],
            Self::ClosedInBody | Self::ResetInBody => &["truncated_response", "upstream_crashed"],
            Self::NotHttp | Self::InvalidHead | Self::InvalidChunk => &["invalid_response"],
            Self::TooBig => &["header_too_big"],
            Self::NoLive => &["no_live_upstream", "proxy_generated"],
            Self::ClientLeft => &["client_abort"],
            Self::Other => &[],
        }
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a line says; `None` when it is not about a request.
pub fn parse(line: &str) -> Option<ErrorLine> {
    let request = after(line, "request: \"")?;
    let path = request.split(' ').nth(1)?.split(['?', '"']).next()?;
    let upstream = after(line, "upstream: \"http://").and_then(|url| url.split(['/', '"']).next());
    let message = line.split(", client: ").next().unwrap_or(line);
    Some(ErrorLine {
        words: words(message),
        path: path.to_owned(),
        upstream: upstream.map(str::to_owned),
        errno: errno(message),
        line: line.to_owned(),
    })
}

fn words(message: &str) -> Words {
    let says = |words: &str| message.contains(words);
    let errno = errno(message);
    if says("client prematurely closed connection") {
        return Words::ClientLeft;
    }
    if says("no live upstreams") {
        return Words::NoLive;
    }
    if says("upstream timed out") {
        return if says("while connecting") {
            Words::ConnectTimedOut
        } else if says("while sending request") {
            Words::SendTimedOut
        } else if says("while reading response header") {
            Words::HeadTimedOut
        } else {
            Words::BodyTimedOut
        };
    }
    if says("connect()") {
        return match errno {
            Some(111) => Words::Refused,
            Some(101 | 113) => Words::Unreachable,
            Some(110) => Words::ConnectGaveUp,
            _ => Words::LocalError,
        };
    }
    if says("upstream prematurely closed connection") {
        return if says("while reading response header") {
            Words::ClosedInHead
        } else {
            Words::ClosedInBody
        };
    }
    if errno == Some(110) {
        return Words::GaveUp;
    }
    if matches!(errno, Some(104 | 32)) {
        return if says("while reading response header") {
            Words::ResetInHead
        } else if says("while sending request") {
            Words::ResetInRequest
        } else if says("while reading upstream") {
            Words::ResetInBody
        } else {
            Words::Other
        };
    }
    if says("no valid HTTP/1.0 header") {
        Words::NotHttp
    } else if says("invalid header")
        || says("duplicate header")
        || says("invalid \"Content-Length\"")
    {
        Words::InvalidHead
    } else if says("invalid chunked response") {
        Words::InvalidChunk
    } else if says("too big header") {
        Words::TooBig
    } else {
        Words::Other
    }
}

fn errno(message: &str) -> Option<i32> {
    message
        .match_indices('(')
        .find_map(|(at, _)| message.get(at + 1..)?.split_once(':')?.0.parse().ok())
}

fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split_once(mark).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_told_with_its_request_and_upstream() {
        let line = parse(
            "2022/11/23 12:00:00 [error] 1#1: *4 recv() failed (104: Connection reset by peer) while \
             reading response header from upstream, client: 127.0.0.1, server: , request: \"GET \
             /one/1/2/reset?x=1 HTTP/1.1\", upstream: \"http://127.0.0.1:9001/one/1/2/reset?x=1\", \
             host: \"a\"",
        )
        .unwrap();

        assert_eq!(line.words, Words::ResetInHead);
        assert_eq!(line.errno, Some(104));
        assert_eq!(line.path, "/one/1/2/reset");
        assert_eq!(line.upstream.as_deref(), Some("127.0.0.1:9001"));
    }

    #[test]
    fn a_timeout_is_told_by_what_was_being_done() {
        let timed_out = |doing: &str| {
            words(&format!(
                "*1 upstream timed out (110: Connection timed out) while {doing} upstream"
            ))
        };
        assert_eq!(timed_out("connecting to"), Words::ConnectTimedOut);
        assert_eq!(
            timed_out("reading response header from"),
            Words::HeadTimedOut
        );
        assert_eq!(timed_out("reading"), Words::BodyTimedOut);
        // The kernel's errno has the same number and the same text.
        let said = "*1 recv() failed (110: Connection timed out) while reading response header";
        assert_eq!(words(said), Words::GaveUp);
    }

    #[test]
    fn a_line_without_a_request_is_left_out() {
        assert!(parse("2022/11/23 12:00:00 [notice] 1#1: start worker processes").is_none());
    }
}
