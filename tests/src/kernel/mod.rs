//! What the kernel itself counts and shows: the judge of resets and failed connects.

pub mod capture;
pub mod pcap;

use std::collections::BTreeMap;
use std::process::Command;

use crate::netns::Netns;
use crate::process::output_of;

/// Counters of a network namespace by name, as `nstat` prints them.
pub type Counters = BTreeMap<String, u64>;

/// All counters of a namespace now, zeros included, since it was made.
#[track_caller]
pub fn counters(netns: &Netns) -> Counters {
    let printed = output_of(
        Command::new("nsenter")
            .arg(format!("--net={}", netns.path().display()))
            // a: absolute, s: leave no history, z: zeros too.
            .args(["nstat", "-asz"]),
    );
    printed
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        })
        .collect()
}

/// How much a counter grew.
#[track_caller]
pub fn grown(name: &str, before: &Counters, after: &Counters) -> u64 {
    let value = |counters: &Counters| {
        *counters
            .get(name)
            .unwrap_or_else(|| panic!("nstat knows no {name}"))
    };
    value(after) - value(before)
}

/// Names of the BPF programs and links of a process.
#[track_caller]
pub fn bpf_objects_of(pid: u32) -> Vec<String> {
    let mut found = Vec::new();
    for what in ["prog", "link", "map"] {
        let printed = output_of(Command::new("bpftool").args(["-j", what, "show"]));
        let objects: Vec<serde_json::Value> =
            serde_json::from_str(&printed).expect("bpftool prints JSON");
        for object in objects {
            let of_pid = object
                .get("pids")
                .and_then(|pids| pids.as_array())
                .is_some_and(|pids| {
                    pids.iter().any(|holder| {
                        holder.get("pid").and_then(serde_json::Value::as_u64) == Some(pid.into())
                    })
                });
            if of_pid {
                found.push(format!("{what} {object}"));
            }
        }
    }
    found
}

/// Ids of all BPF programs, links and maps of the system, each with its name.
#[track_caller]
pub fn bpf_objects() -> BTreeMap<(String, u64), String> {
    let mut found = BTreeMap::new();
    for what in ["prog", "link", "map"] {
        let printed = output_of(Command::new("bpftool").args(["-j", what, "show"]));
        let objects: Vec<serde_json::Value> =
            serde_json::from_str(&printed).expect("bpftool prints JSON");
        for object in objects {
            let id = object.get("id").and_then(serde_json::Value::as_u64);
            let name = ["name", "type", "attach_type"]
                .iter()
                .filter_map(|key| object.get(key)?.as_str())
                .collect::<Vec<_>>()
                .join(" ");
            found.insert((what.to_owned(), id.unwrap_or_default()), name);
        }
    }
    found
}
