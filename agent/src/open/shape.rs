//! The JSON shape of what is under way, version 1 as that of events.

use std::time::Duration;

use agent_core::Used;
use agent_core::observation::Nanos;
use agent_core::open::{Asker, Open, OpenAttempt, OpenList};
use serde::{Deserialize, Serialize};

use super::Found;
use crate::clock::WallClock;
use crate::events::shape::{HeadShape, PlaceShape, ProxyShape, VERSION, rfc3339, word};
use crate::identity::{Peer, Whereabouts};
use crate::incidents::shape::{Size, UnreadClientsShape};
use crate::names;

/// Bytes of an answer's entries at most; those beyond are left out, the youngest first. As of incidents.
const MAX_BYTES: usize = 4 << 20;

/// What is under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenListing {
    /// [`VERSION`].
    pub v: u8,
    /// How many fit the question.
    pub matched: u64,
    /// Some of these are left out: they are beyond the limit, or the answer would be too long.
    pub truncated: bool,
    /// How many requests were forgotten, in this run of the agent, because nothing was seen of them for
    /// an hour: they may be under way all the same.
    pub swept: u64,
    /// What is not known.
    pub unread_clients: UnreadClientsShape,
    /// Oldest first.
    pub open: Vec<OpenShape>,
}

/// A request under way, or an attempt without one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenShape {
    /// First request byte, or the start of the attempt.
    pub time: String,
    /// How long ago that was.
    pub seconds: f64,
    /// Who has it.
    pub proxy: ProxyShape,
    /// `open`; of an attempt without a request under way `over`, or `unknown`.
    pub request: String,
    /// Who asked; null without a request.
    pub client: Option<String>,
    /// Method.
    pub method: Option<String>,
    /// Path, without its query.
    pub path: Option<String>,
    /// Host.
    pub host: Option<String>,
    /// `x-request-id` or like it.
    pub request_id: Option<String>,
    /// W3C trace id.
    pub trace_id: Option<String>,
    /// Status that the answer to the client began with; null when that was not seen.
    pub code: Option<u16>,
    /// Cookie of the client's socket; null without a request.
    pub cookie: Option<u64>,
    /// Number of the request on it.
    pub index: Option<u32>,
    /// Upstream of the last attempt under way; null when none is known.
    pub upstream: Option<String>,
    /// Where no attempt is known: the proxy uses connections that are not read, and it is not known for
    /// whom.
    pub may_be_unread: bool,
    /// Where these go, if all go to one upstream.
    pub may_be_at: Option<String>,
    /// Attempts of it that are over.
    pub earlier_attempts: u64,
    /// Attempts under way, in order of start.
    pub attempts: Vec<OpenAttemptShape>,
}

/// An attempt under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenAttemptShape {
    /// Whom.
    pub upstream: String,
    /// The address that the kernel put in its place, by its connection tracking.
    pub endpoint: Option<String>,
    /// Who the cluster says has that, else the upstream's.
    pub peer: PlaceShape,
    /// How it was joined to its request.
    pub join: String,
    /// How sure it is that it was made for this request; null when its request is not known.
    pub join_certainty: Option<String>,
    /// Its start.
    pub started: String,
    /// How long ago that was.
    pub seconds: f64,
    /// Its connection is read; if not, the attempt may be over.
    pub read: bool,
    /// A part of the answer has arrived; false if the connection is not read.
    pub answering: bool,
    /// Cookie of the upstream socket.
    pub cookie: u64,
    /// Number of the exchange on it.
    pub index: u32,
}

/// The moment of an answer.
#[derive(Clone, Copy, Debug)]
struct Moment {
    now: Nanos,
    clock: WallClock,
}

impl OpenListing {
    /// What was found, as far as it fits an answer.
    ///
    /// # Errors
    /// None in practice: every shape has a JSON form.
    pub fn new(found: Found) -> Result<Self, serde_json::Error> {
        Self::within(found, MAX_BYTES)
    }

    fn within(found: Found, max_bytes: usize) -> Result<Self, serde_json::Error> {
        let Found {
            list,
            whereabouts,
            now,
            clock,
            unread_clients,
            swept,
        } = found;
        let OpenList {
            open: entries,
            matched,
            looked_at: _,
        } = list;
        let moment = Moment { now, clock };
        let mut open = Vec::new();
        let mut size = Size::default();
        for (one, whereabouts) in entries.iter().zip(&whereabouts) {
            let shape = OpenShape::new(one, whereabouts, moment);
            serde_json::to_writer(&mut size, &shape)?;
            if size.bytes() > max_bytes {
                break;
            }
            open.push(shape);
        }
        Ok(Self {
            v: VERSION,
            matched: u64::try_from(matched).unwrap_or(u64::MAX),
            truncated: open.len() < matched,
            swept,
            unread_clients: unread_clients.into(),
            open,
        })
    }
}

