//! Caddy: a `handle` with a `reverse_proxy` for each group, logs as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::group::{Checked, Group, Judged, Name, Target, Tls};
use super::launch::{Launch, Launched, Release, Unpacked};
use super::{Said, note};

/// `WHY502_CADDY_CURRENT`, else where `cargo xtask setup` unpacks it.
const CURRENT: Unpacked = Unpacked {
    variable: "WHY502_CADDY_CURRENT",
    unpacked: "caddy-current/bin/caddy",
    on_path: None,
};

pub(super) fn lacks(group: &Group) -> Option<&'static str> {
    match group.target {
        Target::Disabled(_) => Some("has no switch to take a server out"),
        Target::Limited(_) => Some("turns away by its limit of failures only"),
        _ => None,
    }
}

pub(super) fn launch(launch: Launch, groups: &[&Group], release: Release) -> Launched {
    let program = match release {
        Release::Debian => "caddy".to_owned(),
        Release::Current => CURRENT.path(),
    };
    let mut text = "{
    admin off
    auto_https off
    grace_period 1s
    log default {
        output file errors.json
        format json
    }
}
"
    .to_owned();
    // Writing to a String cannot fail.
    let _written = writeln!(
        text,
        "http://:{} {{\n    bind {}\n    log {{\n        output file access.json\n        \
         format json\n    }}",
        launch.address.port(),
        launch.address.ip()
    );
    for group in groups {
        let _written = writeln!(
            text,
            "    {} /{}/* {{\n{}    }}",
            if group.rewritten {
                "handle_path"
            } else {
                "handle"
            },
            group.name,
            handler(group)
        );
    }
    text.push_str("}\n");
    launch.write("Caddyfile", &text);
    let folder = launch.folder().to_owned();
    let caddy = launch.start(&program, |command| {
        command
            .args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"])
            .env("XDG_CONFIG_HOME", &folder)
            .env("XDG_DATA_HOME", &folder);
    });
    launch.done(vec![caddy])
}

fn handler(group: &Group) -> String {
    let Group {
        name: _,
        target,
        keep,
        retry,
        rewritten,
    } = group;
    // The clock of `read_timeout` also runs on an idle connection: it has to be longer than
    // that for a head, or it ends kept connections in the middle of the wait.
    let mut transport = "dial_timeout 1s
                response_header_timeout 1s
                read_timeout 1500ms
                write_timeout 1s
"
    .to_owned();
    if !keep {
        transport.push_str("                keepalive off\n");
    }
    let mut options = String::new();
    let upstreams: Vec<String> = match target {
        Target::Static => return "        respond 503\n".to_owned(),
        Target::Servers(servers) => servers.iter().map(ToString::to_string).collect(),
        Target::Unix(path) => vec![format!("unix/{}", path.display())],
        Target::Tls(Tls { server, trusted }) => {
            let trusted = trusted.display();
            let _written = writeln!(
                transport,
                "                tls\n                tls_trusted_ca_certs {trusted}"
            );
            vec![server.to_string()]
        }
        Target::Name(Name {
            host,
            port,
            resolver,
        }) => {
            let _written = writeln!(transport, "                resolvers udp/{resolver}");
            vec![format!("{host}:{port}")]
        }
        Target::Judged(Judged { servers, .. }) => {
            options.push_str("            fail_duration 30s\n            max_fails 1\n");
            servers.iter().map(ToString::to_string).collect()
        }
        Target::Checked(Checked {
            servers,
            path,
            every,
        }) => {
            let every = every.as_millis();
            let _written = writeln!(
                options,
                "            health_uri {path}\n            health_interval {every}ms\n            \
                 health_timeout 300ms"
            );
            servers.iter().map(ToString::to_string).collect()
        }
        Target::Disabled(_) | Target::Limited(_) => Vec::new(),
    };
    if *rewritten {
        let _written = writeln!(options, "            header_up Host {}", group.host());
    }
    if *retry {
        options.push_str(
            "            lb_policy round_robin\n            lb_retries 2\n            \
             lb_try_interval 1ms\n",
        );
    }
    format!(
        "        reverse_proxy {} {{\n{options}            transport http {{\n\
         {transport}            }}\n        }}\n",
        upstreams.join(" ")
    )
}

/// A line of the error log that names no request (2.6, of an answer that was cut) is of the answered one that
/// ended next: what Caddy answers itself has lines that name it.
pub(super) fn said(launched: &Launched) -> BTreeMap<String, Said> {
    let mut said = BTreeMap::new();
    let lines = |file| {
        let text = launched.text(file);
        let entries = text.lines().map(serde_json::from_str::<Value>);
        entries.filter_map(Result::ok).collect::<Vec<Value>>()
    };
    let text = |entry: &Value, field: &str| {
        let text = entry.pointer(field).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let at = |entry: &Value| entry.pointer("/ts").and_then(Value::as_f64);
    let mut ended = Vec::new();
    for entry in lines("access.json") {
        let path = text(&entry, "/request/uri");
        let status = entry.pointer("/status").and_then(Value::as_u64);
        let status = status.and_then(|status| u16::try_from(status).ok());
        note(&mut said, &path, status, "");
        if status.is_some_and(|status| status < 500) {
            ended.extend(at(&entry).map(|at| (at, path)));
        }
    }
    for entry in lines("errors.json") {
        let mut path = text(&entry, "/request/uri");
        if path.is_empty() {
            let later = ended.iter().filter(|(end, _)| Some(*end) >= at(&entry));
            let next = later.min_by(|one, other| one.0.total_cmp(&other.0));
            let Some((_, of)) = next else {
                continue;
            };
            path.clone_from(of);
        }
        let (words, error) = (text(&entry, "/msg"), text(&entry, "/error"));
        let words = [words, error].into_iter().filter(|text| !text.is_empty());
        note(
            &mut said,
            &path,
            None,
            &words.collect::<Vec<_>>().join(": "),
        );
    }
    said
}
