//! What a proxy is told to do with the requests under one path segment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Requests to `/name/...` go to `target`.
#[derive(Clone, Debug)]
pub struct Group {
    /// First segment of the path.
    pub name: &'static str,
    /// Where they go.
    pub target: Target,
    /// Connections are kept for the next request.
    pub keep: bool,
    /// A failed attempt is followed by one on the next server.
    pub retry: bool,
    /// Servers get the path without its first segment, and a Host that no client sent.
    pub rewritten: bool,
}

/// Where requests go.
#[derive(Clone, Debug)]
pub enum Target {
    /// Servers that are tried whatever happened before.
    Servers(Vec<SocketAddr>),
    /// A Unix socket.
    Unix(PathBuf),
    /// A server that is spoken to in TLS; its certificate has to be one of `Tls::trusted`.
    Tls(Tls),
    /// A name that is looked up when requests come.
    Name(Name),
    /// Servers that are left out once they failed: by the proxy's count of failures where it
    /// has one, else by its health check.
    Judged(Judged),
    /// Servers that the proxy asks for their health, and leaves out while they fail.
    Checked(Checked),
    /// A server that the configuration takes out of service.
    Disabled(SocketAddr),
    /// None: the proxy answers 503 itself.
    Static,
    /// A server that gets one request at a time; others wait 300 ms at most.
    Limited(SocketAddr),
}

/// Servers whose failures count.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Where they are.
    pub servers: Vec<SocketAddr>,
    /// Time between two health checks of a server that failed one, for a proxy that checks.
    pub check_every: Duration,
}

/// Servers whose health is asked for: GET of a path, which 200 passes. They are held to be healthy
/// first, and unhealthy after one check that failed.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Where they are.
    pub servers: Vec<SocketAddr>,
    /// What is asked.
    pub path: &'static str,
    /// Time between two checks of a server.
    pub every: Duration,
}

/// A server that is spoken to in TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Where it is.
    pub server: SocketAddr,
    /// PEM file with the certificates that are trusted.
    pub trusted: PathBuf,
}

/// A name, and who is asked for its address.
#[derive(Clone, Debug)]
pub struct Name {
    /// The name.
    pub host: &'static str,
    /// Port of the server.
    pub port: u16,
    /// The DNS server.
    pub resolver: SocketAddr,
}

impl Group {
    /// Servers, no keep-alive, no retry.
    pub fn new(name: &'static str, target: Target) -> Self {
        Self {
            name,
            target,
            keep: false,
            retry: false,
            rewritten: false,
        }
    }

    /// Connections are kept.
    pub fn kept(self) -> Self {
        Self { keep: true, ..self }
    }

    /// Failed attempts are repeated on the next server.
    pub fn retried(self) -> Self {
        Self {
            retry: true,
            ..self
        }
    }

    /// The first segment of the path is stripped, and the Host replaced.
    pub fn rewritten(self) -> Self {
        Self {
            rewritten: true,
            ..self
        }
    }

    /// The Host that servers get where it is replaced.
    pub(super) fn host(&self) -> String {
        format!("{}.internal", self.name)
    }
}
