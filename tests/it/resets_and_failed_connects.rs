//! Resets and failed connects as the agent counts them, beside the kernel's own counters and
//! a packet capture of the same run, in namespaces where nothing else happens.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::Line;
use e2e::agent::metrics::Metrics;
use e2e::churn::sysctl;
use e2e::kernel::capture::Capture;
use e2e::kernel::pcap::Segment;
use e2e::kernel::{counters, grown};
use e2e::load::{Client, Order, Outcome, one_by_one, runtime};
use e2e::netns::{Netns, Veth};
use e2e::nginx::{Config, Nginx};
use e2e::process::need_root;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

const NGINX: (&str, &str) = ("proxy", "nginx");
/// Nobody listens here.
const REFUSED: u16 = 9001;
/// SYNs to this port are swallowed.
const DARK: u16 = 9002;
/// Connects to these are answered by ICMP: no such port, no such host.
const NO_PORT: u16 = 9005;
const NO_HOST: u16 = 9006;
/// Upstream servers.
const APP: u16 = 9003;
const RACING: u16 = 9004;
/// Where nginx listens in its namespace.
const PROXY: u16 = 8080;
/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(20);

/// A namespace with nginx, one with upstreams, a veth pair between.
struct Scene {
    nginx: Nginx,
    _upstreams: Upstreams,
    veth: Veth,
    proxy: Netns,
    upstream: Netns,
}

