//! Questions to a running agent over HTTP.
//!
//! In: its address and a path. Out: its answer, or one sentence about why there is none.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long to wait for the agent to take the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for a whole answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest answer taken, bytes: the agent's own bound is far below.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Asks; the answer's body is still to come.
///
/// # Errors
/// Nobody listens there, or it is no HTTP server.
pub(super) async fn ask(agent: SocketAddr, target: &str) -> anyhow::Result<Response<Incoming>> {
    let connection = timeout(CONNECT_TIMEOUT, TcpStream::connect(agent))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let connection = connection.map_err(|error| {
        anyhow!("no agent answers at {agent} ({error}): start one with `sudo why502 run`, or name its address with --agent")
    })?;
    let (mut sender, conversation) = http1::handshake(TokioIo::new(connection))
        .await
        .with_context(|| format!("{agent} does not speak HTTP"))?;
    tokio::spawn(conversation);
    let request = Request::get(target)
        .header(HOST, agent.to_string())
        .body(Empty::<Bytes>::new())?;
    sender
        .send_request(request)
        .await
        .with_context(|| format!("what listens at {agent} is no why502 agent"))
}

/// Asks, and takes the whole answer.
///
/// # Errors
/// As [`ask`], or the answer does not end.
pub(super) async fn get(agent: SocketAddr, target: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let whole = async {
        let answer = ask(agent, target).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES);
        match body.collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) => bail!("the answer of {agent} broke off: {error}"),
        }
    };
    timeout(ANSWER_TIMEOUT, whole).await.unwrap_or_else(|_| {
        bail!(
            "what listens at {agent} does not answer within {} s",
            ANSWER_TIMEOUT.as_secs()
        )
    })
}

/// What to say about an answer nobody expected.
pub(super) fn stranger(agent: SocketAddr, status: StatusCode) -> anyhow::Error {
    anyhow!("what listens at {agent} answered {status}: it is no why502 agent, or an older one")
}
