//! The packet programs run for packets of proxies and of their upstreams, and for nobody else's; and
//! what goes wrong there is explained as if they ran for all. Judged by the kernel, which counts runs,
//! and by what was asked for.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use e2e::agent::events::{Line, Request};
use e2e::agent::{Agent, Events};
use e2e::cgroup::Cgroup;
use e2e::counting::Counting;
use e2e::faults::stage::fill;
use e2e::load::{Order, one_by_one};
use e2e::nginx::{Config, Nginx};
use e2e::ports::{Refusing, free};
use e2e::process::need_root;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How long a start or a report may take.
const LONG: Duration = Duration::from_secs(30);
/// What this is about.
const PROXIES: [&str; 2] = ["--attach", "proxies"];
/// Requests of those who have no proxy.
const MANY: usize = 2000;

/// nginx and an application in cgroups of their own.
struct Scene {
    proxy: SocketAddr,
    /// Of the group `deaf`.
    deaf: SocketAddr,
    nginx: Option<Nginx>,
    _refusing: Refusing,
    apps: Vec<Upstreams>,
    // Removed when all in them has ended.
    web: Cgroup,
    _app: Cgroup,
}

impl Scene {
    /// Without nginx.
    fn build(name: &str) -> Self {
        need_root();
        let web = Cgroup::of_service(&format!("{name}-web"));
        let app = Cgroup::of_service(&format!("{name}-app"));
        // One for what ends the process.
        let apps = [&["0", "0=deaf"][..], &["0"]];
        let apps = apps.map(|ports| app.inside(|| Upstreams::start(LOCALHOST, ports, None)));
        Self {
            proxy: free(LOCALHOST),
            deaf: *apps[0].addresses.get(1).expect("it was ordered"),
            nginx: None,
            _refusing: Refusing::new(LOCALHOST),
            apps: apps.into(),
            web,
            _app: app,
        }
    }

