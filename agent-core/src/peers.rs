//! What upstreams on this host showed of their own end of a connection.
//!
//! In: records of sockets that are no proxy's: a process that died, a reset and why it was sent, whether
//! anybody had read when the proxy left. Out: the same, for the end of an attempt.

use std::net::SocketAddr;

use crate::around::Around;
use crate::attempt::Trial;
use crate::by_ends::ByEnds;
use crate::deaths::Deaths;
use crate::event::Upstream;
use crate::network::{self, Ends, Network};
use crate::observation::{Ended, Nanos};
use crate::outcome::Outcome;
use crate::timing::{SECOND, SLACK};

/// A reset arrives within this time after it was sent on the same host, ns.
const RESET_UNDER_WAY: Nanos = SECOND;

/// Before and after a proxy gave a connection up, the upstream's end of it shows that within this
/// time, ns. Too short: on a busy machine it is not known. Too long: where ports are used again at
/// once, it is taken for that of another connection.
const LEAVING: Nanos = SECOND;

/// What is known of the other ends.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    deaths: Deaths,
    /// Why servers reset their connections.
    resets: ByEnds<u16>,
    /// Whether a server had read from a connection that was given up.
    readers: ByEnds<bool>,
}

impl Peers {
    /// The process that served the connection ended.
    pub(crate) fn died(&mut self, ends: Ends, at: Nanos, ended: Ended) {
        self.deaths.add(ends, at, ended);
    }

    /// The connection was reset, for a reason that is a code of [`agent_wire::reset_reason`].
    pub(crate) fn was_reset(&mut self, ends: Ends, at: Nanos, reason: u16) {
        self.resets.insert(ends, at, reason);
    }

    /// The client left before its first request was answered; `read` when somebody had read from it.
    pub(crate) fn was_left(&mut self, ends: Ends, at: Nanos, read: bool) {
        self.readers.insert(ends, at, read);
    }

    /// Adds what the other end of the attempt showed, which a process of `network` made.
    pub(crate) fn ask(&self, trial: &Trial, network: Option<Network>, around: &mut Around) {
        if let Upstream::Inet(remote) = trial.upstream
            && let Some(ends) = network::ends(network, remote, trial.local())
        {
            // What ends with the connection is over with its last byte, and its connection later.
            let at = trial.ended.max(trial.peer_fin().unwrap_or(0));
            let asked = trial.sent_at().unwrap_or(trial.started);
            around.process_ended = self.deaths.of_server(ends, asked, at);
            // The kernel reports a reset when it has sent it: over the loopback, that has arrived.
            let at = at.saturating_add(SLACK);
            around.reset_reason = self
                .resets
                .get(ends, at, RESET_UNDER_WAY)
                .filter(|_| trial.transport.was_reset());
            around.read = self
                .readers
                .get(ends, at.saturating_add(LEAVING), 2 * LEAVING)
                .filter(|_| trial.key.index == 0 && !trial.response_began());
        }
    }

    /// How the process of `network` ended that served a client, where its connection, with these ends, ended
    /// with that.
    pub(crate) fn served(
        &self,
        [server, client]: [SocketAddr; 2],
        network: Option<Network>,
        outcome: &Outcome,
    ) -> Option<Ended> {
        if outcome.complete {
            return None;
        }
        let at = outcome.ended.saturating_add(SLACK);
        let ends = network::ends(network, server, client)?;
        self.deaths.of_server(ends, at.saturating_sub(SECOND), at)
    }

    pub(crate) fn deaths(&self) -> &Deaths {
        &self.deaths
    }

    pub(crate) fn resets(&self) -> &ByEnds<u16> {
        &self.resets
    }

    pub(crate) fn readers(&self) -> &ByEnds<bool> {
        &self.readers
    }
}
