//! A virtual machine, from power on to power off, with an eye on the clock and the console.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::initramfs::BIN;
use crate::host::child::Guard;
use crate::host::interrupt;

/// Boot, all programs verified twice, all faults: 20 to 45 s on a machine with nothing else to
/// do. Shorter: false alarms on a busy one. Longer: a hang is told late.
const LIMIT: Duration = Duration::from_secs(420);

/// How often the machine is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Lines of the console that are shown when it fails.
const SHOWN: usize = 40;

/// What a kernel writes when it is broken.
const BROKEN: [&str; 7] = [
    "Kernel panic",
    "Oops:",
    "BUG:",
    "general protection fault",
    "WARNING: CPU",
    "rcu: INFO: rcu_sched detected stalls",
    "Out of memory:",
];

/// Boots a kernel and gives what the guest told. Console and answer stay in `folder`.
pub(super) fn boot(folder: &Path, kernel: &Path, initramfs: &Path) -> Result<String> {
    let console = folder.join("console");
    let answer = folder.join("answer");
    for path in [&console, &answer] {
        File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let result = watched(&console, &command(&console, &answer, kernel, initramfs));
    if let Err(error) = result {
        bail!("{error:#}; {}", last_words(&console));
    }
    let text = fs::read_to_string(&answer).unwrap_or_default();
    if text.trim().is_empty() {
        bail!(
            "the machine went off without an answer; {}",
            last_words(&console)
        );
    }
    Ok(text)
}

/// Emulated, because a machine that is virtual itself may have no KVM for stock kernels; one
/// thread, because several have made a guest oops. Everything it needs is in its memory.
fn command(console: &Path, answer: &Path, kernel: &Path, initramfs: &Path) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=single", "-cpu", "max", "-m", "1024"])
        .args(["-display", "none", "-monitor", "none", "-net", "none"])
        .arg("-no-reboot")
        .args(["-serial", &format!("file:{}", console.display())])
        .args(["-serial", &format!("file:{}", answer.display())])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        // A word with `=` that the kernel does not know goes to the first process. panic=-1
        // ends the machine at once.
        .args([
            "-append",
            &format!(
                "console=ttyS0 quiet loglevel=5 panic=-1 mitigations=off PATH=/{BIN} WHY502_BIN=/{BIN}/why502"
            ),
        ])
        .stdin(Stdio::null());
    qemu
}

fn watched(console: &Path, command: &Command) -> Result<()> {
    let mut machine = Guard::start("qemu", command)?;
    let started = Instant::now();
    loop {
        let ended = machine.ended()?;
        if let Some(word) = broken(console) {
            bail!("the kernel says `{word}`");
        }
        if let Some(status) = ended {
            if status.success() {
                return Ok(());
            }
            bail!("qemu ended with {status}");
        }
        if started.elapsed() > LIMIT {
            bail!("the machine is still on after {} s", LIMIT.as_secs());
        }
        if interrupt::requested() {
            bail!("interrupted");
        }
        thread::sleep(POLL);
    }
}

fn broken(console: &Path) -> Option<String> {
    let bytes = fs::read(console).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    broken_in(&text)
}

fn broken_in(text: &str) -> Option<String> {
    text.lines()
        .find(|line| BROKEN.iter().any(|word| line.contains(word)))
        .map(|line| line.trim().to_owned())
}

fn last_words(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let last = lines
        .get(lines.len().saturating_sub(SHOWN)..)
        .unwrap_or_default();
    format!(
        "the console ({}) ends with:\n{}\n",
        console.display(),
        last.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_kernel_is_seen_in_its_console() {
        let text = "[ 1.0] fine\r\n[ 2.0] Kernel panic - not syncing: no init\r\n";
        assert_eq!(
            broken_in(text).as_deref(),
            Some("[ 2.0] Kernel panic - not syncing: no init")
        );
        assert_eq!(broken_in("[ 32.5] reboot: Power down\r\n"), None);
    }
}
