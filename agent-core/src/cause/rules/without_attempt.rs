//! No attempt of the request is known: its upstreams had been given up, the name did not resolve, the
//! proxy answered by itself, or an attempt was there and was not seen.
//!
//! In: a [`Situation`], which is all that is known of such a request. Out: why it got its error, or that
//! it is not known and what may have been used for it.

use std::sync::Arc;

use super::case::{UNATTRIBUTED, is_5xx};
use crate::cause::{Cause, Certainty, How};
use crate::event::{Check, Failure};
use crate::lookups::Lookup;
use crate::observation::{Nanos, Phase};
use crate::outcome::{CLIENT_CLOSED_REQUEST, Outcome};
use crate::proxies::Habits;
use crate::routes::Fare;
use crate::timing::SHORTEST_TIMER;
use crate::unread::Used;

/// What is known of a request that got an error and of which no attempt is known.
#[derive(Clone, Debug)]
pub(crate) struct Situation {
    /// The status that it was answered with; `None` where the proxy closed without one.
    pub(crate) code: Option<u16>,
    /// Records since it came may be missing.
    pub(crate) records_lost: bool,
    /// The kernel does not report connects to Unix sockets.
    pub(crate) connects_unseen: bool,
    /// Its process made an attempt meanwhile that was joined to no request.
    pub(crate) unjoined: bool,
    /// What its process used meanwhile on connections that are not read, for nobody knows which request.
    pub(crate) used: Used,
    /// What its process may have used for it without a trace.
    pub(crate) may_have_used: Used,
    /// What became of the names that were asked for on its account.
    pub(crate) lookup: Option<Lookup>,
    /// How the upstreams of its route fared.
    pub(crate) fare: Fare,
    /// How long after it came it was answered, ns.
    pub(crate) waited: Nanos,
    /// How its proxy behaves.
    pub(crate) habits: Habits,
}

/// What a [`Situation`] comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Why it got its error.
    Judged {
        failure: Failure,
        /// For which failure its upstreams had been given up before.
        origin: Option<Cause>,
        /// By which check that was seen.
        check: Option<Arc<Check>>,
    },
    /// It is not known; what may have been used for it, if anything.
    Unknown(Used),
}

/// Why the request got its error.
pub(crate) fn judge(situation: Situation) -> Verdict {
    let Situation {
        code,
        records_lost,
        connects_unseen,
        unjoined,
        used,
        may_have_used,
        lookup,
        fare,
        waited,
        habits,
    } = situation;
    let Habits {
        fail_window: _,
        connects_at_once: acts_at_once,
        sends_at_once: _,
        none_left_code,
        timeout_code: _,
        refuses_interim: _,
        leaves_alone: _,
        tries_all_down,
        checks_by_timer: _,
        answers_first: _,
    } = habits;
    // An attempt may have been there and not been seen. Without a code the proxy closed: that says
    // nothing of upstreams.
    if records_lost || code.is_none() {
        return Verdict::Unknown(used);
    }
    if lookup == Some(Lookup::Failed) {
        return judged(Cause::DnsFailure, Certainty::Strong);
    }
    // An attempt ran, and nobody knows for whom.
    if !used.is_nothing() {
        return Verdict::Unknown(used);
    }
    // Where the route is not known, a name that a request of it asked for is a nearer witness
    // than servers of other routes, if it is known who asked.
    let nameless = match &fare {
        Fare::Unknown | Fare::UnusedDown(..) => true,
        Fare::ProxyAllDown(..) => acts_at_once,
        Fare::AllDown { .. } | Fare::SomeDown | Fare::Healthy => false,
    };
    if lookup == Some(Lookup::FailedForAnother) && !unjoined && nameless {
        return judged(Cause::DnsFailure, Certainty::Guess);
    }
    // A proxy without an upstream to try has a code for that; another is of a rule or a limit,
    // unless an error page changed it.
    let by_code = none_left_code.is_none_or(|none_left| code == Some(none_left));
    match fare {
        Fare::AllDown { origin, check } if by_code => none_left(origin, check),
        Fare::ProxyAllDown(origin, check) if by_code && !connects_unseen => {
            none_left(origin, check)
        }
        // Where joins are doubtful, so is that there was no attempt.
        _ if unjoined || connects_unseen => Verdict::Unknown(Used::Nothing),
        _ if !may_have_used.is_nothing() => Verdict::Unknown(may_have_used),
        Fare::UnusedDown(origin, check)
            if none_left_code.is_some() && by_code && !tries_all_down =>
        {
            none_left(origin, Some(check))
        }
        // What is dropped on this host before it leaves is not seen, and ends by a timer.
        Fare::Healthy if acts_at_once && waited < SHORTEST_TIMER => {
            judged(Cause::ProxyGenerated, Certainty::Strong)
        }
        Fare::AllDown { .. }
        | Fare::ProxyAllDown(..)
        | Fare::UnusedDown(..)
        | Fare::Healthy
        | Fare::SomeDown
        | Fare::Unknown => judged(Cause::ProxyGenerated, Certainty::Guess),
    }
}

