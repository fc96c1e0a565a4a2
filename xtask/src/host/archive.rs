//! Debian packages unpacked in a folder of ours, not installed.
//!
//! apt runs with lists, cache and sources of its own, asks the mirrors that this machine asks,
//! and trusts the keys that this machine trusts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::{apt, command, is_root};

/// A list or package that takes longer will not come.
const DOWNLOAD: Duration = Duration::from_secs(300);

/// Label of Debian's own archive.
pub(crate) const MAIN: &str = "Debian";
/// Label of its archive of security updates.
pub(crate) const SECURITY: &str = "Debian-Security";

/// apt with nothing of the system's but its keys and its way to the network.
#[derive(Debug)]
pub(crate) struct Archive {
    folder: PathBuf,
    architecture: &'static str,
}

/// A suite that this machine asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    label: String,
    uri: String,
    suite: String,
}

impl Archive {
    /// The suite of the archive labelled `label`, at this machine's mirror of that.
    pub(crate) fn of_suite(folder: &Path, label: &str, suite: &str) -> Result<Self> {
        let targets = targets()?;
        let target = targets.iter().find(|target| target.label == label);
        let target = target.ok_or_else(|| {
            anyhow!(
                "this machine's apt has no source labelled {label}, or no lists of it \
                 (apt-get update): where shall {suite} come from?"
            )
        })?;
        let line = format!(
            "deb [arch=amd64 target=Packages] {} {suite} main\n",
            target.uri
        );
        Self::prepare(folder, "amd64", &line)
    }

    /// The suites that this machine asks for, for another architecture.
    pub(crate) fn of_this_machine(folder: &Path, architecture: &'static str) -> Result<Self> {
        let ours = [MAIN, SECURITY];
        let lines: String = targets()?
            .iter()
            .filter(|target| ours.contains(&target.label.as_str()))
            .map(|Target { uri, suite, .. }| {
                format!("deb [arch={architecture} target=Packages] {uri} {suite} main\n")
            })
            .collect();
        Self::prepare(folder, architecture, &lines)
    }

    fn prepare(folder: &Path, architecture: &'static str, sources: &str) -> Result<Self> {
        if !apt::available() || !is_root() {
            bail!("packages of Debian are wanted: apt-get is needed, and root");
        }
        for name in ["lists/partial", "cache/archives/partial", "unpacked"] {
            let path = folder.join(name);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot make the folder {}", path.display()))?;
        }
        fs::write(folder.join("sources.list"), sources)
            .and_then(|()| fs::write(folder.join("status"), ""))
            .with_context(|| format!("cannot write in {}", folder.display()))?;
        let archive = Self {
            folder: folder.to_path_buf(),
            architecture,
        };
        let mut update = archive.command("apt-get");
        update.args(["-qq", "update", "--error-on=any"]);
        command::run_within(&mut update, DOWNLOAD).with_context(|| {
            format!(
                "the package lists cannot be fetched: {}",
                sources.trim_end()
            )
        })?;
        Ok(archive)
    }

    fn command(&self, program: &str) -> Command {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut command = Command::new(program);
        command.current_dir(&self.folder);
        for (option, value) in [
            ("APT::Architecture", self.architecture.to_owned()),
            ("APT::Architectures::", self.architecture.to_owned()),
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

    /// The name with the highest numbers that begins and ends so.
    pub(crate) fn newest(&self, prefix: &str, suffix: &str) -> Result<String> {
        let names = command::output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        names
            .lines()
            .filter(|name| name.ends_with(suffix))
            .max_by_key(|name| numbers(name))
            .map(str::to_owned)
            .ok_or_else(|| anyhow!("there is no package {prefix}*{suffix} any more"))
    }

    /// The version that would be fetched.
    pub(crate) fn version(&self, name: &str) -> Result<String> {
        let mut show = self.command("apt-cache");
        show.args(["show", "--no-all-versions", name]);
        let text = command::output(&mut show)?;
        let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
        version
            .map(str::to_owned)
            .ok_or_else(|| anyhow!("apt knows no version of {name}"))
    }

    /// Downloads a package, `name` or `name=version`, and unpacks it; the folder with its files.
    pub(crate) fn fetch(&self, name: &str) -> Result<PathBuf> {
        println!("fetching {name}");
        let mut download = self.command("apt-get");
        command::run_within(download.args(["-qq", "download", name]), DOWNLOAD)?;
        let file = find(&self.folder, |file| file.ends_with(".deb"))
            .ok_or_else(|| anyhow!("apt-get download {name} left no file"))?;
        let unpacked = self.folder.join("unpacked");
        command::run(Command::new("dpkg").arg("-x").arg(&file).arg(&unpacked))?;
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        Ok(unpacked)
    }

    /// Removes everything.
    pub(crate) fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}

/// The first file below `folder` with such a name.
pub(crate) fn find(folder: &Path, is_it: impl Fn(&str) -> bool + Copy) -> Option<PathBuf> {
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

/// Where this machine gets packages from.
fn targets() -> Result<Vec<Target>> {
    let mut apt = Command::new("apt-get");
    apt.args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(LABEL)",
    ]);
    apt.arg("Created-By: Packages");
    Ok(parse_targets(&command::output(&mut apt)?))
}

/// A label may have blanks, and comes last.
fn parse_targets(text: &str) -> Vec<Target> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.splitn(3, ' ').map(str::to_owned);
            Some(Target {
                uri: words.next()?,
                suite: words.next()?,
                label: words.next()?,
            })
        })
        .collect()
}

/// All numbers in a name, in order: 6.1.0-56 comes after 6.1.0-9.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_name_is_the_one_with_the_highest_numbers() {
        let names = ["linux-6.1.0-9-x", "linux-6.1.0-56-x", "linux-6.1.0-48-x"];
        assert_eq!(
            names.iter().max_by_key(|name| numbers(name)),
            Some(&names[1])
        );
    }

    #[test]
    fn the_mirrors_are_read_from_apts_own_list() {
        let text = "mirror:/debian/ bookworm Debian\nmirror:/x/ stable Some Other\n";
        let found = parse_targets(text);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found.first().map(|one| one.uri.as_str()),
            Some("mirror:/debian/")
        );
        assert_eq!(
            found.last().map(|one| one.label.as_str()),
            Some("Some Other")
        );
    }
}
