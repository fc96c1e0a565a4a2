//! What the core is told of the same traffic where exchanges that go well are told in brief.
//!
//! The kernel side and the daemon, in a few lines: heads are held back; when something goes wrong, those of
//! all that is under way come first, and from then on all is told whole until it was quiet for a moment.
//! In truth that is a second. Here it is short, so that more is told in brief.

use std::collections::HashMap;

use agent_core::observation::{
    ConnectOutcome, End, Exchange, Nanos, Observation, Side, Socket, What,
};

use crate::support::scenario::time;

/// How long it must be quiet, ns.
const QUIET: Nanos = 30_000_000;
/// What is answered later is told whole, ns.
const AT_ONCE: Nanos = 50_000_000;

/// What is told of `seen`, which is in the order of its time.
pub(crate) fn told(seen: Vec<Observation>) -> Vec<Observation> {
    let mut told = Vec::new();
    let mut held: HashMap<(u64, u32), Vec<Observation>> = HashMap::new();
    let mut wrong_at: Option<Nanos> = None;
    for observation in seen {
        let at = time(&observation);
        if goes_wrong(&observation) {
            let mut all: Vec<Observation> = held.drain().flat_map(|(_, heads)| heads).collect();
            all.sort_by_key(time);
            told.append(&mut all);
            told.push(disturbed(&observation.socket));
            wrong_at = Some(at);
        }
        let in_brief = wrong_at.is_none_or(|wrong| at - wrong >= QUIET);
        let Some((exchange, is_request)) = exchange(&observation) else {
            told.push(observation);
            continue;
        };
        let key = (observation.socket.cookie, exchange.index);
        if is_request {
            if in_brief {
                held.insert(key, vec![observation]);
            } else {
                told.push(observation);
            }
            continue;
        }
        let Some(mut heads) = held.remove(&key) else {
            told.push(observation);
            continue;
        };
        if exchange.end.is_none() {
            heads.push(observation);
            held.insert(key, heads);
        } else if in_brief && is_at_once(exchange) {
            told.push(brief(observation.socket.clone(), exchange.clone()));
        } else {
            told.append(&mut heads);
            told.push(observation);
        }
    }
    told.extend(held.into_values().flatten());
    told
}

/// The exchange of a message, and whether it is the request.
fn exchange(observation: &Observation) -> Option<(&Exchange, bool)> {
    match &observation.what {
        What::Request { exchange, .. } => Some((exchange, true)),
        What::Response { exchange, .. } | What::End { exchange } => Some((exchange, false)),
        _ => None,
    }
}

fn goes_wrong(observation: &Observation) -> bool {
    match &observation.what {
        What::Connect { outcome, .. } => *outcome != ConnectOutcome::Established,
        What::Response { exchange, .. } | What::End { exchange } => {
            exchange.status >= 500 || exchange.end.is_some_and(|end| end != End::Complete)
        }
        _ => false,
    }
}

fn is_at_once(exchange: &Exchange) -> bool {
    let (sent, answered) = (exchange.request_last.get(), exchange.first_byte.get());
    let waited = sent.zip(answered).map(|(sent, answered)| answered - sent);
    waited.is_some_and(|waited| waited <= AT_ONCE)
}

fn brief(socket: Socket, exchange: Exchange) -> Observation {
    let exchange = Exchange {
        errand: None,
        request_bytes: 0,
        request_acked: 0,
        response_bytes: 0,
        head_bytes: 0,
        request_head_bytes: 0,
        ..exchange
    };
    Observation {
        socket,
        what: What::InBrief { exchange },
    }
}

fn disturbed(socket: &Socket) -> Observation {
    Observation {
        socket: Socket {
            cookie: 0,
            side: Side::Unknown,
            ..socket.clone()
        },
        what: What::Disturbed,
    }
}
