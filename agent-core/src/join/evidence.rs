//! What speaks for a request being the one that an attempt was made for.
//!
//! In: an attempt and one request. Out: the witnesses, each weighed for itself; or nothing, where one
//! of them contradicts.

use std::sync::Arc;

use crate::attempt::Trial;
use crate::cause::How;
use crate::event::Upstream;
use crate::network::canonical;
use crate::observation::{Errand, Nanos, RequestHead};
use crate::outcome::Outcome;
use crate::process::Processes;
use crate::proxies::Habits;
use crate::request::OpenRequest;
use crate::requests::Requests;
use crate::table::Key;
use crate::timing::{AT_ONCE, DELAYED, SHORTEST_TIMER, SLACK, YOUNG_US, is_late};
use crate::transport::{ClosedBy, NotConnected};
use crate::whole::announced;
use crate::witness::Witnesses;

/// "504 Gateway Timeout" (RFC 9110, 15.6.5).
const GATEWAY_TIMEOUT: u16 = 504;

/// What speaks for one request. Nothing of it contradicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evidence {
    pub(crate) touch: Touch,
    pub(crate) likeness: Likeness,
    /// Both carry the same request id or trace id.
    pub(crate) same_id: bool,
    /// Both announce a body, of the same size.
    pub(crate) same_body: bool,
    pub(crate) same_host: bool,
    /// It waited for longer than its proxy takes to connect.
    pub(crate) late: bool,
    /// No attempt is under way for it.
    pub(crate) free: bool,
    /// It was pipelined: only its answer was seen.
    pub(crate) pipelined: bool,
    /// Whose it is shows when it is answered, and not before.
    pub(crate) nobodys: bool,
    /// An earlier attempt of it went to the same upstream.
    pub(crate) again: bool,
    /// Of answers: what the client got.
    pub(crate) answer: Answer,
}

/// Whether the thread that acted had touched the request's connection last; the more it says, the
/// greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Touch {
    /// Another one, or none.
    None,
    /// A while ago.
    Old,
    /// Just now, and another thread owns the connection that it sent on.
    Foreign,
    /// Just now.
    Young,
    /// Just now, and it connects for a request before it reads another.
    Nearly,
    /// Just now, and it does what it did for a request before it reads another.
    AtOnce,
}

/// How alike the request lines are, at least by their end; the more it says, the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Likeness {
    /// Not at all.
    Other,
    /// One of them is not known.
    Unknown,
    /// So many segments at the end of the path are the same.
    Common(u8),
    /// One path is the end of the other, which has so many segments.
    Stripped(u8),
    /// The whole line.
    Same,
}

/// What the client got, beside what the attempt came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The status that the upstream gave.
    pub(crate) same_status: bool,
    /// A body as long as the upstream announced.
    pub(crate) same_length: bool,
    /// It followed the failure at once.
    pub(crate) at_once: bool,
}

impl Evidence {
    /// How much speaks for it. One witness of a kind outweighs all of the kinds below it: a name that
    /// nobody else has, what the thread did, the request line, its end, and what many requests share.
    pub(crate) fn weight(&self) -> u32 {
        let likeness = match self.likeness {
            Likeness::Same => 32,
            Likeness::Stripped(segments) => 16 + 2 * u32::from(segments.min(4)),
            Likeness::Common(segments) => 2 + 2 * u32::from(segments.min(4)),
            Likeness::Unknown | Likeness::Other => 0,
        };
        let touch = match (self.touch, self.likeness) {
            // Paths are rewritten, and timers act for others.
            (Touch::AtOnce, Likeness::Other) => 15,
            (Touch::AtOnce, _) => 64,
            // A request whose path has something of what was sent outweighs one that was read last.
            (Touch::Nearly | Touch::Young, Likeness::Other) => 5,
            (Touch::Nearly, _) => 10,
            (Touch::Young, _) => 8,
            (Touch::Foreign, _) => 2,
            (Touch::Old, _) => 1,
            (Touch::None, _) => 0,
        };
        let of = |is_so: bool, weight: u32| u32::from(is_so) * weight;
        likeness
            + touch
            + of(self.same_id, 128)
            + of(self.answer.same_length, 8)
            + of(self.answer.same_status, 6)
            + of(self.same_body, 4)
            + of(!self.late, 2)
            + of(self.same_host, 1)
    }
}

