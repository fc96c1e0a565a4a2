//! Ports that nobody else has.

use std::net::{IpAddr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// A port of this host that is free now.
///
/// Another program may take it before the caller does; the kernel hands out ports in an
/// order that makes it unlikely.
#[track_caller]
pub fn free(ip: IpAddr) -> SocketAddr {
    TcpListener::bind((ip, 0))
        .and_then(|listener| listener.local_addr())
        .unwrap_or_else(|error| panic!("no free port on {ip}: {error}"))
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
