//! Workers that end after a number of requests: gunicorn's, with connections that are kept, and
//! php-fpm's behind `fastcgi_keep_conn`. They close soon after use, and for no idleness.
//!
//! Judged by nginx's error log, request by request.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use e2e::agent::events::{Case, Request};
use e2e::load::{Order, run, runtime};
use e2e::nginx::error_log::{ErrorLine, Words};
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::{Running, command};
use e2e::wait::eventually;

use super::{LOCALHOST, Scene, TELL};

/// Requests that have to meet the end of a worker. Fewer: one kind may not be among them. More: a slow
/// test.
const ENOUGH: usize = 4;

/// Rounds at most. Fewer: a busy machine fails, for the moment is a millisecond. More: where none ever
/// meets it, that shows late.
const ROUNDS: usize = 12;

/// Requests of a round, from this many clients at a time.
const ORDERS: usize = 400;
const CLIENTS: usize = 4;

/// Requests that a worker answers before it ends.
const REQUESTS: usize = 20;

/// A server, and what ends with it.
struct Server {
    _running: Running,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts `program`, whose files are written into `folder`.
    #[track_caller]
    fn start(program: &str, folder: tempfile::TempDir, words: &[&str], app: SocketAddr) -> Self {
        let mut server = command(program, None);
        server
            .args(words)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let running = Running::start(program, &mut server);
        eventually(TELL, "it listens", || {
            std::net::TcpStream::connect(app)
                .map(drop)
                .map_err(|error| format!("{program}: {error}"))
        });
        Self {
            _running: running,
            _folder: folder,
        }
    }
}

fn written(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join(name);
    fs::write(&file, text).expect("a file is written");
    let path = file.to_string_lossy().into_owned();
    (folder, path)
}

/// One worker, and another in its place.
fn gunicorn(app: SocketAddr) -> Server {
    let text = "
def application(environ, start_response):
    environ['wsgi.input'].read()
    start_response('200 OK', [('Content-Length', '2')])
    return [b'ok']
";
    let (folder, _) = written("app.py", text);
    let (bind, requests) = (app.to_string(), REQUESTS.to_string());
    let words = [
        "--bind",
        &bind,
        "--workers",
        "1",
        "--worker-class",
        "gthread",
        "--threads",
        "4",
        "--keep-alive",
        "5",
        "--max-requests",
        &requests,
        "app:application",
    ];
    Server::start("gunicorn", folder, &words, app)
}

/// As many workers as clients: each has one connection.
fn php_fpm(app: SocketAddr) -> (Server, String) {
    let (folder, script) = written("app.php", "<?php echo 'ok';");
    let pool = format!(
        "[global]\nerror_log = php.log\ndaemonize = no\n[www]\nlisten = {app}\nuser = root\n\
         group = root\npm = static\npm.max_children = {CLIENTS}\npm.max_requests = {REQUESTS}\n"
    );
    fs::write(Path::new(&script).with_file_name("fpm.conf"), pool).expect("a file is written");
    let words = ["--nodaemonize", "--allow-to-run-as-root", "-y", "fpm.conf"];
    (Server::start("php-fpm8.2", folder, &words, app), script)
}

/// nginx that keeps connections to `app`, as its manual has it.
fn keeping(app: SocketAddr, pass: &str) -> Scene {
    let front = ports::free(LOCALHOST);
    let http = format!(
        "keepalive_requests 100000;
         upstream app {{ server {app} max_fails=0; keepalive {CLIENTS}; }}
         server {{ listen {front}; location / {{ {pass} }} }}"
    );
    Scene::watched(Nginx::start(&Config::new(http), None), front)
}