impl Evidence {
    /// What of it is reported.
    pub(super) fn witnesses(&self) -> Witnesses {
        let stripped = matches!(
            self.likeness,
            Likeness::Stripped(1..) | Likeness::Common(1..)
        );
        Witnesses::default()
            .and_if(self.touch >= Touch::Foreign, Witnesses::ERRAND)
            .and_if(self.likeness == Likeness::Same, Witnesses::REQUEST_LINE)
            .and_if(stripped, Witnesses::PATH_END)
            .and_if(self.same_id, Witnesses::ID)
            .and_if(self.same_body, Witnesses::BODY_SIZE)
            .and_if(self.same_host, Witnesses::HOST)
            .and_if(self.answer.same_status, Witnesses::STATUS)
            .and_if(self.answer.same_length, Witnesses::ANSWER_LENGTH)
            .and_if(self.again, Witnesses::SAME_UPSTREAM)
    }
}

/// The request that the acting thread touched last, when it was open then.
pub(super) fn by_errand(
    trial: &Trial,
    habits: Habits,
    requests: &Requests,
) -> Option<(Key, Evidence)> {
    let errand = trial.errand?;
    let key = Key::of(errand);
    let is_its = |request: &&OpenRequest| {
        // One thread has read the request and sent: the process of one is that of the other. The process
        // of a connection from before the agent may not be known until its answer.
        let own = match (request.tgid, trial.tgid) {
            (Some(reader), Some(sender)) => reader == sender,
            (None, _) | (_, None) => true,
        };
        own && is_open_at(request, trial.errand_at)
    };
    // A client that pipelines has sent the next one as well.
    let next = Key {
        index: key.index.saturating_add(1),
        ..key
    };
    let touched = requests
        .get(key)
        .filter(is_its)
        .map(|request| (key, request));
    let pipelined = || {
        let request = requests.get(next).filter(is_its)?;
        request.is_pipelined().then_some((next, request))
    };
    let (key, request) = touched.or_else(pipelined)?;
    // The errand of a connect, or of what was sent on an open connection.
    let sent = trial
        .exchange
        .as_ref()
        .is_some_and(|exchange| exchange.errand.is_some());
    let acts_at_once = if sent {
        habits.sends_at_once
    } else {
        habits.connects_at_once
    };
    let touch = if errand.age_us > YOUNG_US {
        Touch::Old
    } else if !trial.own_errand {
        Touch::Foreign
    } else if acts_at_once {
        Touch::AtOnce
    } else if habits.connects_at_once {
        Touch::Nearly
    } else {
        Touch::Young
    };
    let evidence = Evidence {
        touch,
        ..between(trial, request, trial.errand_at)
    };
    Some((key, evidence))
}

/// A request with the line that was sent at `at`, or with the end of its path; nothing when it cannot
/// be its.
pub(super) fn by_path(
    trial: &Trial,
    at: Nanos,
    request: &OpenRequest,
    requests: &Requests,
    processes: &Processes,
) -> Option<Evidence> {
    if request.started >= at || !is_open_at(request, at) {
        return None;
    }
    let same_process = requests.is_of(request, trial.tgid, processes);
    // Not what arrives where the attempt goes: that is of its upstream.
    let nobodys = !same_process
        && trial.tgid.is_some()
        && requests.is_nobodys(request)
        && !is_upstream_of(trial, request);
    // What serves it by a guess may be another's.
    let may_be = request.open.is_empty() || request.served_by_guess;
    let evidence = Evidence {
        nobodys,
        ..between(trial, request, at)
    };
    let fits = (same_process || nobodys) && may_be && evidence.likeness > Likeness::Unknown;
    (fits && !contradicts(trial, request)).then_some(evidence)
}

/// A request that waits for an upstream, or ended in an error that nothing explains, and in which
/// nothing is like the attempt but its time.
pub(super) fn by_time(trial: &Trial, request: &OpenRequest) -> Option<Evidence> {
    (!contradicts(trial, request)).then(|| between(trial, request, trial.started))
}

/// A request whose error, or the end of half an answer, followed the end of the attempt at once, or
/// as soon as its proxy may have had a CPU.
pub(super) fn by_answer(
    trial: &Trial,
    key: Key,
    request: &OpenRequest,
    answers_first: bool,
) -> Option<Evidence> {
    let outcome = request.outcome();
    let answered = outcome.failed_at().unwrap_or(outcome.ended);
    // An answer that is passed on begins long before its last byte.
    let begun = trial.exchange.as_ref().and_then(|exchange| {
        let passed_on = outcome.code.is_some() && trial.code() == outcome.code;
        exchange
            .head
            .get()
            .filter(|_| passed_on && !outcome.is_cut())
    });
    let over = begun.unwrap_or(trial.ended);
    let touch = touch(trial, key, request);
    // Apache httpd may begin it before the answer to the one before has left.
    let ahead = request.is_pipelined() && touch >= Touch::Young;
    // When a pipelined request began is known by the end of the answer to the one before, which leaves
    // later where another thread sends it that had no CPU.
    let slack = u64::from(request.is_pipelined()) * AT_ONCE;
    let around = (request.started <= trial.started.saturating_add(slack) || ahead)
        && answered >= trial.started
        && answered.saturating_add(ends_within(trial, answers_first)) >= over;
    let apart = answered.abs_diff(over);
    if !around || apart > DELAYED || contradicts(trial, request) {
        return None;
    }
    // Nobody's timer ran out where the peer refused or closed at once (RFC 9110, 15.6.5).
    let refused = trial.transport.not_connected() == Some(NotConnected::Refused(How::Rst));
    let closed = matches!(trial.closed_by(), ClosedBy::Peer | ClosedBy::PeerReset);
    let brief = trial.ended.saturating_sub(trial.started) < SHORTEST_TIMER;
    if outcome.code == Some(GATEWAY_TIMEOUT) && (refused || closed) && brief {
        return None;
    }
    let answer = passed_on(trial, request, &outcome)?;
    Some(Evidence {
        answer: Answer {
            at_once: apart <= AT_ONCE,
            ..answer
        },
        touch,
        ..between(trial, request, trial.started)
    })
}

