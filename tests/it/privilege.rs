//! The agent with the rights that `docs/security.md` lists and no others: all works; with one
//! less, what is missing is named; and what is not needed is given up.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::Line;
use e2e::confined::{Copy, NOBODY, documented};
use e2e::load::{Order, one_by_one};
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::{need_root, output_of};
use e2e::stage::plain;
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;
use rustix::process::Signal;
use serde_json::Value;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How long the agent may take to tell what happened.
const TELL: Duration = Duration::from_secs(20);

/// nginx under a name that is longer than the kernel's name of a process.
const EDGE: &str = "edge-proxy-of-the-house";
/// Its first 15 letters.
const EDGE_CUT: &str = "edge-proxy-of-t";

struct Scene {
    copy: Copy,
    _upstreams: Upstreams,
    nginx: Nginx,
    address: SocketAddr,
}

#[track_caller]
#[expect(
    clippy::expect_used,
    reason = "a stage that cannot be set ends the test"
)]
fn scene() -> Scene {
    need_root();
    let copy = Copy::new();
    let edge = copy.folder().join(EDGE);
    fs::copy("/usr/sbin/nginx", &edge).expect("nginx is installed");
    let upstreams = Upstreams::start(LOCALHOST, &["0"], None);
    let address = ports::free(LOCALHOST);
    let app = *upstreams.addresses.first().expect("it was ordered");
    let config = Config {
        // Of a gateway that nobody knows by its name each worker is found for itself.
        workers: 1,
        ..Config::new(plain(&[address.to_string()], app))
    };
    let nginx = Nginx::start_program(&edge.to_string_lossy(), &config, None);
    Scene {
        copy,
        _upstreams: upstreams,
        nginx,
        address,
    }
}

/// A reset is explained, and the proxy has this label.
#[track_caller]
fn assert_explains(scene: &Scene, agent: &Agent, label: &str, path: &str) {
    let events = agent.events();
    // A gateway that nobody knows by its name is found by its first connect.
    eventually(TELL, "it is found", || {
        let found = "/found/0/ok";
        one_by_one(scene.address, vec![Order::get(found)]);
        let is_told =
            |line: &Line| matches!(line, Line::Request(one) if one.path.as_deref() == Some(found));
        let lines = events.so_far();
        lines
            .iter()
            .any(is_told)
            .then_some(())
            .ok_or_else(|| format!("{lines:?}"))
    });
    one_by_one(scene.address, vec![Order::get(path)]);
    let told = events.of([path], TELL);
    let request = told.get(path).unwrap_or_else(|| panic!("{path} is told"));
    assert_eq!(request.code, Some(502));
    assert_eq!(request.cause.as_deref(), Some("closed_before_response"));
    assert_eq!(request.certainty.as_deref(), Some("proof"));
    assert_eq!(request.proxy.name, label);
    assert!(scene.nginx.workers().contains(&request.proxy.pid));
}

/// The name of that thread.
const ATTACHES: &str = "why502-attach";

/// Every thread of the agent has this in its status, but for the one that attaches later.
#[track_caller]
fn assert_every_thread(agent: &Agent, name: &str, expected: &str) {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid()));
    let mut looked_at = 0;
    for task in tasks.into_iter().flatten().flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        if status.contains(ATTACHES) {
            continue;
        }
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        assert_eq!(line.map(str::trim), Some(expected), "{name} in {status}");
        looked_at += 1;
    }
    // The runtime's own, and one that wrote the metrics.
    assert!(looked_at >= 2, "{looked_at} threads");
}

fn is_read_only_at_root(agent: &Agent) -> bool {
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", agent.pid()));
    mounts.unwrap_or_default().lines().any(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        fields.get(4) == Some(&"/")
            && fields
                .get(5)
                .is_some_and(|options| options.starts_with("ro"))
    })
}

/// The doctor's report, and its exit code.
#[track_caller]
#[expect(
    clippy::expect_used,
    reason = "an answer that is no JSON ends the test"
)]
fn doctor(mut command: Command) -> (Value, i32) {
    let Output { status, stdout, .. } = command
        .args(["doctor", "--json"])
        .output()
        .expect("the doctor starts");
    let report = serde_json::from_slice(&stdout).expect("the doctor speaks JSON");
    (report, status.code().unwrap_or(-1))
}

