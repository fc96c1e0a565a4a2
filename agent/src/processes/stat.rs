//! What proc_pid_stat(5) says of a process. In: where processes are shown; nowhere, nothing is known.

use std::fs;
use std::path::Path;

/// Start time of a process, ticks since boot; `None` when it has ended and is not shown any more.
pub(super) fn start_ticks(proc: Option<&Path>, tgid: u32) -> Option<u64> {
    after_name(&stat(proc, tgid)?)?.nth(19)?.parse().ok()
}

/// Its parent, by the id of that.
pub(super) fn parent(proc: Option<&Path>, tgid: u32) -> Option<u32> {
    after_name(&stat(proc, tgid)?)?.nth(1)?.parse().ok()
}

/// The process has ended, and its parent has not asked for its status yet. One whose first thread alone
/// has ended is shown so as well, with its other threads counted.
pub(super) fn has_ended(proc: Option<&Path>, tgid: u32) -> bool {
    let state_and_threads = |stat: &str| {
        let mut fields = after_name(stat)?;
        let is_zombie = fields.next()? == "Z";
        let threads: u32 = fields.nth(16)?.parse().ok()?;
        Some((is_zombie, threads))
    };
    stat(proc, tgid)
        .and_then(|stat| state_and_threads(&stat))
        .is_some_and(|(is_zombie, threads)| is_zombie && threads <= 1)
}

fn stat(proc: Option<&Path>, tgid: u32) -> Option<String> {
    fs::read_to_string(proc?.join(tgid.to_string()).join("stat")).ok()
}

/// The fields from the third on.
fn after_name(stat: &str) -> Option<impl Iterator<Item = &str>> {
    // The second field is the name in parentheses and may hold anything, a ')' included.
    let rest = stat.get(stat.rfind(')')? + 2..)?;
    Some(rest.split_ascii_whitespace())
}
