//! Network namespaces of a test's own, joined to the host by a veth pair.
//!
//! In: nothing. Out: names, addresses, and ways to run programs and closures inside. All of
//! it goes when dropped; deleting the namespace takes the pair along.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::output_of;
use crate::wait::eventually;

/// How long a new pair of interfaces may take to carry packets.
const ANSWERS: Duration = Duration::from_secs(10);

/// Pairs of addresses that are looked at for one that is free.
const TRIES: usize = 64;

/// Numbers namespaces within this process.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A namespace with `lo` up.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

/// Two ends of a veth pair, by addresses.
#[derive(Debug)]
pub struct Veth {
    /// Name of the interface at the near end.
    pub near_interface: String,
    /// IPv4 address of the near end.
    pub near: IpAddr,
    /// IPv4 address of the far end.
    pub far: IpAddr,
    /// IPv6 address of the near end.
    pub near6: IpAddr,
    /// IPv6 address of the far end.
    pub far6: IpAddr,
}

impl Netns {
    /// Makes a namespace of its own name.
    #[track_caller]
    pub fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("e2e-{}-{number}", std::process::id());
        output_of(Command::new("ip").args(["netns", "add", &name]));
        let netns = Self { name };
        netns.ip("link set lo up");
        netns
    }

    /// What `ip netns` calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the kernel shows it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip` inside.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        output_of(
            Command::new("ip")
                .args(["-n", &self.name])
                .args(words.split_whitespace()),
        )
    }

    /// Joins the host (`near`) to this namespace (far end), or `near` to it when given.
    ///
    /// Addresses are from 198.18.0.0/15, the range for tests of networks (RFC 2544), and
    /// from the unique local fd00::/8; each pair has its own.
    #[track_caller]
    pub fn join(&self, near: Option<&Self>) -> Veth {
        let (number, [near_address, far_address]) = pair_of_addresses();
        let [high, low] = number.to_be_bytes();
        let process = std::process::id();
        let [.., third, fourth] = process.to_be_bytes();
        let address6 = |host: u16| {
            IpAddr::V6(Ipv6Addr::new(
                0xfd02,
                u16::from_be_bytes([third, fourth]),
                u16::from_be_bytes([high, low]),
                0,
                0,
                0,
                0,
                host,
            ))
        };
        let near_interface = format!("w{process}n{number}");
        let far_interface = format!("w{process}f{number}");
        let on_near = |words: String| match near {
            Some(near) => near.ip(&words),
            None => output_of(Command::new("ip").args(words.split_whitespace())),
        };
        on_near(format!(
            "link add {near_interface} type veth peer name {far_interface} netns {}",
            self.name
        ));
        let veth = Veth {
            near_interface: near_interface.clone(),
            near: near_address,
            far: far_address,
            near6: address6(1),
            far6: address6(2),
        };
        on_near(format!("addr add {}/30 dev {near_interface}", veth.near));
        on_near(format!(
            "addr add {}/64 dev {near_interface} nodad",
            veth.near6
        ));
        on_near(format!("link set {near_interface} up"));
        self.ip(&format!("addr add {}/30 dev {far_interface}", veth.far));
        self.ip(&format!(
            "addr add {}/64 dev {far_interface} nodad",
            veth.far6
        ));
        self.ip(&format!("link set {far_interface} up"));
        let far = [veth.far, veth.far6];
        match near {
            Some(near) => near
                .run(move || wait_until_answering(far))
                .join()
                .expect("the far end answers"),
            None => wait_until_answering(far),
        }
        veth
    }

    /// Sets a value under /proc/sys/net of this namespace: `ipv4/tcp_retries2`.
    #[track_caller]
    pub fn set(&self, name: &str, value: &str) {
        let path = PathBuf::from("/proc/sys/net").join(name);
        let (file, text) = (path.clone(), value.to_owned());
        // What a path there shows goes by the namespace of the thread that opens it.
        self.run(move || fs::write(file, text))
            .join()
            .expect("writing a file does not panic")
            .unwrap_or_else(|error| panic!("cannot write {value} to {}: {error}", path.display()));
    }

    /// Drops what arrives here for TCP port `port`, without a word to the sender.
    #[track_caller]
    pub fn swallow(&self, port: u16) {
        self.filter(&format!("tcp dport {port} drop"));
    }

    /// Adds a rule of nftables for what arrives here.
    #[track_caller]
    pub fn filter(&self, rule: &str) {
        self.filter_hook("input", rule);
    }

    /// Adds a rule of nftables for what leaves from here.
    #[track_caller]
    pub fn filter_leaving(&self, rule: &str) {
        self.filter_hook("output", rule);
    }

    /// Removes all rules that were added.
    #[track_caller]
    pub fn unfilter(&self) {
        output_of(
            Command::new("nsenter")
                .arg(format!("--net={}", self.path().display()))
                .args(["nft", "delete table inet e2e"]),
        );
    }

    #[track_caller]
    fn filter_hook(&self, hook: &str, rule: &str) {
        let path = self.path();
        let rules = format!(
            "table inet e2e {{\n chain {hook} {{\n type filter hook {hook} priority 0;\n \
             {rule}\n }}\n }}\n"
        );
        output_of(
            Command::new("nsenter")
                .arg(format!("--net={}", path.display()))
                .args(["nft", &rules]),
        );
    }

    /// Runs a closure on a thread inside.
    #[track_caller]
    pub fn run<T: Send + 'static>(
        &self,
        inside: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let path = self.path();
        let netns = File::open(&path)
            .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
        std::thread::spawn(move || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter a network namespace");
            inside()
        })
    }
}

/// A number within this process, and two IPv4 addresses of the /30 that goes with it.
pub(crate) fn pair_of_addresses() -> (u16, [IpAddr; 2]) {
    // A namespace whose test is over lives on while one of its sockets does, and another process may
    // have had the same addresses: what was connected to there would be refused.
    let is_free = |(_, [near, _]): &(u16, [IpAddr; 2])| UdpSocket::bind((*near, 0)).is_err();
    let mut pairs = (0..TRIES).map(|_| next_pair_of_addresses());
    pairs.find(is_free).expect("some addresses are free")
}

fn next_pair_of_addresses() -> (u16, [IpAddr; 2]) {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, low] = number.to_be_bytes();
    let [.., third, fourth] = std::process::id().to_be_bytes();
    // Four addresses a pair; pairs of one process are neighbours.
    let base = (u32::from(third) << 16 | u32::from(fourth) << 8 | u32::from(low) << 2) & 0x1_ffff;
    let first = Ipv4Addr::new(198, 18, 0, 0).to_bits() | base;
    let address = |host: u32| IpAddr::V4(Ipv4Addr::from_bits(first | host));
    (number, [address(1), address(2)])
}

/// Waits until a packet gets there and back. An interface that has just come up has not joined
/// its multicast groups yet, and the next neighbour solicitation is sent 1 s after one that was
/// lost: as long as the proxies of these tests wait for a connection.
#[track_caller]
fn wait_until_answering(far: [IpAddr; 2]) {
    for address in far {
        let nobody_listens = SocketAddr::new(address, 1);
        eventually(
            ANSWERS,
            "the far end answers",
            || match TcpStream::connect_timeout(&nobody_listens, Duration::from_millis(100)) {
                Err(error) if error.kind() != ErrorKind::ConnectionRefused => {
                    Err(error.to_string())
                }
                _ => Ok(()),
            },
        );
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Not `output_of`: a panic while panicking would end the whole test run.
        let deleted = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("network namespace {} is left over", self.name);
        }
    }
}