impl OpenShape {
    fn new(open: &Open, whereabouts: &Whereabouts, moment: Moment) -> Self {
        let Open {
            proxy,
            asker,
            head,
            started,
            code,
            attempts,
            earlier,
            elsewhere,
        } = open;
        let HeadShape {
            method,
            path,
            host,
            request_id,
            trace_id,
        } = HeadShape::new(head.as_ref());
        let (request, client, socket) = match asker {
            Asker::Client {
                client,
                cookie,
                index,
            } => ("open", Some(client.to_string()), Some((*cookie, *index))),
            Asker::Over => ("over", None, None),
            Asker::Unknown => ("unknown", None, None),
        };
        let may_be_at = match elsewhere {
            Used::Only(upstream) => Some(names::address(upstream)),
            Used::Nothing | Used::Some => None,
        };
        Self {
            time: rfc3339(*started, &moment.clock),
            seconds: moment.since(*started),
            proxy: ProxyShape::new(proxy, &whereabouts.proxy),
            request: request.to_owned(),
            client,
            method,
            path,
            host,
            request_id,
            trace_id,
            code: *code,
            cookie: socket.map(|(cookie, _)| cookie),
            index: socket.map(|(_, index)| index),
            upstream: attempts.last().map(|last| names::address(&last.upstream)),
            may_be_unread: *elsewhere != Used::Nothing,
            may_be_at,
            earlier_attempts: u64::try_from(*earlier).unwrap_or(u64::MAX),
            attempts: attempts
                .iter()
                .enumerate()
                .map(|(at, one)| OpenAttemptShape::new(one, whereabouts.upstream(at), moment))
                .collect(),
        }
    }
}

impl OpenAttemptShape {
    fn new(attempt: &OpenAttempt, peer: Peer, moment: Moment) -> Self {
        let OpenAttempt {
            upstream,
            local: _,
            cookie,
            index,
            join,
            join_certainty,
            started,
            is_read,
            is_answering,
        } = attempt;
        Self {
            upstream: names::address(upstream),
            endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
            peer: PlaceShape::new(&peer.place),
            join: word(*join),
            join_certainty: join_certainty.map(word),
            started: rfc3339(*started, &moment.clock),
            seconds: moment.since(*started),
            read: *is_read,
            answering: *is_answering,
            cookie: *cookie,
            index: *index,
        }
    }
}

impl Moment {
    fn since(self, started: Nanos) -> f64 {
        Duration::from_nanos(self.now.saturating_sub(started)).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::OpenListing;
    use crate::open::samples::{found, found_these, hanging, without_attempt};
    use agent_core::Used;
    use agent_core::open::Asker;

    #[test]
    fn a_request_under_way_has_this_shape() {
        let listing = OpenListing::new(found_these(vec![hanging()], 1)).unwrap();

        let nowhere = json!({"container": null, "namespace": null, "workload": null, "pod": null, "service": null});
        let mut proxy = nowhere.clone();
        proxy["name"] = json!("nginx");
        proxy["pid"] = json!(4242);
        let expected = json!({
            "v": 1,
            "matched": 1,
            "truncated": false,
            "swept": 0,
            "unread_clients": {"tls": 0, "http2": 0, "other": 0, "before_agent": 0},
            "open": [{
                "time": "1970-01-01T00:00:10.000000Z",
                "seconds": 90.0,
                "proxy": proxy,
                "request": "open",
                "client": "192.0.2.9:51000",
                "method": "GET",
                "path": "/slow",
                "host": "shop.example",
                "request_id": "r-1",
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                "code": null,
                "cookie": 66,
                "index": 2,
                "upstream": "10.0.3.17:8080",
                "may_be_unread": false,
                "may_be_at": null,
                "earlier_attempts": 0,
                "attempts": [{
                    "upstream": "10.0.3.17:8080",
                    "endpoint": null,
                    "peer": nowhere,
                    "join": "errand",
                    "join_certainty": "proof",
                    "started": "1970-01-01T00:00:10.500000Z",
                    "seconds": 89.5,
                    "read": true,
                    "answering": false,
                    "cookie": 77,
                    "index": 0
                }]
            }]
        });
        assert_eq!(serde_json::to_value(&listing).unwrap(), expected);
        let text = serde_json::to_vec(&listing).unwrap();
        assert_eq!(
            serde_json::from_slice::<OpenListing>(&text).unwrap(),
            listing
        );
    }

    #[test]
    fn what_is_not_known_is_said() {
        let mut elsewhere = without_attempt();
        elsewhere.elsewhere = Used::Only(crate::samples::upstream("10.0.3.17:9000"));
        let mut lone = hanging();
        lone.asker = Asker::Unknown;
        lone.attempts[0].join_certainty = None;
        let all = vec![without_attempt(), elsewhere, lone];

        let listing = OpenListing::new(found_these(all, 3)).unwrap();

        let [without, elsewhere, lone] = &listing.open[..] else {
            panic!("{listing:#?}");
        };
        assert_eq!((&without.upstream, without.may_be_unread), (&None, false));
        assert!(elsewhere.may_be_unread);
        assert_eq!(elsewhere.may_be_at.as_deref(), Some("10.0.3.17:9000"));
        assert_eq!((lone.request.as_str(), &lone.client), ("unknown", &None));
        assert_eq!((lone.cookie, lone.index), (None, None));
    }

    #[test]
    fn an_answer_that_would_be_too_long_leaves_the_youngest_out_and_says_so() {
        let whole = OpenListing::new(found(5)).unwrap();
        let one = serde_json::to_vec(&whole.open[0]).unwrap().len();

        let cut = OpenListing::within(found(5), 3 * one).unwrap();

        assert_eq!((cut.open.len(), cut.matched), (3, 6));
        assert!(cut.truncated);
    }

    #[test]
    fn every_field_is_documented() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
        let page = std::fs::read_to_string(page).unwrap();
        let section = page.split("## GET /api/v1/open").nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let listing = serde_json::to_value(OpenListing::new(found(1)).unwrap()).unwrap();

        let named = |value: &Value| {
            let fields = value.as_object().unwrap().keys();
            for name in fields.filter(|name| *name != "v") {
                assert!(
                    section.contains(&format!("`{name}`")),
                    "docs/api.md does not say what `{name}` is"
                );
            }
        };
        named(&listing);
        named(&listing["open"][0]);
        named(&listing["open"][0]["attempts"][0]);
    }
}
