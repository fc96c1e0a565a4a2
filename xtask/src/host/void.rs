//! An address that takes packets and never answers, for connects that time out.
//!
//! One end of a veth pair lies in a network namespace that only a sleeping process holds.
//! Frames for the address go to a hardware address that nobody has. When the process ends,
//! however it ends, the namespace goes, and both ends of the pair with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::child::Guard;
use super::command;

/// Addresses for measurements inside one's own network: RFC 2544, 198.18.0.0/15.
const NEAR: &str = "198.18.50.1/30";
const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 50, 2);

/// A hardware address that neither end has.
const NOBODY: &str = "02:00:00:00:05:02";

const INTERFACE: &str = "why502void0";
const PEER: &str = "why502void1";

/// The silent address. It is gone when this is.
#[derive(Debug)]
pub(crate) struct Void {
    _holder: Guard,
}

impl Void {
    /// Makes it; an error when the kernel has no veth.
    pub(crate) fn open() -> Result<Self> {
        let mut sleeper = Command::new("unshare");
        sleeper.args(["--net", "sleep", "infinity"]);
        let holder = Guard::start("the silent network", &sleeper)?;
        let pid = holder.pid().to_string();
        wait_for_own_namespace(&pid)?;
        ip(&[
            "link", "add", INTERFACE, "type", "veth", "peer", "name", PEER, "netns", &pid,
        ])
        .context("no silent address: is the kernel module veth there?")?;
        command::run(
            Command::new("nsenter")
                .args(["--net", "--target", &pid, "ip", "link", "set", PEER, "up"]),
        )?;
        ip(&["address", "add", NEAR, "dev", INTERFACE])?;
        ip(&["link", "set", INTERFACE, "up"])?;
        ip(&[
            "neighbour",
            "replace",
            &FAR.to_string(),
            "lladdr",
            NOBODY,
            "dev",
            INTERFACE,
        ])?;
        Ok(Self { _holder: holder })
    }

    /// The address, with a port that makes no difference.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((FAR, 8080))
    }

    /// Whether an interface of ours is there.
    pub(crate) fn is_left_behind() -> bool {
        Path::new("/sys/class/net").join(INTERFACE).exists()
    }
}

/// The process exists before its namespace does.
fn wait_for_own_namespace(pid: &str) -> Result<()> {
    let ours = std::fs::read_link("/proc/self/ns/net").context("no network namespaces here")?;
    let theirs = format!("/proc/{pid}/ns/net");
    for _ in 0..200 {
        if std::fs::read_link(&theirs).is_ok_and(|found| found != ours) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    anyhow::bail!("no network namespace of its own for process {pid}")
}

fn ip(words: &[&str]) -> Result<()> {
    command::run(Command::new("ip").args(words))
}
