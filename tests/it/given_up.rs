//! Errors for which a proxy tries no upstream: whether its own upstreams had failed is what counts, not
//! those of another instance or of another location.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use e2e::agent::{Agent, Events};
use e2e::http;
use e2e::load::{Order, one_by_one};
use e2e::nginx::{Config, Nginx};
use e2e::ports::{self, Refusing};
use e2e::process::need_root;
use e2e::proxies::{Besides, Group, Proxy, Target};
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;
use serde_json::json;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long the agent may take to tell a request.
const TELL: Duration = Duration::from_secs(20);

/// nginx with two dead upstreams behind `/shop/` and `/dead`, and `/static`, which it answers itself.
fn start(front: SocketAddr, dead: [SocketAddr; 2], rest: &str) -> Nginx {
    let [one, two] = dead;
    let http = format!(
        "upstream dead {{ server {one}; server {two}; }}
        server {{
            listen {front};
            location /shop/ {{ proxy_pass http://dead; }}
            location /dead {{ proxy_pass http://dead; }}
            location /static {{ return 503; }}
            {rest}
        }}"
    );
    let config = Config {
        workers: 1,
        ..Config::new(http)
    };
    Nginx::start(&config, None)
}

#[track_caller]
fn ask(events: &Events, front: SocketAddr, path: &str) -> (String, String) {
    one_by_one(front, vec![Order::get(path)]);
    told(events, path)
}

#[track_caller]
fn told(events: &Events, path: &str) -> (String, String) {
    let told = events.of([path], TELL).remove(path);
    let told = told.expect("it was waited for");
    println!(
        "{path}: {:?} {:?} {:?}",
        told.code, told.cause, told.certainty
    );
    (
        told.cause.unwrap_or_default(),
        told.certainty.unwrap_or_default(),
    )
}

fn told_as(cause: &str, certainty: &str) -> (String, String) {
    (cause.to_owned(), certainty.to_owned())
}

#[test]
fn another_nginx_on_the_host_has_upstreams_of_its_own() {
    need_root();
    let refusing = [Refusing::new(LOCALHOST), Refusing::new(LOCALHOST)];
    let dead = refusing.each_ref().map(|refusing| refusing.address);
    let [first, second] = [(); 2].map(|()| ports::free(LOCALHOST));
    let _first = start(first, dead, "");
    let _second = start(second, dead, "location /shop/own { return 502; }");
    let agent = Agent::start(&[]);
    let events = agent.events();

    let (cause, _) = ask(&events, first, "/shop/1/ok");
    assert_eq!(cause, "connect_refused");
    let given_up = ask(&events, first, "/shop/2/ok");
    assert_eq!(given_up, told_as("no_live_upstream", "guess"));
    let own = ask(&events, second, "/shop/own");
    assert_eq!(own, told_as("proxy_generated", "guess"));
}

#[test]
fn a_location_that_answers_by_itself_has_no_upstreams_to_give_up() {
    need_root();
    let refusing = [Refusing::new(LOCALHOST), Refusing::new(LOCALHOST)];
    let dead = refusing.each_ref().map(|refusing| refusing.address);
    let front = ports::free(LOCALHOST);
    let _nginx = start(front, dead, "");
    let agent = Agent::start(&[]);
    let events = agent.events();

    // One right after the other: the first is judged when the second has failed.
    one_by_one(front, ["/static", "/dead"].map(Order::get).into());
    assert_eq!(
        told(&events, "/static"),
        told_as("proxy_generated", "guess")
    );
    assert_eq!(told(&events, "/dead").0, "connect_refused");
    let after = ask(&events, front, "/static2");
    assert_eq!(after, told_as("proxy_generated", "guess"));
}

/// Envoy ejects a host after one failure, and asks it again after a second. That it does is in its
/// configuration alone: without that it would have gone on, so it is a guess. Its log says that it had none.
#[test]
fn envoy_that_has_ejected_its_only_host_has_none_left() {
    need_root();
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let ejecting = Besides {
        cluster: json!({
            "outlier_detection": {
                "consecutive_5xx": 1,
                "interval": "0.1s",
                "base_ejection_time": "1s",
                "max_ejection_time": "1s",
                "max_ejection_percent": 100,
                "always_eject_one_host": true,
            },
            "common_lb_config": { "healthy_panic_threshold": {} },
        }),
        ..Besides::default()
    };
    let group = Group::new("app", Target::Servers(upstreams.addresses.clone()));
    let agent = Agent::start_as("envoy", &[]);
    let events = agent.events();
    let proxy = Proxy::envoy(&[(group, ejecting)]);

    let (cause, _) = ask(&events, proxy.address, "/app/close");
    assert_eq!(cause, "closed_before_response");
    let given_up = ask(&events, proxy.address, "/app/2/ok");
    assert_eq!(given_up, told_as("no_live_upstream", "guess"));
    let said = proxy.said_of(["/app/2/ok"]);
    let words = &said["/app/2/ok"].words;
    assert!(words.contains("no_healthy_upstream"), "{words}");

    eventually(TELL, "the host is back", || {
        let answer =
            http::get(proxy.address, "/app/ok", "*/*").map_err(|error| error.to_string())?;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(format!("{}", answer.status))
        }
    });
    let (cause, _) = ask(&events, proxy.address, "/app/2/close");
    assert_eq!(cause, "closed_before_response");
}
