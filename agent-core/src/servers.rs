//! Who answers at which address.
//!
//! In: addresses that clients connected to, with the process that read or answered there. Out: the
//! owner of a request that nobody has answered yet: until then the kernel does not tell.

use std::collections::VecDeque;
use std::net::SocketAddr;

use rustc_hash::FxHashMap;

/// Addresses that are remembered, those seen last.
const ADDRESSES: usize = 4096;

/// Addresses of one process that are looked at.
const OF_ONE: usize = 16;

/// Processes by the address they answer at.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    owners: FxHashMap<SocketAddr, u32>,
    /// The addresses that each process has answered at, those it answered at first.
    addresses: FxHashMap<u32, Vec<SocketAddr>>,
    /// In the order in which they were first seen.
    order: VecDeque<SocketAddr>,
}

impl Servers {
    /// Process `tgid` has a client at `address`.
    pub(crate) fn saw(&mut self, address: SocketAddr, tgid: u32) {
        let before = self.owners.insert(address, tgid);
        if before == Some(tgid) {
            return;
        }
        let of_process = self.addresses.entry(tgid).or_default();
        if of_process.len() < OF_ONE && !of_process.contains(&address) {
            of_process.reserve_exact(1);
            of_process.push(address);
        }
        if before.is_some() {
            return;
        }
        self.order.push_back(address);
        if self.order.len() > ADDRESSES
            && let Some(first) = self.order.pop_front()
            && let Some(last_owner) = self.owners.remove(&first)
            && let Some(of_process) = self.addresses.get_mut(&last_owner)
        {
            of_process.retain(|one| *one != first);
        }
        // Processes come and go: those that answer put themselves down again.
        if self.addresses.len() > ADDRESSES {
            self.addresses.clear();
            self.owners.clear();
            self.order.clear();
        }
    }

    /// Where the process has answered.
    pub(crate) fn addresses(&self, tgid: u32) -> &[SocketAddr] {
        self.addresses.get(&tgid).map_or(&[], Vec::as_slice)
    }

    /// Who answered there last.
    pub(crate) fn owner(&self, address: SocketAddr) -> Option<u32> {
        self.owners.get(&address).copied()
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
            servers.saw(address(port), 1);
        }
        servers.saw(address(0), 2);

        assert_eq!(servers.owner(address(0)), Some(2));
        assert_eq!(servers.owner(address(1)), None);
        assert_eq!(servers.owner(address(ADDRESSES)), Some(1));
    }
}
