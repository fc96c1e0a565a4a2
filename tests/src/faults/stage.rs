//! What the modes need, for one proxy: upstream servers, dead and dark addresses, Unix
//! sockets, certificates, DNS servers, and the groups that lead to them.

mod local;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::fs::{Mode as FileMode, chmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;

use crate::netns::Netns;
use crate::ports::Refusing;
use crate::proxies::{Group, Judged, Name, Target, Tls};
use crate::tls::TlsServer;
use crate::upstreams::Upstreams;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long the race port keeps an idle connection. Too short: it is gone before the proxy is
/// held. Too long: slow tests.
pub const RACE_IDLE: Duration = Duration::from_millis(400);

/// Health checks are not what is looked at: few of them.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// An address of this host that no other stage of this program has.
fn next_address() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 53, high, low)
}

/// Ports in the namespace behind which the network fails.
const LOST: [&str; 3] = ["9001", "9002", "9003"];

/// Everything alive until dropped.
#[derive(Debug)]
pub struct Stage {
    /// What a proxy has to be told.
    pub groups: Vec<Group>,
    /// Where the connections of a race lead.
    pub race: SocketAddr,
    /// Another host, and its address; not on a [`Stage::local`].
    far: Option<(Netns, IpAddr)>,
    _upstreams: Vec<Upstreams>,
    _refusing: Vec<Refusing>,
    _tls: Option<TlsServers>,
    _queued: Vec<Socket>,
    _unix: Vec<UnixListener>,
    _unix_queued: Vec<Socket>,
    _folder: TempDir,
}

impl Stage {
    /// Builds it.
    #[track_caller]
    pub fn build() -> Self {
        let folder = TempDir::with_prefix("e2e-faults-").expect("a temporary folder can be made");
        open_to_all(&folder.path().to_owned());
        let mut groups = Vec::new();
        let mut add = |name: &'static str, target: Target| groups.push(Group::new(name, target));
        let server = |address: SocketAddr| Target::Servers(vec![address]);

        let dns = ["nxdomain", "servfail", "silent"]
            .map(|answer| format!("{}:53={answer}", next_address()));
        let upstreams = Upstreams::start_with_dns(
            LOCALHOST,
            // Varnish has one pool of connections for each address: groups whose connections
            // are looked at have an address of their own.
            &[
                "0",
                "0",
                "0",
                "0",
                "0=ok,idle=400",
                "0=slam",
                "0=slam,by=rst",
                "0=banner",
                "0=hello=close",
                "0=hello=reset",
                "0=hello=alert",
                "0=hello=plain",
                "0=hello=hang",
                "0=deaf",
                "0=reset",
                "0=reset",
                "0=reset",
            ],
            // The port by which the agent knows a name server.
            &dns.each_ref().map(String::as_str),
            None,
        );
        let [
            good,
            kept,
            kept_slow,
            limited,
            race,
            slam,
            slam_rst,
            banner,
            tls_closed,
            tls_reset,
            tls_alert,
            tls_plain,
            tls_silent,
            deaf,
            resetting,
            resetting_a,
            resetting_b,
            nxdomain,
            servfail,
            silent,
        ] = *upstreams.addresses.as_slice()
        else {
            panic!("each server that was ordered has an address");
        };
        let refusing: Vec<Refusing> = (0..6).map(|_| Refusing::new(LOCALHOST)).collect();
        let [refused, refused_post, dead_a, dead_b, dead_c, dead_d] = refusing.as_slice() else {
            panic!("six were made");
        };

        add("fresh", server(good));
        add("slam", server(slam));
        add("slam_rst", server(slam_rst));
        add("banner", server(banner));
        add("refused", server(refused.address));
        add("refused_post", server(refused_post.address));
        add("deaf", server(deaf));
        // TCP to a multicast address is refused by the kernel itself (tcp_v4_connect).
        let multicast = Ipv4Addr::new(224, 0, 0, 1);
        add("no_route", server(SocketAddr::new(multicast.into(), 9)));
        let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        add("no_scope", server(SocketAddr::new(link_local.into(), 9)));
        add("disabled", Target::Disabled(good));
        add("static", Target::Static);
        add("limited", Target::Limited(limited));
        add(
            "judged",
            Target::Judged(Judged {
                servers: vec![dead_a.address, dead_b.address],
                check_every: CHECK_EVERY,
            }),
        );
        for (name, resolver) in [
            ("dns_nx", nxdomain),
            ("dns_fail", servfail),
            ("dns_silent", silent),
        ] {
            add(
                name,
                Target::Name(Name {
                    host: "app.e2e.test",
                    port: good.port(),
                    resolver,
                }),
            );
        }

        let far = Netns::new();
        let far_address = far.join(None).far;
        let far_upstreams = Upstreams::start(far_address, &LOST, Some(&far));
        far.swallow(9);
        add("dark", server(SocketAddr::new(far_address, 9)));
        for (name, port, icmp) in [
            ("icmp_host", 10, "host-unreachable"),
            ("icmp_admin", 11, "admin-prohibited"),
            ("icmp_port", 12, "port-unreachable"),
        ] {
            far.filter(&format!("tcp dport {port} reject with icmp {icmp}"));
            add(name, server(SocketAddr::new(far_address, port)));
        }
        // Only segments with data have PSH here: the handshake passes.
        far.filter("tcp dport 9002 tcp flags & psh == psh drop");
        far.filter_leaving("tcp sport 9003 tcp flags & psh == psh drop");
        add("lost_fresh", server(SocketAddr::new(far_address, 9002)));
        add("lost_answer", server(SocketAddr::new(far_address, 9003)));

        let mut crashing = Vec::new();
        for name in ["killed", "segfault", "killed_body"] {
            // A process each, for it ends.
            let one = Upstreams::start(LOCALHOST, &["0"], None);
            add(name, Target::Servers(one.addresses.clone()));
            crashing.push(one);
        }

        let sockets = UnixSockets::make(&folder);
        add("unix_missing", Target::Unix(folder.path().join("missing")));
        add("unix_refused", Target::Unix(sockets.refused.clone()));
        add("unix_full", Target::Unix(sockets.full.clone()));

        let tls = TlsServers::start(&folder);
        let trusted = tls.good.certificate.clone();
        for (name, server) in [
            ("tls_closed", tls_closed),
            ("tls_reset", tls_reset),
            ("tls_alert", tls_alert),
            ("tls_plain", tls_plain),
            ("tls_silent", tls_silent),
            ("tls_ok", tls.good.address),
            ("tls_untrusted", tls.untrusted.address),
        ] {
            let trusted = trusted.clone();
            add(name, Target::Tls(Tls { server, trusted }));
        }

        groups.extend([
            Group::new("kept", server(kept)).kept(),
            Group::new("kept_slow", server(kept_slow)).kept(),
            Group::new("race", server(race)).kept(),
            Group::new("lost", server(SocketAddr::new(far_address, 9001))).kept(),
            Group::new("retry_refused", Target::Servers(vec![dead_c.address, good])).retried(),
            Group::new("retried_refused", server(dead_d.address)).retried(),
            Group::new(
                "retried_rst",
                Target::Servers(vec![resetting_a, resetting_b]),
            )
            .retried(),
            Group::new("retry_rst", Target::Servers(vec![resetting, good])).retried(),
        ]);
        let mut all_upstreams = vec![upstreams, far_upstreams];
        all_upstreams.extend(crashing);
        Self {
            groups,
            race,
            far: Some((far, far_address)),
            _upstreams: all_upstreams,
            _refusing: refusing,
            _tls: Some(tls),
            _queued: fill(deaf),
            _unix: sockets.listeners,
            _unix_queued: sockets.queued,
            _folder: folder,
        }
    }

