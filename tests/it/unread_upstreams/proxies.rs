//! nginx, HAProxy, Apache httpd and Caddy before these upstreams, as far as each speaks to them.

use std::fs;
use std::net::SocketAddr;

use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::process::{Running, command};
use e2e::wait::eventually;

use crate::TELL;
use crate::kinds::{self, Kind, NONE_LIVE, Route};
use crate::stage::{LOCALHOST, Stage};

/// Debian's modules of Apache httpd.
const MODULES: &str = "/usr/lib/apache2/modules";

/// How long a proxy waits for an answer, ms.
const PATIENCE_MS: u32 = 1500;

/// A proxy of its own, and its kinds of upstream.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) front: SocketAddr,
    pub(crate) kinds: Vec<Kind>,
    _running: Program,
}

impl Proxy {
    /// It gives up only servers that fail their checks: those of [`NONE_LIVE`] have some.
    pub(crate) fn checks_servers(&self) -> bool {
        self.name == "haproxy"
    }
}

/// It ends with the value.
#[expect(dead_code, reason = "kept alive")]
enum Program {
    Nginx(Nginx),
    Other(Running),
}

/// Starts it, and waits until it listens.
fn started(
    name: &'static str,
    front: SocketAddr,
    kinds: Vec<Kind>,
    program: &mut std::process::Command,
) -> Proxy {
    let mut running = Running::start(name, program);
    eventually(TELL, "a proxy listens", || {
        if let Some(status) = running.ended() {
            panic!("{name} ended at its start: {status}");
        }
        std::net::TcpStream::connect(front).map_err(|error| format!("{name}: {error}"))
    });
    Proxy {
        name,
        front,
        kinds,
        _running: Program::Other(running),
    }
}

/// What nginx and Apache httpd can speak.
const ALL: [&str; 11] = [
    "fastcgi-tcp",
    "fastcgi-unix",
    "php-fpm-tcp",
    "php-fpm-unix",
    "uwsgi-tcp",
    "uwsgi-unix",
    "uwsgi-real-tcp",
    "uwsgi-real-unix",
    "http-unix",
    "https-tcp",
    "grpc-tcp",
];

/// Each fault of each kind.
fn routes(kinds: &[Kind]) -> impl Iterator<Item = (&Kind, &Route)> {
    kinds
        .iter()
        .flat_map(|kind| kind.routes.iter().map(move |route| (kind, route)))
}

pub(crate) fn nginx(stage: &mut Stage) -> Proxy {
    let front = ports::free(LOCALHOST);
    let kinds = kinds::start(stage, &ALL);
    let (mut groups, mut locations) = (String::new(), String::new());
    for (kind, route) in routes(&kinds) {
        let group = kind.group(route);
        groups.push_str(&format!("upstream {group} {{"));
        for server in &route.servers {
            let unix = if server.starts_with('/') { "unix:" } else { "" };
            groups.push_str(&format!(" server {unix}{server};"));
        }
        groups.push_str(" }\n");
        let wait = |module: &str| format!("{module}_read_timeout {PATIENCE_MS}ms;");
        let whole = |module: &str| format!("{} {module}_buffering off;", wait(module));
        let pass = match (kind.protocol, &kind.script) {
            ("fastcgi", script) => {
                let script = script.as_deref().map_or(String::new(), |script| {
                    format!(
                        "fastcgi_param SCRIPT_FILENAME {script}; fastcgi_param REQUEST_METHOD GET;"
                    )
                });
                format!(
                    "fastcgi_pass {group}; fastcgi_param REQUEST_URI $uri; {script} {}",
                    whole("fastcgi")
                )
            }
            ("uwsgi", _) => format!(
                "uwsgi_pass {group}; uwsgi_param PATH_INFO $uri; uwsgi_param REQUEST_METHOD GET; {}",
                whole("uwsgi")
            ),
            ("https", _) => format!(
                "proxy_pass https://{group}; proxy_ssl_session_reuse off; {}",
                whole("proxy")
            ),
            ("grpc", _) => format!("grpc_pass grpc://{group}; {}", wait("grpc")),
            (protocol, _) => format!("proxy_pass {protocol}://{group}; {}", whole("proxy")),
        };
        let prefix = kind.prefix(route);
        locations.push_str(&format!("location {prefix} {{ {pass} }}\n"));
    }
    let nginx = Nginx::start(
        &Config {
            workers: 1,
            ..Config::new(format!(
                "{groups}server {{ listen {front};\n{locations}location /own/ {{ return 503; }} }}"
            ))
        },
        None,
    );
    Proxy {
        name: "nginx",
        front,
        kinds,
        _running: Program::Nginx(nginx),
    }
}

