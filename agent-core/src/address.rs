//! Addresses as the tables keep them: in 18 bytes, not in the 32 of the standard library's.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// An address and a port; an IPv4 address as v4-mapped (RFC 4291, 2.5.5.2), as in the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    ip: [u8; 16],
    port: u16,
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self {
            ip: ip.octets(),
            port: address.port(),
        }
    }
}

impl From<Address> for SocketAddr {
    fn from(Address { ip, port }: Address) -> Self {
        let v6 = Ipv6Addr::from(ip);
        Self::new(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4), port)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::Address;

    #[test]
    fn each_address_comes_back() {
        for text in [
            "10.0.0.1:80",
            "[2001:db8::1]:8080",
            "[::]:0",
            "0.0.0.0:65535",
        ] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(SocketAddr::from(Address::from(address)), address);
        }
    }
}
