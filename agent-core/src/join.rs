//! Which client request an attempt belongs to.
//!
//! In: an attempt, and the requests it may have been made for. Each is weighed: what speaks for it is
//! gathered ([`Evidence`]), what contradicts it excludes it. Out: the one that most speaks for, as a
//! [`Parent`], or none. How sure that is follows from what was weighed and from who else is left, and
//! no verdict that needs the join is surer than that.

mod evidence;

use std::cmp::Reverse;

use crate::attempt::Trial;
use crate::cause::Certainty;
use crate::event::Join;
use crate::observation::{Nanos, RequestHead};
use crate::parent::Parent;
use crate::process::Processes;
use crate::proxies::Habits;
use crate::request::OpenRequest;
use crate::requests::{Listed, Requests};
use crate::table::Key;
use crate::timing::{AT_HAND_US, RETRIED_AT_ONCE, SLACK, is_late};
use crate::witness::Witnesses;

pub(crate) use evidence::ends_within;
use evidence::{Evidence, Likeness, Touch};

/// What a thread that reads several clients and then serves them has read this long before, ns. Shorter:
/// a request that was read with others counts as the only one. Longer: on a busy proxy no request does.
const JUST_READ: Nanos = 5_000_000;

/// So much must speak for a request more than for every other, that it is a guess and no toss-up.
const AHEAD: u32 = 4;

/// Requests as much like an attempt as others that are weighed. Too small: what would tell them apart is
/// not seen. Too large: each attempt costs as much where all ask for the same.
const RIVALS: usize = 8;

/// What came of looking for a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) parent: Option<Parent>,
    /// There was an errand, and it was of no use.
    pub(crate) errand_failed: bool,
    /// Several requests are as much like the attempt. One of them may be gone when it is looked for
    /// again, and the other no more likely for that.
    pub(crate) contested: bool,
}

/// A request that an attempt may have been made for, and what speaks for it.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    key: Key,
    evidence: Evidence,
}

/// Requests that an attempt may have been made for.
#[derive(Debug, Default)]
struct Field {
    candidates: Vec<Candidate>,
    /// There are others, too many to be weighed.
    more: bool,
}

/// Looks for the request that `trial` belongs to, as far as its line and the thread say.
pub(crate) fn find(
    trial: &Trial,
    habits: Habits,
    requests: &Requests,
    processes: &Processes,
) -> Found {
    let field = Field::of(trial, habits, requests, processes);
    // What a program that is no proxy sends is its own, unless it is what its client asked.
    let is_proxy = processes.proxy(trial.tgid).is_some();
    let parent = field
        .best()
        .filter(|best| is_proxy || best.evidence.touch > Touch::None)
        .filter(|best| !trial.contested || best.evidence.touch >= Touch::Foreign)
        .and_then(|best| field.parent(trial, best))
        .map(|parent| Parent {
            surety: parent.surety.max(timer_surety(trial, parent, processes)),
            ..parent
        });
    let by_errand = parent.is_some_and(|parent| parent.join == Join::Errand);
    Found {
        parent,
        errand_failed: trial.errand.is_some() && !by_errand,
        contested: parent.is_none() && field.candidates.len() > 1,
    }
}

/// The most that the thread's last touch says by itself: a timer (nginx's limit_req) may have acted for a
/// client that is not read, where there are such, and the thread read from this one by chance. A request
/// whose path is not like what was sent speaks for that.
fn timer_surety(trial: &Trial, parent: Parent, processes: &Processes) -> Certainty {
    let has_unread = |tgid| processes.has_unread_clients(tgid);
    let errand = trial.errand.filter(|_| trial.tgid.is_some_and(has_unread));
    match errand {
        Some(_) if trial.exchange.is_some() && !parent.witnesses.has_any(Witnesses::OF_HEADS) => {
            Certainty::Guess
        }
        Some(_) if trial.exchange.is_some() => Certainty::Proof,
        Some(errand) if errand.age_us > AT_HAND_US => Certainty::Guess,
        Some(_) => Certainty::Strong,
        None => Certainty::Proof,
    }
}

