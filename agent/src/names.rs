//! What an upstream is called.
//!
//! In: an address, and the names the operator gave. Out: the name in labels and events.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use agent_core::event::Upstream;

use crate::config::Settings;

/// Names of upstreams by address.
#[derive(Clone, Debug, Default)]
pub struct UpstreamNames {
    given: HashMap<String, Arc<str>>,
}

impl UpstreamNames {
    /// Takes pairs of address and name; addresses as [`normalised`] takes them.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let given = pairs
            .into_iter()
            .filter_map(|(address, name)| Some((normalised(address)?, Arc::from(name))))
            .collect();
        Self { given }
    }

    /// Those of the settings.
    pub fn of(settings: &Settings) -> Self {
        let pairs = settings.upstream_names.iter();
        Self::new(pairs.map(|(address, name)| (address.as_str(), name.as_str())))
    }

    /// The name given, else the address.
    pub fn name(&self, upstream: &Upstream) -> Arc<str> {
        let address = address(upstream);
        match self.given.get(&address) {
            Some(name) => Arc::clone(name),
            None => Arc::from(address),
        }
    }

    /// The name the operator gave.
    pub fn given(&self, upstream: &Upstream) -> Option<Arc<str>> {
        if self.given.is_empty() {
            return None;
        }
        self.given.get(&address(upstream)).cloned()
    }

    /// Another number when an answer may be another one.
    pub fn generation(&self) -> u64 {
        0
    }
}

/// `10.0.3.17:8080`, `[2001:db8::1]:8080` or `unix:/run/app.sock`.
pub fn address(upstream: &Upstream) -> String {
    match upstream {
        Upstream::Inet(address) => canonical(*address).to_string(),
        Upstream::Unix(path) => format!("unix:{path}"),
    }
}

/// The form of a written address that [`address`] would give; `None` when it is none.
pub fn normalised(written: &str) -> Option<String> {
    match written.strip_prefix("unix:") {
        Some("") => None,
        Some(_) => Some(written.to_owned()),
        None => SocketAddr::from_str(written)
            .ok()
            .map(|address| canonical(address).to_string()),
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
}
