//! The set: nginx, and behind each of its paths an upstream with one fault.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host::child::Guard;
use crate::host::net;
use crate::host::nginx::Nginx;
use crate::host::void::Void;

/// The upstreams print where they listen at once.
const START: Duration = Duration::from_secs(10);

/// The upstream of `/orders` closes connections that were idle for so long.
pub(super) const IDLE: Duration = Duration::from_millis(600);

/// A path, and what happens behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    /// Method of the requests.
    pub(super) method: &'static str,
    /// The path.
    pub(super) path: &'static str,
    /// What is wrong, for the legend.
    what: &'static str,
    behind: Behind,
}

#[derive(Clone, Copy, Debug)]
enum Behind {
    /// An upstream of `misbehave`, with its words.
    Misbehaving(&'static str),
    /// Nobody listens.
    Nobody,
    /// Packets disappear.
    Void,
    /// Nobody listens at the first upstream; the second is well.
    NobodyThenWell,
    /// A Unix socket that is not there.
    NoSuchSocket,
}

/// The path that is played by [`super::race`], because it takes timing.
pub(super) const RACE: Scene = Scene {
    method: "POST",
    path: "/orders",
    what: "the upstream closes idle connections just when nginx reuses one",
    behind: Behind::Misbehaving("ok,idle=600"),
};

/// The path with nothing wrong, for the latency.
pub(super) const WELL: Scene = Scene {
    method: "GET",
    path: "/catalogue",
    what: "nothing",
    behind: Behind::Misbehaving("ok,wait=3,body=2000"),
};

/// The paths with something wrong, in the order they are asked.
pub(super) const SCENES: [Scene; 9] = [
    Scene {
        method: "GET",
        path: "/search",
        what: "nobody listens on the upstream's port",
        behind: Behind::Nobody,
    },
    Scene {
        method: "GET",
        path: "/cart",
        what: "nobody listens at the first upstream, the second answers",
        behind: Behind::NobodyThenWell,
    },
    Scene {
        method: "GET",
        path: "/avatar",
        what: "the upstream resets the connection instead of answering",
        behind: Behind::Misbehaving("reset"),
    },
    Scene {
        method: "GET",
        path: "/report",
        what: "the upstream takes the request and stays silent",
        behind: Behind::Misbehaving("hang"),
    },
    Scene {
        method: "POST",
        path: "/payments",
        what: "the network drops every packet to the upstream",
        behind: Behind::Void,
    },
    Scene {
        method: "GET",
        path: "/download",
        what: "the upstream dies in the middle of its answer",
        behind: Behind::Misbehaving("body=5000,cut=1000"),
    },
    Scene {
        method: "GET",
        path: "/legacy",
        what: "the upstream speaks something that is not HTTP",
        behind: Behind::Misbehaving("garbage"),
    },
    Scene {
        method: "GET",
        path: "/stock",
        what: "the upstream itself answers 503",
        behind: Behind::Misbehaving("status=503"),
    },
    Scene {
        method: "GET",
        path: "/socket",
        what: "the upstream's Unix socket does not exist",
        behind: Behind::NoSuchSocket,
    },
];

/// Everything that runs.
#[derive(Debug)]
pub(super) struct Stage {
    // Order of ending: the proxy before what is behind it.
    nginx: Option<Nginx>,
    upstreams: Option<Guard>,
    void: Option<Void>,
    address: SocketAddr,
    scenes: Vec<Scene>,
}

impl Stage {
    /// Starts everything; `misbehave` is the program of the upstreams.
    pub(super) fn set_up(misbehave: &Path, folder: &Path) -> Result<Self> {
        let void = match Void::open() {
            Ok(void) => Some(void),
            Err(error) => {
                println!("without the path of a network that drops packets: {error:#}");
                None
            }
        };
        let scenes: Vec<Scene> = [WELL, RACE]
            .into_iter()
            .chain(SCENES)
            .filter(|scene| void.is_some() || !matches!(scene.behind, Behind::Void))
            .collect();
        let (upstreams, places) = start_upstreams(misbehave, &scenes)?;
        let address = net::free_address()?;
        let nobody = net::free_address()?;
        let mut locations = String::new();
        let mut pools = String::new();
        let mut places = places.into_iter();
        for (scene, number) in scenes.iter().zip(1..) {
            let servers = match scene.behind {
                Behind::Misbehaving(_) => {
                    let place = places
                        .next()
                        .context("an upstream did not say where it listens")?;
                    format!("server {place} max_fails=0;")
                }
                Behind::Nobody => format!("server {nobody} max_fails=0;"),
                Behind::Void => {
                    let silent = void.as_ref().map(Void::address).unwrap_or(nobody);
                    format!("server {silent} max_fails=0;")
                }
                Behind::NobodyThenWell => {
                    let well = places
                        .next()
                        .context("an upstream did not say where it listens")?;
                    // The weight makes nginx begin with the one that is not there.
                    format!("server {nobody} weight=1000 max_fails=0; server {well};")
                }
                Behind::NoSuchSocket => {
                    format!("server unix:{}/none.sock max_fails=0;", folder.display())
                }
            };
            let _ = writeln!(
                pools,
                "    upstream pool{number} {{ {servers} keepalive 16; }}"
            );
            let _ = writeln!(
                locations,
                "        location = {} {{ proxy_pass http://pool{number}; }}",
                scene.path
            );
        }
        let http = format!(
            "    access_log off;
    proxy_http_version 1.1;
    proxy_set_header Connection \"\";
    proxy_connect_timeout 1s;
    proxy_read_timeout 1s;
{pools}
    server {{
        listen {address};
{locations}
    }}"
        );
        // One worker, so that the race can hold it still.
        let main = "worker_processes 1;\nevents { worker_connections 256; }";
        let nginx = Nginx::start(folder, "nginx", main, &http, address)?;
        Ok(Self {
            nginx: Some(nginx),
            upstreams: Some(upstreams),
            void,
            address,
            scenes,
        })
    }