fn folder_of(file: &str) -> &str {
    file.rsplit_once('/').map_or("/", |(folder, _)| folder)
}

pub(crate) fn haproxy(stage: &mut Stage) -> Proxy {
    let front = ports::free(LOCALHOST);
    let kinds = kinds::start(
        stage,
        &[
            "fastcgi-tcp",
            "fastcgi-unix",
            "php-fpm-tcp",
            "php-fpm-unix",
            "http-unix",
            "https-tcp",
            "grpc-tcp",
        ],
    );
    let mut apps = "fcgi-app plain\n  docroot /\n".to_owned();
    for kind in &kinds {
        if let Some(script) = &kind.script {
            apps.push_str(&format!(
                "fcgi-app {}\n  docroot {}\n",
                kind.name,
                folder_of(script)
            ));
        }
    }
    let (mut rules, mut backends) = (String::new(), String::new());
    for (kind, route) in routes(&kinds) {
        let (group, prefix) = (kind.group(route), kind.prefix(route));
        rules.push_str(&format!(
            "  use_backend {group} if {{ path_beg {prefix} }}\n"
        ));
        backends.push_str(&format!("backend {group}\n"));
        let words = match (kind.protocol, &kind.script) {
            ("fastcgi", script) => {
                let app = script.as_ref().map_or("plain", |_| kind.name);
                backends.push_str(&format!("  use-fcgi-app {app}\n"));
                if script.is_some() {
                    // The script is found by the path; it looks for its order in the whole URI.
                    backends.push_str("  http-request set-uri /app.php?%[path]\n");
                }
                "proto fcgi"
            }
            ("https", _) => "ssl verify none",
            ("grpc", _) => "proto h2",
            _ => "",
        };
        // It gives up only servers that fail their checks.
        let check = if route.fault.name == NONE_LIVE {
            "check inter 1s fall 1"
        } else {
            ""
        };
        for (number, server) in route.servers.iter().enumerate() {
            backends.push_str(&format!("  server s{number} {server} {words} {check}\n"));
        }
    }
    let text = format!(
        "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 1s\n  timeout server {PATIENCE_MS}ms\n\
         \x20 timeout client 5s\n  retries 0\n{apps}frontend front\n  bind {front}\n{rules}{backends}"
    );
    let file = stage.file("haproxy.cfg");
    fs::write(&file, text).expect("it is written");
    let mut program = command("haproxy", None);
    program.arg("-db").arg("-f").arg(file);
    started("haproxy", front, kinds, &mut program)
}

