//! Who listens where on this host, in all its network namespaces.
//!
//! In: `/proc`, looked at when somebody asks, at most once in `LOOK_EVERY`. Out: listeners on a
//! port, seen from an address that was asked for. Nothing is connected to, and no namespace entered:
//! `/proc/PID/net` shows the one of its process.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use agent_core::observation::Nanos;
use rustc_hash::{FxHashMap, FxHashSet};

use super::neighbours::Netns;
use super::sockets::{Listening, MAX_FILES, holders, holds, listeners, own_addresses};
use crate::clock;
use crate::processes::Processes;

/// For how long one look holds, ns. Longer: what is told is older. Shorter: an outage costs more, for a
/// look reads some files of every process.
const LOOK_EVERY: Nanos = 1_000_000_000;

/// Processes looked at. Fewer: on a crowded host the listener is not found. More: a look takes longer,
/// 10 us each.
const MAX_PROCESSES: usize = 16_384;

/// Network namespaces looked at, each of which has two lists of sockets and two of addresses.
const MAX_NETWORKS: usize = 1024;

/// Listeners told of one port.
const TOLD: usize = 8;

/// The last look.
#[derive(Debug, Default)]
pub struct Listeners {
    looked: Option<Nanos>,
    networks: Vec<Network>,
    /// Who holds a listener, by its inode; `None` where that was not found at this look.
    owners: FxHashMap<u64, Option<Owner>>,
    /// Processes that hold a listener or may, by its inode, as far as that was asked since this look.
    holders: FxHashMap<u64, Vec<u32>>,
    /// Files that may be looked through until the next look.
    files_left: usize,
}

/// A network namespace.
#[derive(Debug)]
struct Network {
    netns: Netns,
    members: Vec<u32>,
    listeners: Vec<Listening>,
    /// Addresses of its interfaces, loopback left out.
    own: Vec<IpAddr>,
}

/// Who serves at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// The address is not one of this host.
    Elsewhere,
    /// Nobody listens there now.
    Nobody,
    /// One of these: those that hold the listeners, or, where that may not be read, those of their user.
    Here(Vec<u32>),
    /// Somebody on this host, and nothing shows who.
    Unknown,
}

/// A process that holds the listener where a proxy connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Thread group of the proxy.
    pub proxy: u32,
    /// Where that connects to, or is led to.
    pub at: SocketAddr,
    /// Thread group of who listens there.
    pub server: u32,
}

/// What is listened on around an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// When that was looked at.
    pub looked: Nanos,
    /// The address is one of this host, or of a namespace on it, and of one alone.
    pub is_here: bool,
    /// On the same port, at most some.
    pub listeners: Vec<Listener>,
}

/// A listener on the port that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens; the unspecified address for all.
    pub address: SocketAddr,
    /// How that lies to the address that was asked for.
    pub relation: Relation,
    /// Where else it is reached, if it listens at all addresses: one of its network.
    pub reached_at: Option<SocketAddr>,
    /// The process that holds it, where that could be read.
    pub owner: Option<Owner>,
    /// It has answered a proxy of the network that asked.
    pub has_answered: bool,
}

impl Listener {
    /// Where it is reached from elsewhere.
    pub fn reached(&self) -> SocketAddr {
        self.reached_at.unwrap_or(self.address)
    }
}

/// How a listener lies to the address that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// It takes connections to that address.
    Covers,
    /// In the network that the address is of, at another address.
    SameNetwork,
    /// In another network namespace.
    OtherNetwork,
}

/// The process that holds a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Thread group.
    pub tgid: u32,
    /// Its executable.
    pub program: Arc<str>,
    /// When it started; some ms wrong.
    pub started: Nanos,
    /// Id of its container.
    pub container: Option<Arc<str>>,
}

