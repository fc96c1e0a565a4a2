//! Which cgroups to attach to, so that each of those wanted is covered and no packet passes a program
//! twice. Paths are relative to the cgroup that is watched, whose own is empty.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Cgroups attached to at once. More: each change costs more, and each connection of a program that is
/// found in the kernel's lists.
const MOST: usize = 256;

/// What is to be done, in this order: whatever is attached anew is attached before the others are
/// detached, so that no packet passes unseen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) attach: Vec<PathBuf>,
    pub(super) detach: Vec<PathBuf>,
}

/// The cgroups that cover those wanted: none is in another, and all is one if they are too many.
pub(super) fn cover<'a>(wanted: impl IntoIterator<Item = &'a Path>) -> BTreeSet<PathBuf> {
    let mut cover: BTreeSet<PathBuf> = BTreeSet::new();
    let sorted: BTreeSet<&Path> = wanted.into_iter().collect();
    // By components a cgroup sorts right before those in it.
    for path in sorted {
        if covering(&cover, path).is_none() {
            cover.insert(path.to_owned());
        }
    }
    if cover.len() > MOST {
        return BTreeSet::from([PathBuf::new()]);
    }
    cover
}

/// The one of these that `path` is, or is in.
pub(super) fn covering<'a>(cover: &'a BTreeSet<PathBuf>, path: &Path) -> Option<&'a PathBuf> {
    path.ancestors().find_map(|ancestor| cover.get(ancestor))
}

/// From what is attached to what is to be.
pub(super) fn steps(attached: &BTreeSet<PathBuf>, cover: &BTreeSet<PathBuf>) -> Steps {
    Steps {
        attach: cover.difference(attached).cloned().collect(),
        detach: attached.difference(cover).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use proptest::prelude::Strategy;
    use proptest::{collection, prop_assert, proptest};

    use super::{MOST, Steps, cover, covering, steps};

    fn set(paths: &[&str]) -> BTreeSet<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
    }

    fn covered(paths: &[&str]) -> BTreeSet<PathBuf> {
        cover(paths.iter().map(Path::new))
    }

    #[test]
    fn a_cgroup_in_another_that_is_wanted_is_left_out() {
        assert_eq!(covered(&[]), set(&[]));
        assert_eq!(covered(&["web", "app"]), set(&["app", "web"]));
        assert_eq!(covered(&["web/a", "web", "web/b/c"]), set(&["web"]));
        // A name that begins like another is not in it.
        assert_eq!(covered(&["web", "web-2", "web.slice/x"]).len(), 3);
        assert_eq!(covered(&["a/b", "", "c"]), set(&[""]));
    }

    #[test]
    fn too_many_are_covered_by_one() {
        let many: Vec<String> = (0..=MOST).map(|number| number.to_string()).collect();
        let paths: Vec<&str> = many.iter().map(String::as_str).collect();

        assert_eq!(covered(&paths[..MOST]).len(), MOST);
        assert_eq!(covered(&paths), set(&[""]));
    }

    #[test]
    fn an_ancestor_is_attached_and_those_in_it_are_detached() {
        let before = set(&["web/a", "web/b", "app"]);

        assert_eq!(
            steps(&before, &set(&["web", "app"])),
            Steps {
                attach: vec!["web".into()],
                detach: vec!["web/a".into(), "web/b".into()],
            }
        );
        assert_eq!(steps(&before, &before), Steps::default());
    }

    proptest! {
        #[test]
        fn whatever_is_wanted_is_covered_exactly_once(
            wanted in collection::vec(
                collection::vec("[ab]", 0..4).prop_map(|names| names.join("/")), 0..12,
            )
        ) {
            let paths: Vec<&Path> = wanted.iter().map(Path::new).collect();
            let cover = cover(paths.iter().copied());

            for path in &paths {
                prop_assert!(covering(&cover, path).is_some());
                let times = path.ancestors().filter(|one| cover.contains(*one)).count();
                prop_assert!(times == 1);
            }
            prop_assert!(cover.iter().all(|one| paths.contains(&one.as_path())));
        }
    }
}
