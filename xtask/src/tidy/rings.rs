//! Which file imports which: no ring.

use std::collections::{BTreeMap, BTreeSet};

use super::Problem;
use super::tree::{File, Tree};

/// The crate whose files import one way.
const ROOT: &str = "agent-core/src/";

/// A file and those that it imports from, by path.
type Imports<'a> = BTreeMap<&'a str, BTreeSet<String>>;

/// No files of `agent-core` import each other, nor through others: a file can be read with those below
/// it alone. What a file only passes on (`pub use`) is no import.
pub(super) fn files_of_the_core_import_one_way(tree: &Tree) -> Vec<Problem> {
    let files: Vec<&File> = tree.under(ROOT).filter(|file| file.is_rust()).collect();
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut imports: Imports<'_> = files
        .iter()
        .map(|file| (file.path.as_str(), imports_of(file, &paths)))
        .collect();
    while let Some(outside) = outside_of_rings(&imports) {
        imports.remove(outside.as_str());
        for named in imports.values_mut() {
            named.remove(&outside);
        }
    }
    imports
        .iter()
        .map(|(path, named)| {
            let named: Vec<&str> = named.iter().map(String::as_str).collect();
            let what = format!("is in a ring of imports by {}", named.join(", "));
            Problem::of_file(*path, what)
        })
        .collect()
}

/// A file that imports from no other, or that no other imports from.
fn outside_of_rings(imports: &Imports<'_>) -> Option<String> {
    let is_named = |path: &str| imports.values().any(|named| named.contains(path));
    let mut outside = imports
        .iter()
        .filter(|(path, named)| named.is_empty() || !is_named(path));
    outside.next().map(|(path, _)| (*path).to_owned())
}

/// The files that `file` imports from, tests left out.
fn imports_of(file: &File, paths: &BTreeSet<&str>) -> BTreeSet<String> {
    let module = file.path.trim_start_matches(ROOT).trim_end_matches(".rs");
    let module: Vec<&str> = module.split('/').filter(|part| *part != "lib").collect();
    let code = file.code.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = BTreeSet::new();
    for (start, _) in code.match_indices("\nuse ") {
        let item = &code[start + "\nuse ".len()..];
        let item = item.split(';').next().unwrap_or_default();
        for path in expanded(item) {
            found.extend(file_of(&path, &module, paths));
        }
    }
    found.remove(&file.path);
    found
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn expanded(item: &str) -> Vec<String> {
    let item: String = item.split_whitespace().collect();
    let Some((prefix, rest)) = item.split_once('{') else {
        return vec![item];
    };
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, sign) in inner.char_indices() {
        match sign {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    let whole = parts.flat_map(|part| expanded(&format!("{prefix}{part}")));
    whole.collect()
}

/// The file of the crate that holds what `path` names in `module`, if any does.
fn file_of(path: &str, module: &[&str], paths: &BTreeSet<&str>) -> Option<String> {
    let mut parts: Vec<&str> = path.split("::").collect();
    let mut full: Vec<&str> = match *parts.first()? {
        "crate" => Vec::new(),
        "super" => module[..module.len().saturating_sub(1)].to_vec(),
        "self" => module.to_vec(),
        // A module of its own, or another crate.
        _ => {
            parts.insert(0, "self");
            module.to_vec()
        }
    };
    let below = full.len();
    full.extend(parts.drain(1..));
    let is_own = parts.first() == Some(&"self");
    (1..=full.len())
        .rev()
        .filter(|length| !is_own || *length > below)
        .map(|length| format!("{ROOT}{}.rs", full[..length].join("/")))
        .find(|file| paths.contains(file.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_of_imports_is_found_by_whatever_path() {
        let two = Tree::of(&[
            ("agent-core/src/a.rs", "//! A.\nuse crate::b::B;\n"),
            ("agent-core/src/b.rs", "//! B.\nuse crate::{a::A, c};\n"),
            ("agent-core/src/c.rs", "//! C.\nuse std::fmt;\n"),
        ]);
        let found = files_of_the_core_import_one_way(&two);
        let paths: Vec<&str> = found.iter().map(|one| one.path.as_str()).collect();
        assert_eq!(paths, ["agent-core/src/a.rs", "agent-core/src/b.rs"]);

        let parent = Tree::of(&[
            ("agent-core/src/a.rs", "//! A.\nmod b;\nuse b::B;\n"),
            ("agent-core/src/a/b.rs", "//! B.\nuse super::A;\n"),
        ]);
        assert_eq!(files_of_the_core_import_one_way(&parent).len(), 2);
    }

    #[test]
    fn imports_one_way_are_no_ring() {
        let good = Tree::of(&[
            (
                "agent-core/src/a.rs",
                "//! A.\nmod b;\npub use b::B;\nuse crate::c::{C,\n D};\n",
            ),
            (
                "agent-core/src/a/b.rs",
                "//! B.\nuse super::A;\nuse crate::c;\n",
            ),
            (
                "agent-core/src/c.rs",
                "//! C.\n#[cfg(test)]\nmod tests {\nuse crate::a::A;\n}\n",
            ),
        ]);
        assert_eq!(files_of_the_core_import_one_way(&good), []);
    }
}
