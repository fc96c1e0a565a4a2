//! A HAProxy with a configuration of the test's own, for what its defaults do.
//!
//! In: frontends and backends. Out: a running HAProxy, and its log, a line for each request.
//! Stopped by process id when dropped, and its folder with it.

use std::fs::{self, File};
use std::time::Duration;

use tempfile::TempDir;

use crate::netns::Netns;
use crate::process::{Running, command};
use crate::wait::eventually;

/// It may take this long to listen or to write a line.
const PATIENCE: Duration = Duration::from_secs(10);

/// Begins a line of its log, among what else it prints.
const MARK: &str = "judge";

/// A running HAProxy.
#[derive(Debug)]
pub struct Haproxy {
    process: Running,
    folder: TempDir,
}

/// A request as HAProxy saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedRequest {
    /// Path.
    pub path: String,
    /// Status given.
    pub status: i32,
    /// Termination state (`SC--`).
    pub state: String,
    /// Server it was sent to last.
    pub server: String,
    /// Connects made again.
    pub retries: u32,
    /// Another server took the request over.
    pub redispatched: bool,
}

impl Haproxy {
    /// Starts it, in `netns` if given, with `sections` behind a `defaults` that sets timeouts (5 s
    /// to connect, 10 s for client and server) and leaves retries as they are: 3, a second apart.
    #[track_caller]
    pub fn start(sections: &str, netns: Option<&Netns>) -> Self {
        let folder = TempDir::with_prefix("e2e-haproxy-").expect("a temporary folder can be made");
        let path = folder.path();
        let config = format!(
            "global
    log stdout format raw local0
    nbthread 1
    maxconn 1000
defaults
    mode http
    log global
    log-format \"{MARK}\\t%HPO\\t%ST\\t%ts\\t%s\\t%rc\"
    timeout connect 5s
    timeout server 10s
    timeout client 10s
{sections}"
        );
        fs::write(path.join("haproxy.cfg"), config).expect("its configuration is written");
        let output = File::create(path.join("output")).expect("its output is made");
        let errors = output.try_clone().expect("a file can be opened twice");
        let mut command = command("haproxy", netns);
        command
            .args(["-db", "-f", "haproxy.cfg"])
            .current_dir(path)
            .stdout(output)
            .stderr(errors);
        Self {
            process: Running::start("haproxy", &mut command),
            folder,
        }
    }

    /// Panics if it has ended.
    #[track_caller]
    pub fn assert_runs(&mut self) {
        if let Some(status) = self.process.ended() {
            panic!("haproxy ended with {status}: {}", self.output());
        }
    }

    /// What it logged about requests once it has logged one for `path`.
    #[track_caller]
    pub fn logged(&self, path: &str) -> LoggedRequest {
        eventually(PATIENCE, "haproxy logs the request", || {
            let requests = self.requests();
            let request = requests.iter().find(|request| request.path == path);
            request
                .cloned()
                .ok_or_else(|| format!("{path} is not in the log: {}", self.output()))
        })
    }

    /// What it logged about requests so far. It writes a line when the request is over.
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.output().lines().filter_map(parse).collect()
    }

    fn output(&self) -> String {
        let bytes = fs::read(self.folder.path().join("output")).unwrap_or_default();
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        text
    }
}

fn parse(line: &str) -> Option<LoggedRequest> {
    let mut fields = line.strip_prefix(MARK)?.split('\t').skip(1);
    let mut next = || fields.next();
    let (path, status, state, server, retries) = (next()?, next()?, next()?, next()?, next()?);
    Some(LoggedRequest {
        path: path.to_owned(),
        status: status.parse().ok()?,
        state: state.to_owned(),
        server: server.to_owned(),
        retries: retries.trim_start_matches('+').parse().ok()?,
        redispatched: retries.starts_with('+'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_another_server_took_over_is_read() {
        let request = parse("judge\t/shop/ok\t200\t----\tgood\t+3").unwrap();

        assert_eq!((request.status, request.retries), (200, 3));
        assert!(request.redispatched);
    }

    #[test]
    fn what_else_it_prints_is_no_request() {
        assert_eq!(parse("[NOTICE] (1) : haproxy version is 2.6.12"), None);
    }
}
