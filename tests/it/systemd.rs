//! The unit, under a real systemd: what it forbids is nothing that the agent needs.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use e2e::agent::binary;
use e2e::agent::metrics::Metrics;
use e2e::http;
use e2e::ports;
use e2e::process::need_root;
use e2e::systemd::Systemd;
use e2e::wait::eventually;
use serde_json::Value;
use tempfile::TempDir;

/// Bits of `CAP_NET_ADMIN`, `CAP_SYS_PTRACE`, `CAP_PERFMON` and `CAP_BPF` (linux/capability.h).
const RIGHTS: u64 = 1 << 12 | 1 << 19 | 1 << 38 | 1 << 39;
/// That of `CAP_DAC_READ_SEARCH`.
const READS_TRACEFS: u64 = 1 << 2;

/// What the unit proposes for kernels that are watched by way of tracefs.
const FOR_TRACEFS: &str = "
[Service]
AmbientCapabilities=CAP_DAC_READ_SEARCH
CapabilityBoundingSet=CAP_DAC_READ_SEARCH
";

/// systemd starts, and the agent loads its probes.
const START: Duration = Duration::from_secs(60);

#[test]
fn the_unit_runs_the_agent_with_every_ability_and_few_rights() {
    need_root();
    let unit = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/why502.service");
    // Lines that are read later add to the earlier ones, in a drop-in or in the same file.
    let (rights, more) = if uses_tracepoints() {
        (RIGHTS | READS_TRACEFS, FOR_TRACEFS)
    } else {
        (RIGHTS, "")
    };
    let folder = TempDir::with_prefix("e2e-unit-").unwrap();
    let extended = folder.path().join("why502.service");
    fs::write(&extended, fs::read_to_string(unit).unwrap() + more).unwrap();
    let address = ports::free(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let settings = format!("listen = \"{address}\"\n");

    let systemd = Systemd::start(&binary(), &extended, &settings);

    eventually(START, "the agent is ready", || {
        match http::get(address, "/readyz", "*/*") {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(format!("{}: {}", answer.status, systemd.log())),
            Err(error) => Err(format!("{error}: {}", systemd.log())),
        }
    });
    assert_eq!(systemd.property("ActiveState"), "active");
    assert_eq!(systemd.property("NRestarts"), "0");
    let user = systemd.status_of_the_process("Uid");
    assert!(!user.starts_with("0\t"), "{user}");
    assert_eq!(systemd.status_of_the_process("NoNewPrivs"), "1");
    assert_eq!(systemd.status_of_the_process("Seccomp"), "2");
    let bounding = systemd.status_of_the_process("CapBnd");
    assert_eq!(u64::from_str_radix(&bounding, 16), Ok(rights));

    let answer = http::get(address, "/metrics", "application/openmetrics-text").unwrap();
    let metrics = Metrics::parse(&String::from_utf8_lossy(&answer.body));
    let abilities: Vec<_> = metrics.of("why502_agent_capability", &[]).collect();
    let packets = [("name", "packets")];
    assert!(metrics.sum("why502_agent_capability", &packets) > 0.5);
    // What the kernel lacks is off without systemd as well: here nothing may be off for want of
    // rights, which a log line would say.
    let log = systemd.log();
    let says_why = |line: &&str| line.contains("connects are seen at tracepoints");
    assert_eq!(log.lines().any(|line| says_why(&line)), !more.is_empty());
    let log: Vec<&str> = log.lines().filter(|line| !says_why(line)).collect();
    let log = log.join("\n");
    println!("{} abilities; {log}", abilities.len());
    for word in ["right is missing", "ermission denied", "not permitted"] {
        assert!(!log.contains(word), "{log}");
    }

    systemd.stop_the_service();

    assert!(systemd.log().contains("the probes are detached"));
    assert_eq!(systemd.property("Result"), "success");
}

/// Whether this kernel lets the agent see connects at classic tracepoints only.
fn uses_tracepoints() -> bool {
    let report = Command::new(binary()).args(["doctor", "--json"]).output();
    let report = report.map_or(Value::Null, |said| {
        serde_json::from_slice(&said.stdout).unwrap_or_default()
    });
    let programs = report.get("programs").and_then(Value::as_array);
    let named = |program: &Value| program.get("name") == Some(&Value::from("connect_enter"));
    programs.is_some_and(|programs| programs.iter().any(named))
}
