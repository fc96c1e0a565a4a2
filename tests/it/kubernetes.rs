//! Names from Kubernetes: a real agent and real traffic, with a stand-in for the API server.
//!
//! Pods have addresses of the loopback's 127.0.0.0/8, at which real servers listen; nginx is in a
//! cgroup as the kubelet makes it for a pod.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::agent::events::{Peer, Request};
use e2e::agent::metrics::Metrics;
use e2e::agent::{Agent, Events};
use e2e::cgroup::Cgroup;
use e2e::kubernetes::recorded::{self, pod};
use e2e::kubernetes::{ApiServer, Cluster, Kind};
use e2e::load::{Order, one_by_one};
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::{need_root, output_of};
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;
use serde_json::{Value, json};
use tempfile::TempDir;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PORT: u16 = 18080;
const NODE: &str = "node-a";
const PROXY_UID: &str = "7a1d4f0e-3c5b-4b1e-9f57-2f0c9ad1e6b4";
const PROXY_POD: &str = "ingress-55f4df4c45-aaaaa";
const PROXY_CONTAINER: &str = "4f2a9c1be7d04c55b1d3a6f8e09c7b12d4e5f60718293a4b5c6d7e8f90a1b2c3";
const ATTEMPTS: &str = "why502_upstream_responses_total";
const CAPABILITY: &str = "why502_agent_capability";
const KUBERNETES: [(&str, &str); 1] = [("name", "kubernetes")];
/// How long the agent may take to learn or to tell something. A server that is back is asked
/// within 15 s.
const SOON: Duration = Duration::from_secs(40);

/// Addresses of three pods and of a service.
const PODS: [&str; 3] = ["127.77.1.5", "127.77.1.6", "127.77.1.7"];
const CLUSTER_IP: &str = "127.77.96.7";

/// That of a service at which nobody listens, as where kube-proxy has no endpoint to lead to.
const REFUSING_IP: &str = "127.77.96.8";

/// An nginx with a location for each address (`/5/`, `/6/`, `/7/`, `/service/`, `/refusing/`), in a pod.
struct Stage {
    _upstreams: Vec<Upstreams>,
    nginx: Nginx,
    front: SocketAddr,
    _cgroup: Cgroup,
    asked: std::cell::Cell<usize>,
}

impl Stage {
    #[track_caller]
    fn build() -> Self {
        need_root();
        let all = PODS.iter().chain([&CLUSTER_IP]);
        let upstreams: Vec<Upstreams> = all
            .clone()
            .map(|ip| {
                let ip = ip.parse().expect("an address");
                Upstreams::start(ip, &[&PORT.to_string()], None)
            })
            .collect();
        let front = ports::free(LOCALHOST);
        let names = ["5", "6", "7", "service", "refusing"];
        let locations: String = names
            .iter()
            .zip(all.chain([&REFUSING_IP]))
            .map(|(name, ip)| format!("location /{name}/ {{ proxy_pass http://{ip}:{PORT}; }}\n"))
            .collect();
        let http = format!("server {{ listen {front};\n{locations}}}");
        let nginx = Nginx::start(&Config::new(http), None);
        let cgroup = Cgroup::of_pod(PROXY_UID, PROXY_CONTAINER, nginx.workers());
        Self {
            _upstreams: upstreams,
            nginx,
            front,
            _cgroup: cgroup,
            asked: std::cell::Cell::new(0),
        }
    }

    /// Asks one pod's address, and gives what is told of the request.
    #[track_caller]
    fn ask(&self, events: &Events, at: &str) -> Request {
        self.asked.set(self.asked.get() + 1);
        let path = format!("/{at}/{}/ok", self.asked.get());
        one_by_one(self.front, vec![Order::get(path.clone())]);
        let mut told = events.of([path.as_str()], SOON);
        told.remove(&path).expect("it was told")
    }

