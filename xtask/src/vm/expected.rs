//! What is expected of each kernel: `expected.md`, read.
//!
//! In: its tables, one row an ability or a fault, a column `any` and one for each kernel that
//! differs. Out: the cell that counts for a kernel, and where an answer is not as expected.

use std::collections::{BTreeMap, BTreeSet};

use super::answer::Answer;

const TABLES: &str = include_str!("expected.md");

/// The column for kernels without one of their own, or with an empty cell.
const ANY: &str = "any";

/// The tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    /// By row and column.
    cells: BTreeMap<(String, String), String>,
}

impl Expected {
    /// Those that are committed.
    pub(super) fn read() -> Self {
        Self::parse(TABLES)
    }

    fn parse(text: &str) -> Self {
        let mut expected = Self::default();
        let mut columns: Vec<&str> = Vec::new();
        for line in text.lines() {
            let Some(row) = row(line) else {
                columns.clear();
                continue;
            };
            if columns.is_empty() {
                columns = row;
            } else if let [name, cells @ ..] = row.as_slice()
                && !name.starts_with("---")
            {
                for (column, cell) in columns.iter().skip(1).zip(cells) {
                    if !cell.is_empty() {
                        let key = ((*name).to_owned(), (*column).to_owned());
                        expected.cells.insert(key, (*cell).to_owned());
                    }
                }
            }
        }
        expected
    }

    /// What is expected of a row on a kernel.
    fn cell(&self, row: &str, kernel: &str) -> Option<&str> {
        [kernel, ANY]
            .iter()
            .find_map(|column| self.cells.get(&(row.to_owned(), (*column).to_owned())))
            .map(String::as_str)
    }

    /// Where an answer is not as expected, a sentence each.
    pub(super) fn differences(&self, kernel: &str, answer: &Answer) -> Vec<String> {
        let mut found: BTreeMap<&str, String> = BTreeMap::new();
        for ability in answer.abilities() {
            found.insert(&ability.name, ability.state.clone());
        }
        for fault in &answer.faults {
            found.insert(&fault.name, fault.cell());
        }
        let mut wrong = answer.wrong.clone();
        let why = |name: &str| {
            let ability = answer.abilities().find(|ability| ability.name == name);
            ability.map_or("", |ability| ability.words.as_str())
        };
        for (name, cell) in &found {
            match self.cell(name, kernel) {
                None => wrong.push(format!("{name}: {cell}, and nothing is expected of it")),
                Some(expected) if expected.split(" or ").any(|one| one == cell) => {}
                Some(expected) => {
                    let why = why(name);
                    wrong.push(format!("{name}: {cell}, expected is {expected}; {why}"));
                }
            }
        }
        let rows = self.cells.keys().map(|(row, _)| row.as_str());
        let missing: BTreeSet<&str> = rows.filter(|row| !found.contains_key(row)).collect();
        wrong.extend(missing.iter().map(|row| format!("{row}: no answer")));
        wrong
    }
}

/// The cells of a line of a table.
fn row(line: &str) -> Option<Vec<&str>> {
    let inside = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inside.split('|').map(str::trim).collect())
}

#[cfg(test)]
mod tests {
    use super::super::answer::Fault;
    use super::super::kernels::KERNELS;
    use super::*;

    fn answer(agent: &str) -> Answer {
        Answer {
            faults: vec![Fault {
                name: "refused".to_owned(),
                client: "502".to_owned(),
                agent: agent.to_owned(),
            }],
            ..Answer::default()
        }
    }

    #[test]
    fn a_kernel_has_its_own_cell_or_that_of_any() {
        let expected = Expected::parse(
            "| fault | any | 5.10 |\n| --- | --- | --- |\n| refused | 502 a proof | 502 a guess or 502 b guess |\n",
        );
        assert!(expected.differences("6.1", &answer("a proof")).is_empty());
        assert_eq!(expected.differences("6.1", &answer("a guess")).len(), 1);
        assert!(expected.differences("5.10", &answer("b guess")).is_empty());
    }

    #[test]
    fn what_is_not_expected_and_what_is_not_answered_is_told() {
        let expected = Expected::parse("| fault | any |\n| --- | --- |\n| hang | 504 a proof |\n");
        assert_eq!(expected.differences("6.1", &answer("a proof")).len(), 2);
    }

    #[test]
    fn columns_are_kernels() {
        let expected = Expected::read();
        assert!(!expected.cells.is_empty());
        for (row, column) in expected.cells.keys() {
            let known = column == ANY || KERNELS.iter().any(|kernel| kernel.name == column);
            assert!(known, "{row}: there is no kernel {column}");
        }
    }
}
