//! Addresses that the host's netfilter translates, as kube-proxy has it do for Services.
//!
//! In: an address and the endpoints it leads to, taken in turns. Out: rules of nftables for what
//! passes the host and for what leaves from it, gone when dropped.

use std::fmt::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::process::output_of;

/// Numbers tables within this process.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// Rules in a table of their own.
#[derive(Debug)]
pub struct Nat {
    table: String,
}

impl Nat {
    /// Translates each of these addresses to one of its endpoints.
    #[track_caller]
    pub fn new(services: &[(SocketAddr, &[SocketAddr])]) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let table = format!("e2e{}n{number}", std::process::id());
        let rules: String = services
            .iter()
            .map(|(address, endpoints)| rule(*address, endpoints))
            .collect();
        let mut text = format!("table inet {table} {{\n");
        for (hook, priority) in [("prerouting", -100), ("output", -100)] {
            // Writing to a String cannot fail.
            let _written = write!(
                text,
                "chain {hook} {{\ntype nat hook {hook} priority {priority};\n{rules}}}\n"
            );
        }
        text.push_str("}\n");
        output_of(Command::new("nft").arg(text));
        Self { table }
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        let deleted = Command::new("nft")
            .args(["delete", "table", "inet", &self.table])
            .status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("the table {} of nftables is left over", self.table);
        }
    }
}

fn rule(address: SocketAddr, endpoints: &[SocketAddr]) -> String {
    let family = if address.is_ipv4() { "ip" } else { "ip6" };
    let turns: Vec<String> = endpoints
        .iter()
        .enumerate()
        .map(|(turn, endpoint)| format!("{turn} : {} . {}", endpoint.ip(), endpoint.port()))
        .collect();
    format!(
        "{family} daddr {} tcp dport {} dnat {family} addr . port to numgen inc mod {} map {{ {} }}\n",
        address.ip(),
        address.port(),
        turns.len(),
        turns.join(", ")
    )
}