pub(crate) fn apache(stage: &mut Stage) -> Proxy {
    let front = ports::free(LOCALHOST);
    let kinds = kinds::start(stage, &ALL);
    let folder = stage.file("apache");
    fs::create_dir(&folder).expect("a folder is made");
    let shown = folder.display();
    let mut text = String::new();
    for module in [
        "mpm_event",
        "authz_core",
        "socache_shmcb",
        "ssl",
        "slotmem_shm",
        "proxy",
        "proxy_http",
        "proxy_http2",
        "proxy_fcgi",
        "proxy_uwsgi",
        "proxy_balancer",
        "lbmethod_byrequests",
    ] {
        text.push_str(&format!(
            "LoadModule {module}_module {MODULES}/mod_{module}.so\n"
        ));
    }
    text.push_str(&format!(
        "ServerRoot {shown}\nDefaultRuntimeDir {shown}\nListen {front}\nServerName judge\n\
         PidFile apache.pid\nStartServers 1\nServerLimit 1\nThreadsPerChild 25\n\
         MaxRequestWorkers 25\nErrorLog error.log\nProxyTimeout 2\nSSLProxyEngine on\n\
         SSLProxyVerify none\nSSLProxyCheckPeerName off\nSSLProxyCheckPeerCN off\n"
    ));
    for (kind, route) in routes(&kinds) {
        let scheme = match kind.protocol {
            "fastcgi" => "fcgi",
            "grpc" => "h2c",
            protocol => protocol,
        };
        let (group, prefix) = (kind.group(route), kind.prefix(route));
        if let Some(script) = &kind.script {
            text.push_str(&format!(
                "<Location {prefix}>\nProxyFCGISetEnvIf \"true\" SCRIPT_FILENAME {script}\n</Location>\n"
            ));
        }
        let target = |number: usize, server: &str| match server.strip_prefix('/') {
            Some(_) => format!("unix:{server}|{scheme}://{group}-{number}"),
            None => format!("{scheme}://{server}"),
        };
        match route.servers.as_slice() {
            [server] => text.push_str(&format!(
                "ProxyPass {prefix} {}{prefix} flushpackets=on\n",
                target(0, server)
            )),
            servers => {
                text.push_str(&format!("<Proxy balancer://{group}>\n"));
                for (number, server) in servers.iter().enumerate() {
                    text.push_str(&format!("BalancerMember {}\n", target(number, server)));
                }
                // Else it tries again what failed, when all failed.
                text.push_str(&format!(
                    "ProxySet forcerecovery=Off\n</Proxy>\n\
                     ProxyPass {prefix} balancer://{group}{prefix}\n"
                ));
            }
        }
    }
    let file = stage.file("apache.conf");
    fs::write(&file, text).expect("its configuration is written");
    let mut program = command("apache2", None);
    program.args(["-D", "FOREGROUND", "-f"]).arg(file);
    started("httpd", front, kinds, &mut program)
}

pub(crate) fn caddy(stage: &mut Stage) -> Proxy {
    let front = ports::free(LOCALHOST);
    let mut kinds = kinds::start(
        stage,
        &[
            "fastcgi-tcp",
            "fastcgi-unix",
            "php-fpm-tcp",
            "php-fpm-unix",
            "http-unix",
            "https-tcp",
            "grpc-tcp",
        ],
    );
    // It takes no answer of our small server of HTTP/2, and has no timeout for its head.
    for kind in kinds.iter_mut().filter(|kind| kind.protocol == "grpc") {
        let takes_no = ["hang", "cutfin", "cutrst", "own500", "own503"];
        kind.routes
            .retain(|route| !takes_no.contains(&route.fault.name));
    }
    let mut text = format!(
        "{{\n admin off\n auto_https off\n}}\nhttp://:{} {{\n bind {}\n",
        front.port(),
        front.ip()
    );
    for (kind, route) in routes(&kinds) {
        let wait = format!("response_header_timeout {PATIENCE_MS}ms\n");
        let transport = match (kind.protocol, &kind.script) {
            ("fastcgi", script) => {
                let script = script.as_ref().map_or(String::new(), |script| {
                    format!(" env SCRIPT_FILENAME {script}\n")
                });
                format!("fastcgi {{\n root /\n{script} read_timeout {PATIENCE_MS}ms\n }}")
            }
            ("https", _) => format!("http {{\n tls_insecure_skip_verify\n {wait} }}"),
            ("grpc", _) => format!("http {{\n versions h2c 2\n {wait} }}"),
            _ => format!("http {{\n {wait} }}"),
        };
        let servers: Vec<String> = route
            .servers
            .iter()
            .map(|server| match server.strip_prefix('/') {
                Some(_) => format!("unix/{server}"),
                None => server.clone(),
            })
            .collect();
        let servers = servers.join(" ");
        let gives_up = if route.fault.name == NONE_LIVE {
            " lb_policy first\n fail_duration 60s\n"
        } else {
            ""
        };
        let prefix = kind.prefix(route);
        text.push_str(&format!(
            " handle {prefix}* {{\n reverse_proxy {servers} {{\n flush_interval -1\n{gives_up} transport {transport}\n }}\n }}\n"
        ));
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
    started("caddy", front, kinds, &mut program)
}
