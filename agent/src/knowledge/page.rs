//! `docs/diagnosing.md`: printed from what is known, never written by hand.

use std::fmt::{self, Write};

use agent_core::cause::{Cause, How};
use agent_core::observation::Phase;

use super::words::{Product, Saying};
use super::{Check, ENTRIES, Entry};
use crate::cases::{ALL, Kind, in_general};
use crate::metrics::labels::Word;

/// How the page starts.
const OPENING: &str = "\
# Diagnosing

Printed by `why502 diagnosing-reference`; a test compares this page with the code.

Paged for a 502, 503 or 504? Ask the agent on the proxy's host:

    why502 explain --last 20                   # what happened, newest last
    why502 explain --since 10m --cause CAUSE   # of one cause
    why502 explain ID                          # one of them in full
    why502 explain --open --min-age 10s        # what hangs now, before any error

Each error has a cause, and each cause has a section here: what it means, what the agent saw,
what the proxy itself writes about it, what to check, what fixes it, and what looks the same.
`proof` means that the evidence has no other reading; `strong`, that the lookalikes named here
are possible; `guess`, that more context is needed.

The status is not the cause. A plain read timeout is 504 from nginx, HAProxy, Envoy and Caddy,
502 from Apache httpd and 503 from Varnish; a refused connect is 502 from nginx and Caddy and
503 from the others. Neither is \"reset\" or \"closed\" in a log: the same crash shows as
either.

`ADDRESS`, `PORT`, `PID`, `SERVICE` and the like stand for your own.

## All causes

| cause | meaning | usual fix |
| --- | --- | --- |
";

/// What comes before the cases.
const CASES: &str = "
## Cases

A cause has a usual fix. Where the evidence at hand separates one case of it from the others, the
incident says which (`case` in the JSON, with the facts it was found by), and gives its meaning and its
fix instead. A case that is a `guess` is one possibility: the usual meaning and fix stay, and it is
named behind them. Words in capitals stand for facts of the incident. What is known of an address is
known since the agent started, of listeners what this host shows: of a server on another host there
is less to say.
";

/// The whole page.
///
/// # Errors
/// None in practice: a string takes all that is written.
pub fn markdown() -> Result<String, fmt::Error> {
    let mut page = String::from(OPENING);
    for entry in ENTRIES {
        let label = entry.cause.label();
        writeln!(
            page,
            "| [`{label}`](#{label}) | {} | {} |",
            entry.meaning, entry.fix
        )?;
    }
    by_words(&mut page)?;
    for entry in ENTRIES {
        section(&mut page, entry)?;
    }
    cases(&mut page)?;
    Ok(page)
}

/// From a phrase in a log to the causes that it can mean.
fn by_words(page: &mut String) -> fmt::Result {
    page.push_str(
        "\n## By the words in the log\n\n\
         One phrase, often several causes: which of them it was is what why502 tells.\n\n\
         The text of an errno is the C library's, here glibc's. A proxy that is linked with musl, as in\n\
         images of Alpine, writes `Operation timed out` (110), `Host is unreachable` (113),\n\
         `Network unreachable` (101), `Address not available` (99) or `No file descriptors available` (24):\n\
         look for the number, where the proxy writes it.\n",
    );
    for product in Product::ALL {
        writeln!(page, "\n### {}: {}\n", product.name(), product.log())?;
        page.push_str("| words | client gets | can mean |\n| --- | --- | --- |\n");
        let mut told: Vec<&str> = Vec::new();
        for saying in product.sayings() {
            let Some(words) = saying.words.filter(|words| !told.contains(words)) else {
                continue;
            };
            told.push(words);
            let same = || {
                product
                    .sayings()
                    .iter()
                    .filter(|saying| saying.words == Some(words))
            };
            let clients = distinct(same().map(|saying| saying.client.to_owned()));
            let causes = distinct(same().map(|saying| {
                let label = saying.cause.label();
                format!("[`{label}`](#{label})")
            }));
            writeln!(
                page,
                "| `{words}` | {} | {} |",
                clients.join("; "),
                causes.join(", ")
            )?;
        }
    }
    Ok(())
}

