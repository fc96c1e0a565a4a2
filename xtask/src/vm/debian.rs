//! A kernel out of a Debian package, without installing it: the newest whose name fits. Of the
//! package only the kernel is kept, and what it was called.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use super::kernels::Package;
use crate::host::archive::{self, Archive};

/// A kernel on this machine's disk.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// The compressed kernel.
    pub(super) path: PathBuf,
    /// Package and version it came from.
    pub(super) package: String,
}

/// The kernel in `folder`: the one fetched before, or the newest there is.
pub(super) fn image(folder: &Path, package: &Package, refresh: bool) -> Result<Image> {
    let path = folder.join("vmlinuz");
    let named = folder.join("package");
    if !refresh
        && path.is_file()
        && let Ok(name) = fs::read_to_string(&named)
    {
        return Ok(Image {
            path,
            package: name.trim().to_owned(),
        });
    }
    let Package {
        suite,
        security,
        prefix,
        suffix,
    } = package;
    let label = if *security {
        archive::SECURITY
    } else {
        archive::MAIN
    };
    let debian = Archive::of_suite(&folder.join("apt"), label, suite)?;
    let name = debian
        .newest(prefix, suffix)
        .with_context(|| format!("the suite {suite} has no such kernel"))?;
    let package = format!("{name} {}", debian.version(&name)?);
    let unpacked = debian.fetch(&name)?;
    let kernel = archive::find(&unpacked, |file| file.starts_with("vmlinuz"))
        .ok_or_else(|| anyhow!("{name} has no vmlinuz"))?;
    fs::copy(&kernel, &path).with_context(|| format!("cannot copy {}", kernel.display()))?;
    fs::write(&named, &package).with_context(|| format!("cannot write {}", named.display()))?;
    debian.remove()?;
    Ok(Image { path, package })
}