impl Listeners {
    /// What is listened on around `asked`, as seen from the network namespace `from`; `None` where the
    /// host's processes are not shown.
    pub fn around(
        &mut self,
        asked: SocketAddr,
        from: Option<Netns>,
        processes: &Processes,
    ) -> Option<Around> {
        let proc = processes.proc()?;
        let now = clock::monotonic();
        self.look_again(now, proc, processes);
        let home = self.home(asked.ip(), from);
        let mut found = Vec::new();
        for network in &self.networks {
            for Listening { address, inode, .. } in &network.listeners {
                if address.port() != asked.port() {
                    continue;
                }
                let relation = match home {
                    Some(home) if home == network.netns && covers(address.ip(), asked.ip()) => {
                        Relation::Covers
                    }
                    Some(home) if home == network.netns => Relation::SameNetwork,
                    _ => Relation::OtherNetwork,
                };
                // On the loopback of another network nobody else reaches it.
                if relation == Relation::OtherNetwork && address.ip().is_loopback() {
                    continue;
                }
                found.push((relation, *address, *inode, network.netns));
            }
        }
        found.sort_by_key(|(relation, address, ..)| (*relation as u8, *address));
        found.truncate(TOLD);
        let listeners = found
            .into_iter()
            .map(|(relation, address, inode, netns)| Listener {
                address,
                relation,
                reached_at: self.reached_at(address, netns),
                owner: self.owner(inode, netns, proc, processes),
                has_answered: false,
            })
            .collect();
        Some(Around {
            looked: self.looked?,
            is_here: home.is_some(),
            listeners,
        })
    }

    /// What is known is old: the next question is answered by a new look.
    pub fn expire(&mut self) {
        self.looked = None;
    }

    /// Who serves at `asked`, as seen from the network namespace `from`.
    pub fn servers(
        &mut self,
        asked: SocketAddr,
        from: Option<Netns>,
        processes: &Processes,
    ) -> Servers {
        let Some(proc) = processes.proc() else {
            return Servers::Unknown;
        };
        self.look_again(clock::monotonic(), proc, processes);
        let is_home = |network: &&Network| {
            if asked.ip().is_loopback() {
                Some(network.netns) == from
            } else {
                network.own.contains(&asked.ip())
            }
        };
        let mut servers = Vec::new();
        let mut listeners = 0;
        let mut is_here = false;
        for network in self.networks.iter().filter(is_home) {
            is_here = true;
            let there = network.listeners.iter().filter(|one| {
                one.address.port() == asked.port() && covers(one.address.ip(), asked.ip())
            });
            for listener in there.take(TOLD) {
                listeners += 1;
                let files = &mut self.files_left;
                // One at all addresses of the host is asked for by each of them.
                let holders = self
                    .holders
                    .entry(listener.inode)
                    .or_insert_with(|| holders(proc, &network.members, listener, files));
                servers.extend_from_slice(holders);
            }
        }
        servers.sort_unstable();
        servers.dedup();
        match (is_here, listeners) {
            (false, _) => Servers::Elsewhere,
            (true, 0) => Servers::Nobody,
            (true, _) if servers.is_empty() => Servers::Unknown,
            (true, _) => Servers::Here(servers),
        }
    }

    fn look_again(&mut self, now: Nanos, proc: &Path, processes: &Processes) {
        if self
            .looked
            .is_none_or(|at| now.saturating_sub(at) >= LOOK_EVERY)
        {
            self.look(proc, processes);
            // The time before the look: what is reported was so then or later.
            self.looked = Some(now);
        }
    }

    /// The network namespace that an address is of; `None` when it is of none here, or of several.
    fn home(&self, ip: IpAddr, from: Option<Netns>) -> Option<Netns> {
        if ip.is_loopback() {
            return from;
        }
        let mut of = self.networks.iter().filter(|one| one.own.contains(&ip));
        let home = of.next()?;
        of.next().is_none().then_some(home.netns)
    }

    /// An address of the network where a listener at all addresses is reached.
    fn reached_at(&self, address: SocketAddr, netns: Netns) -> Option<SocketAddr> {
        if !address.ip().is_unspecified() {
            return None;
        }
        let network = self.networks.iter().find(|one| one.netns == netns)?;
        let mut own = network.own.iter();
        let same = own.find(|ip| ip.is_ipv4() || address.is_ipv6() && !is_link_local(**ip));
        same.map(|ip| SocketAddr::new(*ip, address.port()))
    }

    fn owner(
        &mut self,
        inode: u64,
        netns: Netns,
        proc: &Path,
        processes: &Processes,
    ) -> Option<Owner> {
        if let Some(owner) = self.owners.get(&inode) {
            return owner.clone();
        }
        let network = self.networks.iter().find(|one| one.netns == netns)?;
        let files = &mut self.files_left;
        let mut members = network.members.iter();
        let holder = members
            .find(|tgid| holds(proc, **tgid, inode, files))
            .copied();
        let owner = holder.and_then(|tgid| {
            let described = processes.identify(tgid);
            Some(Owner {
                tgid,
                program: described.program,
                started: processes.started(tgid)?,
                container: described.ids.container,
            })
        });
        self.owners.insert(inode, owner.clone());
        owner
    }

