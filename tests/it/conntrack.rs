//! Addresses that netfilter translates: each incident names the endpoint that the kernel chose,
//! by the endpoints' own word; and where that cannot be known nothing is said.
//!
//! nginx is in a network of its own, as in a pod, and reaches the endpoints through the host,
//! whose netfilter translates, as kube-proxy sets it up.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::agent::events::{Attempt, Request};
use e2e::agent::{Agent, Events, binary};
use e2e::http;
use e2e::kubernetes::{ApiServer, Cluster, Kind};
use e2e::load::{Order, one_by_one};
use e2e::nat::Nat;
use e2e::netns::{Netns, Veth};
use e2e::nginx::{Config, Nginx};
use e2e::ports::{self, Refusing};
use e2e::process::{command, need_root, output_of};
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const ON: [&str; 2] = ["--conntrack", "on"];
const CAPABILITY: [(&str, &str); 1] = [("name", "conntrack")];
/// How long the agent may take to tell what happened, or to learn a name.
const SOON: Duration = Duration::from_secs(30);

/// Of services; each scene has its own, for rules are the host's.
const REFUSED: u8 = 10;
const ANSWERED: u8 = 11;
const REFUSED6: u16 = 0xa;

/// An nginx whose locations lead to addresses that are translated, and to one that is not.
struct Scene {
    nginx: Nginx,
    front: SocketAddr,
    services: Services,
    /// Refuse.
    refusing: [Refusing; 2],
    /// Answer, in turns.
    upstreams: Upstreams,
    _nat: Nat,
    network: Option<Netns>,
}

#[derive(Clone, Copy)]
struct Services {
    refused: SocketAddr,
    refused6: SocketAddr,
    answered: SocketAddr,
}

impl Services {
    fn of(scene: u8) -> Self {
        let ip = |host| IpAddr::V4(Ipv4Addr::new(10, 96, scene, host));
        let ip6 = Ipv6Addr::new(0xfd96, scene.into(), 0, 0, 0, 0, 0, REFUSED6);
        Self {
            refused: SocketAddr::new(ip(REFUSED), 80),
            refused6: SocketAddr::new(IpAddr::V6(ip6), 80),
            answered: SocketAddr::new(ip(ANSWERED), 80),
        }
    }
}

impl Scene {
    /// nginx in a network of its own, the endpoints in the host's.
    #[track_caller]
    fn in_a_pod(scene: u8) -> Self {
        need_root();
        let network = Netns::new();
        let veth = network.join(None);
        let Veth { near, near6, .. } = veth;
        network.ip(&format!("route add default via {near}"));
        network.ip(&format!("-6 route add default via {near6}"));
        let front = SocketAddr::new(veth.far, 8080);
        Self::build(scene, front, [near, near6], Some(network))
    }

    /// nginx in the host's network, as are the endpoints.
    #[track_caller]
    fn on_the_host(scene: u8) -> Self {
        need_root();
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let ip6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        Self::build(scene, ports::free(ip), [ip, ip6], None)
    }