impl Field {
    fn of(trial: &Trial, habits: Habits, requests: &Requests, processes: &Processes) -> Self {
        let touched = evidence::by_errand(trial, habits, requests);
        let touched = touched.map(|(key, evidence)| Candidate { key, evidence });
        let mut field = Self::by_path(trial, requests, processes);
        if let Some(touched) = touched {
            field.candidates.retain(|one| one.key != touched.key);
            field.candidates.push(touched);
        }
        // One that may be another program's is meant where nothing else can be.
        let own = |one: &Candidate| !one.evidence.nobodys && one.may_be();
        if field.candidates.iter().any(own) {
            field.candidates.retain(|one| !one.evidence.nobodys);
        }
        field
    }

    /// Requests with the line that `trial` sent; where there are none, those whose path ends as its
    /// does.
    fn by_path(trial: &Trial, requests: &Requests, processes: &Processes) -> Self {
        let (Some(sent), Some(at)) = (&trial.head, trial.sent_at()) else {
            return Self::default();
        };
        let has_ids = sent.request_id.is_some() || sent.trace_id.is_some();
        let field = |(listed, all): (&[Listed], bool)| {
            let mut field = Self {
                candidates: Vec::new(),
                more: !all,
            };
            for Listed { key, started } in listed {
                // With so many, only an id tells them apart, or a timer that has run out for one.
                let many = field.candidates.len() >= RIVALS && !has_ids;
                if *started >= at || (many && !is_late(*started, at)) {
                    field.more |= *started < at;
                    continue;
                }
                let evidence = requests
                    .look_at(*key)
                    .and_then(|request| evidence::by_path(trial, at, request, requests, processes));
                field.candidates.extend(evidence.map(|evidence| Candidate {
                    key: *key,
                    evidence,
                }));
            }
            field
        };
        let same = field(requests.with_line(sent));
        if same.candidates.is_empty() && !same.more {
            field(requests.with_end(sent))
        } else {
            same
        }
    }

    /// The one that most speaks for. A request that is being served may be another's.
    fn best(&self) -> Option<&Candidate> {
        let open = self.candidates.iter().filter(|one| one.may_be());
        open.max_by_key(|one| one.evidence.weight())
    }

    fn others(&self, best: &Candidate) -> impl Iterator<Item = &Candidate> {
        let key = best.key;
        self.candidates.iter().filter(move |one| one.key != key)
    }

    /// No other request is as much like the attempt as this one.
    fn is_alone(&self, one: &Candidate) -> bool {
        let like = |other: &Candidate| other.evidence.likeness >= one.evidence.likeness;
        one.evidence.free && !self.more && !self.others(one).any(like) || self.is_by_id(one)
    }

    /// It carries an id of the attempt, and no other does.
    fn is_by_id(&self, one: &Candidate) -> bool {
        let id = one.evidence.same_id && one.evidence.free && !self.more;
        id && !self.others(one).any(|other| other.evidence.same_id)
    }

    /// More speaks for it than for any other.
    fn is_ahead(&self, one: &Candidate) -> bool {
        let next = self.others(one).map(|other| other.evidence.weight()).max();
        !self.more && one.evidence.weight() >= next.unwrap_or(0).saturating_add(AHEAD)
    }

