//! What is under way at proxies now: requests that hang, before any timer ends them.
//!
//! In: a question from the exporter ([`Question`]), answered by the pipeline ([`Found`]) out of what the
//! core keeps. Out: its JSON form ([`shape`]), for `GET /api/v1/open` and `why502 explain --open`.

#[cfg(test)]
pub(crate) mod samples;
pub mod shape;

use std::time::Duration;

use agent_core::UnreadClients;
use agent_core::observation::Nanos;
use agent_core::open::OpenList;
use jiff::SignedDuration;

use crate::clock::WallClock;
use crate::identity::Whereabouts;
use crate::incidents::filter::{self, BadFilter, DEFAULT_LIMIT};

/// What can be asked for.
const PARAMETERS: &str = "proxy, upstream, min_age and limit";

/// A question. What is `None` fits everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Name of the proxy.
    pub proxy: Option<String>,
    /// An attempt under way goes there; written as for incidents.
    pub upstream: Option<String>,
    /// Under way for so long or longer.
    pub min_age: Duration,
    /// How many at most.
    pub limit: usize,
}

/// An answer, as the pipeline gives it.
#[derive(Clone, Debug)]
pub struct Found {
    /// What is under way.
    pub list: OpenList,
    /// Of each of these, the places of proxy and upstreams.
    pub whereabouts: Vec<Whereabouts>,
    /// When it was asked, ns of `CLOCK_MONOTONIC`.
    pub now: Nanos,
    /// Kernel time to time of day, then.
    pub clock: WallClock,
    /// Clients' connections that are not read.
    pub unread_clients: UnreadClients,
    /// Requests that were forgotten because nothing was seen of them for too long.
    pub swept: u64,
}

impl Default for Question {
    fn default() -> Self {
        Self {
            proxy: None,
            upstream: None,
            min_age: Duration::ZERO,
            limit: DEFAULT_LIMIT,
        }
    }
}

impl Question {
    /// Reads the query of a URL. Empty parts are skipped.
    ///
    /// # Errors
    /// Names what is wrong and what would do.
    pub fn parse(query: &str) -> Result<Self, BadFilter> {
        let mut question = Self::default();
        for (name, value) in filter::parameters(query)? {
            match name {
                "proxy" => question.proxy = Some(value),
                "upstream" => question.upstream = Some(filter::upstream(value)),
                "min_age" => question.min_age = min_age(value)?,
                "limit" => question.limit = filter::limit(value)?,
                _ => return Err(BadFilter::unknown(name, PARAMETERS)),
            }
        }
        Ok(question)
    }
}

fn min_age(value: String) -> Result<Duration, BadFilter> {
    let age = value.parse::<SignedDuration>().ok();
    age.and_then(|age| Duration::try_from(age).ok())
        .ok_or(BadFilter::Age { value })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Question;

    #[test]
    fn a_question_is_read() {
        let query = "proxy=nginx&upstream=[::ffff:10.0.3.17]:8080&min_age=1m30s&limit=5";

        let question = Question::parse(query).unwrap();

        let expected = Question {
            proxy: Some("nginx".to_owned()),
            upstream: Some("10.0.3.17:8080".to_owned()),
            min_age: Duration::from_secs(90),
            limit: 5,
        };
        assert_eq!(question, expected);
        assert_eq!(Question::parse("&"), Ok(Question::default()));
    }

    #[test]
    fn a_bad_question_is_named_with_what_would_do() {
        for (query, words) in [
            (
                "cause=path_lost",
                "there is no parameter `cause`: there are proxy, upstream, min_age and limit",
            ),
            (
                "min_age=old",
                "`old` is no age: write a duration such as 30s or 10m",
            ),
            ("min_age=-3s", "is no age"),
            ("limit=1001", "from 1 to 1000"),
            ("proxy=a&proxy=b", "given twice"),
        ] {
            let error = Question::parse(query).unwrap_err().to_string();

            assert!(error.contains(words), "{query}: {error}");
        }
    }
}
