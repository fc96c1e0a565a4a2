//! [`Flags`] as a list of names, so that a recording outlives a change of the wire's bits.

use agent_wire::record::flag;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Flags;

/// Every bit and its name. All 16 are taken: a bit that is not here would be lost.
const NAMES: [(u16, &str); 16] = [
    (flag::SEEN_OPEN, "seen_open"),
    (flag::ACTIVE_OPEN, "active_open"),
    (flag::PEER_FIN, "peer_fin"),
    (flag::LOCAL_FIN, "local_fin"),
    (flag::PEER_RESET, "peer_reset"),
    (flag::LOCAL_RESET, "local_reset"),
    (flag::RESET_HAD_ACK, "reset_had_ack"),
    (flag::SOFT_ERROR, "soft_error"),
    (flag::PEER_ANSWERS, "peer_answers"),
    (flag::HEAD_CUT, "head_cut"),
    (flag::NOT_HTTP, "not_http"),
    (flag::PIPELINED, "pipelined"),
    (flag::NO_REQUEST, "no_request"),
    (flag::OWN_ERRAND, "own_errand"),
    (flag::ZERO_WINDOW, "zero_window"),
    (flag::BAD_CHUNK, "bad_chunk"),
];

impl Serialize for Flags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let set = NAMES.iter().filter(|(bit, _)| self.has(*bit));
        serializer.collect_seq(set.map(|(_, name)| name))
    }
}

impl<'de> Deserialize<'de> for Flags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut flags = Self::default();
        for given in Vec::<String>::deserialize(deserializer)? {
            let found = NAMES.iter().find(|(_, name)| *name == given);
            let (bit, _) = found.ok_or_else(|| D::Error::custom(format!("no flag {given}")))?;
            flags.0 |= bit;
        }
        Ok(flags)
    }
}

const _: () = {
    let mut all = 0;
    let mut at = 0;
    while at < NAMES.len() {
        all |= NAMES[at].0;
        at += 1;
    }
    assert!(all == u16::MAX, "a flag has no name");
};
