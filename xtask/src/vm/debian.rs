//! A kernel out of a Debian package, without installing it.
//!
//! apt runs with lists, cache and sources of its own under the target folder, and asks the
//! mirrors that this machine asks. The newest package whose name fits is downloaded and
//! unpacked; of it only the kernel is kept, and what it was called.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::kernels::Package;
use crate::host::{apt, command, is_root};

/// A list or package that takes longer will not come.
const DOWNLOAD: Duration = Duration::from_secs(300);

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
    let image = folder.join("vmlinuz");
    let named = folder.join("package");
    if !refresh
        && image.is_file()
        && let Ok(name) = fs::read_to_string(&named)
    {
        return Ok(Image {
            path: image,
            package: name.trim().to_owned(),
        });
    }
    let apt = Apt::prepare(&folder.join("apt"), package)?;
    apt.update()
        .with_context(|| format!("the package lists of {} cannot be fetched", package.suite))?;
    let name = apt.newest(package)?;
    let fetched = apt.fetch(&name)?;
    fs::copy(&fetched, &image).with_context(|| format!("cannot copy {}", fetched.display()))?;
    let described = format!("{name} {}", apt.version(&name)?);
    fs::write(&named, &described).with_context(|| format!("cannot write {}", named.display()))?;
    fs::remove_dir_all(&apt.folder)
        .with_context(|| format!("cannot remove {}", apt.folder.display()))?;
    Ok(Image {
        path: image,
        package: described,
    })
}

/// apt with nothing of the system's but its keys and its way to the network.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn prepare(folder: &Path, package: &Package) -> Result<Self> {
        if !apt::available() || !is_root() {
            bail!("kernels come from Debian packages: apt-get is needed, and root");
        }
        for name in ["lists/partial", "cache/archives/partial", "unpacked"] {
            let path = folder.join(name);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot make the folder {}", path.display()))?;
        }
        let mirror = mirror(package)?;
        let line = format!(
            "deb [arch=amd64 target=Packages] {mirror} {} main\n",
            package.suite
        );
        fs::write(folder.join("sources.list"), line)
            .and_then(|()| fs::write(folder.join("status"), ""))
            .with_context(|| format!("cannot write in {}", folder.display()))?;
        Ok(Self {
            folder: folder.to_path_buf(),
        })
    }

    fn command(&self, program: &str) -> Command {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut command = Command::new(program);
        command.current_dir(&self.folder).arg("-q");
        for (option, value) in [
            ("Dir::Etc::sourcelist", path("sources.list")),
            ("Dir::Etc::sourceparts", "-".to_owned()),
            ("Dir::State::lists", path("lists")),
            ("Dir::State::status", path("status")),
            ("Dir::Cache", path("cache")),
            ("Acquire::Languages", "none".to_owned()),
            // The folder is ours, and closed to the user that apt would change to.
            ("APT::Sandbox::User", "root".to_owned()),
        ] {
            command.args(["-o", &format!("{option}={value}")]);
        }
        command
    }

    fn update(&self) -> Result<()> {
        command::run_within(
            self.command("apt-get").args(["update", "--error-on=any"]),
            DOWNLOAD,
        )
    }

    /// The name with the highest numbers that fits.
    fn newest(&self, package: &Package) -> Result<String> {
        let Package {
            suite,
            prefix,
            suffix,
            ..
        } = package;
        let names = command::output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        names
            .lines()
            .filter(|name| name.ends_with(suffix))
            .max_by_key(|name| numbers(name))
            .map(str::to_owned)
            .ok_or_else(|| anyhow!("{suite} has no package {prefix}*{suffix} any more"))
    }

    fn version(&self, name: &str) -> Result<String> {
        let mut show = self.command("apt-cache");
        show.args(["show", "--no-all-versions", name]);
        let text = command::output(&mut show)?;
        let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
        version
            .map(str::to_owned)
            .ok_or_else(|| anyhow!("apt knows no version of {name}"))
    }

    /// Downloads and unpacks; where the kernel is.
    fn fetch(&self, name: &str) -> Result<PathBuf> {
        println!("fetching {name}");
        command::run_within(
            self.command("apt-get").args(["-qq", "download", name]),
            DOWNLOAD,
        )?;
        let archive = find(&self.folder, |file| file.ends_with(".deb"))
            .ok_or_else(|| anyhow!("apt-get download {name} left no file"))?;
        let unpacked = self.folder.join("unpacked");
        command::run(Command::new("dpkg").arg("-x").arg(&archive).arg(&unpacked))?;
        find(&unpacked, |file| file.starts_with("vmlinuz"))
            .ok_or_else(|| anyhow!("{name} has no vmlinuz"))
    }
}

/// Where this machine gets Debian from.
fn mirror(package: &Package) -> Result<String> {
    let label = if package.security {
        "Debian-Security"
    } else {
        "Debian"
    };
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(LABEL) $(REPO_URI)"]);
    apt.arg("Created-By: Packages");
    let targets = command::output(&mut apt)?;
    mirror_in(&targets, label).ok_or_else(|| {
        anyhow!(
            "this machine's apt has no source labelled {label}, or no lists of it \
             (apt-get update): where shall a kernel come from?"
        )
    })
}

fn mirror_in(targets: &str, label: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let (found, uri) = line.split_once(' ')?;
        (found == label).then(|| uri.to_owned())
    })
}

/// All numbers in a name, in order: 6.1.0-56 comes after 6.1.0-9.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// The first file below `folder` with such a name.
fn find(folder: &Path, is_it: impl Fn(&str) -> bool + Copy) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if let Some(found) = find(&path, is_it) {
                return Some(found);
            }
        } else if entry.file_name().to_str().is_some_and(is_it) {
            return Some(path);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_name_is_the_one_with_the_highest_numbers() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.1.0-48-cloud-amd64-unsigned",
        ];
        assert_eq!(
            names.iter().max_by_key(|name| numbers(name)),
            Some(&names[1])
        );
    }

    #[test]
    fn the_mirror_is_that_of_the_archive_that_has_the_suite() {
        let targets = "Other mirror:/x/\nDebian mirror:/debian/\nDebian-Security mirror:/sec/\n";
        assert_eq!(
            mirror_in(targets, "Debian").as_deref(),
            Some("mirror:/debian/")
        );
        assert_eq!(
            mirror_in(targets, "Debian-Security").as_deref(),
            Some("mirror:/sec/")
        );
        assert_eq!(mirror_in("", "Debian"), None);
    }
}
