//! `docs/coverage-unread.md`: what clients got and what the agent said, a section for each proxy.
//!
//! In: the cells of one proxy. Out: its section, written with `WHY502_BLESS=1` and compared otherwise.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use crate::kinds::{FAULTS, Kind};
use crate::proxies::Proxy;

const HEAD: &str = "\
# Coverage: upstreams that are not read

Written by the test `unread_upstreams` (`WHY502_BLESS=1 cargo test -p e2e --test unread_upstreams`),
from real proxies, with servers that misbehave as ordered, a real php-fpm and a real uWSGI. What these
upstreams speak is not read: TCP alone tells how an attempt went, so that nothing here is `proof` but
a refused connect, and uWSGI's answers over TCP, which are HTTP/1.

A cell is what the client got (a status, `none` for no status line), and what the agent said of it: the
cause of the error, or of the attempt behind a cut answer, and how sure it is. The test fails when a
cause is not one that may be said of the fault, when another upstream is named, or when it is more sure
than TCP allows. `unattributed` names the upstream where only one was in use. At HAProxy and Caddy, whose
threads do not say for whom they act, a cell may be `unattributed` or a guess in another run. `-`: the proxy cannot
have it, or (gRPC at Caddy) the small server of these scenes cannot show it. `ok`: the proxy hid from its client that the answer was cut.
";

/// What became of one fault at one kind of upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) code: Option<u16>,
    pub(crate) cause: String,
    pub(crate) certainty: String,
}

/// A cause that is none: the client got a whole answer.
pub(crate) const OK: &str = "ok";

/// By kind and fault.
pub(crate) type Cells = BTreeMap<(&'static str, &'static str), Cell>;

impl fmt::Display for Cell {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            code,
            cause,
            certainty,
        } = self;
        match code {
            Some(code) => write!(out, "{code}")?,
            None => out.write_str("none")?,
        }
        match (cause.as_str(), certainty.as_str()) {
            (OK, _) => out.write_str(" ok"),
            ("" | "unattributed", _) => out.write_str(" unattributed"),
            (cause, certainty) => write!(out, " {cause} {certainty}"),
        }
    }
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/coverage-unread.md")
}

fn title(proxy: &str) -> String {
    format!("## {proxy}\n")
}

fn section(proxy: &Proxy, cells: &Cells) -> String {
    let mut text = title(proxy.name);
    let (mut head, mut rule) = (
        "\n| fault | what happens |".to_owned(),
        "| --- | --- |".to_owned(),
    );
    for Kind { name, .. } in &proxy.kinds {
        head.push_str(&format!(" {name} |"));
        rule.push_str(" --- |");
    }
    text.push_str(&format!("{head}\n{rule}\n"));
    for fault in FAULTS {
        let mut row = format!("| {} | {} |", fault.name, fault.what);
        for Kind { name, .. } in &proxy.kinds {
            let cell = cells.get(&(*name, fault.name)).map(Cell::to_string);
            row.push_str(&format!(" {} |", cell.as_deref().unwrap_or("-")));
        }
        text.push_str(&row);
        text.push('\n');
    }
    text
}

/// Compares the section of `proxy` with the page, or writes it there. `vague`: what was said may be
/// unattributed in this run.
#[track_caller]
pub(crate) fn check(proxy: &Proxy, cells: &Cells, vague: bool) {
    let page = fs::read_to_string(path()).unwrap_or_default();
    let mut sections: BTreeMap<String, String> = page
        .split("\n## ")
        .skip(1)
        .map(|section| {
            let (name, _) = section.split_once('\n').unwrap_or((section, ""));
            (name.to_owned(), format!("## {}\n", section.trim_end()))
        })
        .collect();
    let new = section(proxy, cells);
    if std::env::var_os("WHY502_BLESS").is_some() {
        sections.insert(proxy.name.to_owned(), new);
        let sections: Vec<String> = sections.into_values().collect();
        let page = format!("{HEAD}\n{}", sections.join("\n"));
        fs::write(path(), page).expect("docs/coverage-unread.md is written");
        return;
    }
    let old = sections.remove(proxy.name).unwrap_or_default();
    let rows = |text: &str| -> Vec<Vec<String>> {
        let rows = text.lines().filter(|line| line.starts_with('|'));
        rows.map(|row| {
            row.split(" | ")
                .map(|cell| cell.trim_matches(['|', ' ']).to_owned())
                .collect()
        })
        .collect()
    };
    let (old, new) = (rows(&old), rows(&new));
    let same = |old: &String, new: &String| {
        let code = |cell: &str| cell.split(' ').next().map(str::to_owned);
        let less = vague && (old.ends_with("unattributed") || new.ends_with("unattributed"));
        // Its first connect takes so long that a timer may have made it: less sure, never surer.
        let as_a_guess = new.strip_suffix(" guess");
        let less_sure = vague && as_a_guess.is_some() && as_a_guess == old.strip_suffix(" strong");
        old == new || less && code(old) == code(new) || less_sure
    };
    let mut differ = Vec::new();
    for (at, row) in new.iter().enumerate() {
        let before = old.get(at).cloned().unwrap_or_default();
        let alike = before.len() == row.len() && before.iter().zip(row).all(|(a, b)| same(a, b));
        if !alike {
            differ.push(format!("- {}\n+ {}", before.join(" | "), row.join(" | ")));
        }
    }
    assert!(
        differ.is_empty() && old.len() == new.len(),
        "docs/coverage-unread.md is stale; WHY502_BLESS=1 writes it anew:\n{}",
        differ.join("\n")
    );
}
