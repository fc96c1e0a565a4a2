//! Nobody answers at the address, and this host knows where somebody does, or who did before.

use std::net::SocketAddr;

use e2e::netns::Netns;
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::{children_of, signal};
use rustix::process::Signal;

use super::{LOCALHOST, Scene, assert_case};

fn answering(listen: SocketAddr, netns: Option<&Netns>) -> Nginx {
    let server = format!("keepalive_timeout 60s; server {{ listen {listen}; return 200; }}");
    Nginx::start(&Config::new(server), netns)
}

#[test]
fn a_server_on_loopback_is_named_where_its_networks_address_was_asked_for() {
    let netns = Netns::new();
    let far = netns.join(None).far;
    let app: SocketAddr = "127.0.0.1:8080".parse().expect("an address");
    let upstream = answering(app, Some(&netns));
    let asked = SocketAddr::new(far, app.port());
    let scene = Scene::new(&format!("http://{asked}"));

    let told = scene.ask("/loopback-only");

    let case = assert_case(
        &told,
        "connect_refused",
        ("listens_on_loopback_only", "strong"),
    );
    assert_eq!(case.facts["listens_at"], app.to_string());
    assert_eq!(case.facts["listener_program"], "nginx");
    assert_eq!(case.facts["listener_pid"], upstream.pid().to_string());
    assert!(
        case.facts.contains_key("listener_started_before_seconds"),
        "{case:?}"
    );
    let fix = told.fix.as_deref().unwrap_or_default();
    assert!(fix.contains("0.0.0.0"), "{fix}");
    println!("{}", scene.explained());
}

#[test]
fn a_server_at_another_address_of_the_same_network_is_named() {
    let asked = ports::free(LOCALHOST);
    let other = SocketAddr::new([127, 0, 0, 2].into(), asked.port());
    let _upstream = answering(other, None);
    let scene = Scene::new(&format!("http://{asked}"));

    let told = scene.ask("/other-address");

    // Both are loopback: it is reached there by who asks here.
    let case = assert_case(
        &told,
        "connect_refused",
        ("listens_at_another_address", "strong"),
    );
    assert_eq!(case.facts["listens_at"], other.to_string());
}

#[test]
fn a_server_in_another_network_is_named_where_loopback_was_asked_for() {
    let (inside, other) = (Netns::new(), Netns::new());
    let front = SocketAddr::new(inside.join(None).far, 8000);
    let reached = SocketAddr::new(other.join(Some(&inside)).far, 8080);
    let _upstream = answering("0.0.0.0:8080".parse().expect("an address"), Some(&other));
    let scene = Scene::of(front, "http://127.0.0.1:8080", Some(&inside));

    let told = scene.ask("/other-network");

    let case = assert_case(
        &told,
        "connect_refused",
        ("listens_in_another_network", "strong"),
    );
    assert_eq!(case.facts["listens_at"], "0.0.0.0:8080");
    assert_eq!(case.facts["reached_at"], reached.to_string());
}

#[test]
fn a_server_that_is_there_by_now_was_on_its_way() {
    let asked = ports::free(LOCALHOST);
    let scene = Scene::new(&format!("http://{asked}"));
    // The agent looks when the server listens.
    scene.agent.signal(Signal::STOP);
    scene.ask_only("/on-its-way");
    let _upstream = answering(asked, None);
    scene.agent.signal(Signal::CONT);

    let told = scene.told("/on-its-way");

    let case = assert_case(&told, "connect_refused", ("listens_by_now", "strong"));
    let before: f64 = case.facts["listener_started_before_seconds"]
        .parse()
        .expect("a number of seconds");
    assert!(before <= 0.0, "it was started after: {case:?}");
}

#[test]
fn a_server_that_was_killed_is_named_with_the_signal() {
    let asked = ports::free(LOCALHOST);
    let upstream = answering(asked, None);
    let scene = Scene::kept(asked);
    assert_eq!(scene.ask("/before").code, Some(200));
    let workers = children_of(upstream.pid());
    // The master first: it would start others.
    for process in [upstream.pid()].into_iter().chain(workers) {
        signal(process, Signal::KILL);
    }
    e2e::wait::eventually(
        super::TELL,
        "nobody listens",
        || match std::net::TcpStream::connect(asked) {
            Ok(_) => Err("somebody does".to_owned()),
            Err(_) => Ok(()),
        },
    );

    let told = scene.ask("/after");

    let case = assert_case(&told, "connect_refused", ("server_ended", "strong"));
    assert_eq!(case.facts["program"], "nginx");
    assert_eq!(case.facts["ended"], "was killed by signal 9");
    assert!(
        case.facts.contains_key("answered_before_seconds"),
        "{case:?}"
    );
    println!("{}", scene.explained());
}

#[test]
fn a_server_that_came_back_at_another_address_is_told_with_that() {
    let (first, second) = (Netns::new(), Netns::new());
    let asked = SocketAddr::new(first.join(None).far, 8080);
    let next = SocketAddr::new(second.join(None).far, 8080);
    let everywhere: SocketAddr = "0.0.0.0:8080".parse().expect("an address");
    let upstream = answering(everywhere, Some(&first));
    let scene = Scene::new(&format!("http://{asked}"));
    assert_eq!(scene.ask("/before").code, Some(200));
    drop(upstream);
    let _upstream = answering(everywhere, Some(&second));

    let told = scene.ask("/after");

    let case = assert_case(&told, "connect_refused", ("address_moved", "guess"));
    assert_eq!(case.facts["moved_to"], next.to_string());
    let fix = told.fix.as_deref().unwrap_or_default();
    assert!(fix.contains("reload the proxy"), "{fix}");

    // A container that is gone takes its address along: silence instead of a refusal.
    first.ip("addr flush scope global");
    let told = scene.ask("/silence");

    assert_case(&told, "connect_timeout", ("address_moved", "guess"));
}

#[test]
fn an_address_that_never_answered_and_nobody_has_is_no_case() {
    let asked = ports::free(LOCALHOST);
    let scene = Scene::new(&format!("http://{asked}"));

    let told = scene.ask("/nobody");

    assert_eq!(told.cause.as_deref(), Some("connect_refused"));
    assert!(told.case.is_none(), "{:?}", told.case);
}