    fn config(&self) -> Config {
        let [app, ending] = [0, 1].map(|number| {
            let apps = self.apps.get(number).expect("two were started");
            *apps.addresses.first().expect("it was ordered")
        });
        let refused = self._refusing.address;
        let (proxy, deaf) = (self.proxy, self.deaf);
        Config::new(format!(
            "server {{
                listen {proxy};
                proxy_connect_timeout 2s;
                location / {{ proxy_pass http://{app}; }}
                location /ending/ {{ proxy_pass http://{ending}; }}
                location /refused/ {{ proxy_pass http://{refused}; }}
                location /deaf/ {{ proxy_pass http://{deaf}; }}
            }}"
        ))
    }

    fn start_nginx(&mut self) {
        let config = self.config();
        self.nginx = Some(self.web.inside(|| Nginx::start(&config, None)));
    }

    /// Asks for `path` and gives what is reported of it.
    #[track_caller]
    fn asks(&self, events: &Events, path: &str) -> Request {
        one_by_one(self.proxy, vec![Order::get(path)]);
        let request = events.of([path], LONG).remove(path).expect("it is there");
        println!(
            "{path}: {:?} {:?} ({:?})",
            request.code, request.cause, request.certainty
        );
        request
    }

    #[track_caller]
    fn assert_explained(&self, events: &Events) {
        for (path, cause) in [
            ("/1/reset", "closed_before_response"),
            ("/refused/1", "connect_refused"),
        ] {
            let request = self.asks(events, path);
            assert_eq!(request.cause.as_deref(), Some(cause), "{path}: {request:?}");
            assert_eq!(request.certainty.as_deref(), Some("proof"), "{path}");
            assert_eq!(request.proxy.name, "nginx");
        }
    }
}

#[track_caller]
fn cgroups(agent: &Agent, place: &str) -> f64 {
    let labels = [("where", place)];
    agent
        .metrics()
        .sum("why502_agent_attached_cgroups", &labels)
}

#[track_caller]
fn wait_for_cgroups(agent: &Agent, count: f64) {
    eventually(
        LONG,
        "the programs are where the proxies are",
        || match cgroups(agent, "proxies") {
            found if found == count => Ok(()),
            found => Err(format!("at {found} cgroups, not {count}")),
        },
    );
}

/// How often the packet programs ran.
#[track_caller]
fn runs(agent: &Agent) -> f64 {
    let metrics = agent.metrics();
    let of = |program| metrics.sum("why502_agent_program_runs_total", &[("program", program)]);
    of("packet_in") + of("packet_out")
}

#[test]
fn packets_of_those_without_a_proxy_run_no_program() {
    let mut scene = Scene::build("bystanders");
    scene.start_nginx();
    let other = Cgroup::of_service("bystanders-other");
    let servers = other.inside(|| Upstreams::start(LOCALHOST, &["0"], None));
    let server = *servers.addresses.first().expect("it was ordered");
    let _counting = Counting::begin();
    let agent = Agent::start(&PROXIES);
    let events = agent.events();
    assert_eq!(cgroups(&agent, "everywhere"), 0.0);

    let ask_many = |name: &str| {
        let orders = (0..MANY).map(|number| Order::get(format!("/{name}/{number}/ok")));
        let outcomes = other.inside(|| one_by_one(server, orders.collect()));
        assert_eq!(outcomes.len(), MANY);
    };
    scene.asks(&events, "/before/ok");
    wait_for_cgroups(&agent, 2.0);
    let before = runs(&agent);
    ask_many("many");
    let meanwhile = runs(&agent) - before;
    scene.asks(&events, "/after/ok");
    let proxied = runs(&agent) - before - meanwhile;

    println!("{MANY} requests of others: {meanwhile} runs; one through nginx: {proxied}");
    assert_eq!(meanwhile, 0.0);
    assert!(proxied > 8.0);
    // Which is not so where all is attached.
    drop(agent);
    let agent = Agent::start(&["--attach", "everywhere"]);
    let before = runs(&agent);
    ask_many("all");
    println!("attached everywhere: {} runs", runs(&agent) - before);
    assert!(runs(&agent) - before > MANY as f64);
}

#[test]
fn what_goes_wrong_in_cgroups_of_their_own_is_explained() {
    let mut scene = Scene::build("explained");
    scene.start_nginx();
    let agent = Agent::start(&PROXIES);
    let events = agent.events();
    scene.asks(&events, "/before/ok");
    wait_for_cgroups(&agent, 2.0);

    scene.assert_explained(&events);
    let killed = scene.asks(&events, "/ending/1/head_cut=20,by=kill");
    assert_eq!(
        killed.cause.as_deref(),
        Some("upstream_crashed"),
        "{killed:?}"
    );
    let attempt = killed.attempts.first().expect("one was made");
    assert_eq!(attempt.evidence["killed_by"], json!(9));
    let queued = fill(scene.deaf);
    let full = scene.asks(&events, "/deaf/1/ok");
    assert_eq!(full.cause.as_deref(), Some("accept_queue_full"), "{full:?}");
    drop(queued);
}

#[test]
fn a_proxy_that_starts_later_is_found_and_left_when_it_ends() {
    let mut scene = Scene::build("later");
    let agent = Agent::start(&PROXIES);
    let events = agent.events();
    assert_eq!(
        cgroups(&agent, "proxies") + cgroups(&agent, "everywhere"),
        0.0
    );

    scene.start_nginx();
    wait_for_cgroups(&agent, 1.0);
    scene.assert_explained(&events);
    wait_for_cgroups(&agent, 2.0);
    let seconds = |of| {
        agent
            .metrics()
            .sum("why502_agent_attach_seconds", &[("of", of)])
    };
    println!("attached {} s after it began to listen", seconds("longest"));
    assert!(seconds("longest") > 0.0);

    // As a service that is started again, in another cgroup of the same name.
    let attached = || {
        let labels = [("fate", "attached")];
        agent
            .metrics()
            .sum("why502_agent_attachments_total", &labels)
    };
    let before = attached();
    drop(scene.nginx.take());
    scene.web.renew();
    scene.start_nginx();
    eventually(LONG, "the new cgroup is attached", || match attached() {
        now if now > before => Ok(()),
        now => Err(now.to_string()),
    });
    let request = scene.asks(&events, "/again/1/reset");
    assert_eq!(request.cause.as_deref(), Some("closed_before_response"));

    drop(scene.nginx.take());
    wait_for_cgroups(&agent, 0.0);
    assert!(
        agent
            .stop(Signal::TERM)
            .is_some_and(|status| status.success())
    );
}

/// Nobody knows its name; it is found when it connects, and the client's connection is older than that.
#[test]
fn a_gateway_without_a_name_is_found_when_it_connects() {
    let scene = Scene::build("nameless");
    let folder = TempDir::with_prefix("e2e-nameless-").expect("a temporary folder can be made");
    let gateway = folder.path().join("gateway");
    fs::copy("/usr/sbin/nginx", &gateway).expect("nginx is installed");
    // As most are: who listens is another user than who serves.
    let config = Config {
        user: "www-data",
        ..scene.config()
    };
    let nginx = scene
        .web
        .inside(|| Nginx::start_program(&gateway.to_string_lossy(), &config, None));
    let agent = Agent::start(&PROXIES);
    let events = agent.events();
    let mut client = TcpStream::connect(scene.proxy).expect("it listens");
    let mut answer = [0; 4096];
    let mut ask = |path: &str| {
        write!(client, "GET {path} HTTP/1.1\r\nHost: app\r\n\r\n").expect("it reads");
        let length = client.read(&mut answer).expect("it answers");
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };

    assert!(ask("/early/ok").contains(" 200 "));
    wait_for_cgroups(&agent, 2.0);
    assert!(ask("/late/reset").contains(" 502 "));

    let request = events.of(["/late/reset"], LONG).remove("/late/reset");
    let request = request.expect("it is there");
    println!("{:?} ({:?})", request.cause, request.certainty);
    assert_eq!(
        request.cause.as_deref(),
        Some("closed_before_response"),
        "{request:?}"
    );
    assert_eq!(request.proxy.name, "gateway");
    assert!(events.so_far().iter().all(|line| {
        !matches!(line, Line::Request(one) if one.cause.is_some() && one.path != request.path)
    }));
    drop(nginx);
}

#[test]
fn a_proxy_in_the_root_cgroup_has_all_packets_seen() {
    let scene = Scene::build("root");
    let agent = Agent::start(&PROXIES);
    let events = agent.events();

    let nginx = Nginx::start(&scene.config(), None);
    eventually(LONG, "all is attached", || {
        match cgroups(&agent, "everywhere") {
            1.0 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    scene.assert_explained(&events);
    drop(nginx);
}

#[test]
fn a_proxy_outside_of_the_cgroup_that_is_watched_stays_unseen() {
    let mut scene = Scene::build("scoped");
    scene.start_nginx();
    let inside = Cgroup::of_service("scoped-inside");
    let folder = inside.outermost().to_string_lossy();
    let agent = Agent::start(&["--cgroup", &folder, "--attach", "proxies"]);

    one_by_one(
        scene.proxy,
        vec![Order::get("/1/reset"), Order::get("/refused/1")],
    );
    let metrics = agent.settled(LONG);

    assert_eq!(metrics.sum("why502_agent_attached_cgroups", &[]), 0.0);
    assert_eq!(metrics.sum("why502_tcp_connects_total", &[]), 0.0);
    assert_eq!(metrics.sum("why502_upstream_failures_total", &[]), 0.0);
}
