//! Requests that hang, at proxies whose timers would end them in an hour: while they do, the agent lists
//! them with their upstream and their age, and no more when their client has left.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e2e::agent::{Agent, binary};
use e2e::haproxy::Haproxy;
use e2e::http;
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::{Running, command, need_root, output_of};
use e2e::tls::Certificate;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;
use serde_json::Value;
use tempfile::TempDir;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long the agent may take to see what was done.
const TELL: Duration = Duration::from_secs(10);

/// How far the agent's age of a request may be from the test's, seconds: both may have to wait for a CPU.
const APART: f64 = 2.0;

/// A client that asks and waits.
struct Waiting {
    connection: TcpStream,
    since: Instant,
}

impl Waiting {
    fn ask(front: SocketAddr, path: &str) -> Self {
        let since = Instant::now();
        let mut connection = TcpStream::connect(front).expect("the proxy listens");
        write!(
            connection,
            "GET {path}?secret=1 HTTP/1.1\r\nHost: hangs\r\n\r\n"
        )
        .expect("the proxy reads");
        Self { connection, since }
    }

    fn address(&self) -> String {
        let address = self.connection.local_addr();
        address.expect("it is connected").to_string()
    }
}

fn answer(agent: &Agent, query: &str) -> Value {
    let path = format!("/api/v1/open?{query}");
    let answer = http::get(agent.address, &path, "*/*").expect("the agent answers");
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, 200, "{body}");
    assert!(
        !body.contains("secret"),
        "the query of a request stays inside: {body}"
    );
    serde_json::from_str(&body).expect("it is JSON")
}

/// What is under way, by path.
fn open_at(answer: &Value, path: &str) -> Option<Value> {
    let open = answer["open"].as_array().expect("a list");
    open.iter().find(|one| one["path"] == path).cloned()
}

/// Waits until the request is listed, and satisfies `is_so`.
#[track_caller]
fn listed(agent: &Agent, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(TELL, path, || {
        let answer = answer(agent, "");
        let open = open_at(&answer, path).filter(|one| is_so(one));
        open.ok_or_else(|| answer.to_string())
    })
}

#[track_caller]
fn gone(agent: &Agent, path: &str) {
    eventually(TELL, "it is over", || {
        match open_at(&answer(agent, ""), path) {
            None => Ok(()),
            Some(open) => Err(open.to_string()),
        }
    });
}

/// What `why502 explain --open` prints.
fn explained(agent: &Agent, flags: &[&str]) -> String {
    let address = agent.address.to_string();
    let mut explain = Command::new(binary());
    explain.args(["explain", "--open", "--agent", &address]);
    let text = output_of(explain.args(flags));
    println!("{text}");
    text
}

/// A request to `path` hangs at `upstream` behind the proxy that listens at `front`; then its client leaves.
fn hangs_until_its_client_leaves(
    agent: &Agent,
    proxy: &str,
    front: SocketAddr,
    path: &str,
    upstream: SocketAddr,
) {
    let upstream = upstream.to_string();
    let client = Waiting::ask(front, path);
    let open = listed(agent, path, |one| one["upstream"] == *upstream);
    println!("{open:#}");
    assert_eq!(open["proxy"]["name"], *proxy);
    assert_eq!(
        (&open["request"], &open["method"]),
        (&"open".into(), &"GET".into())
    );
    assert_eq!(open["client"], *client.address());
    assert_eq!(
        (&open["code"], &open["host"]),
        (&Value::Null, &"hangs".into())
    );
    let attempts = open["attempts"].as_array().expect("a list");
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0]["read"], true);
    assert_eq!(attempts[0]["answering"], false);

    let age = |open: &Value| open["seconds"].as_f64().expect("a number");
    let older = listed(agent, path, |one| age(one) >= age(&open) + 1.0);
    let waited = client.since.elapsed().as_secs_f64();
    assert!(
        (0.0..APART).contains(&(waited - age(&older))),
        "{waited}: {older}"
    );
    assert!(age(&older["attempts"][0]) <= age(&older));

    // It is found by what it is, and by nothing else.
    let host_and_path = |query: &str| open_at(&answer(agent, query), path).is_some();
    assert!(host_and_path(&format!(
        "proxy={proxy}&upstream={upstream}&min_age=1s"
    )));
    assert!(!host_and_path("proxy=nobody"));
    assert!(!host_and_path("upstream=127.0.0.1:1"));
    assert!(!host_and_path("min_age=1h"));
    let said = explained(agent, &["--proxy", proxy, "--min-age", "1s"]);
    for words in [
        path,
        "→ client waits  ",
        &format!("; at upstream {upstream} for "),
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }

    drop(client);
    gone(agent, path);
}

