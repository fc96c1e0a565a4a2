//! A proxy that closes on an upstream for another reason than a timer: it has the head that it asked
//! for, it takes the server out of service, it refuses what it reads, or somebody told it to. The judge is
//! what its log says, and what was configured.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use e2e::agent::events::Request;
use e2e::agent::{Agent, Events};
use e2e::haproxy::Haproxy;
use e2e::load::{Order, one_by_one};
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::need_root;
use e2e::proxies::{Group, Kind, Proxy, Target};
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long the agent may take to tell a request, and a proxy to listen.
const TELL: Duration = Duration::from_secs(20);
const START: Duration = Duration::from_secs(10);

/// How long a request is under way when it is cut: long enough for a timer.
const AGE: Duration = Duration::from_millis(500);

/// A server that answers its health checks and nothing else.
struct Hanging {
    address: SocketAddr,
    healthy: Arc<AtomicBool>,
    checks: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

impl Hanging {
    fn start() -> Self {
        let listener = TcpListener::bind((LOCALHOST, 0)).expect("a port is free");
        let this = Self {
            address: listener.local_addr().expect("it is bound"),
            healthy: Arc::new(AtomicBool::new(true)),
            checks: Arc::default(),
            asked: Arc::default(),
        };
        let (healthy, checks, asked) = (
            Arc::clone(&this.healthy),
            Arc::clone(&this.checks),
            Arc::clone(&this.asked),
        );
        // It ends with the test's process, and what hangs with it.
        std::thread::spawn(move || {
            let mut hanging = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                let mut line = String::new();
                let mut reader = BufReader::new(stream);
                let _read = reader.read_line(&mut line);
                let mut stream = reader.into_inner();
                if line.contains("/health") {
                    let status = if healthy.load(Ordering::SeqCst) {
                        "200 OK"
                    } else {
                        "503 Service Unavailable"
                    };
                    let answer = format!("HTTP/1.0 {status}\r\nContent-Length: 0\r\n\r\n");
                    let _written = stream.write_all(answer.as_bytes());
                    checks.fetch_add(1, Ordering::SeqCst);
                } else {
                    asked.fetch_add(1, Ordering::SeqCst);
                    hanging.push(stream);
                }
            }
        });
        this
    }

    /// Waits until `count` more checks were answered.
    #[track_caller]
    fn checked(&self, count: usize) {
        let until = self.checks.load(Ordering::SeqCst) + count;
        eventually(TELL, "the server is checked", || {
            match self.checks.load(Ordering::SeqCst) {
                seen if seen >= until => Ok(()),
                seen => Err(format!("{seen} checks")),
            }
        });
    }
}

/// Asks for `path`, does `cut` when the request has hung for [`AGE`], and gives what was told.
#[track_caller]
fn cut(
    events: &Events,
    front: SocketAddr,
    server: &Hanging,
    path: &str,
    cut: impl FnOnce(),
) -> Request {
    let before = server.asked.load(Ordering::SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| one_by_one(front, vec![Order::get(path)]));
        eventually(TELL, "the request arrives", || {
            match server.asked.load(Ordering::SeqCst) {
                seen if seen > before => Ok(()),
                _ => Err("it does not".to_owned()),
            }
        });
        std::thread::sleep(AGE);
        cut();
    });
    told(events, path)
}

#[track_caller]
fn told(events: &Events, path: &str) -> Request {
    let told = events.of([path], TELL).remove(path);
    let told = told.expect("it was waited for");
    let attempts: Vec<_> = told
        .attempts
        .iter()
        .map(|one| (&one.cause, &one.certainty, &one.how, one.code))
        .collect();
    println!(
        "{path}: {:?} {:?} {:?} {attempts:?}",
        told.code, told.cause, told.certainty
    );
    told
}

fn verdict(told: &Request) -> (&str, &str) {
    (
        told.cause.as_deref().unwrap_or(""),
        told.certainty.as_deref().unwrap_or(""),
    )
}