fn section(page: &mut String, entry: &Entry) -> fmt::Result {
    let Entry {
        cause,
        meaning,
        gloss: _,
        evidence,
        check,
        fix,
        lookalikes,
    } = entry;
    writeln!(page, "\n## {}\n\n{meaning}\n", cause.label())?;
    writeln!(page, "**Evidence.** {evidence}\n")?;
    writeln!(page, "**Check.**\n")?;
    for Check { question, command } in *check {
        if command.is_empty() {
            writeln!(page, "- {question}")?;
        } else {
            writeln!(page, "- {question}<br>`{command}`")?;
        }
    }
    writeln!(page, "\n**Fix.** {fix}")?;
    cases_of(page, *cause)?;
    if !lookalikes.is_empty() {
        writeln!(page, "\n**Lookalikes.**\n")?;
        for lookalike in *lookalikes {
            writeln!(page, "- {lookalike}")?;
        }
    }
    let all = Product::ALL.map(|product| {
        let of_cause = product
            .sayings()
            .iter()
            .filter(|saying| saying.cause == *cause);
        (product, of_cause.collect::<Vec<_>>())
    });
    if all.iter().all(|(_, sayings)| sayings.is_empty()) {
        return Ok(());
    }
    page.push_str("\n| proxy | when | client gets | its log |\n| --- | --- | --- | --- |\n");
    for (product, sayings) in all {
        for saying in sayings {
            writeln!(
                page,
                "| {} | {} | {} | {} |",
                product.name(),
                when(saying),
                saying.client,
                said(saying)
            )?;
        }
    }
    Ok(())
}

/// Which cases of it there are.
fn cases_of(page: &mut String, cause: Cause) -> fmt::Result {
    let of_cause = ALL.iter().filter(|kind| kind.causes.contains(&cause));
    let names: Vec<String> = of_cause.map(|kind| format!("`{}`", kind.name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    writeln!(page, "\n**[Cases](#cases).** {}.", names.join(", "))
}

/// All cases.
fn cases(page: &mut String) -> fmt::Result {
    page.push_str(CASES);
    for kind in ALL {
        let Kind {
            name,
            causes,
            evidence,
            meaning,
            fix,
            ..
        } = kind;
        let causes = causes.iter().map(|cause| {
            let label = cause.label();
            format!("[`{label}`](#{label})")
        });
        writeln!(
            page,
            "\n### {name}\n\n{}\n\n**Of.** {}.\n\n**Evidence.** {}\n\n**Fix.** {}",
            in_general(meaning),
            causes.collect::<Vec<_>>().join(", "),
            in_general(evidence),
            in_general(fix)
        )?;
    }
    Ok(())
}

/// What a line is bound to, in the words of the labels.
fn when(saying: &Saying) -> String {
    let Saying {
        phase,
        how,
        errno,
        answered,
        sending,
        unsent,
        waited,
        complete,
        ..
    } = saying;
    let phase = phase.map(|phase: Phase| Word::from(phase).as_str().to_owned());
    let how = how.map(|how: How| how.label().to_owned());
    let errno = errno.map(|errno| format!("errno {errno}"));
    let answered = answered.map(|answered| {
        if answered {
            "client answered".to_owned()
        } else {
            "no answer to the client".to_owned()
        }
    });
    let sending = sending.then(|| "part of the request not sent".to_owned());
    let unsent = unsent.then(|| "nothing of the request sent".to_owned());
    let waited = waited.then(|| "proxy waited on".to_owned());
    let complete = complete.then(|| "client got it whole".to_owned());
    let parts: Vec<String> = [
        phase, how, errno, answered, sending, unsent, waited, complete,
    ]
    .into_iter()
    .flatten()
    .collect();
    parts.join(", ")
}

fn said(saying: &Saying) -> String {
    match (saying.words, saying.note) {
        (Some(words), "") => format!("`{words}`"),
        (Some(words), note) => format!("`{words}` ({note})"),
        (None, note) => note.to_owned(),
    }
}

fn distinct(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for one in all {
        if !kept.contains(&one) {
            kept.push(one);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::markdown;
    use crate::knowledge::labels;

    #[test]
    fn the_committed_page_is_the_one_the_code_prints() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/diagnosing.md");
        let committed = std::fs::read_to_string(path).unwrap_or_default();

        let printed = markdown().unwrap();

        assert!(
            committed == printed,
            "docs/diagnosing.md is stale: run `why502 diagnosing-reference > docs/diagnosing.md`"
        );
    }

    #[test]
    fn every_cause_has_a_section_of_its_name() {
        let page = markdown().unwrap();

        for label in labels() {
            assert!(page.contains(&format!("\n## {label}\n")), "{label}");
        }
    }

    #[test]
    fn no_cell_breaks_its_table() {
        for row in markdown()
            .unwrap()
            .lines()
            .filter(|line| line.starts_with("| "))
        {
            let cells = row.matches(" | ").count();
            assert!((2..=3).contains(&cells), "{row}");
        }
    }
}
