//! What the operator writes to say which upstreams have a name.
//!
//! In: the key of an entry of `upstream_names`. Out: a [`Pattern`], or what would do instead.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Longest name of a host, RFC 1035, 2.3.4.
const MAX_HOST: usize = 253;

/// Longest part of it between two dots.
const MAX_LABEL: usize = 63;

/// Which upstreams are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `10.0.3.17:8080`, `[2001:db8::1]:8080`.
    Address(SocketAddr),
    /// `unix:/run/app.sock`.
    Unix(String),
    /// `10.0.0.0/8`, `10.0.0.0/8:8080`, `fd00::/8`, `[fd00::/8]:8080`.
    Network(Network),
    /// `db.internal:5432`, by what the name resolves to.
    Host {
        /// Name.
        host: String,
        /// Port.
        port: u16,
    },
}

/// Addresses with a common beginning, at one port or at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    ip: IpAddr,
    /// Bits that are common.
    prefix: u8,
    port: Option<u16>,
}

impl Pattern {
    /// Reads a key.
    ///
    /// # Errors
    /// What is wrong, and what would do.
    pub fn parse(written: &str) -> Result<Self, &'static str> {
        if let Some(path) = written.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("has no path; write unix:/path")
            } else {
                Ok(Self::Unix(path.to_owned()))
            };
        }
        if let Ok(address) = SocketAddr::from_str(written) {
            return Ok(Self::Address(super::canonical(address)));
        }
        if written.contains('/') {
            return Network::parse(written).map(Self::Network);
        }
        match written.rsplit_once(':') {
            Some((host, port)) if is_host(host) => Ok(Self::Host {
                host: host.to_ascii_lowercase(),
                port: port_of(port)?,
            }),
            _ => Err(
                "is not an upstream; write address:port, [address]:port, a network as 10.0.0.0/8 or 10.0.0.0/8:8080, host:port or unix:/path",
            ),
        }
    }
}

impl Network {
    fn parse(written: &str) -> Result<Self, &'static str> {
        let (network, port) = match written.strip_prefix('[') {
            Some(rest) => rest
                .split_once("]:")
                .map(|(network, port)| (network, Some(port)))
                .ok_or("is not a network; write [fd00::/8]:8080")?,
            None => match written.rsplit_once(':') {
                // What follows the last colon of an IPv6 network holds its prefix.
                Some((network, port)) if !port.contains('/') => (network, Some(port)),
                _ => (written, None),
            },
        };
        let (ip, prefix) = network
            .split_once('/')
            .ok_or("is not a network; write 10.0.0.0/8")?;
        let ip = IpAddr::from_str(ip).map_err(
            |_| "is not a network; write 10.0.0.0/8, 10.0.0.0/8:8080, fd00::/8 or [fd00::/8]:8080",
        )?;
        let prefix: u8 = prefix
            .parse()
            .ok()
            .filter(|prefix| *prefix <= width(ip))
            .ok_or("has no prefix length from 0 to 32, or 128 for IPv6")?;
        if matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some()) {
            return Err("is of IPv4 addresses mapped into IPv6; write it as IPv4");
        }
        let network = Self {
            ip,
            prefix,
            port: port.map(port_of).transpose()?,
        };
        if network.masked(ip) != Some(ip) {
            return Err("has bits beyond its prefix; write the network's first address");
        }
        Ok(network)
    }

    /// How closely it says what is meant: by length, then by port.
    pub fn closeness(&self) -> (u8, bool) {
        // The widths differ, but an address is in networks of its own family only.
        (self.prefix, self.port.is_some())
    }

    /// Whether the address is one of it.
    pub fn contains(&self, address: SocketAddr) -> bool {
        self.masked(address.ip()) == Some(self.ip)
            && self.port.is_none_or(|port| port == address.port())
    }

    /// The address without the bits beyond the prefix; `None` of the other family.
    fn masked(&self, ip: IpAddr) -> Option<IpAddr> {
        let beyond = u32::from(width(self.ip).saturating_sub(self.prefix));
        match (self.ip, ip) {
            (IpAddr::V4(_), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(beyond).unwrap_or(0);
                Some(IpAddr::from((ip.to_bits() & mask).to_be_bytes()))
            }
            (IpAddr::V6(_), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(beyond).unwrap_or(0);
                Some(IpAddr::from((ip.to_bits() & mask).to_be_bytes()))
            }
            _ => None,
        }
    }
}

fn width(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn port_of(written: &str) -> Result<u16, &'static str> {
    written
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or("has no port from 1 to 65535")
}

/// A name that can be resolved, and that is no mistyped address.
fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let relative = host.strip_suffix('.').unwrap_or(host);
    let last = relative.rsplit('.').next().unwrap_or_default();
    relative.len() <= MAX_HOST
        && relative.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    fn matches(pattern: &str, address: &str) -> bool {
        let Pattern::Network(network) = Pattern::parse(pattern).unwrap() else {
            panic!("{pattern} is no network");
        };
        network.contains(address.parse().unwrap())
    }

    #[test]
    fn networks_hold_what_begins_as_they_do() {
        for (pattern, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1:80", true),
            ("10.0.0.0/8", "11.0.0.1:80", false),
            ("10.0.0.0/8:8080", "10.1.1.1:8080", true),
            ("10.0.0.0/8:8080", "10.1.1.1:8081", false),
            ("0.0.0.0/0", "192.0.2.1:1", true),
            ("0.0.0.0/0", "[2001:db8::1]:1", false),
            ("192.0.2.7/32", "192.0.2.7:1", true),
            ("192.0.2.7/32", "192.0.2.6:1", false),
            ("fd00::/8", "[fd12::1]:80", true),
            ("[fd00::/8]:8080", "[fd12::1]:8080", true),
            ("[fd00::/8]:8080", "[fd12::1]:80", false),
            ("::/0", "[2001:db8::1]:1", true),
            ("2001:db8::1/128", "[2001:db8::1]:1", true),
        ] {
            assert_eq!(matches(pattern, address), expected, "{pattern} {address}");
        }
    }

    #[test]
    fn hosts_have_a_port_and_are_no_mistyped_address() {
        let host = |host: &str, port| Pattern::Host {
            host: host.to_owned(),
            port,
        };
        assert_eq!(
            Pattern::parse("DB.internal:5432"),
            Ok(host("db.internal", 5432))
        );
        assert_eq!(Pattern::parse("localhost:80"), Ok(host("localhost", 80)));
        assert_eq!(
            Pattern::parse("db.internal.:80"),
            Ok(host("db.internal.", 80))
        );
    }

    #[test]
    fn what_is_refused_says_what_would_do() {
        for (written, words) in [
            ("orders", "host:port"),
            ("10.0.3.17", "host:port"),
            ("10.0.3.300:80", "host:port"),
            ("db internal:80", "host:port"),
            ("db..internal:80", "host:port"),
            ("db.internal:0", "1 to 65535"),
            ("db.internal:99999", "1 to 65535"),
            ("10.0.0.0/33", "0 to 32"),
            ("10.0.0.0/", "0 to 32"),
            ("10.0.0.1/8", "first address"),
            ("10.0.0.0/8:x", "1 to 65535"),
            ("[fd00::/8]", "[fd00::/8]:8080"),
            ("web/8", "10.0.0.0/8"),
            ("unix:", "unix:/path"),
        ] {
            let reason = Pattern::parse(written).unwrap_err();
            assert!(reason.contains(words), "{written}: {reason}");
        }
    }
}
