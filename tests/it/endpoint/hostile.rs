//! Requests that are too large, have what no request of a scraper has, never end, or guess
//! passwords; and hundreds of them while scrapes go on.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2e::agent::Agent;
use e2e::http;
use e2e::process::{need_root, raise_open_files};

use crate::curl;
use crate::files::{Files, HORSE};

/// A scrape takes milliseconds; with a debug build on a busy machine it may take this long.
const SCRAPE: Duration = Duration::from_secs(5);

/// All that comes back for these bytes; none where the connection was reset.
fn send(address: SocketAddr, bytes: &[u8]) -> String {
    let mut answer = Vec::new();
    if let Ok(mut connection) = TcpStream::connect(address) {
        // What is refused is not read to its end.
        let _ = connection.set_read_timeout(Some(Duration::from_secs(20)));
        let _ = connection.write_all(bytes);
        let _ = connection.read_to_end(&mut answer);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn what_no_scraper_sends_is_refused() {
    need_root();
    let agent = Agent::start(&[]);
    let get = "GET /metrics HTTP/1.1\r\nHost: x\r\n";
    let many: String = (0..500).map(|n| format!("a{n}: b\r\n")).collect();
    for (what, bytes, expected) in [
        (
            "a long header",
            format!("{get}X: {}\r\n\r\n", "a".repeat(64 << 10)),
            "431",
        ),
        (
            "a long path",
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(64 << 10)),
            "431 414",
        ),
        ("many headers", format!("{get}{many}\r\n"), "431"),
        (
            "a body",
            format!("{get}Content-Length: 3\r\n\r\nabc"),
            "413",
        ),
        (
            "a body without end",
            format!(
                "{get}Content-Length: 999999999\r\n\r\n{}",
                "a".repeat(200_000)
            ),
            "413",
        ),
        (
            "a chunked body",
            format!("{get}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
            "413",
        ),
        (
            "another method",
            "DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "405",
        ),
        ("nonsense", "hello\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = send(agent.address, bytes.as_bytes());
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(
            !status.is_empty() && expected.contains(status),
            "{what}: expected {expected}, got {answer:.300}"
        );
    }
    let answer = http::get(agent.address, "/metrics", "*/*");
    assert!(answer.is_ok_and(|answer| answer.status == 200));
}

#[test]
fn a_head_that_does_not_end_is_cut_off() {
    need_root();
    let agent = Agent::start(&[]);
    let started = Instant::now();
    send(agent.address, b"GET /metrics HTTP/1.1\r\nHost:");
    let took = started.elapsed();
    assert!(
        (Duration::from_secs(3)..Duration::from_secs(15)).contains(&took),
        "{took:?}"
    );
}

/// Does `each` on 300 connections at a time, and anew where one was closed, until dropped.
struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    const THREADS: usize = 3;
    const EACH: usize = 100;
    /// New ones each time round, of each thread.
    const ANEW: usize = 10;

    /// `first` is sent on each connection, then `drip` every time round.
    fn start(address: SocketAddr, first: &'static [u8], drip: &'static [u8]) -> Self {
        raise_open_files();
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..Self::THREADS)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || drip_on(address, first, drip, &stop))
            })
            .collect();
        Self { stop, threads }
    }

    /// Ends it.
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

