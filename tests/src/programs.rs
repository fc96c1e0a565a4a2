//! Programs that nobody knows by name: scripts of the tests in Python, and one in Go.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;

use crate::agent::take_in_listeners;
use crate::process::{Running, command};
use crate::wait::eventually;

/// How long a start may take.
const START: Duration = Duration::from_secs(20);

/// Starts a script that lies below the folder `it`.
#[track_caller]
pub fn python(script: &str, arguments: &[&str]) -> Running {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("it")
        .join(script);
    let mut python = command("python3", None);
    Running::start("python3", python.arg(script).args(arguments))
}

/// Waits until somebody takes connections there; one is made for that.
#[track_caller]
pub fn takes_connections(address: SocketAddr) {
    eventually(START, "it listens", || {
        TcpStream::connect(address)
            .map(drop)
            .map_err(|error| error.to_string())
    });
    take_in_listeners();
}

/// A gateway in Go: Caddy under another name, in a folder of its own.
#[derive(Debug)]
pub struct Go {
    /// The process.
    pub running: Running,
    _folder: TempDir,
}

impl Go {
    /// Starts it at `address`, in front of `upstream`.
    #[track_caller]
    #[expect(clippy::expect_used, reason = "a test may panic")]
    pub fn start(name: &str, address: SocketAddr, upstream: SocketAddr) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let program = folder.path().join(name);
        std::fs::copy("/usr/bin/caddy", &program).expect("Caddy is installed");
        let config = folder.path().join("config");
        let site = format!(
            "{{\n admin off\n auto_https off\n}}\nhttp://:{} {{\n bind {}\n reverse_proxy {upstream}\n}}\n",
            address.port(),
            address.ip(),
        );
        std::fs::write(&config, site).expect("it can be written");
        let mut go = command(&program.to_string_lossy(), None);
        go.env("HOME", folder.path()).stderr(Stdio::null());
        go.args(["run", "--adapter", "caddyfile", "--config"]);
        Self {
            running: Running::start(name, go.arg(config)),
            _folder: folder,
        }
    }
}