impl Scene {
    fn build(connect_timeout: &str) -> Self {
        need_root();
        let (proxy, upstream) = (Netns::new(), Netns::new());
        let veth = upstream.join(Some(&proxy));
        upstream.swallow(DARK);
        for (port, icmp) in [(NO_PORT, "port-unreachable"), (NO_HOST, "host-unreachable")] {
            upstream.filter(&format!("tcp dport {port} reject with icmp {icmp}"));
        }
        sysctl(&upstream, "net/ipv4/icmp_ratelimit", "0");
        let far = veth.far;
        let ports = [format!("{APP}"), format!("{RACING}=ok,idle=300")];
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        let upstreams = Upstreams::start(far, &ports, Some(&upstream));
        let http = format!(
            "proxy_http_version 1.1;
proxy_set_header Connection '';
proxy_connect_timeout {connect_timeout};
proxy_read_timeout 1s;
proxy_next_upstream off;
upstream app {{ server {far}:{APP} max_fails=0; keepalive 8; }}
upstream racing {{ server {far}:{RACING} max_fails=0; keepalive 8; }}
server {{
    listen 127.0.0.1:{PROXY};
    location /app/ {{ proxy_pass http://app; }}
    location /racing/ {{ proxy_pass http://racing; }}
    location /refused/ {{ proxy_pass http://{far}:{REFUSED}; }}
    location /dark/ {{ proxy_pass http://{far}:{DARK}; }}
    location /no_port/ {{ proxy_pass http://{far}:{NO_PORT}; }}
    location /no_host/ {{ proxy_pass http://{far}:{NO_HOST}; }}
}}"
        );
        let config = Config {
            workers: 1,
            ..Config::new(http)
        };
        Self {
            nginx: Nginx::start(&config, Some(&proxy)),
            _upstreams: upstreams,
            veth,
            proxy,
            upstream,
        }
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.veth.far, port)
    }

    /// Asks nginx from within its namespace, one request after the other.
    #[expect(clippy::expect_used, reason = "a client that panics has said why")]
    fn ask(&self, orders: Vec<Order>) -> Vec<Outcome> {
        let nginx = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), PROXY);
        self.proxy
            .run(move || one_by_one(nginx, orders))
            .join()
            .expect("the client does not panic")
    }
}

/// `count` orders with paths of their own.
fn orders(location: &str, words: &str, count: usize) -> Vec<Order> {
    (0..count)
        .map(|number| Order::get(format!("/{location}/{number}/{words}")))
        .collect()
}

fn between(
    segments: &[Segment],
    from: Option<IpAddr>,
    to: Option<SocketAddr>,
) -> impl Iterator<Item = &Segment> {
    segments.iter().filter(move |segment| {
        from.is_none_or(|from| segment.from.ip() == from) && to.is_none_or(|to| segment.to == to)
    })
}

fn resets(metrics: &Metrics, direction: &str) -> f64 {
    metrics.sum(
        "why502_tcp_resets_total",
        &[NGINX, ("direction", direction)],
    )
}

/// What an ICMP says, nginx may hear from the kernel at once, or ask the socket for.
#[test]
fn what_an_icmp_says_of_a_connect_is_what_nginx_logs() {
    let scene = Scene::build("1s");
    let agent = Agent::start(&[]);
    let count = 20;
    let asked: Vec<Order> = ["no_port", "no_host"]
        .iter()
        .flat_map(|location| orders(location, "ok", count))
        .collect();

    scene.ask(asked);

    let metrics = agent.settled(TELL);
    let log = scene.nginx.error_log();
    for (location, errno, cause) in [
        ("/no_port/", 111, "connect_refused"),
        ("/no_host/", 113, "host_unreachable"),
    ] {
        let logged = log
            .iter()
            .filter(|line| line.path.starts_with(location) && line.errno == Some(errno))
            .count();
        let told = metrics.sum("why502_upstream_failures_total", &[NGINX, ("cause", cause)]);
        println!("{location}: {logged} with errno {errno}, {told} told as {cause}");
        assert_eq!(logged, count, "{location}: {log:?}");
        assert_eq!(told, logged as f64, "{location}");
    }
}

#[test]
fn refused_connects_equal_the_failed_attempts_of_the_kernel() {
    let scene = Scene::build("1s");
    let agent = Agent::start(&[]);
    let before = counters(&scene.proxy);

    let outcomes = scene.ask(orders("refused", "ok", 25));

    assert!(
        outcomes.iter().all(|outcome| outcome.is(502)),
        "{outcomes:?}"
    );
    let metrics = agent.settled(TELL);
    let failed = grown("TcpAttemptFails", &before, &counters(&scene.proxy));
    assert_eq!(failed, 25, "the kernel counts each refused connect");
    let name = "why502_tcp_connects_total";
    assert_eq!(
        metrics.sum(name, &[NGINX, ("result", "refused")]),
        failed as f64
    );
    assert_eq!(
        metrics.sum(name, &[NGINX]),
        failed as f64,
        "no other result"
    );
    let upstream = scene.at(REFUSED).to_string();
    let failures = metrics.sum(
        "why502_upstream_failures_total",
        &[
            NGINX,
            ("upstream", &upstream),
            ("cause", "connect_refused"),
            ("phase", "connect"),
        ],
    );
    assert_eq!(failures, failed as f64);
}

#[test]
fn resets_equal_the_capture_and_the_counters_of_both_kernels() {
    let scene = Scene::build("1s");
    let agent = Agent::start(&[]);
    let capture = Capture::start(&scene.veth.near_interface, Some(&scene.proxy));
    let (proxy, upstream) = (counters(&scene.proxy), counters(&scene.upstream));

    let mut asked = orders("refused", "ok", 7);
    asked.extend(orders("app", "reset", 10));
    asked.extend(orders("app", "unread", 10));
    asked.extend(orders("app", "body=9000,cut=500,by=rst", 6));
    // nginx gives up on a head of more than a page and closes with the rest unread.
    asked.extend(orders("app", "pad=9000", 5));
    asked.extend(orders("app", "ok", 20));
    asked.extend(orders("app", "close", 5));
    let count = asked.len();
    let outcomes = scene.ask(asked);
    assert_eq!(outcomes.len(), count);

    let metrics = agent.settled(TELL);
    let segments = capture.stop();
    let far = scene.veth.far;
    let captured_in = between(&segments, Some(far), None)
        .filter(|segment| segment.is_reset())
        .count();
    let captured_out = between(&segments, Some(scene.veth.near), None)
        .filter(|segment| segment.is_reset())
        .count();
    let sent_by_upstream = grown("TcpOutRsts", &upstream, &counters(&scene.upstream));
    let sent_by_proxy = grown("TcpOutRsts", &proxy, &counters(&scene.proxy));
    println!(
        "resets in: capture {captured_in}, upstream's kernel {sent_by_upstream}; out: capture \
         {captured_out}, proxy's kernel {sent_by_proxy}"
    );
    println!(
        "{:?}",
        metrics.by(
            "why502_tcp_resets_total",
            &[NGINX],
            &["upstream", "direction", "phase"]
        )
    );

    assert_eq!(
        captured_in as u64, sent_by_upstream,
        "capture and upstream's kernel agree"
    );
    assert_eq!(
        captured_out as u64, sent_by_proxy,
        "capture and proxy's kernel agree"
    );
    assert_eq!(
        resets(&metrics, "received"),
        captured_in as f64,
        "resets received"
    );
    assert_eq!(resets(&metrics, "sent"), captured_out as f64, "resets sent");
}

#[test]
fn connects_and_syns_equal_the_capture() {
    let scene = Scene::build("2500ms");
    let agent = Agent::start(&[]);
    let capture = Capture::start(&scene.veth.near_interface, Some(&scene.proxy));

    let mut asked = orders("app", "ok,last", 12);
    asked.extend(orders("dark", "ok", 3));
    asked.extend(orders("refused", "ok", 4));
    scene.ask(asked);

    let metrics = agent.settled(TELL);
    let segments = capture.stop();
    for (port, result) in [
        (APP, "established"),
        (DARK, "timeout_proxy"),
        (REFUSED, "refused"),
    ] {
        let to = scene.at(port);
        let syns: Vec<&Segment> = between(&segments, None, Some(to))
            .filter(|segment| segment.is_syn())
            .collect();
        let connects = syns
            .iter()
            .map(|syn| syn.from)
            .collect::<BTreeSet<_>>()
            .len();
        let upstream = to.to_string();
        let of = [NGINX, ("upstream", upstream.as_str())];
        println!("{to}: {} SYNs of {connects} connects", syns.len());
        let told = metrics.by("why502_tcp_connects_total", &of, &["result"]);
        assert_eq!(
            told.values().sum::<u64>(),
            connects as u64,
            "connects to {to}: {told:?}"
        );
        assert_eq!(told.len(), 1, "{to} has one result, {result}: {told:?}");
        assert_eq!(
            metrics.sum("why502_tcp_syn_retransmits_total", &of),
            (syns.len() - connects) as f64,
            "SYNs sent again to {to}"
        );
    }
    let upstream = scene.at(DARK).to_string();
    let gave_up = |who| {
        let with = [NGINX, ("upstream", upstream.as_str()), ("gave_up", who)];
        metrics.sum("why502_tcp_syn_timeouts_total", &with)
    };
    assert_eq!((gave_up("proxy"), gave_up("kernel")), (3.0, 0.0));
    let silent = between(&segments, Some(scene.veth.far), None)
        .filter(|segment| segment.from == scene.at(DARK))
        .count();
    assert_eq!(silent, 0, "the dark port says nothing");
}

#[test]
fn a_connect_that_the_kernel_gives_up_is_told_from_one_that_nginx_gives_up() {
    let scene = Scene::build("60s");
    // One SYN and one more, then ETIMEDOUT.
    let sysctl = scene
        .proxy
        .run(|| std::fs::write("/proc/sys/net/ipv4/tcp_syn_retries", "1"));
    sysctl
        .join()
        .expect("no panic")
        .expect("root may set how often a SYN is sent again");
    let agent = Agent::start(&[]);

    let outcomes = scene.ask(orders("dark", "ok", 2));

    assert!(
        outcomes.iter().all(|outcome| outcome.is(502)),
        "{outcomes:?}"
    );
    let metrics = agent.settled(TELL);
    let gave_up = |who| metrics.sum("why502_tcp_syn_timeouts_total", &[NGINX, ("gave_up", who)]);
    // There are machines whose kernel runs no probe in an interrupt that hits the first process.
    let missed = metrics.sum("why502_agent_losses_total", &[("what", "state_missed")]);
    println!("{missed} not seen");
    assert_eq!((gave_up("proxy"), gave_up("kernel")), (0.0, 2.0 - missed));
    let errors = metrics.by("why502_gateway_errors_total", &[NGINX], &["code", "cause"]);
    let of = |cause: &str| {
        errors
            .get(&vec!["502".to_owned(), cause.to_owned()])
            .copied()
    };
    let told = of("connect_timeout").unwrap_or(0) + of("unattributed").unwrap_or(0);
    assert_eq!(told, 2, "{errors:?}");
    assert_eq!(of("unattributed").unwrap_or(0) as f64, missed, "{errors:?}");
}

#[test]
fn a_race_with_the_upstreams_idle_timeout_is_proven() {
    let scene = Scene::build("1s");
    let agent = Agent::start(&[]);
    let events = agent.events();
    let capture = Capture::start(&scene.veth.near_interface, Some(&scene.proxy));
    let nginx = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), PROXY);
    let workers = scene.nginx.workers().to_vec();
    let racing = scene.at(RACING);

    // The upstream closes after 300 ms of idling. nginx sleeps when that FIN arrives, and has
    // the client's next request before it: it takes the connection for a good one.
    let client = scene.proxy.run(move || {
        runtime().block_on(async move {
            let mut client = Client::new(nginx);
            let first = client.ask(&Order::get("/racing/1/ok")).await;
            assert!(first.is(200), "{first:?}");
            let signal = |signal| {
                workers
                    .iter()
                    .for_each(|worker| e2e::process::signal(*worker, signal))
            };
            signal(rustix::process::Signal::STOP);
            let second =
                tokio::spawn(async move { client.ask(&Order::post("/racing/2/ok", 10)).await });
            tokio::task::spawn_blocking(move || {
                eventually(
                    Duration::from_secs(5),
                    "the upstream's FIN is there",
                    || {
                        // This thread is of the runtime: the namespace is that of its creator.
                        let sockets = std::fs::read_to_string("/proc/thread-self/net/tcp")
                            .unwrap_or_default();
                        let port = format!(":{:04X} 08", racing.port());
                        if sockets.contains(&port) {
                            Ok(())
                        } else {
                            Err(sockets)
                        }
                    },
                );
            })
            .await
            .expect("the FIN arrives");
            signal(rustix::process::Signal::CONT);
            second.await.expect("the client does not panic")
        })
    });
    let outcome = client.join().expect("the client does not panic");

    assert!(outcome.is(502), "nginx does not repeat a POST: {outcome:?}");
    let segments = capture.stop();
    let fin = between(&segments, None, None)
        .find(|segment| segment.from == racing && segment.is_fin())
        .expect("the upstream closed");
    let request = between(&segments, None, Some(racing))
        .filter(|segment| segment.length > 0)
        .last()
        .expect("the second request was sent");
    assert!(
        fin.time < request.time && fin.acknowledgment == request.sequence,
        "it was a race"
    );
    let answered_by = between(&segments, None, None).find(|segment| {
        segment.from == racing && segment.time >= request.time && segment.is_reset()
    });
    assert!(
        answered_by.is_some_and(|reset| !reset.has_ack()),
        "the kernel of the upstream knows the connection no more: {answered_by:?}"
    );
    let told = eventually(TELL, "the failed request is told", || {
        let found = events.so_far().into_iter().find_map(|line| match line {
            Line::Request(request) if request.path.as_deref() == Some("/racing/2/ok") => {
                Some(request)
            }
            _ => None,
        });
        found.ok_or_else(|| format!("{:?}", events.so_far()))
    });
    assert_eq!(told.cause.as_deref(), Some("keepalive_race"), "{told:?}");
    assert_eq!(told.certainty.as_deref(), Some("proof"), "{told:?}");
    let attempt = told.attempts.first().expect("it has an attempt");
    assert_eq!(attempt.reused, Some(true));
    let idle = attempt
        .idle_seconds
        .expect("idle time of a reused connection");
    assert!((0.29..2.0).contains(&idle), "idle for {idle} s");
}

#[test]
fn why_an_upstream_on_this_host_sent_rst_is_told_where_its_kernel_says_so() {
    let scene = Scene::build("1s");
    let agent = Agent::start(&[]);
    let events = agent.events();
    let asked = ["/app/1/unread", "/app/2/reset"];

    let outcomes = scene.ask(asked.iter().copied().map(Order::get).collect());

    assert!(outcomes.iter().all(|outcome| outcome.is(502)));
    let reasons = eventually(TELL, "both are told", || {
        let reason_of = |path: &str| {
            let so_far = events.so_far();
            so_far.into_iter().find_map(|line| match line {
                Line::Request(request) if request.path.as_deref() == Some(path) => {
                    let evidence = &request.attempts.first()?.evidence;
                    Some(evidence["reset_reason"].as_str().map(str::to_owned))
                }
                _ => None,
            })
        };
        let found: Option<Vec<_>> = asked.iter().map(|path| reason_of(path)).collect();
        found.ok_or_else(|| "not yet".to_owned())
    });
    let expected = if kernel_gives_reasons() {
        [Some("tcp_abort_on_close"), Some("tcp_state")]
    } else {
        [None, None]
    };
    let reasons: Vec<Option<&str>> = reasons.iter().map(Option::as_deref).collect();
    assert_eq!(reasons, expected);
}

/// Since Linux 6.10 `tcp_send_reset` has one.
fn kernel_gives_reasons() -> bool {
    std::fs::read_to_string("/sys/kernel/tracing/events/tcp/tcp_send_reset/format")
        .is_ok_and(|format| format.contains("sk_rst_reason"))
}
