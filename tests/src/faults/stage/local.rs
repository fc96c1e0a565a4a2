//! A stage on one host without another: what a kernel alone can give, its modules not loaded.
//!
//! No namespaces, packet filters, TLS and names; the modes at the groups that are here can be
//! played.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tempfile::TempDir;

use super::{CHECK_EVERY, LOCALHOST, Stage, UnixSockets, fill, open_to_all};
use crate::ports::Refusing;
use crate::proxies::{Group, Judged, Target};
use crate::upstreams::Upstreams;

impl Stage {
    /// Builds it. `dark` is an address that swallows what is sent to it.
    #[track_caller]
    pub fn local(dark: Ipv4Addr) -> Self {
        let folder = TempDir::with_prefix("e2e-faults-").expect("a temporary folder can be made");
        open_to_all(&folder.path().to_owned());
        let upstreams = Upstreams::start(
            LOCALHOST,
            &["0", "0", "0=ok,idle=400", "0=slam", "0=deaf", "0=reset"],
            None,
        );
        let [good, kept, race, slam, deaf, resetting] = *upstreams.addresses.as_slice() else {
            panic!("each server that was ordered has an address");
        };
        let mortal = Upstreams::start(LOCALHOST, &["0"], None);
        let refusing: Vec<Refusing> = (0..4).map(|_| Refusing::new(LOCALHOST)).collect();
        let [refused, dead_a, dead_b, dead_c] = refusing.as_slice() else {
            panic!("four were made");
        };
        let sockets = UnixSockets::make(&folder);
        let server = |address: SocketAddr| Target::Servers(vec![address]);
        // TCP to a multicast address is refused by the kernel itself (tcp_v4_connect).
        let multicast = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1));
        let groups = vec![
            Group::new("fresh", server(good)),
            Group::new("slam", server(slam)),
            Group::new("refused", server(refused.address)),
            Group::new("deaf", server(deaf)),
            Group::new("dark", server(SocketAddr::new(dark.into(), 9))),
            Group::new("no_route", server(SocketAddr::new(multicast, 9))),
            Group::new("static", Target::Static),
            Group::new("killed", Target::Servers(mortal.addresses.clone())),
            Group::new("unix_refused", Target::Unix(sockets.refused.clone())),
            Group::new(
                "judged",
                Target::Judged(Judged {
                    servers: vec![dead_a.address, dead_b.address],
                    check_every: CHECK_EVERY,
                }),
            ),
            Group::new("kept", server(kept)).kept(),
            Group::new("race", server(race)).kept(),
            Group::new("retry_refused", Target::Servers(vec![dead_c.address, good])).retried(),
            Group::new("retry_rst", Target::Servers(vec![resetting, good])).retried(),
        ];
        Self {
            groups,
            race,
            far: None,
            _upstreams: vec![upstreams, mortal],
            _refusing: refusing,
            _tls: None,
            _queued: fill(deaf),
            _unix: sockets.listeners,
            _unix_queued: sockets.queued,
            _folder: folder,
        }
    }
}
