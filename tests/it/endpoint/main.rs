//! The HTTP endpoint against those who may not ask, who ask badly, and who take their time.

mod files;
mod hostile;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::agent::{Agent, binary};
use e2e::process::{Running, command, need_root};
use e2e::prometheus::{Prometheus, Setup};
use e2e::wait::eventually;
use files::{Files, HORSE, STAPLE, TLS};

const PASSWORD: &str = "correct horse";

/// How long the agent may take to judge a password, however little CPU it has.
const LONG: Duration = Duration::from_secs(60);

/// What curl says: status, headers, body. 0 where there is no answer.
#[track_caller]
#[expect(
    clippy::expect_used,
    reason = "a test without curl ends with a sentence"
)]
fn curl(url: &str, flags: &[&str]) -> (u16, String) {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--include", "--max-time", "60"])
        .args(["--write-out", "\n%{http_code}"])
        .args(flags)
        .arg(url)
        .output()
        .expect("curl is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (text, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
    let errors = String::from_utf8_lossy(&output.stderr);
    (status.parse().unwrap_or(0), format!("{text}{errors}"))
}

/// The same, asked again while too many wrong passwords are being tried: where the agent has little CPU,
/// one is.
fn heard(url: &str, flags: &[&str]) -> (u16, String) {
    eventually(LONG, "the agent judges a password", || {
        match curl(url, flags) {
            (429, said) => Err(said),
            judged => Ok(judged),
        }
    })
}

/// What `why502 explain` says, and whether it is content.
#[track_caller]
#[expect(
    clippy::expect_used,
    reason = "an agent that is not there ends the test"
)]
fn explain(agent: SocketAddr, flags: &[&str]) -> (bool, String) {
    let output = Command::new(binary())
        .args(["explain", "--agent", &agent.to_string()])
        .args(flags)
        .env("WHY502_PASSWORD", PASSWORD)
        .output()
        .expect("explain starts");
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

/// `why502 tail` gets through to the agent.
#[track_caller]
#[expect(clippy::expect_used, reason = "what is piped is there")]
fn hello(agent: SocketAddr, flags: &[&str]) {
    let mut tail = command(&binary().to_string_lossy(), None);
    tail.args(["tail", "--json", "--agent", &agent.to_string()])
        .args(flags)
        .stdout(Stdio::piped());
    let mut tail = Running::start("tail", &mut tail);
    let output = tail.child().stdout.take().expect("it is piped");
    let mut hello = String::new();
    let read = BufReader::new(output).read_line(&mut hello);
    assert!(read.is_ok() && hello.contains("\"hello\""), "{hello}");
}

/// A Prometheus that asks in this way.
fn asked(how: &str) -> Setup<'_> {
    Setup {
        how,
        ..Setup::default()
    }
}

#[test]
fn only_who_has_the_password_may_ask() {
    need_root();
    let files = Files::new();
    let web = files.write(
        "web.yml",
        &format!(
            "basic_auth_users:\n  prom: {HORSE}\nhttp_server_config:\n  headers:\n    X-Frame-Options: deny\n"
        ),
    );
    let agent = Agent::start(&["--web-config-file", &web]);
    let url = format!("http://{}/metrics", agent.address);
    let right = ["--user", "prom:correct horse"];

    for flags in [
        &[][..],
        &["--user", "prom:wrong"],
        &["--user", "other:correct horse"],
    ] {
        let (status, said) = heard(&url, flags);
        assert_eq!(status, 401, "{flags:?}: {said}");
        assert!(said.contains("www-authenticate: Basic realm"), "{said}");
        assert!(!said.contains("why502_agent"), "{said}");
    }
    let (status, said) = heard(&url, &right);
    assert_eq!(status, 200);
    assert!(said.contains("why502_agent_build_info"));
    assert!(said.contains("x-frame-options: deny"));
    let (status, _) = heard(&format!("http://{}/healthz", agent.address), &[]);
    assert_eq!(status, 200, "whether it lives is told without a password");

    let (good, said) = explain(agent.address, &["--user", "prom"]);
    assert!(good, "{said}");
    let (good, said) = explain(agent.address, &[]);
    assert!(!good && said.contains("--user"), "{said}");
    let (good, said) = explain(agent.address, &["--user", "other"]);
    assert!(!good && said.contains("does not know"), "{said}");

    // Another password, without a restart; and a file that makes no sense changes nothing.
    files.write("web.yml", &format!("basic_auth_users:\n  prom: {STAPLE}\n"));
    assert_eq!(heard(&url, &right).0, 401);
    assert_eq!(heard(&url, &["--user", "prom:battery staple"]).0, 200);
    files.write("web.yml", "basic_auth_user: {}\n");
    assert_eq!(heard(&url, &["--user", "prom:battery staple"]).0, 200);
    assert_eq!(heard(&url, &[]).0, 401);
    assert!(
        agent.log().contains("unknown field `basic_auth_user`"),
        "{}",
        agent.log()
    );
}

