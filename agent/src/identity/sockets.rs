//! What `/proc` says of the sockets of a process and of its network.
//!
//! In: where processes are shown. Out: listeners, connections, who holds which, addresses.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustc_hash::FxHashSet;

/// Open files that are looked through for who holds a listener, at one look. Fewer: on a crowded host
/// that is not found. More: records wait longer, 1 us each.
pub(super) const MAX_FILES: usize = 16_384;

/// Processes of a user that may be who holds a listener. Fewer: of a server with many workers it is not
/// known. More: cgroups are taken for a server's that are none of its.
const MAX_GUESSED: usize = 16;

/// Listeners of one network namespace.
const MAX_LISTENERS: usize = 4096;

/// Bytes of a list of addresses; a router has more routes than that, and is no host of containers.
const MAX_ADDRESSES_BYTES: u64 = 1 << 20;

/// Connections looked through for those of one process.
const MAX_CONNECTIONS: usize = 65_536;

/// State LISTEN in `/proc/net/tcp` (include/net/tcp_states.h).
const LISTEN: &str = "0A";

/// State ESTABLISHED.
const ESTABLISHED: &str = "01";

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    /// Its number.
    pub inode: u64,
    /// Of the user who made it.
    pub uid: u32,
}

/// The process has this socket open; of `left` files more that may be looked at.
pub(super) fn holds(proc: &Path, tgid: u32, inode: u64, left: &mut usize) -> bool {
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

/// Those of these processes that have the listener open; where there is none, those of its user whose
/// files may not be read.
pub(super) fn holders(
    proc: &Path,
    members: &[u32],
    listener: &Listening,
    left: &mut usize,
) -> Vec<u32> {
    let (mut open, mut closed) = (Vec::new(), Vec::new());
    for tgid in members {
        let folder = proc.join(tgid.to_string());
        if holds(proc, *tgid, listener.inode, left) {
            open.push(*tgid);
        } else if fs::metadata(&folder).is_ok_and(|of| of.uid() == listener.uid)
            && fs::read_dir(folder.join("fd")).is_err()
        {
            closed.push(*tgid);
        }
    }
    if !open.is_empty() {
        return open;
    }
    // Most processes of a host are of one user: then that says nothing.
    closed.truncate(if closed.len() > MAX_GUESSED {
        0
    } else {
        MAX_GUESSED
    });
    closed
}

/// Whether a process has a listener open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Yes.
    Yes,
    /// No.
    No,
    /// Its files may not be read, and its user has one.
    Perhaps,
    /// Its files may not be read, and somebody in its network has one: it may have been handed that.
    Unknown,
}

/// Whether it can be seen which files a process has open.
pub fn are_readable(proc: &Path, tgid: u32) -> bool {
    fs::read_dir(proc.join(tgid.to_string()).join("fd")).is_ok()
}

/// Whether a process has a listener open.
pub fn holds_listener(proc: &Path, tgid: u32) -> Held {
    let folder = proc.join(tgid.to_string());
    let own: FxHashSet<u64> = match fs::read_dir(folder.join("fd")) {
        Ok(files) => sockets(files).take(MAX_FILES).collect(),
        // It has ended.
        Err(error) if error.kind() == ErrorKind::NotFound => return Held::No,
        Err(_) => {
            let listeners = listeners(&folder);
            let owner = fs::metadata(&folder).map(|metadata| metadata.uid());
            let has_one = owner.is_ok_and(|uid| listeners.iter().any(|one| one.uid == uid));
            return match listeners.is_empty() {
                true => Held::No,
                false if has_one => Held::Perhaps,
                false => Held::Unknown,
            };
        }
    };
    if own.is_empty() {
        return Held::No;
    }
    let mut listeners = listeners(&folder).into_iter();
    if listeners.any(|one| own.contains(&one.inode)) {
        Held::Yes
    } else {
        Held::No
    }
}

