//! Real proxies, all of them driven in one way, so that a test can loop over them.
//!
//! In: a [`Kind`] and [`Group`]s: a first path segment, and where requests under it go. Out:
//! a [`Proxy`] that listens, runs in a private folder with a configuration of its own, and
//! gives what its log said about each path, in the proxy's own words. Timeouts are 1 s
//! wherever the proxy has one. Stopped by process id when dropped, its children with it.

mod apache;
mod caddy;
mod envoy;
mod group;
mod haproxy;
mod launch;
mod nginx;
mod traefik;
mod varnish;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use envoy::Besides;
pub use group::{Checked, Group, Judged, Name, Target, Tls};
use launch::{Launch, Launched, Release};
use rustix::process::Signal;

use crate::process::{children_of, signal};

/// How long a log may take to have a line for each request. Too short: lines are missed.
/// Too long: each request that a proxy never logs costs that much.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

/// A proxy that can be started here. Apache twice: one thread for a connection, and one
/// process for a connection, are two programs to someone who watches threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// nginx
    Nginx,
    /// HAProxy
    HaProxy,
    /// Apache httpd, MPM event
    ApacheEvent,
    /// Apache httpd, MPM prefork
    ApachePrefork,
    /// Envoy
    Envoy,
    /// Caddy
    Caddy,
    /// Varnish
    Varnish,
    /// Traefik
    Traefik,
    /// nginx, a current one beside Debian's
    NginxCurrent,
    /// Caddy, a current one beside Debian's
    CaddyCurrent,
}

