//! Where connections lead whose address the kernel translates: a Service's ClusterIP, a port that
//! is published, any other destination NAT of netfilter or IPVS.
//!
//! In: what the host's connection tracking tells of each TCP connection as it begins, and once of
//! those there are. Out: for two ends as a socket has them, the two ends as the server has them.
//! What is not translated, or was not heard of, is `None`.
//!
//! It is heard, and not asked for when something fails: a connection that is refused is forgotten
//! by the kernel with the RST, before anybody could ask
//! (`docs/decisions/0014-endpoints-from-conntrack.md`).
//!
//! Of two connections with the same ends the later one counts, so all are heard of, translated or
//! not. When some were missed, what is known could be of the one before: all of it is dropped. And
//! where ends got another meaning in this very round, a record of either connection may come: they
//! have none until the next.

mod message;
mod socket;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use message::{Told, Tuple};
use socket::{DATAGRAM, Heard, Socket};

pub use socket::Unavailable;

use super::bounded::Bounded;
use super::neighbours::Netns;
use crate::metrics::report::TranslationCounts;

/// Translated connections remembered. Fewer: on a node where many begin, the endpoint of one that
/// lived long is not known. More: memory, 170 bytes each. (A hash table of 32,768 is full here.)
const CONNECTIONS: usize = 28_672;

/// Connections heard of at a time, about 12 ms of work, and more than the buffer holds. Fewer: a
/// burst overruns it. More: records of the probes wait longer.
const MESSAGES_AT_A_TIME: usize = 8192;

/// Where translated connections lead.
#[derive(Debug)]
pub struct Translations {
    /// `None` when nothing is heard, or no longer.
    socket: Option<Socket>,
    known: Known,
    buffer: Vec<u8>,
}

/// A connection as its server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// The server's end: the address that was put in place of the one asked for.
    pub endpoint: SocketAddr,
    /// The client's end, which may be another one as well.
    pub client: SocketAddr,
}

/// What was heard.
#[derive(Debug, Default)]
struct Known {
    connections: Bounded<(End, End), Entry>,
    /// Counted up by [`Translations::begin_round`].
    round: u64,
    /// Some of what was told waits to be heard, or is lost: what is known may be old.
    is_behind: bool,
    /// Some was lost, and what comes now was told before that.
    is_recovering: bool,
    overruns: u64,
    unreadable: u64,
}

/// Where a connection leads.
#[derive(Clone, Copy, Debug)]
struct Entry {
    endpoint: End,
    client: End,
    /// The round in which it took the place of another one, 0 for none.
    replaced: u64,
}

/// An address and port in few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct End([u8; 18]);

