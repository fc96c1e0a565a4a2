//! Whom proxies talk to, and which processes of this host those are.

use std::net::SocketAddr;

use agent_core::observation::Nanos;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::identity::listeners::{Listeners, Servers};
use crate::identity::neighbours::Netns;
use crate::identity::sockets::are_readable;
use crate::processes::Processes;

/// For how long it holds that an address is not of this host, ns. Longer: a container that gets the
/// address is found late. Shorter: all of `/proc` is read more often.
const ELSEWHERE: Nanos = 60_000_000_000;

/// The same of a server that runs: it is looked at whether it still does.
const HERE: Nanos = 1_000_000_000;

/// How soon it is looked again for who serves where nobody did, or nothing shows who, ns; when somebody
/// begins to listen, at once. Shorter: an outage costs more.
const NOBODY: Nanos = 10_000_000_000;

/// The least between two looks because somebody began to listen, ns: each reads files of every process.
const LISTENS: Nanos = 250_000_000;

/// Addresses remembered.
const MOST: usize = 4096;

/// An address that a proxy talks to, and the network namespace that it does so from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) from: Option<Netns>,
    pub(super) at: SocketAddr,
}

/// What is known of those addresses.
#[derive(Debug, Default)]
pub(super) struct Upstreams {
    listeners: Listeners,
    known: FxHashMap<Asked, Known>,
    /// Somebody began to listen since the last look.
    is_new: bool,
    looked: Nanos,
}

#[derive(Debug)]
struct Known {
    servers: Servers,
    /// `None`: to be looked at again.
    looked: Option<Nanos>,
    /// Proxies that talk to it and know that answer.
    by: FxHashSet<u32>,
}

impl Upstreams {
    /// Processes that serve there, where `proxy` does not know them yet.
    pub(super) fn ask(
        &mut self,
        asked: Asked,
        proxy: u32,
        now: Nanos,
        processes: &Processes,
    ) -> Option<Vec<u32>> {
        if let Some(known) = self.known.get_mut(&asked)
            && known.holds(now, processes)
        {
            let is_new = known.by.insert(proxy);
            return match &known.servers {
                Servers::Here(servers) if is_new => Some(servers.clone()),
                _ => None,
            };
        }
        let servers = self.listeners.servers(asked.at, asked.from, processes);
        if self.known.len() >= MOST {
            self.known.clear();
        }
        let found = match &servers {
            Servers::Here(servers) => Some(servers.clone()),
            Servers::Elsewhere | Servers::Nobody | Servers::Unknown => None,
        };
        let known = self.known.entry(asked).or_insert_with(|| Known {
            servers: Servers::Unknown,
            looked: None,
            by: FxHashSet::default(),
        });
        known.servers = servers;
        known.looked = Some(now);
        known.by.insert(proxy);
        found
    }

    /// Somebody began to listen: it may be who was looked for.
    pub(super) fn somebody_listens(&mut self) {
        self.is_new = true;
        self.listeners.expire();
    }

    /// What to ask about again because somebody began to listen, and for which proxies.
    pub(super) fn due(&mut self, now: Nanos) -> Vec<(Asked, Vec<u32>)> {
        if !self.is_new || now.saturating_sub(self.looked) < LISTENS {
            return Vec::new();
        }
        self.is_new = false;
        self.looked = now;
        let mut all = Vec::new();
        for (asked, known) in &mut self.known {
            if matches!(known.servers, Servers::Nobody | Servers::Unknown) {
                known.looked = None;
                all.push((*asked, known.by.iter().copied().collect()));
            }
        }
        all
    }

    /// Addresses where somebody of this host serves, and nothing shows who.
    pub(super) fn unknown(&self) -> usize {
        let servers = self.known.values().map(|known| &known.servers);
        servers.filter(|one| **one == Servers::Unknown).count()
    }

    /// The proxy talks to nobody any more.
    pub(super) fn left(&mut self, proxy: u32) {
        for known in self.known.values_mut() {
            known.by.remove(&proxy);
        }
        self.known.retain(|_, known| !known.by.is_empty());
    }

    /// The server has ended: who comes next is looked for.
    pub(super) fn ended(&mut self, server: u32) {
        for known in self.known.values_mut() {
            if let Servers::Here(servers) = &mut known.servers {
                servers.retain(|tgid| *tgid != server);
                if servers.is_empty() {
                    known.servers = Servers::Nobody;
                    known.looked = None;
                }
            }
        }
    }
}

impl Known {
    /// The answer is good still.
    fn holds(&mut self, now: Nanos, processes: &Processes) -> bool {
        let Some(looked) = self.looked else {
            return false;
        };
        let age = now.saturating_sub(looked);
        match &self.servers {
            Servers::Elsewhere => age < ELSEWHERE,
            Servers::Nobody | Servers::Unknown => age < NOBODY,
            Servers::Here(_) if age < HERE => true,
            Servers::Here(servers) => {
                self.looked = Some(now);
                // Its workers come and go.
                servers.iter().any(|tgid| processes.start(*tgid).is_some())
            }
        }
    }
}

/// One of these who serve together, where all are in one container, or in none, and their files can be read:
/// else they may serve, and no more.
pub(super) fn only_place(servers: &[u32], processes: &Processes) -> Option<u32> {
    // Many addresses may have the same servers: what is known of them is not asked for again.
    let container = |tgid: u32| match processes.known(tgid) {
        Some(identity) => identity.ids.container.clone(),
        None => processes.identify(tgid).ids.container,
    };
    let (first, others) = servers.split_first()?;
    let place = container(*first);
    let is_one = others.iter().all(|other| container(*other) == place);
    let is_sure = || are_readable(processes.proc()?, *first).then_some(*first);
    is_sure().filter(|_| is_one)
}