    fn look(&mut self, proc: &Path, processes: &Processes) {
        let lives = |owner: &Owner| processes.started(owner.tgid).is_some();
        self.owners
            .retain(|_, owner| owner.as_ref().is_some_and(lives));
        self.files_left = MAX_FILES;
        self.holders.clear();
        self.networks.clear();
        let mut by_netns: FxHashMap<Netns, usize> = FxHashMap::default();
        let entries = fs::read_dir(proc).into_iter().flatten().flatten();
        let tgids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for tgid in tgids.take(MAX_PROCESSES) {
            let folder = proc.join(tgid.to_string());
            let Ok(netns) = fs::metadata(folder.join("ns/net")) else {
                continue;
            };
            let netns = netns.ino();
            if let Some(at) = by_netns.get(&netns) {
                self.networks[*at].members.push(tgid);
            } else if self.networks.len() < MAX_NETWORKS {
                by_netns.insert(netns, self.networks.len());
                self.networks.push(Network {
                    netns,
                    members: vec![tgid],
                    listeners: listeners(&folder),
                    own: own_addresses(&folder),
                });
            }
        }
        for network in &mut self.networks {
            network.members.sort_unstable();
        }
        let listeners = self.networks.iter().flat_map(|one| &one.listeners);
        let inodes: FxHashSet<u64> = listeners.map(|listener| listener.inode).collect();
        self.owners.retain(|inode, _| inodes.contains(inode));
    }
}

/// A listener at `own` takes connections to `asked`. One at all IPv6 addresses takes IPv4 as well,
/// unless it was told not to (IPV6_V6ONLY), which is not shown.
fn covers(own: IpAddr, asked: IpAddr) -> bool {
    own == asked || own.is_unspecified() && (own.is_ipv6() || asked.is_ipv4())
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{IpAddr, TcpListener};
    use std::os::unix::fs::MetadataExt;

    use super::{Around, Listeners, Netns, Relation, Servers, covers};
    use crate::clock;
    use crate::config::Settings;
    use crate::processes::Processes;

    /// The processes of this host and the network of this one; `None` outside of the host's pid namespace,
    /// where nothing is shown.
    fn here() -> Option<(Processes, Netns)> {
        let processes = Processes::new(&Settings::default());
        let netns = fs::metadata(processes.proc()?.join("self/ns/net")).unwrap();
        Some((processes, netns.ino()))
    }

    #[test]
    fn a_listener_at_all_addresses_covers_those_of_its_family() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (own, asked, is_covered) in [
            ("0.0.0.0", "10.0.0.5", true),
            ("0.0.0.0", "::1", false),
            ("::", "10.0.0.5", true),
            ("127.0.0.1", "10.0.0.5", false),
            ("10.0.0.5", "10.0.0.5", true),
        ] {
            assert_eq!(covers(ip(own), ip(asked)), is_covered, "{own} {asked}");
        }
    }

    #[test]
    fn a_listener_of_this_process_is_found_with_its_process() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listening.local_addr().unwrap();
        let Some((processes, netns)) = here() else {
            return;
        };
        let mut listeners = Listeners::default();
        let mut around = |asked: &str| -> Around {
            let asked = format!("{asked}:{}", at.port()).parse().unwrap();
            listeners.around(asked, Some(netns), &processes).unwrap()
        };

        let exact = around("127.0.0.1");
        let beside = around("127.0.0.2");

        let found = &exact.listeners[0];
        assert_eq!((found.address, found.relation), (at, Relation::Covers));
        let owner = found.owner.as_ref().expect("its own files can be read");
        assert_eq!(owner.tgid, std::process::id());
        assert!(owner.started <= clock::monotonic());
        assert_eq!(beside.listeners[0].relation, Relation::SameNetwork);
        assert!(beside.is_here);
    }

    #[test]
    fn who_serves_at_an_address_is_found() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listening.local_addr().unwrap();
        let Some((processes, netns)) = here() else {
            return;
        };
        let own = std::process::id();
        let mut listeners = Listeners::default();
        let mut servers =
            |asked: &str| listeners.servers(asked.parse().unwrap(), Some(netns), &processes);

        assert_eq!(servers(&at.to_string()), Servers::Here(vec![own]));
        let beside = format!("127.0.0.2:{}", at.port());
        assert_eq!(servers(&beside), Servers::Nobody);
        assert_eq!(servers("192.0.2.1:80"), Servers::Elsewhere);
    }
}
