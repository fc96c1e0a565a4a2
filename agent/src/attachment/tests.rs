//! Attachment with processes and cgroups in folders of a test's own.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use agent_core::observation::{Nanos, Observation};
use agent_wire::plain::bytes_of;
use agent_wire::record::{Connect, Exchange, Header, MessageHead, end, flag, kind, side};

use super::{Attaches, Attachment, LOOK_EVERY, SWEEP_EVERY, Seen};
use crate::config::{Attach, Settings};
use crate::kernel::KernelError;
use crate::processes::{Processes, Standing};

const NGINX: &str = "/usr/sbin/nginx";
const PYTHON: &str = "/usr/bin/python3";

/// A host: `/proc`, and a hierarchy of cgroups.
struct Host {
    folder: PathBuf,
    processes: Processes,
}

/// What was attached and detached, in this order: `+web`, `-web`; `+` is all that is watched.
#[derive(Default)]
struct Orders {
    told: Vec<String>,
    time: Nanos,
    refused: Option<i32>,
}

impl Attaches for Orders {
    fn attach(&mut self, cgroup: &Path) -> Result<Nanos, KernelError> {
        if let Some(errno) = self.refused.filter(|_| !cgroup.ends_with("cgroups")) {
            return Err(KernelError::Cgroup {
                path: cgroup.to_owned(),
                source: std::io::Error::from_raw_os_error(errno),
            });
        }
        self.told.push(format!("+{}", short(cgroup)));
        self.time += 100;
        Ok(self.time)
    }

    fn detach(&mut self, cgroup: &Path) {
        self.told.push(format!("-{}", short(cgroup)));
    }
}

fn short(cgroup: &Path) -> String {
    let text = cgroup.to_string_lossy();
    let (_, below) = text.rsplit_once("cgroups").unwrap();
    below.trim_start_matches('/').to_owned()
}

impl Orders {
    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }
}

