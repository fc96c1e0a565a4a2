//! Envoy: a route and a cluster for each group, written as JSON, which is YAML to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::group::{Checked, Group, Judged, Name, Target, Tls};
use super::launch::{Launch, Launched, Unpacked};
use super::{Said, note};

/// `WHY502_ENVOY`, else where `cargo xtask setup` unpacks it, else what is on `PATH`.
const PROGRAM: Unpacked = Unpacked {
    variable: "WHY502_ENVOY",
    unpacked: "envoy/envoy/_bin/envoy",
    on_path: Some("envoy"),
};

/// Of the configuration's type names.
const TYPES: &str = "type.googleapis.com/envoy.extensions";

pub(super) fn lacks(_: &Group) -> Option<&'static str> {
    None
}

/// What a group is configured with besides, as the fields of JSON objects.
#[derive(Debug, Default)]
pub struct Besides {
    /// Of the action of its route.
    pub action: Value,
    /// Of its cluster.
    pub cluster: Value,
}

pub(super) fn launch(launch: Launch, groups: &[&Group]) -> Launched {
    launch_with(launch, groups, &BTreeMap::new())
}

/// With more of some groups, by their name.
pub(super) fn launch_with(
    launch: Launch,
    groups: &[&Group],
    besides: &BTreeMap<&str, &Besides>,
) -> Launched {
    let clusters = groups.iter().filter_map(|group| {
        let more = besides.get(group.name).map(|besides| &besides.cluster);
        Some(with(cluster(group)?, more))
    });
    let config = json!({
        "static_resources": {
            "listeners": [{
                "name": "front",
                "address": socket(launch.address),
                "filter_chains": [{ "filters": [{
                    "name": "http",
                    "typed_config": manager(launch.file("access.log"), groups, besides),
                }]}],
            }],
            "clusters": clusters.collect::<Vec<_>>(),
        },
    });
    launch.write("envoy.json", &config.to_string());
    let envoy = launch.start(&PROGRAM.path(), |command| {
        command.args([
            "-c",
            "envoy.json",
            "--concurrency",
            "1",
            "--disable-hot-restart",
        ]);
        command.args(["--file-flush-interval-msec", "20", "--log-level", "error"]);
    });
    launch.done(vec![envoy])
}

fn manager(log: PathBuf, groups: &[&Group], besides: &BTreeMap<&str, &Besides>) -> Value {
    let routes = groups.iter().map(|group| {
        let more = besides.get(group.name).map(|besides| &besides.action);
        route(group, more)
    });
    json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "front",
        "stream_idle_timeout": "10s",
        "access_log": [{
            "name": "file",
            "typed_config": {
                "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"),
                "path": log,
                "log_format": { "text_format_source": { "inline_string":
                    "%REQ(:PATH)%\t%RESPONSE_CODE%\t%RESPONSE_FLAGS%\t%RESPONSE_CODE_DETAILS%\n"
                }},
            },
        }],
        "http_filters": [{
            "name": "router",
            "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") },
        }],
        "route_config": { "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": routes.collect::<Vec<_>>(),
        }]},
    })
}

fn route(group: &Group, fields: Option<&Value>) -> Value {
    let Group {
        name,
        target,
        keep: _,
        retry,
        rewritten,
    } = group;
    let prefix = json!({ "prefix": format!("/{name}/") });
    if matches!(target, Target::Static) {
        return json!({ "match": prefix, "direct_response": { "status": 503 } });
    }
    // Longer than the 1 s for a connection, for it runs while that does.
    let mut action = json!({ "cluster": name, "timeout": "1.5s" });
    if *rewritten {
        set(&mut action, "prefix_rewrite", json!("/"));
        set(&mut action, "host_rewrite_literal", json!(group.host()));
    }
    if *retry {
        set(
            &mut action,
            "retry_policy",
            json!({
                "retry_on": "connect-failure,reset",
                "num_retries": 1,
                "retry_host_predicate": [{
                    "name": "previous",
                    "typed_config": { "@type":
                        format!("{TYPES}.retry.host.previous_hosts.v3.PreviousHostsPredicate")
                    },
                }],
                "host_selection_retry_max_attempts": 5,
            }),
        );
    }
    json!({ "match": prefix, "route": with(action, fields) })
}

