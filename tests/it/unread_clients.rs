//! Clients whose connections are not read (TLS, HTTP/2, from before the agent) and that get a 502: the
//! agent says that it could not read them, and never that there was no error.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use e2e::agent::{Agent, binary};
use e2e::nginx::{Config, Nginx};
use e2e::ports::{self, Refusing};
use e2e::process::{Running, command, need_root, output_of};
use e2e::tls::Certificate;
use e2e::wait::eventually;
use tempfile::TempDir;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long the agent may take to count a connection.
const TELL: Duration = Duration::from_secs(10);

/// nginx behind which nobody listens, and where it listens for clients of which kind.
struct Stage {
    _nginx: Nginx,
    _nobody: Refusing,
    _folder: TempDir,
    clear: SocketAddr,
    tls: SocketAddr,
    http2: SocketAddr,
}

impl Stage {
    fn new() -> Self {
        need_root();
        let folder = TempDir::with_prefix("e2e-clients-").expect("a temporary folder can be made");
        let Certificate { certificate, key } = Certificate::make(folder.path(), "nginx");
        let nobody = Refusing::new(LOCALHOST);
        let [clear, tls, http2] = [(); 3].map(|()| ports::free(LOCALHOST));
        let nginx = Nginx::start(
            &Config::new(format!(
                "ssl_certificate {};\nssl_certificate_key {};\n\
                 server {{\nlisten {clear};\nlisten {tls} ssl;\nlisten {http2} http2;\n\
                 location / {{ proxy_pass http://{}; }}\n}}",
                certificate.display(),
                key.display(),
                nobody.address
            )),
            None,
        );
        Self {
            _nginx: nginx,
            _nobody: nobody,
            _folder: folder,
            clear,
            tls,
            http2,
        }
    }
}

/// The status that curl was given.
fn curl(words: &[&str], url: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--insecure",
        "--noproxy",
        "*",
        "--output",
        "/dev/null",
    ])
    .args(["--max-time", "10", "--write-out", "%{http_code}"])
    .args(words)
    .arg(url);
    output_of(&mut curl)
}

/// What `why502 explain` prints.
fn explained(agent: &Agent) -> String {
    let address = agent.address.to_string();
    output_of(Command::new(binary()).args(["explain", "--agent", &address]))
}

/// Waits until so many connections are counted that are not read; by what is spoken on them.
#[track_caller]
fn unread(agent: &Agent, count: u64) -> Vec<(String, u64)> {
    eventually(TELL, "connections that are not read are counted", || {
        let counted = agent
            .metrics()
            .by("why502_agent_unread_clients_total", &[], &["talk"]);
        let counted: Vec<_> = counted
            .into_iter()
            .map(|(talk, count)| (talk.concat(), count))
            .collect();
        if counted.iter().map(|(_, count)| count).sum::<u64>() >= count {
            Ok(counted)
        } else {
            Err(format!("{counted:?}"))
        }
    })
}

/// A client that keeps its connection.
struct Kept {
    _openssl: Running,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Kept {
    fn connect(to: SocketAddr) -> Self {
        let mut openssl = command("openssl", None);
        openssl
            .args(["s_client", "-quiet", "-connect", &to.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut openssl = Running::start("openssl", &mut openssl);
        let to = openssl.child().stdin.take().expect("it is piped");
        let from = openssl.child().stdout.take().expect("it is piped");
        Self {
            _openssl: openssl,
            to,
            from: BufReader::new(from),
        }
    }

    /// Asks, and gives the status line.
    fn ask(&mut self) -> String {
        let request = b"GET /kept HTTP/1.1\r\nHost: kept\r\n\r\n";
        self.to.write_all(request).expect("the connection is open");
        self.to.flush().expect("the connection is open");
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let bytes = self.from.read_line(&mut line).expect("an answer comes");
            lines.push(line.trim_end().to_owned());
            if bytes == 0 || line.contains("</html>") {
                return lines.swap_remove(0);
            }
        }
    }
}

#[test]
fn explain_says_how_many_clients_were_not_read_and_why() {
    let stage = Stage::new();
    let mut kept = Kept::connect(stage.tls);
    assert_eq!(kept.ask(), "HTTP/1.1 502 Bad Gateway");
    let agent = Agent::start(&[]);
    let share = |agent: &Agent| agent.metrics().sum("why502_agent_coverage", &[]);
    assert!(explained(&agent).starts_with("Nothing to explain"));

    let tls = format!("https://{}/tls", stage.tls);
    assert_eq!(curl(&[], &tls), "502");
    assert_eq!(unread(&agent, 1), [("tls".to_owned(), 1)]);
    let said = explained(&agent);
    let words = "1 connection of a proxy's clients was not read, and errors on them are not known: 1 TLS.\n";
    assert!(said.ends_with(words), "{said}");
    assert!(!said.contains("Nothing to explain"), "{said}");
    assert!(share(&agent) < 1.0);

    let http2 = format!("http://{}/http2", stage.http2);
    assert_eq!(curl(&["--http2-prior-knowledge"], &http2), "502");
    assert_eq!(kept.ask(), "HTTP/1.1 502 Bad Gateway");
    let expected = [("before_agent", 1), ("http2", 1), ("tls", 1)];
    let expected = expected.map(|(talk, count)| (talk.to_owned(), count));
    assert_eq!(unread(&agent, 3), expected);

    // What is read has its incident, and what is not read is still said.
    assert_eq!(curl(&[], &format!("http://{}/clear", stage.clear)), "502");
    let said = eventually(TELL, "an incident is there", || {
        let said = explained(&agent);
        if said.contains("connect_refused") {
            Ok(said)
        } else {
            Err(said)
        }
    });
    println!("{said}");
    let words = "3 connections of proxies' clients were not read, and errors on them are not known: \
                 1 TLS, 1 HTTP/2 in clear text, 1 open before the agent started (from clients or to \
                 upstreams).\n";
    assert!(said.ends_with(words), "{said}");
    assert!((share(&agent) - 0.25).abs() < 1e-9);
}