    /// Where nginx listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// nginx's worker.
    pub(super) fn worker(&self) -> Option<u32> {
        self.nginx.as_ref()?.workers().first().copied()
    }

    /// The paths with something wrong that are set up, without [`RACE`].
    pub(super) fn scenes(&self) -> impl Iterator<Item = &Scene> {
        self.scenes
            .iter()
            .filter(|scene| scene.path != RACE.path && scene.path != WELL.path)
    }

    /// Paths and faults, for a person.
    pub(super) fn legend(&self) -> String {
        let line =
            |scene: &Scene| format!("  {:<4} {:<12} {}\n", scene.method, scene.path, scene.what);
        self.scenes.iter().map(line).collect()
    }

    /// Ends everything.
    pub(super) fn strike(&mut self) {
        self.nginx = None;
        self.upstreams = None;
        self.void = None;
    }
}

/// One process with a port for each; their addresses in the order of the scenes.
fn start_upstreams(misbehave: &Path, scenes: &[Scene]) -> Result<(Guard, Vec<SocketAddr>)> {
    let mut command = Command::new(misbehave);
    let mut count = 0;
    for scene in scenes {
        let words = match scene.behind {
            Behind::Misbehaving(words) => words,
            Behind::NobodyThenWell => "ok",
            Behind::Nobody | Behind::Void | Behind::NoSuchSocket => continue,
        };
        command.arg("--port").arg(format!("0={words}"));
        count += 1;
    }
    let (sender, lines) = mpsc::channel();
    let mut guard = Guard::start_reading("misbehave", &command, move |line| {
        // After the addresses nobody reads on, which is no fault.
        let _ = sender.send(line.to_owned());
    })?;
    let mut places = Vec::new();
    while places.len() < count {
        let Ok(line) = lines.recv_timeout(START) else {
            bail!("the upstreams did not start: {:?}", guard.ended()?);
        };
        let place = line
            .strip_prefix("ready ")
            .and_then(|rest| rest.split(' ').next());
        let place = place.and_then(|place| place.parse().ok());
        places.push(place.with_context(|| format!("the upstreams said `{line}`"))?);
    }
    Ok((guard, places))
}
