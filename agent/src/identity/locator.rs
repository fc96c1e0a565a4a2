//! From what the core tells to the places of those who took part.
//!
//! In: sockets on which processes serve, requests and attempts, processes. Out: [`Whereabouts`].

use agent_core::event::{Attempt, Request, Upstream};
use agent_core::observation::{Phase, Side, Socket};

use super::kubernetes::Directory;
use super::neighbours::{Neighbours, Party};
use super::{Place, Whereabouts};
use crate::processes::{Identity, Processes};

/// Knows who is where.
#[derive(Debug, Default)]
pub struct Locator {
    neighbours: Neighbours,
    directory: Option<Directory>,
}

impl Locator {
    /// Takes names from there as well.
    pub fn name_by(&mut self, directory: Directory) {
        self.directory = Some(directory);
    }

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

    /// Of a process: its container, and the pod by the uid in its cgroup.
    fn proxy(&self, tgid: u32, processes: &Processes) -> Place {
        let Some(Identity { ids, .. }) = processes.known(tgid) else {
            return Place::default();
        };
        let pod = match (&self.directory, &ids.pod_uid) {
            (Some(directory), Some(uid)) => directory.pod(uid),
            _ => None,
        };
        Place {
            container: ids.container.clone(),
            ..pod.unwrap_or_default()
        }
    }

    /// Of an upstream: who the cluster says has the address, and the process behind it.
    fn upstream(&mut self, attempt: &Attempt, processes: &Processes) -> Place {
        let by_address = match (&self.directory, &attempt.upstream) {
            (Some(directory), Upstream::Inet(address)) => directory.behind(*address),
            _ => None,
        };
        let by_address = by_address.unwrap_or_default();
        let Some(party) = self.behind(attempt, processes) else {
            return by_address;
        };
        let process = self.proxy(party.tgid, processes);
        if process.pod.is_none() {
            let container = process.container;
            return Place {
                container,
                ..by_address
            };
        }
        // The process itself says where it is; the service is added where that is the same pod.
        let same = by_address.namespace == process.namespace
            && (by_address.pod.is_none() || by_address.pod == process.pod);
        Place {
            service: by_address.service.filter(|_| same),
            ..process
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
