//! Apache httpd: a `ProxyPass` for each group, the modules loaded by our own file.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::group::{Group, Judged, Target, Tls};
use super::launch::{Launch, Launched};
use super::{Said, note};

/// Where Debian puts its modules; other systems have them elsewhere.
const MODULES: [&str; 3] = [
    "/usr/lib/apache2/modules",
    "/usr/lib64/httpd/modules",
    "/usr/lib/httpd/modules",
];

/// How connections are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mpm {
    /// A thread for each request.
    Event,
    /// A process for each connection.
    Prefork,
}

pub(super) fn lacks(group: &Group, mpm: Mpm) -> Option<&'static str> {
    match group.target {
        Target::Checked(_) => Some("checks by the module proxy_hcheck, which is not looked at"),
        Target::Name(_) => Some("asks the host's resolver: no DNS server of ours"),
        Target::Limited(_) if mpm == Mpm::Prefork => {
            Some("counts connections by process, and each process has one")
        }
        _ => None,
    }
}

pub(super) fn launch(launch: Launch, groups: &[&Group], mpm: Mpm) -> Launched {
    let modules = MODULES
        .iter()
        .find(|folder| Path::new(folder).is_dir())
        .unwrap_or_else(|| {
            panic!("there are no modules of Apache httpd on this machine: `cargo xtask setup` installs what the tests need")
        });
    // Whoever serves a request serves no other meanwhile.
    let (name, logged, served) = match mpm {
        Mpm::Event => ("event", "%T", "%{tid}P"),
        Mpm::Prefork => ("prefork", "%P", "%P"),
    };
    let mut text = String::new();
    let mut add = |line: &str| {
        // Writing to a String cannot fail.
        let _written = writeln!(text, "{line}");
    };
    for module in [
        &format!("mpm_{name}"),
        "authz_core",
        "unixd",
        "alias",
        "slotmem_shm",
        "lbmethod_byrequests",
        "proxy",
        "proxy_http",
        "proxy_balancer",
        "socache_shmcb",
        "ssl",
    ] {
        // Debian builds some of them in.
        if Path::new(modules)
            .join(format!("mod_{module}.so"))
            .is_file()
        {
            add(&format!(
                "LoadModule {module}_module {modules}/mod_{module}.so"
            ));
        }
    }
    let folder = launch.folder().display();
    add(&format!("ServerRoot {folder}\nDefaultRuntimeDir {folder}"));
    add(&format!("Listen {}", launch.address));
    add("ServerName judge\nPidFile apache.pid\nUser www-data\nGroup www-data");
    add(match mpm {
        Mpm::Event => {
            "StartServers 1\nServerLimit 1\nThreadsPerChild 100\nThreadLimit 100\n\
             MaxRequestWorkers 100\nMinSpareThreads 1\nMaxSpareThreads 100"
        }
        Mpm::Prefork => {
            "StartServers 24\nServerLimit 24\nMaxRequestWorkers 24\nMinSpareServers 1\n\
             MaxSpareServers 24"
        }
    });
    add("KeepAlive On\nMaxKeepAliveRequests 0\nKeepAliveTimeout 60\nTimeout 10\nProxyTimeout 1");
    add("ErrorLog error.log\nLogLevel warn");
    // The format by default, behind what ties a line to its request.
    add(&format!(
        "ErrorLogFormat \"%{{cu}}t\\t{logged}\\t%-L\\t% %7F: %E: [client\\ %a] %M\""
    ));
    add(&format!(
        "LogFormat \"{begin}\\t{end}\\t{served}\\t%L\\t%U\\t%>s\" judge\nCustomLog access.log judge",
        begin = "%{begin:%F %T}t.%{begin:usec_frac}t",
        end = "%{end:%F %T}t.%{end:usec_frac}t",
    ));
    let trusted = groups.iter().find_map(|group| match &group.target {
        Target::Tls(Tls { trusted, .. }) => Some(trusted.display()),
        _ => None,
    });
    if let Some(trusted) = trusted {
        add(&format!(
            "SSLProxyEngine on\nSSLProxyVerify require\nSSLProxyCheckPeerName on\n\
             SSLProxyCACertificateFile {trusted}"
        ));
    }
    for group in groups {
        for line in directives(group) {
            add(&line);
        }
    }
    launch.write("apache.conf", &text);
    let file = launch.file("apache.conf");
    let apache = launch.start("apache2", |command| {
        command.arg("-DFOREGROUND").arg("-f").arg(file);
    });
    launch.done(vec![apache])
}

