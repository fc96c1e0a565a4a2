//! What is expected: `expected.md`, read.
//!
//! In: the table. Out: what is expected of each mode at each proxy, a [`Cell`], and whether
//! what the client got and what was [`Found`] is one of its ways.

use std::collections::BTreeMap;
use std::fmt;

use crate::proxies::Kind;

/// The table, as a person reads it.
const TABLE: &str = include_str!("expected.md");

/// From the weakest.
const CERTAINTIES: [&str; 3] = ["guess", "strong", "proof"];

/// The rows of the table.
#[derive(Debug)]
pub struct Table {
    rows: BTreeMap<&'static str, Row>,
}

/// One mode.
#[derive(Clone, Debug)]
pub struct Row {
    /// Any of them is right; none for a mode in which nothing fails.
    pub causes: Vec<&'static str>,
    /// The least that is accepted.
    pub certainty: &'static str,
    cells: BTreeMap<Kind, Cell>,
}

/// What is expected of one mode at one proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// The proxy cannot have it.
    NotApplicable,
    /// Any of these.
    Ways(Vec<Way>),
}

/// What an observer of a request found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Why the request or its last failed attempt failed.
    pub cause: Option<String>,
    /// How sure that is.
    pub certainty: Option<String>,
    /// The attempt failed, and a later one of the same request did not.
    pub masked: bool,
}

/// One way it may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    codes: Vec<Option<u16>>,
    outcome: Expected,
}

/// What the agent should find.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    /// That nothing failed.
    Ok,
    /// One of these causes.
    Failed {
        causes: Vec<&'static str>,
        masked: bool,
    },
}

impl Table {
    /// Reads the table; panics with the line that is wrong.
    #[track_caller]
    pub fn read() -> Self {
        let mut lines = TABLE.lines().filter(|line| line.starts_with('|'));
        let head = lines.next().map(cells).unwrap_or_default();
        let kinds: Vec<Kind> = head
            .iter()
            .skip(3)
            .map(|name| {
                let named = Kind::ALL.into_iter().find(|kind| kind.name() == *name);
                named.unwrap_or_else(|| panic!("expected.md: there is no proxy `{name}`"))
            })
            .collect();
        let rows = lines.skip(1).map(|line| row(line, &kinds)).collect();
        Self { rows }
    }

    /// What is expected of a mode.
    #[track_caller]
    pub fn row(&self, mode: &str) -> &Row {
        self.rows
            .get(mode)
            .unwrap_or_else(|| panic!("expected.md has no row for {mode}"))
    }

    /// The modes it has a row for.
    pub fn modes(&self) -> impl Iterator<Item = &'static str> {
        self.rows.keys().copied()
    }
}

impl Row {
    /// What is expected at a proxy.
    #[track_caller]
    pub fn cell(&self, kind: Kind) -> &Cell {
        self.cells
            .get(&kind)
            .unwrap_or_else(|| panic!("expected.md has no column for {kind}"))
    }

    /// Whether the proxy can have it.
    pub fn is_applicable(&self, kind: Kind) -> bool {
        *self.cell(kind) != Cell::NotApplicable
    }

    /// Whether something may fail at the proxy.
    pub fn may_fail(&self, kind: Kind) -> bool {
        self.has_way(kind, |outcome| *outcome != Expected::Ok)
    }

    /// Whether all may go well at the proxy.
    pub fn may_succeed(&self, kind: Kind) -> bool {
        self.has_way(kind, |outcome| *outcome == Expected::Ok)
    }

    fn has_way(&self, kind: Kind, is: impl Fn(&Expected) -> bool) -> bool {
        match self.cell(kind) {
            Cell::NotApplicable => false,
            Cell::Ways(ways) => ways.iter().any(|way| is(&way.outcome)),
        }
    }

    /// Whether a client may get this.
    pub fn allows(&self, kind: Kind, code: Option<u16>) -> bool {
        match self.cell(kind) {
            Cell::NotApplicable => false,
            Cell::Ways(ways) => ways.iter().any(|way| way.codes.contains(&code)),
        }
    }

    /// Why what a client got and what was found of it is wrong, if it is.
    pub fn wrong(&self, kind: Kind, code: Option<u16>, found: &Found) -> Option<String> {
        let Cell::Ways(ways) = self.cell(kind) else {
            return Some("is not applicable".to_owned());
        };
        let enough = |certainty: &str| self.is_enough(kind, certainty);
        let of_code = ways.iter().filter(|way| way.codes.contains(&code));
        let of_cause: Vec<&Way> = of_code.filter(|way| way.outcome.is_as(found)).collect();
        let certainty = found.certainty.as_deref().unwrap_or("");
        if of_cause.is_empty() {
            Some(format!("{} {found}", self::code(code)))
        } else if self.is_own_cause(found) && !enough(certainty) {
            Some(format!("only {certainty}"))
        } else {
            None
        }
    }

    /// Whether it is the cause of the row, of which the certainty is asked; a cell that names
    /// another cause beside it does so because the row's cannot be sure there.
    fn is_own_cause(&self, found: &Found) -> bool {
        let cause = found.cause.as_deref();
        cause.is_some_and(|cause| self.causes.contains(&cause))
    }