#[test]
fn what_hangs_at_nginx_is_listed_until_its_client_leaves() {
    need_root();
    let folder = TempDir::with_prefix("e2e-open-").expect("a temporary folder can be made");
    let Certificate { certificate, key } = Certificate::make(folder.path(), "nginx");
    let upstreams = Upstreams::start(LOCALHOST, &["0", "0=hello=hang"], None);
    let [http, fastcgi] = upstreams.addresses[..] else {
        panic!("two were ordered");
    };
    let [clear, tls] = [(); 2].map(|()| ports::free(LOCALHOST));
    let _nginx = Nginx::start(
        &Config::new(format!(
            "ssl_certificate {};\nssl_certificate_key {};\n\
             proxy_read_timeout 1h;\nfastcgi_read_timeout 1h;\n\
             server {{\nlisten {clear};\nlisten {tls} ssl;\n\
             location / {{ proxy_pass http://{http}; }}\n\
             location /php/ {{ fastcgi_pass {fastcgi}; }}\n}}",
            certificate.display(),
            key.display(),
        )),
        None,
    );
    let agent = Agent::start(&[]);
    let nothing = explained(&agent, &[]);
    assert!(
        nothing.starts_with("Nothing is under way: the agent at"),
        "{nothing}"
    );
    assert!(!nothing.contains("where it can read"), "{nothing}");

    hangs_until_its_client_leaves(&agent, "nginx", clear, "/clear/hang", http);

    // Of FastCGI it is known where it is, and that it is not read.
    let path = "/php/index.php";
    let first = Waiting::ask(clear, path);
    let open = listed(&agent, path, |one| one["upstream"] == *fastcgi.to_string());
    assert_eq!(open["attempts"][0]["read"], false);
    let said = explained(&agent, &[]);
    let words = format!("; at upstream {fastcgi} for ");
    assert!(said.contains(&words), "{said}");
    assert!(said.contains("not read"), "{said}");

    // Of a client that is not read, it is known what nginx asks for it.
    let path = "/tls/hang";
    let mut curl = command("curl", None);
    curl.args(["--silent", "--insecure", "--noproxy", "*"]);
    curl.arg(format!("https://{tls}{path}"));
    curl.stdout(Stdio::null()).stderr(Stdio::null());
    let curl = Running::start("curl", &mut curl);
    let open = listed(&agent, path, |one| one["upstream"] == *http.to_string());
    println!("{open:#}");
    assert_eq!(
        (&open["request"], &open["client"]),
        (&"unknown".into(), &Value::Null)
    );
    let said = explained(&agent, &[]);
    assert!(said.contains("→ request not known  "), "{said}");
    let words = "1 connection of a proxy's clients was not read, and requests on them are not known: 1 TLS.\n";
    assert!(said.ends_with(words), "{said}");
    let positions = ["/php/index.php", path].map(|path| said.find(path));
    assert!(
        positions[0] < positions[1],
        "the oldest comes first: {said}"
    );

    drop((first, curl));
    gone(&agent, "/php/index.php");
    gone(&agent, path);
    let nothing = explained(&agent, &[]);
    assert!(
        nothing.contains("sees no open request of a proxy where it can read"),
        "{nothing}"
    );
}

#[test]
fn what_hangs_at_haproxy_is_listed_until_its_client_leaves() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let upstream = upstreams.addresses[0];
    let front = ports::free(LOCALHOST);
    let mut haproxy = Haproxy::start(
        &format!(
            "listen front
    bind {front}
    timeout client 1h
    timeout server 1h
    option abortonclose
    server only {upstream}
"
        ),
        None,
    );
    eventually(TELL, "haproxy listens", || {
        haproxy.assert_runs();
        TcpStream::connect(front)
            .map(drop)
            .map_err(|error| error.to_string())
    });
    let agent = Agent::start(&[]);

    hangs_until_its_client_leaves(&agent, "haproxy", front, "/front/hang", upstream);
}
