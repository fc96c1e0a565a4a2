//! Traefik: a router, a service and a transport for each group, from the file provider.
//!
//! Both files are written as JSON, which is YAML to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::group::{Checked, Group, Judged, Target, Tls};
use super::launch::{Launch, Launched, START, Unpacked};
use super::{Said, note};
use crate::http;
use crate::wait::eventually;

/// `WHY502_TRAEFIK`, else where `cargo xtask setup` unpacks it, else what is on `PATH`.
const PROGRAM: Unpacked = Unpacked {
    variable: "WHY502_TRAEFIK",
    unpacked: "traefik/bin/traefik",
    on_path: Some("traefik"),
};

/// A path that is answered once the groups are.
const READY: &str = "/ready";

/// Nobody has this address (TEST-NET-1).
const NOBODY: &str = "192.0.2.1/32";

pub(super) fn lacks(group: &Group) -> Option<&'static str> {
    match group.target {
        Target::Unix(_) => Some("has no upstreams at Unix sockets"),
        Target::Name(_) => Some("asks the resolvers of the system only"),
        Target::Limited(_) => Some("answers 429 to what is over its limit"),
        _ => None,
    }
}

pub(super) fn launch(launch: Launch, groups: &[&Group]) -> Launched {
    let fixed = json!({
        "global": { "checkNewVersion": false, "sendAnonymousUsage": false },
        "entryPoints": { "front": {
            "address": launch.address.to_string(),
            "transport": { "lifeCycle": { "graceTimeOut": "1s" } },
        }},
        "providers": {
            "file": { "filename": launch.file("groups.yml"), "watch": false },
            "providersThrottleDuration": "50ms",
        },
        // Its words about a failed attempt are at this level only.
        "log": { "level": "DEBUG", "format": "json" },
        "accessLog": { "format": "json" },
    });
    launch.write("traefik.yml", &fixed.to_string());
    let ready = json!({ "rule": format!("Path(`{READY}`)"), "service": "noop@internal" });
    let mut routers = Map::from_iter([("ready".to_owned(), ready)]);
    let mut services = Map::new();
    let mut transports = Map::new();
    let mut middlewares = Map::new();
    for group in groups {
        let name = group.name;
        let own = middlewares_of(group);
        routers.insert(
            name.to_owned(),
            json!({
                "rule": format!("PathPrefix(`/{name}/`)"),
                "service": name,
                "middlewares": own.keys().collect::<Vec<_>>(),
            }),
        );
        services.insert(name.to_owned(), service(group));
        transports.insert(name.to_owned(), transport(group));
        middlewares.extend(own);
    }
    let mut http = json!({
        "routers": routers, "services": services, "serversTransports": transports,
    });
    // It refuses an empty object here.
    if !middlewares.is_empty()
        && let Some(http) = http.as_object_mut()
    {
        http.insert("middlewares".to_owned(), middlewares.into());
    }
    launch.write("groups.yml", &json!({ "http": http }).to_string());
    let traefik = launch.start(&PROGRAM.path(), |command| {
        command.arg("--configFile=traefik.yml");
    });
    wait_until_it_routes(launch.address);
    launch.done(vec![traefik])
}

