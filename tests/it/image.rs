//! The image as the DaemonSet runs it: an empty root file system that is read-only, few
//! capabilities, no network of the host; and what it says of a proxy on the host.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use e2e::agent::binary;
use e2e::load::{Order, one_by_one};
use e2e::nginx::{Config, Nginx};
use e2e::podman::Podman;
use e2e::ports::{self, Refusing};
use e2e::process::{command, need_root, output_of};
use e2e::stage::plain;
use e2e::wait::eventually;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const IMAGE: &str = "why502:test";
/// Loading the probes on a busy machine; a command in a container.
const LONG: Duration = Duration::from_secs(60);

fn checkout(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

/// What the manifest gives the container, as `podman --cap-add` takes it.
fn capabilities() -> Vec<String> {
    let manifest = fs::read_to_string(checkout("deploy/kustomize/base/daemonset.yaml")).unwrap();
    let added = manifest
        .lines()
        .find_map(|line| line.trim().strip_prefix("add: ["))
        .and_then(|list| list.strip_suffix(']'))
        .expect("the manifest lists capabilities in one line");
    added.split(", ").map(str::to_owned).collect()
}

/// Where the cgroup v2 hierarchy is, as the container sees it.
fn cgroup() -> String {
    let mounts = output_of(command("findmnt", None).args([
        "--noheadings",
        "--output",
        "TARGET",
        "--types",
        "cgroup2",
    ]));
    let root = mounts
        .lines()
        .find(|path| path.starts_with("/sys/fs/cgroup"))
        .expect("cgroup v2 is mounted under /sys/fs/cgroup");
    format!("/host{root}")
}

/// The container of the DaemonSet, without the capabilities in `but`, under `seccomp`.
fn start(podman: &Podman, name: &str, but: &[&str], seccomp: Option<&str>) -> (bool, String) {
    let mut arguments: Vec<String> = [
        "run",
        "--detach",
        "--name",
        name,
        "--read-only",
        "--pid=host",
        "--network=none",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--volume=/sys/fs/cgroup:/host/sys/fs/cgroup:ro,rslave",
        "--volume=/sys/kernel/tracing:/sys/kernel/tracing:ro",
        // A test machine may not let podman raise its own limits.
        "--ulimit=nofile=1024:1024",
        "--ulimit=nproc=1024:1024",
    ]
    .map(str::to_owned)
    .to_vec();
    for capability in capabilities() {
        if !but.contains(&capability.as_str()) {
            arguments.push(format!("--cap-add={capability}"));
        }
    }
    if let Some(profile) = seccomp {
        let profile = checkout(profile);
        arguments.push(format!("--security-opt=seccomp={}", profile.display()));
    }
    arguments.push(IMAGE.to_owned());
    arguments.extend(["run".to_owned(), format!("--cgroup={}", cgroup())]);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    podman.says(&words)
}

fn image() -> Podman {
    need_root();
    let program = binary();
    let kind = output_of(command("ldd", None).arg(&program));
    assert!(
        kind.contains("statically linked"),
        "{} needs libraries that the image has not: `cargo xtask build --release` makes one that needs none",
        program.display()
    );
    let podman = Podman::new();
    podman.build(&checkout("deploy/image/Containerfile"), &program, IMAGE);
    podman
}

#[test]
fn the_image_explains_an_error_of_a_proxy_on_the_host() {
    let podman = image();
    let refusing = Refusing::new(LOCALHOST);
    let address = ports::free(LOCALHOST);
    let _nginx = Nginx::start(
        &Config::new(plain(&[address.to_string()], refusing.address)),
        None,
    );
    let (started, said) = start(&podman, "why502", &[], Some("deploy/seccomp/why502.json"));
    assert!(started, "{said}");
    eventually(LONG, "the agent in the container watches", || {
        let (_, log) = podman.says(&["logs", "why502"]);
        if log.contains("watching") {
            Ok(())
        } else {
            Err(log)
        }
    });

    let outcomes = one_by_one(address, vec![Order::get("/image/1/ok")]);

    assert!(outcomes.iter().all(|outcome| outcome.is(502)));
    let told = eventually(LONG, "the error is explained", || {
        let (_, told) = podman.says(&["exec", "why502", "/usr/bin/why502", "explain"]);
        if told.contains("connect_refused (proof)") {
            Ok(told)
        } else {
            Err(told)
        }
    });
    println!("{told}");
    assert!(told.contains("nginx"), "{told}");
    assert!(told.contains(&refusing.address.to_string()), "{told}");
    let (_, doctor) = podman.says(&[
        "exec",
        "why502",
        "/usr/bin/why502",
        "doctor",
        "--cgroup",
        &cgroup(),
    ]);
    println!("{doctor}");
    let (stopped, said) = podman.says(&["stop", "--time", "10", "why502"]);
    assert!(stopped, "{said}");
    let (_, log) = podman.says(&["logs", "why502"]);
    assert!(log.contains("the probes are detached"), "{log}");
}

#[test]
fn without_a_capability_of_the_list_it_refuses_to_start() {
    let podman = image();
    for capability in ["BPF", "PERFMON", "NET_ADMIN"] {
        let name = format!("without-{}", capability.to_lowercase());
        let profile = Some("deploy/seccomp/why502.json");
        let (started, said) = start(&podman, &name, &[capability], profile);
        assert!(started, "{said}");
        let (_, code) = podman.says(&["wait", &name]);
        let (_, log) = podman.says(&["logs", &name]);
        println!("without {capability}: {log}");
        assert_eq!(code.trim(), "1", "without {capability}: {log}");
        assert!(log.contains("why502: "), "without {capability}: {log}");
    }
}
