//! What an upstream is called.
//!
//! In: an address, and the names the operator gave: to addresses, networks, hosts and Unix
//! sockets. Out: the name in labels and events. The longest match wins, and of two as long the one
//! with a port; an address wins over a host that resolves to it.

mod hosts;
mod pattern;

use std::net::SocketAddr;
use std::sync::Arc;

use agent_core::event::Upstream;
use rustc_hash::FxHashMap;

use self::hosts::{Host, Hosts};
pub use self::pattern::{Network, Pattern};
use crate::config::Settings;

/// Names of upstreams; clones share what hosts resolve to.
#[derive(Clone, Debug, Default)]
pub struct UpstreamNames {
    exact: FxHashMap<Upstream, Arc<str>>,
    hosts: Hosts,
    /// The closest first.
    networks: Vec<(Network, Arc<str>)>,
}

impl UpstreamNames {
    /// Takes pairs of a [`Pattern`] and a name; leaves out what is none.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut exact = FxHashMap::default();
        let mut hosts = Vec::new();
        let mut networks = Vec::new();
        for (written, name) in pairs {
            let name: Arc<str> = Arc::from(name);
            match Pattern::parse(written) {
                Ok(Pattern::Address(address)) => {
                    exact.insert(Upstream::Inet(address), name);
                }
                Ok(Pattern::Unix(path)) => {
                    exact.insert(Upstream::Unix(Arc::from(path)), name);
                }
                Ok(Pattern::Network(network)) => networks.push((network, name)),
                Ok(Pattern::Host { host, port }) => hosts.push(Host { host, port, name }),
                Err(_) => {}
            }
        }
        networks.sort_by_key(|(network, _)| std::cmp::Reverse(network.closeness()));
        Self {
            exact,
            hosts: Hosts::new(hosts),
            networks,
        }
    }

    /// Those of the settings.
    pub fn of(settings: &Settings) -> Self {
        let pairs = settings.upstream_names.iter();
        Self::new(pairs.map(|(address, name)| (address.as_str(), name.as_str())))
    }

    /// The name given, else the address.
    pub fn name(&self, upstream: &Upstream) -> Arc<str> {
        self.given(upstream)
            .unwrap_or_else(|| Arc::from(address(upstream)))
    }

    /// The name the operator gave.
    pub fn given(&self, upstream: &Upstream) -> Option<Arc<str>> {
        let upstream = match upstream {
            Upstream::Inet(address) => &Upstream::Inet(canonical(*address)),
            Upstream::Unix(_) | Upstream::Unknown => upstream,
        };
        if let Some(name) = self.exact.get(upstream) {
            return Some(Arc::clone(name));
        }
        let Upstream::Inet(address) = upstream else {
            return None;
        };
        self.hosts.name(*address).or_else(|| {
            self.networks
                .iter()
                .find(|(network, _)| network.contains(*address))
                .map(|(_, name)| Arc::clone(name))
        })
    }

    /// Another number when an answer may be another one.
    pub fn generation(&self) -> u64 {
        self.hosts.generation()
    }

    /// Looks hosts up, in the background; for this and all clones. Needs a tokio runtime when
    /// there are hosts.
    pub fn resolve(&self) {
        if !self.hosts.is_empty() {
            tokio::spawn(self.hosts.clone().keep());
        }
    }
}

/// `10.0.3.17:8080`, `[2001:db8::1]:8080` or `unix:/run/app.sock`.
pub fn address(upstream: &Upstream) -> String {
    match upstream {
        Upstream::Inet(address) => canonical(*address).to_string(),
        Upstream::Unix(path) => format!("unix:{path}"),
        Upstream::Unknown => "unknown".to_owned(),
    }
}

/// The form of a written address that [`address`] would give; `None` when it is none.
pub fn normalised(written: &str) -> Option<String> {
    match Pattern::parse(written) {
        Ok(Pattern::Address(address)) => Some(address.to_string()),
        Ok(Pattern::Unix(_)) => Some(written.to_owned()),
        Ok(Pattern::Network(_) | Pattern::Host { .. }) | Err(_) => None,
    }
}

/// An IPv4 address in IPv6 clothes is an IPv4 address to the reader of a log.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agent_core::event::Upstream;

    use super::{UpstreamNames, address, normalised};

    fn inet(text: &str) -> Upstream {
        Upstream::Inet(text.parse().unwrap())
    }

    #[test]
    fn a_given_name_stands_for_its_address() {
        let names = UpstreamNames::new([("10.0.3.17:8080", "orders")]);

        assert_eq!(&*names.name(&inet("10.0.3.17:8080")), "orders");
        assert_eq!(&*names.name(&inet("[::ffff:10.0.3.17]:8080")), "orders");
        assert_eq!(&*names.name(&inet("10.0.3.17:8081")), "10.0.3.17:8081");
    }

    #[test]
    fn unix_sockets_have_a_prefix() {
        assert_eq!(
            address(&Upstream::Unix(Arc::from("/run/a.sock"))),
            "unix:/run/a.sock"
        );
        assert_eq!(
            normalised("unix:/run/a.sock").as_deref(),
            Some("unix:/run/a.sock")
        );
    }

    #[test]
    fn what_is_no_address_is_refused() {
        assert_eq!(normalised("orders"), None);
        assert_eq!(normalised("10.0.3.17"), None);
        assert_eq!(normalised("unix:"), None);
    }

    #[test]
    fn the_longest_match_wins_and_a_port_before_none() {
        let names = UpstreamNames::new([
            ("0.0.0.0/0", "world"),
            ("10.0.0.0/8", "cluster"),
            ("10.0.0.0/8:8080", "cluster web"),
            ("10.0.3.0/24", "rack"),
            ("10.0.3.17:8080", "orders"),
            ("10.0.3.17/32", "host"),
        ]);

        for (address, expected) in [
            ("10.0.3.17:8080", "orders"),
            ("10.0.3.17:8081", "host"),
            ("10.0.3.18:8080", "rack"),
            ("10.0.4.1:8080", "cluster web"),
            ("10.0.4.1:80", "cluster"),
            ("192.0.2.1:80", "world"),
            ("[::ffff:10.0.4.1]:80", "cluster"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ] {
            assert_eq!(&*names.name(&inet(address)), expected, "{address}");
        }
    }
}