/// It listens before it has read the groups, and answers 404 until then.
#[track_caller]
fn wait_until_it_routes(address: SocketAddr) {
    eventually(START, "Traefik routes", || {
        match http::get(address, READY, "*/*").map(|answer| answer.status) {
            Ok(404) => Err("no routes yet".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    });
}

fn service(group: &Group) -> Value {
    let scheme = match group.target {
        Target::Tls(_) => "https",
        _ => "http",
    };
    let servers = match &group.target {
        Target::Servers(servers)
        | Target::Judged(Judged { servers, .. })
        | Target::Checked(Checked { servers, .. }) => servers.clone(),
        Target::Tls(Tls { server, .. }) => vec![*server],
        // It has no switch for a server: a service without servers is how it looks to requests.
        Target::Disabled(_)
        | Target::Static
        | Target::Unix(_)
        | Target::Name(_)
        | Target::Limited(_) => Vec::new(),
    };
    let servers: Vec<Value> = servers
        .iter()
        .map(|server| json!({ "url": format!("{scheme}://{server}") }))
        .collect();
    let mut balancer = json!({
        "servers": servers,
        "serversTransport": group.name,
        "passHostHeader": true,
    });
    let check = match &group.target {
        Target::Judged(Judged { check_every, .. }) => Some(("/health", check_every)),
        Target::Checked(Checked { path, every, .. }) => Some((*path, every)),
        _ => None,
    };
    if let (Some((path, every)), Some(balancer)) = (check, balancer.as_object_mut()) {
        let every = format!("{}ms", every.as_millis());
        balancer.insert(
            "healthCheck".to_owned(),
            json!({
                "path": path, "interval": every, "unhealthyInterval": every,
                "timeout": "300ms",
            }),
        );
        if matches!(group.target, Target::Judged(_)) {
            balancer.insert(
                "passiveHealthCheck".to_owned(),
                json!({ "failureWindow": "30s", "maxFailedAttempts": 1 }),
            );
        }
    }
    json!({ "loadBalancer": balancer })
}

fn transport(group: &Group) -> Value {
    let mut transport = json!({
        "forwardingTimeouts": { "dialTimeout": "1s", "responseHeaderTimeout": "1s" },
    });
    let Some(fields) = transport.as_object_mut() else {
        return transport;
    };
    if !group.keep {
        fields.insert("maxIdleConnsPerHost".to_owned(), json!(-1));
    }
    if let Target::Tls(Tls { trusted, .. }) = &group.target {
        fields.insert("rootCAs".to_owned(), json!([trusted]));
    }
    transport
}

/// By name, in the order in which a request passes them.
fn middlewares_of(group: &Group) -> Map<String, Value> {
    let Group {
        name,
        target,
        keep: _,
        retry,
        rewritten,
    } = group;
    let mut own = Map::new();
    if matches!(target, Target::Static) {
        // It has no answer of its own but this one's, of which the status can be chosen.
        own.insert(
            format!("{name}-1-closed"),
            json!({ "ipAllowList": { "sourceRange": [NOBODY], "rejectStatusCode": 503 } }),
        );
    }
    if *rewritten {
        own.insert(
            format!("{name}-2-strip"),
            json!({ "stripPrefix": { "prefixes": [format!("/{name}")] } }),
        );
        own.insert(
            format!("{name}-3-host"),
            json!({ "headers": { "customRequestHeaders": { "Host": group.host() } } }),
        );
    }
    if *retry {
        own.insert(
            format!("{name}-4-retry"),
            json!({ "retry": { "attempts": 3, "initialInterval": "1ms" } }),
        );
    }
    own
}

/// The access log and the log share a stream: what it says of a failed attempt has no path, and
/// comes before the line of its request.
pub(super) fn said(launched: &Launched) -> BTreeMap<String, Said> {
    let mut said = BTreeMap::new();
    let mut errors: Vec<(String, String)> = Vec::new();
    for line in launched.text("output").lines() {
        let Ok(entry) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let text = |name: &str| entry.get(name).and_then(Value::as_str);
        let Some(path) = text("RequestPath") else {
            let message = text("message").unwrap_or_default();
            match text("error") {
                Some(error) => errors.push((message.to_owned(), error.to_owned())),
                None if message.contains("ReverseProxy") => {
                    errors.push((String::new(), message.to_owned()));
                }
                None => {}
            }
            continue;
        };
        let status = entry.get("DownstreamStatus").and_then(Value::as_u64);
        let status = status.and_then(|status| u16::try_from(status).ok());
        let code = status.map_or_else(String::new, |status| status.to_string());
        // Requests at the same time: the message begins with the status of its own.
        let is_own = |message: &str| {
            !message.starts_with(|first: char| first.is_ascii_digit()) || message.starts_with(&code)
        };
        let (own, others) = errors.into_iter().partition(|(message, _)| is_own(message));
        errors = others;
        let own: Vec<(String, String)> = own;
        let words: Vec<String> = own
            .into_iter()
            .map(|(message, error)| format!("{message}: {error}"))
            .collect();
        note(&mut said, path, status, &words.join("; "));
    }
    said
}
