//! Varnish: nothing is cached, each group has its backends, `varnishncsa` writes its log.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use super::group::{Checked, Group, Judged, Target};
use super::launch::{Launch, Launched};
use super::{Said, note};
use crate::wait::eventually;

/// The file that `varnishncsa` writes.
const LOG: &str = "varnishncsa.log";

/// varnishd compiles its configuration with a C compiler before there is a log.
const ATTACH: Duration = Duration::from_secs(30);

/// The timers of a backend.
const TIMERS: &str =
    ".connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s;";

pub(super) fn lacks(group: &Group) -> Option<&'static str> {
    match group.target {
        Target::Tls(_) => Some("does not speak TLS to backends"),
        Target::Name(_) => Some("looks names up when it loads its configuration"),
        Target::Disabled(_) => Some("has no switch for it in its configuration"),
        _ => None,
    }
}

pub(super) fn launch(launch: Launch, groups: &[&Group]) -> Launched {
    launch.write("judge.vcl", &vcl(groups));
    let folder = launch.folder().to_owned();
    let work = folder.join("varnish");
    let address = launch.address.to_string();
    let varnishd = launch.start("varnishd", |command| {
        command.args(["-F", "-j", "none", "-a", &address, "-f"]);
        command.arg(folder.join("judge.vcl")).arg("-n").arg(&work);
        command.args([
            "-s",
            "malloc,32m",
            "-p",
            "thread_pools=1",
            "-p",
            "thread_pool_min=20",
            // Servers are tried whatever happened before.
            "-p",
            "backend_remote_error_holddown=0",
            "-p",
            "backend_local_error_holddown=0",
        ]);
    });
    // It waits for varnishd. One line a transaction: of a request to a backend too.
    let format = "%{Varnish:side}x\t%U\t%s\t%{VSL:FetchError}x";
    let log = launch.start_into("varnishncsa", LOG, |command| {
        command.arg("-n").arg(&work);
        command.args(["-t", "30", "-b", "-c", "-F", format]);
    });
    // What is logged before it has mapped the log is lost to it.
    let maps = format!("/proc/{}/maps", log.pid());
    eventually(
        ATTACH,
        "varnishncsa reads the log",
        || match fs::read_to_string(&maps) {
            Ok(maps) if maps.contains("/_.vsm_child/") => Ok(()),
            Ok(_) => Err("it has not mapped it".to_owned()),
            Err(error) => Err(format!("it has ended: {error}")),
        },
    );
    launch.done(vec![varnishd, log])
}

fn vcl(groups: &[&Group]) -> String {
    let mut backends = String::new();
    let mut init = String::new();
    let mut receive = String::new();
    let mut fetch = String::new();
    let mut failed = String::new();
    for group in groups {
        let Group {
            name,
            target,
            keep,
            retry,
            rewritten,
        } = group;
        let mut names = Vec::new();
        let mut backend = |place: String, more: &str| {
            let id = format!("{name}_{}", names.len());
            // Writing to a String cannot fail.
            let _written = writeln!(backends, "backend {id} {{ {place} {TIMERS} {more} }}");
            names.push(id);
        };
        match target {
            Target::Servers(servers) => servers.iter().for_each(|at| backend(place(*at), "")),
            Target::Unix(path) => backend(format!(".path = \"{}\";", path.display()), ""),
            Target::Judged(Judged {
                servers,
                check_every,
            }) => {
                let probe = probe("/probe/ok", *check_every, 0);
                servers.iter().for_each(|at| backend(place(*at), &probe));
            }
            Target::Checked(Checked {
                servers,
                path,
                every,
            }) => {
                let probe = probe(path, *every, 1);
                servers.iter().for_each(|at| backend(place(*at), &probe));
            }
            Target::Limited(server) => backend(place(*server), ".max_connections = 1;"),
            Target::Static | Target::Tls(_) | Target::Name(_) | Target::Disabled(_) => {}
        }
        let matches = format!("req.url ~ \"^/{name}/\"");
        match names.as_slice() {
            [] => {
                let _written = writeln!(receive, "  if ({matches}) {{ return (synth(503)); }}");
            }
            [one] => {
                let _written = writeln!(
                    receive,
                    "  if ({matches}) {{ set req.backend_hint = {one}; }}"
                );
            }
            several => {
                let _written = writeln!(init, "  new {name} = directors.round_robin();");
                for one in several {
                    let _written = writeln!(init, "  {name}.add_backend({one});");
                }
                let _written = writeln!(
                    receive,
                    "  if ({matches}) {{ set req.backend_hint = {name}.backend(); }}"
                );
            }
        }
        if !keep {
            let _written = writeln!(
                fetch,
                "  if (be{matches}) {{ set bereq.http.Connection = \"close\"; }}"
            );
        }
        // What is rewritten for the first attempt stays so for the next.
        let mut be_matches = format!("be{matches}");
        if *rewritten {
            let host = group.host();
            let _written = writeln!(
                fetch,
                "  if ({be_matches}) {{ set bereq.url = regsub(bereq.url, \"^/{name}/\", \"/\"); \
                 set bereq.http.host = \"{host}\"; }}"
            );
            be_matches = format!("bereq.http.host == \"{host}\"");
        }
        if *retry {
            let _written = writeln!(
                failed,
                "  if ({be_matches} && bereq.retries == 0) {{ return (retry); }}"
            );
        }
    }
    format!(
        "vcl 4.1;\nimport directors;\nbackend default none;\n{backends}\
         sub vcl_init {{\n{init}  return (ok);\n}}\n\
         sub vcl_recv {{\n{receive}  return (pass);\n}}\n\
         sub vcl_backend_fetch {{\n{fetch}  return (fetch);\n}}\n\
         sub vcl_backend_error {{\n{failed}  return (deliver);\n}}\n"
    )
}

/// The latest check decides; `initial` of 1 is a server that is healthy first.
fn probe(path: &str, every: Duration, initial: u8) -> String {
    let every = every.as_secs_f64();
    format!(
        ".probe = {{ .url = \"{path}\"; .interval = {every}s; .timeout = 300ms; .window = 1; \
         .threshold = 1; .initial = {initial}; }}"
    )
}

fn place(server: SocketAddr) -> String {
    format!(
        ".host = \"{}\"; .port = \"{}\";",
        server.ip(),
        server.port()
    )
}

pub(super) fn said(launched: &Launched) -> BTreeMap<String, Said> {
    let mut said = BTreeMap::new();
    for line in launched.text(LOG).lines() {
        let mut fields = line.split('\t');
        let mut next = || fields.next().unwrap_or("");
        let (side, path, status, error) = (next(), next(), next(), next());
        let status = status.parse().ok().filter(|_| side == "c");
        let words = if error == "-" { "" } else { error };
        note(&mut said, path, status, words);
    }
    said
}
