//! From what the core tells to the places of those who took part.
//!
//! In: sockets on which processes serve, requests and attempts, processes, and what is known of
//! translated addresses. Out: [`Whereabouts`].

use std::net::SocketAddr;
use std::sync::Arc;

use agent_core::cause::Cause;
use agent_core::event::{Attempt, Request, TlsDone, Upstream};
use agent_core::observation::{Ended, Nanos, Phase, Side, Socket};
use agent_core::open::{Open, OpenAttempt};

use super::bounded::Bounded;
use super::conntrack::{Translated, Translations};
use super::kubernetes::Directory;
use super::listeners::{Found, Listeners};
use super::neighbours::{Neighbours, Party};
use super::served::{Before, ClosedIdle, Gone, Known, Served};
use super::{Peer, Place, Unconnected, Whereabouts};
use crate::metrics::report::TranslationCounts;
use crate::processes::{Identity, Processes};

/// Knows who is where.
#[derive(Debug, Default)]
pub struct Locator {
    neighbours: Neighbours,
    served: Served,
    listeners: Listeners,
    directory: Option<Directory>,
    translations: Option<Translations>,
    /// Where connections of proxies lead, by their cookies: by its ends alone a later one is told
    /// from an earlier one only at the time.
    led: Bounded<u64, Translated>,
}

/// Connections of which it is remembered where they lead. Fewer: of those that live long it is
/// forgotten. More: memory, 130 bytes each.
const LED: usize = 16_384;

/// The ends of a connection.
#[derive(Clone, Copy, Debug)]
struct Ends {
    /// What the proxy connected to.
    asked: SocketAddr,
    /// The server's own address.
    server: SocketAddr,
    /// Whom the server sees.
    client: SocketAddr,
    /// What the proxy connected to is not the server's own.
    is_translated: bool,
}

impl Locator {
    /// Takes names from there as well.
    pub fn name_by(&mut self, directory: Directory) {
        self.directory = Some(directory);
    }

    /// Follows translated addresses by that from now on.
    pub fn follow(&mut self, translations: Translations) {
        self.translations = Some(translations);
    }

    /// A round begins.
    pub fn begin_round(&mut self) {
        if let Some(translations) = &mut self.translations {
            translations.begin_round();
        }
    }

    /// Hears where connections lead that have begun since the last time; of how many.
    pub fn hear_translations(&mut self) -> usize {
        let translations = self.translations.as_mut();
        translations.map_or(0, Translations::refresh)
    }

