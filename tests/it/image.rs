//! The image as the DaemonSet runs it: an empty root file system that is read-only, few
//! capabilities, no network of the host; and what it says of a proxy on the host.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use e2e::agent::binary;
use e2e::images::{CGROUP, Images};
use e2e::load::{Order, one_by_one};
use e2e::nginx::{Config, Nginx};
use e2e::ports::{self, Refusing};
use e2e::process::{command, need_root, output_of};
use e2e::stage::plain;
use e2e::wait::eventually;
use tempfile::TempDir;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const IMAGE: &str = "why502:test";
/// Loading the probes on a busy machine; a command in a container.
const LONG: Duration = Duration::from_secs(60);

fn checkout(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

fn text_of(path: &str) -> String {
    fs::read_to_string(checkout(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What the manifest gives the container, as `podman --cap-add` takes it.
fn capabilities() -> Vec<String> {
    let manifest = text_of("deploy/kustomize/base/daemonset.yaml");
    let added = manifest
        .lines()
        .find_map(|line| line.trim().strip_prefix("add: ["))
        .and_then(|list| list.strip_suffix(']'))
        .unwrap_or_else(|| panic!("the manifest lists capabilities in one line: {manifest}"));
    added.split(", ").map(str::to_owned).collect()
}

/// As the manifest names it, whether the host has version 2 of cgroups there or in `unified`.
const CGROUPS: &str = "/host/sys/fs/cgroup";

/// A container of the image that runs the agent.
struct Container<'a> {
    name: &'a str,
    capabilities: Vec<String>,
}

impl<'a> Container<'a> {
    /// That of the DaemonSet.
    fn of_the_manifest(name: &'a str) -> Self {
        Self {
            name,
            capabilities: capabilities(),
        }
    }
}

fn start(podman: &Images, container: &Container) -> (bool, String) {
    let Container { name, capabilities } = container;
    let seccomp = checkout("deploy/seccomp/why502.json");
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
    arguments.push(format!("--security-opt=seccomp={}", seccomp.display()));
    arguments.push(format!("--cgroup-parent={CGROUP}"));
    for capability in capabilities {
        arguments.push(format!("--cap-add={capability}"));
    }
    arguments.push(IMAGE.to_owned());
    arguments.extend(["run".to_owned(), format!("--cgroup={CGROUPS}")]);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    podman.says(&words)
}

fn image() -> Images {
    need_root();
    let program = binary();
    let kind = output_of(command("ldd", None).arg(&program));
    assert!(
        kind.contains("statically linked"),
        "{} needs libraries that the image has not: `cargo xtask build --release` makes one that needs none",
        program.display()
    );
    let podman = Images::new();
    podman.build(&checkout("deploy/image/Containerfile"), &program, IMAGE);
    podman
}

/// Waits until the agent watches; panics with its log when it does not.
fn until_it_watches(podman: &Images, name: &str) {
    eventually(LONG, "the agent in the container watches", || {
        let (_, log) = podman.says(&["logs", name]);
        let (_, running) = podman.says(&["inspect", "--format={{.State.Running}}", name]);
        assert_eq!(running.trim(), "true", "{log}");
        if log.contains("watching") {
            Ok(())
        } else {
            Err(log)
        }
    });
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
    let (started, said) = start(&podman, &Container::of_the_manifest("why502"));
    assert!(started, "{said}");
    until_it_watches(&podman, "why502");

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
        CGROUPS,
    ]);
    assert!(doctor.contains("All is well"), "{doctor}");
    let (stopped, said) = podman.says(&["stop", "--time", "10", "why502"]);
    assert!(stopped, "{said}");
    let (_, log) = podman.says(&["logs", "why502"]);
    assert!(log.contains("the probes are detached"), "{log}");
}

#[test]
fn the_arguments_and_settings_of_the_manifests_are_the_programs() {
    let manifest = text_of("deploy/kustomize/base/daemonset.yaml");
    let arguments: Vec<&str> = manifest
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "args:")
        .skip(1)
        .map_while(|line| line.strip_prefix("- "))
        .collect();
    let configured = text_of("deploy/kustomize/base/configmap.yaml");
    let (_, settings) = configured.split_once("config.toml: |\n").unwrap();
    let folder = TempDir::with_prefix("e2e-manifest-").unwrap();
    let path = folder.path().join("config.toml");
    let settings: Vec<&str> = settings.lines().map(str::trim).collect();
    fs::write(&path, settings.join("\n")).unwrap();
    let mut why502 = command(&binary().to_string_lossy(), None);
    for argument in &arguments {
        why502.arg(argument.replace("/etc/why502/config.toml", &path.to_string_lossy()));
    }

    // What the field reference gives on a node of this name.
    assert!(manifest.contains("- name: NODE_NAME\n              valueFrom:"));
    why502.env("NODE_NAME", "node-1");

    let printed = output_of(why502.arg("--print-config"));

    println!("{arguments:?}\n{printed}");
    for line in settings.iter().copied().chain([
        "listen = \"0.0.0.0:9502\"",
        "cgroup = \"/host/sys/fs/cgroup\"",
        "kubernetes_node = \"node-1\"",
    ]) {
        assert!(printed.lines().any(|found| found == line), "no {line}");
    }
}

#[test]
fn without_a_capability_of_the_list_it_refuses_to_start() {
    let podman = image();
    for capability in ["BPF", "PERFMON", "NET_ADMIN"] {
        let name = format!("without-{}", capability.to_lowercase());
        let mut container = Container::of_the_manifest(&name);
        container.capabilities.retain(|held| held != capability);
        let (started, said) = start(&podman, &container);
        assert!(started, "{said}");
        let (_, code) = podman.says(&["wait", &name]);
        let (_, log) = podman.says(&["logs", &name]);
        println!("without {capability}: {log}");
        assert_eq!(code.trim(), "1", "without {capability}: {log}");
        assert!(log.contains("why502: "), "without {capability}: {log}");
    }
}
