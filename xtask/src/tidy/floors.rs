//! Modules of a crate that import each other in a ring.
//!
//! In: the `use crate::` lines of a crate. Out: one problem for each file of a ring. A ring cannot be
//! read from the ground up: none of its files can be understood before the others.

use std::collections::{BTreeMap, BTreeSet};

use super::Problem;
use super::tree::Tree;

/// The sources that are held to it.
const ROOM: &str = "agent-flow/src/";

/// Modules, and what they import.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// No two files of `agent-flow` import each other, by whatever way round.
pub(super) fn flow_imports_one_way(tree: &Tree) -> Vec<Problem> {
    let modules: BTreeMap<String, &str> = tree
        .under(ROOM)
        .filter(|file| file.is_rust())
        .map(|file| (module_of(&file.path), file.code.as_str()))
        .collect();
    let imports: Imports = modules
        .iter()
        .map(|(module, code)| (module.clone(), imports(module, code, &modules)))
        .collect();
    imports
        .keys()
        .filter(|module| reaches(&imports, module).contains(*module))
        .map(|module| {
            let what = format!("{module} imports what imports it, by way of others or directly");
            Problem::of_file(ROOM, what)
        })
        .collect()
}

/// `http1::scan` of `agent-flow/src/http1/scan.rs`, and `http1` of its `mod.rs`.
fn module_of(path: &str) -> String {
    let path = path.trim_start_matches(ROOM).trim_end_matches(".rs");
    path.trim_end_matches("/mod").replace('/', "::")
}

/// The modules that the `use crate::` lines of `code` name.
fn imports(module: &str, code: &str, modules: &BTreeMap<String, &str>) -> BTreeSet<String> {
    let uses = code
        .split(';')
        .filter_map(|line| line.split("use crate::").nth(1));
    let mut found = BTreeSet::new();
    for line in uses {
        let (start, rest) = line.split_once('{').unwrap_or((line, ""));
        let items: Vec<&str> = match rest {
            "" => vec![""],
            rest => rest.trim_end_matches('}').split(',').collect(),
        };
        for item in items {
            let path: String = format!("{start}{item}")
                .chars()
                .filter(|letter| !letter.is_whitespace())
                .collect();
            let mut path = path.as_str();
            // The item, then the modules that it is in.
            while !path.is_empty() && !modules.contains_key(path) {
                path = path.rsplit_once("::").map_or("", |(before, _)| before);
            }
            if !path.is_empty() && path != module {
                found.insert(path.to_owned());
            }
        }
    }
    found
}

/// All modules that `from` imports, and what these import.
fn reaches(imports: &Imports, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut left = vec![from.to_owned()];
    while let Some(module) = left.pop() {
        for next in imports.get(&module).into_iter().flatten() {
            if reached.insert(next.clone()) {
                left.push(next.clone());
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUND: (&str, &str) = ("agent-flow/src/ground.rs", "//! G.\npub fn g() {}\n");

    #[test]
    fn a_ring_is_found_by_whatever_way_round() {
        let tree = Tree::of(&[
            GROUND,
            ("agent-flow/src/a.rs", "//! A.\nuse crate::http1::b::b;\n"),
            ("agent-flow/src/http1/mod.rs", "//! H.\npub mod b;\n"),
            (
                "agent-flow/src/http1/b.rs",
                "//! B.\nuse crate::{\n    c,\n    ground,\n};\n",
            ),
            ("agent-flow/src/c.rs", "//! C.\nuse crate::a::{A, B};\n"),
        ]);
        let problems = flow_imports_one_way(&tree);
        let names: Vec<&str> = problems
            .iter()
            .filter_map(|problem| problem.what.split(' ').next())
            .collect();
        assert_eq!(names, ["a", "c", "http1::b"]);
    }

    #[test]
    fn one_way_is_no_ring_and_a_comment_no_import() {
        let tree = Tree::of(&[
            (
                "agent-flow/src/ground.rs",
                "//! Not use crate::a::A;\npub fn g() {}\n",
            ),
            ("agent-flow/src/a.rs", "//! A.\nuse crate::ground::g;\n"),
            (
                "agent-flow/src/b.rs",
                "//! B.\nuse crate::{a, ground::g};\n",
            ),
        ]);
        assert_eq!(flow_imports_one_way(&tree), []);
    }
}