    #[track_caller]
    fn build(scene: u8, front: SocketAddr, [ip, ip6]: [IpAddr; 2], network: Option<Netns>) -> Self {
        let services = Services::of(scene);
        let refusing = [Refusing::new(ip), Refusing::new(ip6)];
        let upstreams = Upstreams::start(ip, &["0", "0"], None);
        let nat = Nat::new(&[
            (services.refused, &[refusing[0].address]),
            (services.refused6, &[refusing[1].address]),
            (services.answered, &upstreams.addresses),
        ]);
        let Services {
            refused,
            refused6,
            answered,
        } = services;
        let direct = refusing[0].address;
        let http = format!(
            "upstream app {{ server {answered} max_fails=0; keepalive 8; }}
proxy_http_version 1.1;
proxy_set_header Connection '';
proxy_connect_timeout 2s;
proxy_read_timeout 2s;
server {{
    listen {front};
    location /refused/ {{ proxy_pass http://{refused}; }}
    location /refused6/ {{ proxy_pass http://{refused6}; }}
    location /fresh/ {{ proxy_pass http://{answered}; proxy_set_header Connection close; }}
    location /kept/ {{ proxy_pass http://app; }}
    location /direct/ {{ proxy_pass http://{direct}; }}
}}"
        );
        // One worker, which keeps its connections for all.
        let config = Config {
            workers: 1,
            ..Config::new(http)
        };
        let nginx = Nginx::start(&config, network.as_ref());
        Self {
            nginx,
            front,
            services,
            refusing,
            upstreams,
            _nat: nat,
            network,
        }
    }

    /// Where nginx is.
    #[track_caller]
    fn inside(&self) -> &Netns {
        self.network.as_ref().expect("it is in a pod")
    }

    /// Asks for this path, and gives what is told of it.
    #[track_caller]
    fn ask(&self, events: &Events, path: &str) -> Request {
        one_by_one(self.front, vec![Order::get(path)]);
        let mut told = events.of([path], SOON);
        told.remove(path).expect("it was told")
    }

    /// By their own word: the port of the server that got the request for this path.
    #[track_caller]
    fn servers(&self) -> BTreeMap<String, u16> {
        let served = self.upstreams.served().into_iter();
        served.map(|served| (served.target, served.port)).collect()
    }

    #[track_caller]
    fn assert_names_all(&self, agent: &Agent, events: &Events) {
        for (path, service, endpoint) in [
            (
                "/refused/1/ok",
                self.services.refused,
                self.refusing[0].address,
            ),
            (
                "/refused6/1/ok",
                self.services.refused6,
                self.refusing[1].address,
            ),
        ] {
            let request = self.ask(events, path);
            assert_eq!(request.cause.as_deref(), Some("connect_refused"));
            assert_eq!(request.certainty.as_deref(), Some("proof"));
            let attempt = only(&request);
            assert_eq!(attempt.upstream, service.to_string());
            assert_eq!(attempt.endpoint, Some(endpoint.to_string()), "{path}");
        }
        let direct = self.ask(events, "/direct/1/ok");
        assert_eq!(only(&direct).endpoint, None, "it is not translated");

        let paths: Vec<String> = (0..20).map(|n| format!("/fresh/{n}/reset")).collect();
        one_by_one(self.front, paths.iter().cloned().map(Order::get).collect());
        self.assert_as_served(events, &paths);
        assert_eq!(losses(agent), 0.0);
    }

    /// What is told of each of these is what the endpoints say themselves; both had their turns.
    #[track_caller]
    fn assert_as_served(&self, events: &Events, paths: &[String]) {
        let told = events.of(paths.iter().map(String::as_str), SOON);
        let servers = self.servers();
        let mut ports: Vec<u16> = Vec::new();
        for path in paths {
            let request = told.get(path).expect("it was told");
            let attempt = only(request);
            let port = *servers.get(path).expect("it was served");
            let ip = self.upstreams.addresses[0].ip();
            let endpoint = SocketAddr::new(ip, port).to_string();
            assert_eq!(attempt.endpoint, Some(endpoint), "{path}");
            assert_eq!(attempt.upstream, self.services.answered.to_string());
            ports.push(port);
        }
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 2, "both endpoints had their turns");
    }
}

fn only(request: &Request) -> &Attempt {
    let [attempt] = request.attempts.as_slice() else {
        panic!("one attempt was made: {request:?}");
    };
    attempt
}

#[track_caller]
fn losses(agent: &Agent) -> f64 {
    let stage = [("stage", "conntrack")];
    agent.metrics().sum("why502_agent_losses_total", &stage)
}

/// Translated connections that it remembers.
#[track_caller]
fn known(agent: &Agent) -> f64 {
    let what = [("what", "translations")];
    agent.metrics().sum("why502_agent_tracked", &what)
}

#[track_caller]
fn capability(agent: &Agent) -> Option<f64> {
    let metrics = agent.metrics();
    let mut found = metrics.of("why502_agent_capability", &CAPABILITY);
    found.next().map(|(_, value)| value)
}

#[test]
fn a_proxy_in_a_pod_is_told_with_the_endpoint_that_was_chosen() {
    let scene = Scene::in_a_pod(1);
    let agent = Agent::start(&ON);
    let events = agent.events();
    assert_eq!(capability(&agent), Some(1.0));

    scene.assert_names_all(&agent, &events);

    // It is evidence, and no label: a Service's series are its own.
    let metrics = agent.settled(SOON);
    let service = scene.services.refused.to_string();
    let failures = "why502_upstream_failures_total";
    assert_eq!(metrics.sum(failures, &[("upstream", &service)]), 1.0);
    let endpoint = scene.refusing[0].address.to_string();
    // By its own address it was asked once.
    assert_eq!(metrics.sum(failures, &[("upstream", &endpoint)]), 1.0);

    let find = format!("/api/v1/incidents?upstream={endpoint}&path=/refused/");
    let answer = http::get(agent.address, &find, "*/*").expect("it answers");
    let found: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(found["matched"], 1, "{found}");
    let agent_address = agent.address.to_string();
    let said = output_of(Command::new(binary()).args([
        "explain",
        "--agent",
        &agent_address,
        "--cause",
        "connect_refused",
    ]));
    let arrow = format!("upstream {service} → {endpoint}");
    assert!(said.contains(&arrow), "{arrow} is not in\n{said}");
}

/// Its packets are translated before the probes see them.
#[test]
fn a_proxy_on_the_host_is_told_with_the_endpoint_as_its_upstream() {
    let scene = Scene::on_the_host(2);
    let _route = Route::new(2);
    let agent = Agent::start(&ON);
    let events = agent.events();

    for (path, endpoint) in [
        ("/refused/1/ok", &scene.refusing[0]),
        ("/refused6/1/ok", &scene.refusing[1]),
    ] {
        let request = scene.ask(&events, path);
        assert_eq!(request.cause.as_deref(), Some("connect_refused"));
        let attempt = only(&request);
        assert_eq!(attempt.upstream, endpoint.address.to_string(), "{path}");
        assert_eq!(attempt.endpoint, None, "{path}");
    }
    let path = "/fresh/1/reset";
    let request = scene.ask(&events, path);
    let served = scene.servers();
    let port = *served.get(path).expect("it was served");
    let endpoint = SocketAddr::new(scene.upstreams.addresses[0].ip(), port);
    assert_eq!(only(&request).upstream, endpoint.to_string());
    assert_eq!(losses(&agent), 0.0);
}

/// A route of the host to the services of a scene; gone when dropped.
struct Route(Vec<String>);

impl Route {
    #[track_caller]
    fn new(scene: u8) -> Self {
        let routes = vec![
            format!("10.96.{scene}.0/24"),
            format!("fd96:{scene:x}::/32"),
        ];
        for route in &routes {
            output_of(Command::new("ip").args(["route", "add", "local", route, "dev", "lo"]));
        }
        Self(routes)
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        for route in &self.0 {
            let deleted = Command::new("ip")
                .args(["route", "del", "local", route, "dev", "lo"])
                .status();
            if !deleted.is_ok_and(|status| status.success()) {
                eprintln!("the route {route} is left over");
            }
        }
    }
}

#[test]
fn a_connection_from_before_the_agent_is_told_with_its_endpoint() {
    let scene = Scene::in_a_pod(3);
    one_by_one(scene.front, vec![Order::get("/kept/1/ok")]);
    let agent = Agent::start(&ON);
    let events = agent.events();

    let request = scene.ask(&events, "/kept/9/reset");

    let attempt = request.attempts.first().expect("an attempt was made");
    assert_ne!(attempt.reused, Some(false), "it was kept: {attempt:?}");
    let served = scene.upstreams.served();
    let served = served
        .iter()
        .find(|served| served.target == "/kept/9/reset");
    let port = served.expect("it was served").port;
    let endpoint = SocketAddr::new(scene.upstreams.addresses[0].ip(), port);
    assert_eq!(attempt.endpoint, Some(endpoint.to_string()));
}

#[test]
fn of_many_at_once_each_has_its_own_endpoint() {
    let scene = Scene::in_a_pod(4);
    let agent = Agent::start(&ON);
    let events = agent.events();
    let paths: Vec<Vec<String>> = (0..8)
        .map(|client| {
            (0..60)
                .map(|n| format!("/fresh/{client}-{n}/reset"))
                .collect()
        })
        .collect();

    std::thread::scope(|scope| {
        for paths in &paths {
            let orders = paths.iter().cloned().map(Order::get).collect();
            scope.spawn(|| one_by_one(scene.front, orders));
        }
    });

    scene.assert_as_served(&events, &paths.concat());
    assert_eq!(losses(&agent), 0.0);
    let known = known(&agent);
    assert!(known >= 480.0, "{known} known");
}

/// Those of others pass the host all the time, and fill the buffer.
#[test]
fn connections_of_others_are_heard_while_no_proxy_does_anything() {
    let scene = Scene::in_a_pod(8);
    let agent = Agent::start(&ON);
    let service = scene.services.refused;
    let others = scene.inside().run(move || {
        for _ in 0..15 {
            for _ in 0..1000 {
                let _refused = TcpStream::connect(service);
            }
            // Several rounds of the agent: as fast as can be is the next test.
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    others.join().expect("it does not panic");

    assert_eq!(losses(&agent), 0.0);
    let known = known(&agent);
    // Some have the ends of earlier ones: there are not so many free ports.
    assert!(known >= 8000.0, "{known} known");
}

/// More connections begin than the agent can hear of: it is counted. Where a connection leads that it
/// had met before stays known; what it knows by ends alone is dropped.
#[test]
fn what_a_burst_overruns_is_counted_and_nothing_old_is_told() {
    let scene = Scene::in_a_pod(7);
    let agent = Agent::start(&ON);
    let events = agent.events();
    let met = scene.ask(&events, "/kept/1/ok");
    let endpoint = only(&met).endpoint.clone();
    assert!(endpoint.is_some(), "{met:?}");

    // It hears nothing meanwhile.
    agent.signal(Signal::STOP);
    let service = scene.services.refused;
    let burst = scene.inside().run(move || {
        for _ in 0..30_000 {
            // Refused, each of them.
            let _refused = TcpStream::connect(service);
        }
    });
    burst.join().expect("it does not panic");
    agent.signal(Signal::CONT);

    eventually(SOON, "the loss is counted", || match losses(&agent) {
        0.0 => Err("nothing was lost".to_owned()),
        _ => Ok(()),
    });
    let known = known(&agent);
    // Its hash table is full at this number.
    assert!(known <= 28_672.0, "{known}");
    let old = scene.ask(&events, "/kept/2/reset");
    assert_eq!(old.attempts[0].reused, Some(true), "{old:?}");
    assert_eq!(old.attempts[0].endpoint, endpoint, "{old:?}");
    let new = scene.ask(&events, "/refused/1/ok");
    let endpoint = scene.refusing[0].address.to_string();
    assert_eq!(only(&new).endpoint, Some(endpoint));
    println!("{:?} overruns, {known} known", losses(&agent));
}

#[test]
fn the_pod_that_was_chosen_has_its_name_and_the_service_stays_the_label() {
    let scene = Scene::in_a_pod(5);
    let folder = TempDir::with_prefix("e2e-kubeconfig-").expect("a folder can be made");
    let cluster = cluster(&scene);
    let server = ApiServer::start(&cluster, 0);
    let agent = with_names(&server, folder.path(), &[]);
    let events = agent.events();
    eventually(SOON, "names are known", || {
        let name = [("name", "kubernetes")];
        match agent.metrics().sum("why502_agent_capability", &name) {
            1.0 => Ok(()),
            other => Err(format!("it is at {other}")),
        }
    });
    // Of itself, for names of Services are wanted.
    assert_eq!(capability(&agent), Some(1.0));

    let refused = scene.ask(&events, "/refused/1/ok");

    let attempt = only(&refused);
    let peer = &attempt.peer;
    assert_eq!(
        [&peer.namespace, &peer.service, &peer.pod].map(Option::as_deref),
        [Some("shop"), Some("cart"), Some("cart-7d9")],
        "{attempt:?}"
    );
    let metrics = agent.settled(SOON);
    let failures = "why502_upstream_failures_total";
    assert_eq!(metrics.sum(failures, &[("upstream", "shop/cart")]), 1.0);
    drop(agent);

    // Without it the service is known, and the pod is not.
    let agent = with_names(&server, folder.path(), &["--conntrack", "off"]);
    let events = agent.events();
    eventually(SOON, "names are known", || {
        let name = [("name", "kubernetes")];
        match agent.metrics().sum("why502_agent_capability", &name) {
            1.0 => Ok(()),
            other => Err(format!("it is at {other}")),
        }
    });
    let refused = scene.ask(&events, "/refused/2/ok");
    let attempt = only(&refused);
    assert_eq!(attempt.endpoint, None);
    assert_eq!(attempt.peer.service.as_deref(), Some("cart"));
    assert_eq!(attempt.peer.pod, None);
    assert_eq!(capability(&agent), None, "it is not wanted");
}

#[track_caller]
fn with_names(server: &ApiServer, folder: &Path, flags: &[&str]) -> Agent {
    let file = folder.join("kubeconfig");
    ApiServer::kubeconfig(server.address, None, &file);
    let flags = [&["--kubernetes", "--kubernetes-node", "node-a"], flags].concat();
    Agent::start_with(&[("KUBECONFIG", &file.to_string_lossy())], &flags)
}

/// `shop/cart`, whose only endpoint refuses; it is in a pod of another node.
fn cluster(scene: &Scene) -> Cluster {
    let cluster = Cluster::default();
    let ip = scene.services.refused.ip().to_string();
    let endpoint = scene.refusing[0].address;
    cluster.put(
        Kind::Service,
        json!({
            "metadata": {"namespace": "shop", "name": "cart"},
            "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
                "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]},
        }),
    );
    cluster.put(
        Kind::EndpointSlice,
        json!({
            "metadata": {"namespace": "shop", "name": "cart-x7k2p",
                "labels": {"kubernetes.io/service-name": "cart"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": endpoint.port(), "protocol": "TCP"}],
            "endpoints": [{"addresses": [endpoint.ip().to_string()], "nodeName": "node-b",
                "targetRef": {"kind": "Pod", "namespace": "shop", "name": "cart-7d9", "uid": "uid-of-cart"}}],
        }),
    );
    cluster
}

/// The agent in a network of its own, as in the chart: with the right to enter the host's, which
/// it gives up, it hears; without it, it says so and why.
#[test]
fn an_agent_in_a_network_of_its_own_needs_a_right_and_says_so() {
    let scene = Scene::in_a_pod(6);
    let network = Netns::new();
    let veth = network.join(None);
    let inside = |right: &str| {
        let mut command = command("setpriv", Some(&network));
        command.args([
            &format!("--bounding-set={right}sys_admin"),
            "--pdeathsig=KILL",
        ]);
        command.arg(binary());
        command
    };
    let flags = [ON.as_slice(), &["--api", "on"]].concat();

    let agent = Agent::start_in(veth.far, inside("+"), &flags);
    let events = agent.events();
    assert_eq!(capability(&agent), Some(1.0));
    let request = scene.ask(&events, "/refused/1/ok");
    let endpoint = scene.refusing[0].address.to_string();
    assert_eq!(only(&request).endpoint, Some(endpoint));
    // The agent itself has stayed where it was.
    let own = |pid| std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("it runs");
    assert_ne!(own(agent.pid()), own(std::process::id()));
    drop(agent);

    let agent = Agent::start_in(veth.far, inside("-"), &flags);
    let events = agent.events();
    assert_eq!(capability(&agent), Some(0.0));
    assert!(agent.log().contains("CAP_SYS_ADMIN"), "{}", agent.log());
    let request = scene.ask(&events, "/refused/2/ok");
    assert_eq!(request.cause.as_deref(), Some("connect_refused"));
    assert_eq!(only(&request).endpoint, None);
    assert_eq!(
        only(&request).upstream,
        scene.services.refused.to_string(),
        "the address stays"
    );
    drop(agent);

    for (right, wanted, state, code) in [
        ("+", true, "ok", 0),
        ("-", true, "off", 1),
        ("-", false, "ok", 0),
    ] {
        let mut doctor = inside(right);
        doctor.args(["doctor", "--json"]);
        if wanted {
            doctor.arg("--conntrack");
        }
        let output = doctor.output().expect("the doctor starts");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let findings = report["findings"].as_array().expect("findings");
        let found = findings
            .iter()
            .find(|finding| finding["name"] == "conntrack")
            .expect("it is looked at");
        assert_eq!(found["state"], state, "{found}");
        assert_eq!(output.status.code(), Some(code), "{report}");
        let words = found["words"].as_str().unwrap_or_default();
        assert_eq!(words.contains("hostNetwork"), right == "-", "{words}");
    }
    assert!(!scene.nginx.workers().is_empty());
}
