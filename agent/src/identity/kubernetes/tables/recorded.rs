//! What an API server really says, recorded from a Kubernetes 1.20 (`tests/recordings`): a
//! Deployment is rolled out anew, and the address of a pod that was stopped is given to another.

use std::net::SocketAddr;

use kube::api::WatchEvent;
use serde::de::DeserializeOwned;
use serde_json::{Value, from_str, from_value};

use super::super::objects::{EndpointSlice, Pod, Service};
use super::{Tabled, Tables};

macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!(
            "../../../../../tests/recordings/kubernetes-1.20/",
            $name
        ))
    };
}

/// The old pod that is stopped last, and its address.
const OLD: (&str, &str) = ("orders-55f4df4c45-zhls5", "10.244.0.55");
/// Another pod has this address when the old one's containers have ended and it is still there.
const REUSED: &str = "10.244.0.56";

fn list<K: Tabled + DeserializeOwned>(tables: &mut Tables, text: &str) {
    let list: Value = from_str(text).unwrap();
    for item in list["items"].as_array().unwrap() {
        tables.put(from_value::<K>(item.clone()).unwrap());
    }
}

fn listed() -> Tables {
    let mut tables = Tables::default();
    list::<Pod>(&mut tables, recorded!("pods.list.json"));
    list::<EndpointSlice>(&mut tables, recorded!("endpointslices.list.json"));
    list::<Service>(&mut tables, recorded!("services.list.json"));
    tables
}

/// A line of a watch, taken in as [`super::super::watch`] does.
fn take_in<K>(tables: &mut Tables, line: &str)
where
    K: Tabled + DeserializeOwned + Clone + std::fmt::Debug,
{
    match from_str::<WatchEvent<K>>(line).unwrap() {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => tables.put(object),
        WatchEvent::Deleted(object) => tables.remove(&object),
        WatchEvent::Bookmark(bookmark) => assert!(!bookmark.metadata.resource_version.is_empty()),
        WatchEvent::Error(status) => panic!("{status:?}"),
    }
}

/// `workload pod service`, with what is not known left out.
fn behind(tables: &Tables, address: &str) -> String {
    let address: SocketAddr = address.parse().unwrap();
    let place = tables.behind(address).unwrap_or_default();
    let parts = [place.workload, place.pod, place.service];
    let parts: Vec<&str> = parts
        .iter()
        .map(|part| part.as_deref().unwrap_or("-"))
        .collect();
    parts.join(" ")
}

/// Versions of one store, in the order in which the three watches told of them.
fn all_changes() -> Vec<(u64, &'static str, &'static str)> {
    let mut changes = Vec::new();
    for (kind, text) in [
        ("Pod", recorded!("pods.watch.jsonl")),
        ("EndpointSlice", recorded!("endpointslices.watch.jsonl")),
        ("Service", recorded!("services.watch.jsonl")),
    ] {
        for line in text.lines() {
            let event: Value = from_str(line).unwrap();
            let version = &event["object"]["metadata"]["resourceVersion"];
            let version = version.as_str().unwrap().parse().unwrap();
            changes.push((version, kind, line));
        }
    }
    changes.sort_by_key(|(version, ..)| *version);
    changes
}

fn replay(tables: &mut Tables, mut look: impl FnMut(u64, &Tables)) {
    for (version, kind, line) in all_changes() {
        match kind {
            "Pod" => take_in::<Pod>(tables, line),
            "EndpointSlice" => take_in::<EndpointSlice>(tables, line),
            _ => take_in::<Service>(tables, line),
        }
        look(version, tables);
    }
}

#[test]
fn what_a_server_lists_is_named() {
    let tables = listed();

    for (address, expected) in [
        (
            "10.244.0.55:8080",
            "Deployment/orders orders-55f4df4c45-zhls5 orders",
        ),
        // The same pod, at a port that is another service's.
        (
            "10.244.0.55:9999",
            "Deployment/orders orders-55f4df4c45-zhls5 refusing",
        ),
        ("10.244.0.51:8080", "StatefulSet/reports reports-0 reports"),
        ("10.244.0.54:9502", "DaemonSet/why502 why502-4cs98 -"),
        ("10.96.10.1:80", "- - orders"),
        ("10.96.10.2:80", "- - nobody"),
        ("10.96.0.1:443", "- - kubernetes"),
        ("10.96.10.1:8080", "- - -"),
    ] {
        assert_eq!(behind(&tables, address), expected, "{address}");
    }
    let proxy = tables.pod("9f35ad2b-e4cd-4ae7-ab00-a949788cbf62").unwrap();
    assert_eq!(proxy.workload.as_deref(), Some("Deployment/ingress"));
}

#[test]
fn an_address_used_again_before_its_old_pod_is_gone_is_the_new_pods() {
    let mut tables = listed();
    let mut seen: Vec<String> = Vec::new();

    replay(&mut tables, |_, tables| {
        let name = behind(tables, &format!("{REUSED}:8080"));
        if seen.last() != Some(&name) {
            seen.push(name);
        }
    });

    assert_eq!(
        seen,
        [
            "Deployment/orders orders-55f4df4c45-zkdlm orders",
            // It is being deleted, and no endpoint any more.
            "Deployment/orders orders-55f4df4c45-zkdlm -",
            // Its containers have ended.
            "- - -",
            // A pod without a controller has the address, while the old one is still listed.
            "- once -",
            "- - -",
        ]
    );
}

#[test]
fn during_a_rollout_an_address_has_its_owners_name_or_none() {
    let mut tables = listed();
    let new = ["10.244.0.52:8080", "10.244.0.53:8080"];
    replay(&mut tables, |version, tables| {
        let (old, ip) = OLD;
        let name = behind(tables, &format!("{ip}:8080"));
        assert!(name.contains(old) || name == "- - -", "{version}: {name}");
        for address in new {
            let name = behind(tables, address);
            assert!(
                name.contains("orders-5f89b499f8-") || name.starts_with("- - "),
                "{version}: {name}"
            );
        }
    });

    for address in new {
        let name = behind(&tables, address);
        assert!(name.starts_with("Deployment/orders orders-5f89b499f8-"));
        assert!(name.ends_with(" orders"), "{name}");
    }
    assert_eq!(behind(&tables, "10.244.0.55:8080"), "- - -");
}

#[test]
fn what_is_forgotten_comes_as_an_error_within_the_watch() {
    let event: WatchEvent<Pod> = from_str(recorded!("gone.watch.json")).unwrap();
    let WatchEvent::Error(status) = event else {
        panic!("{event:?}");
    };
    assert_eq!(status.code, 410);
}
