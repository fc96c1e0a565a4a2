//! Which process of this host is at the other end of a proxy's connection.
//!
//! In: each socket on which a process serves, with its process and network namespace. Out: the
//! process behind an upstream's address. A connection seen from both its ends proves it: both
//! have the same two addresses, if nothing translates them in between. What was proved once holds
//! for later connections from the same network namespace to the same address, as long as that
//! process lives: busy servers are not looked at all the time.
//!
//! Loopback addresses say nothing across network namespaces, so they count only within one.

use std::net::SocketAddr;

use agent_core::network::{Ends, Network, canonical, ends};

use super::bounded::Bounded;

/// Connections remembered. Fewer: of many that begin at once, and of which the other end says
/// nothing before the proxy's does, some prove no route. More: memory, about 300 bytes each.
const CONNECTIONS: usize = 4096;

/// Proved routes remembered; about 100 bytes each.
const ROUTES: usize = 4096;

/// Number of a network namespace.
pub type Netns = Network;

/// A process, and the network namespace its sockets are in, where that could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// Thread group.
    pub tgid: u32,
    /// When it started, ticks since boot: ids are used again.
    pub start: Option<u64>,
    /// Of the process; a socket made before it changed its namespace stays in the old one.
    pub netns: Option<Netns>,
}

/// Who serves whom on this host.
#[derive(Debug, Default)]
pub struct Neighbours {
    /// By the server's end, then the client's.
    servers: Bounded<Ends, Server>,
    /// By the client's network namespace, then the server's address.
    routes: Bounded<(Netns, SocketAddr), Party>,
}

#[derive(Clone, Copy, Debug)]
struct Server {
    cookie: u64,
    party: Party,
    /// Two sockets of different namespaces have these ends: which one it is is not known.
    disputed: bool,
}

impl Neighbours {
    /// A process serves on this socket: its own end, the client's.
    pub fn serves(&mut self, cookie: u64, local: SocketAddr, remote: SocketAddr, party: Party) {
        let key = ends(party.netns, local, remote);
        let (Some(key), true) = (key, cookie != 0) else {
            return;
        };
        let before = self.servers.get(&key);
        if before.is_some_and(|server| server.cookie == cookie && server.party == party) {
            return;
        }
        let disputed = before
            .is_some_and(|server| server.cookie != cookie && server.party.netns != party.netns);
        let server = Server {
            cookie,
            party,
            disputed,
        };
        self.servers.insert(key, server, CONNECTIONS);
    }

    /// The process at the other end of a connection of `client` from `local` to `remote`, where
    /// that was seen from there.
    pub fn meet(&mut self, client: Party, local: SocketAddr, remote: SocketAddr) -> Option<Party> {
        let key = ends(client.netns, remote, local)?;
        let server = self.servers.get(&key).filter(|server| !server.disputed)?;
        if let Some(netns) = client.netns {
            let route = (netns, canonical(remote));
            if self.routes.get(&route) != Some(server.party) {
                self.routes.insert(route, server.party, ROUTES);
            }
        }
        Some(server.party)
    }

    /// The process that an earlier connection of the same network namespace met at `remote`, or that was
    /// found to listen there. It may have ended since.
    pub fn met_before(&self, client: Party, remote: SocketAddr) -> Option<Party> {
        self.routes.get(&(client.netns?, canonical(remote)))
    }

    /// `server` holds the listener at `remote`, as seen from the network of `client`: who connects there meets
    /// it, until somebody else was met.
    pub fn found(&mut self, client: Party, remote: SocketAddr, server: Party) {
        if self.met_before(client, remote).is_none()
            && let Some(netns) = client.netns
        {
            self.routes
                .insert((netns, canonical(remote)), server, ROUTES);
        }
    }