impl Host {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("why502-host-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let proc = folder.join("proc");
        for part in ["proc/1/ns", "proc/self", "cgroups"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        fs::write(proc.join("1/cgroup"), "0::/init.scope\n").unwrap();
        let mounts = format!("1 0 0:1 / {}/cgroups rw - cgroup2 x rw\n", folder.display());
        fs::write(proc.join("self/mountinfo"), mounts).unwrap();
        let processes = Processes::under(&Settings::default(), Some(proc));
        Self { folder, processes }
    }

    /// A process in a cgroup, in the one network of this host.
    fn process(&self, tgid: u32, exe: &str, cgroup: &str) {
        let folder = self.of(tgid);
        fs::create_dir_all(folder.join("fd")).unwrap();
        fs::create_dir_all(folder.join("ns")).unwrap();
        fs::create_dir_all(folder.join("net")).unwrap();
        let network = self.folder.join("network");
        fs::write(&network, "").unwrap();
        let _ = fs::hard_link(network, folder.join("ns/net"));
        symlink(exe, folder.join("exe")).unwrap();
        let stat = format!("{tgid} (x) S 1 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 {tgid} 9 1");
        fs::write(folder.join("stat"), stat).unwrap();
        fs::write(folder.join("cgroup"), format!("1:pids:/\n0::/{cgroup}\n")).unwrap();
        let members = self.cgroup(cgroup).join("cgroup.procs");
        let before = fs::read_to_string(&members).unwrap_or_default();
        fs::write(members, format!("{before}{tgid}\n")).unwrap();
    }

    /// It listens at that port of 127.0.0.1.
    fn serves(&self, tgid: u32, port: u16) {
        self.socket(tgid, port, "00000000:0000 0A");
    }

    /// It is connected to that port of 127.0.0.1.
    fn connected(&self, tgid: u32, port: u16) {
        self.socket(tgid, 40_000, &format!("0100007F:{port:04X} 01"));
    }

    fn socket(&self, tgid: u32, port: u16, rest: &str) {
        let folder = self.of(tgid);
        let inode = u32::from(port) + tgid * 100_000;
        symlink(
            format!("socket:[{inode}]"),
            folder.join(format!("fd/{inode}")),
        )
        .unwrap();
        let line = format!("1: 0100007F:{port:04X} {rest} 0:0 00:0 0 0 0 {inode} 1 0\n");
        // All are in one network, which each of them shows.
        for entry in fs::read_dir(self.folder.join("proc")).unwrap().flatten() {
            let table = entry.path().join("net/tcp");
            if table.parent().unwrap().is_dir() {
                let before = fs::read_to_string(&table).unwrap_or("header\n".to_owned());
                let (head, lines) = before.split_once('\n').unwrap();
                // Listeners come first.
                let both = if rest.ends_with("0A") {
                    format!("{head}\n{line}{lines}")
                } else {
                    format!("{before}{line}")
                };
                fs::write(table, both).unwrap();
            }
        }
    }

    fn ends(&self, tgid: u32) {
        fs::remove_dir_all(self.of(tgid)).unwrap();
    }

    fn of(&self, tgid: u32) -> PathBuf {
        self.folder.join("proc").join(tgid.to_string())
    }

    fn cgroup(&self, path: &str) -> PathBuf {
        let folder = self.folder.join("cgroups").join(path);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn begin(&self, attach: Attach, orders: &mut Orders) -> Attachment {
        let watched = self.folder.join("cgroups");
        Attachment::begin(attach, &watched, &self.processes, orders, 0).unwrap()
    }

    /// A record of a process comes, when it was looked at.
    fn notices(&mut self, to: &mut Attachment, record: &[u8], port: u16, now: Nanos) -> Seen {
        let agent_core::decode::Record::Observation(observation) =
            agent_core::decode::decode(record).unwrap()
        else {
            panic!("an observation was made")
        };
        let tgid = observation.socket.tgid.unwrap();
        self.meet(to, tgid, now);
        let asked = SocketAddr::from(([127, 0, 0, 1], port));
        to.notices(&observation as &Observation, asked, now, &self.processes)
    }

    fn meet(&mut self, to: &mut Attachment, tgid: u32, now: Nanos) {
        if let crate::processes::Look::New(identity) = self.processes.look(tgid, now) {
            to.meets(tgid, identity.standing, now, &self.processes);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn connect(tgid: u32, opened: Nanos) -> Vec<u8> {
    let header = Header {
        kind: kind::CONNECT,
        tgid,
        opened_ns: opened,
        time_ns: opened + 1,
        cookie: 1,
        flags: flag::ACTIVE_OPEN,
        ..Header::default()
    };
    bytes_of(&Connect {
        header,
        outcome: end::COMPLETE,
        ..Connect::default()
    })
    .to_vec()
}

/// A client's request.
fn request(tgid: u32, began: Nanos) -> Vec<u8> {
    let header = Header {
        kind: kind::REQUEST,
        side: side::CLIENT,
        tgid,
        time_ns: began + 1,
        cookie: 2,
        ..Header::default()
    };
    let exchange = Exchange {
        request_ns: began,
        ..Exchange::default()
    };
    bytes_of(&MessageHead {
        header,
        exchange,
        ..MessageHead::default()
    })
    .to_vec()
}

#[test]
fn a_host_without_a_proxy_pays_for_no_packet() {
    let host = Host::new("without");
    host.process(10, PYTHON, "app");
    host.serves(10, 8080);
    host.process(11, "/usr/bin/curl", "user");
    host.connected(11, 8080);
    let mut orders = Orders::default();

    let mut attachment = host.begin(Attach::Proxies, &mut orders);
    attachment.begins_to_serve(10, 1, &host.processes);

    assert!(!attachment.settle(&mut orders));
    assert_eq!(orders.take(), Vec::<String>::new());
    assert_eq!(attachment.counts().cgroups, 0);
}

#[test]
fn proxies_and_the_upstreams_they_talk_to_are_found_at_the_start() {
    let host = Host::new("start");
    host.process(10, NGINX, "web/nginx");
    host.process(20, PYTHON, "app");
    host.process(30, PYTHON, "other");
    host.process(40, PYTHON, "gateway");
    host.process(50, PYTHON, "db");
    host.serves(10, 80);
    host.connected(10, 8080);
    host.serves(20, 8080);
    host.serves(30, 9090);
    // Serves, and is connected to a database: it acts as a proxy.
    host.serves(40, 8081);
    host.connected(40, 5432);
    host.serves(50, 5432);
    let mut orders = Orders::default();

    let attachment = host.begin(Attach::Proxies, &mut orders);

    assert_eq!(orders.take(), ["+app", "+db", "+gateway", "+web/nginx"]);
    assert_eq!(
        (attachment.counts().cgroups, attachment.counts().waiting),
        (4, 0)
    );
}

#[test]
fn a_proxy_that_comes_later_is_attached_when_it_listens_and_its_upstream_when_it_connects() {
    let mut host = Host::new("later");
    host.process(20, PYTHON, "app");
    host.serves(20, 8080);
    let mut orders = Orders::default();
    let mut attachment = host.begin(Attach::Proxies, &mut orders);

    host.process(10, NGINX, "web");
    attachment.begins_to_serve(10, 50, &host.processes);
    assert!(attachment.settle(&mut orders), "a proxy waited");
    assert_eq!(orders.take(), ["+web"]);
    assert_eq!(attachment.counts().longest_nanos, 50);

    host.notices(&mut attachment, &connect(10, 200), 8080, 201);
    assert!(!attachment.settle(&mut orders), "no proxy waited");
    assert_eq!(orders.take(), ["+app"]);

    // Once more costs nothing.
    host.notices(&mut attachment, &connect(10, 300), 8080, 301);
    attachment.settle(&mut orders);
    assert_eq!(orders.take(), Vec::<String>::new());
}

#[test]
fn an_upstream_that_listens_after_it_was_asked_for_is_attached_at_once() {
    let mut host = Host::new("after");
    host.process(10, NGINX, "web");
    host.serves(10, 80);
    let mut orders = Orders::default();
    let mut attachment = host.begin(Attach::Proxies, &mut orders);
    host.notices(&mut attachment, &connect(10, 200), 8080, 201);
    attachment.settle(&mut orders);
    assert_eq!(orders.take(), ["+web"]);

    host.process(20, PYTHON, "app");
    host.serves(20, 8080);
    attachment.begins_to_serve(20, LOOK_EVERY, &host.processes);
    attachment.advance(LOOK_EVERY, &host.processes);
    attachment.settle(&mut orders);

    assert_eq!(orders.take(), ["+app"]);
}

#[test]
fn who_connects_and_serves_acts_as_a_proxy_until_it_is_found_to_be_none() {
    let mut host = Host::new("acts");
    host.process(40, PYTHON, "gateway");
    let mut orders = Orders::default();
    let mut attachment = host.begin(Attach::Proxies, &mut orders);

    host.notices(&mut attachment, &connect(40, 10), 5432, 11);
    attachment.settle(&mut orders);
    assert_eq!(orders.take(), Vec::<String>::new(), "it serves nobody");

    host.serves(40, 8081);
    attachment.begins_to_serve(40, 20, &host.processes);
    attachment.settle(&mut orders);
    assert_eq!(orders.take(), ["+gateway"]);

    attachment.is_no_proxy(40);
    attachment.settle(&mut orders);
    assert_eq!(orders.take(), ["-gateway"]);
    attachment.may_be_proxy(40, 30, &host.processes);
    attachment.settle(&mut orders);
    assert_eq!(orders.take(), ["+gateway"]);
}

#[test]
fn a_proxy_in_the_root_has_all_attached_and_those_below_detached_without_a_gap() {
    let mut host = Host::new("root");
    host.process(10, NGINX, "web");
    let mut orders = Orders::default();
    let mut attachment = host.begin(Attach::Proxies, &mut orders);
    assert_eq!(orders.take(), ["+web"]);

    host.process(11, NGINX, "");
    host.meet(&mut attachment, 11, 5);
    attachment.settle(&mut orders);
    assert_eq!(orders.take(), ["+", "-web"]);
    assert!(attachment.counts().is_everywhere);

    host.ends(11);
    attachment.advance(SWEEP_EVERY, &host.processes);
    attachment.settle(&mut orders);
    assert_eq!(orders.take(), ["+web", "-"]);
}

#[test]
fn where_a_cgroup_does_not_tell_all_is_attached() {
    // Another process is in the folder that its path names.
    let host = Host::new("untold");
    host.process(10, NGINX, "web");
    fs::write(host.cgroup("web").join("cgroup.procs"), "7\n").unwrap();
    let mut orders = Orders::default();
    host.begin(Attach::Proxies, &mut orders);
    assert_eq!(orders.take(), ["+"]);

    // It cannot be attached to.
    let host = Host::new("refused");
    host.process(10, NGINX, "web");
    let mut orders = Orders {
        refused: Some(libc::EPERM),
        ..Orders::default()
    };
    let attachment = host.begin(Attach::Proxies, &mut orders);
    assert_eq!(orders.take(), ["+"]);
    assert_eq!(attachment.counts().failed, 1);

    // Processes are not shown, or the operator wants it.
    let mut host = Host::new("everywhere");
    host.begin(Attach::Everywhere, &mut orders);
    assert_eq!(orders.take(), ["+"]);
    host.processes = Processes::under(&Settings::default(), None);
    assert!(host.begin(Attach::Proxies, &mut orders).is_final());
    assert_eq!(orders.take(), ["+"]);
}

#[test]
fn a_proxy_outside_of_the_cgroup_that_is_watched_is_not_attached() {
    let host = Host::new("outside");
    host.process(10, NGINX, "web");
    host.process(11, NGINX, "inside/web");
    let mut orders = Orders::default();
    let watched = host.folder.join("cgroups/inside");

    Attachment::begin(Attach::Proxies, &watched, &host.processes, &mut orders, 0).unwrap();

    assert_eq!(orders.take(), ["+inside/web"]);
}

#[test]
fn a_cgroup_without_its_proxy_is_detached_and_its_successor_attached_anew() {
    let mut host = Host::new("ended");
    host.process(10, NGINX, "web");
    host.process(11, NGINX, "edge");
    let mut orders = Orders::default();
    let mut attachment = host.begin(Attach::Proxies, &mut orders);
    orders.take();

    host.ends(10);
    attachment.advance(SWEEP_EVERY - 1, &host.processes);
    attachment.advance(SWEEP_EVERY, &host.processes);
    attachment.settle(&mut orders);
    assert_eq!(orders.take(), ["-web"]);

    // Started again, as a service is: another cgroup of the same name.
    host.ends(11);
    let edge = host.cgroup("edge");
    fs::rename(&edge, host.folder.join("gone")).unwrap();
    host.process(12, NGINX, "edge");
    host.meet(&mut attachment, 12, SWEEP_EVERY + 1);
    attachment.settle(&mut orders);
    assert_eq!(orders.take(), ["-edge", "+edge"]);
}

#[test]
fn what_began_before_packets_were_seen_is_seen_in_part() {
    let mut host = Host::new("part");
    let mut orders = Orders {
        time: 1000,
        ..Orders::default()
    };
    let mut attachment = host.begin(Attach::Proxies, &mut orders);
    host.process(10, NGINX, "web");
    // Its socket is in a cgroup that is seen, it is not.
    let seen = host.notices(&mut attachment, &request(10, 1050), 80, 1051);
    assert_eq!(seen, Seen::BesideUnseen);
    assert!(attachment.settle(&mut orders));

    for (began, seen) in [(1050, Seen::InPart), (1100, Seen::Whole)] {
        let noticed = host.notices(&mut attachment, &request(10, began), 80, 1200);
        assert_eq!(noticed, seen, "{began}");
    }
    // A process that is no proxy is as it always was.
    host.process(20, PYTHON, "app");
    let noticed = host.notices(&mut attachment, &request(20, 1050), 80, 1200);
    assert_eq!(noticed, Seen::Whole);
    assert_eq!(
        host.processes.known(20).unwrap().standing,
        Standing::Undecided
    );
}
