//! Who answers at which address.
//!
//! In: addresses that clients connected to, with the process that read or answered there. Out: the
//! owner of a request that nobody has answered yet: until then the kernel does not tell.

use std::collections::VecDeque;
use std::net::SocketAddr;

use rustc_hash::FxHashMap;

/// Addresses that are remembered, those seen last.
const ADDRESSES: usize = 4096;

/// Processes by the address they answer at.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    owners: FxHashMap<SocketAddr, u32>,
    /// In the order in which they were first seen.
    order: VecDeque<SocketAddr>,
}

impl Servers {
    /// Process `tgid` has a client at `address`.
    pub(crate) fn saw(&mut self, address: SocketAddr, tgid: u32) {
        if self.owners.insert(address, tgid).is_some() {
            return;
        }
        self.order.push_back(address);
        if self.order.len() > ADDRESSES
            && let Some(first) = self.order.pop_front()
        {
            self.owners.remove(&first);
        }
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
