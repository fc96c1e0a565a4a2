//! The JSON shape of answers about incidents, version 1 as that of events. An incident is a
//! request as the event stream tells it, with its number.

use std::io;

use agent_core::UnreadClients;
use serde::{Deserialize, Serialize};

use super::{Found, Kept};
use crate::events::shape::{RequestShape, VERSION};

/// Bytes of an answer's incidents at most; those beyond are left out, the oldest first.
/// Smaller: `why502 explain` has to ask again. Larger: whoever reaches the port can have
/// the agent make as much, for each connection.
const MAX_BYTES: usize = 4 << 20;

/// Several incidents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// [`VERSION`].
    pub v: u8,
    /// How many kept incidents fit the question.
    pub matched: u64,
    /// Some of these are left out: they are beyond the limit, or the answer would be too long.
    pub truncated: bool,
    /// How many incidents are kept.
    pub kept: u64,
    /// How many there were in this run of the agent.
    pub stored: u64,
    /// Of these, pushed out by newer ones.
    pub evicted: u64,
    /// What is not known.
    #[serde(default)]
    pub unread_clients: UnreadClientsShape,
    /// Newest first.
    pub incidents: Vec<RequestShape>,
}

/// Clients' connections that are not read: what was answered on them is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadClientsShape {
    /// TLS.
    pub tls: u64,
    /// HTTP/2 in clear text.
    pub http2: u64,
    /// Something else than HTTP.
    pub other: u64,
    /// They were open before the agent started, opened by the proxy or by a client.
    pub before_agent: u64,
}

impl From<UnreadClients> for UnreadClientsShape {
    fn from(clients: UnreadClients) -> Self {
        let UnreadClients {
            tls,
            http2,
            other,
            before_agent,
        } = clients;
        Self {
            tls,
            http2,
            other,
            before_agent,
        }
    }
}

/// One incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Single {
    /// [`VERSION`].
    pub v: u8,
    /// It.
    pub incident: RequestShape,
}

/// A question that has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// [`VERSION`].
    pub v: u8,
    /// One sentence: what is wrong, and what would do.
    pub error: String,
}

impl Listing {
    /// What was found, as far as it fits an answer.
    ///
    /// # Errors
    /// None in practice: every shape has a JSON form.
    pub fn new(found: Found, unread: UnreadClients) -> Result<Self, serde_json::Error> {
        Self::within(found, unread, MAX_BYTES)
    }

    fn within(
        found: Found,
        unread: UnreadClients,
        max_bytes: usize,
    ) -> Result<Self, serde_json::Error> {
        let Found {
            incidents: kept,
            matched,
            counts,
        } = found;
        let mut incidents = Vec::new();
        let mut size = Size::default();
        for one in &kept {
            let shape = one.shape();
            serde_json::to_writer(&mut size, &shape)?;
            if size.bytes() > max_bytes {
                break;
            }
            incidents.push(shape);
        }
        Ok(Self {
            v: VERSION,
            truncated: incidents.len() < matched,
            matched: u64::try_from(matched).unwrap_or(u64::MAX),
            kept: counts.kept,
            stored: counts.stored,
            evicted: counts.evicted,
            unread_clients: unread.into(),
            incidents,
        })
    }
}

impl Single {
    /// One as it is told.
    pub fn new(kept: &Kept) -> Self {
        Self {
            v: VERSION,
            incident: kept.shape(),
        }
    }
}

impl Refusal {
    /// Says what is wrong.
    pub fn new(error: String) -> Self {
        Self { v: VERSION, error }
    }
}

/// Counts what is written.
#[derive(Debug, Default)]
pub(crate) struct Size(usize);

impl Size {
    pub(crate) fn bytes(&self) -> usize {
        self.0
    }
}

impl io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use agent_core::UnreadClients;
    use std::sync::Arc;

    use serde_json::Value;

    use super::Listing;
    use crate::config::Settings;
    use crate::events::teller::Teller;
    use crate::identity::Whereabouts;
    use crate::incidents::Incidents;
    use crate::incidents::filter::Filter;
    use crate::samples::{failed_attempt, request};

    #[test]
    fn every_field_is_documented() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
        let page = std::fs::read_to_string(page).unwrap();
        let store = Incidents::new(&Settings::default());
        let request = Arc::new(request(Some(502), vec![failed_attempt()]));
        store.keep(&request, Whereabouts::default(), &Teller::fixed(0));
        let listing =
            Listing::new(store.find(&Filter::default()), UnreadClients::default()).unwrap();

        let mut left = vec![serde_json::to_value(listing).unwrap()];
        while let Some(value) = left.pop() {
            match value {
                Value::Array(values) => left.extend(values),
                Value::Object(fields) => {
                    for (name, value) in fields.into_iter().filter(|(name, _)| name != "v") {
                        assert!(
                            page.contains(&format!("`{name}`")),
                            "docs/api.md does not say what `{name}` is"
                        );
                        left.push(value);
                    }
                }
                _ => {}
            }
        }
    }

    #[test]
    fn an_answer_that_would_be_too_long_leaves_the_oldest_out_and_says_so() {
        let store = Incidents::new(&Settings::default());
        for _ in 0..5 {
            let request = Arc::new(request(Some(502), vec![failed_attempt()]));
            store.keep(&request, Whereabouts::default(), &Teller::fixed(0));
        }
        let whole = Listing::new(store.find(&Filter::default()), UnreadClients::default()).unwrap();
        let one = serde_json::to_vec(&whole.incidents[0]).unwrap().len();

        let cut = Listing::within(
            store.find(&Filter::default()),
            UnreadClients::default(),
            3 * one,
        )
        .unwrap();

        assert!(!whole.truncated);
        assert_eq!(whole.incidents.len(), 5);
        assert!(cut.truncated);
        assert_eq!((cut.incidents.len(), cut.matched), (3, 5));
        assert_eq!(cut.incidents[0].id, Some(5));
    }
}
