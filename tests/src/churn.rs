//! Connections that are made and closed again, as fast as it goes, in a namespace of their own.
//!
//! Nothing is sent on them. Most are reset by the client, one in ten is closed in order; all over
//! the loopback, where a connect is done when `connect(2)` returns.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;

/// Of so many connections, one is closed in order: it takes a port for a minute (TIME_WAIT).
const IN_ORDER: usize = 10;

/// Connections that may wait to be accepted. Too small: a SYN is dropped and the next comes after
/// a second.
const BACKLOG: i32 = 65_535;

/// Makes `count` connections by each of `pairs` of threads; how long it took.
#[track_caller]
pub fn churn(netns: &Netns, pairs: usize, count: usize) -> Duration {
    let threads: Vec<_> = (0..pairs)
        .map(|_| netns.run(move || pair(count).expect("connections are made and accepted")))
        .collect();
    let started = Instant::now();
    for thread in threads {
        thread.join().expect("clients do not panic");
    }
    started.elapsed()
}

/// Prepares a namespace: room for connections that wait, all ports, and those in TIME_WAIT used
/// again.
#[track_caller]
pub fn namespace() -> Netns {
    let netns = Netns::new();
    sysctl(&netns, "net/core/somaxconn", "65535");
    sysctl(&netns, "net/ipv4/ip_local_port_range", "1024 65535");
    sysctl(&netns, "net/ipv4/tcp_tw_reuse", "1");
    netns
}

/// Sets a variable that each network namespace has for itself.
#[track_caller]
pub fn sysctl(netns: &Netns, name: &str, value: &str) {
    let path = format!("/proc/sys/{name}");
    let value = value.to_owned();
    let thread = netns.run(move || std::fs::write(&path, value));
    thread
        .join()
        .expect("a file is written")
        .unwrap_or_else(|error| panic!("cannot set {name}: {error}"));
}

fn pair(count: usize) -> io::Result<()> {
    let listener = socket()?;
    listener.bind(&SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).into())?;
    listener.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    let over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&over);
    // Kept until the last client is done: a listener that is closed resets who waits.
    let listener = Arc::new(listener);
    let accepting = Arc::clone(&listener);
    // A thread made here is in this thread's namespace.
    let server = std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            drop(accepting.accept());
        }
    });
    let connect = |in_order: bool| {
        let socket = socket()?;
        if !in_order {
            socket.set_linger(Some(Duration::ZERO))?;
        }
        socket.connect(&address)
    };
    let mut result = Ok(());
    // The last one wakes the server for the last time.
    for number in 1..count {
        result = result.and_then(|()| connect(number % IN_ORDER == 0));
    }
    over.store(true, Ordering::Relaxed);
    result = result.and_then(|()| connect(false));
    server.join().expect("the server does not panic");
    result
}

fn socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
}
