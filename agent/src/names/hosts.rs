//! Addresses of the hosts that the operator names.
//!
//! In: host names and ports. Out: the addresses they resolve to, looked up at the start and every
//! minute, in the background: nothing waits for it. A name that does not resolve keeps what it had.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::canonical;

/// How often names are looked up. Longer: an upstream that moved keeps its address for a name so
/// long. Shorter: more questions to the name server, which has them cached as a rule.
const EVERY: Duration = Duration::from_secs(60);

/// How long a lookup may take; the resolver's own limit is that of resolv.conf.
const PATIENCE: Duration = Duration::from_secs(20);

/// An address that a name resolved to is the name's until it was missing so often. Fewer: where a
/// name server gives some of many addresses each time, upstreams change their names with each
/// lookup. More: an address that was given away keeps its old name so many minutes.
const KEPT: u32 = 5;

/// One name.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) name: Arc<str>,
}

/// What one name resolves to: how many times in a row each address was missing since.
#[derive(Clone, Debug, Default)]
struct Addresses(BTreeMap<SocketAddr, u32>);

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
        let mut known: Vec<Addresses> = vec![Addresses::default(); self.hosts.len()];
        let mut failing = vec![false; self.hosts.len()];
        loop {
            let looked_up = join_all(self.hosts.iter().map(look_up)).await;
            for (at, (Host { host, .. }, found)) in self.hosts.iter().zip(looked_up).enumerate() {
                match found {
                    Ok(found) => {
                        known[at].renew(found);
                        failing[at] = false;
                    }
                    // A line when it begins, and no more.
                    Err(error) if !std::mem::replace(&mut failing[at], true) => {
                        tracing::warn!(
                            host,
                            error,
                            "upstream_names: the host does not resolve; it is tried again every minute"
                        );
                    }
                    Err(_) => {}
                }
            }
            self.publish(&known);
            sleep(EVERY).await;
        }
    }

    /// Of two hosts with one address the first in the settings names it.
    ///
    /// One that a host resolved to just now goes before one that it is remembered for.
    fn publish(&self, known: &[Addresses]) {
        let mut addresses = HashMap::new();
        for just_now in [true, false] {
            for (host, found) in self.hosts.iter().zip(known) {
                for (address, missed) in &found.0 {
                    if (*missed == 0) == just_now {
                        addresses
                            .entry(*address)
                            .or_insert_with(|| Arc::clone(&host.name));
                    }
                }
            }
        }
        let mut found = self.found.write().unwrap_or_else(PoisonError::into_inner);
        if *found != addresses {
            *found = addresses;
            self.generation.fetch_add(1, Ordering::Release);
        }
    }
}

impl Addresses {
    /// It resolves to these now.
    fn renew(&mut self, found: Vec<SocketAddr>) {
        for missed in self.0.values_mut() {
            *missed += 1;
        }
        self.0.extend(found.into_iter().map(|address| (address, 0)));
        self.0.retain(|_, missed| *missed < KEPT);
    }
}

async fn look_up(Host { host, port, .. }: &Host) -> Result<Vec<SocketAddr>, String> {
    let found = timeout(PATIENCE, tokio::net::lookup_host((host.as_str(), *port))).await;
    match found {
        Ok(Ok(found)) => Ok(found.map(canonical).collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err("no answer in time".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Addresses, Host, Hosts, KEPT};

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
        let mut known = [Addresses::default(), Addresses::default()];
        known[0].renew(vec![one]);
        known[1].renew(vec![one, two]);
        hosts.publish(&known);
        let generation = hosts.generation();

        assert_eq!(hosts.name(one).as_deref(), Some("a"));
        assert_eq!(hosts.name(two).as_deref(), Some("b"));
        hosts.publish(&known);
        assert_eq!(hosts.generation(), generation);

        known[0].renew(vec![two]);
        known[1].renew(vec![]);
        hosts.publish(&known);

        assert_eq!(hosts.name(one).as_deref(), Some("a"), "remembered");
        assert_eq!(hosts.name(two).as_deref(), Some("a"));
        assert_ne!(hosts.generation(), generation);

        for _ in 1..KEPT {
            known[0].renew(vec![two]);
            known[1].renew(vec![]);
        }
        hosts.publish(&known);

        assert_eq!(hosts.name(one), None, "missing too often");
        assert_eq!(hosts.name(two).as_deref(), Some("a"));
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
