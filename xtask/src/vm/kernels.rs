//! The kernels of the matrix, and where each comes from.

use anyhow::{Result, bail};

/// A kernel of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// What it is called here, and how its release begins.
    pub(super) name: &'static str,
    /// Where it comes from.
    pub(super) source: Source,
}

/// Where a kernel comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A package of Debian, booted in a virtual machine.
    Debian(Package),
    /// The kernel that runs here.
    Host,
}

/// A package that holds a kernel. Its name has the kernel's version in the middle, and changes
/// with each update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Package {
    /// Suite.
    pub(super) suite: &'static str,
    /// The suite is one of the security archive.
    pub(super) security: bool,
    /// How its name begins.
    pub(super) prefix: &'static str,
    /// How its name ends.
    pub(super) suffix: &'static str,
}

/// From the oldest that is supported to the newest there is. Unsigned, because their names
/// are regular; cloud, because they are small and have all drivers that QEMU needs.
pub(super) const KERNELS: [Kernel; 5] = [
    Kernel {
        name: "5.10",
        source: Source::Debian(Package {
            suite: "bullseye",
            security: false,
            prefix: "linux-image-5.10.",
            suffix: "-cloud-amd64-unsigned",
        }),
    },
    Kernel {
        name: "6.1",
        source: Source::Debian(Package {
            suite: "bookworm-security",
            security: true,
            prefix: "linux-image-6.1.",
            suffix: "-cloud-amd64-unsigned",
        }),
    },
    Kernel {
        name: "6.12",
        source: Source::Debian(Package {
            suite: "trixie",
            security: false,
            prefix: "linux-image-6.12.",
            suffix: "-cloud-amd64-unsigned",
        }),
    },
    Kernel {
        name: "6.18",
        source: Source::Host,
    },
    Kernel {
        name: "7.2",
        source: Source::Debian(Package {
            suite: "sid",
            security: false,
            prefix: "linux-binary-unsigned-7.2.",
            suffix: "-cloud-amd64",
        }),
    },
];

/// The one that differs most from what developers run: for a quick look.
pub(super) const QUICK: &str = "5.10";

/// The kernels of these names, in the order of the table; `all` or no name is all of them.
pub(super) fn chosen(names: &[String]) -> Result<Vec<Kernel>> {
    let all = names.is_empty() || names.iter().any(|name| name == "all");
    let known = |name: &&String| {
        name.as_str() == "all" || KERNELS.iter().any(|kernel| kernel.name == name.as_str())
    };
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        let names: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
        bail!(
            "there is no kernel `{unknown}` here; there are {} and all",
            names.join(", ")
        );
    }
    let wanted = |kernel: &&Kernel| all || names.iter().any(|name| name == kernel.name);
    Ok(KERNELS.iter().filter(wanted).copied().collect())
}

/// Whether a release (`uname -r`) is one of the kernel `name`.
pub(super) fn is_release_of(release: &str, name: &str) -> bool {
    release
        .strip_prefix(name)
        .is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_chosen_by_name_and_keep_their_order() {
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            chosen(&names).map(|kernels| kernels.iter().map(|one| one.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["6.12", "5.10"]).expect("known"), ["5.10", "6.12"]);
        assert_eq!(names(&["all"]).expect("known").len(), KERNELS.len());
        assert_eq!(names(&[]).expect("known").len(), KERNELS.len());
        assert!(names(&["4.4"]).is_err());
    }

    #[test]
    fn a_release_is_of_the_kernel_whose_numbers_it_begins_with() {
        assert!(is_release_of("6.1.0-56-cloud-amd64", "6.1"));
        assert!(!is_release_of("6.12.117+deb13-cloud-amd64", "6.1"));
    }
}
