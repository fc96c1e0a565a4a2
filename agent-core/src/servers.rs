//! Who answers at which address.
//!
//! In: addresses that clients connected to, with the process that read or answered there. Out: the
//! owner of a request that nobody has answered yet: until then the kernel does not say which process
//! that is, nor in which network namespace it is.

use std::net::SocketAddr;

use rustc_hash::FxHashMap;

use crate::network::{Network, canonical};
use crate::recent::Recent;

/// Addresses that are remembered, those first seen last.
const ADDRESSES: usize = 4096;

/// Addresses of one process that are looked at.
const OF_ONE: usize = 16;

/// Processes by the address they answer at.
#[derive(Debug)]
pub(crate) struct Servers {
    owners: Recent<SocketAddr, Owner>,
    /// The addresses that each process has answered at, those it answered at first. An owner that made
    /// room is still there.
    addresses: FxHashMap<u32, Vec<SocketAddr>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Process {
        tgid: u32,
        network: Option<Network>,
    },
    /// Processes of several network namespaces answer at this loopback address, or of some that are
    /// not known: whose connection it is the address does not say.
    Several,
}

impl Default for Servers {
    fn default() -> Self {
        Self {
            owners: Recent::new(ADDRESSES),
            addresses: FxHashMap::default(),
        }
    }
}

impl Servers {
    /// Process `tgid` of `network` has a client at `address`.
    pub(crate) fn saw(&mut self, address: SocketAddr, tgid: u32, network: Option<Network>) {
        let key = canonical(address);
        let process = Owner::Process { tgid, network };
        let before = self.owners.get(&key).copied();
        let owner = match (before, network) {
            _ if !key.ip().is_loopback() => process,
            (_, None) => Owner::Several,
            (None, Some(_)) => process,
            (
                Some(Owner::Process {
                    network: before, ..
                }),
                Some(_),
            ) if before == network => process,
            (Some(_), Some(_)) => Owner::Several,
        };
        if before == Some(owner) && owner == process {
            return;
        }
        self.owners.insert(key, owner);
        let of_process = self.addresses.entry(tgid).or_default();
        if of_process.len() < OF_ONE && !of_process.contains(&address) {
            of_process.reserve_exact(1);
            of_process.push(address);
        }
        // Processes come and go: those that answer put themselves down again.
        if self.addresses.len() > ADDRESSES {
            *self = Self::default();
        }
    }

    /// Where the process has answered.
    pub(crate) fn addresses(&self, tgid: u32) -> &[SocketAddr] {
        self.addresses.get(&tgid).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn len(&self) -> usize {
        self.owners.len()
    }

    pub(crate) fn forgotten(&self) -> u64 {
        self.owners.forgotten()
    }

    /// Who answered there last.
    pub(crate) fn owner(&self, address: SocketAddr) -> Option<u32> {
        match self.owners.get(&canonical(address))? {
            Owner::Process { tgid, .. } => Some(*tgid),
            Owner::Several => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_to_answer_owns_an_address_and_there_is_a_bound() {
        let mut servers = Servers::default();
        let address = |port: usize| SocketAddr::from(([127, 0, 0, 1], port as u16));
        for port in 0..=ADDRESSES {
            servers.saw(address(port), 1, Some(1));
        }
        servers.saw(address(0), 2, Some(1));

        assert_eq!(servers.owner(address(0)), Some(2));
        assert_eq!(servers.owner(address(1)), None);
        assert_eq!(servers.owner(address(ADDRESSES)), Some(1));
    }

    #[test]
    fn a_loopback_address_of_two_networks_has_no_owner() {
        let mut servers = Servers::default();
        let loopback = SocketAddr::from(([127, 0, 0, 1], 15001));
        let other = SocketAddr::from(([10, 0, 0, 1], 15001));
        for address in [loopback, other] {
            servers.saw(address, 1, Some(1));
            assert_eq!(servers.owner(address), Some(1));
            servers.saw(address, 2, Some(2));
        }

        assert_eq!(servers.owner(loopback), None);
        assert_eq!(servers.owner(other), Some(2));

        servers.saw(loopback, 1, Some(1));
        assert_eq!(servers.owner(loopback), None);
    }

    #[test]
    fn a_loopback_address_of_an_unknown_network_has_no_owner() {
        let mut servers = Servers::default();
        let loopback = SocketAddr::from(([127, 0, 0, 1], 15001));
        servers.saw(loopback, 1, None);

        assert_eq!(servers.owner(loopback), None);
    }
}
