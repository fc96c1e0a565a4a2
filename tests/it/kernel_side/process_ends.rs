//! How the upstream's process ended: its exit status, or the signal that took it down, and not the
//! signal by which the kernel stops the other threads.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use e2e::agent::{Agent, Events};
use e2e::nginx::{Config, Nginx};
use e2e::ports::free;
use e2e::process::{Running, command, need_root};
use e2e::programs::Go;
use e2e::wait::eventually;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{LOCALHOST, LONG, ask, reported};

struct Scene {
    proxy: SocketAddr,
    app: SocketAddr,
    _nginx: Nginx,
    _agent: Agent,
    events: Events,
}

impl Scene {
    fn build() -> Self {
        need_root();
        let (proxy, app) = (free(LOCALHOST), free(LOCALHOST));
        let servers = format!(
            "upstream app {{ server {app} max_fails=0; }}
             server {{
                listen {proxy};
                location / {{ proxy_pass http://app; }}
                location /go/ {{ proxy_pass http://app/; }}
             }}"
        );
        let nginx = Nginx::start(&Config::new(servers), None);
        let agent = Agent::start(&[]);
        Self {
            proxy,
            app,
            _nginx: nginx,
            events: agent.events(),
            _agent: agent,
        }
    }

    /// Starts the application in Python, with what it does of itself if given.
    fn python(&self, how: &[&str]) -> Running {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("it/kernel_side/ending_app.py");
        let mut python = command("python3", None);
        python.arg(script).arg(self.app.port().to_string());
        let running = Running::start("python3", python.args(how));
        self.listens();
        running
    }

    /// Waits until the application listens; a connection to try that would count as one of its own.
    fn listens(&self) {
        let address = format!("0100007F:{:04X} 00000000:0000 0A", self.app.port());
        eventually(LONG, "the application listens", || {
            let table = fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
            if table.contains(&address) {
                Ok(())
            } else {
                Err("not yet".to_owned())
            }
        });
    }

    /// Asks for `path`, and compares what is reported of the one attempt.
    #[track_caller]
    fn assert_ends(&self, path: &str, cause: &str, killed_by: Value, exit_status: Value) -> Value {
        let code = ask(self.proxy, path).expect("an answer");
        assert_eq!(code, 502, "{path}");
        let request = reported(&self.events, path);
        let [attempt] = request.attempts.as_slice() else {
            panic!("{path}: {request:?}");
        };
        println!(
            "{path}: {:?} ({:?}), killed_by {}, exit_status {}, out_of_memory {}",
            request.cause,
            request.certainty,
            attempt.evidence["killed_by"],
            attempt.evidence["exit_status"],
            attempt.evidence["out_of_memory"],
        );
        assert_eq!(request.cause.as_deref(), Some(cause), "{path}: {request:?}");
        assert_eq!(attempt.evidence["killed_by"], killed_by, "{path}");
        assert_eq!(attempt.evidence["exit_status"], exit_status, "{path}");
        if exit_status == json!(0) {
            // Nothing crashed: so ends a worker that is recycled or stopped.
            let case = attempt.case.as_ref().map(|case| case.name.as_str());
            assert_eq!(case, Some("worker_exited"), "{path}");
        }
        attempt.evidence["out_of_memory"].clone()
    }
}

#[test]
fn a_process_with_threads_ends_as_it_ended() {
    let scene = Scene::build();
    let expected = [
        ("/exit9", "upstream_crashed", json!(null), json!(9)),
        ("/exit0", "closed_before_response", json!(null), json!(0)),
        ("/exec", "closed_before_response", json!(null), json!(null)),
        ("/segv", "upstream_crashed", json!(11), json!(null)),
        ("/abrt", "upstream_crashed", json!(6), json!(null)),
        ("/term", "upstream_crashed", json!(15), json!(null)),
        ("/kill", "upstream_crashed", json!(9), json!(null)),
    ];
    for (path, cause, killed_by, exit_status) in expected {
        let _app = scene.python(&[]);
        let for_memory = scene.assert_ends(path, cause, killed_by, exit_status);
        assert_eq!(for_memory, json!(false), "{path}");
    }
}

#[test]
fn a_process_killed_with_the_request_unread_crashed() {
    let scene = Scene::build();
    for how in ["unread", "unaccepted"] {
        let _app = scene.python(&[how]);
        scene.assert_ends(
            &format!("/{how}"),
            "upstream_crashed",
            json!(9),
            json!(null),
        );
    }
}

#[test]
fn a_process_whose_connection_a_program_of_it_holds_ended_as_it_ended() {
    let scene = Scene::build();
    let expected = [
        ("/held_kill", "upstream_crashed", json!(9), json!(null)),
        ("/held_exit9", "upstream_crashed", json!(null), json!(9)),
        (
            "/held_exit0",
            "closed_before_response",
            json!(null),
            json!(0),
        ),
    ];
    for (path, cause, killed_by, exit_status) in expected {
        let _app = scene.python(&[]);
        scene.assert_ends(path, cause, killed_by, exit_status);
    }
}

#[test]
fn node_exits_with_a_status() {
    let scene = Scene::build();
    for (path, cause, status) in [
        ("/exit0", "closed_before_response", 0),
        ("/uncaught", "upstream_crashed", 1),
    ] {
        let mut node = command("node", None);
        node.args(["-e", NODE, &scene.app.port().to_string()]);
        node.stderr(Stdio::null());
        let _app = Running::start("node", &mut node);
        scene.listens();
        scene.assert_ends(path, cause, json!(null), json!(status));
    }
}

/// Ends as the path says.
const NODE: &str = "require('http').createServer((request) => {
    if (request.url === '/exit0') process.exit(0);
    throw new Error('nobody catches it');
}).listen(Number(process.argv[1]), '127.0.0.1');";

/// Go's `os.Exit`: a copy of Caddy under another name, which does that when it gets SIGQUIT.
#[test]
fn go_exits_with_a_status() {
    let scene = Scene::build();
    let silent = TcpListener::bind((LOCALHOST, 0)).expect("a port is free");
    let behind = silent.local_addr().expect("it is bound");
    let go = Go::start("goapp", scene.app, behind);
    scene.listens();
    let quits = std::thread::spawn(move || {
        // It has the request in hand when it has passed it on.
        let (mut passed_on, _) = silent.accept().expect("a connection");
        let read = passed_on.read(&mut [0; 1000]).expect("a request");
        assert!(read > 0);
        go.running.signal(Signal::QUIT);
        (go, passed_on)
    });
    scene.assert_ends("/go/exits", "upstream_crashed", json!(null), json!(2));
    let _held_until_here = quits.join().expect("it was signalled");
}

#[test]
fn a_process_killed_for_memory_is_told_from_one_that_is_killed() {
    let scene = Scene::build();
    let app = scene.python(&[]);
    let _limit = Limit::of(app.pid());
    let for_memory = scene.assert_ends("/memory", "upstream_crashed", json!(9), json!(null));
    assert_eq!(for_memory, json!(true));
}

/// A cgroup whose processes may have little memory, of either version.
struct Limit(PathBuf);

impl Limit {
    const BYTES: usize = 64 << 20;

    fn of(pid: u32) -> Self {
        let (root, file) = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ]
        .into_iter()
        .find(|(root, _)| Path::new(root).join("cgroup.procs").exists())
        .expect("memory can be limited");
        let folder = PathBuf::from(root).join("why502-ends");
        fs::create_dir_all(&folder).expect("root may make a cgroup");
        fs::write(folder.join(file), Self::BYTES.to_string()).expect("a limit");
        fs::write(folder.join("cgroup.procs"), pid.to_string()).expect("a process is moved");
        Self(folder)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let removed = eventually(LONG, "the cgroup is empty", || {
            Ok::<_, String>(fs::remove_dir(&self.0))
        });
        if let Err(error) = removed {
            eprintln!("{} is left over: {error}", self.0.display());
        }
    }
}