/// What an attempt that nobody saw failed of, where the request got no error: its answer was cut, or
/// its client did not wait for it. `missed` when the client got less than it waited for; `asked` when it
/// had asked for something whole.
pub(crate) fn behind(outcome: &Outcome, missed: bool, asked: bool) -> Option<Failure> {
    let client_left = Failure {
        cause: Cause::ClientAbort,
        ..UNATTRIBUTED
    };
    match outcome.code {
        Some(code) if missed && !is_5xx(code) => Some(Failure {
            phase: Phase::Body,
            ..UNATTRIBUTED
        }),
        None if asked && outcome.client_gone.is_some() => Some(client_left),
        Some(CLIENT_CLOSED_REQUEST) if outcome.client_fin.is_some() => Some(client_left),
        _ => None,
    }
}

fn judged(cause: Cause, certainty: Certainty) -> Verdict {
    Verdict::Judged {
        failure: Failure {
            cause,
            certainty,
            phase: Phase::Connect,
            how: How::None,
        },
        origin: None,
        check: None,
    }
}

/// The proxy had no upstream left to try, as far as is known: a rule, a limit or a cache of its own may have
/// answered with the same status while its upstreams were down.
fn none_left(origin: Cause, check: Option<Arc<Check>>) -> Verdict {
    Verdict::Judged {
        failure: Failure {
            cause: Cause::NoLiveUpstream,
            certainty: Certainty::Guess,
            phase: Phase::Connect,
            how: How::None,
        },
        origin: Some(origin),
        check,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Upstream;

    fn of(program: &str) -> Situation {
        Situation {
            code: Some(502),
            records_lost: false,
            connects_unseen: false,
            unjoined: false,
            used: Used::Nothing,
            may_have_used: Used::Nothing,
            lookup: None,
            fare: Fare::Healthy,
            waited: SHORTEST_TIMER - 1,
            habits: Habits::of(program),
        }
    }

    fn all_down() -> Fare {
        Fare::AllDown {
            origin: Cause::ConnectRefused,
            check: None,
        }
    }

    /// Cause and certainty, where it was judged.
    fn found(situation: Situation) -> Option<(Cause, Certainty)> {
        match judge(situation) {
            Verdict::Judged { failure, .. } => Some((failure.cause, failure.certainty)),
            Verdict::Unknown(_) => None,
        }
    }

    #[test]
    fn the_upstreams_and_the_habits_of_the_proxy_decide() {
        let refused = Cause::ConnectRefused;
        let dns = |lookup| Some((Cause::DnsFailure, lookup));
        let own = |sure| Some((Cause::ProxyGenerated, sure));
        let none = || Some((Cause::NoLiveUpstream, Certainty::Guess));
        let another = Some(Lookup::FailedForAnother);
        for (program, code, fare, lookup, expected) in [
            ("nginx", 502, Fare::Healthy, None, own(Certainty::Strong)),
            ("haproxy", 503, Fare::Healthy, None, own(Certainty::Guess)),
            ("nginx", 502, Fare::SomeDown, None, own(Certainty::Guess)),
            ("nginx", 502, all_down(), None, none()),
            ("nginx", 503, all_down(), None, own(Certainty::Guess)),
            ("traefik", 503, all_down(), None, none()),
            (
                "nginx",
                502,
                Fare::ProxyAllDown(refused, None),
                None,
                none(),
            ),
            (
                "nginx",
                502,
                all_down(),
                Some(Lookup::Failed),
                dns(Certainty::Strong),
            ),
            ("nginx", 502, all_down(), another, none()),
            ("nginx", 502, Fare::Unknown, another, dns(Certainty::Guess)),
            (
                "nginx",
                502,
                Fare::ProxyAllDown(refused, None),
                another,
                dns(Certainty::Guess),
            ),
            (
                "caddy",
                503,
                Fare::ProxyAllDown(refused, None),
                another,
                none(),
            ),
        ] {
            let situation = Situation {
                code: Some(code),
                fare: fare.clone(),
                lookup,
                ..of(program)
            };
            assert_eq!(
                found(situation),
                expected,
                "{program} {code} {fare:?} {lookup:?}"
            );
        }
    }

    #[test]
    fn an_attempt_that_may_have_been_there_leaves_the_cause_open() {
        let only = Used::Only(Upstream::Unix("/run/app".into()));
        let base = of("nginx");
        for (situation, expected) in [
            (
                Situation {
                    records_lost: true,
                    ..base.clone()
                },
                Used::Nothing,
            ),
            (
                Situation {
                    code: None,
                    used: Used::Some,
                    ..base.clone()
                },
                Used::Some,
            ),
            (
                Situation {
                    used: only.clone(),
                    fare: all_down(),
                    ..base.clone()
                },
                only.clone(),
            ),
            (
                Situation {
                    may_have_used: only.clone(),
                    ..base.clone()
                },
                only,
            ),
            (
                Situation {
                    unjoined: true,
                    ..base.clone()
                },
                Used::Nothing,
            ),
            (
                Situation {
                    connects_unseen: true,
                    fare: Fare::ProxyAllDown(Cause::ConnectRefused, None),
                    ..base
                },
                Used::Nothing,
            ),
        ] {
            let shown = format!("{situation:?}");
            assert_eq!(judge(situation), Verdict::Unknown(expected), "{shown}");
        }
    }
}
