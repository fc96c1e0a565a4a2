//! Who answers at which address.
//!
//! In: addresses that clients connected to, with the process that read or answered there. Out: the
//! owner of a request that nobody has answered yet: until then the kernel does not say which process
//! that is, nor in which network namespace it is.

use std::net::SocketAddr;

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
    /// room is still there. Processes come and go: the first of them make room for others.
    addresses: Recent<u32, Vec<SocketAddr>>,
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
            addresses: Recent::new(ADDRESSES),
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
        let is_known = self.addresses.get(&tgid).is_some();
        if before == Some(owner) && owner == process && is_known {
            return;
        }
        self.owners.insert(key, owner);
        match self.addresses.get_mut(&tgid) {
            Some(of_process) if of_process.len() >= OF_ONE || of_process.contains(&address) => {}
            Some(of_process) => {
                of_process.reserve_exact(1);
                of_process.push(address);
            }
            None => self.addresses.insert(tgid, vec![address]),
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
        self.owners.forgotten() + self.addresses.forgotten()
    }

    /// Somebody has answered there.
    pub(crate) fn is_known(&self, address: SocketAddr) -> bool {
        self.owners.get(&canonical(address)).is_some()
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
    fn a_process_that_made_room_for_others_is_there_again_when_it_answers() {
        let mut servers = Servers::default();
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        servers.saw(address, 1, Some(1));
        for tgid in 2..ADDRESSES as u32 + 2 {
            let other = SocketAddr::from(([10, 0, 0, 2], (tgid % 100) as u16));
            servers.saw(other, tgid, Some(1));
        }
        assert!(servers.addresses(1).is_empty());
        assert_eq!(servers.forgotten(), 1);

        servers.saw(address, 1, Some(1));

        assert_eq!(servers.addresses(1), [address]);
        assert_eq!(servers.forgotten(), 2);
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
