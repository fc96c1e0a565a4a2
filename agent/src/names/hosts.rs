//! Addresses of the hosts that the operator names.
//!
//! In: host names and ports. Out: the addresses they resolve to, looked up at the start and every
//! minute, in the background: nothing waits for it. A name that does not resolve keeps what it had.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::canonical;

/// How often names are looked up. Longer: an upstream that moved keeps its address for a name so
/// long. Shorter: more questions to the name server, which has them cached as a rule.
const EVERY: Duration = Duration::from_secs(60);

/// How long a lookup may take; the resolver's own limit is that of resolv.conf.
const PATIENCE: Duration = Duration::from_secs(20);

/// One name.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) name: Arc<str>,
}

/// Hosts and their addresses; clones share the addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts {
    hosts: Arc<[Host]>,
    found: Arc<RwLock<HashMap<SocketAddr, Arc<str>>>>,
    generation: Arc<AtomicU64>,
}

impl Hosts {
    pub(super) fn new(hosts: Vec<Host>) -> Self {
        Self {
            hosts: hosts.into(),
            ..Self::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn name(&self, address: SocketAddr) -> Option<Arc<str>> {
        if self.is_empty() {
            return None;
        }
        let found = self.found.read().unwrap_or_else(PoisonError::into_inner);
        found.get(&address).cloned()
    }

    /// Looks all up, again and again.
    pub(super) async fn keep(self) {
        let mut known: Vec<Option<Vec<SocketAddr>>> = vec![None; self.hosts.len()];
        let mut failing = vec![false; self.hosts.len()];
        loop {
            for (at, Host { host, port, .. }) in self.hosts.iter().enumerate() {
                let looked_up = timeout(PATIENCE, tokio::net::lookup_host((host.as_str(), *port)));
                let error = match looked_up.await {
                    Ok(Ok(found)) => {
                        known[at] = Some(found.map(canonical).collect());
                        failing[at] = false;
                        self.publish(&known);
                        continue;
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_elapsed) => "no answer in time".to_owned(),
                };
                // A line when it begins, and no more.
                if !std::mem::replace(&mut failing[at], true) {
                    tracing::warn!(
                        host,
                        error,
                        "upstream_names: the host does not resolve; it is tried again every minute"
                    );
                }
            }
            sleep(EVERY).await;
        }
    }

    /// Of two hosts with one address the first in the settings names it.
    fn publish(&self, known: &[Option<Vec<SocketAddr>>]) {
        let mut addresses = HashMap::new();
        for (host, found) in self.hosts.iter().zip(known) {
            for address in found.iter().flatten() {
                addresses
                    .entry(*address)
                    .or_insert_with(|| Arc::clone(&host.name));
            }
        }
        let mut found = self.found.write().unwrap_or_else(PoisonError::into_inner);
        if *found != addresses {
            *found = addresses;
            self.generation.fetch_add(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Host, Hosts};

    fn host(host: &str, name: &str) -> Host {
        Host {
            host: host.to_owned(),
            port: 80,
            name: Arc::from(name),
        }
    }

    #[test]
    fn addresses_that_moved_take_their_name_along() {
        let hosts = Hosts::new(vec![host("a.internal", "a"), host("b.internal", "b")]);
        let [one, two] = ["10.0.0.1:80", "10.0.0.2:80"].map(|text| text.parse().unwrap());
        hosts.publish(&[Some(vec![one]), Some(vec![one, two])]);
        let generation = hosts.generation();

        assert_eq!(hosts.name(one).as_deref(), Some("a"));
        assert_eq!(hosts.name(two).as_deref(), Some("b"));
        hosts.publish(&[Some(vec![one]), Some(vec![one, two])]);
        assert_eq!(hosts.generation(), generation);

        hosts.publish(&[Some(vec![two]), None]);

        assert_eq!(hosts.name(one), None);
        assert_eq!(hosts.name(two).as_deref(), Some("a"));
        assert_ne!(hosts.generation(), generation);
    }

    #[tokio::test]
    async fn a_host_of_the_hosts_file_is_found() {
        let hosts = Hosts::new(vec![host("localhost", "me")]);
        tokio::spawn(hosts.clone().keep());

        let address = "127.0.0.1:80".parse().unwrap();
        while hosts.name(address).is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }

        assert_eq!(hosts.name(address).as_deref(), Some("me"));
    }
}