/// State and words of a finding.
fn finding(report: &Value, name: &str) -> Option<(String, String)> {
    let findings = report.get("findings")?.as_array()?;
    let found = findings
        .iter()
        .find(|finding| finding.get("name").and_then(Value::as_str) == Some(name))?;
    let text = |key| found.get(key).and_then(Value::as_str).map(str::to_owned);
    Some((text("state")?, text("words")?))
}

#[test]
fn nobody_with_the_documented_capabilities_and_a_read_only_root_explains_an_error() {
    let scene = scene();
    let (report, code) = doctor(scene.copy.ambient(&documented()));
    assert_eq!(code, 0, "{report}");

    let label = format!("{EDGE}=edge");
    let agent = Agent::start_by(
        scene.copy.read_only(&documented()),
        &["--proxy-name", &label],
    );
    assert!(is_read_only_at_root(&agent));
    assert!(
        agent.log().lines().all(|line| !line.contains("WARN")),
        "{}",
        agent.log()
    );
    assert_explains(&scene, &agent, "edge", "/nobody/1/reset");

    // What the exporter reads of kernel and process is there without rights.
    let metrics = agent.metrics();
    assert!(metrics.sum("why502_agent_map_bytes", &[]) > 1e5);
    for name in ["process_open_fds", "process_resident_memory_bytes"] {
        assert!(metrics.sum(name, &[]) > 0.0, "{name}");
    }
    let ended = agent.stop(Signal::TERM);
    assert!(ended.is_some_and(|status| status.success()));
}

#[test]
fn rights_are_given_up_once_the_probes_are_attached() {
    let scene = scene();
    let who: [(&str, Command); 2] = [
        ("nobody", scene.copy.ambient(&documented())),
        ("root", {
            let mut command = e2e::process::command("env", None);
            command.arg(scene.copy.path());
            command
        }),
    ];
    for (name, command) in who {
        // Connection tracking is heard without a right: CAP_NET_ADMIN goes with the others.
        let agent = Agent::start_by(command, &["--conntrack", "on"]);
        let path = format!("/{name}/1/reset");
        assert_explains(&scene, &agent, EDGE, &path);
        let metrics = agent.metrics();
        let conntrack = [("name", "conntrack")];
        assert_eq!(metrics.sum("why502_agent_capability", &conntrack), 1.0);
        // CAP_SYS_PTRACE, bit 19; and CAP_BPF, bit 39, where reading a map needs it.
        let kept = kept();
        for set in ["CapPrm:", "CapEff:"] {
            assert_every_thread(&agent, set, &kept);
        }
        for set in ["CapInh:", "CapAmb:"] {
            assert_every_thread(&agent, set, "0000000000000000");
        }
        assert_every_thread(&agent, "NoNewPrivs:", "1");
        // A filter.
        assert_every_thread(&agent, "Seccomp:", "2");
        assert!(agent.log().contains("capabilities given up"));
    }

    let agent = Agent::start_by(
        scene.copy.ambient(&documented()),
        &["--drop-capabilities", "false", "--seccomp", "false"],
    );
    assert_explains(&scene, &agent, EDGE, "/kept/1/reset");
    agent.metrics();
    assert_every_thread(&agent, "CapEff:", &all_documented());
    assert_every_thread(&agent, "Seccomp:", "0");
}

#[test]
fn the_thread_that_attaches_later_can_do_nothing_else() {
    let scene = scene();
    let agent = Agent::start_by(
        scene.copy.ambient(&documented()),
        &[
            "--attach",
            "proxies",
            "--proxy-name",
            &format!("{EDGE}=edge"),
        ],
    );
    assert_explains(&scene, &agent, "edge", "/later/1/reset");
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid()));
    let mut attaching = Vec::new();
    for task in tasks.into_iter().flatten().flatten() {
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let status = read("status");
        let of = |name| status.lines().find_map(|line| line.strip_prefix(name));
        let rights = ["CapPrm:", "CapEff:", "CapInh:", "NoNewPrivs:", "Seccomp:"].map(of);
        let rights = rights.map(|value| value.unwrap_or_default().trim().to_owned());
        if read("comm").trim() == "why502-attach" {
            attaching.push(rights);
        } else {
            assert_eq!(rights[1], kept(), "{status}");
        }
    }
    // CAP_NET_ADMIN, bit 12; and CAP_BPF where bpf(2) is for those who have it.
    let open = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled")
        .is_ok_and(|value| value.trim() == "0");
    let bpf = if open || kernel() < (5, 19) {
        1_u64 << 39
    } else {
        0
    };
    let only = format!("{:016x}", bpf | 1 << 12);
    println!("the thread that attaches: {attaching:?}");
    assert_eq!(
        attaching,
        [[only.as_str(), &only, "0000000000000000", "1", "2"]]
    );
}

