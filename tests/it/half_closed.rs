//! A client that shuts its sending side down and reads on, as `nc -N` and some libraries do, has not
//! left: what the proxy gives it when its timer runs out is a timeout. One that closes has. The judge is
//! what the client reads. `WHY502_PROXY=haproxy` runs one proxy.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::Request;
use e2e::beside::each;
use e2e::process::need_root;
use e2e::proxies::{Group, Kind, Proxy, Target};
use e2e::upstreams::Upstreams;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long the agent may take to report a request, and a proxy to answer.
const TELL: Duration = Duration::from_secs(15);
const ANSWER: Duration = Duration::from_secs(20);

/// Proxies at a time.
const BESIDE: usize = 2;

/// Asks for `path`, sends no more, and reads until the proxy closes: the status, if one came.
fn ask_and_read_on(proxy: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = asked(proxy, path);
    stream.shutdown(Shutdown::Write).expect("it is connected");
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("no end: {error}"),
        _ => {}
    }
    answer.split(' ').nth(1)?.parse().ok()
}

fn asked(proxy: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).expect("the proxy listens");
    let timeout = stream.set_read_timeout(Some(ANSWER));
    timeout.expect("a timeout can be set");
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let sent = stream.write_all(request.as_bytes());
    sent.expect("the connection is open");
    stream
}

fn cause_of(request: &Request) -> (String, String) {
    let last = request.attempts.last();
    let cause = request
        .cause
        .clone()
        .or(last.and_then(|one| one.cause.clone()));
    let sure = last.and_then(|one| one.certainty.clone());
    let sure = request.certainty.clone().or(sure);
    (cause.unwrap_or_default(), sure.unwrap_or_default())
}

fn at(kind: Kind) -> Vec<String> {
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let group = Group::new("x", Target::Servers(upstreams.addresses.clone()));
    let agent = Agent::start_as(&format!("half-closed-{kind}"), &[]);
    let events = agent.events();
    let proxy = Proxy::start(kind, &[group]);
    let [stays, leaves] = ["stays", "leaves"].map(|name| format!("/x/{kind}/{name}/hang"));

    let read = ask_and_read_on(proxy.address, &stays);
    drop(asked(proxy.address, &leaves));

    let mut wrong = Vec::new();
    let told = events.of([stays.as_str(), leaves.as_str()], TELL);
    for (path, read) in [(&stays, read), (&leaves, None)] {
        let request = &told[path];
        let (cause, sure) = cause_of(request);
        println!(
            "{kind} {path}: read {read:?}, {:?} {cause} {sure}",
            request.code
        );
        // nginx, Envoy and Go's proxies let go at a client's FIN: that is no error of theirs.
        let right = match read {
            Some(500..) => cause == "response_timeout" && sure != "proof",
            _ => cause == "client_abort" || (cause.is_empty() && request.code < Some(500)),
        };
        if !right || (read.is_some() && read != request.code) {
            wrong.push(format!("{kind}: read {read:?}: {request:#?}"));
        }
    }
    wrong
}

#[test]
fn a_client_that_sends_no_more_and_reads_on_has_not_left() {
    need_root();
    let one = std::env::var("WHY502_PROXY").ok();
    let asked = |kind: &Kind| one.as_deref().is_none_or(|one| one == kind.name());
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(asked).collect();

    let wrong: Vec<String> = each(&kinds, BESIDE, |kind| at(*kind)).concat();

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
