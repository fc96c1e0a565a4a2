//! What the kernel itself counts and shows: the judge of resets and failed connects.

pub mod capture;
pub mod pcap;

use std::collections::{BTreeMap, BTreeSet};
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

/// A BPF program, link or map by its kind and id.
pub type BpfObject = (&'static str, u64);

/// The BPF objects that a process holds open.
#[track_caller]
pub fn bpf_objects_of(pid: u32) -> BTreeSet<BpfObject> {
    let folder = format!("/proc/{pid}/fdinfo");
    let files =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("cannot read {folder}: {error}"));
    files
        .filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok())
        .filter_map(|info| {
            // A link's info names its program too: the first of these is what the file is.
            let of = |kind| {
                let value = info
                    .lines()
                    .find_map(|line| line.strip_prefix(&format!("{kind}_id:")))?;
                Some((kind, value.trim().parse().ok()?))
            };
            of("link").or_else(|| of("map")).or_else(|| of("prog"))
        })
        .collect()
}

/// All BPF objects of the system.
#[track_caller]
pub fn bpf_objects() -> BTreeSet<BpfObject> {
    let mut found = BTreeSet::new();
    for kind in ["prog", "link", "map"] {
        let printed = output_of(Command::new("bpftool").args(["-j", kind, "show"]));
        let objects: Vec<serde_json::Value> =
            serde_json::from_str(&printed).expect("bpftool prints JSON");
        let ids = objects
            .iter()
            .filter_map(|object| object.get("id")?.as_u64());
        found.extend(ids.map(|id| (kind, id)));
    }
    found
}

/// How many entries a hash map of this process has now, by the map's name.
#[track_caller]
pub fn entries_of(pid: u32, name: &str) -> usize {
    let ids = bpf_objects_of(pid).into_iter();
    for (_, id) in ids.filter(|(kind, _)| *kind == "map") {
        let id = id.to_string();
        let of = |verb| {
            let printed = output_of(Command::new("bpftool").args(["-j", "map", verb, "id", &id]));
            serde_json::from_str::<serde_json::Value>(&printed).expect("bpftool prints JSON")
        };
        if of("show").get("name").and_then(|name| name.as_str()) == Some(name) {
            return of("dump").as_array().map_or(0, Vec::len);
        }
    }
    panic!("process {pid} has no map {name}")
}
