//! For each stage at which something can be lost, a fault that makes it lose: the counter of that
//! stage rises, and by how much.
//!
//! What no fault from outside reaches is injected in tests of the crates: records that are refused
//! and the counters of the probes by name (`agent/src/pipeline/tests.rs`), the tables of the core
//! (`agent-core/tests/losses.rs`).

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::metrics::Metrics;
use e2e::churn::{churn, namespace, sysctl};
use e2e::delay::DelayLine;
use e2e::http;
use e2e::load::known::assert_covered;
use e2e::load::{Order, run, runtime};
use e2e::netns::Netns;
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::{need_root, raise_open_files};
use e2e::stage::plain;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;
use rustix::process::Signal;
use socket2::{Domain, Protocol, Socket, Type};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOSSES: &str = "why502_agent_losses_total";
const RECORDS: &str = "why502_agent_records_total";
/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(20);
/// How long a single thing may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How the answer to `ok` ends.
const ANSWER_ENDS: &[u8] = b"\r\n\r\nab";

fn lost(metrics: &Metrics, stage: &str, what: &str) -> u64 {
    metrics.sum(LOSSES, &[("stage", stage), ("what", what)]) as u64
}

fn scene(netns: Option<&Netns>, listen: IpAddr) -> (Upstreams, Nginx, SocketAddr) {
    let upstreams = Upstreams::start(LOCALHOST, &["0"], netns);
    let address = match netns {
        // Nobody else is in there.
        Some(_) => SocketAddr::new(listen, 80),
        None => ports::free(listen),
    };
    let app = *upstreams.addresses.first().unwrap_or(&address);
    let nginx = Nginx::start(&Config::new(plain(&[address.to_string()], app)), netns);
    (upstreams, nginx, address)
}

#[test]
fn in_the_ring_while_the_agent_does_not_run() {
    need_root();
    let netns = namespace();
    let agent = Agent::start(&["--ring-bytes", "65536"]);
    let before = agent.settled(TELL);
    let count = 20_000;

    agent.signal(Signal::STOP);
    churn(&netns, 1, count);
    agent.signal(Signal::CONT);

    let after = agent.settled(TELL);
    let held = |metrics: &Metrics| {
        metrics.sum(RECORDS, &[("stage", "decoded"), ("kind", "connect")]) as u64
    };
    let (held, lost) = (
        held(&after) - held(&before),
        lost(&after, "ring", "connect") - lost(&before, "ring", "connect"),
    );
    println!("{count} connects: {held} told, {lost} lost");
    assert!(lost > 0, "64 KB do not hold so many");
    // Others on this host may connect as well.
    let all = held + lost;
    assert!((count as u64..=count as u64 + 50).contains(&all), "{all}");
}

#[test]
fn in_the_probes_when_a_socket_can_have_no_storage() {
    need_root();
    let netns = namespace();
    // Storage counts as memory of the socket's options (bpf_sk_storage.c, sk_storage_charge), and
    // of that a namespace may allow none. A limit of a memory cgroup would not do: the kernel
    // charges what is allocated in an interrupt beyond it.
    sysctl(&netns, "net/core/optmem_max", "0");
    let agent = Agent::start(&[]);
    let count = 3000;

    churn(&netns, 1, count);

    let metrics = agent.settled(TELL);
    let lost = lost(&metrics, "probes", "storage_failed");
    println!("{count} connections without storage: {lost} sockets not watched");
    assert_eq!(lost, 2 * count as u64, "each connection has two ends");
}

#[test]
fn in_the_probes_when_too_many_threads_connect_at_once() {
    need_root();
    let bound = 4096;
    let beyond = 100;
    assert!(raise_open_files() > bound + beyond + 100);
    let dark_netns = Netns::new();
    let dark = SocketAddr::new(dark_netns.join(None).far, 9);
    dark_netns.swallow(dark.port());
    let agent = Agent::start(&[]);
    let before = agent.settled(TELL);

    let mut sockets = Vec::new();
    let mut threads = Vec::new();
    for _ in 0..bound + beyond {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
        let socket = Arc::new(socket.expect("a socket is made"));
        sockets.push(Arc::clone(&socket));
        let thread = std::thread::Builder::new().stack_size(64 * 1024);
        let connect = move || drop(socket.connect(&dark.into()));
        threads.push(thread.spawn(connect).expect("a thread is made"));
    }
    eventually(
        PATIENCE,
        "all threads are inside connect",
        || match connecting(dark.port()) {
            now if now == threads.len() => Ok(()),
            now => Err(format!("{now} of {}", threads.len())),
        },
    );
    for socket in &sockets {
        // Ends the connect.
        drop(socket.shutdown(std::net::Shutdown::Both));
    }
    for thread in threads {
        thread.join().expect("it does not panic");
    }

    let after = agent.settled(TELL);
    let what = "connecting_full";
    let lost = lost(&after, "probes", what) - lost(&before, "probes", what);
    println!("{bound} threads and {beyond} beyond: {lost} connects not followed");
    // Another program of this host may have been inside connect as well.
    assert!((beyond..=beyond + 5).contains(&lost), "{lost}");
}

