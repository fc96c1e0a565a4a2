//! Who may name what: the walls between the crates.

use super::Problem;
use super::tree::{File, Tree};

/// Crates that would make the core depend on a kernel, a runtime or a metrics library.
const NOT_IN_CORE: [&str; 6] = [
    "aya",
    "aya-log",
    "tokio",
    "prometheus-client",
    "libc",
    "rustix",
];

/// What would make the core's answer depend on more than its input.
const OUTSIDE: [&str; 12] = [
    "Instant",
    "SystemTime",
    "std::fs",
    "std::env",
    "std::io",
    "std::process",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
];

/// Files that may contain `unsafe`, each with what for.
const UNSAFE: [&str; 12] = [
    // Records to bytes and back.
    "agent-wire/src/plain.rs",
    // Functions that the verifier walks once, and their names.
    "agent-ebpf/src/calls.rs",
    // Helpers and memory of the kernel.
    "agent-ebpf/src/kernel.rs",
    // Names of the values that the daemon sets.
    "agent-ebpf/src/kernel/facts.rs",
    // The attribute that puts the licence into its section.
    "agent-ebpf/src/main.rs",
    // clock_gettime.
    "agent/src/clock.rs",
    // fstatfs.
    "agent/src/kernel/cgroup.rs",
    // The ring's descriptor and who owns it.
    "agent/src/kernel/mod.rs",
    // Pages of the ring, shared with the kernel.
    "agent/src/kernel/ring.rs",
    // mallopt and malloc_trim, to keep little of what is free.
    "agent/src/memory.rs",
    // sysconf.
    "agent/src/metrics/process.rs",
    // TUNSETIFF.
    "tests/src/delay.rs",
];

/// `agent-core` depends on no runtime.
pub(super) fn core_depends_on_no_runtime(tree: &Tree) -> Vec<Problem> {
    let Some(manifest) = tree.get("agent-core/Cargo.toml") else {
        return Vec::new();
    };
    dependencies(manifest)
        .into_iter()
        .filter(|(_, name)| NOT_IN_CORE.contains(name))
        .map(|(line, name)| {
            Problem::of_line(
                &manifest.path,
                line,
                format!("the core must not depend on {name}"),
            )
        })
        .collect()
}

/// `agent-core` reads no clock, file, network or environment.
pub(super) fn core_touches_no_outside(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in tree.under("agent-core/src/").filter(|file| file.is_rust()) {
        for (number, line) in file.code_lines() {
            for name in OUTSIDE.into_iter().filter(|name| has_word(line, name)) {
                let what = format!("the core is a function of its input: no {name} here");
                problems.push(Problem::of_line(&file.path, number, what));
            }
        }
    }
    problems
}

/// `agent-wire` compiles for the kernel and the daemon: it depends on nothing.
pub(super) fn wire_depends_on_nothing(tree: &Tree) -> Vec<Problem> {
    let Some(manifest) = tree.get("agent-wire/Cargo.toml") else {
        return Vec::new();
    };
    dependencies(manifest)
        .into_iter()
        .map(|(line, name)| {
            Problem::of_line(
                &manifest.path,
                line,
                format!("agent-wire must not depend on {name}"),
            )
        })
        .collect()
}

/// `agent-flow` compiles for the kernel and the host, and knows neither: of other crates it has
/// `agent-wire` alone.
pub(super) fn flow_depends_on_wire_alone(tree: &Tree) -> Vec<Problem> {
    let Some(manifest) = tree.get("agent-flow/Cargo.toml") else {
        return Vec::new();
    };
    dependencies(manifest)
        .into_iter()
        .filter(|(_, name)| *name != "agent-wire")
        .map(|(line, name)| {
            let what = format!("agent-flow depends on agent-wire alone, not on {name}");
            Problem::of_line(&manifest.path, line, what)
        })
        .collect()
}

/// Only `agent/src/kernel` names aya.
pub(super) fn aya_stays_in_its_room(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    let outside = tree.rust().filter(|file| {
        !file.path.starts_with("agent/src/kernel/") && !file.path.starts_with("agent-ebpf/")
    });
    for file in outside {
        for (number, line) in file.code_lines() {
            if has_word(line, "aya") || has_word(line, "aya_log") {
                let what = "only agent/src/kernel names aya";
                problems.push(Problem::of_line(&file.path, number, what));
            }
        }
    }
    problems
}

/// `unsafe` is written in few files, and a new one is a decision.
pub(super) fn unsafe_stays_in_listed_files(tree: &Tree) -> Vec<Problem> {
    let is_unsafe = |line: &str| has_word(line, "unsafe");
    let mut problems = Vec::new();
    for file in tree.rust() {
        let listed = UNSAFE.contains(&file.path.as_str());
        let mut found = file
            .code_lines()
            .filter(|(_, line)| is_unsafe(line))
            .peekable();
        if listed && found.peek().is_none() {
            let what = "has no unsafe any more: take it off the list in xtask/src/tidy/purity.rs";
            problems.push(Problem::of_file(&file.path, what));
        } else if !listed {
            let what = "unsafe code is kept to the files listed in xtask/src/tidy/purity.rs";
            problems.extend(found.map(|(line, _)| Problem::of_line(&file.path, line, what)));
        }
    }
    problems
}