fn cluster(group: &Group) -> Option<Value> {
    let Group {
        name,
        target,
        keep,
        retry: _,
        rewritten: _,
    } = group;
    let endpoints: Vec<Value> = match target {
        Target::Static => return None,
        Target::Servers(servers)
        | Target::Judged(Judged { servers, .. })
        | Target::Checked(Checked { servers, .. }) => {
            servers.iter().map(|server| socket(*server)).collect()
        }
        Target::Unix(path) => vec![json!({ "pipe": { "path": path } })],
        Target::Tls(Tls { server, .. }) | Target::Limited(server) => vec![socket(*server)],
        Target::Name(Name { host, port, .. }) => {
            vec![json!({ "socket_address": { "address": host, "port_value": port } })]
        }
        // It has no switch for a host: a cluster without hosts is how it looks to requests.
        Target::Disabled(_) => Vec::new(),
    };
    let endpoints: Vec<Value> = endpoints
        .into_iter()
        .map(|address| json!({ "endpoint": { "address": address } }))
        .collect();
    let mut cluster = json!({
        "name": name,
        "connect_timeout": "1s",
        "type": if matches!(target, Target::Name(_)) { "STRICT_DNS" } else { "STATIC" },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": endpoints }],
        },
    });
    if !keep {
        set(
            &mut cluster,
            "typed_extension_protocol_options",
            json!({
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                    "common_http_protocol_options": { "max_requests_per_connection": 1 },
                    "explicit_http_config": { "http_protocol_options": {} },
                },
            }),
        );
    }
    match target {
        Target::Tls(Tls { trusted, .. }) => set(
            &mut cluster,
            "transport_socket",
            json!({
                "name": "tls",
                "typed_config": {
                    "@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"),
                    "common_tls_context": { "validation_context": {
                        "trusted_ca": { "filename": trusted },
                    }},
                },
            }),
        ),
        Target::Name(Name { resolver, .. }) => {
            set(&mut cluster, "dns_lookup_family", json!("V4_ONLY"));
            set(&mut cluster, "dns_refresh_rate", json!("0.5s"));
            set(
                &mut cluster,
                "dns_failure_refresh_rate",
                json!({
                    "base_interval": "0.3s", "max_interval": "0.5s",
                }),
            );
            set(
                &mut cluster,
                "typed_dns_resolver_config",
                json!({
                    "name": "envoy.network.dns_resolver.cares",
                    "typed_config": {
                        "@type": format!("{TYPES}.network.dns_resolver.cares.v3.CaresDnsResolverConfig"),
                        "resolvers": [socket(*resolver)],
                        "dns_resolver_options": { "no_default_search_domain": true },
                        "query_timeout_seconds": 1,
                        "query_tries": 1,
                    },
                }),
            );
        }
        Target::Judged(Judged { check_every, .. }) => {
            checked(&mut cluster, *check_every, "tcp_health_check", json!({}));
        }
        Target::Checked(Checked { path, every, .. }) => {
            let how = json!({ "path": path });
            checked(&mut cluster, *every, "http_health_check", how);
        }
        Target::Limited(_) => set(
            &mut cluster,
            "circuit_breakers",
            json!({ "thresholds": [
                { "max_connections": 1, "max_pending_requests": 1, "max_requests": 1 }
            ]}),
        ),
        Target::Servers(_) | Target::Unix(_) | Target::Disabled(_) | Target::Static => {}
    }
    Some(cluster)
}

/// Servers that fail a check get nothing, even if that leaves none.
fn checked(cluster: &mut Value, every: Duration, kind: &str, how: Value) {
    let every = format!("{}s", every.as_secs_f64());
    let mut check = json!({
        "timeout": "0.3s", "interval": every, "no_traffic_interval": every,
        "unhealthy_threshold": 1, "healthy_threshold": 1,
    });
    set(&mut check, kind, how);
    set(cluster, "health_checks", json!([check]));
    set(
        cluster,
        "common_lb_config",
        json!({ "healthy_panic_threshold": {} }),
    );
}

/// `object` with these fields too.
fn with(mut object: Value, fields: Option<&Value>) -> Value {
    for (key, value) in fields.and_then(Value::as_object).into_iter().flatten() {
        set(&mut object, key, value.clone());
    }
    object
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Value::Object(fields) = object {
        fields.insert(key.to_owned(), value);
    }
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": {
        "address": address.ip(), "port_value": address.port(),
    }})
}

pub(super) fn said(launched: &Launched) -> BTreeMap<String, Said> {
    let mut said = BTreeMap::new();
    for line in launched.text("access.log").lines() {
        let mut fields = line.split('\t');
        let mut next = || fields.next().unwrap_or("");
        let (path, status, flags, details) = (next(), next(), next(), next());
        note(
            &mut said,
            path,
            status.parse().ok(),
            &format!("{flags} {details}"),
        );
    }
    said
}
