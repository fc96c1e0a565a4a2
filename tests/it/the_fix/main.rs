//! The fix must be of the case where the evidence separates it: what the agent says of one failure
//! beyond its cause, with real servers on both sides.
//!
//! A file for each kind of evidence: [`protocols`], who speaks what;
//! [`addresses`], who listens where; [`handshakes`], what TLS did not agree on; [`uploads`], how much of
//! a request was sent; [`idle`], how long a connection was kept; [`workers`], whether anybody took it.

mod addresses;
mod handshakes;
mod idle;
mod protocols;
mod recycled;
mod uploads;
mod workers;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::{Case, Line, Request};
use e2e::load::{Order, one_by_one};
use e2e::netns::Netns;
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::need_root;
use e2e::stage::plain;
use e2e::wait::eventually;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long the agent may take to tell a request.
const TELL: Duration = Duration::from_secs(20);

/// An nginx that sends everything to `url`, watched by an agent.
struct Scene {
    nginx: Nginx,
    front: SocketAddr,
    agent: Agent,
    events: e2e::agent::Events,
}

impl Scene {
    #[track_caller]
    fn new(url: &str) -> Self {
        Self::of(ports::free(LOCALHOST), url, None)
    }

    /// With connections that are kept.
    #[track_caller]
    fn kept(upstream: SocketAddr) -> Self {
        let front = ports::free(LOCALHOST);
        let nginx = Nginx::start(&Config::new(plain(&[front.to_string()], upstream)), None);
        Self::watched(nginx, front)
    }

    /// With these locations.
    #[track_caller]
    fn with(locations: &str) -> Self {
        Self::inside(ports::free(LOCALHOST), locations, None)
    }

    #[track_caller]
    fn of(front: SocketAddr, url: &str, netns: Option<&Netns>) -> Self {
        Self::inside(front, &format!("location / {{ proxy_pass {url}; }}"), netns)
    }

    #[track_caller]
    fn inside(front: SocketAddr, locations: &str, netns: Option<&Netns>) -> Self {
        let http = format!(
            "proxy_connect_timeout 2s; proxy_read_timeout 2s;
             server {{ listen {front}; {locations} }}"
        );
        Self::watched(Nginx::start(&Config::new(http), netns), front)
    }

    /// With these directives for every path.
    #[track_caller]
    fn directed(directives: &str) -> Self {
        Self::with(&format!("location / {{ {directives} }}"))
    }

    #[track_caller]
    fn watched(nginx: Nginx, front: SocketAddr) -> Self {
        need_root();
        let agent = Agent::start(&[]);
        let events = agent.events();
        Self {
            nginx,
            front,
            agent,
            events,
        }
    }

    /// What the agent tells of a request for `path`.
    #[track_caller]
    fn ask(&self, path: &str) -> Request {
        self.ask_only(path);
        self.told(path)
    }

    /// What the agent tells of this request.
    #[track_caller]
    fn ask_with(&self, order: Order) -> Request {
        let path = order.path.clone();
        let asked = one_by_one(self.front, vec![order]);
        println!("{path}: client got {asked:?}");
        self.told(&path)
    }

    /// Asks for `path`, and leaves to later what is told of it.
    fn ask_only(&self, path: &str) {
        let asked = one_by_one(self.front, vec![Order::get(path)]);
        println!("{path}: client got {asked:?}");
    }

    /// What the agent tells of the request for `path`.
    #[track_caller]
    fn told(&self, path: &str) -> Request {
        // Upstreams may be nginx as well, and are watched, too.
        let is_it = |request: &Request| {
            request.path.as_deref() == Some(path)
                && self.nginx.workers().contains(&request.proxy.pid)
        };
        let told = eventually(TELL, "the request is told", || {
            let lines = self.events.so_far().into_iter();
            let mut requests = lines.filter_map(|line| match line {
                Line::Request(request) => Some(*request),
                _ => None,
            });
            requests.find(is_it).ok_or_else(|| path.to_owned())
        });
        let log = self.nginx.error_log();
        println!("  nginx: {:?}", log.last());
        println!(
            "  agent: {:?} {:?} {:?} {:?}\n  fix: {:?}",
            told.code, told.cause, told.certainty, told.case, told.fix
        );
        told
    }

    /// What `why502 explain` says of all so far.
    fn explained(&self) -> String {
        let agent = self.agent.address.to_string();
        let explain = |words: &[&str]| {
            let mut command = std::process::Command::new(e2e::agent::binary());
            command.args(["explain", "--agent", &agent]).args(words);
            e2e::process::output_of(&mut command)
        };
        format!("{}\n{}", explain(&[]), explain(&["1"]))
    }
}

/// The request failed by this cause, in this case.
#[track_caller]
fn assert_case<'a>(told: &'a Request, cause: &str, (name, certainty): (&str, &str)) -> &'a Case {
    assert_eq!(told.cause.as_deref(), Some(cause));
    let Some(case) = &told.case else {
        panic!("no case: {told:?}")
    };
    assert_eq!(
        (case.name.as_str(), case.certainty.as_str()),
        (name, certainty)
    );
    case
}