/// The documented ones as `/proc` shows them.
fn all_documented() -> String {
    // linux/capability.h
    let bit = |name| match name {
        "dac_read_search" => 2,
        "net_admin" => 12,
        "sys_ptrace" => 19,
        "sys_admin" => 21,
        "sys_resource" => 24,
        "perfmon" => 38,
        "bpf" => 39,
        other => panic!("{other} is not documented"),
    };
    let bits = documented().into_iter().map(|name| 1_u64 << bit(name));
    format!("{:016x}", bits.sum::<u64>())
}

/// Since 5.19 a map that is open is read without CAP_BPF; where `bpf(2)` is open to all, the
/// agent does not find out.
fn kept() -> String {
    let open = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled")
        .is_ok_and(|value| value.trim() == "0");
    let bpf = if open || kernel() < (5, 19) {
        1_u64 << 39
    } else {
        0
    };
    format!("{:016x}", bpf | 1 << 19)
}

/// Version of the running kernel.
fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[test]
fn the_file_may_give_the_capabilities() {
    let scene = scene();
    let list: Vec<String> = documented()
        .iter()
        .map(|name| format!("cap_{name}"))
        .collect();
    output_of(
        Command::new("setcap")
            .arg(format!("{}=ep", list.join(",")))
            .arg(scene.copy.path()),
    );

    let agent = Agent::start_by(scene.copy.by_file(), &[]);

    assert_explains(&scene, &agent, EDGE, "/file/1/reset");
    assert!(agent.metrics().sum("process_open_fds", &[]) > 0.0);
    assert!(agent.metrics().sum("why502_agent_map_bytes", &[]) > 1e5);
}

#[test]
fn a_required_capability_that_is_missing_is_named() {
    need_root();
    let copy = Copy::new();
    let listen = ports::free(LOCALHOST).to_string();
    for missing in ["bpf", "perfmon", "net_admin"] {
        let rest: Vec<&str> = documented()
            .into_iter()
            .filter(|name| *name != missing)
            .collect();
        let name = format!("CAP_{}", missing.to_ascii_uppercase());

        let (report, code) = doctor(copy.ambient(&rest));
        let (state, words) = finding(&report, &name).unwrap_or_else(|| panic!("{name}: {report}"));
        assert_eq!((code, state.as_str()), (2, "FAIL"), "{words}");
        if let Some((_, words)) = finding(&report, "probes") {
            assert!(words.contains("missing above"), "{words}");
        }
        let ways = report
            .get("how_to_give")
            .map(Value::to_string)
            .unwrap_or_default();
        for way in [
            "setcap cap_bpf,",
            "AmbientCapabilities=CAP_BPF",
            "capabilities.add: [BPF",
        ] {
            assert!(ways.contains(way), "{way} is not in {ways}");
        }
        // What is held is to be given as well, and shown.
        // (Whether tracefs is needed, nobody can tell without the right to load a program.)
        for held in documented() {
            if held == "dac_read_search" {
                continue;
            }
            assert!(ways.contains(&format!("cap_{held}")), "{held}: {ways}");
            let shown = format!("CAP_{}", held.to_ascii_uppercase());
            assert!(finding(&report, &shown).is_some(), "{shown}: {report}");
        }

        let mut run = Command::new("timeout");
        run.arg("20").arg("setpriv");
        let ambient = copy.ambient(&rest);
        run.args(ambient.get_args())
            .args(["run", "--listen", &listen]);
        let (status, said) = Agent::refused(&mut run);
        assert_eq!(status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(&name), "{name} is not in {said}");
        assert_eq!(said.matches("CAP_").count(), 1, "{said}");
    }
}

