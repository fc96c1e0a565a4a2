//! `why502 tail`: follows the event stream of a running agent.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use jiff::tz::TimeZone;
use tokio::time::timeout;

use super::client::{self, Whom};
use crate::events::human;
use crate::events::shape::Envelope;

/// Without a line for so long the agent is gone: it says that it is alive every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// Longest line taken, bytes: an event with all its attempts is far below.
const MAX_LINE_BYTES: usize = 1 << 20;

/// What `--help` says first.
pub(super) const LONG_ABOUT: &str = "\
Follow failed requests as they happen.

Shown are gateway errors (a 5xx, or a connection closed instead of an answer), requests that \
succeeded although an attempt failed (masked), and failed attempts whose request is not known. \
--all shows every request. The #17 on the left is for `why502 explain 17`. Needs no rights: it reads the event stream of a running agent.";

/// What `--help` says last.
pub(super) const EXAMPLES: &str = "\
Examples:
  why502 tail
  why502 tail --all
  why502 tail --json | jq 'select(.cause == \"keepalive_race\")'
  why502 tail --agent 10.0.0.7:9502";

/// Flags of `tail`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    whom: Whom,
    /// Show every request, not only the failed ones
    #[arg(long)]
    all: bool,
    /// Print the events as JSON, one a line
    #[arg(long)]
    json: bool,
}

/// Follows until the agent stops or the reader of the output is gone.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(follow(arguments))
}

async fn follow(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Whom { agent, .. } = arguments.whom;
    let mut body = ask(&arguments.whom, arguments.all).await?.into_body();
    let zone = TimeZone::system();
    let mut lines = Lines::default();
    loop {
        let frame = timeout(SILENCE, body.frame()).await.map_err(|_| {
            anyhow!(
                "the agent at {agent} has said nothing for {} s",
                SILENCE.as_secs()
            )
        })?;
        let Some(frame) = frame else {
            bail!("the agent at {agent} stopped")
        };
        let frame = frame.with_context(|| format!("the agent at {agent} closed the stream"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        lines.push(&data)?;
        while let Some(line) = lines.next() {
            if !print(&line, arguments.json, &zone)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

async fn ask(whom: &Whom, all: bool) -> anyhow::Result<Response<Incoming>> {
    let target = if all {
        "/api/v1/events?all=1"
    } else {
        "/api/v1/events"
    };
    let agent = whom.agent;
    let answer = whom.ask(target).await?;
    match answer.status() {
        StatusCode::OK => Ok(answer),
        StatusCode::SERVICE_UNAVAILABLE => {
            bail!("the agent at {agent} has as many readers as it takes; close one")
        }
        status => Err(client::stranger(agent, status)),
    }
}

/// Prints one line; `false` when nobody reads the output any more.
fn print(line: &[u8], json: bool, zone: &TimeZone) -> anyhow::Result<bool> {
    let text = if json {
        line.to_vec()
    } else {
        match serde_json::from_slice::<Envelope>(line) {
            Ok(envelope) => human::lines(&envelope, zone).into_bytes(),
            // A newer agent may say things this program does not know.
            Err(_) => Vec::new(),
        }
    };
    let mut out = io::stdout().lock();
    match out.write_all(&text).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write the output"),
    }
}

/// Bytes to lines.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    fn push(&mut self, data: &[u8]) -> anyhow::Result<()> {
        self.bytes.extend_from_slice(data);
        if self.bytes.len() > MAX_LINE_BYTES && !self.bytes.contains(&b'\n') {
            bail!("a line of more than {MAX_LINE_BYTES} bytes: this is no event stream of why502");
        }
        Ok(())
    }

    /// The next whole line, newline included.
    fn next(&mut self) -> Option<Vec<u8>> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n')?;
        let rest = self.bytes.split_off(end + 1);
        Some(std::mem::replace(&mut self.bytes, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::{Lines, MAX_LINE_BYTES};

    #[test]
    fn lines_come_whole_however_they_were_cut() {
        let mut lines = Lines::default();
        lines.push(b"{\"a\"").unwrap();
        assert_eq!(lines.next(), None);

        lines.push(b":1}\n{}\n{").unwrap();

        assert_eq!(lines.next().unwrap(), b"{\"a\":1}\n");
        assert_eq!(lines.next().unwrap(), b"{}\n");
        assert_eq!(lines.next(), None);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();

        assert!(lines.push(&vec![b'x'; MAX_LINE_BYTES + 1]).is_err());
    }
}
