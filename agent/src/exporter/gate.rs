//! What is asked of a request before it is answered: no body, the right password, and for the
//! API that it is open.

use std::net::IpAddr;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Request, StatusCode};
use tokio::time::timeout;

use super::incidents::refused;
use super::routes::{Answer, PLAIN, bytes, with};
use super::web::{Rules, Verdict};
use super::{Opening, Service};
use crate::config::ApiAccess;

/// Of a body that nobody asked for so much is taken and thrown away, so that its sender reads
/// the answer; and so long.
const UNWANTED_BYTES: usize = 64 * 1024;
const UNWANTED_TIME: Duration = Duration::from_secs(1);

/// Paths that want no password: they tell nothing but that the agent lives, and who asks
/// (kubelet) has no password.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// What the API's paths begin with.
const API: &str = "/api/";

/// Every browser asks for these words to be there.
const CHALLENGE: &str = "Basic realm=\"why502\", charset=\"UTF-8\"";

/// The answer, when it is a refusal.
pub(super) async fn refusal(
    request: &mut Request<Incoming>,
    from: IpAddr,
    service: &Service,
    rules: &Rules,
) -> Option<Answer> {
    if !request.body().is_end_stream() {
        throw_away(request.body_mut()).await;
        return Some(text(
            StatusCode::PAYLOAD_TOO_LARGE,
            "a request has no body here\n",
        ));
    }
    let path = request.uri().path();
    if !OPEN.contains(&path) {
        let authorization = request.headers().get(AUTHORIZATION);
        let authorization = authorization.map(|value| value.as_bytes());
        match rules.users.judge(from, authorization).await {
            Verdict::Welcome => {}
            Verdict::Wrong => {
                let answer = text(
                    StatusCode::UNAUTHORIZED,
                    "a user name and its password are wanted here (basic_auth_users of the web configuration)\n",
                );
                return Some(with(answer, WWW_AUTHENTICATE, CHALLENGE));
            }
            Verdict::Busy => {
                let answer = text(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too many wrong passwords are being tried; ask again\n",
                );
                return Some(with(answer, RETRY_AFTER, "5"));
            }
        }
    }
    if path.starts_with(API)
        && let Some(why) = why_closed(&service.opening, rules)
    {
        return Some(refused(StatusCode::FORBIDDEN, why.to_owned()));
    }
    None
}

/// Why the API is not for who asks, if it is not.
fn why_closed(opening: &Opening, rules: &Rules) -> Option<&'static str> {
    let Opening { api, is_loopback } = opening;
    match api {
        ApiAccess::On => None,
        ApiAccess::Off => Some("the API is switched off here: setting api = \"off\", flag --api"),
        ApiAccess::Auto
            if *is_loopback || !rules.users.is_empty() || rules.clients_are_verified =>
        {
            None
        }
        ApiAccess::Auto => Some(
            "the API tells paths and addresses of requests, so it is off where others than this host can ask: \
             give the agent passwords or ask for client certificates (--web-config-file), or open it with --api on",
        ),
    }
}

async fn throw_away(body: &mut Incoming) {
    let taking = async {
        let mut taken = 0;
        while taken < UNWANTED_BYTES
            && let Some(Ok(frame)) = body.frame().await
        {
            taken += frame.data_ref().map_or(0, |data| data.len());
        }
    };
    // Who sends slowly does not read the answer either.
    let _ = timeout(UNWANTED_TIME, taking).await;
}

pub(super) fn text(status: StatusCode, words: &'static str) -> Answer {
    with(bytes(status, words), CONTENT_TYPE, PLAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_is_for_this_host_unless_someone_says_otherwise() {
        let is_open = |api, is_loopback, clients_are_verified| {
            let rules = Rules {
                clients_are_verified,
                ..Rules::default()
            };
            why_closed(&Opening { api, is_loopback }, &rules).is_none()
        };
        assert!(is_open(ApiAccess::Auto, true, false));
        assert!(!is_open(ApiAccess::Auto, false, false));
        assert!(is_open(ApiAccess::Auto, false, true));
        assert!(is_open(ApiAccess::On, false, false));
        assert!(!is_open(ApiAccess::Off, true, true));
    }
}
