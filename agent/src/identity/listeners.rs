//! Who listens where on this host, in all its network namespaces.
//!
//! In: `/proc`, looked at when somebody asks, at most once in `LOOK_EVERY`. Out: listeners on a
//! port, seen from an address that was asked for. Nothing is connected to, and no namespace entered:
//! `/proc/PID/net` shows the one of its process.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use agent_core::observation::Nanos;
use rustc_hash::{FxHashMap, FxHashSet};

use super::neighbours::Netns;
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

/// Listeners of one network namespace.
const MAX_LISTENERS: usize = 4096;

/// Bytes of a list of addresses; a router has more routes than that, and is no host of containers.
const MAX_ADDRESSES_BYTES: u64 = 1 << 20;

/// Listeners told of one port.
const TOLD: usize = 8;

/// Open files that are looked through for who holds a listener, at one look. Fewer: on a crowded host
/// that is not found. More: records wait longer, 1 us each.
const MAX_FILES: usize = 16_384;

/// State LISTEN in `/proc/net/tcp` (include/net/tcp_states.h).
const LISTEN: &str = "0A";

/// The last look.
#[derive(Debug, Default)]
pub struct Listeners {
    looked: Option<Nanos>,
    networks: Vec<Network>,
    /// Who holds a listener, by its inode; `None` where that was not found at this look.
    owners: FxHashMap<u64, Option<Owner>>,
    /// Files that may be looked through until the next look.
    files_left: usize,
}

/// A network namespace.
#[derive(Debug)]
struct Network {
    netns: Netns,
    members: Vec<u32>,
    /// Address and inode.
    listeners: Vec<(SocketAddr, u64)>,
    /// Addresses of its interfaces, loopback left out.
    own: Vec<IpAddr>,
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
        if self
            .looked
            .is_none_or(|at| now.saturating_sub(at) >= LOOK_EVERY)
        {
            self.look(proc, processes);
            // Before it began, so that what is told was so then or later.
            self.looked = Some(now);
        }
        let home = self.home(asked.ip(), from);
        let mut found = Vec::new();
        for network in &self.networks {
            for (address, inode) in &network.listeners {
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
        let inodes: FxHashSet<u64> = listeners.map(|(_, inode)| *inode).collect();
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

/// The process has this socket open; of `left` files more that may be looked at.
fn holds(proc: &Path, tgid: u32, inode: u64, left: &mut usize) -> bool {
    let wanted = format!("socket:[{inode}]");
    let files = fs::read_dir(proc.join(tgid.to_string()).join("fd"));
    for file in files.into_iter().flatten().flatten() {
        let Some(fewer) = left.checked_sub(1) else {
            return false;
        };
        *left = fewer;
        if fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()) {
            return true;
        }
    }
    false
}

/// Listeners in the network of a process.
fn listeners(folder: &Path) -> Vec<(SocketAddr, u64)> {
    let lists = ["net/tcp", "net/tcp6"].map(|name| File::open(folder.join(name)));
    let mut all = Vec::new();
    for list in lists.into_iter().flatten() {
        // Listeners come first (tcp_get_idx, net/ipv4/tcp_ipv4.c): connections are not read.
        let lines = BufReader::new(list).lines().map_while(Result::ok).skip(1);
        let found = lines.map_while(|line| listener(&line));
        all.extend(found.take(MAX_LISTENERS));
    }
    all
}

/// Address and inode of a line of proc_pid_net_tcp(5); `None` when it is no listener's.
fn listener(line: &str) -> Option<(SocketAddr, u64)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    let state = words.nth(1)?;
    if state != LISTEN {
        return None;
    }
    let inode = words.nth(5)?.parse().ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((SocketAddr::new(ip_of_words(address)?, port), inode))
}

/// An address as the kernel prints it here: each 32 bits as a number of this machine.
fn ip_of_words(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok();
    if hex.len() == 8 {
        return Some(IpAddr::V4(Ipv4Addr::from(word(0)?.to_ne_bytes())));
    }
    let mut bytes = [0; 16];
    for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
        part.copy_from_slice(&word(at)?.to_ne_bytes());
    }
    let ip = Ipv6Addr::from(bytes);
    Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4))
}

/// Addresses of the interfaces in the network of a process.
fn own_addresses(folder: &Path) -> Vec<IpAddr> {
    let read = |name| {
        let mut text = String::new();
        let file = File::open(folder.join(name)).ok()?;
        file.take(MAX_ADDRESSES_BYTES)
            .read_to_string(&mut text)
            .ok()?;
        Some(text)
    };
    let mut all = local_in_trie(&read("net/fib_trie").unwrap_or_default());
    let six = read("net/if_inet6").unwrap_or_default();
    all.extend(six.lines().filter_map(|line| {
        let digits = line.split_ascii_whitespace().next()?;
        Some(IpAddr::V6(Ipv6Addr::from(
            u128::from_str_radix(digits, 16).ok()?,
        )))
    }));
    all.retain(|ip| !ip.is_loopback());
    all.sort_unstable();
    all.dedup();
    all
}

/// `fib_trie` has an address, and below it what it is: `/32 host LOCAL` is one of this network.
fn local_in_trie(trie: &str) -> Vec<IpAddr> {
    let mut last = None;
    let mut all = Vec::new();
    for line in trie.lines() {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            all.extend(last.map(IpAddr::V4));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, TcpListener};

    use super::{Around, Listeners, Relation, covers, listener, local_in_trie};
    use crate::clock;
    use crate::config::Settings;
    use crate::processes::Processes;

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let four = "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 25543 1 0 100 0 0 10 0";
        let six = "   0: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 99 1 0 100 0 0 10 0";
        if cfg!(target_endian = "little") {
            assert_eq!(
                listener(four),
                Some(("127.0.0.1:8080".parse().unwrap(), 25543))
            );
            assert_eq!(listener(six), Some(("127.0.0.1:80".parse().unwrap(), 99)));
        }
        assert_eq!(listener(&four.replace(" 0A ", " 01 ")), None);
        assert_eq!(listener("nonsense"), None);
    }

    #[test]
    fn local_addresses_are_those_of_hosts() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n     |-- 127.0.0.0\n        /8 host LOCAL\n";

        assert_eq!(local_in_trie(trie), ["10.0.0.5".parse::<IpAddr>().unwrap()]);
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
        let processes = Processes::new(&Settings::default());
        let Some(proc) = processes.proc() else {
            return; // Not in the host's pid namespace: nothing is shown.
        };
        use std::os::unix::fs::MetadataExt;
        let netns = std::fs::metadata(proc.join("self/ns/net")).unwrap().ino();
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
}
