//! Every way in which an upstream, the path to it, the proxy or the client can fail.
//!
//! [`MODES`] lists them; a [`stage::Stage`] has the servers, sockets and namespaces they need;
//! [`play`] makes one happen at a running proxy; [`expected`] is what should come of it, and
//! [`observed`] what did.

pub mod expected;
mod modes;
pub mod observed;
pub mod play;
pub mod stage;

pub use modes::MODES;

/// One way to fail.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// What it is called, here and in tables.
    pub name: &'static str,
    /// In a few words, for a reader.
    pub what: &'static str,
    /// The group of the stage it happens at.
    pub group: &'static str,
    /// The words for the server: last segment of the path.
    pub words: &'static str,
    /// Bytes of body when it is a POST; a GET otherwise.
    pub post: Option<usize>,
    /// What precedes it.
    pub before: Before,
    /// The client leaves after so many milliseconds.
    pub leaves_after: Option<u64>,
    /// How many times it is asked; some requests of several meet the bad server.
    pub times: usize,
    /// Waits for timers: it is played beside others.
    pub slow: bool,
}

/// What precedes the request that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// A good request on the same connections.
    Served,
    /// As [`Before::Served`]; then the proxy is held still until the request and after it the
    /// upstream's FIN have arrived.
    Raced,
    /// As [`Before::Served`]; then the network swallows what goes to the upstream.
    Darkened,
    /// Failing requests, until the proxy gives all servers up.
    Failed,
    /// A slow request of another client, still running.
    Occupied,
}

impl Mode {
    /// The path of its request number `number` in run `run`.
    pub fn path(&self, run: &str, number: usize) -> String {
        let Self {
            name, group, words, ..
        } = self;
        format!("/{group}/{name}/{run}/{number}/{words}")
    }

    /// The mode whose request has this path, in any run.
    pub fn of_path(path: &str) -> Option<&'static Self> {
        let name = path.split('/').nth(2)?;
        MODES.iter().find(|mode| mode.name == name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::MODES;
    use crate::misbehave::behaviour::{ANY, Behaviour};

    #[test]
    fn modes_have_names_of_their_own_and_words_of_the_grammar() {
        let names: BTreeSet<_> = MODES.iter().map(|mode| mode.name).collect();
        assert_eq!(names.len(), MODES.len());
        for mode in MODES {
            if mode.words != ANY {
                let words = mode.words.parse::<Behaviour>();
                assert!(words.is_ok(), "{}: {words:?}", mode.name);
            }
        }
    }
}
