//! What each proxy writes into its own log about a failure: a phrase to grep for.
//!
//! In: which proxy, and how the attempt failed. Out: the phrase, or nothing where the proxy
//! is not known, writes nothing, or writes something that the evidence does not settle.
//! Each proxy is a list in a file of its own; the first line that fits is the answer.

mod caddy;
mod envoy;
mod haproxy;
mod httpd;
mod nginx;
mod traefik;
mod varnish;

use std::collections::HashMap;

use agent_core::cause::{Cause, How};
use agent_core::event::Failure;
use agent_core::observation::Phase;

use crate::config::Settings;
use crate::processes::known_gateway;

/// A kind of proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Product {
    /// nginx, and what is built on it.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Apache httpd.
    Httpd,
    /// Envoy.
    Envoy,
    /// Caddy.
    Caddy,
    /// Traefik.
    Traefik,
    /// Varnish.
    Varnish,
}

/// One line of a proxy's list. What is `None` fits everything.
#[derive(Clone, Copy, Debug)]
pub struct Saying {
    /// Of which cause.
    pub cause: Cause,
    /// In which part of the attempt.
    pub phase: Option<Phase>,
    /// By what it ended.
    pub how: Option<How>,
    /// With which errno.
    pub errno: Option<u16>,
    /// Whether the client got an answer.
    pub answered: Option<bool>,
    /// Only where part of the request was not sent yet.
    pub sending: bool,
    /// Only where nothing of the request was sent yet.
    pub unsent: bool,
    /// Only where the proxy had something of a response, and went on waiting.
    pub waited: bool,
    /// Only where the client got a whole answer.
    pub complete: bool,
    /// The phrase; `None` where there is none to grep for.
    pub words: Option<&'static str>,
    /// What the client gets.
    pub client: &'static str,
    /// What else to know; may be empty.
    pub note: &'static str,
}

/// How something failed.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Why, where and by what.
    pub failure: Failure,
    /// errno, where the kernel gave one.
    pub errno: Option<u16>,
    /// Whether the client got an answer; `None` when not known.
    pub answered: Option<bool>,
    /// Part of the request was not sent yet, as far as is known.
    pub sending: bool,
    /// Nothing of the request was sent yet, as far as is known.
    pub unsent: bool,
    /// The proxy had something of a response, and went on waiting.
    pub waited: bool,
    /// The client got a whole answer, as far as is known.
    pub complete: bool,
    /// The request succeeded all the same.
    pub masked: bool,
}

/// Which proxy is which product, by its label.
#[derive(Clone, Debug, Default)]
pub struct Products {
    given: HashMap<String, Product>,
}

impl Product {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Nginx,
        Self::Haproxy,
        Self::Httpd,
        Self::Envoy,
        Self::Caddy,
        Self::Traefik,
        Self::Varnish,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Httpd => "Apache httpd",
            Self::Envoy => "Envoy",
            Self::Caddy => "Caddy",
            Self::Traefik => "Traefik",
            Self::Varnish => "Varnish",
        }
    }

    /// Where its words are found.
    pub fn log(self) -> &'static str {
        match self {
            Self::Nginx => "error log",
            Self::Haproxy => "log line, termination state",
            Self::Httpd => "error log",
            Self::Envoy => "access log, `%RESPONSE_CODE_DETAILS%`",
            Self::Caddy => "log, level error, or warn of a cut answer",
            Self::Traefik => "log, level DEBUG only",
            Self::Varnish => "`varnishlog`, tag FetchError",
        }
    }

    /// Its list.
    pub fn sayings(self) -> &'static [Saying] {
        match self {
            Self::Nginx => &nginx::SAYINGS,
            Self::Haproxy => &haproxy::SAYINGS,
            Self::Httpd => &httpd::SAYINGS,
            Self::Envoy => &envoy::SAYINGS,
            Self::Caddy => &caddy::SAYINGS,
            Self::Traefik => &traefik::SAYINGS,
            Self::Varnish => &varnish::SAYINGS,
        }
    }

    /// What it writes; `None` when that is nothing, or not known.
    pub fn words(self, question: &Question) -> Option<&'static str> {
        if question.masked && !self.logs_attempts() {
            return None;
        }
        self.sayings()
            .iter()
            .find(|saying| saying.fits(question))
            .and_then(|saying| saying.words)
    }

    /// Whether it writes a line for each failed attempt, also when a retry succeeds. The
    /// others write one line a request, and that one says success.
    fn logs_attempts(self) -> bool {
        match self {
            Self::Nginx | Self::Httpd | Self::Varnish => true,
            Self::Haproxy | Self::Envoy | Self::Caddy | Self::Traefik => false,
        }
    }

    /// The product whose usual label this is.
    fn of_label(label: &str) -> Option<Self> {
        match label {
            "nginx" | "openresty" | "angie" | "tengine" => Some(Self::Nginx),
            "haproxy" => Some(Self::Haproxy),
            "httpd" => Some(Self::Httpd),
            "envoy" => Some(Self::Envoy),
            "caddy" => Some(Self::Caddy),
            "traefik" => Some(Self::Traefik),
            "varnish" => Some(Self::Varnish),
            _ => None,
        }
    }
}