    #[track_caller]
    fn peer(&self, events: &Events, at: &str) -> Peer {
        let request = self.ask(events, at);
        let attempt = request.attempts.last().expect("an attempt was made");
        attempt.peer.clone()
    }

    /// Asks until the one behind the address is called `expected`.
    #[track_caller]
    fn until(&self, events: &Events, at: &str, expected: [Option<&str>; 3]) {
        eventually(SOON, "a name becomes known", || {
            let peer = self.peer(events, at);
            if words(&peer) == expected {
                Ok(())
            } else {
                Err(format!("{at} is {peer:?}, not yet {expected:?}"))
            }
        });
    }
}

/// Namespace, service, pod.
fn words(peer: &Peer) -> [Option<&str>; 3] {
    [&peer.namespace, &peer.service, &peer.pod].map(Option::as_deref)
}

const NOBODY: [Option<&str>; 3] = [None, None, None];

fn slice(service: &str, endpoints: &[(&str, &str)]) -> Value {
    recorded::slice(service, PORT, endpoints)
}

fn service(name: &str, ip: &str) -> Value {
    recorded::service(name, ip, PORT)
}

/// nginx's pod, and `orders` with two pods, one of them on this node.
fn cluster() -> Cluster {
    let cluster = Cluster::default();
    let mut ingress = pod(PROXY_POD, NODE, "127.77.1.1");
    ingress["metadata"]["uid"] = json!(PROXY_UID);
    ingress["metadata"]["namespace"] = json!("edge");
    ingress["metadata"]["ownerReferences"][0]["name"] = json!("ingress-55f4df4c45");
    cluster.put(Kind::Pod, ingress);
    cluster.put(Kind::Pod, pod("orders-1", NODE, PODS[0]));
    cluster.put(Kind::Pod, pod("orders-2", "node-b", PODS[1]));
    let endpoints = [(PODS[0], "orders-1"), (PODS[1], "orders-2")];
    cluster.put(Kind::EndpointSlice, slice("orders", &endpoints));
    cluster.put(Kind::Service, service("orders", CLUSTER_IP));
    // Lists have more than one page.
    for number in 0..5 {
        cluster.put(
            Kind::Service,
            service(&format!("other-{number}"), &format!("127.77.97.{number}")),
        );
    }
    cluster
}

#[track_caller]
fn agent(address: SocketAddr, folder: &Path, flags: &[&str]) -> Agent {
    let file = folder.join("kubeconfig");
    ApiServer::kubeconfig(address, None, &file);
    let flags = [&["--kubernetes", "--kubernetes-node", NODE], flags].concat();
    Agent::start_with(&[("KUBECONFIG", &file.to_string_lossy())], &flags)
}

#[track_caller]
fn until_current(agent: &Agent, current: f64) -> Metrics {
    eventually(SOON, "the capability shows how it is", || {
        let metrics = agent.metrics();
        match metrics.sum(CAPABILITY, &KUBERNETES) {
            found if found == current => Ok(metrics),
            found => Err(format!("it is at {found}")),
        }
    })
}

fn folder() -> TempDir {
    TempDir::with_prefix("e2e-kubeconfig-").expect("a temporary folder can be made")
}

