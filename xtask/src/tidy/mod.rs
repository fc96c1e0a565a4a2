//! `tidy`: the invariants that cargo, rustc and clippy cannot hold.
//!
//! In: the files that git knows or would add, and what cargo reads in the manifests. Out: one line a problem, `path:line: what`,
//! and an error when there is any. Rules are pure functions of a [`Tree`], so each has a
//! test that shows it fail.

mod code;
mod dependencies;
mod floors;
mod layout;
mod made;
mod purity;
mod rings;
mod style;
mod tree;

use std::fmt;

use anyhow::{Result, bail};

use tree::Tree;

/// Something that must not be so.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    path: String,
    /// From 1; 0 when the problem is the file's, not a line's.
    line: usize,
    what: String,
}

impl Problem {
    fn of_file(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            line: 0,
            what: what.into(),
        }
    }

    fn of_line(path: impl Into<String>, line: usize, what: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, what } = self;
        match line {
            0 => write!(f, "{path}: {what}"),
            line => write!(f, "{path}:{line}: {what}"),
        }
    }
}

type Rule = fn(&Tree) -> Vec<Problem>;

const RULES: [Rule; 18] = [
    purity::core_depends_on_no_runtime,
    purity::core_touches_no_outside,
    purity::wire_depends_on_nothing,
    purity::flow_depends_on_wire_alone,
    floors::flow_imports_one_way,
    purity::aya_stays_in_its_room,
    purity::unsafe_stays_in_listed_files,
    rings::files_of_the_core_import_one_way,
    style::files_open_with_their_contract,
    style::files_fit_a_mind,
    style::nothing_is_left_to_do,
    style::imports_are_named,
    style::no_path_of_one_machine,
    layout::top_level_is_as_designed,
    layout::decisions_are_numbered_without_gaps,
    layout::decisions_have_their_parts,
    dependencies::lock_is_of_crates_io,
    made::dashboards_are_as_made,
];

/// Checks the checkout.
pub(crate) fn run() -> Result<()> {
    let tree = Tree::of_checkout()?;
    let mut problems: Vec<Problem> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    let packages = dependencies::packages()?;
    problems.extend(dependencies::are_in_the_table(&packages, &tree));
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        bail!("tidy found {} problems", problems.len());
    }
    println!(
        "tidy: {} files, {} rules, no problem",
        tree.len(),
        RULES.len() + 1
    );
    Ok(())
}
