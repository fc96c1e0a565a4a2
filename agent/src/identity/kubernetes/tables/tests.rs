//! Addresses and their owners.

use serde_json::{Value, from_value, json};

use super::{Tabled, Tables};
use crate::identity::kubernetes::objects::{EndpointSlice, Pod, Service};

fn pod(name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "shop", "name": name, "uid": format!("uid-{name}"),
            "labels": {"app": "orders", "pod-template-hash": "5f7d8b9c6d"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "orders-5f7d8b9c6d",
                "uid": "rs", "controller": true}],
        },
        "spec": {"nodeName": "node-a", "containers": [{"name": "app", "image": "app"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

fn slice(name: &str, service: &str, endpoints: &[(&str, &str)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, pod)| {
            json!({
                "addresses": [ip], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "namespace": "shop", "name": pod, "uid": format!("uid-{pod}")},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        "endpoints": endpoints,
    })
}

fn service(name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]},
    })
}

fn put<K: Tabled + serde::de::DeserializeOwned>(tables: &mut Tables, object: &Value) {
    tables.put(from_value::<K>(object.clone()).unwrap());
}

fn remove<K: Tabled + serde::de::DeserializeOwned>(tables: &mut Tables, object: &Value) {
    tables.remove(&from_value::<K>(object.clone()).unwrap());
}

/// `namespace/service namespace/pod`, with what is not known left out.
fn behind(tables: &Tables, address: &str) -> String {
    let Some(place) = tables.behind(address.parse().unwrap()) else {
        return "nobody".to_owned();
    };
    let parts = [place.namespace, place.service, place.pod, place.workload];
    let parts: Vec<&str> = parts
        .iter()
        .map(|part| part.as_deref().unwrap_or("-"))
        .collect();
    parts.join(" ")
}

#[test]
fn an_endpoint_has_service_and_pod_and_a_cluster_ip_its_service() {
    let mut tables = Tables::default();
    put::<EndpointSlice>(
        &mut tables,
        &slice("orders-x", "orders", &[("10.1.0.5", "orders-1")]),
    );
    put::<Service>(&mut tables, &service("orders", "10.96.0.7"));

    assert_eq!(behind(&tables, "10.1.0.5:8080"), "shop orders orders-1 -");
    assert_eq!(
        behind(&tables, "[::ffff:10.1.0.5]:8080"),
        "shop orders orders-1 -"
    );
    assert_eq!(behind(&tables, "10.1.0.5:8081"), "nobody");
    assert_eq!(behind(&tables, "10.1.0.5:53"), "nobody");
    assert_eq!(behind(&tables, "10.96.0.7:80"), "shop orders - -");
    assert_eq!(behind(&tables, "10.96.0.7:443"), "nobody");
}

#[test]
fn of_a_service_the_endpoints_that_are_ready_are_counted() {
    let mut tables = Tables::default();
    let ready = |tables: &Tables, address: &str| tables.ready_endpoints(address.parse().unwrap());
    put::<Service>(&mut tables, &service("orders", "10.96.0.7"));
    assert_eq!(ready(&tables, "10.96.0.7:80"), Some(0));

    let both = [("10.1.0.5", "orders-1"), ("10.1.0.6", "orders-2")];
    let mut first = slice("orders-x", "orders", &both);
    first["endpoints"][0]["conditions"] = json!({"ready": false});
    put::<EndpointSlice>(&mut tables, &first);
    assert_eq!(ready(&tables, "10.96.0.7:80"), Some(1));
    // Without conditions it is taken as ready, and a slice of IPv6 is of another address.
    let mut second = slice("orders-y", "orders", &[("10.1.0.7", "orders-3")]);
    second["endpoints"][0]["conditions"] = Value::Null;
    put::<EndpointSlice>(&mut tables, &second);
    // What moves is in two slices for a moment.
    put::<EndpointSlice>(
        &mut tables,
        &slice("orders-z", "orders", &[("10.1.0.7", "orders-3")]),
    );
    assert_eq!(ready(&tables, "10.96.0.7:80"), Some(2));
    remove::<EndpointSlice>(&mut tables, &slice("orders-z", "orders", &[]));
    put::<EndpointSlice>(
        &mut tables,
        &slice("orders-6", "orders", &[("2001:db8::5", "orders-1")]),
    );
    put::<EndpointSlice>(&mut tables, &slice("cart-x", "cart", &both));
    assert_eq!(ready(&tables, "10.96.0.7:80"), Some(2));
    remove::<EndpointSlice>(&mut tables, &second);
    first["endpoints"][1]["conditions"]["ready"] = json!(false);
    put::<EndpointSlice>(&mut tables, &first);
    assert_eq!(ready(&tables, "[::ffff:10.96.0.7]:80"), Some(0));

    assert_eq!(ready(&tables, "10.96.0.7:81"), None);
    assert_eq!(ready(&tables, "10.1.0.5:8080"), None);
}

