//! Connections of a watched process that are not HTTP, as those to Redis, PostgreSQL or RabbitMQ:
//! TCP tells of them, and nothing is made up beside it. And what the probes say of themselves.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::ports::Refusing;
use e2e::process::need_root;
use e2e::wait::eventually;
use socket2::SockRef;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const WORKER: (&str, &str) = ("proxy", "worker");
/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(20);
/// Questions on the connection.
const PINGS: usize = 20;

/// Answers pings as Redis does, and resets the connection after the last.
fn answer(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    let mut ping = [0; 6];
    for _ in 0..PINGS {
        stream.read_exact(&mut ping)?;
        stream.write_all(b"+PONG\r\n")?;
    }
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

/// Sends pings; gives how the connection ended.
fn ask(server: SocketAddr) -> io::Result<ErrorKind> {
    let mut stream = TcpStream::connect(server)?;
    let mut pong = [0; 7];
    for _ in 0..PINGS {
        stream.write_all(b"PING\r\n")?;
        stream.read_exact(&mut pong)?;
    }
    let end = stream.read_exact(&mut pong);
    Ok(end.map_or_else(|error| error.kind(), |()| ErrorKind::Other))
}

/// This test's own executable, as the agent knows it.
fn executable() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[test]
fn a_connection_that_is_not_http_is_told_as_tcp_and_nothing_else() {
    need_root();
    let agent = Agent::start(&["--proxy-name", &format!("{}=worker", executable())]);
    let listener = TcpListener::bind((LOCALHOST, 0)).expect("a port is free");
    let server = listener.local_addr().expect("it is bound");
    let refusing = Refusing::new(LOCALHOST);

    let answering = std::thread::spawn(move || answer(&listener));
    let ended = ask(server).expect("the server answers");
    assert_eq!(ended, ErrorKind::ConnectionReset);
    let answered = answering.join().expect("the server ends");
    answered.expect("it was asked");
    for _ in 0..2 {
        TcpStream::connect(refusing.address).expect_err("nobody listens");
    }

    let upstream = server.to_string();
    // The agent's own scrapes by this process are connects too, so its counters never rest.
    let metrics = eventually(TELL, "the end of the connection is told", || {
        let metrics = agent.metrics();
        let labels = [WORKER, ("upstream", upstream.as_str())];
        match metrics.sum("why502_tcp_rtt_seconds_count", &labels) {
            told if told > 0.0 => Ok(metrics),
            _ => Err("no round-trip time".to_owned()),
        }
    });
    let refused = refusing.address.to_string();
    let of = |name, labels: &[(&str, &str)]| metrics.sum(name, &[&[WORKER], labels].concat());
    let connects = |upstream, result| {
        of(
            "why502_tcp_connects_total",
            &[("upstream", upstream), ("result", result)],
        )
    };
    assert_eq!(connects(&upstream, "established"), 1.0);
    assert_eq!(connects(&refused, "refused"), 2.0);
    let resets = [("upstream", upstream.as_str()), ("direction", "received")];
    assert_eq!(of("why502_tcp_resets_total", &resets), 1.0);
    let measured = [("upstream", upstream.as_str())];
    assert_eq!(of("why502_tcp_rtt_seconds_count", &measured), 1.0);
    assert_eq!(of("why502_upstream_responses_total", &[]), 0.0);
    assert_eq!(of("why502_gateway_responses_total", &[]), 0.0);
}

#[test]
fn the_probes_speak_when_they_are_asked_to() {
    need_root();
    let loud = Agent::start(&["--attach", "everywhere", "--probe-log", "info"]);
    let refusing = Refusing::new(LOCALHOST);
    TcpStream::connect(refusing.address).expect_err("nobody listens");
    let port = format!("connected to port {}", refusing.address.port());
    eventually(TELL, "the probes tell of the connect", || {
        let log = loud.log();
        if log.contains(&port) {
            Ok(())
        } else {
            Err(log)
        }
    });
    drop(loud);

    let quiet = Agent::start(&["--log-level", "trace"]);
    TcpStream::connect(refusing.address).expect_err("nobody listens");
    quiet.settled(TELL);
    assert!(!quiet.log().contains(&port), "{}", quiet.log());
}