#[test]
fn without_dac_read_search_what_needs_tracefs_is_off() {
    let scene = scene();
    let needs_tracefs = uses_tracepoints(&scene.copy);
    let rest: Vec<&str> = documented()
        .into_iter()
        .filter(|name| *name != "dac_read_search")
        .collect();

    let (report, code) = doctor(scene.copy.ambient(&rest));
    assert_eq!(code, i32::from(needs_tracefs), "{report}");
    let found = finding(&report, "CAP_DAC_READ_SEARCH");
    assert_eq!(
        found.is_some_and(|(state, _)| state == "off"),
        needs_tracefs
    );
    if needs_tracefs {
        let state = finding(&report, "tracefs").map(|(state, _)| state);
        assert_eq!(state.as_deref(), Some("off"), "{report}");
        // Before 5.11 nobody tries functions.
        let (state, words) = finding(&report, "connects").unwrap_or_default();
        assert!(kernel() < (5, 11) || state == "ok", "{report}");
        assert!(
            words.is_empty() || words.contains("are refused: "),
            "{words}"
        );
    }

    let agent = Agent::start_by(scene.copy.ambient(&rest), &[]);
    assert_explains(&scene, &agent, EDGE, "/closed/1/reset");
    let log = agent.log();
    assert_eq!(log.contains("DAC_READ_SEARCH"), needs_tracefs, "{log}");
    let metrics = agent.metrics();
    for (ability, on) in [
        ("socket_error", kernel() >= (5, 15)),
        ("connect_errno", !needs_tracefs),
        ("process_death", true),
        ("packets", true),
        ("tcp_state", true),
    ] {
        let values: Vec<f64> = metrics
            .of("why502_agent_capability", &[("name", ability)])
            .map(|(_, value)| value)
            .collect();
        assert_eq!(values, [f64::from(u8::from(on))], "{ability}");
        // What the doctor says is what happens.
        let found = finding(&report, ability);
        let (state, words) = found.unwrap_or_else(|| panic!("{ability}: {report}"));
        assert_eq!(state == "ok", on, "{ability}: {words}");
    }
}

/// Whether this kernel lets the agent see connects at classic tracepoints only.
fn uses_tracepoints(copy: &Copy) -> bool {
    let (report, _) = doctor(copy.ambient(&documented()));
    let programs = report.get("programs").and_then(Value::as_array);
    let named = |program: &Value| program.get("name") == Some(&Value::from("connect_enter"));
    programs.is_some_and(|programs| programs.iter().any(named))
}

#[test]
fn without_sys_ptrace_a_proxy_has_the_name_of_its_process() {
    let scene = scene();
    let rest: Vec<&str> = documented()
        .into_iter()
        .filter(|name| *name != "sys_ptrace")
        .collect();

    let (report, code) = doctor(scene.copy.ambient(&rest));
    assert_eq!(code, 1, "{report}");
    let (state, words) = finding(&report, "CAP_SYS_PTRACE").unwrap_or_default();
    assert_eq!(state, "off", "{words}");

    let agent = Agent::start_by(scene.copy.ambient(&rest), &[]);
    assert_explains(&scene, &agent, EDGE_CUT, "/nameless/1/reset");
}

#[test]
fn a_tracefs_for_a_group_needs_no_capability() {
    need_root();
    if !Path::new("/sys/kernel/tracing/events").is_dir() {
        panic!("tracefs is not mounted: mount -t tracefs nodev /sys/kernel/tracing");
    }
    let copy = Copy::new();
    let _open = TracefsForNobody::new();
    let rest: Vec<&str> = documented()
        .into_iter()
        .filter(|name| *name != "dac_read_search")
        .collect();
    let (report, code) = doctor(copy.ambient(&rest));
    assert_eq!(code, 0, "{report}");
    assert_eq!(finding(&report, "CAP_DAC_READ_SEARCH"), None);
}

/// tracefs with nobody's group; as it was when dropped.
struct TracefsForNobody;

impl TracefsForNobody {
    fn new() -> Self {
        Self::set(&format!("gid={NOBODY},mode=750"));
        Self
    }

    fn set(options: &str) {
        let options = format!("remount,{options}");
        output_of(Command::new("mount").args(["-o", &options, "/sys/kernel/tracing"]));
    }
}

impl Drop for TracefsForNobody {
    fn drop(&mut self) {
        Self::set("gid=0,mode=700");
    }
}