impl Products {
    /// Labels that the operator gave to known executables name their product, too.
    pub fn new(settings: &Settings) -> Self {
        let given = settings
            .proxy_names
            .iter()
            .filter_map(|(executable, label)| {
                let product = known_gateway(executable).and_then(Product::of_label)?;
                Some((label.clone(), product))
            })
            .collect();
        Self { given }
    }

    /// The product of this label.
    pub fn of(&self, label: &str) -> Option<Product> {
        self.given
            .get(label)
            .copied()
            .or_else(|| Product::of_label(label))
    }
}

impl Saying {
    fn fits(&self, question: &Question) -> bool {
        let Self {
            cause,
            phase,
            how,
            errno,
            answered,
            sending,
            unsent,
            waited,
            complete,
            words: _,
            client: _,
            note: _,
        } = *self;
        let failure = question.failure;
        cause == failure.cause
            && phase.is_none_or(|phase| phase == failure.phase)
            && how.is_none_or(|how| how == failure.how)
            && (errno.is_none() || errno == question.errno)
            && (answered.is_none() || answered == question.answered)
            && (!sending || question.sending)
            && (!unsent || question.unsent)
            && (!waited || question.waited)
            && (!complete || question.complete)
    }

    const fn phase(mut self, phase: Phase) -> Self {
        self.phase = Some(phase);
        self
    }

    const fn how(mut self, how: How) -> Self {
        self.how = Some(how);
        self
    }

    const fn errno(mut self, errno: u16) -> Self {
        self.errno = Some(errno);
        self
    }

    /// Only where the client got no answer.
    const fn unanswered(mut self) -> Self {
        self.answered = Some(false);
        self
    }

    /// Only where part of the request was not sent yet.
    const fn sending(mut self) -> Self {
        self.sending = true;
        self
    }

    /// Only where nothing of the request was sent yet.
    const fn unsent(mut self) -> Self {
        self.unsent = true;
        self
    }

    /// Only where the proxy had something of a response, and went on waiting.
    const fn waited(mut self) -> Self {
        self.waited = true;
        self
    }

    /// Only where the client got a whole answer.
    const fn complete(mut self) -> Self {
        self.complete = true;
        self
    }

    const fn note(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }
}

const fn says(cause: Cause, client: &'static str, words: &'static str) -> Saying {
    Saying {
        cause,
        phase: None,
        how: None,
        errno: None,
        answered: None,
        sending: false,
        unsent: false,
        waited: false,
        complete: false,
        words: Some(words),
        client,
        note: "",
    }
}

/// It writes nothing, or nothing that the evidence settles; `note` says which.
const fn silent(cause: Cause, client: &'static str, note: &'static str) -> Saying {
    let mut saying = says(cause, client, "");
    saying.words = None;
    saying.note = note;
    saying
}

#[cfg(test)]
mod tests {
    use agent_core::cause::{Cause, Certainty, How};
    use agent_core::event::Failure;
    use agent_core::observation::Phase;

    use super::{Product, Products, Question};
    use crate::config::Settings;
    use crate::knowledge::ENTRIES;

    fn question(cause: Cause, phase: Phase, how: How) -> Question {
        Question {
            failure: Failure {
                cause,
                certainty: Certainty::Proof,
                phase,
                how,
            },
            errno: None,
            answered: Some(true),
            sending: false,
            unsent: false,
            waited: false,
            complete: false,
            masked: false,
        }
    }

    #[test]
    fn the_same_race_has_other_words_in_each_log() {
        let race = question(Cause::KeepaliveRace, Phase::Request, How::Fin);

        let said = Product::ALL.map(|product| product.words(&race));

        assert_eq!(
            said,
            [
                Some("upstream prematurely closed connection while reading response header"),
                Some("SH--"),
                Some("AH01102: error reading status line from remote server"),
                Some("upstream_reset_before_response_started{connection_termination}"),
                None,
                None,
                Some("HTC eof (-1)"),
            ]
        );
    }

