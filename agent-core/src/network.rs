//! Which addresses mean the same place: an address is one of a network namespace.
//!
//! Loopback addresses are the same in every network namespace, so they count only within one. Where
//! the namespace is not known they say nothing. Every table that is keyed by addresses takes its
//! keys from here.

use std::net::SocketAddr;

/// Number of a network namespace, the inode of `/proc/PID/ns/net`.
pub type Network = u64;

/// Both ends of a connection, the server's first. The network is that of loopback addresses.
pub type Ends = (Option<Network>, SocketAddr, SocketAddr);

/// The ends of a connection between sockets of `network`; `None` if they do not tell it from
/// connections of other networks.
pub fn ends(network: Option<Network>, server: SocketAddr, client: SocketAddr) -> Option<Ends> {
    let (server, client) = (canonical(server), canonical(client));
    if server.ip().is_loopback() {
        return network.map(|network| (Some(network), server, client));
    }
    Some((None, server, client))
}

/// A server that listens on `[::]` has IPv4 clients at v4-mapped addresses (RFC 4291, 2.5.5.2).
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
