//! Ports that nobody else has.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, Protocol, Socket, Type};

/// Below those that the kernel gives to clients (`net.ipv4.ip_local_port_range`): between here and the
/// caller's listen(2) no connection takes one of them.
const PORTS: Range<u16> = 20_000..32_000;

/// How many were tried so far.
static TRIED: AtomicU32 = AtomicU32::new(0);

/// A port of this host that is free now, and that no other caller in this process gets.
#[track_caller]
pub fn free(ip: IpAddr) -> SocketAddr {
    let count = u32::from(PORTS.end - PORTS.start);
    // Of tests that follow each other at once, each begins elsewhere.
    let start = std::process::id().wrapping_mul(97) % count;
    let mut tries = (0..count).map(|_| {
        let at = (start + TRIED.fetch_add(1, Ordering::Relaxed)) % count;
        SocketAddr::new(ip, PORTS.start + at as u16)
    });
    tries
        .find(|address| TcpListener::bind(address).is_ok())
        .unwrap_or_else(|| panic!("no free port on {ip}"))
}

/// A port that refuses connections for as long as this lives: bound, and not listening.
#[derive(Debug)]
pub struct Refusing {
    /// Where connections are refused.
    pub address: SocketAddr,
    _bound: Socket,
}

impl Refusing {
    /// Takes a port of this host.
    #[track_caller]
    pub fn new(ip: IpAddr) -> Self {
        let bind = || {
            let address = SocketAddr::new(ip, 0);
            let socket = Socket::new(
                Domain::for_address(address),
                Type::STREAM,
                Some(Protocol::TCP),
            )?;
            socket.bind(&address.into())?;
            let address = socket.local_addr()?;
            std::io::Result::Ok((address, socket))
        };
        let (address, bound) =
            bind().unwrap_or_else(|error| panic!("cannot bind a port on {ip}: {error}"));
        Self {
            address: address.as_socket().expect("an IP socket has an IP address"),
            _bound: bound,
        }
    }
}