fn directives(group: &Group) -> Vec<String> {
    let Group {
        name,
        target,
        keep,
        retry: _,
        rewritten,
    } = group;
    let path = if *rewritten {
        "/".to_owned()
    } else {
        format!("/{name}/")
    };
    let reuse = if *keep { "" } else { " disablereuse=On" };
    let options = format!("connectiontimeout=1 timeout=1 retry=0{reuse}");
    let one =
        |url: String, options: &str| vec![format!("ProxyPass /{name}/ {url}{path} {options}")];
    let balancer = |members: Vec<String>, set: &str| {
        let mut lines = vec![format!("<Proxy balancer://{name}>")];
        lines.extend(
            members
                .into_iter()
                .map(|member| format!("BalancerMember {member}")),
        );
        lines.push(format!("ProxySet {set}\n</Proxy>"));
        lines.push(format!("ProxyPass /{name}/ balancer://{name}{path}"));
        lines
    };
    match target {
        Target::Servers(servers) => match servers.as_slice() {
            [server] => one(format!("http://{server}"), &options),
            // A balancer turns to its other members by itself.
            servers => balancer(
                servers
                    .iter()
                    .map(|server| format!("http://{server} {options}"))
                    .collect(),
                "lbmethod=byrequests",
            ),
        },
        Target::Unix(socket) => {
            let socket = socket.display();
            vec![format!(
                "ProxyPass /{name}/ unix:{socket}|http://{name}.local{path} {options}"
            )]
        }
        Target::Tls(Tls { server, .. }) => one(format!("https://{server}"), &options),
        Target::Name(_) | Target::Checked(_) => Vec::new(),
        Target::Judged(Judged { servers, .. }) => balancer(
            servers
                .iter()
                .map(|server| format!("http://{server} connectiontimeout=1 timeout=1 retry=30"))
                .collect(),
            "lbmethod=byrequests forcerecovery=Off",
        ),
        Target::Disabled(server) => balancer(
            vec![format!("http://{server} status=+D")],
            "lbmethod=byrequests forcerecovery=Off",
        ),
        Target::Static => vec![format!("Redirect 503 /{name}/")],
        Target::Limited(server) => one(
            format!("http://{server}"),
            "connectiontimeout=1 timeout=1 retry=0 max=1 acquire=300",
        ),
    }
}

/// A line of the access log: a request, when and by whom it was served.
struct Served<'a> {
    begin: &'a str,
    end: &'a str,
    by: &'a str,
    id: &'a str,
    path: &'a str,
    status: Option<u16>,
}

impl<'a> Served<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let mut fields = line.split('\t');
        Some(Self {
            begin: fields.next()?,
            end: fields.next()?,
            by: fields.next()?,
            id: fields.next()?,
            path: fields.next()?,
            status: fields.next()?.parse().ok(),
        })
    }
}

/// What the error log says is of the request whose id it has; what is said of a server has none, and is of
/// the request that was served there and then.
pub(super) fn said(launched: &Launched) -> BTreeMap<String, Said> {
    let mut said = BTreeMap::new();
    let access = launched.text("access.log");
    let served: Vec<Served<'_>> = access.lines().filter_map(Served::of).collect();
    for one in &served {
        note(&mut said, one.path, one.status, "");
    }
    for line in launched.text("error.log").lines() {
        let mut fields = line.splitn(4, '\t');
        let mut next = || fields.next().unwrap_or("");
        let (at, by, id, words) = (next(), next(), next(), next());
        let is_it = |one: &&Served<'_>| {
            if id == "-" {
                one.by == by && one.begin <= at && at <= one.end
            } else {
                one.id == id
            }
        };
        if let Some(one) = served.iter().find(is_it) {
            note(&mut said, one.path, None, words);
        }
    }
    said
}