    /// How the best one is joined, and how surely: proof where the thread is at work for nobody else,
    /// or where two witnesses agree and nobody is left; strong where nobody is left.
    fn parent(&self, trial: &Trial, best: &Candidate) -> Option<Parent> {
        let Candidate { key, evidence } = *best;
        let alone = self.is_alone(best);
        // A timer may act for one that waits for longer (nginx's limit_req).
        let late_rival = self
            .others(best)
            .any(|other| other.evidence.likeness == evidence.likeness && other.evidence.late);
        let touch = match evidence.touch {
            Touch::AtOnce if late_rival => Touch::Young,
            touch => touch,
        };
        let young = touch >= Touch::Young;
        let is_connect = trial.exchange.is_none();
        let by_path = if evidence.likeness == Likeness::Same {
            Join::RequestLine
        } else {
            Join::PathEnd
        };
        let (join, surety) = match (evidence.likeness, touch) {
            // A connect has no line. A request that is being served asks for no other upstream: a
            // timer acted for somebody else.
            (_, Touch::AtOnce) if is_connect && evidence.free => (Join::Errand, Certainty::Proof),
            // A try again by timer: same request, same upstream.
            (_, Touch::Old) if is_connect && evidence.again => (Join::Errand, Certainty::Strong),
            _ if is_connect => return None,
            (Likeness::Same, Touch::AtOnce) => (Join::Errand, Certainty::Proof),
            // Two witnesses that know nothing of each other.
            (Likeness::Same, _) if alone && touch >= Touch::Foreign => {
                (Join::Errand, Certainty::Proof)
            }
            (Likeness::Stripped(1..), _) if alone && touch >= Touch::Foreign => {
                (Join::Errand, Certainty::Proof)
            }
            (Likeness::Same, _) if young => (Join::Errand, Certainty::Guess),
            (Likeness::Same | Likeness::Stripped(1..), Touch::Old) if alone => {
                (Join::Errand, Certainty::Strong)
            }
            (Likeness::Common(2..), _) if alone && young => (Join::Errand, Certainty::Strong),
            (Likeness::Common(1), _) if alone && young => (Join::Errand, Certainty::Guess),
            // The proxy rewrote the path, or one of the heads could not be read.
            (_, Touch::AtOnce) => (Join::Errand, Certainty::Strong),
            // It does so for connects: most of what it sends is of the client that it read last.
            (_, Touch::Nearly) => (Join::Errand, Certainty::Guess),
            (Likeness::Same | Likeness::Stripped(1..) | Likeness::Common(2..), _) if alone => {
                (by_path, Certainty::Strong)
            }
            (Likeness::Stripped(1..) | Likeness::Common(1..), _) if self.is_ahead(best) => {
                (by_path, Certainty::Guess)
            }
            _ => return None,
        };
        // Nobody saw when it was read.
        let most = if evidence.pipelined {
            Certainty::Strong
        } else {
            Certainty::Proof
        };
        Some(Parent {
            key,
            join,
            surety: surety.max(most),
            witnesses: evidence.witnesses().and_if(alone, Witnesses::NO_OTHER),
            forwarding: evidence.likeness == Likeness::Same && touch >= Touch::Young,
        })
    }
}

impl Candidate {
    /// Something of its own speaks for it, and nothing else serves it, or the thread was at work for it.
    fn may_be(&self) -> bool {
        let Evidence {
            touch,
            likeness,
            free,
            again,
            ..
        } = self.evidence;
        let speaks = likeness > Likeness::Unknown || touch >= Touch::Nearly;
        (speaks && (free || touch >= Touch::Foreign)) || (touch == Touch::Old && again)
    }
}

/// Of requests that wait for an upstream, or ended in an error for which no attempt is known, the only
/// one, where it can be one that `trial` was made for.
pub(crate) fn only<'a>(
    trial: &Trial,
    waiting: impl Iterator<Item = (Key, &'a OpenRequest)>,
) -> Option<Parent> {
    let mut possible = waiting.filter_map(|(key, request)| {
        let evidence = evidence::by_time(trial, request)?;
        Some((key, request, evidence))
    });
    let (key, request, evidence) = possible.next()?;
    if possible.next().is_some() || !is_try_of(trial, request) {
        return None;
    }
    Some(Parent {
        key,
        join: Join::Waiting,
        surety: Certainty::Strong,
        witnesses: evidence.witnesses().and_if(true, Witnesses::NO_OTHER),
        forwarding: false,
    })
}

/// Its thread had read from a client just before.
pub(crate) fn is_at_hand(trial: &Trial) -> bool {
    let errand = trial.errand.filter(|_| trial.own_errand);
    errand.is_some_and(|errand| errand.age_us <= AT_HAND_US)
}

/// Of requests that wait for an upstream the one that the thread of a failed connect had just read, where
/// it has no attempt and no other came then; and when it began.
pub(crate) fn by_touch<'a>(
    trial: &Trial,
    waiting: impl Iterator<Item = (Key, &'a OpenRequest)>,
) -> Option<(Parent, Nanos)> {
    let since = trial.started.saturating_sub(JUST_READ);
    let mut latest = waiting.filter(|(_, request)| request.started >= since);
    let (key, request) = latest.next()?;
    trial.errand.filter(|errand| Key::of(*errand) == key)?;
    let is_first = request.tries.is_empty() && request.open.is_empty();
    if latest.next().is_some() || !is_first {
        return None;
    }
    let evidence = evidence::by_time(trial, request)?;
    let parent = Parent {
        key,
        join: Join::Waiting,
        surety: Certainty::Guess,
        witnesses: evidence.witnesses().and_if(true, Witnesses::ERRAND),
        forwarding: false,
    };
    Some((parent, request.started))
}