#[test]
fn a_pod_of_this_node_adds_its_workload_and_has_a_name_at_any_port() {
    let mut tables = Tables::default();
    put::<EndpointSlice>(
        &mut tables,
        &slice("orders-x", "orders", &[("10.1.0.5", "orders-1")]),
    );
    put::<Pod>(&mut tables, &pod("orders-1", "10.1.0.5"));

    let all = "shop orders orders-1 Deployment/orders";
    assert_eq!(behind(&tables, "10.1.0.5:8080"), all);
    assert_eq!(
        behind(&tables, "10.1.0.5:9999"),
        "shop - orders-1 Deployment/orders"
    );
    let by_uid = tables.pod("uid-orders-1").unwrap();
    assert_eq!(by_uid.pod.as_deref(), Some("orders-1"));
}

#[test]
fn a_removed_pod_or_endpoint_is_forgotten_at_once() {
    let mut tables = Tables::default();
    let old = pod("orders-1", "10.1.0.5");
    put::<Pod>(&mut tables, &old);
    put::<EndpointSlice>(
        &mut tables,
        &slice("orders-x", "orders", &[("10.1.0.5", "orders-1")]),
    );

    remove::<Pod>(&mut tables, &old);
    assert_eq!(behind(&tables, "10.1.0.5:9999"), "nobody");
    assert!(tables.pod("uid-orders-1").is_none());
    put::<EndpointSlice>(&mut tables, &slice("orders-x", "orders", &[]));

    assert_eq!(behind(&tables, "10.1.0.5:8080"), "nobody");
    assert!(tables.slices.by_endpoint.is_empty() && tables.pods.by_ip.is_empty());
}

#[test]
fn an_address_that_another_pod_has_now_is_not_what_a_late_slice_says() {
    let mut tables = Tables::default();
    put::<EndpointSlice>(
        &mut tables,
        &slice("orders-x", "orders", &[("10.1.0.5", "orders-1")]),
    );
    put::<Pod>(&mut tables, &pod("cart-1", "10.1.0.5"));

    assert_eq!(
        behind(&tables, "10.1.0.5:8080"),
        "shop - cart-1 Deployment/orders"
    );
}

#[test]
fn an_address_of_two_is_nobodys() {
    let mut tables = Tables::default();
    put::<Pod>(&mut tables, &pod("orders-1", "10.1.0.5"));
    put::<Pod>(&mut tables, &pod("cart-1", "10.1.0.5"));
    assert_eq!(behind(&tables, "10.1.0.5:8080"), "nobody");

    put::<EndpointSlice>(
        &mut tables,
        &slice("a", "orders", &[("10.1.0.9", "orders-9")]),
    );
    put::<EndpointSlice>(&mut tables, &slice("b", "cart", &[("10.1.0.9", "cart-9")]));
    assert_eq!(behind(&tables, "10.1.0.9:8080"), "nobody");
}

#[test]
fn of_several_services_of_an_endpoint_one_with_an_address_is_told() {
    let mut tables = Tables::default();
    let endpoints = [("10.1.0.5", "orders-1")];
    put::<EndpointSlice>(&mut tables, &slice("a", "a-headless", &endpoints));
    put::<EndpointSlice>(&mut tables, &slice("b", "orders", &endpoints));
    put::<Service>(&mut tables, &service("a-headless", "None"));
    put::<Service>(&mut tables, &service("orders", "10.96.0.7"));

    assert_eq!(behind(&tables, "10.1.0.5:8080"), "shop orders orders-1 -");
}

#[test]
fn pods_in_the_hosts_network_and_those_that_have_ended_name_no_address() {
    let mut tables = Tables::default();
    let mut on_host = pod("ingress-1", "192.0.2.10");
    on_host["spec"]["hostNetwork"] = json!(true);
    let mut ended = pod("job-1", "10.1.0.8");
    ended["status"]["phase"] = json!("Succeeded");

    put::<Pod>(&mut tables, &on_host);
    put::<Pod>(&mut tables, &ended);

    assert_eq!(behind(&tables, "192.0.2.10:8080"), "nobody");
    assert_eq!(behind(&tables, "10.1.0.8:8080"), "nobody");
    assert!(tables.pod("uid-ingress-1").is_some());
}

#[test]
fn a_pod_that_is_deleted_has_no_address_when_its_containers_have_ended() {
    let mut tables = Tables::default();
    let state = |state: &str| json!([{"name": "app", "state": {state: {}}}]);
    let mut pod = pod("orders-1", "10.1.0.5");
    // Its containers will be started again: the address is still its own.
    pod["status"]["containerStatuses"] = state("terminated");
    put::<Pod>(&mut tables, &pod);
    put::<EndpointSlice>(
        &mut tables,
        &slice("orders-x", "orders", &[("10.1.0.5", "orders-1")]),
    );
    let all = "shop orders orders-1 Deployment/orders";
    assert_eq!(behind(&tables, "10.1.0.5:8080"), all);

    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pod["status"]["containerStatuses"] = state("running");
    put::<Pod>(&mut tables, &pod);
    assert_eq!(behind(&tables, "10.1.0.5:8080"), all);

    pod["status"]["containerStatuses"] = state("terminated");
    put::<Pod>(&mut tables, &pod);
    // Since Kubernetes 1.22 its slice keeps it until it is gone.
    assert_eq!(behind(&tables, "10.1.0.5:8080"), "nobody");
    assert!(tables.pod("uid-orders-1").is_some());
}

