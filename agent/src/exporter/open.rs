//! `GET /api/v1/open`: what is under way, answered in JSON; `docs/api.md` describes it.

use hyper::StatusCode;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Service;
use super::incidents::{failed, json, refused, to_json};
use super::routes::{Answer, REFRESH_WAIT};
use crate::open::Question;
use crate::open::shape::OpenListing;

/// Answers for the query. The pipeline looks, and the answer is written off its thread.
pub(super) async fn answer(query: &str, service: &Service) -> Answer {
    let question = match Question::parse(query) {
        Ok(question) => question,
        Err(error) => return refused(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let Ok(Some(found)) = timeout(REFRESH_WAIT, service.pipeline.open(question)).await else {
        let words = "the agent is too busy, or about to stop: ask again";
        return refused(StatusCode::SERVICE_UNAVAILABLE, words.to_owned());
    };
    let made = spawn_blocking(move || -> anyhow::Result<Vec<u8>> {
        Ok(to_json(&OpenListing::new(found)?)?)
    });
    match made.await {
        Ok(Ok(body)) => json(StatusCode::OK, body),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error.into()),
    }
}
