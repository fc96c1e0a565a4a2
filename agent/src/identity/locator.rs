//! From what the core tells to the places of those who took part.
//!
//! In: sockets on which processes serve, requests and attempts, processes. Out: [`Whereabouts`].

use agent_core::event::{Attempt, Request, Upstream};
use agent_core::observation::{Phase, Side, Socket};

use super::neighbours::{Neighbours, Party};
use super::{Place, Whereabouts};
use crate::processes::Processes;

/// Knows who is where.
#[derive(Debug, Default)]
pub struct Locator {
    neighbours: Neighbours,
}

impl Locator {
    /// Takes note of who serves on a socket.
    pub fn saw(&mut self, socket: &Socket, processes: &Processes) {
        let Socket {
            cookie,
            side: Side::Client,
            tgid: Some(tgid),
            local,
            remote,
            ..
        } = socket
        else {
            return;
        };
        if let Some(party) = processes.party(*tgid) {
            self.neighbours.serves(*cookie, *local, *remote, party);
        }
    }

    /// Takes note of who was at the other end of an attempt, while that can be seen.
    pub fn met(&mut self, attempt: &Attempt, processes: &Processes) {
        if let (Some(client), Upstream::Inet(remote)) =
            (processes.party(attempt.proxy.tgid), &attempt.upstream)
        {
            self.neighbours.meet(client, attempt.local, *remote);
        }
    }

    /// Of all who took part in a request.
    pub fn of_request(&mut self, request: &Request, processes: &Processes) -> Whereabouts {
        let upstreams = request.attempts.iter();
        Whereabouts {
            upstreams: upstreams
                .map(|attempt| self.upstream(attempt, processes))
                .collect(),
            proxy: self.proxy(request.proxy.tgid, processes),
        }
    }

    /// Of both sides of an attempt.
    pub fn of_attempt(&mut self, attempt: &Attempt, processes: &Processes) -> Whereabouts {
        Whereabouts {
            upstreams: vec![self.upstream(attempt, processes)],
            proxy: self.proxy(attempt.proxy.tgid, processes),
        }
    }

    fn proxy(&self, tgid: u32, processes: &Processes) -> Place {
        let Some(identity) = processes.known(tgid) else {
            return Place::default();
        };
        Place {
            container: identity.ids.container.clone(),
            ..Place::default()
        }
    }

    fn upstream(&mut self, attempt: &Attempt, processes: &Processes) -> Place {
        match self.behind(attempt, processes) {
            Some(party) => self.proxy(party.tgid, processes),
            None => Place::default(),
        }
    }

    /// The process behind the upstream, where that is on this host and known. Asks `/proc` where
    /// it is known by an earlier connection alone, so it is for attempts that are told.
    fn behind(&mut self, attempt: &Attempt, processes: &Processes) -> Option<Party> {
        let Upstream::Inet(remote) = attempt.upstream else {
            return None;
        };
        let client = processes.party(attempt.proxy.tgid)?;
        if let Some(party) = self.neighbours.meet(client, attempt.local, remote) {
            // Its id may be another process' by now.
            let same = processes.party(party.tgid)?.start == party.start;
            return same.then_some(party);
        }
        // Who has met nobody may have been refused by the successor of who was there before.
        let is_connected = attempt
            .failure
            .is_none_or(|failure| failure.phase != Phase::Connect);
        let party = self.neighbours.met_before(client, remote)?;
        if processes.lives(party) {
            return is_connected.then_some(party);
        }
        self.neighbours.forget(client, remote);
        None
    }
}