/// Sockets of this namespace that wait for the answer to a SYN to `port` (proc_net_tcp(5)).
fn connecting(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let port = format!(":{port:04X}");
    table
        .lines()
        .filter(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.get(2).is_some_and(|remote| remote.ends_with(&port))
                && words.get(3) == Some(&"02")
        })
        .count()
}

#[test]
fn in_the_probes_when_a_head_is_longer_than_they_read() {
    need_root();
    let (_upstreams, _nginx, address) = scene(None, LOCALHOST);
    let agent = Agent::start(&[]);
    let count = 25;

    for number in 0..count {
        let cookie = "c".repeat(6000);
        let head = format!(
            "GET /{number}/ok HTTP/1.1\r\nHost: h\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(status_of(address, &[head.as_bytes()]), Some(200));
    }

    let metrics = agent.settled(TELL);
    let lost = lost(&metrics, "probes", "head_too_long");
    println!("{count} long heads: {lost}");
    assert_eq!(
        lost,
        4 * count,
        "from the client and to the upstream, each with two ends on this host"
    );
}

#[test]
fn in_the_probes_when_a_head_comes_in_the_wrong_order() {
    need_root();
    let netns = Netns::new();
    let line = DelayLine::reversing(&netns);
    let (_upstreams, _nginx, address) = scene(Some(&netns), line.far);
    let agent = Agent::start(&[]);
    let count = 10;

    for number in 0..count {
        let first = format!("GET /{number}/first/ok HTTP/1.1\r\nHost: h\r\n\r\n");
        let second = format!("GET /{number}/second/ok HTTP/1.1\r\n");
        let parts: [&[u8]; 3] = [
            second.as_bytes(),
            b"Host: h\r\n",
            b"Connection: close\r\n\r\n",
        ];
        assert_eq!(
            second_status_of(address, first.as_bytes(), &parts),
            Some(200)
        );
    }

    let metrics = agent.settled(TELL);
    let lost = lost(&metrics, "probes", "head_reordered");
    println!("{count} heads from back to front: {lost}");
    assert_eq!(lost, count);
    let responses = "why502_gateway_responses_total";
    let answered = metrics.sum(responses, &[("proxy", "nginx"), ("code", "200")]);
    assert_eq!(
        answered as u64,
        2 * count,
        "its answer is told all the same"
    );
    assert_eq!(metrics.sum("why502_gateway_errors_total", &[]), 0.0);
}

/// Sends a request and reads the answer until the server closes.
#[track_caller]
fn status_of(address: SocketAddr, parts: &[&[u8]]) -> Option<u16> {
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut stream = connected(address)?;
        for part in parts {
            stream.write_all(part)?;
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    status(&exchange().unwrap_or_else(|error| panic!("no answer: {error}")))
}

/// Sends a request whole, and after its answer another, each part in a packet of its own.
#[track_caller]
fn second_status_of(address: SocketAddr, first: &[u8], second: &[&[u8]]) -> Option<u16> {
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut stream = connected(address)?;
        stream.write_all(first)?;
        // All of the first answer is in hand when its head is: it has no body.
        let mut answer = [0; 4096];
        let mut read = 0;
        while !answer
            .get(..read)
            .unwrap_or_default()
            .ends_with(ANSWER_ENDS)
        {
            match stream.read(answer.get_mut(read..).unwrap_or_default())? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                more => read += more,
            }
        }
        for part in second {
            stream.write_all(part)?;
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    status(&exchange().unwrap_or_else(|error| panic!("no answer: {error}")))
}

fn connected(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn status(answer: &[u8]) -> Option<u16> {
    let answer = String::from_utf8_lossy(answer);
    answer.split(' ').nth(1)?.parse().ok()
}

#[test]
fn in_the_stream_when_a_reader_does_not_read() {
    need_root();
    let (_upstreams, _nginx, address) = scene(None, LOCALHOST);
    let agent = Agent::start(&[]);
    let count = 16_000;
    let mut reader = small_reader(agent.address);
    reader
        .write_all(b"GET /api/v1/events?all=1 HTTP/1.0\r\n\r\n")
        .expect("the agent is asked");
    eventually(PATIENCE, "the reader is there", || {
        match agent.metrics().sum("why502_agent_stream_subscribers", &[]) {
            1.0 => Ok(()),
            other => Err(format!("{other} readers")),
        }
    });
    let orders = (0..count)
        .map(|number| Order::get(format!("/{number}/ok")))
        .collect();
    let outcomes = runtime().block_on(run(address, orders, 16));
    assert!(outcomes.iter().all(|outcome| outcome.is(200)));
    agent.settled(TELL);

    // It reads again, until it has been told of each request or that it missed it.
    let mut text = String::new();
    let mut buffer = [0; 65_536];
    let (mut told, mut missed) = (0, 0);
    while told + missed < count as u64 {
        let read = reader.read(&mut buffer).expect("the stream goes on");
        assert_ne!(
            read, 0,
            "the stream ended at {told} told and {missed} missed"
        );
        text.push_str(&String::from_utf8_lossy(
            buffer.get(..read).unwrap_or_default(),
        ));
        while let Some(end) = text.find('\n') {
            let line: String = text.drain(..=end).collect();
            if line.contains("\"type\":\"request\"") {
                told += 1;
            } else if line.contains("\"type\":\"lost\"") {
                let events = line.split("\"events\":").nth(1).unwrap_or_default();
                let digits: String = events.chars().take_while(char::is_ascii_digit).collect();
                missed += digits.parse::<u64>().unwrap_or_else(|_| panic!("{line}"));
            }
        }
    }

    let lost = lost(&agent.metrics(), "stream", "lagged");
    println!("{count} requests: {told} told, {missed} missed, {lost} counted");
    assert!(missed > 0, "the stream has a bound");
    assert_eq!((told + missed, lost), (count as u64, missed));
}

/// A connection that takes little without being read.
fn small_reader(address: SocketAddr) -> TcpStream {
    let connect = || -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_recv_buffer_size(4096)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(&address.into())?;
        Ok(socket.into())
    };
    connect().unwrap_or_else(|error| panic!("the agent cannot be reached: {error}"))
}

#[test]
fn in_the_exporter_when_all_places_are_taken() {
    need_root();
    let agent = Agent::start(&[]);
    let before = lost(&agent.metrics(), "exporter", "turned_away");
    let places = 64;
    let beyond = 9;

    let mut others: Vec<TcpStream> = (0..places + beyond)
        .map(|_| TcpStream::connect(agent.address).expect("the agent is there"))
        .collect();
    let turned_away = eventually(PATIENCE, "as many have to go", || {
        let gone = others.iter_mut().filter_map(is_closed).count() as u64;
        if gone >= beyond {
            Ok(gone)
        } else {
            Err(format!("{gone} of {beyond}"))
        }
    });
    // And one more for whoever asks.
    let turned_away = turned_away + 1;
    let answer = http::get(agent.address, "/metrics", "*/*").expect("it is answered");
    let text = String::from_utf8_lossy(&answer.body);

    let counted = lost(&Metrics::parse(&text), "exporter", "turned_away") - before;
    println!("{turned_away} turned away, {counted} counted");
    assert_eq!(counted, turned_away);
}

fn is_closed(stream: &mut TcpStream) -> Option<()> {
    stream.set_nonblocking(true).ok()?;
    match stream.read(&mut [0]) {
        Ok(0) => Some(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(()),
        _ => None,
    }
}

#[test]
fn in_the_store_of_incidents_when_there_are_more_than_it_keeps() {
    need_root();
    let (_upstreams, _nginx, address) = scene(None, LOCALHOST);
    let agent = Agent::start(&["--incidents", "5"]);
    let orders = (0..12)
        .map(|number| Order::post(format!("/{number}/close"), 10))
        .collect();

    runtime().block_on(run(address, orders, 4));

    let metrics = agent.settled(TELL);
    let fate = |fate| metrics.sum("why502_agent_incidents_total", &[("fate", fate)]);
    let kept = metrics.sum("why502_agent_tracked", &[("what", "incidents")]);
    println!(
        "{} stored, {} evicted, {kept} kept",
        fate("stored"),
        fate("evicted")
    );
    assert_eq!((fate("stored"), fate("evicted"), kept), (12.0, 7.0, 5.0));
}

#[test]
fn errors_given_are_errors_explained_and_unattributed() {
    need_root();
    let (_upstreams, _nginx, address) = scene(None, LOCALHOST);
    let agent = Agent::start(&[]);
    let mut orders: Vec<Order> = (0..20)
        .map(|number| Order::post(format!("/{number}/close"), 10))
        .collect();
    orders.extend((0..20).map(|number| Order::get(format!("/{number}/status=503"))));
    orders.extend((0..20).map(|number| Order::get(format!("/{number}/ok"))));

    runtime().block_on(run(address, orders, 8));

    let metrics = agent.settled(TELL);
    assert_covered(&metrics);
    assert_eq!(metrics.sum("why502_agent_coverage", &[]), 1.0);
    let seen = metrics.sum("why502_agent_explanations_total", &[("fate", "seen")]);
    assert_eq!(seen, 40.0);
}