/// What is reported of the requests whose connection was closed before an answer, by nginx's log.
#[track_caller]
fn closed(scene: &Scene) -> Vec<Request> {
    let mut closed = Vec::new();
    for round in 0..ROUNDS {
        let orders: Vec<Order> = (0..ORDERS)
            .map(|number| Order::post(format!("/{round}/{number}"), 10))
            .collect();
        let asked = runtime().block_on(run(scene.front, orders, CLIENTS));
        let mut logged: BTreeMap<String, ErrorLine> = BTreeMap::new();
        for line in scene.nginx.error_log() {
            let is_close = matches!(
                line.words,
                Words::ClosedInHead | Words::ResetInHead | Words::ResetInRequest
            );
            if is_close && line.path.starts_with(&format!("/{round}/")) {
                logged.insert(line.path.clone(), line);
            }
        }
        let failed = asked.iter().filter(|outcome| !outcome.is(200)).count();
        println!(
            "round {round}: {failed} of {ORDERS} failed, {} are in the log",
            logged.len()
        );
        let told = scene.events.of(logged.keys().map(String::as_str), TELL);
        for (path, request) in told {
            let attempt = request.attempts.last();
            println!(
                "  {path} {:?} {:?} {:?} {:?} {:?}\n    {:?} idle {:?} after {:?}; {:?}\n    nginx: {}",
                request.code,
                request.cause,
                request.certainty,
                case(&request),
                is_sure(&request),
                request.how,
                attempt.and_then(|one| one.idle_seconds),
                attempt.map(|one| &one.evidence["carried_requests"]),
                attempt.map(|one| &one.evidence["reset_reason"]),
                logged[&path]
                    .line
                    .split(", client")
                    .next()
                    .unwrap_or_default(),
            );
            closed.push(request);
        }
        if closed.len() >= ENOUGH {
            return closed;
        }
    }
    panic!("{} requests met the end of a worker", closed.len());
}

#[test]
fn a_gunicorn_worker_that_ends_after_its_requests_closed_for_no_idleness() {
    let app = ports::free(LOCALHOST);
    let _server = gunicorn(app);
    let scene = keeping(
        app,
        "proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection '';",
    );

    let closed = closed(&scene);

    println!("{}", scene.explained());
    assert_for_no_idleness(&closed);
    // The worker closes with the next request unread, which is a reset.
    let races = closed.iter().filter(|told| cause(told) == "keepalive_race");
    let cases: Vec<_> = races.map(|told| (case(told), is_sure(told))).collect();
    assert!(
        cases.contains(&(Some("closed_soon_after_use"), true)),
        "{cases:?}"
    );
}

#[test]
fn a_php_fpm_worker_that_ends_after_its_requests_closed_for_no_idleness() {
    let app = ports::free(LOCALHOST);
    let (_server, script) = php_fpm(app);
    let scene = keeping(
        app,
        &format!(
            "fastcgi_pass app; fastcgi_keep_conn on; fastcgi_param SCRIPT_FILENAME {script};
             fastcgi_param REQUEST_METHOD $request_method; fastcgi_param REQUEST_URI $uri;
             fastcgi_param CONTENT_LENGTH $content_length;"
        ),
    );

    let closed = closed(&scene);

    println!("{}", scene.explained());
    assert_for_no_idleness(&closed);
    // Each worker has one connection: the number is the same again and again.
    let limits: Vec<&Case> = closed
        .iter()
        .filter_map(|told| told.case.as_ref())
        .filter(|case| case.name == "limit_of_requests")
        .collect();
    assert!(!limits.is_empty(), "no limit is named");
    for limit in limits {
        assert_eq!(limit.certainty, "strong");
        assert_eq!(limit.facts["carried"], REQUESTS.to_string());
        assert!(limit.meaning.contains("limit of requests"), "{limit:?}");
    }
}

/// Nobody says that any of these was closed for idleness, or crashed.
#[track_caller]
fn assert_for_no_idleness(closed: &[Request]) {
    for told in closed {
        assert!(
            ["keepalive_race", "closed_before_response"].contains(&cause(told)),
            "{told:#?}"
        );
        let known = [
            None,
            Some("closed_soon_after_use"),
            Some("limit_of_requests"),
        ];
        assert!(known.contains(&case(told)), "{told:#?}");
    }
}

fn cause(told: &Request) -> &str {
    told.cause.as_deref().unwrap_or_default()
}

fn case(told: &Request) -> Option<&str> {
    told.case.as_ref().map(|case| case.name.as_str())
}

fn is_sure(told: &Request) -> bool {
    told.case
        .as_ref()
        .is_some_and(|case| case.certainty == "strong")
}