/// Whether the thread that made the attempt had read from the request's connection last. Of a request
/// that was pipelined it may have done so with the one before.
fn touch(trial: &Trial, key: Key, request: &OpenRequest) -> Touch {
    let is_its = |errand: &Errand| {
        let with_the_last =
            request.is_pipelined() && errand.index.checked_add(1) == Some(key.index);
        errand.cookie.get() == key.cookie && (errand.index == key.index || with_the_last)
    };
    match trial.errand.filter(is_its) {
        None => Touch::None,
        Some(errand) if errand.age_us > YOUNG_US => Touch::Old,
        Some(_) if !trial.own_errand => Touch::Foreign,
        Some(_) => Touch::Young,
    }
}

/// How long after the answer the attempt may be over, ns; `answers_first` as the proxy's habits have it.
pub(crate) fn ends_within(trial: &Trial, answers_first: bool) -> Nanos {
    let not_connected = trial.transport.not_connected();
    let given_up = not_connected.is_some_and(NotConnected::is_closed_here);
    match trial.closed_by() == ClosedBy::Local {
        is_local if answers_first && (is_local || given_up) => DELAYED,
        true => AT_ONCE,
        false => SLACK,
    }
}

/// Whether the client got what the upstream answered; nothing where that contradicts.
fn passed_on(trial: &Trial, request: &OpenRequest, outcome: &Outcome) -> Option<Answer> {
    let same_status = match (trial.code(), outcome.code) {
        (Some(given), Some(got)) if given == got => true,
        // An error is passed on, and so is what begins an answer that is cut.
        (Some(500..), Some(_)) => return None,
        (_, Some(..500)) => return None,
        _ => false,
    };
    let given = trial.exchange.as_ref().and_then(announced);
    let same_length = same_status && given.is_some() && given == announced(&request.exchange);
    Some(Answer {
        same_status,
        same_length,
        at_once: false,
    })
}

/// What both say of themselves.
fn between(trial: &Trial, request: &OpenRequest, at: Nanos) -> Evidence {
    let heads = trial.head.as_ref().zip(request.head.as_ref());
    let likeness = heads.map_or(Likeness::Unknown, |(sent, asked)| likeness(sent, asked));
    let same = |one: &Option<Arc<str>>, other: &Option<Arc<str>>| one.is_some() && one == other;
    Evidence {
        touch: Touch::None,
        likeness,
        same_id: heads.is_some_and(|(sent, asked)| {
            same(&sent.request_id, &asked.request_id) || same(&sent.trace_id, &asked.trace_id)
        }),
        same_body: heads.is_some_and(|(sent, asked)| {
            let length = sent.content_length.filter(|length| *length > 0);
            length.is_some() && length == asked.content_length
        }),
        same_host: heads
            .is_some_and(|(sent, asked)| sent.host.is_some() && sent.host == asked.host),
        late: is_late(request.started, at) && request.tries.is_empty(),
        free: request.open.is_empty(),
        pipelined: request.is_pipelined(),
        nobodys: false,
        again: request
            .tries
            .iter()
            .any(|earlier| earlier.upstream == trial.upstream),
        answer: Answer::default(),
    }
}

/// Whether what was sent cannot be what was asked. Not where a thread was seen at it: proxies ask
/// for other things on account of a request, such as leave to serve it.
fn contradicts(trial: &Trial, request: &OpenRequest) -> bool {
    let Some((sent, asked)) = trial.head.as_ref().zip(request.head.as_ref()) else {
        return false;
    };
    let differ = |one: Option<u64>, other: Option<u64>| {
        one.zip(other).is_some_and(|(one, other)| one != other)
    };
    let other_trace = sent
        .trace_id
        .as_ref()
        .zip(asked.trace_id.as_ref())
        .is_some_and(|(one, other)| one != other);
    // For a HEAD a cache fetches the whole, and leave to serve is asked for by GET, whatever it is.
    let other_method = sent.method != asked.method && sent.method != "GET";
    other_method
        || differ(sent.content_length, asked.content_length)
        || (other_trace && likeness(sent, asked) < Likeness::Same)
}