/// Of requests that ended in an error for which no attempt is known, the one that a failed attempt
/// without a request most likely belongs to: it was open all the while, and its answer followed
/// the failure at once. With several such, as a guess, that for which most speaks, and of those the
/// first: a proxy serves in the order in which it reads, and its timers run out in the order in
/// which it sets them. An answer that came later than at once says less than any that did. `may_be_slow`
/// where the process is not known: one that was just started compiles what it does for the first time.
pub(crate) fn by_answer<'a>(
    trial: &Trial,
    unexplained: impl Iterator<Item = (Key, &'a OpenRequest)>,
    answers_first: bool,
    may_be_slow: bool,
) -> Option<Parent> {
    let mut weighed: Vec<_> = unexplained
        .filter_map(|(key, request)| {
            let evidence = evidence::by_answer(trial, key, request, answers_first)?;
            Some((evidence, request.started, key))
        })
        .collect();
    weighed.sort_by_key(|(evidence, started, key)| {
        let order = (evidence.answer.at_once, evidence.weight());
        (Reverse(order), *started, *key)
    });
    let (best, _, key) = *weighed.first()?;
    let is_like = best.likeness >= Likeness::Stripped(1);
    let is_connect = trial.exchange.is_none();
    let is_touched = best.pipelined && best.touch >= Touch::Young;
    let is_its = is_connect || is_touched || best.likeness > Likeness::Unknown;
    let is_slow = may_be_slow && trial.unread && best.touch >= Touch::Young;
    if !best.answer.at_once && !is_its && !is_slow {
        return None;
    }
    let alone = match weighed.get(1) {
        _ if !best.answer.at_once => false,
        // Two paths that have nothing in common, or are not known, may be of two requests.
        None => is_its || best.answer.same_length,
        // Paths that many share tell less than one that nobody else has.
        Some((next, ..)) => is_like && next.likeness < Likeness::Common(1),
    };
    Some(Parent {
        key,
        join: Join::Answer,
        surety: if alone {
            Certainty::Strong
        } else {
            Certainty::Guess
        },
        witnesses: best
            .witnesses()
            .and_if(true, Witnesses::ANSWER)
            .and_if(alone, Witnesses::NO_OTHER),
        forwarding: false,
    })
}

/// Whether the answer to the request followed the end of the attempt, and nothing speaks against that.
pub(crate) fn explains(
    trial: &Trial,
    key: Key,
    request: &OpenRequest,
    answers_first: bool,
) -> bool {
    evidence::by_answer(trial, key, request, answers_first).is_some()
}

/// Whether an attempt fits a request that waits: as the first try, soon after the request came;
/// as another, when it goes to an upstream that was tried, whenever the proxy's timer says, or
/// follows a try at once.
fn is_try_of(trial: &Trial, request: &OpenRequest) -> bool {
    let after = |time: Nanos| trial.started.saturating_sub(time);
    let fits = if request.tries.is_empty() {
        !is_late(request.started, trial.started)
    } else {
        request.tries.iter().any(|earlier| {
            earlier.upstream == trial.upstream || after(earlier.ended) <= RETRIED_AT_ONCE
        })
    };
    fits && request.end.is_none()
}

/// What was sent is what was asked, or has something of it.
pub(crate) fn is_alike(sent: &RequestHead, asked: &RequestHead) -> bool {
    evidence::likeness(sent, asked) > Likeness::Unknown
}

/// What was sent is what was asked, or ends as that does.
pub(crate) fn is_like(trial: &Trial, asked: Option<&RequestHead>) -> bool {
    let heads = trial.head.as_ref().zip(asked);
    heads.is_some_and(|(sent, asked)| evidence::likeness(sent, asked) >= Likeness::Stripped(1))
}

/// A failed attempt without a request belongs to the request whose next attempt, `next`, followed
/// it at once.
pub(crate) fn is_followed_by(failed: &Trial, next: &Trial, request: &OpenRequest) -> bool {
    let after = next.started.checked_sub(failed.ended);
    failed.tgid == next.tgid
        && failed.started.saturating_add(SLACK) >= request.started
        && after.is_some_and(|after| after <= RETRIED_AT_ONCE)
        && evidence::by_time(failed, request).is_some()
}
