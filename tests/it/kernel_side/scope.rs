//! `--cgroup`: what processes outside of it do is not reported, and what those in cgroups inside of it
//! do is.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use e2e::agent::Agent;
use e2e::cgroup::Cgroup;
use e2e::nginx::{Config, Nginx};
use e2e::ports::{Refusing, free};
use e2e::process::need_root;
use socket2::SockRef;

use super::{LOCALHOST, LONG, ask, reported};

/// This test's own process, outside.
const OUTSIDE: (&str, &str) = ("proxy", "outside");
const INSIDE: (&str, &str) = ("proxy", "nginx");

#[test]
fn only_what_is_in_the_cgroup_is_reported() {
    need_root();
    let refusing = Refusing::new(LOCALHOST);
    let proxy = free(LOCALHOST);
    let cgroup = Cgroup::of_pod("11111111-2222-3333-4444-555555555555", "scope", &[]);
    let servers = format!(
        "server {{ listen {proxy}; location / {{ proxy_pass http://{}; }}
         location /unix {{ proxy_pass http://unix:/nowhere/app.sock; }} }}",
        refusing.address
    );
    let _nginx = cgroup.inside(|| Nginx::start(&Config::new(servers), None));
    let own = std::env::current_exe().expect("a running program has a path");
    let own = own.file_name().expect("a name").to_string_lossy();
    let folder = cgroup.outermost().to_string_lossy();
    let agent = Agent::start(&[
        "--cgroup",
        &folder,
        "--proxy-name",
        &format!("{own}=outside"),
    ]);
    let events = agent.events();

    for _ in 0..3 {
        act_outside(refusing.address);
    }
    for path in ["/tcp", "/unix"] {
        assert_eq!(ask(proxy, path).expect("an answer"), 502);
        let request = reported(&events, path);
        assert_eq!(request.cause.as_deref(), Some("connect_refused"), "{path}");
    }

    let metrics = agent.settled(LONG);
    println!(
        "connects inside {}, outside {}; resets outside {}",
        metrics.sum("why502_tcp_connects_total", &[INSIDE]),
        metrics.sum("why502_tcp_connects_total", &[OUTSIDE]),
        metrics.sum("why502_tcp_resets_total", &[OUTSIDE]),
    );
    assert_eq!(metrics.sum("why502_tcp_connects_total", &[INSIDE]), 2.0);
    for name in [
        "why502_tcp_connects_total",
        "why502_tcp_resets_total",
        "why502_upstream_failures_total",
        "why502_tcp_rtt_seconds_count",
    ] {
        assert_eq!(metrics.sum(name, &[OUTSIDE]), 0.0, "{name}");
    }
    // None of them left the kernel either: each of nginx's attempts is one record.
    let records = |kind| {
        let labels = [("kind", kind), ("stage", "emitted")];
        metrics.sum("why502_agent_records_total", &labels)
    };
    assert_eq!(records("connect"), 1.0);
    assert_eq!(records("unix_connect"), 1.0);
    assert_eq!(records("connect_errno") + records("death"), 0.0);
}

/// A connect that is refused, one that has no address to go to, one to a Unix socket that is not
/// there, and a connection that is reset.
fn act_outside(refusing: SocketAddr) {
    TcpStream::connect(refusing).expect_err("nobody listens");
    let no_port = SocketAddr::new(LOCALHOST, 0);
    TcpStream::connect_timeout(&no_port, Duration::from_secs(1)).expect_err("no port");
    TcpStream::connect("255.255.255.255:80").expect_err("no address to connect to");
    UnixStream::connect("/nowhere/app.sock").expect_err("nobody listens");
    let listener = TcpListener::bind((LOCALHOST, 0)).expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let client = TcpStream::connect(address).expect("it listens");
    let (server, _) = listener.accept().expect("a client");
    let linger = SockRef::from(&server).set_linger(Some(Duration::ZERO));
    linger.expect("an option of the socket");
    drop(server);
    // The reset arrived before the close returned.
    drop(client);
}