/// Where the connections of a process lead that it has not accepted.
pub fn connected(proc: &Path, tgid: u32) -> Vec<SocketAddr> {
    let folder = proc.join(tgid.to_string());
    let ports: FxHashSet<u16> = listeners(&folder)
        .iter()
        .map(|one| one.address.port())
        .collect();
    let Ok(files) = fs::read_dir(folder.join("fd")) else {
        return Vec::new();
    };
    let own: FxHashSet<u64> = sockets(files).take(MAX_FILES).collect();
    let lists = ["net/tcp", "net/tcp6"].map(|name| File::open(folder.join(name)));
    let mut all = FxHashSet::default();
    for list in lists.into_iter().flatten() {
        let lines = BufReader::new(list).lines().map_while(Result::ok).skip(1);
        for (local, remote, inode) in lines.take(MAX_CONNECTIONS).filter_map(|line| ends(&line)) {
            if own.contains(&inode) && !ports.contains(&local.port()) {
                all.insert(remote);
            }
        }
    }
    all.into_iter().collect()
}

/// Numbers of the sockets among these files.
fn sockets(files: fs::ReadDir) -> impl Iterator<Item = u64> {
    files.flatten().filter_map(|file| {
        let target = fs::read_link(file.path()).ok()?;
        let number = target.to_str()?.strip_prefix("socket:[")?;
        number.strip_suffix(']')?.parse().ok()
    })
}

/// Listeners in the network of a process.
pub(super) fn listeners(folder: &Path) -> Vec<Listening> {
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

/// A line of proc_pid_net_tcp(5); `None` when it is no listener's.
fn listener(line: &str) -> Option<Listening> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let address = socket_address(words.next()?)?;
    let state = words.nth(1)?;
    if state != LISTEN {
        return None;
    }
    Some(Listening {
        address,
        uid: words.nth(3)?.parse().ok()?,
        inode: words.nth(1)?.parse().ok()?,
    })
}

/// Both ends and the inode of such a line; `None` when it is not of a connection.
fn ends(line: &str) -> Option<(SocketAddr, SocketAddr, u64)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (words.next()?, words.next()?);
    if words.next()? != ESTABLISHED {
        return None;
    }
    let inode = words.nth(5)?.parse().ok()?;
    Some((socket_address(local)?, socket_address(remote)?, inode))
}

/// An address and port as the kernel prints them here.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(SocketAddr::new(ip_of_words(address)?, port))
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
pub(super) fn own_addresses(folder: &Path) -> Vec<IpAddr> {
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
    use std::net::{IpAddr, TcpListener, TcpStream};
    use std::path::Path;

    use super::{Held, Listening, connected, ends, holds_listener, listener, local_in_trie};

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let four = "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 25543 1 0 100 0 0 10 0";
        let six = "   0: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 99 1 0 100 0 0 10 0";
        if cfg!(target_endian = "little") {
            let at = |address: &str, inode, uid| {
                let address = address.parse().unwrap();
                Some(Listening {
                    address,
                    inode,
                    uid,
                })
            };
            assert_eq!(listener(four), at("127.0.0.1:8080", 25543, 1000));
            assert_eq!(listener(six), at("127.0.0.1:80", 99, 0));
        }
        let connection = four.replace(" 0A ", " 01 ");
        assert_eq!(listener(&connection), None);
        assert_eq!(ends(&connection).map(|(.., inode)| inode), Some(25543));
        assert_eq!(ends(four), None);
        assert_eq!(listener("nonsense"), None);
    }

    #[test]
    fn local_addresses_are_those_of_hosts() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n     |-- 127.0.0.0\n        /8 host LOCAL\n";

        assert_eq!(local_in_trie(trie), ["10.0.0.5".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn who_serves_and_who_connects_is_seen() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listening.local_addr().unwrap();
        let client = TcpStream::connect(at).unwrap();
        let (proc, own) = (Path::new("/proc"), std::process::id());

        assert_eq!(holds_listener(proc, own), Held::Yes);
        assert!(connected(proc, own).contains(&at));
        // The other end is accepted.
        assert!(!connected(proc, own).contains(&client.local_addr().unwrap()));
        assert_eq!(holds_listener(proc, u32::MAX), Held::No);
        assert_eq!(connected(proc, u32::MAX), []);
    }
}
