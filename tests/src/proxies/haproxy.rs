//! HAProxy: a backend for each group, its log on its standard output.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::group::{Checked, Group, Judged, Name, Target, Tls};
use super::launch::{Launch, Launched};
use super::{Said, note};

/// Begins a line of its log, among what else it prints.
const MARK: &str = "judge";

pub(super) fn lacks(_: &Group) -> Option<&'static str> {
    None
}

pub(super) fn launch(launch: Launch, groups: &[&Group]) -> Launched {
    let address = launch.address;
    let mut front = format!(
        "global
    log stdout format raw local0
    nbthread 1
    maxconn 1000
defaults
    mode http
    log global
    timeout connect 1s
    timeout server 1s
    timeout client 5s
    timeout queue 300ms
    retries 0
frontend front
    bind {address}
    log-format \"{MARK}\\t%HPO\\t%ST\\t%tsc\\t%b/%s\\t%B\"
"
    );
    let mut resolvers = String::new();
    let mut backends = String::new();
    for group in groups {
        let Group {
            name,
            target,
            keep,
            retry,
            rewritten,
        } = group;
        // Writing to a String cannot fail.
        let _written = writeln!(front, "    use_backend {name} if {{ path_beg /{name}/ }}");
        let reuse = if *keep {
            "http-reuse safe"
        } else {
            "option http-server-close\n    http-reuse never"
        };
        let _written = writeln!(backends, "backend {name}\n    {reuse}");
        if *rewritten {
            let _written = writeln!(
                backends,
                "    http-request set-path %[path,regsub(^/{name}/,/)]\n    \
                 http-request set-header Host {}",
                group.host()
            );
        }
        if *retry {
            backends.push_str(
                "    retries 1\n    option redispatch 1\n    \
                 retry-on conn-failure empty-response junk-response response-timeout\n",
            );
        }
        let mut server = |text: &str| {
            let number = backends.lines().count();
            let _written = writeln!(backends, "    server s{number} {text}");
        };
        match target {
            Target::Servers(servers) => servers
                .iter()
                .for_each(|address| server(&address.to_string())),
            Target::Unix(path) => server(&format!("unix@{}", path.display())),
            Target::Tls(Tls {
                server: address,
                trusted,
            }) => server(&format!(
                "{address} ssl verify required ca-file {}",
                trusted.display()
            )),
            Target::Name(Name {
                host,
                port,
                resolver,
            }) => {
                server(&format!(
                    "{host}:{port} resolvers of_{name} resolve-prefer ipv4 init-addr none"
                ));
                let _written = writeln!(
                    resolvers,
                    "resolvers of_{name}\n    nameserver n {resolver}\n    resolve_retries 1\n    \
                     timeout resolve 500ms\n    timeout retry 300ms"
                );
            }
            Target::Judged(Judged {
                servers,
                check_every,
            }) => servers.iter().for_each(|address| {
                let every = check_every.as_millis();
                server(&format!(
                    "{address} check inter 200ms fall 1 downinter {every}ms"
                ));
            }),
            Target::Checked(Checked {
                servers,
                path,
                every,
            }) => {
                let every = every.as_millis();
                servers.iter().for_each(|address| {
                    server(&format!("{address} check inter {every}ms fall 1 rise 1"));
                });
                let _written = writeln!(backends, "    option httpchk GET {path}");
            }
            Target::Disabled(address) => server(&format!("{address} disabled")),
            Target::Static => backends.push_str("    http-request return status 503\n"),
            Target::Limited(address) => server(&format!("{address} maxconn 1")),
        }
    }
    launch.write("haproxy.cfg", &format!("{front}{resolvers}{backends}"));
    let haproxy = launch.start("haproxy", |command| {
        command.args(["-db", "-f", "haproxy.cfg"]);
    });
    launch.done(vec![haproxy])
}

pub(super) fn said(launched: &Launched) -> BTreeMap<String, Said> {
    let mut said = BTreeMap::new();
    for line in launched.text("output").lines() {
        let mut fields = line.split('\t');
        if fields.next() != Some(MARK) {
            continue;
        }
        let mut next = || fields.next().unwrap_or("");
        let (path, status, state, server) = (next(), next(), next(), next());
        let server = if server.ends_with("<NOSRV>") {
            " <NOSRV>"
        } else {
            ""
        };
        note(
            &mut said,
            path,
            status.parse().ok(),
            &format!("{state}{server}"),
        );
    }
    said
}
