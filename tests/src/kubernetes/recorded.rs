//! What a real API server said, as recorded in `tests/recordings/kubernetes-1.20`.
//!
//! In: names and addresses. Out: objects as a cluster makes them, and the answers that the stand-in
//! gives as well.

use serde_json::{Value, json};

use super::Kind;

macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../../recordings/kubernetes-1.20/", $name))
    };
}

/// What the names of a Deployment's pods begin with, and those of its slice and service.
const NAMED: &str = "orders";

/// A pod of a Deployment, with another name, node and address.
#[track_caller]
pub fn pod(name: &str, node: &str, ip: &str) -> Value {
    let mut pod = object(Kind::Pod);
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["uid"] = uid_of(name).into();
    pod["spec"]["nodeName"] = node.into();
    pod["status"]["podIP"] = ip.into();
    pod["status"]["podIPs"] = json!([{"ip": ip}]);
    pod
}

/// The slice of another service, with these endpoints: addresses and pods.
#[track_caller]
pub fn slice(service: &str, port: u16, endpoints: &[(&str, &str)]) -> Value {
    let mut slice = object(Kind::EndpointSlice);
    let endpoint = slice["endpoints"][0].clone();
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, pod)| {
            let mut endpoint = endpoint.clone();
            endpoint["addresses"] = json!([ip]);
            endpoint["targetRef"]["name"] = json!(pod);
            endpoint["targetRef"]["uid"] = uid_of(pod).into();
            endpoint
        })
        .collect();
    slice["metadata"]["name"] = format!("{service}-x7k2p").into();
    slice["metadata"]["labels"]["kubernetes.io/service-name"] = service.into();
    slice["ports"][0]["port"] = port.into();
    slice["endpoints"] = endpoints.into();
    slice
}

/// Another service, with another address.
#[track_caller]
pub fn service(name: &str, ip: &str, port: u16) -> Value {
    let mut service = object(Kind::Service);
    service["metadata"]["name"] = name.into();
    service["spec"]["clusterIP"] = ip.into();
    service["spec"]["clusterIPs"] = json!([ip]);
    service["spec"]["ports"][0]["port"] = port.into();
    service
}

fn uid_of(pod: &str) -> String {
    format!("uid-of-{pod}")
}

/// An object of `orders`, as it is listed.
#[track_caller]
fn object(kind: Kind) -> Value {
    let list = parsed(match kind {
        Kind::Pod => recorded!("pods.list.json"),
        Kind::Service => recorded!("services.list.json"),
        Kind::EndpointSlice => recorded!("endpointslices.list.json"),
    });
    let items = list["items"].as_array().into_iter().flatten();
    let mut items = items.filter(|item| {
        let name = item["metadata"]["name"].as_str().unwrap_or_default();
        name.starts_with(NAMED)
    });
    items
        .next()
        .cloned()
        .unwrap_or_else(|| panic!("no {kind:?} of {NAMED} was recorded"))
}

/// The line in which a watch tells that nothing happened up to a version.
#[track_caller]
pub fn bookmark(kind: Kind, version: &str) -> Value {
    let watch = match kind {
        Kind::Pod => recorded!("pods.watch.jsonl"),
        Kind::Service => recorded!("services.watch.jsonl"),
        Kind::EndpointSlice => recorded!("endpointslices.watch.jsonl"),
    };
    let mut line = watch
        .lines()
        .map(parsed)
        .find(|line| line["type"] == "BOOKMARK")
        .unwrap_or_else(|| panic!("a watch of {kind:?} was recorded with a bookmark"));
    line["object"]["metadata"]["resourceVersion"] = version.into();
    line
}

/// The line that ends a watch from a version that is forgotten; it comes with status 200.
pub fn gone() -> Value {
    parsed(recorded!("gone.watch.json"))
}

/// The answer to who is not known.
pub fn unauthorized() -> Value {
    parsed(recorded!("unauthorized.json"))
}

/// The answer to who asks for what it has no right to.
pub fn forbidden() -> Value {
    parsed(recorded!("forbidden.json"))
}

/// The answer to who asks for what is not there.
pub fn not_found() -> Value {
    parsed(recorded!("notfound.json"))
}

#[track_caller]
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("what was recorded is JSON")
}