#[test]
fn a_real_prometheus_scrapes_over_tls_with_a_password() {
    need_root();
    let files = Files::new();
    let web = files.write(
        "web.yml",
        &format!("{TLS}basic_auth_users:\n  prom: {HORSE}\n"),
    );
    let agent = Agent::start(&["--web-config-file", &web]);

    let prometheus = Prometheus::start(
        agent.address,
        &asked(&format!(
            "  scheme: https\n  tls_config:\n    ca_file: {}\n  basic_auth:\n    username: prom\n    password: {PASSWORD}\n",
            files.flag("ca.pem")
        )),
    );
    assert_eq!(prometheus.value("up"), 1.0);
    assert_eq!(prometheus.value("sum(why502_agent_build_info)"), 1.0);

    // The commands as well: the stream says hello first.
    let password = files.write("password", &format!("{PASSWORD}\n"));
    let ca = files.flag("ca.pem");
    let both = ["--ca-file", &ca, "--user", "prom"];
    hello(
        agent.address,
        &[&both[..], &["--password-file", &password]].concat(),
    );
    let (good, said) = explain(agent.address, &both);
    assert!(good, "{said}");

    let stranger = Prometheus::start(
        agent.address,
        &asked(&format!(
            "  scheme: https\n  tls_config:\n    ca_file: {}\n  basic_auth:\n    username: prom\n    password: wrong\n",
            files.flag("ca.pem")
        )),
    );
    assert_eq!(stranger.value("up"), 0.0);
}

#[test]
fn tls_is_spoken_and_a_new_certificate_is_taken() {
    need_root();
    let files = Files::new();
    let web = files.write("web.yml", &format!("{TLS}  min_version: TLS13\n"));
    let agent = Agent::start(&["--web-config-file", &web]);
    let url = format!("https://{}/metrics", agent.address);
    let ca = files.flag("ca.pem");

    let (status, said) = curl(&url, &["--cacert", &ca]);
    assert_eq!(status, 200, "{said}");
    let (status, said) = curl(&url, &[]);
    assert!(status == 0 && said.contains("certificate"), "{said}");
    let (status, said) = curl(&url, &["--cacert", &ca, "--tls-max", "1.2"]);
    assert!(status == 0 && said.contains("alert"), "{said}");

    // In clear text a sentence.
    let (status, said) = curl(&url.replace("https", "http"), &[]);
    assert_eq!(status, 400);
    assert!(said.contains("this port speaks TLS"), "{said}");
    let (good, said) = explain(agent.address, &[]);
    assert!(!good && said.contains("--ca-file"), "{said}");
    let (good, said) = explain(agent.address, &["--ca-file", &ca]);
    assert!(good, "{said}");
    let named = ["--ca-file", &ca, "--server-name", "agent.example"];
    assert!(explain(agent.address, &named).0);
    let (good, said) = explain(agent.address, &["--ca-file", &ca, "--server-name", "other"]);
    assert!(!good && said.contains("TLS"), "{said}");

    let serial = || served_serial(agent.address, &ca);
    let before = serial();
    files.certificate("server", "subjectAltName=IP:127.0.0.1");
    eventually(
        Duration::from_secs(5),
        "the new certificate is served",
        || match serial() {
            now if now == before => Err(now),
            _ => Ok(()),
        },
    );
    assert_eq!(curl(&url, &["--cacert", &ca]).0, 200);

    // One that is no certificate leaves the last in force.
    let now = serial();
    files.write("server.pem", "nothing\n");
    assert_eq!(serial(), now);
    assert!(agent.log().contains("cannot be used"), "{}", agent.log());
}

/// Serial number of the certificate that is served.
fn served_serial(address: SocketAddr, ca: &str) -> String {
    let (_, said) = curl(
        &format!("https://{address}/healthz"),
        &["--cacert", ca, "--write-out", "%{certs}\n0"],
    );
    let line = said.lines().find(|line| line.starts_with("Serial Number:"));
    line.unwrap_or_else(|| panic!("a certificate in {said}"))
        .to_owned()
}