#[test]
fn haproxy_ends_what_is_under_way_at_a_server_that_it_takes_out_of_service() {
    need_root();
    let server = Hanging::start();
    let (front, folder) = (
        ports::free(LOCALHOST),
        tempfile::tempdir().expect("a folder can be made"),
    );
    let socket = folder.path().join("admin.sock");
    let mut haproxy = Haproxy::start(
        &format!(
            "global
    stats socket {} level admin
frontend front
    bind {front}
    default_backend shop
backend shop
    timeout server 6s
    option httpchk GET /health
    default-server inter 100ms fall 1 rise 1 on-marked-down shutdown-sessions
    server one {} check
",
            socket.display(),
            server.address
        ),
        None,
    );
    eventually(START, "haproxy listens", || {
        haproxy.assert_runs();
        TcpStream::connect(front).map_err(|error| error.to_string())
    });
    let agent = Agent::start(&[]);
    let events = agent.events();
    // So many in a row are known as checks.
    server.checked(5);

    let path = "/shop/marked-down";
    let ended = cut(&events, front, &server, path, || {
        server.healthy.store(false, Ordering::SeqCst);
    });
    let logged = haproxy.logged(path);
    println!("{logged:?}");
    assert!(logged.state.starts_with('D'), "{logged:?}");
    assert_eq!(verdict(&ended), ("no_live_upstream", "strong"));
    let check = ended.origin_check.expect("a check failed");
    assert_eq!(
        (check.path.as_deref(), check.code),
        (Some("/health"), Some(503))
    );

    server.healthy.store(true, Ordering::SeqCst);
    server.checked(3);
    let path = "/shop/shut-down";
    let ended = cut(&events, front, &server, path, || {
        shut_sessions_down(&socket);
    });
    println!("{:?}", haproxy.logged(path));
    assert_eq!(verdict(&ended), ("unattributed", "guess"));

    // Its timer, on the same path: it has the word for it.
    let path = "/shop/timer";
    let ended = cut(&events, front, &server, path, || ());
    let logged = haproxy.logged(path);
    assert_eq!((logged.status, logged.state.as_str()), (504, "sH"));
    assert_eq!(verdict(&ended).0, "response_timeout");
}

fn shut_sessions_down(socket: &Path) {
    let mut admin = UnixStream::connect(socket).expect("haproxy has an admin socket");
    admin
        .write_all(b"shutdown sessions server shop/one\n")
        .expect("it takes commands");
    let mut answer = String::new();
    let _read = BufReader::new(admin).read_line(&mut answer);
}

#[test]
fn nginx_closes_with_the_head_that_it_asked_for() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let upstream = *upstreams.addresses.first().expect("it was ordered");
    let front = ports::free(LOCALHOST);
    // A body that goes on until the connection ends: nginx does not wait for it.
    let words = "status=503,until_close,body=100000,piece=100,pause=50";
    let http = format!(
        "server {{
            listen {front};
            location = /at-once {{ internal; proxy_pass http://{upstream}/at-once/{words}; }}
            location = /late {{ internal; proxy_pass http://{upstream}/late/wait=300,{words}; }}
            location /shop/at-once/ {{ auth_request /at-once; proxy_pass http://{upstream}; }}
            location /shop/late/ {{ auth_request /late; proxy_pass http://{upstream}; }}
        }}"
    );
    let config = Config {
        workers: 1,
        ..Config::new(http)
    };
    let nginx = Nginx::start(&config, None);
    let agent = Agent::start(&[]);
    let events = agent.events();

    for path in ["/shop/at-once/ok", "/shop/late/ok"] {
        one_by_one(front, vec![Order::get(path)]);
        let told = told(&events, path);
        assert_eq!(verdict(&told).0, "upstream_status");
        assert_ne!(verdict(&told).1, "proof");
        let [attempt] = told.attempts.as_slice() else {
            panic!("one attempt was made: {told:?}");
        };
        assert_eq!(attempt.code, Some(503));
    }
    let logged = nginx.access_log_of(2);
    assert!(logged.iter().all(|one| one.status == 500), "{logged:?}");
}

/// A server that sends an interim response before its answer: at once and in one piece where the path says
/// `together`, else long before it.
fn hinting() -> SocketAddr {
    let listener = TcpListener::bind((LOCALHOST, 0)).expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n")
                && reader.read_line(&mut head).is_ok_and(|read| read > 0)
            {}
            let mut stream = reader.into_inner();
            let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            if head.contains("together") {
                let _written = stream.write_all([hint, answer].concat().as_bytes());
            } else {
                let _written = stream.write_all(hint.as_bytes());
                std::thread::sleep(AGE);
                let _written = stream.write_all(answer.as_bytes());
            }
        }
    });
    address
}

#[test]
fn varnish_refuses_an_interim_response_whether_or_not_the_answer_behind_it_has_come() {
    need_root();
    let agent = Agent::start(&[]);
    let events = agent.events();
    let group = Group::new("x", Target::Servers(vec![hinting()]));
    let proxy = Proxy::start(Kind::Varnish, &[group]);
    let paths = ["/x/1/together", "/x/2/apart", "/x/3/together"];

    let outcomes = one_by_one(proxy.address, paths.map(Order::get).into());

    let told = events.of(paths, TELL);
    for outcome in &outcomes {
        let request = &told[&outcome.path];
        let [attempt] = request.attempts.as_slice() else {
            panic!("one attempt: {request:#?}");
        };
        let length = attempt.evidence["content_length"].as_u64();
        println!(
            "{}: {:?} {:?}, length of the answer {length:?}",
            outcome.path, request.cause, request.certainty
        );
        assert_eq!(outcome.status, Some(503));
        assert_eq!(
            request.cause.as_deref(),
            Some("invalid_response"),
            "{request:#?}"
        );
        assert_ne!(request.certainty.as_deref(), Some("proof"), "{request:#?}");
        let came = outcome.path.ends_with("together").then_some(2);
        assert_eq!(length, came, "{request:#?}");
    }
}