    /// What is known of that; `None` when it is not wanted.
    pub fn translations(&self) -> Option<TranslationCounts> {
        self.translations.as_ref().map(Translations::counts)
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

    /// Takes note of where a connection leads that was opened by its socket, whosever it is.
    pub fn saw_opened(&mut self, socket: &Socket, processes: &Processes) {
        let Socket {
            cookie,
            side,
            tgid,
            local,
            remote,
            flags,
            ..
        } = socket;
        let is_opened = *side == Side::Upstream || flags.active_open() && *side != Side::Client;
        if is_opened
            && *cookie != 0
            && let Some(translations) = &self.translations
            && self.led.get(cookie).is_none()
        {
            let party = tgid.and_then(|tgid| processes.party(tgid));
            let netns = party.and_then(|party| party.netns);
            if let Some(translated) = translations.of(netns, *local, *remote) {
                self.led.insert(*cookie, translated, LED);
            }
        }
    }

    /// Whom a connection that its socket opened leads to, if that is known to be another address.
    pub fn leads_to(&self, socket: &Socket) -> SocketAddr {
        let led = self.led.get(&socket.cookie);
        led.map_or(socket.remote, |translated| translated.endpoint)
    }

    /// Takes note of who was at the other end of an attempt, while that can be seen.
    pub fn met(&mut self, attempt: &Attempt, processes: &Processes) {
        if let (Some(client), Some(ends)) =
            (processes.party(attempt.proxy.tgid), self.ends(attempt))
        {
            let server = self.neighbours.meet(client, ends.client, ends.server);
            let learn = |known: &mut Known| learn(known, attempt, server);
            self.served.learn(client.netns, ends.asked, learn);
        }
    }

    /// Takes note of a process that was found to listen where a proxy connects to, so that the first attempt
    /// is reported with it too. Both are known.
    pub fn found(&mut self, found: Found, processes: &Processes) {
        let parties = processes
            .party(found.proxy)
            .zip(processes.party(found.server));
        if let Some((client, server)) = parties {
            self.neighbours.found(client, found.at, server);
        }
    }

    /// Takes note of an upstream that speaks TLS.
    pub fn saw_tls(&mut self, done: &TlsDone, processes: &Processes) {
        if let (Some(client), Upstream::Inet(asked)) =
            (processes.party(done.proxy.tgid), &done.upstream)
        {
            let learn = |known: &mut Known| known.spoke_tls = true;
            self.served.learn(client.netns, *asked, learn);
        }
    }

    /// Takes note of how a process ended that closed a connection which it served.
    pub fn saw_end(&mut self, tgid: u32, how: Ended, at: Nanos) {
        self.served.ended(tgid, how, at);
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

    /// Of both sides of what is under way. Who is at an upstream is taken from its address alone: this asks
    /// nobody, and is for many at once.
    pub fn of_open(&self, open: &Open, processes: &Processes) -> Whereabouts {
        let peer = |attempt: &OpenAttempt| {
            let ends = self.ends_of(&attempt.upstream, attempt.cookie, attempt.local);
            ends.map_or_else(Peer::default, |ends| Peer {
                place: self.by_address(ends),
                endpoint: ends.is_translated.then_some(ends.server),
                ..Peer::default()
            })
        };
        Whereabouts {
            upstreams: open.attempts.iter().map(peer).collect(),
            proxy: self.proxy(open.proxy.tgid, processes),
        }
    }

    /// `namespace/service` of the address, where Kubernetes says so.
    pub fn service_name(&self, address: SocketAddr) -> Option<String> {
        self.directory.as_ref()?.behind(address)?.service_name()
    }

    /// Where the connection of this cookie leads, if it was translated.
    pub fn endpoint(&self, cookie: u64) -> Option<SocketAddr> {
        self.led.get(&cookie).map(|translated| translated.endpoint)
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
    fn upstream(&mut self, attempt: &Attempt, processes: &Processes) -> Peer {
        let Some(ends) = self.ends(attempt) else {
            return Peer::default();
        };
        Peer {
            place: self.place(attempt, ends, processes),
            endpoint: ends.is_translated.then_some(ends.server),
            ready_endpoints: self.ready_endpoints(attempt, ends),
            unconnected: self.unconnected(attempt, ends, processes).map(Arc::new),
            known: processes
                .party(attempt.proxy.tgid)
                .and_then(|client| self.served.known(client.netns, ends.asked))
                .unwrap_or_default(),
        }
    }

    /// What this host tells of an address that could not be connected to. Asks `/proc`, at most once a
    /// second.
    fn unconnected(
        &mut self,
        attempt: &Attempt,
        ends: Ends,
        processes: &Processes,
    ) -> Option<Unconnected> {
        let is_about_the_address = matches!(
            attempt.failure?.cause,
            Cause::ConnectRefused | Cause::ConnectTimeout | Cause::HostUnreachable
        );
        if !is_about_the_address {
            return None;
        }
        let from = processes.party(attempt.proxy.tgid)?.netns;
        let known = self.served.known(from, ends.asked).unwrap_or_default();
        let before = known.answered.map(|answered| Before {
            answered,
            gone: known
                .by
                .and_then(|party| self.gone(party, answered, processes)),
        });
        let mut around = self.listeners.around(ends.server, from, processes);
        for listener in around.iter_mut().flat_map(|around| &mut around.listeners) {
            let known = self.served.known(from, listener.reached());
            listener.has_answered = known.is_some_and(|known| known.answered.is_some());
        }
        Some(Unconnected { around, before })
    }

    /// A process that answered at `answered`, if it is there no more.
    fn gone(&self, party: Party, answered: Nanos, processes: &Processes) -> Option<Gone> {
        if processes.lives(party) {
            return None;
        }
        let same = processes.party(party.tgid) == Some(party);
        let identity = processes.known(party.tgid).filter(|_| same)?;
        Some(Gone {
            tgid: party.tgid,
            program: Arc::clone(&identity.program),
            container: identity.ids.container.clone(),
            ended: self.served.end_of(party.tgid, answered),
        })
    }

    /// Whether anybody could have answered: of Services whose connects fail and that are not known to
    /// have led to an endpoint.
    fn ready_endpoints(&self, attempt: &Attempt, ends: Ends) -> Option<usize> {
        let failure = attempt.failure?;
        let directory = self.directory.as_ref()?;
        let asks = failure.phase == Phase::Connect && !ends.is_translated;
        asks.then(|| directory.ready_endpoints(ends.asked))?
    }

    fn place(&mut self, attempt: &Attempt, ends: Ends, processes: &Processes) -> Place {
        let by_address = self.by_address(ends);
        let Some(party) = self.behind(attempt, ends, processes) else {
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

    /// Who the cluster says has the address. Of one that was translated, the service is the one
    /// that was asked for, and the pod the one that was chosen.
    fn by_address(&self, ends: Ends) -> Place {
        let behind = |address| self.directory.as_ref()?.behind(address);
        let chosen = behind(ends.server).unwrap_or_default();
        let asked = match behind(ends.asked) {
            Some(asked) if ends.is_translated => asked,
            _ => return chosen,
        };
        if chosen.namespace.is_some() && chosen.namespace != asked.namespace {
            return asked;
        }
        Place {
            namespace: asked.namespace,
            service: asked.service,
            ..chosen
        }
    }

    /// Both ends of an attempt's connection; `None` of a Unix socket.
    fn ends(&self, attempt: &Attempt) -> Option<Ends> {
        self.ends_of(&attempt.upstream, attempt.cookie, attempt.local)
    }

    /// As [`Locator::ends`], of the connection to `upstream` with this cookie and this end `local`.
    fn ends_of(&self, upstream: &Upstream, cookie: u64, local: SocketAddr) -> Option<Ends> {
        let Upstream::Inet(asked) = *upstream else {
            return None;
        };
        let translated = self.led.get(&cookie);
        let is_translated = translated.is_some();
        let Translated { endpoint, client } = translated.unwrap_or(Translated {
            endpoint: asked,
            client: local,
        });
        Some(Ends {
            asked,
            server: endpoint,
            client,
            is_translated,
        })
    }

    /// The process behind the upstream, where that is on this host and known. Asks `/proc` where
    /// it is known by an earlier connection alone, so it is for attempts that are told.
    fn behind(&mut self, attempt: &Attempt, ends: Ends, processes: &Processes) -> Option<Party> {
        let client = processes.party(attempt.proxy.tgid)?;
        if let Some(party) = self.neighbours.meet(client, ends.client, ends.server) {
            // Its id may be another process' by now.
            let same = processes.party(party.tgid)?.start == party.start;
            return same.then_some(party);
        }
        // Who has met nobody may have been refused by the successor of who was there before.
        let is_connected = attempt
            .failure
            .is_none_or(|failure| failure.phase != Phase::Connect);
        let party = self.neighbours.met_before(client, ends.server)?;
        if processes.lives(party) {
            return is_connected.then_some(party);
        }
        self.neighbours.forget(client, ends.server);
        None
    }
}

/// A close this long after a connection was used is not for idleness, seconds.
const SOON: f64 = 0.1;

/// One after this long is, seconds. Shorter: servers that close for another reason seem to have a timeout.
const LONG: f64 = 1.0;

/// What an attempt says of its upstream's address.
fn learn(known: &mut Known, attempt: &Attempt, server: Option<Party>) {
    let answered = attempt.failure.is_none() || attempt.code.is_some();
    if answered {
        known.answered = known.answered.max(Some(attempt.ended));
        known.by = server.or(known.by);
        known.spoke_http |= attempt.head.is_some() && attempt.code.is_some();
    }
    let cause = attempt.failure.map(|failure| failure.cause);
    if cause == Some(Cause::ClosedBeforeResponse) && attempt.reused == Some(false) {
        known.closed = known.closed.saturating_add(1);
    }
    let is_close = matches!(
        cause,
        Some(Cause::KeepaliveRace | Cause::ClosedBeforeResponse)
    );
    let soon = attempt.idle_seconds.is_some_and(|idle| idle < SOON);
    if let Some(carried) = attempt.evidence.carried
        && is_close
        && soon
    {
        let before = known.closed_after.filter(|(before, _)| *before == carried);
        let times = before.map_or(0, |(_, times)| times);
        known.closed_after = Some((carried, times.saturating_add(1)));
    }
    if let Some(idle) = attempt.idle_seconds.filter(|idle| *idle >= LONG)
        && cause == Some(Cause::KeepaliveRace)
    {
        let tenths = (idle * 10.0).round() as u32;
        known.closed_idle = Some(ClosedIdle::then(known.closed_idle, tenths, attempt.ended));
    }
}