#[test]
fn pods_and_services_have_their_names_while_they_are_there() {
    let stage = Stage::build();
    let (cluster, folder) = (cluster(), folder());
    let server = ApiServer::start(&cluster, 0);
    let agent = agent(server.address, folder.path(), &["--identity-labels", "pod"]);
    let events = agent.events();
    until_current(&agent, 1.0);

    // On this node, on another one, behind a service's own address, and nobody's.
    let first = stage.ask(&events, "5");
    assert_eq!(
        words(&first.attempts[0].peer),
        [Some("shop"), Some("orders"), Some("orders-1")]
    );
    assert_eq!(
        words(&stage.peer(&events, "6")),
        [Some("shop"), Some("orders"), Some("orders-2")]
    );
    assert_eq!(
        words(&stage.peer(&events, "service")),
        [Some("shop"), Some("orders"), None]
    );
    assert_eq!(words(&stage.peer(&events, "7")), NOBODY);
    // nginx is in a pod by its cgroup.
    let proxy = &first.proxy;
    assert!(stage.nginx.workers().contains(&proxy.pid));
    assert_eq!(proxy.container.as_deref(), Some(PROXY_CONTAINER));
    assert_eq!(proxy.namespace.as_deref(), Some("edge"));
    assert_eq!(proxy.pod.as_deref(), Some(PROXY_POD));
    assert_eq!(proxy.workload.as_deref(), Some("Deployment/ingress"));

    let metrics = agent.settled(SOON);
    let labels = [
        "upstream",
        "proxy_namespace",
        "proxy_workload",
        "proxy_pod",
        "upstream_namespace",
        "upstream_pod",
    ];
    let told = metrics.by(ATTEMPTS, &[], &labels);
    let proxy = ["edge", "Deployment/ingress", PROXY_POD];
    let series = |upstream: &str, place: [&str; 2]| {
        let all = [[upstream].as_slice(), &proxy, &place].concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let nobody = format!("{}:{PORT}", PODS[2]);
    for expected in [
        series("shop/orders", ["shop", "orders-1"]),
        series("shop/orders", ["shop", "orders-2"]),
        series("shop/orders", ["shop", ""]),
        series(&nobody, ["", ""]),
    ] {
        assert_eq!(told.get(&expected), Some(&1), "{expected:?} of {told:?}");
    }
    assert_eq!(told.len(), 4, "{told:?}");

    // Pods of other nodes were not asked for.
    let asked = cluster.asked();
    let pods = asked.iter().filter(|path| path.contains("/pods"));
    for path in pods {
        assert!(
            path.contains("spec.nodeName") && path.contains(NODE),
            "{path}"
        );
    }

    // An endpoint goes: its address has no name any more, and its series end.
    cluster.put(
        Kind::EndpointSlice,
        slice("orders", &[(PODS[0], "orders-1")]),
    );
    stage.until(&events, "6", NOBODY);
    let metrics = agent.settled(SOON);
    assert_eq!(metrics.sum(ATTEMPTS, &[("upstream_pod", "orders-2")]), 0.0);
    assert!(metrics.sum(ATTEMPTS, &[("upstream", &format!("{}:{PORT}", PODS[1]))]) >= 1.0);
    assert_eq!(metrics.sum(ATTEMPTS, &[("upstream_pod", "orders-1")]), 1.0);
}

#[test]
fn of_a_service_that_refuses_it_is_told_how_many_endpoints_are_ready() {
    let stage = Stage::build();
    let (cluster, folder) = (cluster(), folder());
    cluster.put(Kind::Service, service("cart", REFUSING_IP));
    let server = ApiServer::start(&cluster, 0);
    let agent = agent(server.address, folder.path(), &[]);
    let events = agent.events();
    until_current(&agent, 1.0);
    let mut endpoint = slice("cart", &[(PODS[2], "cart-1")]);

    for ready in [0, 1, 0] {
        endpoint["endpoints"][0]["conditions"]["ready"] = json!(ready == 1);
        cluster.put(Kind::EndpointSlice, endpoint.clone());
        eventually(SOON, "it is told how many there are", || {
            let request = stage.ask(&events, "refusing");
            let attempt = request.attempts.last().expect("an attempt was made");
            assert_eq!(request.code, Some(502));
            assert_eq!(attempt.cause.as_deref(), Some("connect_refused"));
            match attempt.ready_endpoints {
                Some(found) if found == ready => {}
                found => return Err(format!("{found:?}, not yet {ready}")),
            }
            let fix = attempt.fix.as_deref().unwrap_or_default();
            assert_eq!(fix.starts_with("No endpoint"), ready == 0, "{fix}");
            Ok(())
        });
    }
    let answered = stage.ask(&events, "service");
    assert_eq!(answered.attempts[0].ready_endpoints, None);

    // Nothing is said while the API server is away.
    drop(server);
    until_current(&agent, 0.0);
    let request = stage.ask(&events, "refusing");
    assert_eq!(request.attempts[0].ready_endpoints, None);
}

#[test]
fn an_address_used_again_has_its_new_name_and_never_the_old_one() {
    let stage = Stage::build();
    let (cluster, folder) = (cluster(), folder());
    let server = ApiServer::start(&cluster, 0);
    let agent = agent(server.address, folder.path(), &["--identity-labels", "pod"]);
    let events = agent.events();
    until_current(&agent, 1.0);
    stage.until(
        &events,
        "5",
        [Some("shop"), Some("orders"), Some("orders-1")],
    );

    let mut owner = "orders-1".to_owned();
    for round in 0..6 {
        // The pod goes, and its slice is late in half of the rounds.
        cluster.delete(Kind::Pod, &format!("shop/{owner}"));
        let is_late = round % 2 == 1;
        if !is_late {
            cluster.put(Kind::EndpointSlice, slice("orders", &[]));
            stage.until(&events, "5", NOBODY);
        }
        if round == 2 {
            cluster.bookmark();
        }
        let next = format!("cart-{round}");
        cluster.put(Kind::Pod, pod(&next, NODE, PODS[0]));
        stage.until(&events, "5", [Some("shop"), None, Some(&next)]);
        cluster.put(Kind::EndpointSlice, slice("orders", &[(PODS[0], &next)]));
        stage.until(&events, "5", [Some("shop"), Some("orders"), Some(&next)]);
        for _ in 0..5 {
            let peer = stage.peer(&events, "5");
            assert_eq!(peer.pod.as_deref(), Some(next.as_str()));
        }
        owner = next;
    }

    // Of all owners only the last has series: those of the others ended.
    let metrics = agent.settled(SOON);
    let owners = metrics.by(ATTEMPTS, &[("upstream", "shop/orders")], &["upstream_pod"]);
    assert_eq!(owners.keys().flatten().collect::<Vec<_>>(), [&owner]);
}

#[test]
fn a_pod_in_the_hosts_network_does_not_name_the_hosts_address() {
    let stage = Stage::build();
    let (cluster, folder) = (cluster(), folder());
    let mut on_host = pod("exporter-1", NODE, PODS[2]);
    on_host["spec"]["hostNetwork"] = json!(true);
    cluster.put(Kind::Pod, on_host);
    let server = ApiServer::start(&cluster, 0);
    let agent = agent(server.address, folder.path(), &[]);
    let events = agent.events();
    until_current(&agent, 1.0);

    assert_eq!(words(&stage.peer(&events, "7")), NOBODY);
    // Without levels there are names, and no labels of their own.
    stage.until(
        &events,
        "5",
        [Some("shop"), Some("orders"), Some("orders-1")],
    );
    let text = agent.metrics_text();
    assert!(text.contains("upstream=\"shop/orders\""), "{text}");
    assert!(
        !text.contains("_namespace=") && !text.contains("_pod="),
        "{text}"
    );
}

#[test]
fn an_api_server_that_is_away_delays_nothing_and_is_found_when_it_is_there() {
    let stage = Stage::build();
    let (cluster, folder) = (cluster(), folder());
    let address = ports::free(LOCALHOST);
    let agent = agent(address, folder.path(), &[]);
    let events = agent.events();
    let by_address = [("upstream", format!("{}:{PORT}", PODS[0]))];
    let by_address = [(by_address[0].0, by_address[0].1.as_str())];

    // Not there yet.
    until_current(&agent, 0.0);
    assert_eq!(words(&stage.peer(&events, "5")), NOBODY);
    let metrics = agent.settled(SOON);
    assert_eq!(metrics.sum(ATTEMPTS, &by_address), 1.0);

    // There.
    let server = ApiServer::start(&cluster, address.port());
    until_current(&agent, 1.0);
    stage.until(
        &events,
        "5",
        [Some("shop"), Some("orders"), Some("orders-1")],
    );

    // Away: at once that shows, soon what was known is dropped, and requests are told all along.
    drop(server);
    until_current(&agent, 0.0);
    stage.until(&events, "5", NOBODY);
    // The proxy is who it was: a uid is never used again.
    let proxy = stage.ask(&events, "5").proxy;
    assert_eq!(proxy.pod.as_deref(), Some(PROXY_POD));
    // Back, and meanwhile the address was given away.
    cluster.delete(Kind::Pod, "shop/orders-1");
    cluster.put(Kind::Pod, pod("cart-1", NODE, PODS[0]));
    cluster.put(Kind::EndpointSlice, slice("orders", &[]));
    let _server = ApiServer::start(&cluster, address.port());
    until_current(&agent, 1.0);
    stage.until(&events, "5", [Some("shop"), None, Some("cart-1")]);

    // Of all the tries in between nothing is logged.
    let log = agent.log();
    let count = |words: &str| log.matches(words).count();
    assert_eq!(count("ERROR"), 0, "{log}");
    assert_eq!(count("the API server cannot be asked"), 2, "{log}");
    assert_eq!(count("names of pods and services are known"), 2, "{log}");
}

#[test]
fn without_a_kind_the_others_give_their_names_and_the_log_says_which_is_missing() {
    let stage = Stage::build();
    let (cluster, folder) = (cluster(), folder());
    let server = ApiServer::start(&cluster, 0);
    // Before Kubernetes 1.21 there was no discovery.k8s.io/v1.
    cluster.omit(Kind::EndpointSlice, true);
    let agent = agent(server.address, folder.path(), &[]);
    let events = agent.events();

    stage.until(&events, "5", [Some("shop"), None, Some("orders-1")]);
    stage.until(&events, "service", [Some("shop"), Some("orders"), None]);
    until_current(&agent, 0.0);
    cluster.omit(Kind::EndpointSlice, false);
    until_current(&agent, 1.0);
    // The right to read services is taken away: what was known of them is used for some seconds.
    cluster.forbid(Kind::Service, true);
    stage.until(&events, "service", NOBODY);
    cluster.forbid(Kind::Service, false);
    stage.until(&events, "service", [Some("shop"), Some("orders"), None]);

    let log = agent.log();
    for (words, times) in [
        ("does not tell of endpointslices", 1),
        ("Kubernetes 1.21 and newer", 1),
        ("does not tell of services", 1),
        ("is forbidden: User", 1),
        ("cannot be asked", 0),
    ] {
        assert_eq!(log.matches(words).count(), times, "{words}: {log}");
    }
}

#[test]
fn an_api_server_that_falls_silent_is_noticed() {
    need_root();
    let folder = folder();
    let cluster = cluster();
    let server = ApiServer::start(&cluster, 0);
    let agent = agent(server.address, folder.path(), &[]);
    until_current(&agent, 1.0);

    cluster.freeze(true);
    until_current(&agent, 0.0);

    cluster.freeze(false);
    until_current(&agent, 1.0);
}

#[test]
fn a_watch_that_is_cut_is_resumed_and_one_that_is_too_old_is_listed_again() {
    let stage = Stage::build();
    let (cluster, folder) = (cluster(), folder());
    let server = ApiServer::start(&cluster, 0);
    let agent = agent(server.address, folder.path(), &[]);
    let events = agent.events();
    until_current(&agent, 1.0);
    stage.until(
        &events,
        "5",
        [Some("shop"), Some("orders"), Some("orders-1")],
    );
    let lists = || {
        let asked = cluster.asked();
        let lists = asked.iter().filter(|path| !path.contains("watch=true"));
        lists.filter(|path| path.contains("/pods")).count()
    };
    let listed = lists();

    // Cut in the middle of a line, and the address changes hands before the watch is back.
    cluster.cut_watches();
    cluster.delete(Kind::Pod, "shop/orders-1");
    cluster.put(Kind::Pod, pod("cart-1", NODE, PODS[0]));
    stage.until(&events, "5", [Some("shop"), None, Some("cart-1")]);
    assert_eq!(lists(), listed, "a watch is resumed, not begun anew");

    // Cut, and the server has forgotten what changed since.
    cluster.cut_watches();
    cluster.delete(Kind::Pod, "shop/cart-1");
    cluster.put(Kind::Pod, pod("cart-2", NODE, PODS[0]));
    cluster.compact();
    stage.until(&events, "5", [Some("shop"), None, Some("cart-2")]);
    assert!(lists() > listed, "410 makes it list again");

    // The same as an error within the watch.
    let listed = lists();
    eventually(SOON, "all kinds are watched again", || {
        match cluster.watches() {
            3 => Ok(()),
            some => Err(format!("{some} are")),
        }
    });
    cluster.expire_watches();
    cluster.delete(Kind::Pod, "shop/cart-2");
    cluster.put(Kind::Pod, pod("cart-3", NODE, PODS[0]));
    stage.until(&events, "5", [Some("shop"), None, Some("cart-3")]);
    assert!(lists() > listed, "410 makes it list again");
    until_current(&agent, 1.0);
}

/// As in a cluster: TLS with the cluster's own authority, and a token. nginx speaks the TLS.
#[test]
fn over_tls_the_authority_is_checked_and_the_token_is_sent() {
    let stage = Stage::build();
    let (cluster, folder) = (cluster(), folder());
    cluster.require("the-token");
    let server = ApiServer::start(&cluster, 0);
    let [authority, other] = ["authority", "other"].map(|name| certificate(folder.path(), name));
    let front = ports::free(LOCALHOST);
    let http = format!(
        "server {{ listen {front} ssl; ssl_certificate {0}; ssl_certificate_key {0}.key;\n\
         location / {{ proxy_pass http://{1}; proxy_buffering off; proxy_http_version 1.1;\n\
         proxy_set_header Connection ''; }} }}",
        authority.display(),
        server.address
    );
    let _tls = Nginx::start(&Config::new(http), None);
    let (config, token) = (folder.path().join("config"), folder.path().join("token"));
    let start = |authority: &Path| {
        ApiServer::kubeconfig(front, Some((authority, &token)), &config);
        let variables = [("KUBECONFIG", config.to_str().expect("a path in UTF-8"))];
        Agent::start_with(&variables, &["--kubernetes", "--kubernetes-node", NODE])
    };

    // Not the authority that signed it: nothing is asked.
    fs::write(&token, "the-token").expect("it is written");
    let agent = start(&other);
    eventually(SOON, "the agent says why", || match agent.log() {
        log if log.contains("certificate") => Ok(()),
        log => Err(log),
    });
    assert_eq!(cluster.asked(), Vec::<String>::new());
    until_current(&agent, 0.0);
    drop(agent);

    // Not the token.
    fs::write(&token, "another-token").expect("it is written");
    let agent = start(&authority);
    eventually(SOON, "the agent says why", || match agent.log() {
        log if log.contains("Unauthorized") => Ok(()),
        log => Err(log),
    });
    until_current(&agent, 0.0);
    drop(agent);

    fs::write(&token, "the-token").expect("it is written");
    let agent = start(&authority);
    let events = agent.events();
    until_current(&agent, 1.0);
    stage.until(
        &events,
        "5",
        [Some("shop"), Some("orders"), Some("orders-1")],
    );
}

/// A certificate for 127.0.0.1 that is its own authority, with its key beside it.
#[track_caller]
fn certificate(folder: &Path, name: &str) -> PathBuf {
    let file = folder.join(name);
    output_of(
        Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-out")
            .arg(&file)
            .arg("-keyout")
            .arg(folder.join(format!("{name}.key"))),
    );
    file
}
