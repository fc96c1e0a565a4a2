//! What the agent refuses to start with, and that it says so in one sentence that helps.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use e2e::agent::{Agent, binary};
use e2e::ports;
use e2e::process::need_root;
use tempfile::TempDir;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn run_with(flags: &[&str]) -> Command {
    // An agent that starts against all expectation is stopped, and then fails the test.
    let mut command = Command::new("timeout");
    command.arg("10").arg(binary()).arg("run").args(flags);
    command
}

/// One line, not a backtrace, naming all of `words`, and an exit code that is a failure of
/// the agent's own and not a signal.
#[track_caller]
fn assert_refused(command: &mut Command, words: &[&str]) {
    let (status, said) = Agent::refused(command);
    println!("{status}: {said}");
    assert!(
        status
            .code()
            .is_some_and(|code| code != 0 && code != 124 && code != 101),
        "ended with {status}: {said}"
    );
    let errors: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("why502: "))
        .collect();
    assert_eq!(errors.len(), 1, "one sentence on stderr: {said}");
    assert_eq!(
        said.lines().last(),
        errors.first().copied(),
        "it is the last line: {said}"
    );
    for word in words {
        assert!(
            errors.iter().any(|line| line.contains(word)),
            "`{word}` is not in: {said}"
        );
    }
}

#[expect(
    clippy::expect_used,
    reason = "a file that cannot be written ends the test with a sentence"
)]
fn config(folder: &Path, text: &str) -> String {
    let path = folder.join("why502.toml");
    std::fs::write(&path, text).expect("a file can be written");
    path.to_string_lossy().into_owned()
}

#[test]
fn a_port_in_use_is_named() {
    need_root();
    let taken = TcpListener::bind((LOCALHOST, 0)).expect("a port is free");
    let address = taken.local_addr().expect("it is bound").to_string();

    assert_refused(
        &mut run_with(&["--listen", &address]),
        &[&address, "in use"],
    );
}

#[test]
fn a_bad_line_of_the_configuration_is_named_with_its_number() {
    need_root();
    let folder = TempDir::new().expect("a temporary folder can be made");
    let listen = ports::free(LOCALHOST).to_string();

    for (text, words) in [
        (
            "ring_bytes = 65536\nring_byte = 1\n",
            ["line 2", "ring_byte"],
        ),
        ("\nlisten = 7\n", ["line 2", "listen"]),
        ("ring_bytes = 5000\n", ["ring_bytes", "power of two"]),
    ] {
        let path = config(folder.path(), text);
        assert_refused(
            &mut run_with(&["--listen", &listen, "--config", &path]),
            &words,
        );
    }
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    need_root();
    let flags = ["--config", "/nonexistent/why502.toml"];

    assert_refused(
        &mut run_with(&flags),
        &["/nonexistent/why502.toml", "No such file"],
    );
}

#[test]
fn a_cgroup_that_is_not_there_is_named() {
    need_root();
    let listen = ports::free(LOCALHOST).to_string();
    let flags = [
        "--listen",
        &listen,
        "--cgroup",
        "/sys/fs/cgroup/no-such-group",
    ];

    assert_refused(&mut run_with(&flags), &["/sys/fs/cgroup/no-such-group"]);
}

#[test]
fn a_directory_that_is_no_cgroup_is_named() {
    need_root();
    let listen = ports::free(LOCALHOST).to_string();

    assert_refused(
        &mut run_with(&["--listen", &listen, "--cgroup", "/tmp"]),
        &["/tmp", "cgroup"],
    );
}

#[test]
fn a_user_without_rights_is_told_which_are_missing() {
    need_root();
    // A copy that nobody may read where it lies.
    let folder = TempDir::new().expect("a temporary folder can be made");
    let copy = folder.path().join("why502");
    std::fs::copy(binary(), &copy).expect("the agent can be copied");
    let opened = Command::new("chmod")
        .args(["-R", "a+rX"])
        .arg(folder.path())
        .status();
    assert!(opened.is_ok_and(|status| status.success()));
    let listen = ports::free(LOCALHOST).to_string();
    let mut command = Command::new("timeout");
    command
        .args([
            "10",
            "setpriv",
            "--reuid",
            "nobody",
            "--clear-groups",
            "--inh-caps=-all",
        ])
        .arg(&copy)
        .args(["run", "--listen", &listen]);

    assert_refused(&mut command, &["root"]);
}
