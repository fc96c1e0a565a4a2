//! What the crates depend on: each in the table of `docs/dependencies.md`, and that alone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Problem;
use super::tree::Tree;
use crate::host::command;

const PAGE: &str = "docs/dependencies.md";
const LOCK: &str = "Cargo.lock";
const CRATES_IO: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";

/// What cargo says of the workspace, as far as it is used here.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// A crate of ours.
#[derive(Debug, Deserialize)]
pub(super) struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// `dev`, `build`, or none.
    kind: Option<String>,
    features: Vec<String>,
    uses_default_features: bool,
    /// Of a crate of ours.
    path: Option<String>,
}

/// A row of the table: who uses it, with which features.
#[derive(Debug, Default, PartialEq, Eq)]
struct Row {
    users: BTreeSet<String>,
    features: BTreeSet<String>,
}

/// The crates of the workspace as their manifests have them.
pub(super) fn packages() -> Result<Vec<Package>> {
    let mut cargo = command::cargo();
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
    let text = command::output(&mut cargo)?;
    let metadata: Metadata = serde_json::from_str(&text)
        .context("what cargo says of the workspace is not as expected")?;
    Ok(metadata.packages)
}

/// No default features, and the table is of these dependencies.
pub(super) fn are_in_the_table(packages: &[Package], tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut used: BTreeMap<&str, Row> = BTreeMap::new();
    for package in packages {
        let manifest = format!("{}: Cargo.toml", package.name);
        for dependency in package.dependencies.iter().filter(|it| it.path.is_none()) {
            let name = &dependency.name;
            if dependency.uses_default_features {
                let what = format!("{name} has its default features: name those that are used");
                problems.push(Problem::of_file(&manifest, what));
            }
            let row = used.entry(name).or_default();
            row.features.extend(dependency.features.iter().cloned());
            row.users.insert(match &dependency.kind {
                Some(kind) => format!("{} ({kind})", package.name),
                None => package.name.clone(),
            });
        }
    }
    for row in used.values_mut() {
        // Whoever ships it may use it in tests as well.
        let shipped = row.users.clone();
        row.users.retain(|user| {
            let name = user.split(' ').next().unwrap_or_default();
            name == user || !shipped.contains(name)
        });
    }
    let table = tree.get(PAGE).map(|page| rows(&page.text));
    let table = table.unwrap_or_default();
    for (name, row) in &used {
        match table.get(name) {
            None => problems.push(Problem::of_file(PAGE, format!("says nothing of {name}"))),
            Some(said) if said != row => {
                let what = format!("{name} is {}", row.line());
                problems.push(Problem::of_file(PAGE, what));
            }
            Some(_) => {}
        }
    }
    for name in table.keys().filter(|name| !used.contains_key(*name)) {
        problems.push(Problem::of_file(PAGE, format!("nobody depends on {name}")));
    }
    problems
}

/// Everything is of crates.io, or ours.
pub(super) fn lock_is_of_crates_io(tree: &Tree) -> Vec<Problem> {
    let Some(lock) = tree.get(LOCK) else {
        return Vec::new();
    };
    lock.text_lines()
        .filter(|(_, line)| line.starts_with("source = ") && *line != CRATES_IO)
        .map(|(number, _)| Problem::of_line(LOCK, number, "a source other than crates.io"))
        .collect()
}

/// `| name | users | features | ...`, the name in code.
fn rows(page: &str) -> BTreeMap<&str, Row> {
    let row = |line| -> Option<(&str, Row)> {
        let mut cells = str::split(line, '|').map(str::trim).skip(1);
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        let (users, features) = (cells.next()?, cells.next()?);
        let list = |text: &str| -> BTreeSet<String> {
            text.split(", ")
                .map(|item| item.trim_matches('`').to_owned())
                .filter(|item| !item.is_empty())
                .collect()
        };
        Some((
            name,
            Row {
                users: list(users),
                features: list(features),
            },
        ))
    };
    page.lines().filter_map(row).collect()
}

impl Row {
    /// As it should stand in the table.
    fn line(&self) -> String {
        let join = |items: &BTreeSet<String>, quote: &str| {
            let quoted: Vec<String> = items
                .iter()
                .map(|it| format!("{quote}{it}{quote}"))
                .collect();
            quoted.join(", ")
        };
        let Self { users, features } = self;
        format!("| {} | {} |", join(users, ""), join(features, "`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &str) -> Package {
        let text = format!("{{\"name\": \"{name}\", \"dependencies\": [{dependencies}]}}");
        serde_json::from_str(&text).expect("a package")
    }

    fn problems(packages: &[Package], row: &str) -> Vec<String> {
        let tree = Tree::of(&[(PAGE, row)]);
        let problems = are_in_the_table(packages, &tree);
        problems.into_iter().map(|problem| problem.what).collect()
    }

    const LIBC: &str = r#"{"name": "libc", "kind": null, "features": ["std"], "uses_default_features": false, "path": null}"#;

    #[test]
    fn a_dependency_without_a_row_and_a_row_without_a_dependency_are_found() {
        let agent = [package("agent", LIBC)];
        assert_eq!(
            problems(&agent, "| `libc` | agent | `std` | x | y |"),
            [""; 0]
        );
        assert_eq!(problems(&agent, ""), ["says nothing of libc"]);
        assert_eq!(
            problems(&[], "| `libc` | agent | `std` | x | y |"),
            ["nobody depends on libc"]
        );
    }

    #[test]
    fn another_user_or_feature_is_found_and_its_row_is_told() {
        let agent = [package("agent", LIBC)];
        assert_eq!(
            problems(&agent, "| `libc` | agent, xtask | | x | y |"),
            ["libc is | agent | `std` |"]
        );
    }

    #[test]
    fn tests_of_whoever_ships_a_dependency_are_not_another_user() {
        let dev = LIBC.replace("null, \"features\"", "\"dev\", \"features\"");
        let both = [package("agent", &format!("{LIBC}, {dev}"))];
        assert_eq!(
            problems(&both, "| `libc` | agent | `std` | x | y |"),
            [""; 0]
        );
        let tests = [package("agent", &dev)];
        assert_eq!(
            problems(&tests, "| `libc` | agent (dev) | `std` | x | y |"),
            [""; 0]
        );
    }

    #[test]
    fn default_features_are_found() {
        let agent = [package("agent", &LIBC.replace("false", "true"))];
        assert_eq!(
            problems(&agent, "| `libc` | agent | `std` | x | y |").len(),
            1
        );
    }

    #[test]
    fn a_source_other_than_crates_io_is_found() {
        let good = format!("[[package]]\n{CRATES_IO}\n");
        assert_eq!(lock_is_of_crates_io(&Tree::of(&[(LOCK, &good)])), []);
        let bad = "[[package]]\nsource = \"git+https://example.org/x\"\n";
        assert_eq!(lock_is_of_crates_io(&Tree::of(&[(LOCK, bad)])).len(), 1);
    }
}
