//! `GET /api/v1/incidents` and `GET /api/v1/incidents/{id}`: questions about the store,
//! answered in JSON; `docs/api.md` describes them.

use agent_core::UnreadClients;
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use jiff::Timestamp;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::Service;
use super::routes::{Answer, bytes, catch_up, with};
use crate::incidents::filter::Filter;
use crate::incidents::shape::{Listing, Refusal, Single};
use crate::incidents::{Id, Incidents};

/// Answers for what follows `/api/v1/incidents` in the path, and the query.
pub(super) async fn answer(rest: &str, query: &str, service: &Service) -> Answer {
    catch_up(service).await;
    let incidents = service.incidents.clone();
    match rest.strip_prefix('/') {
        None => match Filter::parse(query, Timestamp::now()) {
            Ok(filter) => {
                let unread = service.report.get().coverage.unread_clients;
                list(incidents, filter, unread).await
            }
            Err(error) => refused(StatusCode::BAD_REQUEST, error.to_string()),
        },
        Some(id) => match id.parse() {
            Ok(id) => one(&incidents, id),
            Err(_) => refused(
                StatusCode::BAD_REQUEST,
                format!("`{id}` is no incident: write a number, as in /api/v1/incidents/17"),
            ),
        },
    }
}

/// Off the pipeline's thread: it can be a thousand incidents.
async fn list(incidents: Incidents, filter: Filter, unread: UnreadClients) -> Answer {
    let made = spawn_blocking(move || -> anyhow::Result<Vec<u8>> {
        Ok(to_json(&Listing::new(incidents.find(&filter), unread)?)?)
    });
    match made.await {
        Ok(Ok(body)) => json(StatusCode::OK, body),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error.into()),
    }
}

fn one(incidents: &Incidents, id: Id) -> Answer {
    let Some(kept) = incidents.get(id) else {
        let counts = incidents.counts();
        let words = if (1..=counts.evicted).contains(&id) {
            format!(
                "incident {id} is gone: newer ones took its place, and the last {} are kept (setting incidents)",
                counts.kept
            )
        } else if counts.stored == 0 {
            format!("there is no incident {id}: there was none since the agent started")
        } else {
            format!("there is no incident {id}: the newest is {}", counts.stored)
        };
        return refused(StatusCode::NOT_FOUND, words);
    };
    match to_json(&Single::new(&kept)) {
        Ok(body) => json(StatusCode::OK, body),
        Err(error) => failed(&error.into()),
    }
}

pub(super) fn refused(status: StatusCode, words: String) -> Answer {
    match to_json(&Refusal::new(words)) {
        Ok(body) => json(status, body),
        Err(error) => failed(&error.into()),
    }
}

pub(super) fn failed(error: &anyhow::Error) -> Answer {
    tracing::error!(%error, "an answer of the API could not be written");
    let body = b"{\"v\":1,\"error\":\"the answer could not be written; see the agent's log\"}\n";
    json(StatusCode::INTERNAL_SERVER_ERROR, body.to_vec())
}

pub(super) fn to_json(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut body = serde_json::to_vec(value)?;
    body.push(b'\n');
    Ok(body)
}

pub(super) fn json(status: StatusCode, body: Vec<u8>) -> Answer {
    with(bytes(status, body), CONTENT_TYPE, "application/json")
}
