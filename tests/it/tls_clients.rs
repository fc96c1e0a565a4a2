//! Clients that speak TLS to the proxy: their requests are not read, but that they leave is seen. An
//! upstream that is slow is not called so on account of a client that did not wait for it.
//!
//! The judge is the client, which is told for how long to wait.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::agent::events::{Attempt, Line};
use e2e::agent::{Agent, Events};
use e2e::haproxy::Haproxy;
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::{Running, command, need_root};
use e2e::tls::Certificate;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const TELL: Duration = Duration::from_secs(20);
const START: Duration = Duration::from_secs(20);

/// Requests of each kind.
const EACH: usize = 5;

/// How long an impatient client waits, seconds; a proxy waits for 1.5.
const IMPATIENT: &str = "0.3";

/// Where it listens, and what ends with it.
struct Front {
    address: SocketAddr,
    upstreams: Upstreams,
    certificate: Certificate,
    folder: tempfile::TempDir,
}

impl Front {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        Self {
            address: ports::free(LOCALHOST),
            upstreams: Upstreams::start(LOCALHOST, &["0"], None),
            certificate: Certificate::make(folder.path(), "front"),
            folder,
        }
    }

    fn upstream(&self) -> SocketAddr {
        *self.upstreams.addresses.first().expect("it was ordered")
    }

    #[track_caller]
    fn listens(&self) {
        eventually(START, "the proxy listens", || {
            TcpStream::connect(self.address).map_err(|error| error.to_string())
        });
    }
}

/// Asks as curl does; it leaves when it has waited for so many seconds, if any.
#[track_caller]
fn ask(front: SocketAddr, path: &str, patience: Option<&str>) {
    let mut curl = Command::new("curl");
    curl.args(["--insecure", "--silent", "--http1.1"])
        .args(
            patience
                .map(|seconds| ["--max-time", seconds])
                .into_iter()
                .flatten(),
        )
        .arg(format!("https://{front}{path}"))
        .stdout(Stdio::null());
    let status = curl.status().expect("curl is installed");
    // 28: it waited too long (curl(1)).
    let expected = if patience.is_some() { 28 } else { 0 };
    assert_eq!(status.code(), Some(expected), "{path}");
}

/// What was told of the attempts that were made for these paths, by path.
#[track_caller]
fn told(events: &Events, paths: &[String]) -> BTreeMap<String, Attempt> {
    eventually(TELL, "each attempt is told", || {
        let mut told = BTreeMap::new();
        for line in events.so_far() {
            if let Line::Attempt(lone) = line {
                told.insert(lone.path.clone().unwrap_or_default(), lone.attempt);
            }
        }
        match paths.iter().find(|path| !told.contains_key(*path)) {
            None => Ok(told),
            Some(path) => Err(format!("{path} is not told")),
        }
    })
}

/// Clients that leave and clients that stay; how surely it is said of those that left, and of how many at
/// least.
fn play(name: &str, front: &Front, sure: &[&str], least: usize) {
    let agent = Agent::start(&[]);
    let events = agent.events();
    let of =
        |what: &str| -> Vec<String> { (0..EACH).map(|n| format!("/{what}/{n}/hang")).collect() };
    let (left, stayed) = (of("left"), of("stayed"));
    for path in &left {
        ask(front.address, path, Some(IMPATIENT));
    }
    for path in &stayed {
        ask(front.address, path, None);
    }
    let paths: Vec<String> = left.iter().chain(&stayed).cloned().collect();
    let told = told(&events, &paths);

    let verdict = |path: &String| {
        let one = &told[path];
        let word = |text: &Option<String>| text.clone().unwrap_or_default();
        (word(&one.cause), word(&one.certainty))
    };
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for path in &paths {
        let (cause, certainty) = verdict(path);
        println!("{name} {path}: {cause} ({certainty})");
        let seen_to_leave = path.starts_with("/left") && cause == "client_abort";
        seen += usize::from(seen_to_leave);
        let right = if seen_to_leave {
            sure.contains(&certainty.as_str())
        } else {
            cause == "response_timeout" && certainty == "guess"
        };
        if !right {
            wrong.push(format!("{path}: {cause} ({certainty})"));
        }
    }
    assert!(wrong.is_empty(), "{name}: {wrong:#?}");
    assert!(seen >= least, "{name}: {seen} of {EACH} were seen to leave");
}

#[test]
fn a_client_that_leaves_nginx_is_not_called_a_slow_upstream() {
    need_root();
    let front = Front::new();
    let Certificate { certificate, key } = &front.certificate;
    let http = format!(
        "server {{ listen {} ssl; ssl_certificate {}; ssl_certificate_key {};
         location / {{ proxy_pass http://{}; proxy_read_timeout 1500ms; }} }}",
        front.address,
        certificate.display(),
        key.display(),
        front.upstream()
    );
    let config = Config {
        workers: 1,
        ..Config::new(http)
    };
    let _nginx = Nginx::start(&config, None);
    play("nginx", &front, &["strong"], EACH);
}

/// HAProxy goes on waiting for the upstream, and nobody gets its 504.
#[test]
fn a_client_that_leaves_haproxy_is_not_called_a_slow_upstream() {
    need_root();
    let front = Front::new();
    let both = both(front.folder.path(), &front.certificate);
    let _haproxy = Haproxy::start(
        &format!(
            "frontend front
    bind {} ssl crt {both}
    default_backend app
backend app
    timeout server 1500ms
    server one {}
",
            front.address,
            front.upstream()
        ),
        None,
    );
    front.listens();
    play("haproxy", &front, &["guess"], EACH);
}

/// Its threads do not show for whom they act: there is the time alone, and a busy machine takes its own.
#[test]
fn a_client_that_leaves_caddy_is_not_called_a_slow_upstream() {
    need_root();
    let front = Front::new();
    let Certificate { certificate, key } = &front.certificate;
    let file = front.folder.path().join("Caddyfile");
    let text = format!(
        "{{\n admin off\n auto_https off\n}}\nhttps://{} {{\n tls {} {}\n reverse_proxy {} {{\n \
         transport http {{\n response_header_timeout 1500ms\n }}\n }}\n}}\n",
        front.address,
        certificate.display(),
        key.display(),
        front.upstream()
    );
    fs::write(&file, text).expect("it is written");
    let mut caddy = command("caddy", None);
    caddy
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(&file)
        .env("XDG_CONFIG_HOME", front.folder.path())
        .env("XDG_DATA_HOME", front.folder.path())
        .stderr(Stdio::null());
    let _caddy = Running::start("caddy", &mut caddy);
    front.listens();
    play("caddy", &front, &["guess"], 1);
}

/// Certificate and key in one file, as HAProxy wants them.
fn both(folder: &Path, certificate: &Certificate) -> String {
    let read = |path: &Path| fs::read_to_string(path).expect("openssl wrote it");
    let path = folder.join("both.pem");
    let text = read(&certificate.certificate) + &read(&certificate.key);
    fs::write(&path, text).expect("it is written");
    path.to_string_lossy().into_owned()
}
