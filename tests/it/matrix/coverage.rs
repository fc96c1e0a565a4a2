//! `docs/coverage.md`: what was observed, in the columns that are the same in each run.
//!
//! In: verdicts. Out: the page. A right cell shows what was expected, so that a way it may go
//! does not change the page; a wrong one shows what was said instead.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use e2e::faults::expected::Table;
use e2e::faults::{MODES, Mode};
use e2e::proxies::Kind;

use crate::words::MISSING;

/// Columns before those of the proxies.
const BEFORE_CELLS: usize = 4;

/// Marks a wrong cell.
const WRONG: &str = "**WRONG**";

/// What came of one mode at one proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As expected.
    Right,
    /// Not as expected: what was said.
    Wrong(String),
    /// The proxy cannot have it, because.
    NotApplicable(&'static str),
}

/// All of them.
pub(crate) type Verdicts = BTreeMap<(Kind, &'static str), Verdict>;

/// Where the page is.
pub(crate) fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/coverage.md")
}

/// The page.
pub(crate) fn page(table: &Table, verdicts: &Verdicts) -> String {
    let count = |wanted: fn(&Verdict) -> bool| verdicts.values().filter(|one| wanted(one)).count();
    let right = count(|verdict| matches!(verdict, Verdict::Right));
    let wrong = count(|verdict| matches!(verdict, Verdict::Wrong(_)));
    let own = verdicts.iter().filter(|((_, mode), verdict)| {
        let is_own = table.row(mode).causes.contains(&"proxy_generated");
        is_own && matches!(verdict, Verdict::Right)
    });
    let own = own.count();
    let mut page = format!(
        "# Coverage: every fault at every proxy\n\n\
         Written by the matrix test (`WHY502_BLESS=1 cargo test -p e2e --test matrix`), from real\n\
         proxies and faults that really happen. {} modes, {} proxies: **{right} cells right, {wrong} \
         wrong**.\n\n\
         A cell is what the client got: a status, `none` for no status line, `masked` when a later\n\
         attempt saved the request, `ok` when the fault is none to this proxy. The agent named the\n\
         cause of the row with at least that certainty (at HAProxy, Caddy, Varnish and Traefik, where it is less\n\
         plain what an attempt was made for, at most one step less), unless the cell says WRONG and what\n\
         the agent said instead. What is expected, and why a proxy differs, is in\n\
         [`tests/src/faults/expected.md`](../tests/src/faults/expected.md). {own} of the right cells are in the\n\
         rows of the proxy's own answers: `proxy_generated` says only that no upstream was at fault, and the\n\
         agent's metrics count it as not explained. Upstreams that speak FastCGI, uwsgi,\n\
         HTTPS, gRPC, or HTTP over a Unix socket are on [a page of their own](coverage-unread.md).\n\n",
        MODES.len(),
        Kind::ALL.len()
    );
    let mut head = "| mode | what happens | cause | at least |".to_owned();
    let mut rule = "| --- | --- | --- | --- |".to_owned();
    for kind in Kind::ALL {
        // Writing to a String cannot fail.
        let _written = write!(head, " {kind} |");
        rule.push_str(" --- |");
    }
    let _written = writeln!(page, "{head}\n{rule}");
    for mode in MODES {
        let _written = writeln!(page, "{}", row(table, verdicts, mode));
    }
    page.push_str("\n## Not applicable\n\n");
    for kind in Kind::ALL {
        for (why, modes) in reasons(verdicts, kind) {
            let _written = writeln!(page, "* {kind} {why}: {}", modes.join(", "));
        }
    }
    page
}

fn row(table: &Table, verdicts: &Verdicts, mode: &Mode) -> String {
    let row = table.row(mode.name);
    let (cause, certainty) = match row.causes.as_slice() {
        [] => ("-".to_owned(), "-"),
        causes => (causes.join(" or "), row.certainty),
    };
    let mut line = format!("| {} | {} | {cause} | {certainty} |", mode.name, mode.what);
    for kind in Kind::ALL {
        let text = match verdicts.get(&(kind, mode.name)) {
            None => "?".to_owned(),
            Some(Verdict::NotApplicable(_)) => "n/a".to_owned(),
            Some(Verdict::Right) => row.cell(kind).to_string(),
            Some(Verdict::Wrong(said)) => format!("{} {WRONG}: {said}", row.cell(kind)),
        };
        let _written = write!(line, " {text} |");
    }
    line
}

/// Reasons with the modes they are of.
fn reasons(verdicts: &Verdicts, kind: Kind) -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut reasons: BTreeMap<&'static str, Vec<&'static str>> = BTreeMap::new();
    for mode in MODES {
        if let Some(Verdict::NotApplicable(why)) = verdicts.get(&(kind, mode.name)) {
            reasons.entry(why).or_default().push(mode.name);
        }
    }
    reasons
}