    #[test]
    fn haproxy_writes_nothing_when_it_closes_silently() {
        let race = Question {
            answered: Some(false),
            ..question(Cause::KeepaliveRace, Phase::Request, How::Fin)
        };

        assert_eq!(Product::Haproxy.words(&race), None);
    }

    #[test]
    fn the_errno_is_in_the_words() {
        let refused = question(Cause::ConnectRefused, Phase::Connect, How::Errno);
        let absent = Question {
            errno: Some(2),
            ..refused
        };

        assert_eq!(
            Product::Nginx.words(&refused),
            Some("failed (111: Connection refused) while connecting to upstream")
        );
        assert_eq!(
            Product::Nginx.words(&absent),
            Some("failed (2: No such file or directory) while connecting to upstream")
        );
    }

    #[test]
    fn a_proxy_that_waits_on_when_its_client_left_writes_of_a_timeout() {
        let said = |how| {
            let left = question(Cause::ClientAbort, Phase::Request, how);
            [Product::Haproxy, Product::Httpd, Product::Varnish].map(|one| one.words(&left))
        };

        assert_eq!(said(How::None), [Some("CH--"), None, None]);
        assert_eq!(
            said(How::Timeout),
            [
                Some("sH--"),
                Some("AH01102: error reading status line from remote server"),
                Some("first byte timeout"),
            ]
        );
    }

    #[test]
    fn a_close_while_the_request_is_sent_has_words_of_its_own() {
        let closed = question(Cause::ClosedBeforeResponse, Phase::Request, How::Rst);
        let sending = Question {
            sending: true,
            ..closed
        };

        assert_eq!(
            Product::Nginx.words(&sending),
            Some("failed (104: Connection reset by peer) while")
        );
        assert_eq!(Product::Httpd.words(&sending), Some("AH01084"));
        assert_ne!(Product::Httpd.words(&closed), Some("AH01084"));
    }

    #[test]
    fn what_a_proxy_had_when_it_gave_up_is_in_its_words() {
        let closed = question(Cause::ClosedBeforeResponse, Phase::Request, How::Rst);
        let invalid = question(Cause::InvalidResponse, Phase::Head, How::None);

        let unsent = Question {
            unsent: true,
            ..closed
        };
        let waited = Question {
            waited: true,
            ..invalid
        };

        assert!(Product::Httpd.words(&closed).is_some());
        assert_eq!(Product::Httpd.words(&unsent), None);
        assert_eq!(Product::Varnish.words(&invalid), Some("http format error"));
        assert_eq!(Product::Varnish.words(&waited), Some("timeout"));
    }

    #[test]
    fn a_masked_failure_is_only_in_the_log_of_who_logs_attempts() {
        let masked = Question {
            masked: true,
            ..question(Cause::ConnectRefused, Phase::Connect, How::Rst)
        };

        assert!(Product::Nginx.words(&masked).is_some());
        assert_eq!(Product::Envoy.words(&masked), None);
    }

    #[test]
    fn an_own_name_of_a_known_executable_keeps_its_words() {
        let mut settings = Settings::default();
        settings
            .proxy_names
            .insert("apache2".to_owned(), "edge".to_owned());
        settings
            .proxy_names
            .insert("something".to_owned(), "other".to_owned());

        let products = Products::new(&settings);

        assert_eq!(products.of("edge"), Some(Product::Httpd));
        assert_eq!(products.of("other"), None);
        assert_eq!(products.of("openresty"), Some(Product::Nginx));
    }

    #[test]
    fn each_proxy_has_a_line_for_each_cause_but_unattributed() {
        for product in Product::ALL {
            for entry in ENTRIES {
                let any = product
                    .sayings()
                    .iter()
                    .any(|saying| saying.cause == entry.cause);

                let expected = entry.cause != Cause::Unattributed;
                assert_eq!(any, expected, "{} {:?}", product.name(), entry.cause);
            }
        }
    }

    #[test]
    fn a_general_line_comes_after_the_special_ones_and_a_silence_says_why() {
        for product in Product::ALL {
            for (at, saying) in product.sayings().iter().enumerate() {
                let general = saying.phase.is_none()
                    && saying.how.is_none()
                    && saying.errno.is_none()
                    && saying.answered.is_none()
                    && !saying.sending
                    && !saying.unsent
                    && !saying.waited
                    && !saying.complete;
                let later = product.sayings()[at + 1..]
                    .iter()
                    .any(|later| later.cause == saying.cause);

                assert!(!(general && later), "{} {saying:?}", product.name());
                assert!(
                    saying.words.is_some() || !saying.note.is_empty(),
                    "{saying:?}"
                );
                assert!(saying.words != Some(""), "{saying:?}");
            }
        }
    }
}