/// What a proxy's log says about one path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The status it logged; some log one that nobody received.
    pub status: Option<u16>,
    /// Its own words and flags, joined with `; `.
    pub words: String,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    kind: Kind,
    /// Where it listens.
    pub address: SocketAddr,
    launched: Launched,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Nginx,
        Self::HaProxy,
        Self::ApacheEvent,
        Self::ApachePrefork,
        Self::Envoy,
        Self::Caddy,
        Self::Varnish,
        Self::Traefik,
        Self::NginxCurrent,
        Self::CaddyCurrent,
    ];

    /// What it is called here.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::HaProxy => "haproxy",
            Self::ApacheEvent => "apache-event",
            Self::ApachePrefork => "apache-prefork",
            Self::Envoy => "envoy",
            Self::Caddy => "caddy",
            Self::Varnish => "varnish",
            Self::Traefik => "traefik",
            Self::NginxCurrent => "nginx-1.31",
            Self::CaddyCurrent => "caddy-2.11",
        }
    }

    /// What the agent calls it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Nginx | Self::NginxCurrent => "nginx",
            Self::HaProxy => "haproxy",
            Self::ApacheEvent | Self::ApachePrefork => "httpd",
            Self::Envoy => "envoy",
            Self::Caddy | Self::CaddyCurrent => "caddy",
            Self::Varnish => "varnish",
            Self::Traefik => "traefik",
        }
    }

    /// Why it cannot have such a group, if it cannot.
    pub fn lacks(self, group: &Group) -> Option<&'static str> {
        match self {
            Self::Nginx | Self::NginxCurrent => nginx::lacks(group),
            Self::HaProxy => haproxy::lacks(group),
            Self::ApacheEvent => apache::lacks(group, apache::Mpm::Event),
            Self::ApachePrefork => apache::lacks(group, apache::Mpm::Prefork),
            Self::Envoy => envoy::lacks(group),
            Self::Caddy | Self::CaddyCurrent => caddy::lacks(group),
            Self::Varnish => varnish::lacks(group),
            Self::Traefik => traefik::lacks(group),
        }
    }

    fn launch(self, launch: Launch, groups: &[&Group]) -> Launched {
        match self {
            Self::Nginx => nginx::launch(launch, groups, Release::Debian),
            Self::NginxCurrent => nginx::launch(launch, groups, Release::Current),
            Self::HaProxy => haproxy::launch(launch, groups),
            Self::ApacheEvent => apache::launch(launch, groups, apache::Mpm::Event),
            Self::ApachePrefork => apache::launch(launch, groups, apache::Mpm::Prefork),
            Self::Envoy => envoy::launch(launch, groups),
            Self::Caddy => caddy::launch(launch, groups, Release::Debian),
            Self::CaddyCurrent => caddy::launch(launch, groups, Release::Current),
            Self::Varnish => varnish::launch(launch, groups),
            Self::Traefik => traefik::launch(launch, groups),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Proxy {
    /// Starts it with those of `groups` that it can have, and waits until it listens.
    #[track_caller]
    pub fn start(kind: Kind, groups: &[Group]) -> Self {
        let launch = Launch::new(kind.name());
        let able: Vec<&Group> = groups
            .iter()
            .filter(|group| kind.lacks(group).is_none())
            .collect();
        let address = launch.address;
        let mut launched = kind.launch(launch, &able);
        launched.wait_until_it_listens(address);
        Self {
            kind,
            address,
            launched,
        }
    }

    /// An Envoy in front of these groups, each with what it is configured with besides.
    #[track_caller]
    pub fn envoy(groups: &[(Group, Besides)]) -> Self {
        let launch = Launch::new(Kind::Envoy.name());
        let besides = groups
            .iter()
            .map(|(group, besides)| (group.name, besides))
            .collect();
        let groups: Vec<&Group> = groups.iter().map(|(group, _)| group).collect();
        let address = launch.address;
        let mut launched = envoy::launch_with(launch, &groups, &besides);
        launched.wait_until_it_listens(address);
        Self {
            kind: Kind::Envoy,
            address,
            launched,
        }
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its processes: the first one and all below it.
    pub fn processes(&self) -> Vec<u32> {
        family(self.launched.pid())
    }

    /// Holds all its processes still (SIGSTOP) until what is given back is dropped.
    pub fn hold(&self) -> Held {
        let processes = self.processes();
        for process in &processes {
            signal(*process, Signal::STOP);
        }
        Held { processes }
    }

    /// What it said about each path so far.
    #[track_caller]
    pub fn said(&self) -> BTreeMap<String, Said> {
        match self.kind {
            Kind::Nginx | Kind::NginxCurrent => nginx::said(&self.launched),
            Kind::HaProxy => haproxy::said(&self.launched),
            Kind::ApacheEvent | Kind::ApachePrefork => apache::said(&self.launched),
            Kind::Envoy => envoy::said(&self.launched),
            Kind::Caddy | Kind::CaddyCurrent => caddy::said(&self.launched),
            Kind::Varnish => varnish::said(&self.launched),
            Kind::Traefik => traefik::said(&self.launched),
        }
    }

    /// What it said once it has a status for each of `paths`. Some failures are never
    /// logged, so paths may still be missing after a while.
    #[track_caller]
    pub fn said_of<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a str> + Clone,
    ) -> BTreeMap<String, Said> {
        let started = Instant::now();
        loop {
            let said = self.said();
            let has = |path: &str| said.get(path).is_some_and(|said| said.status.is_some());
            if paths.clone().into_iter().all(has) || started.elapsed() > LOG_PATIENCE {
                return said;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it wrote to its standard streams: complaints about its configuration.
    pub fn complaints(&self) -> String {
        self.launched.text("output")
    }
}

/// A proxy that is held still. It goes on when this is gone.
#[derive(Debug)]
pub struct Held {
    processes: Vec<u32>,
}

impl Drop for Held {
    fn drop(&mut self) {
        for process in &self.processes {
            signal(*process, Signal::CONT);
        }
    }
}

/// A process and all below it.
fn family(first: u32) -> Vec<u32> {
    let mut all = vec![first];
    let mut next = 0;
    while let Some(parent) = all.get(next) {
        all.extend(children_of(*parent));
        next += 1;
    }
    all
}

/// Adds what a line says about a path to what others said.
fn note(said: &mut BTreeMap<String, Said>, path: &str, status: Option<u16>, words: &str) {
    let path = path.split('?').next().unwrap_or(path);
    let said = said.entry(path.to_owned()).or_default();
    said.status = status.or(said.status);
    if !words.is_empty() {
        if !said.words.is_empty() {
            said.words.push_str("; ");
        }
        said.words.push_str(words);
    }
}
