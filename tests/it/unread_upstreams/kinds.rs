//! The kinds of upstream, the faults of each, and who it is for each of these.

use crate::stage::{Served, Stage};

/// What the upstream does, and what may be said of it. Never more: no other cause, and never that no
/// upstream was tried where one was.
pub(crate) const FAULTS: [Fault; 12] = [
    Fault::new("refused", "nobody listens", &["connect_refused"]),
    Fault::new("hang", "no answer", &["response_timeout", "unattributed"]),
    Fault::new(
        "fin",
        "FIN instead of an answer",
        &["closed_before_response", "unattributed"],
    ),
    Fault::new(
        "rst",
        "RST instead of an answer",
        &["closed_before_response", "unattributed"],
    ),
    // With a status that is not 0, which is a crash where the agent saw whose it was.
    Fault::new(
        "exit",
        "its process exits with status 9",
        &["upstream_crashed", "closed_before_response", "unattributed"],
    ),
    Fault::new(
        "kill",
        "its process is killed",
        &["upstream_crashed", "closed_before_response", "unattributed"],
    ),
    Fault::new(
        "cutfin",
        "the answer is cut by FIN",
        &["truncated_response", "unattributed"],
    ),
    Fault::new(
        "cutrst",
        "the answer is cut by RST",
        &["truncated_response", "unattributed"],
    ),
    Fault::new(
        "cutkill",
        "its process is killed in the middle of the answer",
        &["upstream_crashed", "truncated_response", "unattributed"],
    ),
    Fault::new("own500", "a whole 500 of its own", &["unattributed"]),
    Fault::new("own503", "a whole 503 of its own", &["unattributed"]),
    Fault::new(
        NONE_LIVE,
        "all servers failed before, and none is tried",
        &["no_live_upstream", "unattributed"],
    ),
];

/// No attempt is made.
pub(crate) const NONE_LIVE: &str = "nonelive";

/// The faults of servers of ours.
const OURS: [&str; 11] = [
    "refused", "hang", "fin", "rst", "exit", "kill", "cutfin", "cutrst", "own500", "own503",
    NONE_LIVE,
];

/// Those of real application servers.
const REAL: [&str; 5] = ["hang", "kill", "cutkill", "own500", "own503"];

/// Servers of which none is live. One: nginx goes on trying an only server.
const DEAD: usize = 2;

/// Something that an upstream does.
#[derive(Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// What may be said of it.
    pub(crate) causes: &'static [&'static str],
}

impl Fault {
    const fn new(name: &'static str, what: &'static str, causes: &'static [&'static str]) -> Self {
        Self { name, what, causes }
    }

    pub(crate) fn named(name: &str) -> Self {
        let fault = FAULTS.into_iter().find(|fault| fault.name == name);
        fault.unwrap_or_else(|| panic!("no such fault: {name}"))
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.name.starts_with("cut")
    }
}

/// One kind of upstream at a proxy.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// What is spoken: `fastcgi`, `uwsgi`, `http`, `https` or `grpc`.
    pub(crate) protocol: &'static str,
    /// The file that a real application server runs.
    pub(crate) script: Option<String>,
    /// The upstream for each fault.
    pub(crate) routes: Vec<Route>,
}

/// The upstream for one fault of a kind.
pub(crate) struct Route {
    pub(crate) fault: Fault,
    /// Addresses or paths of sockets; only where none is live more than one.
    pub(crate) servers: Vec<String>,
}

impl Kind {
    /// Begin of the paths of a fault: a route of their own, as nothing else of it is to be answered
    /// where none of its servers is live.
    pub(crate) fn prefix(&self, route: &Route) -> String {
        format!("/{}/", self.group(route))
    }

    /// A path of a fault, which tells the server what to do.
    pub(crate) fn path(&self, route: &Route, end: &str) -> String {
        format!("{}order-{}.{end}", self.prefix(route), route.fault.name)
    }

    /// A name for a group of servers.
    pub(crate) fn group(&self, route: &Route) -> String {
        format!("{}-{}", self.name, route.fault.name)
    }

    /// The protocol's answers are HTTP/1 and go over TCP: they are read.
    pub(crate) fn is_read(&self) -> bool {
        self.protocol == "uwsgi" && self.name.ends_with("tcp")
    }
}

/// Starts the servers of these kinds.
pub(crate) fn start(stage: &mut Stage, names: &[&'static str]) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for name in names {
        let unix = name.ends_with("unix");
        match *name {
            "php-fpm-tcp" | "uwsgi-real-tcp" => {
                let (protocol, served) = if *name == "php-fpm-tcp" {
                    ("fastcgi", stage.php())
                } else {
                    ("uwsgi", stage.uwsgi())
                };
                kinds.extend(real(name, protocol, served));
            }
            // With its twin by TCP.
            "php-fpm-unix" | "uwsgi-real-unix" => {}
            name => {
                let (protocol, _) = name.split_once('-').unwrap_or((name, ""));
                kinds.push(ours(stage, name, protocol_of(protocol), unix));
            }
        }
    }
    kinds
}

fn protocol_of(name: &str) -> &'static str {
    ["fastcgi", "uwsgi", "http", "https", "grpc"]
        .into_iter()
        .find(|protocol| *protocol == name)
        .unwrap_or_else(|| panic!("no such protocol: {name}"))
}

fn ours(stage: &mut Stage, name: &'static str, protocol: &'static str, unix: bool) -> Kind {
    // What is asked in HTTP/2 is compressed: a server for each order.
    let shared = (protocol != "grpc").then(|| stage.server(protocol, unix));
    let routes = OURS.map(|fault| Route {
        fault: Fault::named(fault),
        servers: match (fault, &shared) {
            ("refused", _) => vec![stage.nobody(unix)],
            (NONE_LIVE, _) => (0..DEAD).map(|_| stage.nobody(unix)).collect(),
            (_, Some(server)) => vec![server.clone()],
            (order, None) => vec![stage.deaf_to_paths(order)],
        },
    });
    Kind {
        name,
        protocol,
        script: None,
        routes: routes.into(),
    }
}

/// One that listens at a port and at a Unix socket.
fn real(name: &'static str, protocol: &'static str, served: Served) -> [Kind; 2] {
    let Served { tcp, unix, script } = served;
    let twin = if name == "php-fpm-tcp" {
        "php-fpm-unix"
    } else {
        "uwsgi-real-unix"
    };
    [(name, tcp), (twin, unix)].map(|(name, server)| Kind {
        name,
        protocol,
        script: Some(script.clone()),
        routes: REAL
            .map(|fault| Route {
                fault: Fault::named(fault),
                servers: vec![server.clone()],
            })
            .into(),
    })
}
