//! What the proxy itself counts: nginx's stub_status.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host::net;

const ANSWER: Duration = Duration::from_secs(5);

/// How long opening or closing of connections may take.
const CHANGE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// At one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// Connections of clients, this question's among them.
    pub(super) connections: u64,
    /// Requests so far, this question among them.
    pub(super) requests: u64,
}

impl Status {
    /// As it tells it on `address`.
    pub(super) fn now(address: SocketAddr) -> Result<Self> {
        let text = net::get(address, "/", ANSWER)?;
        Self::parse(&text).with_context(|| format!("stub_status is not as expected:\n{text}"))
    }

    /// Waits until it has as many connections as `wanted` says; `what` that is, for the error.
    pub(super) fn wait(
        address: SocketAddr,
        what: &str,
        wanted: impl Fn(u64) -> bool,
    ) -> Result<()> {
        let started = Instant::now();
        loop {
            let Self { connections, .. } = Self::now(address)?;
            if wanted(connections) {
                return Ok(());
            }
            if started.elapsed() > CHANGE {
                bail!("the proxy has {connections} connections, and never {what}");
            }
            thread::sleep(POLL);
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let connections = lines.next()?.strip_prefix("Active connections: ")?;
        lines.next()?;
        let requests = lines.next()?.split_whitespace().nth(2)?;
        Some(Self {
            connections: connections.trim().parse().ok()?,
            requests: requests.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_requests_are_read() {
        let text = "Active connections: 291 \nserver accepts handled requests\n 16630948 16630947 \
                    31070465 \nReading: 6 Writing: 179 Waiting: 106 \n";
        let status = Status {
            connections: 291,
            requests: 31_070_465,
        };
        assert_eq!(Status::parse(text), Some(status));
        assert_eq!(Status::parse("Active connections: x"), None);
    }
}