/// Cells of which the proxy's log does not have the words.
pub(crate) fn without_words(verdicts: &Verdicts) -> Vec<String> {
    let wordless = |(at, verdict): (&(Kind, &str), &Verdict)| match verdict {
        Verdict::Wrong(said) if said.ends_with(MISSING) => Some(format!("{at:?}: {said}")),
        Verdict::Wrong(_) | Verdict::Right | Verdict::NotApplicable(_) => None,
    };
    verdicts.iter().filter_map(wordless).collect()
}

/// Lines of the page that are not as committed, but for cells that were wrong and those that
/// are right by now.
pub(crate) fn worse(committed: &str, page: &str) -> Vec<String> {
    let mut worse = Vec::new();
    let mut old = committed.lines().filter(|line| is_told(line));
    for new in page.lines().filter(|line| is_told(line)) {
        let old = old.next().unwrap_or_default();
        let (new_cells, old_cells) = (cells(new), cells(old));
        let same = new_cells.len() == old_cells.len()
            && new_cells.iter().zip(&old_cells).all(|(new, old)| {
                without_fault(new) == without_fault(old)
                    && (old.contains(WRONG) || !new.contains(WRONG))
            });
        if !same {
            worse.push(format!("- {old}\n+ {new}"));
        }
    }
    worse
}

/// Modes whose cell of this proxy is wrong and was not.
pub(crate) fn became_wrong(committed: &str, verdicts: &Verdicts, kind: Kind) -> Vec<&'static Mode> {
    let column = Kind::ALL.iter().position(|one| *one == kind);
    let was_wrong = |mode: &Mode| {
        let name = format!("| {}", mode.name);
        let row = committed.lines().map(cells).find(|row| row[0] == name);
        let cell = row
            .zip(column)
            .and_then(|(row, at)| row.get(BEFORE_CELLS + at).copied());
        cell.is_some_and(|cell| cell.contains(WRONG))
    };
    let is_wrong =
        |mode: &Mode| matches!(verdicts.get(&(kind, mode.name)), Some(Verdict::Wrong(_)));
    let became = |mode: &&Mode| is_wrong(mode) && !was_wrong(mode);
    MODES.iter().filter(became).collect()
}

/// A cell that names a wrong cause as proof or strong.
pub(crate) fn is_false(line: &str) -> bool {
    let said = cells(line)
        .into_iter()
        .filter_map(|cell| cell.split_once(WRONG));
    said.map(|(_, said)| said.trim_end_matches([' ', '|']))
        .any(|said| {
            !said.contains("only ") && (said.ends_with(" proof") || said.ends_with(" strong"))
        })
}

/// Lines but for the count of right and wrong cells.
fn is_told(line: &str) -> bool {
    line.starts_with('|') || line.starts_with("* ")
}

fn cells(line: &str) -> Vec<&str> {
    line.split(" | ").collect()
}

fn without_fault(cell: &str) -> &str {
    cell.split(WRONG)
        .next()
        .unwrap_or(cell)
        .trim_matches([' ', '|'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_played_again_is_what_became_wrong() {
        let table = Table::read();
        let wrong = |kind| ((kind, MODES[0].name), Verdict::Wrong("200 ok".to_owned()));
        let [first, second, ..] = Kind::ALL;
        let page = page(&table, &Verdicts::from([wrong(first)]));
        let verdicts = Verdicts::from([wrong(first), wrong(second)]);
        let names = |kind| {
            let modes = became_wrong(&page, &verdicts, kind);
            modes.iter().map(|mode| mode.name).collect::<Vec<_>>()
        };
        assert_eq!(names(first), Vec::<&str>::new());
        assert_eq!(names(second), [MODES[0].name]);
    }

    #[test]
    fn a_cell_that_became_wrong_is_worse_and_one_that_became_right_is_not() {
        let right = "| refused | connect_refused | 502 | 503 |";
        let wrong = "| refused | connect_refused | 502 **WRONG**: 502 ok | 503 |";
        let other = "| refused | connect_refused | 502 **WRONG**: no event | 503 |";

        assert_eq!(worse(right, wrong).len(), 1);
        assert_eq!(worse(wrong, right), Vec::<String>::new());
        assert_eq!(worse(wrong, other), Vec::<String>::new());
        assert_eq!(worse(wrong, wrong), Vec::<String>::new());
        assert_eq!(
            worse("| refused | tls_failed | 502 | 503 |", right).len(),
            1
        );
        assert_eq!(worse("", right).len(), 1);
    }
}
