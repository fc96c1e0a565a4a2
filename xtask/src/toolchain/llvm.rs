//! LLVM development packages on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host::command;

/// LLVM versions that bpf-linker has a feature for.
pub(crate) const SUPPORTED: std::ops::RangeInclusive<u32> = 21..=23;

/// An LLVM to build the linker with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Llvm {
    /// Major version.
    pub(crate) version: u32,
    /// Folder that holds `bin/llvm-config` and `lib`.
    pub(crate) prefix: PathBuf,
}

impl Llvm {
    /// The LLVM of exactly this major version, if it is there and bpf-linker knows it.
    pub(crate) fn of_version(version: u32) -> Option<Self> {
        if !SUPPORTED.contains(&version) {
            return None;
        }
        let debian = PathBuf::from(format!("/usr/lib/llvm-{version}"));
        let prefix = if is_complete(&debian) {
            debian
        } else {
            configured(version)?
        };
        Some(Self { version, prefix })
    }
}

/// What `llvm-config-22` or `llvm-config` on `PATH` says, when the version is right.
fn configured(version: u32) -> Option<PathBuf> {
    [format!("llvm-config-{version}"), "llvm-config".to_owned()]
        .iter()
        .find_map(|program| {
            let text = command::probe(Command::new(program).args(["--version", "--prefix"]))?;
            let mut lines = text.lines();
            let major: u32 = lines.next()?.split('.').next()?.parse().ok()?;
            let prefix = PathBuf::from(lines.next()?);
            (major == version && is_complete(&prefix)).then_some(prefix)
        })
}

fn is_complete(prefix: &Path) -> bool {
    prefix.join("bin/llvm-config").exists() && prefix.join("lib").is_dir()
}
