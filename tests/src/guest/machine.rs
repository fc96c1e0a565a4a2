//! The machine under the question: made ready from nothing, and switched off.

use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;

use rustix::fs::sync;
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot, uname};

use super::ip;

/// What a first process finds unmounted: type, where.
const MOUNTS: [(&str, &str); 5] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("tmpfs", "/tmp"),
];

/// What only kernels before 5.11 find mounted: on others the agent does without.
const FOR_OLD: (&str, &str) = ("tracefs", "/sys/kernel/tracing");

/// The second serial port: results go there, where no message of the kernel falls between.
const RESULTS: &str = "/dev/ttyS1";

/// Whether this is the first process of the machine.
pub fn is_ours() -> bool {
    std::process::id() == 1
}

/// Mounts what is needed.
///
/// # Errors
/// A file system that every kernel of ours has cannot be mounted.
pub fn mount_all() -> anyhow::Result<()> {
    use anyhow::Context;
    let for_old = is_old().then_some(FOR_OLD);
    for (kind, place) in MOUNTS.into_iter().chain(for_old) {
        fs::create_dir_all(place).with_context(|| format!("cannot make {place}"))?;
        mount(kind, place, kind, MountFlags::empty(), None)
            .with_context(|| format!("cannot mount {kind} on {place}"))?;
    }
    Ok(())
}

/// Before 5.11.
fn is_old() -> bool {
    let name = uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split('.').map_while(|part| part.parse().ok());
    (numbers.next(), numbers.next()) < (Some(5), Some(11))
}

/// Loopback up, and a way to an address that swallows what is sent there.
#[track_caller]
pub(super) fn network(near: Ipv4Addr, dark: Ipv4Addr) {
    ip("link set lo up");
    ip(&format!("addr add {near}/32 dev lo"));
    ip(&format!("route add {dark}/32 dev lo src {near}"));
}

/// Says the result: a line of its own.
///
/// # Errors
/// The serial port cannot be written.
pub fn tell(line: &str) -> std::io::Result<()> {
    if is_ours() && Path::new(RESULTS).exists() {
        let mut port = File::options().write(true).open(RESULTS)?;
        return writeln!(port, "{line}");
    }
    writeln!(std::io::stdout(), "{line}")
}

/// Switches the machine off.
pub fn switch_off() {
    sync();
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        eprintln!("the machine stays on: {error}");
    }
}

/// Release of the kernel.
pub fn release() -> String {
    uname().release().to_string_lossy().into_owned()
}
