//! Uploads that the upstream does not want to the end.

use std::net::SocketAddr;

use e2e::load::{Order, one_by_one};
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::proxies::{Group, Kind, Proxy, Target};
use e2e::upstreams::Upstreams;

use super::{LOCALHOST, Scene, TELL, assert_case};

/// More than all buffers on the way.
const LARGE: usize = 12_000_000;

/// An upstream that closes at once with what it has not read.
fn upstream(rest: &str) -> (Nginx, SocketAddr) {
    let app = ports::free(LOCALHOST);
    let http = format!("server {{ listen {app}; lingering_close off; {rest} }}");
    (Nginx::start(&Config::new(http), None), app)
}

#[test]
fn an_upload_that_is_answered_413_and_lost_by_the_proxy_is_told_as_that() {
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let scene = Scene::directed("return 200;");
    let group = Group::new("app", Target::Servers(upstreams.addresses.clone()));
    let proxy = Proxy::start(Kind::ApacheEvent, &[group]);
    let path = "/app/upload/early,status=413";

    let got = one_by_one(proxy.address, vec![Order::post(path, LARGE)]);

    let told = scene.events.of([path], TELL).remove(path);
    let told = told.expect("the path was waited for");
    println!("{got:?}\n{told:?}");
    let said = proxy.said_of([path]);
    println!("{said:?}");
    assert_eq!(told.code, Some(502));
    let case = assert_case(
        &told,
        "closed_before_response",
        ("answered_before_upload_ended", "strong"),
    );
    assert_eq!(case.facts["code"], "413");
    let number = |name: &str| case.facts[name].parse::<usize>().expect("a number");
    let (sent, length) = (number("sent"), number("length"));
    assert!(sent < length && length > LARGE, "{sent} of {length}");
    assert!(case.meaning.contains("413"), "{}", case.meaning);
}

#[test]
fn an_upload_that_is_cut_off_without_an_answer_tells_how_far_it_came() {
    let (_upstream, app) = upstream("return 444;");
    let scene = Scene::directed(&format!(
        "client_max_body_size 0; proxy_request_buffering off; proxy_pass http://{app};"
    ));

    let told = scene.ask_with(Order::post("/cut", LARGE));

    let case = assert_case(
        &told,
        "closed_before_response",
        ("closed_during_upload", "proof"),
    );
    let number = |name: &str| case.facts[name].parse::<usize>().expect("a number");
    let (sent, length) = (number("sent"), number("length"));
    assert!(sent < length && length > LARGE, "{sent} of {length}");
}