/// Whether it arrived where the attempt goes.
fn is_upstream_of(trial: &Trial, request: &OpenRequest) -> bool {
    match trial.upstream {
        Upstream::Inet(address) => canonical(address) == canonical(request.server()),
        Upstream::Unix(_) | Upstream::Unknown => false,
    }
}

fn is_open_at(request: &OpenRequest, at: Nanos) -> bool {
    request.is_open_at(at) || request.is_open_at(at.saturating_add(SLACK))
}

/// How alike two request lines are. A proxy that rewrites paths keeps their end.
pub(super) fn likeness(sent: &RequestHead, asked: &RequestHead) -> Likeness {
    let is_fetch = sent.method == "GET" && asked.method == "HEAD";
    if sent.method != asked.method && !is_fetch {
        return Likeness::Other;
    }
    if sent.path == asked.path {
        return Likeness::Same;
    }
    let (longer, shorter) = if sent.path.len() > asked.path.len() {
        (&sent.path, &asked.path)
    } else {
        (&asked.path, &sent.path)
    };
    let count = |segments: usize| u8::try_from(segments).unwrap_or(u8::MAX);
    let is_end = longer.ends_with(shorter.as_str()) && shorter.starts_with('/');
    if is_end {
        let segments = shorter.split('/').filter(|segment| !segment.is_empty());
        return Likeness::Stripped(count(segments.count()));
    }
    let common = |one: &str, other: &str| {
        let pairs = one.rsplit('/').zip(other.rsplit('/'));
        let same = pairs.take_while(|(one, other)| one == other);
        same.filter(|(one, _)| !one.is_empty()).count()
    };
    let segments = common(longer, shorter);
    let all = sent.path.split('/').filter(|one| !one.is_empty()).count();
    // More would have been put in than was kept: it is another path that ends in the same way.
    if segments == 0 || all > 2 * segments {
        return Likeness::Other;
    }
    Likeness::Common(count(segments))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, path: &str) -> RequestHead {
        RequestHead {
            method: method.into(),
            path: path.into(),
            ..RequestHead::default()
        }
    }

    #[test]
    fn paths_are_alike_by_their_end() {
        let get = |path| head("GET", path);
        for (sent, asked, expected) in [
            ("/users/1", "/users/1", Likeness::Same),
            ("/users/1", "/api/users/1", Likeness::Stripped(2)),
            ("/v2/users/1", "/users/1", Likeness::Stripped(2)),
            ("/", "/api/", Likeness::Stripped(0)),
            ("/v2/users/1", "/api/users/1", Likeness::Common(2)),
            ("/index.php", "/users/1", Likeness::Other),
            // Not at a boundary of segments.
            ("/sers/1", "/users/1", Likeness::Common(1)),
            ("/1", "/users/11", Likeness::Other),
            ("/orders/2/list", "/api/orders/1/list", Likeness::Other),
        ] {
            assert_eq!(
                likeness(&get(sent), &get(asked)),
                expected,
                "{sent} {asked}"
            );
        }
        assert_eq!(
            likeness(&get("/users/1"), &head("POST", "/users/1")),
            Likeness::Other
        );
    }

    #[test]
    fn what_says_more_weighs_more() {
        let none = Evidence {
            touch: Touch::None,
            likeness: Likeness::Other,
            same_id: false,
            same_body: false,
            same_host: false,
            late: false,
            free: true,
            pipelined: false,
            nobodys: false,
            again: false,
            answer: Answer::default(),
        };
        let of = |likeness, touch| {
            Evidence {
                touch,
                likeness,
                ..none
            }
            .weight()
        };
        let (other, same) = (Likeness::Other, Likeness::Same);
        let rising = [
            of(other, Touch::None),
            of(other, Touch::Old),
            of(Likeness::Common(1), Touch::None),
            of(other, Touch::Nearly),
            of(Likeness::Common(2), Touch::None),
            of(Likeness::Common(1), Touch::Young),
            of(other, Touch::AtOnce),
            of(Likeness::Stripped(1), Touch::None),
            of(Likeness::Stripped(2), Touch::None),
            of(same, Touch::None),
            of(Likeness::Unknown, Touch::AtOnce),
            of(same, Touch::AtOnce),
            Evidence {
                same_id: true,
                ..none
            }
            .weight(),
        ];
        assert!(rising.is_sorted_by(|one, next| one < next), "{rising:?}");
    }
}