    /// Whether an observer that is so sure is sure enough. A proxy that reads a request at
    /// one time or in one thread, and acts on it in another, leaves a doubt about what belongs to it.
    fn is_enough(&self, kind: Kind, certainty: &str) -> bool {
        let rank = |name: &str| CERTAINTIES.iter().position(|known| *known == name);
        let doubt = usize::from(matches!(
            kind,
            Kind::HaProxy | Kind::Caddy | Kind::CaddyCurrent | Kind::Varnish | Kind::Traefik
        ));
        match (rank(certainty), rank(self.certainty)) {
            (Some(found), Some(least)) => found + doubt >= least,
            (_, None) => true,
            (None, _) => false,
        }
    }
}

impl Expected {
    fn is_as(&self, found: &Found) -> bool {
        match (self, found.cause.as_deref()) {
            (Self::Ok, None) => true,
            (Self::Failed { causes, masked }, Some(cause)) => {
                causes.contains(&cause) && *masked == found.masked
            }
            (Self::Ok, Some(_)) | (Self::Failed { .. }, None) => false,
        }
    }
}

impl Found {
    fn without_certainty(&self) -> String {
        let cause = self.cause.as_deref().unwrap_or("ok");
        let masked = if self.masked { "masked " } else { "" };
        format!("{masked}{cause}")
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.without_certainty())?;
        match &self.certainty {
            Some(certainty) => write!(f, " {certainty}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotApplicable => f.write_str("n/a"),
            Self::Ways(ways) => {
                let ways: Vec<String> = ways.iter().map(ToString::to_string).collect();
                f.write_str(&ways.join(" or "))
            }
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let codes: Vec<String> = self.codes.iter().map(|status| code(*status)).collect();
        f.write_str(&codes.join("/"))?;
        match &self.outcome {
            Expected::Ok => f.write_str(" ok"),
            Expected::Failed { masked: true, .. } => f.write_str(" masked"),
            Expected::Failed { .. } => Ok(()),
        }
    }
}

/// A status as the table writes it.
pub fn code(status: Option<u16>) -> String {
    status.map_or("none".to_owned(), |status| status.to_string())
}

fn row(line: &'static str, kinds: &[Kind]) -> (&'static str, Row) {
    let cells = cells(line);
    let [mode, causes, certainty, expected @ ..] = cells.as_slice() else {
        panic!("expected.md: too few cells: {line}");
    };
    assert_eq!(expected.len(), kinds.len(), "expected.md: {line}");
    assert!(
        *certainty == "-" || CERTAINTIES.contains(certainty),
        "expected.md: certainty of {line}"
    );
    let causes = labels(without_note(causes));
    let cells = kinds
        .iter()
        .zip(expected)
        .map(|(kind, text)| (*kind, cell(without_note(text), &causes)))
        .collect();
    let row = Row {
        causes,
        certainty,
        cells,
    };
    (mode, row)
}

fn cell(text: &'static str, causes: &[&'static str]) -> Cell {
    if text == "n/a" {
        return Cell::NotApplicable;
    }
    Cell::Ways(text.split(" or ").map(|text| way(text, causes)).collect())
}

fn way(text: &'static str, causes: &[&'static str]) -> Way {
    let (codes, word) = text.split_once(' ').unwrap_or((text, ""));
    let codes = codes
        .split('/')
        .map(|code| match code {
            "none" => None,
            number => Some(
                number
                    .parse()
                    .unwrap_or_else(|_| panic!("expected.md: `{text}` begins with no status")),
            ),
        })
        .collect();
    let outcome = match word {
        "ok" => Expected::Ok,
        "" if causes.is_empty() => Expected::Ok,
        "" | "masked" => Expected::Failed {
            causes: causes.to_vec(),
            masked: word == "masked",
        },
        other => Expected::Failed {
            causes: labels(other),
            masked: false,
        },
    };
    Way { codes, outcome }
}

fn labels(text: &'static str) -> Vec<&'static str> {
    text.split('/').filter(|label| *label != "-").collect()
}

fn without_note(text: &'static str) -> &'static str {
    text.split(" (").next().unwrap_or(text)
}

fn cells(line: &'static str) -> Vec<&'static str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::faults::MODES;

    fn found(cause: &str, certainty: &str, masked: bool) -> Found {
        Found {
            cause: Some(cause.to_owned()),
            certainty: Some(certainty.to_owned()),
            masked,
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_mode() {
        let table = Table::read();
        let rows: BTreeSet<_> = table.modes().collect();
        let modes: BTreeSet<_> = MODES.iter().map(|mode| mode.name).collect();
        assert_eq!(rows, modes);
    }

    #[test]
    fn a_row_is_read_with_its_exceptions() {
        let table = Table::read();
        let row = table.row("reused-unread");

        let masked = found("keepalive_race", "strong", true);
        assert_eq!(row.wrong(Kind::Nginx, Some(200), &masked), None);
        assert!(row.wrong(Kind::Envoy, Some(503), &masked).is_some());
        let seen = found("keepalive_race", "proof", false);
        assert_eq!(row.wrong(Kind::HaProxy, None, &seen), None);
        let unsure = found("keepalive_race", "guess", false);
        let wrong = row.wrong(Kind::Envoy, Some(503), &unsure);
        assert_eq!(wrong.as_deref(), Some("only guess"));
        assert_eq!(
            *table.row("ok-tls").cell(Kind::Varnish),
            Cell::NotApplicable
        );
        let row = table.row("stalled-post");
        let left = found("client_abort", "proof", false);
        assert_eq!(row.wrong(Kind::Envoy, None, &left), None);
    }
}
