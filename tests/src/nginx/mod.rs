//! A real nginx in a private folder, whose logs are the judge.
//!
//! In: the inside of an `http` block. Out: a running nginx, its workers' process ids, and its
//! two logs, parsed. Stopped by process id when dropped, and its folder with it.

pub mod access_log;
pub mod error_log;

use std::fmt::Write;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::agent::take_in_listeners;
use crate::netns::Netns;
use crate::process::{Running, children_of, command, signal};
use crate::wait::eventually;
use access_log::LoggedRequest;
use error_log::ErrorLine;

/// nginx may take this long to listen or to write a line. Too short: false alarms on a slow
/// machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to run it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Worker processes.
    pub workers: usize,
    /// Who the workers run as; the master is root.
    pub user: &'static str,
    /// Connections a worker may hold.
    pub connections: usize,
    /// Files a worker may hold; enough for its connections unless given.
    pub files: Option<usize>,
    /// The inside of the `http` block: upstreams and servers.
    pub http: String,
}

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    process: Running,
    folder: TempDir,
    workers: Vec<u32>,
}

impl Config {
    /// Two workers of 4096 connections.
    pub fn new(http: impl Into<String>) -> Self {
        Self {
            workers: 2,
            user: "root",
            connections: 4096,
            files: None,
            http: http.into(),
        }
    }

    /// The configuration file.
    pub(crate) fn text(&self) -> String {
        let Self {
            workers,
            user,
            connections,
            files,
            http,
        } = self;
        let mut text = format!(
            "daemon off;\nuser {user};\nworker_processes {workers};\nworker_rlimit_nofile {};\n\
             pid nginx.pid;\nerror_log error.log info;\n\
             events {{ worker_connections {connections}; }}\nhttp {{\n",
            files.unwrap_or(connections + 64),
        );
        for folder in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            // Writing to a String cannot fail.
            let _written = writeln!(text, "{folder}_temp_path temp_{folder};");
        }
        text.push_str(&access_log::format_directive());
        text.push_str("access_log access.log judge;\nserver_names_hash_bucket_size 128;\n");
        text.push_str(http);
        text.push_str("\n}\n");
        text
    }
}

impl Nginx {
    /// Starts it, in `netns` if given, and waits until it listens and its workers run.
    #[track_caller]
    pub fn start(config: &Config, netns: Option<&Netns>) -> Self {
        Self::start_program("nginx", config, netns)
    }

    /// As [`Nginx::start`], of an executable of another name.
    #[track_caller]
    pub fn start_program(program: &str, config: &Config, netns: Option<&Netns>) -> Self {
        let folder = TempDir::with_prefix("e2e-nginx-").expect("a temporary folder can be made");
        let path = folder.path();
        fs::write(path.join("nginx.conf"), config.text()).expect("its configuration is written");
        let stderr = File::create(path.join("stderr")).expect("its stderr is made");
        let mut command = command(program, netns);
        command
            .arg("-p")
            .arg(path)
            .args(["-c", "nginx.conf", "-e", "error.log"]);
        command.stderr(stderr);
        let mut process = Running::start("nginx", &mut command);
        let pid = process.pid();
        let workers = eventually(PATIENCE, "nginx listens", || {
            if let Some(status) = process.ended() {
                let said = fs::read_to_string(path.join("stderr")).unwrap_or_default();
                panic!("nginx ended with {status}: {said}");
            }
            if !path.join("nginx.pid").exists() {
                return Err("no pid file".to_owned());
            }
            let workers = children_of(pid);
            if workers.len() < config.workers {
                return Err(format!("{} workers", workers.len()));
            }
            Ok(workers)
        });
        take_in_listeners();
        Self {
            process,
            folder,
            workers,
        }
    }

    /// Process id of the master.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Process ids of the workers.
    pub fn workers(&self) -> &[u32] {
        &self.workers
    }

    /// Path of a file in its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The access log so far.
    #[track_caller]
    pub fn access_log(&self) -> Vec<LoggedRequest> {
        self.text("access.log")
            .lines()
            .map(|line| {
                line.parse()
                    .unwrap_or_else(|error| panic!("access log line `{line}`: {error:#}"))
            })
            .collect()
    }

    /// The access log once it has `lines` lines; nginx writes a line after the client has its
    /// answer.
    #[track_caller]
    pub fn access_log_of(&self, lines: usize) -> Vec<LoggedRequest> {
        eventually(
            PATIENCE,
            "the access log has a line for each request",
            || {
                let log = self.access_log();
                match log.len() {
                    found if found == lines => Ok(log),
                    found => Err(format!("{found} lines of {lines}")),
                }
            },
        )
    }

    /// What the error log says about upstreams and clients.
    pub fn error_log(&self) -> Vec<ErrorLine> {
        self.text("error.log")
            .lines()
            .filter_map(error_log::parse)
            .collect()
    }

    /// The error log so far, as written.
    pub fn error_text(&self) -> String {
        self.text("error.log")
    }

    /// Whole lines of a log: what is after the last line end is still being written.
    fn text(&self, name: &str) -> String {
        let bytes = fs::read(self.file(name)).unwrap_or_default();
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        text
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // A test may have stopped them.
        for worker in &self.workers {
            signal(*worker, Signal::CONT);
        }
        let workers = std::mem::take(&mut self.workers);
        // TERM lets the master end its workers; a master that was killed leaves them behind.
        if self.process.stop(Signal::TERM).is_none() {
            for worker in workers {
                signal(worker, Signal::KILL);
            }
        }
    }
}
