//! The kernel gives up before nginx does: on SYNs that nobody answers, on segments that nobody
//! acknowledges, on keep-alive probes. Beside each, where there is one, the same fault with
//! nginx's timer as the one that runs out, at the same moment on the same nginx.
//!
//! nginx's own log is the judge: the errno of the kernel and nginx's own word for its timer have
//! the same number and the same text, and only the words before them differ.

use std::net::SocketAddr;
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::{Attempt, Request};
use e2e::load::{Order, one_by_one, run, runtime};
use e2e::netns::Netns;
use e2e::nginx::error_log::{ErrorLine, Words};
use e2e::nginx::{Config, Nginx};
use e2e::process::need_root;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

/// SYNs are swallowed.
const DARK: u16 = 9;
/// Everything is swallowed once it is told to.
const KEPT: u16 = 9001;
/// Segments with data are swallowed, so that the handshake passes.
const FRESH: u16 = 9002;
/// Everything is swallowed once so many bytes have passed.
const UPLOAD: u16 = 9003;
const UPLOAD_BYTES: usize = 1_000_000;
/// As [`KEPT`], and nginx has the kernel probe.
const PROBED: u16 = 9004;

const NGINX_LISTENS: u16 = 8080;

/// How long the agent may take to tell all requests.
const TELL: Duration = Duration::from_secs(20);

const ETIMEDOUT: u64 = 110;

/// Attempts of all that may be known by less than their errand. Fewer: a busy machine fails. More: an
/// agent that has lost its errands passes.
const UNSURE: usize = 2;

/// An nginx whose kernel has little patience, and its upstream behind a link of its own.
struct Scene {
    upstream: Netns,
    upstreams: Upstreams,
    nginx: Nginx,
    front: SocketAddr,
    _proxy: Netns,
}

impl Scene {
    fn build() -> Self {
        need_root();
        let (proxy, upstream) = (Netns::new(), Netns::new());
        for (name, value) in [
            ("tcp_syn_retries", "1"),
            // 1.4 s by the kernel's reckoning (tcp_retransmit_timer, net/ipv4/tcp_timer.c).
            ("tcp_retries2", "2"),
            ("tcp_keepalive_time", "1"),
            ("tcp_keepalive_intvl", "1"),
            ("tcp_keepalive_probes", "1"),
        ] {
            proxy.set(&format!("ipv4/{name}"), value);
        }
        let far = upstream.join(Some(&proxy)).far;
        let front = SocketAddr::new(proxy.join(None).far, NGINX_LISTENS);
        let ports = [KEPT, FRESH, UPLOAD, PROBED].map(|port| port.to_string());
        let upstreams =
            Upstreams::start(far, &ports.each_ref().map(String::as_str), Some(&upstream));
        upstream.swallow(DARK);
        upstream.filter(&format!("tcp dport {FRESH} tcp flags & psh == psh drop"));
        upstream.filter(&format!(
            "tcp dport {UPLOAD} quota over {} bytes drop",
            UPLOAD_BYTES / 10
        ));
        let config = Config {
            // One that keeps the connections which the others would look for.
            workers: 1,
            ..Config::new(http_block(front, far))
        };
        let nginx = Nginx::start(&config, Some(&proxy));
        Self {
            upstream,
            upstreams,
            nginx,
            front,
            _proxy: proxy,
        }
    }

    /// The network swallows what goes to the upstream's `port` from now on.
    fn darken(&self, port: u16) {
        self.upstream.swallow(port);
    }
}