    /// From now on the network swallows what goes to the group `lost`.
    #[track_caller]
    pub fn darken(&self) {
        let (far, address) = self.far.as_ref().expect("a stage with another host");
        far.filter(&format!("ip daddr {address} tcp dport 9001 drop"));
    }
}

/// Connections that wait in the accept queue of a listener that never accepts, so that there
/// is no room for another.
#[track_caller]
pub fn fill(deaf: SocketAddr) -> Vec<Socket> {
    let mut queued = Vec::new();
    // A connection that is not established soon was not let in: the queue is full.
    loop {
        assert!(
            queued.len() < 16,
            "the accept queue of {deaf} does not fill"
        );
        match TcpStream::connect_timeout(&deaf, Duration::from_millis(200)) {
            Ok(stream) => queued.push(Socket::from(stream)),
            Err(_) => return queued,
        }
    }
}

/// Unix sockets that let nobody in.
struct UnixSockets {
    refused: PathBuf,
    full: PathBuf,
    listeners: Vec<UnixListener>,
    queued: Vec<Socket>,
}

impl UnixSockets {
    #[track_caller]
    fn make(folder: &TempDir) -> Self {
        let refused = folder.path().join("refused");
        // The file stays when its listener goes.
        drop(UnixListener::bind(&refused).expect("a Unix socket can be made"));
        let full = folder.path().join("full");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None)
            .and_then(|socket| {
                socket.bind(&SockAddr::unix(&full)?)?;
                socket.listen(0)?;
                Ok(socket)
            })
            .expect("a Unix socket can be made");
        let mut queued = Vec::new();
        loop {
            assert!(
                queued.len() < 16,
                "the backlog of a Unix socket does not fill"
            );
            let socket =
                Socket::new(Domain::UNIX, Type::STREAM, None).expect("a Unix socket can be made");
            socket
                .set_nonblocking(true)
                .expect("a socket can be non-blocking");
            let address = SockAddr::unix(&full).expect("a short path is an address");
            if socket.connect(&address).is_err() {
                break;
            }
            queued.push(socket);
        }
        for path in [&refused, &full] {
            open_to_all(path);
        }
        Self {
            refused,
            full,
            listeners: vec![UnixListener::from(std::os::fd::OwnedFd::from(listener))],
            queued,
        }
    }
}

/// Servers that do speak TLS.
#[derive(Debug)]
struct TlsServers {
    good: TlsServer,
    /// Another certificate than that of `good`.
    untrusted: TlsServer,
}

impl TlsServers {
    #[track_caller]
    fn start(folder: &TempDir) -> Self {
        let servers = Self {
            good: TlsServer::start(folder.path(), "good", &[]),
            untrusted: TlsServer::start(folder.path(), "untrusted", &[]),
        };
        open_to_all(&servers.good.certificate);
        servers
    }
}

/// Lets a proxy that gave up root reach a file.
#[track_caller]
fn open_to_all(path: &PathBuf) {
    chmod(path, FileMode::from_raw_mode(0o777)).expect("a file of ours can be opened to all");
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_full_unix_socket_turns_the_next_one_away() {
        let folder = TempDir::new().unwrap();
        let sockets = UnixSockets::make(&folder);

        let next = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        next.set_nonblocking(true).unwrap();
        let error = next
            .connect(&SockAddr::unix(&sockets.full).unwrap())
            .unwrap_err();

        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        let error = UnixStream::connect(&sockets.refused).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}
