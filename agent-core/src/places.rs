//! Where a request is listed, so that attempts find it: whose it is, what it waits for, and how its
//! request line hashes.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::SocketAddr;

use crate::address::Address;
use crate::observation::{Nanos, RequestHead};

/// Whose a request is, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    Process(u32),
    /// Of a process that answers at this address: nobody has read the request yet.
    Address(Address),
    /// Nobody has answered yet where it arrived.
    Nobody,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// Its first attempt, since it came.
    Fresh(Nanos),
    /// Another attempt, since the last one was over.
    Tried(Nanos),
    /// An explanation of its error, since that.
    Failed(Nanos),
}

/// Where a request is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) whose: Whose,
    pub(crate) waits: Waits,
}

/// An [`Owner`], in a request that knows its addresses itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Process(u32),
    Address,
    Nobody,
}

impl Whose {
    pub(crate) fn owner(self, server: SocketAddr) -> Owner {
        match self {
            Self::Process(tgid) => Owner::Process(tgid),
            Self::Address => Owner::Address(server.into()),
            Self::Nobody => Owner::Nobody,
        }
    }
}

/// A request's places in the lists by line and by end. Half a hash is enough: requests that collide are
/// distinguished when they are weighed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hashes {
    pub(crate) line: u32,
    pub(crate) end: u32,
}

impl Hashes {
    pub(crate) fn of(seed: &RandomState, head: &RequestHead) -> Self {
        let RequestHead { method, path, .. } = head;
        let end = path.rsplit('/').next().unwrap_or_default();
        Self {
            line: seed.hash_one((path, method)) as u32,
            end: seed.hash_one((end, method)) as u32,
        }
    }
}
