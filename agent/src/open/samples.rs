//! What is under way, for tests: one of each, to be changed where a test cares.

use agent_core::cause::Certainty;
use agent_core::event::Join;
use agent_core::open::{Asker, Open, OpenAttempt, OpenList};
use agent_core::{UnreadClients, Used};

use super::Found;
use crate::clock::WallClock;
use crate::identity::Whereabouts;
use crate::samples::{head, proxy, upstream};

const SECOND: u64 = 1_000_000_000;

/// A request that has hung for 90 s, of which 89.5 at its upstream, at 100 s.
pub(crate) fn hanging() -> Open {
    Open {
        proxy: proxy("nginx"),
        asker: Asker::Client {
            client: "192.0.2.9:51000".parse().unwrap(),
            cookie: 66,
            index: 2,
        },
        head: Some(head("GET", "/slow")),
        started: 10 * SECOND,
        code: None,
        attempts: vec![OpenAttempt {
            upstream: upstream("10.0.3.17:8080"),
            local: "10.0.3.1:40000".parse().unwrap(),
            cookie: 77,
            index: 0,
            join: Join::Errand,
            join_certainty: Some(Certainty::Proof),
            started: 10 * SECOND + SECOND / 2,
            is_read: true,
            is_answering: false,
        }],
        earlier: 0,
        elsewhere: Used::Nothing,
    }
}

/// As [`hanging`], and of it no attempt is known.
pub(crate) fn without_attempt() -> Open {
    Open {
        attempts: Vec::new(),
        ..hanging()
    }
}

/// An answer with these.
pub(crate) fn found_these(open: Vec<Open>, matched: usize) -> Found {
    Found {
        whereabouts: vec![Whereabouts::default(); open.len()],
        list: OpenList {
            matched,
            looked_at: matched,
            open,
        },
        now: 100 * SECOND,
        clock: WallClock::fixed(0),
        unread_clients: UnreadClients::default(),
        swept: 0,
    }
}

/// So many of one more.
pub(crate) fn found(count: usize) -> Found {
    found_these(vec![hanging(); count], count + 1)
}
