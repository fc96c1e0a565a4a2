//! An upstream whose only worker is busy: what nobody took is told apart from what was taken and is slow.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::net::SocketAddr;

use e2e::load::{Order, one_by_one};
use e2e::ports;
use e2e::process::{Running, command};
use e2e::wait::eventually;

use super::{LOCALHOST, Scene, TELL, assert_case};

/// A WSGI application that never answers below `/slow`.
const APP: &str = "
import time
def application(environ, start_response):
    if environ['PATH_INFO'].startswith('/slow'):
        time.sleep(600)
    start_response('200 OK', [('Content-Length', '2')])
    return [b'ok']
";

/// uWSGI that speaks HTTP, with one worker.
struct Uwsgi {
    _running: Running,
    _folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Uwsgi {
    #[track_caller]
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let app = folder.path().join("app.py");
        std::fs::write(&app, APP).expect("the application is written");
        let address = ports::free(LOCALHOST);
        let mut uwsgi = command("uwsgi", None);
        uwsgi
            .args(["--plugin", "python3", "--processes", "1", "--http-socket"])
            .arg(address.to_string())
            .arg("--wsgi-file")
            .arg(&app)
            .args(["--die-on-term", "--master"])
            .current_dir(folder.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let running = Running::start("uwsgi", &mut uwsgi);
        eventually(TELL, "uWSGI answers", || {
            let answer = one_by_one(address, vec![Order::get("/ready")]);
            match answer.first() {
                Some(one) if one.is(200) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        Self {
            _running: running,
            _folder: folder,
            address,
        }
    }
}

#[test]
fn a_request_that_no_worker_took_is_told_apart_from_one_that_is_slow() {
    let uwsgi = Uwsgi::start();
    let scene = Scene::directed(&format!("proxy_pass http://{};", uwsgi.address));

    let slow = scene.ask("/slow/1");
    let behind = scene.ask("/quick/2");

    let case = assert_case(
        &slow,
        "response_timeout",
        ("read_and_not_answered", "strong"),
    );
    assert!(
        case.meaning.contains("read from the connection"),
        "{}",
        case.meaning
    );
    let case = assert_case(&behind, "response_timeout", ("never_read", "strong"));
    assert!(
        case.meaning.contains("no process read it"),
        "{}",
        case.meaning
    );
    let fix = behind.fix.unwrap_or_default();
    assert!(fix.contains("add workers"), "{fix}");
    let explained = scene.explained();
    assert!(
        explained
            .replace('\n', " ")
            .contains("no process of the upstream had read"),
        "{explained}"
    );
}
