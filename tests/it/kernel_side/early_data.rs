//! A service whose accept queue is full, beside one that gets connections on the same CPU.
//!
//! nginx waits for data before it accepts (`listen ... deferred`), as Apache httpd does: the data of
//! a client then arrives at the listener, and the kernel drops it where the queue is full.

use std::net::{SocketAddr, TcpStream};

use e2e::agent::Agent;
use e2e::nginx::{Config, Nginx};
use e2e::ports::{Refusing, free};
use e2e::process::{need_root, signal};
use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::{LOCALHOST, LONG, ask, begin, reported};

/// The queue takes one more than this.
const BACKLOG: usize = 16;
/// Clients whose data finds the queue full. More: the kernel refuses handshakes.
const TURNED_AWAY: usize = 4;
/// Requests that each of them sends one after the other. More: they wait in the client's own queue.
const EACH: usize = 8;

/// Both ends of a connection over the loopback are handled where the client runs.
fn stay_on_one_cpu() {
    let mut one = CpuSet::new();
    one.set(0);
    sched_setaffinity(None, &one).expect("a thread may choose its CPU");
}

#[test]
fn data_that_a_full_listener_drops_is_given_to_no_other_connection() {
    need_root();
    stay_on_one_cpu();
    let refusing = Refusing::new(LOCALHOST);
    let (full, healthy) = (free(LOCALHOST), free(LOCALHOST));
    let stopped = nginx(&format!(
        "server {{ listen {full} deferred backlog={BACKLOG}; return 204; }}"
    ));
    let _proxy = nginx(&format!(
        "server {{ listen {healthy}; location / {{ proxy_pass http://{}; }} }}",
        refusing.address
    ));
    let agent = Agent::start(&[]);
    let events = agent.events();
    for worker in stopped.workers() {
        signal(*worker, Signal::STOP);
    }

    let mut waiting: Vec<TcpStream> = (0..BACKLOG).map(|_| connect(full)).collect();
    for stream in &mut waiting {
        begin(stream, "/waits").expect("it is sent");
    }
    let mut last = connect(full);
    let mut late: Vec<TcpStream> = (0..TURNED_AWAY).map(|_| connect(full)).collect();
    begin(&mut last, "/waits").expect("it is sent");
    for number in 0..EACH {
        for (client, stream) in late.iter_mut().enumerate() {
            begin(stream, &format!("/dropped/{client}/{number}")).expect("it is sent");
            let path = format!("/own/{client}/{number}");
            assert_eq!(ask(healthy, &path).expect("an answer"), 502);
        }
    }
    for client in 0..TURNED_AWAY {
        for number in 0..EACH {
            let path = format!("/own/{client}/{number}");
            let request = reported(&events, &path);
            assert_eq!(request.cause.as_deref(), Some("connect_refused"), "{path}");
        }
    }
    let text = events.text();
    assert!(!text.contains("/dropped/"), "{text}");
    let left = agent
        .settled(LONG)
        .sum("why502_agent_skips_total", &[("what", "early_data_left")]);
    println!("{left} times data was left by its listener");
    assert!(left >= (TURNED_AWAY * EACH) as f64, "{left}");
    for worker in stopped.workers() {
        signal(*worker, Signal::CONT);
    }
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).expect("the listener answers");
    stream.set_nodelay(true).expect("an option of TCP");
    stream
}

fn nginx(servers: &str) -> Nginx {
    let config = Config {
        workers: 1,
        ..Config::new(servers)
    };
    Nginx::start(&config, None)
}