/// Names in `[dependencies]` and its tables, with their lines. Development and build
/// dependencies do not ship and are left out.
fn dependencies(manifest: &File) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_table = false;
    for (number, line) in manifest.text_lines() {
        let line = line.trim();
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            in_table = table == "dependencies" || table.ends_with(".dependencies");
            if let Some(name) = table.strip_prefix("dependencies.") {
                found.push((number, name));
            }
        } else if in_table && !line.is_empty() && !line.starts_with('#') {
            let end = line.find(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'));
            found.push((number, &line[..end.unwrap_or(line.len())]));
        }
    }
    found
}

/// Whether `line` has `word` with no word character at either side.
fn has_word(line: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, found)| {
        let before = line[..start].chars().next_back();
        let after = line[start + found.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_in_the_core_is_found_in_either_notation() {
        let bad = Tree::of(&[(
            "agent-core/Cargo.toml",
            "[dependencies]\ntokio.workspace = true\n[dependencies.aya]\nversion = \"1\"\n",
        )]);
        assert_eq!(core_depends_on_no_runtime(&bad).len(), 2);
        let good = Tree::of(&[(
            "agent-core/Cargo.toml",
            "[dependencies]\nhttparse = \"1\"\n[dev-dependencies]\ntokio = \"1\"\n",
        )]);
        assert_eq!(core_depends_on_no_runtime(&good), []);
    }

    #[test]
    fn a_clock_or_a_file_in_the_core_is_found_but_not_in_a_comment() {
        let bad = Tree::of(&[(
            "agent-core/src/a.rs",
            "//! A.\nuse std::time::Instant;\nfn f() { std::fs::read(p); }\n",
        )]);
        assert_eq!(core_touches_no_outside(&bad).len(), 2);
        let good = Tree::of(&[(
            "agent-core/src/a.rs",
            "//! Never std::time::Instant.\nstruct InstantLike;\n",
        )]);
        assert_eq!(core_touches_no_outside(&good), []);
    }

    #[test]
    fn any_dependency_of_the_wire_is_found() {
        let bad = Tree::of(&[(
            "agent-wire/Cargo.toml",
            "[package]\nname = \"x\"\n[dependencies]\nlibc = \"0\"\n",
        )]);
        assert_eq!(wire_depends_on_nothing(&bad).len(), 1);
        let good = Tree::of(&[(
            "agent-wire/Cargo.toml",
            "[package]\nname = \"x\"\n[lints]\nworkspace = true\n",
        )]);
        assert_eq!(wire_depends_on_nothing(&good), []);
    }

    #[test]
    fn another_dependency_of_the_flow_than_the_wire_is_found() {
        let bad = Tree::of(&[(
            "agent-flow/Cargo.toml",
            "[dependencies]\nagent-wire.workspace = true\naya-ebpf.workspace = true\n",
        )]);
        let problems = flow_depends_on_wire_alone(&bad);
        assert_eq!(problems.first().map(|problem| problem.line), Some(3));
        let good = Tree::of(&[(
            "agent-flow/Cargo.toml",
            "[dependencies]\nagent-wire.workspace = true\n[dev-dependencies]\nproptest = \"1\"\n",
        )]);
        assert_eq!(flow_depends_on_wire_alone(&good), []);
    }

    #[test]
    fn aya_outside_its_room_is_found() {
        let bad = Tree::of(&[("agent/src/metrics/a.rs", "use aya::Ebpf;\n")]);
        assert_eq!(aya_stays_in_its_room(&bad).len(), 1);
        let good = Tree::of(&[
            ("agent/src/kernel/load.rs", "use aya::Ebpf;\n"),
            ("agent/src/main.rs", "let ayatollah = 1;\n"),
        ]);
        assert_eq!(aya_stays_in_its_room(&good), []);
    }

    #[test]
    fn unsafe_in_an_unlisted_file_is_found() {
        let bad = Tree::of(&[("agent/src/names.rs", "fn f() { unsafe { g() } }\n")]);
        assert_eq!(unsafe_stays_in_listed_files(&bad).len(), 1);
        let stale = Tree::of(&[("agent-wire/src/plain.rs", "struct Plain;\n")]);
        assert_eq!(unsafe_stays_in_listed_files(&stale).len(), 1);
        let good = Tree::of(&[
            ("agent-wire/src/plain.rs", "unsafe trait P {}\n"),
            ("agent/src/a.rs", "#![forbid(unsafe_code)] // unsafe\n"),
        ]);
        assert_eq!(unsafe_stays_in_listed_files(&good), []);
    }
}