#[test]
fn without_word_of_pods_their_addresses_are_nobodys_and_their_uids_are_theirs() {
    let mut tables = Tables::default();
    let old = pod("orders-1", "10.1.0.5");
    put::<Pod>(&mut tables, &old);

    tables.forget_addresses_of_pods();

    assert_eq!(behind(&tables, "10.1.0.5:9999"), "nobody");
    assert!(tables.pod("uid-orders-1").is_some());
    put::<Pod>(&mut tables, &old);
    assert_ne!(behind(&tables, "10.1.0.5:9999"), "nobody");
    tables.replace::<Pod>(Default::default());
    assert!(tables.pod("uid-orders-1").is_none());
}

#[test]
fn a_static_pod_is_found_by_the_hash_of_its_file() {
    let mut tables = Tables::default();
    let mut mirror = pod("proxy-node-a", "10.1.0.3");
    mirror["metadata"]["annotations"] =
        json!({"kubernetes.io/config.hash": "d0c9b1f2e3a4958677889900aabbccdd"});

    put::<Pod>(&mut tables, &mirror);

    let place = tables.pod("d0c9b1f2e3a4958677889900aabbccdd").unwrap();
    assert_eq!(place.pod.as_deref(), Some("proxy-node-a"));
}

#[test]
fn what_is_null_or_left_out_says_less_and_is_no_error() {
    let mut tables = Tables::default();
    let metadata =
        json!({"namespace": "shop", "name": "x", "labels": {"kubernetes.io/service-name": "x"}});
    let mut empty = slice("x", "x", &[]);
    empty["endpoints"] = json!(null);
    empty["ports"] = json!(null);

    put::<EndpointSlice>(&mut tables, &empty);
    put::<Pod>(&mut tables, &json!({"metadata": metadata}));
    put::<Service>(
        &mut tables,
        &json!({"metadata": metadata, "spec": {"ports": null}}),
    );
    put::<Service>(&mut tables, &json!({"metadata": {"name": "nowhere"}}));

    assert_eq!(behind(&tables, "10.1.0.5:8080"), "nobody");
}

/// More than there is room for: each has 100 endpoints.
const TOO_MANY: usize = 400;

fn many() -> impl Iterator<Item = Value> {
    (0..TOO_MANY).map(|number| {
        let ips: Vec<(String, String)> = (0..100)
            .map(|one| {
                let (high, low) = (number / 250, number % 250);
                (
                    format!("10.{high}.{low}.{one}"),
                    format!("pod-{number}-{one}"),
                )
            })
            .collect();
        let endpoints: Vec<(&str, &str)> = ips
            .iter()
            .map(|(ip, pod)| (ip.as_str(), pod.as_str()))
            .collect();
        slice(&format!("slice-{number}"), "orders", &endpoints)
    })
}

#[test]
fn a_cluster_that_is_too_large_is_left_out_in_part_and_that_is_counted() {
    let mut tables = Tables::default();
    for slice in many() {
        put::<EndpointSlice>(&mut tables, &slice);
    }
    let kept = tables.len();
    assert!(tables.slices.by_endpoint.len() <= super::SLICES, "{kept}");
    assert_eq!(tables.left_out(), (TOO_MANY - kept) as u64);
    assert!(kept < TOO_MANY && kept > 0, "{kept}");
    assert_eq!(behind(&tables, "10.0.0.1:8080"), "shop orders pod-0-1 -");

    // What is gone makes room.
    for slice in many().take(100) {
        remove::<EndpointSlice>(&mut tables, &slice);
    }
    let last = many().last().unwrap();
    put::<EndpointSlice>(&mut tables, &last);
    assert_eq!(tables.len(), kept - 99);
    assert_eq!(
        behind(&tables, "10.1.149.1:8080"),
        "shop orders pod-399-1 -"
    );
}

#[test]
fn endpoints_are_not_counted_while_some_are_left_out() {
    let mut tables = Tables::default();
    put::<Service>(&mut tables, &service("orders", "10.96.0.7"));
    let address = "10.96.0.7:80".parse().unwrap();
    put::<EndpointSlice>(&mut tables, &slice("one", "orders", &[("10.1.0.5", "a")]));
    assert_eq!(tables.ready_endpoints(address), Some(1));

    for slice in many() {
        put::<EndpointSlice>(&mut tables, &slice);
    }
    assert_eq!(tables.ready_endpoints(address), None);

    let left_out = tables.left_out();
    tables.replace::<EndpointSlice>(Default::default());
    assert_eq!(tables.ready_endpoints(address), Some(0));
    assert_eq!(tables.left_out(), left_out);
}
