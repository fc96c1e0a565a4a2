//! Attempts that fail before `connect(2)`: no file is left, or the address to send from is not there.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::Events;
use e2e::nginx::{Config, Nginx};
use e2e::ports::free;
use e2e::process::need_root;
use e2e::wait::eventually;

use super::{LOCALHOST, LONG, ask, begin, reported, status};

/// errno(3)
const EMFILE: u64 = 24;
const EADDRNOTAVAIL: u64 = 99;

/// Files that nginx may have, some ten of them its own.
const FILES: usize = 24;

/// A look at one client takes so long.
const SHORT: Duration = Duration::from_millis(20);

fn proxy(servers: &str, files: Option<usize>) -> Nginx {
    let config = Config {
        workers: 1,
        files,
        ..Config::new(servers)
    };
    Nginx::start(&config, None)
}

#[track_caller]
fn assert_local_error(events: &Events, path: &str, errno: u64) {
    let request = reported(events, path);
    println!(
        "{path}: {:?} ({:?}), {:?}",
        request.cause, request.certainty, request.attempts
    );
    assert_eq!(request.code, Some(500));
    let verdict = (request.cause.as_deref(), request.certainty.as_deref());
    assert_eq!(verdict, (Some("connect_local_error"), Some("proof")));
    let [attempt] = request.attempts.as_slice() else {
        panic!("{} attempts", request.attempts.len());
    };
    assert_eq!(attempt.upstream, "unknown");
    assert_eq!(attempt.evidence["errno"], errno);
}

#[test]
fn a_socket_that_cannot_be_made_is_connect_local_error() {
    need_root();
    let upstream = TcpListener::bind((LOCALHOST, 0)).expect("a port is free");
    let app = upstream.local_addr().expect("it is bound");
    let listen = free(LOCALHOST);
    let nginx = proxy(
        &format!("server {{ listen {listen}; location / {{ proxy_pass http://{app}; }} }}"),
        Some(FILES),
    );
    let agent = Agent::start(&[]);
    let events = agent.events();

    let path = take_all_files(listen);
    let log = nginx.error_text();
    assert!(
        log.contains("socket() failed (24: Too many open files)"),
        "{log}"
    );
    assert_local_error(&events, &path, EMFILE);
    drop(upstream);
}

/// Asks until a client is accepted with the last file; the path of its request.
fn take_all_files(proxy: SocketAddr) -> String {
    // Where the last file would go to an upstream's connection, it is given back to accept with.
    let mut spare = Some(connect(proxy));
    let path = |number| format!("/files/{number}");
    let mut waiting: Vec<TcpStream> = (0..FILES)
        .map(|number| {
            let mut stream = connect(proxy);
            begin(&mut stream, &path(number)).expect("it is sent");
            stream
        })
        .collect();
    eventually(LONG, "a request is answered", || {
        // Nobody answers at the upstream.
        let answered = waiting
            .iter_mut()
            .position(|stream| status(stream).is_ok_and(|code| code == 500));
        drop(spare.take());
        answered.map(path).ok_or_else(|| "none is".to_owned())
    })
}

fn connect(proxy: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(proxy).expect("nginx listens");
    stream
        .set_read_timeout(Some(SHORT))
        .expect("an option of the socket");
    stream
}

#[test]
fn an_address_that_is_not_there_to_send_from_is_connect_local_error() {
    need_root();
    let (listen, app) = (free(LOCALHOST), free(LOCALHOST));
    let nginx = proxy(
        &format!(
            "server {{ listen {listen}; location / {{ proxy_bind 198.51.100.1; proxy_pass http://{app}; }} }}"
        ),
        None,
    );
    let agent = Agent::start(&[]);
    let events = agent.events();

    assert_eq!(ask(listen, "/bound").expect("an answer"), 500);
    let log = nginx.error_text();
    assert!(
        log.contains("bind(198.51.100.1) failed (99: Cannot assign requested address)"),
        "{log}"
    );
    assert_local_error(&events, "/bound", EADDRNOTAVAIL);
    agent.settled(LONG);
}