#[test]
fn only_clients_with_a_certificate_may_ask() {
    need_root();
    let files = Files::new();
    let web = files.write(
        "web.yml",
        &format!("{TLS}  client_ca_file: ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n"),
    );
    let agent = Agent::start(&["--web-config-file", &web]);
    let url = format!("https://{}/metrics", agent.address);
    let ca = files.flag("ca.pem");
    let (certificate, key) = (files.flag("client.pem"), files.flag("client.key"));

    assert_eq!(curl(&url, &["--cacert", &ca]).0, 0);
    let with = ["--cacert", &ca, "--cert", &certificate, "--key", &key];
    assert_eq!(curl(&url, &with).0, 200);

    // kubelet has none.
    let health = url.replace("/metrics", "/healthz");
    assert_eq!(curl(&health, &["--cacert", &ca]).0, 0);

    // The commands as well.
    let shown = ["--cert-file", &certificate, "--key-file", &key];
    let known = ["--ca-file", ca.as_str()];
    let (good, said) = explain(agent.address, &[&known[..], &shown].concat());
    assert!(good, "{said}");
    let (good, said) = explain(agent.address, &known);
    assert!(
        !good && said.contains("wants a certificate: give --cert-file"),
        "{said}"
    );
    let server = [files.flag("server.pem"), files.flag("server.key")];
    for (flags, words) in [
        (vec!["--cert-file", &certificate], "--key-file"),
        (vec!["--key-file", &key], "--cert-file"),
        (
            vec!["--cert-file", &certificate, "--key-file", &server[1]],
            "no certificate and its key",
        ),
        (
            vec!["--cert-file", &certificate, "--key-file", &certificate],
            "cannot read a private key",
        ),
        (
            vec!["--cert-file", &files.flag("none.pem"), "--key-file", &key],
            "none.pem",
        ),
    ] {
        let (good, said) = explain(agent.address, &[&known[..], &flags].concat());
        assert!(!good && said.contains(words), "{flags:?}: {said}");
    }
    let (good, said) = explain(agent.address, &shown);
    assert!(!good && said.contains("--ca-file"), "{said}");
    hello(agent.address, &[&known[..], &shown].concat());
}

#[test]
fn the_api_is_for_this_host_unless_it_is_protected() {
    need_root();
    let files = Files::new();
    let open = Agent::start_everywhere;
    let paths = ["/api/v1/incidents", "/api/v1/incidents/1", "/api/v1/events"];
    let status = |agent: &Agent, path: &str, flags: &[&str]| {
        curl(&format!("http://{}{path}", agent.address), flags)
    };

    let agent = open(&[]);
    for path in paths {
        let (code, said) = status(&agent, path, &[]);
        assert_eq!(code, 403, "{path}: {said}");
        assert!(said.contains("--api on"), "{said}");
    }
    assert_eq!(status(&agent, "/metrics", &[]).0, 200);
    let (good, said) = explain(agent.address, &[]);
    assert!(!good && said.contains("--api on"), "{said}");
    drop(agent);

    let agent = open(&["--api", "on"]);
    assert_eq!(status(&agent, paths[0], &[]).0, 200);
    drop(agent);

    let web = files.write("web.yml", &format!("basic_auth_users:\n  prom: {HORSE}\n"));
    let agent = open(&["--web-config-file", &web]);
    assert_eq!(status(&agent, paths[0], &[]).0, 401);
    assert_eq!(
        status(&agent, paths[0], &["--user", "prom:correct horse"]).0,
        200
    );
    drop(agent);

    let agent = Agent::start(&["--api", "off"]);
    let (code, said) = status(&agent, paths[0], &[]);
    assert_eq!(code, 403, "{said}");
    assert!(said.contains("switched off"), "{said}");
}

#[test]
fn a_web_configuration_that_cannot_be_used_stops_the_start() {
    need_root();
    let files = Files::new();
    for (text, words) in [
        ("tls_server_confg: {}\n", "tls_server_confg"),
        (
            "tls_server_config: {cert_file: none.pem, key_file: server.key}\n",
            "none.pem",
        ),
        ("basic_auth_users: {prom: plain}\n", "bcrypt"),
    ] {
        let web = files.write("web.yml", text);
        let mut run = Command::new("timeout");
        run.arg("20")
            .arg(binary())
            .args(["run", "--listen", "127.0.0.1:0"]);
        let (status, said) = Agent::refused(run.args(["--web-config-file", &web]));
        assert_eq!(status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(words), "{said}");
    }
}
