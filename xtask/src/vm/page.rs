//! `docs/kernels.md`: what was measured, and whether it still is so.
//!
//! In: what the kernels answered. Out: the tables between the two marks of the page; what is
//! around them is written by hand. Times are of one run on one machine and are not compared.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::answer::Answer;
use crate::host::root;

const BEGIN: &str = "<!-- BEGIN MEASURED: cargo xtask vm --bless -->";
const END: &str = "<!-- END MEASURED -->";

/// The verifier gives up at a million. Budget: a kernel to come may walk more, and so may a
/// change; beyond this somebody has to look.
const MOST_INSTRUCTIONS: u32 = 350_000;

/// Growth that is not worth a look, percent.
const GROWTH_PERCENT: u32 = 15;

/// Instructions that are too few to speak of.
const FEW: u32 = 5_000;

/// A kernel and its answer.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// Name in the table of kernels.
    pub(super) kernel: &'static str,
    /// Package and version, or that it runs here.
    pub(super) from: String,
    /// How long it took, with boot and all faults.
    pub(super) seconds: f64,
    /// What it answered.
    pub(super) answer: Answer,
}

/// The page.
pub(super) fn path() -> PathBuf {
    root().join("docs/kernels.md")
}

/// Writes the tables into the page.
pub(super) fn bless(measured: &[Measured]) -> Result<()> {
    let path = path();
    let page =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (Some((before, _)), Some((_, after))) = (page.split_once(BEGIN), page.split_once(END))
    else {
        bail!("{} lacks the marks `{BEGIN}` and `{END}`", path.display());
    };
    let page = format!("{before}{BEGIN}\n{}\n{END}{after}", tables(measured));
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}

/// Where the page is not what was measured, a sentence each.
pub(super) fn stale(measured: &[Measured]) -> Result<Vec<String>> {
    let path = path();
    let page =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(measured
        .iter()
        .flat_map(|one| stale_of(&page, one))
        .collect())
}

fn stale_of(page: &str, measured: &Measured) -> Vec<String> {
    let Measured { kernel, answer, .. } = measured;
    let mut stale = Vec::new();
    let mut compare = |row: &str, cell: String| match cell_of(page, row, kernel) {
        Some(committed) if committed == cell => {}
        Some(committed) => stale.push(format!("{row}: {cell}, the page says {committed}")),
        None => stale.push(format!("{row}: {cell}, the page says nothing")),
    };
    for ability in answer.abilities() {
        compare(&ability.name, ability.state.clone());
    }
    for fault in &answer.faults {
        compare(&fault.name, fault.cell());
    }
    for program in answer.programs() {
        let Some(now) = program.verified_instructions else {
            continue;
        };
        let name = &program.name;
        if now > MOST_INSTRUCTIONS {
            stale.push(format!(
                "{name}: {now} instructions to verify, and {MOST_INSTRUCTIONS} is the budget"
            ));
        }
        let committed = cell_of(page, name, kernel).and_then(|cell| instructions(&cell));
        let before = committed.unwrap_or(0);
        if now > FEW && now > before + before / 100 * GROWTH_PERCENT {
            stale.push(format!(
                "{name}: {now} instructions to verify, the page says {before}"
            ));
        }
    }
    stale
}

/// The first number of a cell such as `176,158 in 1350 ms`.
fn instructions(cell: &str) -> Option<u32> {
    let first = cell.split(' ').next()?;
    first.replace(',', "").parse().ok()
}

/// The cell of a row, of the table whose head names the kernel.
fn cell_of(page: &str, row: &str, kernel: &str) -> Option<String> {
    let mut column = None;
    for line in page.lines() {
        let Some(inside) = line.strip_prefix("| ") else {
            column = None;
            continue;
        };
        let cells: Vec<&str> = inside.split('|').map(str::trim).collect();
        match column {
            None => column = Some(cells.iter().position(|cell| *cell == kernel)),
            Some(Some(at)) if cells.first() == Some(&row) => {
                return cells.get(at).map(|cell| (*cell).to_owned());
            }
            Some(_) => {}
        }
    }
    None
}

