//! The same upstreams behind HAProxy, Apache httpd and Caddy, as far as each speaks to them.

use std::fs;
use std::net::SocketAddr;

use e2e::ports;
use e2e::process::{Running, command};
use e2e::wait::eventually;

use crate::Kind;
use crate::stage::{LOCALHOST, Stage};
use crate::{FAULTS, TELL};

/// Debian's modules of Apache httpd.
const MODULES: &str = "/usr/lib/apache2/modules";

/// A proxy of its own, and its kinds of upstream.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) front: SocketAddr,
    pub(crate) kinds: Vec<Kind>,
    _running: Running,
}

/// Kinds of upstream with their servers: what speaks, where it listens, and where nobody does.
struct Upstream {
    name: &'static str,
    server: String,
    nobody: String,
}

fn upstreams(stage: &mut Stage, names: &[&'static str]) -> Vec<Upstream> {
    let each = names.iter().map(|name| {
        let (protocol, family) = name.split_once('-').expect("a protocol and a family");
        let unix = family == "unix";
        Upstream {
            name,
            server: stage.server(protocol, unix),
            nobody: stage.nobody(unix),
        }
    });
    each.collect()
}

fn kinds(upstreams: &[Upstream]) -> Vec<Kind> {
    let kind = |one: &Upstream| Kind {
        name: one.name,
        upstreams: FAULTS
            .map(|(fault, _)| {
                let refused = fault == "refused";
                let upstream = if refused { &one.nobody } else { &one.server };
                (fault, upstream.clone())
            })
            .into(),
    };
    upstreams.iter().map(kind).collect()
}

/// Starts it, and waits until it listens.
fn started(
    name: &'static str,
    front: SocketAddr,
    upstreams: &[Upstream],
    program: &mut std::process::Command,
) -> Proxy {
    let running = Running::start(name, program);
    eventually(TELL, "a proxy listens", || {
        std::net::TcpStream::connect(front).map_err(|error| format!("{name}: {error}"))
    });
    Proxy {
        name,
        front,
        kinds: kinds(upstreams),
        _running: running,
    }
}

pub(crate) fn haproxy(stage: &mut Stage) -> Proxy {
    let front = ports::free(LOCALHOST);
    let names = ["fastcgi-tcp", "fastcgi-unix", "http-unix", "https-tcp"];
    let upstreams = upstreams(stage, &names);
    let mut text = format!(
        "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 1s\n  timeout server 1500ms\n\
         \x20 timeout client 5s\n  retries 0\nfcgi-app app\n  docroot /\nfrontend front\n  bind {front}\n"
    );
    let mut backends = String::new();
    for Upstream {
        name,
        server,
        nobody,
    } in &upstreams
    {
        for (which, to) in [("", server), ("-nobody", nobody)] {
            let order = if which.is_empty() {
                ""
            } else {
                "order-refused"
            };
            text.insert_str(
                text.len(),
                &format!("  use_backend {name}{which} if {{ path_beg /{name}/{order} }}\n"),
            );
            let (fcgi, words) = match name.split_once('-').map(|(first, _)| first) {
                Some("fastcgi") => ("  use-fcgi-app app\n", "proto fcgi"),
                Some("https") => ("", "ssl verify none"),
                _ => ("", ""),
            };
            backends.push_str(&format!(
                "backend {name}{which}\n{fcgi}  server one {to} {words}\n"
            ));
        }
    }
    // The first rule that fits decides: those for nobody come first.
    let (head, rules) = text.split_at(text.find("  use_backend").unwrap_or(text.len()));
    let mut rules: Vec<&str> = rules.lines().collect();
    rules.sort_by_key(|rule| !rule.contains("order-refused"));
    let file = stage.file("haproxy.cfg");
    fs::write(&file, format!("{head}{}\n{backends}", rules.join("\n"))).expect("it is written");
    let mut program = command("haproxy", None);
    program.arg("-db").arg("-f").arg(file);
    started("haproxy", front, &upstreams, &mut program)
}

pub(crate) fn apache(stage: &mut Stage) -> Proxy {
    let front = ports::free(LOCALHOST);
    let upstreams = upstreams(stage, &["fastcgi-tcp", "fastcgi-unix", "http-unix"]);
    let folder = stage.file("apache");
    fs::create_dir(&folder).expect("a folder is made");
    let shown = folder.display();
    let mut text = String::new();
    for module in [
        "mpm_event",
        "authz_core",
        "proxy",
        "proxy_http",
        "proxy_fcgi",
    ] {
        text.push_str(&format!(
            "LoadModule {module}_module {MODULES}/mod_{module}.so\n"
        ));
    }
    text.push_str(&format!(
        "ServerRoot {shown}\nDefaultRuntimeDir {shown}\nListen {front}\nServerName judge\n\
         PidFile apache.pid\nStartServers 1\nServerLimit 1\nThreadsPerChild 25\n\
         MaxRequestWorkers 25\nErrorLog error.log\nProxyTimeout 2\n"
    ));
    for Upstream {
        name,
        server,
        nobody,
    } in &upstreams
    {
        let scheme = if name.starts_with("fastcgi") {
            "fcgi"
        } else {
            "http"
        };
        for (path, to) in [
            (format!("/{name}/order-refused.x"), nobody),
            (format!("/{name}/"), server),
        ] {
            let target = match to.strip_prefix('/') {
                Some(_) => format!("unix:{to}|{scheme}://localhost{path}"),
                None => format!("{scheme}://{to}{path}"),
            };
            text.push_str(&format!("ProxyPass {path} {target} flushpackets=on\n"));
        }
    }
    let file = stage.file("apache.conf");
    fs::write(&file, text).expect("its configuration is written");
    let mut program = command("apache2", None);
    program.args(["-D", "FOREGROUND", "-f"]).arg(file);
    started("httpd", front, &upstreams, &mut program)
}

pub(crate) fn caddy(stage: &mut Stage) -> Proxy {
    let front = ports::free(LOCALHOST);
    let names = ["fastcgi-tcp", "fastcgi-unix", "http-unix", "https-tcp"];
    let upstreams = upstreams(stage, &names);
    let mut text = format!(
        "{{\n admin off\n auto_https off\n}}\nhttp://:{} {{\n bind {}\n",
        front.port(),
        front.ip()
    );
    for Upstream {
        name,
        server,
        nobody,
    } in &upstreams
    {
        for (path, to) in [
            (format!("/{name}/order-refused.x"), nobody),
            (format!("/{name}/*"), server),
        ] {
            let transport = match name.split_once('-').map(|(first, _)| first) {
                Some("fastcgi") => "fastcgi {\n root /\n read_timeout 1500ms\n }",
                Some("https") => {
                    "http {\n tls_insecure_skip_verify\n response_header_timeout 1500ms\n }"
                }
                _ => "http {\n response_header_timeout 1500ms\n }",
            };
            let to = match to.strip_prefix('/') {
                Some(_) => format!("unix/{to}"),
                None => to.clone(),
            };
            text.push_str(&format!(
                " handle {path} {{\n reverse_proxy {to} {{\n flush_interval -1\n transport {transport}\n }}\n }}\n"
            ));
        }
    }
    text.push_str("}\n");
    let file = stage.file("Caddyfile");
    fs::write(&file, text).expect("its configuration is written");
    let home = stage.file("caddy");
    let mut program = command("caddy", None);
    program
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(file)
        .env("XDG_CONFIG_HOME", &home)
        .env("XDG_DATA_HOME", &home)
        .stderr(std::process::Stdio::null());
    started("caddy", front, &upstreams, &mut program)
}