/// nginx waits for a minute but where a path begins with `/impatient`.
fn http_block(front: SocketAddr, far: std::net::IpAddr) -> String {
    let group = |name: &str, port: u16| {
        let server = SocketAddr::new(far, port);
        format!("upstream {name} {{ server {server} max_fails=0; keepalive 8; }}\n")
    };
    let groups = [
        group("dark", DARK),
        group("kept", KEPT),
        group("fresh", FRESH),
        group("upload", UPLOAD),
        group("probed", PROBED),
    ]
    .concat();
    format!(
        "proxy_http_version 1.1;
proxy_set_header Connection '';
proxy_next_upstream off;
proxy_connect_timeout 60s;
proxy_read_timeout 60s;
proxy_send_timeout 60s;
client_max_body_size 20m;
{groups}
server {{
    listen {front};
    location /dark/ {{ proxy_pass http://dark; }}
    location /impatient/dark/ {{ proxy_pass http://dark; proxy_connect_timeout 500ms; }}
    location /kept/ {{ proxy_pass http://kept; }}
    location /fresh/ {{ proxy_pass http://fresh; }}
    location /impatient/fresh/ {{ proxy_pass http://fresh; proxy_read_timeout 1s; }}
    location /upload/ {{ proxy_pass http://upload; }}
    location /probed/ {{ proxy_pass http://probed; proxy_socket_keepalive on; }}
}}"
    )
}

/// A fault, who says so in which words, and what has to be told of it.
#[derive(Debug)]
struct Expected {
    path: &'static str,
    status: u16,
    words: Words,
    cause: &'static str,
    certainty: &'static str,
    phase: &'static str,
    how: &'static str,
    errno: Option<u64>,
}

/// What nginx says of each, and whether the agent tells it.
#[track_caller]
fn assert_told(scene: &Scene, told: impl Fn(&str) -> Request, expected: &[Expected]) {
    let access = scene.nginx.access_log();
    let errors = scene.nginx.error_log();
    // Where this machine took the CPU from nginx between a read and a connect, that attempt is known
    // by its answer, and nothing that happened at that moment is proof.
    let unsure = expected.iter().filter(|expected| {
        let request = told(expected.path);
        match only_attempt(&request).join_certainty.as_deref() {
            Some("proof") => false,
            Some("strong") => true,
            _ => panic!("{request:?}"),
        }
    });
    let unsure = unsure.count();
    assert!(unsure <= UNSURE, "{unsure} joins are no proof");
    let doubtful = unsure > 0;
    for expected in expected {
        let Expected {
            path,
            status,
            words,
            cause,
            certainty,
            phase,
            how,
            errno,
        } = expected;
        let logged = access.iter().find(|request| request.path == *path);
        let said: Vec<&ErrorLine> = errors
            .iter()
            .filter(|line| line.path == *path && line.words != Words::Other)
            .collect();
        let request = told(path);
        let attempt = only_attempt(&request);
        println!(
            "{path}: nginx {:?} {:?}\n  agent {:?} {} ({}) {} {}\n  {attempt:?}",
            logged.map(|request| request.status),
            said.iter()
                .map(|line| line.line.split(", client: ").next().unwrap_or_default())
                .collect::<Vec<_>>(),
            request.code,
            request.cause.as_deref().unwrap_or("no cause"),
            request.certainty.as_deref().unwrap_or("-"),
            request.phase.as_deref().unwrap_or("-"),
            request.how.as_deref().unwrap_or("-"),
        );
        assert_eq!(
            logged.map(|request| request.status),
            Some(*status),
            "{path}"
        );
        let said: Vec<Words> = said.iter().map(|line| line.words).collect();
        assert_eq!(said, [*words], "{path}: nginx's words");
        assert!(words.causes().contains(cause), "{path}: {words} is {cause}");
        assert_eq!(request.code, Some(*status), "{path}");
        let verdict = |cause: &Option<String>, certainty: &Option<String>| {
            [cause, certainty].map(|word| word.clone().unwrap_or_default())
        };
        let sure = |certainty: &str| [(*cause).to_owned(), certainty.to_owned()];
        assert_eq!(
            verdict(&attempt.cause, &attempt.certainty),
            sure(certainty),
            "{path}: {attempt:?}"
        );
        if *status >= 500 {
            let told = verdict(&request.cause, &request.certainty);
            let least = told == sure("strong") && doubtful;
            assert!(least || told == sure(certainty), "{path}: {request:?}");
        }
        assert_eq!(attempt.phase.as_deref(), Some(*phase), "{path}");
        assert_eq!(attempt.how.as_deref(), Some(*how), "{path}");
        assert_eq!(number(attempt, "errno"), *errno, "{path}");
    }
}

#[track_caller]
fn only_attempt(request: &Request) -> &Attempt {
    match request.attempts.as_slice() {
        [attempt] => attempt,
        attempts => panic!("one attempt, not {attempts:#?}"),
    }
}

fn number(attempt: &Attempt, name: &str) -> Option<u64> {
    attempt
        .evidence
        .get(name)
        .and_then(serde_json::Value::as_u64)
}

#[test]
fn the_kernel_that_gives_up_is_told_from_nginx_that_does() {
    let scene = Scene::build();
    let agent = Agent::start(&[]);
    let events = agent.events();
    for port in ["kept", "probed"] {
        let served = one_by_one(scene.front, vec![Order::get(format!("/{port}/first/ok"))]);
        assert!(served.iter().all(|outcome| outcome.is(200)), "{served:?}");
    }

    let runtime = runtime();
    let paths = [
        "/dark/kernel/ok",
        "/impatient/dark/ok",
        "/kept/lost/ok",
        "/fresh/lost/ok",
        "/impatient/fresh/ok",
        "/probed/waits/hang",
        "/probed/body/body=9000,cut=1000,by=hang",
    ];
    let mut orders: Vec<Order> = paths.map(Order::get).into();
    orders.push(Order::post("/upload/lost/ok", UPLOAD_BYTES));
    scene.darken(KEPT);
    let front = scene.front;
    let clients = orders.len();
    let asked = runtime.spawn(async move { run(front, orders, clients).await });
    eventually(TELL, "those that are to wait have arrived", || {
        let served = scene.upstreams.served();
        match served.iter().filter(|one| one.port == PROBED).count() {
            3 => Ok(()),
            count => Err(format!("{count} did")),
        }
    });
    scene.darken(PROBED);
    let outcomes = runtime.block_on(asked).expect("clients do not panic");

    for outcome in &outcomes {
        println!("{outcome:?}");
    }
    let all = paths.into_iter().chain(["/upload/lost/ok"]);
    let told = events.of(all, TELL);
    let path_lost = |path, phase| Expected {
        path,
        status: 502,
        words: Words::GaveUp,
        cause: "path_lost",
        certainty: "proof",
        phase,
        how: "errno",
        errno: Some(ETIMEDOUT),
    };
    let expected = [
        Expected {
            path: "/dark/kernel/ok",
            status: 502,
            words: Words::ConnectGaveUp,
            cause: "connect_timeout",
            certainty: "proof",
            phase: "connect",
            how: "errno",
            errno: Some(ETIMEDOUT),
        },
        Expected {
            path: "/impatient/dark/ok",
            status: 504,
            words: Words::ConnectTimedOut,
            cause: "connect_timeout",
            certainty: "proof",
            phase: "connect",
            how: "timeout",
            errno: None,
        },
        path_lost("/kept/lost/ok", "request"),
        path_lost("/fresh/lost/ok", "request"),
        Expected {
            path: "/impatient/fresh/ok",
            status: 504,
            words: Words::HeadTimedOut,
            cause: "path_lost",
            certainty: "proof",
            phase: "request",
            how: "timeout",
            errno: None,
        },
        path_lost("/upload/lost/ok", "request"),
        path_lost("/probed/waits/hang", "request"),
        Expected {
            status: 200,
            ..path_lost("/probed/body/body=9000,cut=1000,by=hang", "body")
        },
    ];
    assert_told(&scene, |path| told[path].clone(), &expected);
    let metrics = agent.settled(TELL);
    let gave_up = metrics.by("why502_tcp_syn_timeouts_total", &[], &["gave_up"]);
    println!("SYNs given up by {gave_up:?}");
    for who in ["kernel", "proxy"] {
        assert_eq!(gave_up.get(&vec![who.to_owned()]), Some(&1), "{gave_up:?}");
    }
}