impl Translations {
    /// Listens, from now on.
    ///
    /// # Errors
    /// Says what is missing and who can give it.
    pub fn open() -> Result<Self, Unavailable> {
        let mut known = Known::default();
        let socket = Socket::open(|told| known.hear(told))?;
        Ok(Self {
            socket: Some(socket),
            known,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// Nothing is known, nor will be.
    pub fn unavailable() -> Self {
        Self {
            socket: None,
            known: Known::default(),
            buffer: Vec::new(),
        }
    }

    /// A round begins: whatever was recorded before the last one ended was looked at.
    pub fn begin_round(&mut self) {
        self.known.round += 1;
    }

    /// Hears what was told since the last time; of how many connections that was.
    pub fn refresh(&mut self) -> usize {
        let Self {
            socket,
            known,
            buffer,
        } = self;
        let Some(open) = socket else {
            return 0;
        };
        known.is_behind = true;
        for number in 0..MESSAGES_AT_A_TIME {
            match open.hear(buffer) {
                Ok(Heard::Datagram(length)) => {
                    known.take(buffer.get(..length).unwrap_or_default());
                }
                Ok(Heard::Nothing) => {
                    known.heard_all();
                    return number;
                }
                Ok(Heard::Overrun) => known.missed_some(),
                Ok(Heard::Foreign) => {}
                Err(error) => {
                    tracing::warn!(%error, "connection tracking is not heard any more: where translated addresses lead is not known");
                    known.connections.clear();
                    *socket = None;
                    return number;
                }
            }
        }
        MESSAGES_AT_A_TIME
    }

    /// Where a connection leads that has these two ends for the process that made it, in its
    /// network namespace; `None` where that is what it says, and where it is not known.
    pub fn of(
        &self,
        netns: Option<Netns>,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Option<Translated> {
        let here = self.socket.as_ref()?.netns;
        if !may_pass(here, netns, [local, remote]) {
            return None;
        }
        self.known.of(local, remote)
    }

    /// Something is heard.
    pub fn is_available(&self) -> bool {
        self.socket.is_some()
    }

    /// What is known and lost.
    pub fn counts(&self) -> TranslationCounts {
        let Known {
            connections,
            overruns,
            unreadable,
            ..
        } = &self.known;
        TranslationCounts {
            is_available: self.is_available(),
            known: u64::try_from(connections.len()).unwrap_or(u64::MAX),
            overruns: *overruns,
            unreadable: *unreadable,
        }
    }
}

/// Whether packets between these ends, of a process in that namespace, may pass this one. Those of
/// loopback addresses do not leave theirs, and each has such addresses.
fn may_pass(here: Netns, of: Option<Netns>, ends: [SocketAddr; 2]) -> bool {
    let is_inside = |end: &SocketAddr| end.ip().to_canonical().is_loopback();
    of == Some(here) || !ends.iter().any(is_inside)
}

impl Known {
    fn hear(&mut self, told: Told) {
        match told {
            Told::Connection { original, reply } => self.put(original, reply),
            Told::Unreadable => self.unreadable += 1,
            // Of other protocols, or what comes without a question.
            Told::Other | Told::Done | Told::Refused(_) => {}
        }
    }

    /// A datagram was heard.
    fn take(&mut self, datagram: &[u8]) {
        // After an overrun the kernel adds nothing until all of it is heard: this was told before.
        if !self.is_recovering {
            message::read(datagram).for_each(|told| self.hear(told));
        }
    }

    /// Nothing is left to be heard.
    fn heard_all(&mut self) {
        self.is_behind = false;
        self.is_recovering = false;
    }

    fn put(&mut self, original: Tuple, reply: Tuple) {
        let Self {
            connections, round, ..
        } = self;
        let key = (End::of(original.from), End::of(original.to));
        let (endpoint, client) = (End::of(reply.from), End::of(reply.to));
        if endpoint == key.1 {
            // As a rule it is not there.
            connections.remove(&key);
        } else {
            let before = connections.get(&key);
            let is_new = before.is_some_and(|before| before.endpoint != endpoint);
            let entry = Entry {
                endpoint,
                client,
                replaced: if is_new { *round } else { 0 },
            };
            connections.insert(key, entry, CONNECTIONS);
        }
    }

    fn missed_some(&mut self) {
        self.overruns += 1;
        self.is_recovering = true;
        self.connections.clear();
    }

    fn of(&self, local: SocketAddr, remote: SocketAddr) -> Option<Translated> {
        let entry = self.connections.get(&(End::of(local), End::of(remote)))?;
        let may_be_another = self.is_behind || entry.replaced == self.round && self.round != 0;
        (!may_be_another).then(|| Translated {
            endpoint: entry.endpoint.address(),
            client: entry.client.address(),
        })
    }
}

impl End {
    fn of(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut bytes = [0; 18];
        let (of_ip, of_port) = bytes.split_at_mut(16);
        of_ip.copy_from_slice(&ip.octets());
        of_port.copy_from_slice(&address.port().to_be_bytes());
        Self(bytes)
    }

    fn address(self) -> SocketAddr {
        let [ip @ .., high, low] = self.0;
        let ip = IpAddr::V6(Ipv6Addr::from(ip)).to_canonical();
        SocketAddr::new(ip, u16::from_be_bytes([high, low]))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::message::tests::{in_zone, message};
    use super::message::{TCP, Tuple};
    use super::{CONNECTIONS, End, Known, Translated, may_pass};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn tuple(from: &str, to: &str) -> Tuple {
        Tuple {
            from: at(from),
            to: at(to),
        }
    }

    const PROXY: &str = "10.244.0.3:41000";
    const SERVICE: &str = "10.96.0.10:80";
    const POD: &str = "10.244.1.7:8080";
    const NODE: &str = "10.244.0.1:52000";

    fn found(known: &Known, local: &str, remote: &str) -> Option<String> {
        let Translated { endpoint, client } = known.of(at(local), at(remote))?;
        Some(format!("{client} {endpoint}"))
    }

    #[test]
    fn a_translated_connection_leads_where_its_answers_come_from() {
        let mut known = Known::default();
        known.put(tuple(PROXY, SERVICE), tuple(POD, NODE));

        let expected = Some(format!("{NODE} {POD}"));
        assert_eq!(found(&known, PROXY, SERVICE), expected);
        let mapped = "[::ffff:10.244.0.3]:41000";
        assert_eq!(
            found(&known, mapped, "[::ffff:10.96.0.10]:80"),
            expected,
            "an IPv6 socket"
        );
        assert_eq!(found(&known, "10.244.0.3:41001", SERVICE), None);
        assert_eq!(found(&known, PROXY, POD), None);

        known.put(
            tuple("[fd00::3]:41000", "[fd00:96::a]:80"),
            tuple("[fd00::7]:8080", "[fd00::3]:41000"),
        );
        assert_eq!(
            found(&known, "[fd00::3]:41000", "[fd00:96::a]:80").as_deref(),
            Some("[fd00::3]:41000 [fd00::7]:8080")
        );
    }

    #[test]
    fn of_two_connections_with_the_same_ends_the_later_one_counts() {
        let mut known = Known::default();
        known.put(tuple(PROXY, SERVICE), tuple(POD, PROXY));
        known.put(tuple(PROXY, SERVICE), tuple("10.244.1.8:8080", PROXY));
        assert_eq!(
            found(&known, PROXY, SERVICE),
            Some(format!("{PROXY} 10.244.1.8:8080"))
        );

        // The rule is gone; or only the client's address is translated.
        known.put(tuple(PROXY, SERVICE), tuple(SERVICE, NODE));
        assert_eq!(found(&known, PROXY, SERVICE), None);
        assert_eq!(known.connections.len(), 0);
    }

    #[test]
    fn what_may_be_old_is_dropped_and_counted_when_some_was_missed() {
        let mut known = Known::default();
        known.put(tuple(PROXY, SERVICE), tuple(POD, PROXY));

        known.missed_some();
        assert_eq!(found(&known, PROXY, SERVICE), None);
        assert_eq!(known.overruns, 1);

        // Told before the overrun, and heard behind it.
        let late = message(tuple(PROXY, SERVICE), tuple(POD, PROXY), TCP);
        known.take(&late);
        known.heard_all();
        assert_eq!(found(&known, PROXY, SERVICE), None);

        known.take(&late);
        assert!(found(&known, PROXY, SERVICE).is_some(), "a new one");
    }

    #[test]
    fn ends_that_lead_elsewhere_since_this_round_lead_nowhere_until_the_next() {
        let mut known = Known::default();
        for round in 1..=3 {
            known.round = round;
            known.put(tuple(PROXY, SERVICE), tuple(POD, PROXY));
            assert!(found(&known, PROXY, SERVICE).is_some(), "the same again");
        }
        known.put(tuple(PROXY, SERVICE), tuple("10.244.1.8:8080", PROXY));
        assert_eq!(found(&known, PROXY, SERVICE), None, "of which of the two?");
        known.round = 4;
        assert!(found(&known, PROXY, SERVICE).is_some());
        known.is_behind = true;
        assert_eq!(found(&known, PROXY, SERVICE), None, "another may be told");
    }

    #[test]
    fn what_is_in_another_zone_is_not_heard() {
        let mut known = Known::default();
        let (original, reply) = (tuple(PROXY, SERVICE), tuple(POD, PROXY));
        known.take(&in_zone(&message(original, reply, TCP), 5));
        assert_eq!((known.connections.len(), known.unreadable), (0, 0));
    }

    #[test]
    fn a_burst_does_not_grow_beyond_the_bound() {
        let mut known = Known::default();
        let client = |number: usize| {
            let [.., a, b, c, d] = number.to_be_bytes();
            format!("10.{a}.{b}.{c}:{}", 1000 + u16::from(d))
        };
        for number in 0..CONNECTIONS + 500 {
            known.put(tuple(&client(number), SERVICE), tuple(POD, PROXY));
        }
        assert_eq!(known.connections.len(), CONNECTIONS);
        assert!(found(&known, &client(499), SERVICE).is_none());
        assert!(found(&known, &client(500), SERVICE).is_some());
    }

    #[test]
    fn a_loopback_address_counts_in_the_namespace_that_is_heard_only() {
        let (pod, lo) = (at(PROXY), at("127.0.0.1:41000"));
        let mapped = at("[::ffff:127.0.0.1]:80");
        for (of, ends, expected) in [
            (Some(7), [lo, mapped], true),
            (Some(8), [lo, at(SERVICE)], false),
            (Some(8), [pod, mapped], false),
            (None, [pod, at("[::1]:80")], false),
            (Some(8), [pod, at(SERVICE)], true),
            (None, [pod, at(SERVICE)], true),
        ] {
            assert_eq!(may_pass(7, of, ends), expected, "{of:?} {ends:?}");
        }
    }

    #[test]
    fn an_end_keeps_address_and_port() {
        for text in ["10.0.0.1:80", "[2001:db8::1]:65535", "0.0.0.0:0"] {
            assert_eq!(End::of(at(text)).address(), at(text));
        }
    }
}