    /// The process met at `remote` is there no more.
    pub fn forget(&mut self, client: Party, remote: SocketAddr) {
        if let Some(netns) = client.netns {
            self.routes.remove(&(netns, canonical(remote)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{CONNECTIONS, Neighbours, Party};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn party(tgid: u32, netns: u64) -> Party {
        Party {
            tgid,
            start: Some(1),
            netns: Some(netns),
        }
    }

    fn meet(
        neighbours: &mut Neighbours,
        client: (u32, u64),
        (local, remote): (SocketAddr, SocketAddr),
    ) -> Option<u32> {
        let found = neighbours.meet(party(client.0, client.1), local, remote);
        found.map(|party| party.tgid)
    }

    #[test]
    fn both_ends_of_a_connection_prove_who_serves_and_that_is_remembered() {
        let mut neighbours = Neighbours::default();
        let (app, one, other) = (
            at("10.88.0.3:80"),
            at("10.88.0.2:41000"),
            at("10.88.0.2:41001"),
        );
        neighbours.serves(7, app, one, party(300, 3));

        assert_eq!(meet(&mut neighbours, (200, 2), (one, app)), Some(300));
        // Another connection, which was not seen from its other end.
        assert_eq!(meet(&mut neighbours, (200, 2), (other, app)), None);
        let before = neighbours.met_before(party(201, 2), app);
        assert_eq!(before, Some(party(300, 3)));
        // From another network the same address may be someone else.
        assert_eq!(neighbours.met_before(party(900, 9), app), None);

        neighbours.forget(party(200, 2), app);

        assert_eq!(neighbours.met_before(party(200, 2), app), None);
    }

    #[test]
    fn who_listens_is_met_until_another_one_was() {
        let mut neighbours = Neighbours::default();
        let (app, client) = (at("10.88.0.3:80"), at("10.88.0.2:41000"));
        let proxy = party(200, 2);
        neighbours.found(proxy, app, party(300, 3));
        assert_eq!(neighbours.met_before(proxy, app), Some(party(300, 3)));
        assert_eq!(neighbours.met_before(party(201, 9), app), None);

        neighbours.serves(7, app, client, party(301, 3));
        assert_eq!(meet(&mut neighbours, (200, 2), (client, app)), Some(301));
        neighbours.found(proxy, app, party(300, 3));
        assert_eq!(neighbours.met_before(proxy, app), Some(party(301, 3)));
    }

    #[test]
    fn a_loopback_address_counts_within_its_own_namespace_only() {
        let mut neighbours = Neighbours::default();
        let (app, client) = (at("127.0.0.1:8080"), at("127.0.0.1:41000"));
        neighbours.serves(7, app, client, party(300, 3));
        neighbours.serves(8, app, client, party(400, 4));
        neighbours.serves(
            9,
            app,
            client,
            Party {
                netns: None,
                ..party(5, 5)
            },
        );

        assert_eq!(meet(&mut neighbours, (200, 3), (client, app)), Some(300));
        assert_eq!(meet(&mut neighbours, (200, 4), (client, app)), Some(400));
        assert_eq!(meet(&mut neighbours, (200, 6), (client, app)), None);
    }

    #[test]
    fn two_servers_with_the_same_ends_in_different_namespaces_are_neither() {
        let mut neighbours = Neighbours::default();
        let (app, client) = (at("10.88.0.3:80"), at("10.88.0.2:41000"));
        neighbours.serves(7, app, client, party(300, 3));
        neighbours.serves(8, app, client, party(400, 4));

        assert_eq!(meet(&mut neighbours, (200, 2), (client, app)), None);
    }

    #[test]
    fn ipv4_in_ipv6_clothes_is_ipv4() {
        let mut neighbours = Neighbours::default();
        let (app, client) = (at("[::ffff:10.88.0.3]:80"), at("[::ffff:10.88.0.2]:41000"));
        neighbours.serves(7, app, client, party(300, 3));
        let (app, client) = (at("10.88.0.3:80"), at("10.88.0.2:41000"));

        assert_eq!(meet(&mut neighbours, (200, 2), (client, app)), Some(300));
    }

    #[test]
    fn the_tables_are_bounded() {
        let mut neighbours = Neighbours::default();
        let app = at("10.88.0.3:80");
        for number in 0..CONNECTIONS + 100 {
            let [.., high, low] = number.to_be_bytes();
            let client = SocketAddr::from(([10, 1, high, low], 41000));
            neighbours.serves(number as u64 + 1, app, client, party(300, 3));
        }

        assert_eq!(neighbours.servers.len(), CONNECTIONS);
    }
}