fn drip_on(address: SocketAddr, first: &[u8], drip: &[u8], stop: &AtomicBool) {
    let mut connections: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        // Slow ones, not a flood.
        let missing = Crowd::EACH.saturating_sub(connections.len());
        for _ in 0..missing.min(Crowd::ANEW) {
            let Ok(mut connection) = TcpStream::connect(address) else {
                break;
            };
            let _ = connection.set_nonblocking(true);
            let _ = connection.write(first);
            connections.push(connection);
        }
        connections.retain_mut(|connection| match connection.write(drip) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[track_caller]
fn assert_scrapes_go_on(agent: &Agent, what: &str) {
    for n in 0..30 {
        let started = Instant::now();
        let answer = http::get(agent.address, "/metrics", "*/*");
        let took = started.elapsed();
        match answer {
            Ok(answer) if answer.status == 200 && took < SCRAPE => {}
            other => panic!("scrape {n} beside {what}: {other:?} after {took:?}"),
        }
    }
}

#[test]
fn scrapes_go_on_beside_hundreds_who_never_finish_asking() {
    need_root();
    let agent = Agent::start(&[]);
    let crowd = Crowd::start(agent.address, b"GET /metrics HTTP/1.1\r\n", b"X");
    let full = || {
        agent
            .metrics()
            .sum("why502_agent_losses_total", &[("what", "turned_away")])
            > 100.0
    };
    e2e::wait::eventually(Duration::from_secs(30), "the crowd is there", || {
        if full() {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    });

    assert_scrapes_go_on(&agent, "slow heads");

    crowd.end();
    // 64 of them, the listener, the ring and the probes.
    assert!(agent.open_files() < 200, "{} files", agent.open_files());
}

#[test]
fn scrapes_go_on_beside_hundreds_who_never_take_their_answer() {
    need_root();
    let agent = Agent::start(&[]);
    let crowd = Crowd::start(
        agent.address,
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        b"",
    );

    assert_scrapes_go_on(&agent, "answers that nobody takes");

    crowd.end();
}

#[test]
fn guessing_passwords_neither_takes_the_cpu_nor_stops_scrapes() {
    need_root();
    let files = Files::new();
    let web = files.write("web.yml", &format!("basic_auth_users:\n  prom: {HORSE}\n"));
    let agent = Agent::start(&["--web-config-file", &web]);
    let url = format!("http://{}/metrics", agent.address);
    let right = ["--user", "prom:correct horse"];
    assert_eq!(curl(&url, &right).0, 200);

    // Each guess is a hash of 50 ms, if it is looked at.
    let stop = Arc::new(AtomicBool::new(false));
    let guessers: Vec<_> = (0..16)
        .map(|guesser| {
            let (stop, address) = (Arc::clone(&stop), agent.address);
            std::thread::spawn(move || {
                let mut statuses = Vec::new();
                for n in 0u32.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let guess = curl(
                        &format!("http://{address}/metrics"),
                        &["--user", &format!("prom:{guesser}-{n}")],
                    );
                    statuses.push(guess.0);
                }
                statuses
            })
        })
        .collect();
    let (before, started) = (agent.cpu(), Instant::now());
    let mut scrapes = 0;
    while started.elapsed() < Duration::from_secs(8) {
        let (status, said) = curl(&url, &right);
        assert_eq!(status, 200, "{said}");
        scrapes += 1;
    }
    let share = (agent.cpu() - before).as_secs_f64() / started.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let statuses: Vec<u16> = guessers
        .into_iter()
        .flat_map(|guesser| guesser.join().unwrap_or_default())
        .collect();

    println!(
        "{} guesses, {scrapes} scrapes, {share:.2} CPUs",
        statuses.len()
    );
    assert!(
        statuses.iter().all(|status| [401, 429].contains(status)),
        "{statuses:?}"
    );
    assert!(statuses.contains(&429) && scrapes > 10);
    assert!(share < 0.5, "{share:.2} CPUs");
}

#[test]
fn who_knows_the_password_is_heard_beside_someone_who_guesses() {
    need_root();
    let files = Files::new();
    let text = format!("basic_auth_users:\n  prom: {HORSE}\n");
    let web = files.write("web.yml", &text);
    let agent = Agent::start(&["--web-config-file", &web]);
    let url = format!("http://{}/metrics", agent.address);
    let right = ["--user", "prom:correct horse"];
    let elsewhere = ["--user", "prom:correct horse", "--interface", "127.0.0.2"];
    let stop = Arc::new(AtomicBool::new(false));
    let guessers: Vec<_> = (0..12)
        .map(|guesser| {
            let (stop, url) = (Arc::clone(&stop), url.clone());
            std::thread::spawn(move || {
                let mut refused = 0;
                for n in 0u32.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let guess = format!("prom:{guesser}-{n}");
                    refused += u32::from(curl(&url, &["--user", &guess]).0 == 429);
                }
                refused
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2));

    // Nobody has given it before, as after a start.
    let asked = Instant::now();
    let (status, said) = curl(&url, &elsewhere);
    println!("heard after {:?}", asked.elapsed());
    assert_eq!(status, 200, "{said}");

    // And known to be right it stays when the file is read again.
    for _ in 0..3 {
        files.write("web.yml", &text);
        for flags in [&right[..], &elsewhere] {
            let (status, said) = curl(&url, flags);
            assert_eq!(status, 200, "{said}");
        }
    }
    assert!(agent.log().contains("read the web configuration again"));

    stop.store(true, Ordering::Relaxed);
    let refused: u32 = guessers
        .into_iter()
        .map(|guesser| guesser.join().unwrap_or_default())
        .sum();
    assert!(refused > 0, "they were too few");
}
