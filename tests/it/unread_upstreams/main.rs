//! Upstreams whose talk is not read: FastCGI, uwsgi, HTTP over a Unix socket, HTTPS, gRPC. Whatever is
//! spoken, a connection that the proxy opened or used for a request is an attempt: nobody may say that
//! none was made.
//!
//! The judge is what was ordered: each path says what the upstream does.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod others;
mod stage;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::{Attempt, Request};
use e2e::http;
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::need_root;
use stage::{LOCALHOST, Stage};

/// How long the agent may take to tell all requests.
const TELL: Duration = Duration::from_secs(15);

/// nginx waits so long for an answer.
const PATIENCE: &str = "1500ms";

/// What the upstream does, and what may be said of it. Never more: no other cause, and never that no
/// upstream was tried.
const FAULTS: [(&str, &[&str]); 10] = [
    ("refused", &["connect_refused"]),
    ("hang", &["response_timeout", "unattributed"]),
    ("fin", &["closed_before_response", "unattributed"]),
    ("rst", &["closed_before_response", "unattributed"]),
    // With a status that is not 0, which is a crash where the agent saw whose it was.
    (
        "exit",
        &["upstream_crashed", "closed_before_response", "unattributed"],
    ),
    (
        "kill",
        &["upstream_crashed", "closed_before_response", "unattributed"],
    ),
    ("cutfin", &["truncated_response", "unattributed"]),
    ("cutrst", &["truncated_response", "unattributed"]),
    ("own500", &["unattributed"]),
    ("own503", &["unattributed"]),
];

/// One kind of upstream at the proxy: which faults it can have, and who it is for each.
struct Kind {
    name: &'static str,
    /// By fault: the upstream as the agent names it.
    upstreams: BTreeMap<&'static str, String>,
}

/// The configuration of a location, for an upstream of this kind.
fn pass(kind: &str, upstream: &str) -> String {
    let at = match upstream.strip_prefix('/') {
        Some(_) => format!("unix:{upstream}"),
        None => upstream.to_owned(),
    };
    let wait = |module: &str| format!("{module}_read_timeout {PATIENCE}; {module}_buffering off;");
    match kind.split_once('-').map_or(kind, |(first, _)| first) {
        "fastcgi" => format!(
            "fastcgi_pass {at}; fastcgi_param REQUEST_URI $uri; {}",
            wait("fastcgi")
        ),
        "uwsgi" => format!(
            "uwsgi_pass {at}; uwsgi_param PATH_INFO $uri; {}",
            wait("uwsgi")
        ),
        "https" => format!(
            "proxy_pass https://{at}; proxy_ssl_session_reuse off; {}",
            wait("proxy")
        ),
        "http" => format!("proxy_pass http://{at}; {}", wait("proxy")),
        "grpc" => format!("grpc_pass grpc://{at}; grpc_read_timeout {PATIENCE};"),
        other => panic!("no such kind: {other}"),
    }
}

/// All kinds, and the locations of nginx for them.
fn kinds(stage: &mut Stage) -> (Vec<Kind>, String) {
    let mut locations = String::new();
    let mut kinds = Vec::new();
    for name in [
        "fastcgi-tcp",
        "fastcgi-unix",
        "uwsgi-tcp",
        "uwsgi-unix",
        "http-unix",
        "https-tcp",
    ] {
        let (protocol, family) = name.split_once('-').expect("a protocol and a family");
        let server = stage.server(protocol, family == "unix");
        let nobody = stage.nobody(family == "unix");
        let upstreams = FAULTS.map(|(fault, _)| {
            let upstream = if fault == "refused" { &nobody } else { &server };
            (fault, upstream.clone())
        });
        locations.push_str(&format!(
            "location /{name}/ {{ {} }}\nlocation /{name}/order-refused. {{ {} }}\n",
            pass(name, &server),
            pass(name, &nobody)
        ));
        kinds.push(Kind {
            name,
            upstreams: upstreams.into(),
        });
    }
    let mut upstreams = BTreeMap::new();
    for fault in ["hang", "fin", "rst", "exit", "kill"] {
        let server = stage.deaf_to_paths(fault);
        locations.push_str(&format!(
            "location /grpc/order-{fault}. {{ {} }}\n",
            pass("grpc", &server)
        ));
        upstreams.insert(fault, server);
    }
    kinds.push(Kind {
        name: "grpc",
        upstreams,
    });
    let php = stage.php();
    for (name, server) in [("php-fpm-tcp", php.tcp), ("php-fpm-unix", php.unix)] {
        locations.push_str(&format!(
            "location /{name}/ {{ {} fastcgi_param SCRIPT_FILENAME {}; \
             fastcgi_param REQUEST_METHOD GET; }}\n",
            pass("fastcgi", &server),
            php.script
        ));
        let faults = ["hang", "kill", "own500", "own503"];
        let upstreams = faults.map(|fault| (fault, server.clone())).into();
        kinds.push(Kind { name, upstreams });
    }
    let wsgi = stage.uwsgi();
    for (name, server) in [("uwsgi-real-tcp", wsgi.tcp), ("uwsgi-real-unix", wsgi.unix)] {
        locations.push_str(&format!(
            "location /{name}/ {{ {} uwsgi_param REQUEST_METHOD GET; }}\n",
            pass("uwsgi", &server)
        ));
        let faults = ["hang", "kill", "own500", "own503"];
        let upstreams = faults.map(|fault| (fault, server.clone())).into();
        kinds.push(Kind { name, upstreams });
    }
    (kinds, locations)
}

