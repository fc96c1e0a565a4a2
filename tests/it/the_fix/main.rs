//! The fix must be of the case where the evidence separates it: what the agent says of one failure
//! beyond its cause, with real servers on both sides.
//!
//! A file for each kind of evidence: [`protocols`], who speaks what;
//! [`addresses`], who listens where.

mod addresses;
mod protocols;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::{Case, Request};
use e2e::load::{Order, one_by_one};
use e2e::netns::Netns;
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::need_root;
use e2e::stage::plain;

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

    #[track_caller]
    fn of(front: SocketAddr, url: &str, netns: Option<&Netns>) -> Self {
        let http = format!(
            "proxy_connect_timeout 2s; proxy_read_timeout 2s;
             server {{ listen {front}; location / {{ proxy_pass {url}; }} }}"
        );
        Self::watched(Nginx::start(&Config::new(http), netns), front)
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

    /// Asks for `path`, and leaves to later what is told of it.
    fn ask_only(&self, path: &str) {
        let asked = one_by_one(self.front, vec![Order::get(path)]);
        println!("{path}: client got {asked:?}");
    }

    /// What the agent tells of the request for `path`.
    #[track_caller]
    fn told(&self, path: &str) -> Request {
        let told = self.events.of([path], TELL).remove(path);
        #[expect(clippy::expect_used, reason = "a test may panic")]
        let told = told.expect("the path was waited for");
        println!("  nginx: {}", self.nginx.error_text().trim_end());
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
