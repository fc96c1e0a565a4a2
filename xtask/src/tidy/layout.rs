//! What lies where.

use std::collections::BTreeSet;

use super::Problem;
use super::tree::Tree;

/// Everything that may lie at the top. A new entry is a new room: think twice, then add it
/// here and to docs/architecture.md.
const TOP: [&str; 22] = [
    ".cargo",
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "agent",
    "agent-core",
    "agent-ebpf",
    "agent-flow",
    "agent-wire",
    "clippy.toml",
    "dashboards",
    "deny.toml",
    "deploy",
    "docs",
    "rustfmt.toml",
    "tests",
    "xtask",
];

/// Parts of a decision record, in order.
const PARTS: [&str; 4] = [
    "## Context",
    "## Decision",
    "## Roads not taken",
    "## Consequences",
];

const DECISIONS: &str = "docs/decisions/";

/// The top level holds these entries and no others.
pub(super) fn top_level_is_as_designed(tree: &Tree) -> Vec<Problem> {
    let found: BTreeSet<&str> = tree
        .files()
        .filter_map(|file| file.path.split('/').next())
        .collect();
    let unknown = found
        .iter()
        .filter(|entry| !TOP.contains(entry))
        .map(|entry| Problem::of_file(*entry, "does not belong at the top level"));
    let missing = TOP
        .iter()
        .filter(|entry| !found.contains(*entry))
        .map(|entry| Problem::of_file(*entry, "is missing"));
    unknown.chain(missing).collect()
}

/// `docs/decisions/0001-some-words.md` and on, each number once.
pub(super) fn decisions_are_numbered_without_gaps(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut paths: Vec<&str> = tree
        .under(DECISIONS)
        .map(|file| file.path.as_str())
        .collect();
    paths.sort_unstable();
    for (path, expected) in paths.into_iter().zip(1u32..) {
        let name = path.trim_start_matches(DECISIONS);
        if name.split_once('-').map(|(number, _)| number) != Some(&format!("{expected:04}")) {
            problems.push(Problem::of_file(
                path,
                format!("the next decision is {expected:04}-..."),
            ));
        }
    }
    problems
}

/// A decision says what was not done, too.
pub(super) fn decisions_have_their_parts(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in tree.under(DECISIONS) {
        let headings: Vec<&str> = file
            .text
            .lines()
            .filter(|line| line.starts_with("## "))
            .collect();
        if headings != PARTS {
            let what = format!("a decision has the parts {}", PARTS.join(", "));
            problems.push(Problem::of_file(&file.path, what));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stray_entry_and_a_missing_one_are_found() {
        let mut entries: Vec<(&str, &str)> = TOP.iter().map(|entry| (*entry, "")).collect();
        assert_eq!(top_level_is_as_designed(&Tree::of(&entries)), []);
        entries.push(("notes/today.md", ""));
        entries.retain(|(path, _)| *path != "LICENSE-MIT");
        let problems = top_level_is_as_designed(&Tree::of(&entries));
        let paths: Vec<&str> = problems
            .iter()
            .map(|problem| problem.path.as_str())
            .collect();
        assert_eq!(paths, ["notes", "LICENSE-MIT"]);
    }

    #[test]
    fn a_gap_in_the_decisions_is_found() {
        let good = [
            ("docs/decisions/0001-a.md", ""),
            ("docs/decisions/0002-b.md", ""),
        ];
        assert_eq!(decisions_are_numbered_without_gaps(&Tree::of(&good)), []);
        let gap = [
            ("docs/decisions/0001-a.md", ""),
            ("docs/decisions/0003-b.md", ""),
        ];
        assert_eq!(
            decisions_are_numbered_without_gaps(&Tree::of(&gap)).len(),
            1
        );
        let twice = [
            ("docs/decisions/0001-a.md", ""),
            ("docs/decisions/0001-b.md", ""),
        ];
        assert_eq!(
            decisions_are_numbered_without_gaps(&Tree::of(&twice)).len(),
            1
        );
    }

    #[test]
    fn a_decision_without_the_roads_not_taken_is_found() {
        let whole = PARTS.join("\n\ntext\n\n");
        assert_eq!(
            decisions_have_their_parts(&Tree::of(&[("docs/decisions/0001-a.md", &whole)])),
            []
        );
        let part = whole.replace("## Roads not taken", "");
        assert_eq!(
            decisions_have_their_parts(&Tree::of(&[("docs/decisions/0001-a.md", &part)])).len(),
            1
        );
    }
}