/// Cut answers for which no attempt is known, at a proxy whose threads do not tell for whom they act.
/// Fewer: a connect that is seen late fails the run. More: an agent that is silent passes.
const MISSED: usize = 2;

/// What was said of it: the cause, how sure, and where; of a cut answer, what is said of its attempt.
fn said(request: &Request, fault: &str) -> (String, String, String) {
    let text = |word: &Option<String>| word.clone().unwrap_or_default();
    if fault.starts_with("cut") {
        let Some(Attempt {
            cause,
            certainty,
            upstream,
            ..
        }) = request.attempts.last()
        else {
            return Default::default();
        };
        return (text(cause), text(certainty), upstream.clone());
    }
    (
        text(&request.cause),
        text(&request.certainty),
        text(&request.upstream),
    )
}

/// Asks for every fault of each kind at `front`, and compares what the agent says. `extra` are paths
/// that are asked for as well, behind them.
fn play(
    proxy: &str,
    front: SocketAddr,
    kinds: &[Kind],
    extra: &[&str],
) -> BTreeMap<String, Request> {
    let agent = Agent::start(&[]);
    let events = agent.events();
    let mut paths = Vec::new();
    for kind in kinds {
        for fault in kind.upstreams.keys() {
            let path = format!("/{}/order-{fault}.x", kind.name);
            // Its answer may be cut: what the agent says is what counts.
            let _answered = http::get(front, &path, "*/*");
            paths.push((kind, *fault, path));
        }
    }
    for path in extra {
        http::get(front, path, "*/*").expect("the proxy answers");
    }
    let all = paths.iter().map(|(_, _, path)| path.as_str());
    let told = events.of(all.chain(extra.iter().copied()), TELL);
    let (mut wrong, mut missed) = (Vec::new(), Vec::new());
    let guesses = ["haproxy", "caddy"].contains(&proxy);
    for (kind, fault, path) in &paths {
        let request = &told[path];
        let (cause, certainty, upstream) = said(request, fault);
        println!(
            "| {proxy} | {} | {fault} | {:?} | {cause} ({certainty}) | {upstream} |",
            kind.name, request.code
        );
        let expected = FAULTS.iter().find(|(name, _)| name == fault);
        let (_, causes) = expected.expect("a fault of the list");
        // Where threads do not tell for whom they act, one of several may not be known.
        let vague = guesses && cause == "unattributed";
        if guesses && fault.starts_with("cut") && request.attempts.is_empty() {
            missed.push(path.as_str());
            continue;
        }
        let named = upstream.ends_with(&kind.upstreams[fault]) || vague && upstream.is_empty();
        // uWSGI answers in HTTP/1, and that is read.
        let read = kind.name.starts_with("uwsgi") && kind.name.ends_with("tcp");
        let right = if read && fault.starts_with("own") {
            cause == "upstream_status"
        } else {
            causes.contains(&cause.as_str())
        };
        let sold = certainty == "proof" && *fault != "refused" && !read;
        if !right || !named || sold {
            wrong.push(format!("{path}: {request:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{proxy}: cut answers without a known attempt: {missed:?}");
    assert!(missed.len() <= MISSED, "{missed:?}");
    told
}

#[test]
fn an_upstream_that_is_not_read_is_an_attempt() {
    need_root();
    let mut stage = Stage::new();
    let (kinds, locations) = kinds(&mut stage);
    let front = ports::free(LOCALHOST);
    let _nginx = Nginx::start(
        &Config::new(format!(
            "server {{ listen {front};\n{locations}location /own/ {{ return 503; }} }}"
        )),
        None,
    );
    let told = play("nginx", front, &kinds, &["/own/x"]);
    // Beside all these the proxy's own answer is still that.
    let (cause, certainty, _) = said(&told["/own/x"], "own");
    assert_eq!(cause, "proxy_generated", "{certainty}");
}

#[test]
fn the_same_at_haproxy() {
    need_root();
    let mut stage = Stage::new();
    let others::Proxy {
        name, front, kinds, ..
    } = &others::haproxy(&mut stage);
    play(name, *front, kinds, &[]);
}

#[test]
fn the_same_at_apache() {
    need_root();
    let mut stage = Stage::new();
    let others::Proxy {
        name, front, kinds, ..
    } = &others::apache(&mut stage);
    play(name, *front, kinds, &[]);
}

#[test]
fn the_same_at_caddy() {
    need_root();
    let mut stage = Stage::new();
    let others::Proxy {
        name, front, kinds, ..
    } = &others::caddy(&mut stage);
    play(name, *front, kinds, &[]);
}