/// The tables, as they are printed and committed.
pub(super) fn tables(measured: &[Measured]) -> String {
    let mut text = String::new();
    text.push_str(
        "### Kernels\n\n| kernel | release | from | seconds |\n| --- | --- | --- | --- |\n",
    );
    for Measured {
        kernel,
        from,
        seconds,
        answer,
    } in measured
    {
        // Writing to a String cannot fail.
        let _written = writeln!(
            text,
            "| {kernel} | {} | {from} | {seconds:.0} |",
            version(&answer.release)
        );
    }
    text.push_str("\n### Abilities\n\n");
    table(&mut text, "ability", measured, |answer| {
        answer
            .abilities()
            .map(|one| (one.name.clone(), one.state.clone()))
            .collect()
    });
    text.push_str("\n### The verifier: instructions walked, time to load\n\n");
    table(&mut text, "program", measured, |answer| {
        let programs = answer.programs().iter();
        programs
            .map(|program| {
                let milliseconds = program.load_seconds * 1000.0;
                let cell = match (program.loaded, program.verified_instructions) {
                    (false, _) => "refused".to_owned(),
                    (true, Some(count)) => {
                        format!("{} in {milliseconds:.0} ms", grouped(count))
                    }
                    (true, None) => format!("? in {milliseconds:.0} ms"),
                };
                (program.name.clone(), cell)
            })
            .collect()
    });
    text.push_str("\n### Faults: what the client got, and what the agent says\n\n");
    table(&mut text, "fault", measured, |answer| {
        let faults = answer.faults.iter();
        faults
            .map(|fault| (fault.name.clone(), fault.cell()))
            .collect()
    });
    text
}

/// The version in a release; what follows is the builder's own.
fn version(release: &str) -> &str {
    let end = release.find(|c: char| !c.is_ascii_digit() && c != '.');
    release
        .get(..end.unwrap_or(release.len()))
        .unwrap_or(release)
}

/// One row a name, one column a kernel.
fn table(
    text: &mut String,
    what: &str,
    measured: &[Measured],
    cells: impl Fn(&Answer) -> Vec<(String, String)>,
) {
    let columns: Vec<Vec<(String, String)>> =
        measured.iter().map(|one| cells(&one.answer)).collect();
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in columns.iter().flatten() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let heads: Vec<&str> = measured.iter().map(|one| one.kernel).collect();
    let _written = writeln!(text, "| {what} | {} |", heads.join(" | "));
    let _written = writeln!(text, "| ---{} |", " | ---".repeat(heads.len()));
    for name in names {
        let _written = write!(text, "| {name} |");
        for column in &columns {
            let cell = column.iter().find(|(found, _)| found == name);
            let cell = cell.map_or("-", |(_, cell)| cell);
            let _written = write!(text, " {cell} |");
        }
        text.push('\n');
    }
}

/// 176158 as 176,158.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::answer::{Doctor, Finding, Program};
    use super::*;

    fn measured(kernel: &'static str, count: u32) -> Measured {
        let program = Program {
            name: "packet_out".to_owned(),
            loaded: true,
            verified_instructions: Some(count),
            load_seconds: 1.0,
        };
        let finding = Finding {
            name: "packets".to_owned(),
            state: "ok".to_owned(),
            is_ability: true,
            words: "HTTP".to_owned(),
        };
        Measured {
            kernel,
            from: "here".to_owned(),
            seconds: 30.0,
            answer: Answer {
                doctor: Some(Doctor {
                    findings: vec![finding],
                    programs: vec![program],
                }),
                ..Answer::default()
            },
        }
    }

    #[test]
    fn a_page_of_what_was_measured_is_not_stale() {
        let both = [measured("5.10", 100_000), measured("6.1", 200_000)];
        let page = tables(&both);
        assert!(page.contains("| packet_out | 100,000 in 1000 ms | 200,000 in 1000 ms |"));
        for one in &both {
            assert_eq!(stale_of(&page, one), Vec::<String>::new());
        }
    }

    #[test]
    fn the_version_is_what_all_builders_share() {
        assert_eq!(version("6.12.117+deb13-cloud-amd64"), "6.12.117");
        assert_eq!(version("7.2.13"), "7.2.13");
    }

    #[test]
    fn growth_and_what_is_beyond_the_budget_is_told() {
        let page = tables(&[measured("6.1", 200_000)]);
        assert!(stale_of(&page, &measured("6.1", 150_000)).is_empty());
        assert_eq!(stale_of(&page, &measured("6.1", 300_000)).len(), 1);
        assert_eq!(stale_of(&page, &measured("6.1", 900_000)).len(), 2);
        assert_eq!(stale_of(&page, &measured("6.12", 100)).len(), 1);
    }
}
