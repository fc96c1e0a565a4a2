//! Times that may not have been seen.

use std::fmt;

use super::Nanos;

/// A time that may not have been seen, in the room of one that was: there are seven in each exchange.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(from = "Option<Nanos>", into = "Option<Nanos>")
)]
pub struct Seen(Nanos);

impl Seen {
    /// As it is told: 0 for one that was not.
    pub const fn told(time: Nanos) -> Self {
        Self(time)
    }

    /// The time, if it was.
    pub const fn get(self) -> Option<Nanos> {
        match self.0 {
            0 => None,
            time => Some(time),
        }
    }
}

impl From<Option<Nanos>> for Seen {
    fn from(time: Option<Nanos>) -> Self {
        Self(time.unwrap_or(0))
    }
}

impl From<Seen> for Option<Nanos> {
    fn from(seen: Seen) -> Self {
        seen.get()
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(out)
    }
}
