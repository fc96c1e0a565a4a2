//! Runs [`crate::misbehave`] as a process of its own, as real upstreams are: a test that both
//! answered and asked would itself look like a proxy.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::misbehave::record::{Record, Served};
use crate::netns::Netns;
use crate::process::{Running, built, command};

/// Name of the file to which they write what arrived.
const RECORD: &str = "record";

/// Upstream servers in one process.
#[derive(Debug)]
pub struct Upstreams {
    process: Running,
    folder: TempDir,
    /// Where they listen, in the order in which they were ordered.
    pub addresses: Vec<SocketAddr>,
}

impl Upstreams {
    /// Starts one server for each of `ports` (`9001`, `0=reset`, `0=ok,idle=1000`; 0 is any
    /// free port) and waits until all listen.
    #[track_caller]
    pub fn start(ip: IpAddr, ports: &[&str], netns: Option<&Netns>) -> Self {
        Self::start_with_dns(ip, ports, &[], netns)
    }

    /// The same, and DNS servers that fail (`127.0.53.1:53=nxdomain`); their addresses come last.
    #[track_caller]
    pub fn start_with_dns(ip: IpAddr, ports: &[&str], dns: &[&str], netns: Option<&Netns>) -> Self {
        let program = built("misbehave");
        let mut command = command(&program.to_string_lossy(), netns);
        command.args(["--bind", &ip.to_string()]);
        for port in ports {
            command.args(["--port", port]);
        }
        for port in dns {
            command.args(["--dns", port]);
        }
        let folder =
            TempDir::with_prefix("e2e-upstreams-").expect("a temporary folder can be made");
        command.arg("--record").arg(folder.path().join(RECORD));
        command.stdout(Stdio::piped());
        let mut process = Running::start("misbehave", &mut command);
        let stdout = process.child().stdout.take().expect("stdout is piped");
        let mut lines = BufReader::new(stdout).lines();
        let addresses = ports
            .iter()
            .chain(dns)
            .map(|port| {
                let line = lines.next().and_then(Result::ok).unwrap_or_default();
                line.split(' ')
                    .nth(1)
                    .and_then(|address| address.parse().ok())
                    .unwrap_or_else(|| {
                        panic!("misbehave --port {port} on {ip} is not ready: {line}")
                    })
            })
            .collect();
        Self {
            process,
            folder,
            addresses,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Each request that arrived so far, in order; a proxy that tries twice makes two.
    #[track_caller]
    pub fn served(&self) -> Vec<Served> {
        Record::read(&self.folder.path().join(RECORD)).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process.stop(Signal::KILL);
    }
}
