//! How every file reads.

use super::Problem;
use super::tree::Tree;

/// Lines a Rust file may have. More does not fit a mind: split it.
const LINES: usize = 600;

/// Marks of unfinished work, in two halves so that this file does not hold them.
const UNFINISHED: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// Beginnings of paths that exist on one machine only, in two halves for the same reason.
const MACHINE: [&str; 5] = [
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/tmp/", "scratch"),
];

/// Files of others' making: a licence may say what it likes, a lock file is not prose.
const NOT_OURS: [&str; 2] = ["LICENSE-APACHE", "Cargo.lock"];

/// Each Rust file opens with `//!`: what goes in, what comes out, what it must never do.
pub(super) fn files_open_with_their_contract(tree: &Tree) -> Vec<Problem> {
    tree.rust()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| {
            Problem::of_file(
                &file.path,
                "a Rust file opens with a `//!` that says what it is for",
            )
        })
        .collect()
}

/// No Rust file is longer than a mind.
pub(super) fn files_fit_a_mind(tree: &Tree) -> Vec<Problem> {
    tree.rust()
        .map(|file| (file, file.text.lines().count()))
        .filter(|(_, lines)| *lines > LINES)
        .map(|(file, lines)| {
            Problem::of_file(
                &file.path,
                format!("{lines} lines, and {LINES} is the most"),
            )
        })
        .collect()
}

/// No mark of unfinished work.
pub(super) fn nothing_is_left_to_do(tree: &Tree) -> Vec<Problem> {
    lines_with(tree, &UNFINISHED, "finish it or leave it out: no")
}

/// No glob import, but `super::*` in a test module.
pub(super) fn imports_are_named(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in tree.rust() {
        for (number, line) in file.code_lines() {
            let line = line.trim();
            let imports = line.starts_with("use ")
                || line.starts_with("pub use ")
                || line.starts_with("pub(");
            if imports && line.contains("::*") && line != "use super::*;" {
                problems.push(Problem::of_line(
                    &file.path,
                    number,
                    "name what is imported: no glob",
                ));
            }
        }
    }
    problems
}

/// Nothing that is true on one machine only.
pub(super) fn no_path_of_one_machine(tree: &Tree) -> Vec<Problem> {
    lines_with(tree, &MACHINE, "a path of one machine:")
}

fn lines_with(tree: &Tree, words: &[&str], what: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in tree
        .files()
        .filter(|file| !NOT_OURS.contains(&file.path.as_str()))
    {
        for (number, line) in file.text_lines() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                problems.push(Problem::of_line(
                    &file.path,
                    number,
                    format!("{what} {word}"),
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_its_contract_is_found() {
        let bad = Tree::of(&[("a.rs", "use x;\n//! Late.\n")]);
        assert_eq!(files_open_with_their_contract(&bad).len(), 1);
        let good = Tree::of(&[("a.rs", "//! What it is for.\n"), ("a.md", "# Text\n")]);
        assert_eq!(files_open_with_their_contract(&good), []);
    }

    #[test]
    fn a_file_that_is_too_long_is_found() {
        let bad = Tree::of(&[("a.rs", &"\n".repeat(LINES + 1))]);
        assert_eq!(files_fit_a_mind(&bad).len(), 1);
        let good = Tree::of(&[
            ("a.rs", &"\n".repeat(LINES)),
            ("a.md", &"\n".repeat(LINES * 2)),
        ]);
        assert_eq!(files_fit_a_mind(&good), []);
    }

    #[test]
    fn a_mark_of_unfinished_work_is_found_with_its_line() {
        let text = format!("one\n// {}: later\n", concat!("TO", "DO"));
        let problems = nothing_is_left_to_do(&Tree::of(&[("a.rs", &text)]));
        assert_eq!(problems.first().map(|problem| problem.line), Some(2));
        assert_eq!(nothing_is_left_to_do(&Tree::of(&[("a.rs", "done\n")])), []);
    }

    #[test]
    fn a_glob_import_is_found_but_not_that_of_a_test_module() {
        let bad = Tree::of(&[(
            "a.rs",
            "use std::fmt::*;\npub use crate::b::{*};\n    use a::{b::*, c};\n",
        )]);
        assert_eq!(imports_are_named(&bad).len(), 2);
        let good = Tree::of(&[(
            "a.rs",
            "mod tests {\n    use super::*;\n}\nlet x = a * b;\n",
        )]);
        assert_eq!(imports_are_named(&good), []);
    }

    #[test]
    fn a_path_of_one_machine_is_found_in_any_file() {
        let text = format!("see {}notes\n", concat!("/ho", "me/"));
        assert_eq!(
            no_path_of_one_machine(&Tree::of(&[("docs/a.md", &text)])).len(),
            1
        );
        assert_eq!(
            no_path_of_one_machine(&Tree::of(&[("docs/a.md", "see /proc/self\n")])),
            []
        );
    }
}
