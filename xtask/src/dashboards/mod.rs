//! `dashboards`: what is made from one source for Grafana.
//!
//! In: panels, described in this folder, and what occurs on many of them. Out: a Grafana
//! dashboard as JSON for each file here. What is written is checked in; `tidy` finds what was changed by
//! hand or not made anew. `manifests` makes the PrometheusRule.

mod agent;
mod expression;
mod model;
mod overview;
#[cfg(test)]
mod rules;
mod upstream;

use std::fs;

use anyhow::{Context, Result};

use crate::host::root;

/// A file that is made: its path from the root of the checkout, and its text.
pub(crate) type Made = (&'static str, String);

/// Everything that is made.
pub(crate) fn made() -> Result<Vec<Made>> {
    Ok(vec![
        (
            "dashboards/why502-gateway.json",
            overview::dashboard().to_text()?,
        ),
        (
            "dashboards/why502-upstream.json",
            upstream::dashboard().to_text()?,
        ),
        (
            "dashboards/why502-agent.json",
            agent::dashboard().to_text()?,
        ),
    ])
}

/// Writes all of it.
pub(crate) fn run() -> Result<()> {
    for (path, text) in made()? {
        let to = root().join(path);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(&to, text).with_context(|| format!("cannot write {path}"))?;
        println!("{path}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn read(path: &str) -> Result<String> {
        Ok(fs::read_to_string(root().join(path))?)
    }

    /// The names that docs/metrics.md has in its tables.
    fn families() -> BTreeSet<String> {
        let page = read("docs/metrics.md").expect("docs/metrics.md is there");
        page.lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .map(|(name, _)| name.to_owned())
            .filter(|name| name.starts_with("why502_") || name.starts_with("process_"))
            .collect()
    }

    fn words(text: &str) -> BTreeSet<&str> {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .collect()
    }

    fn expressions() -> Vec<String> {
        [
            overview::dashboard(),
            upstream::dashboard(),
            agent::dashboard(),
        ]
        .iter()
        .flat_map(model::Dashboard::expressions)
        .collect()
    }

    #[test]
    fn every_metric_is_on_a_panel() {
        let expressions = expressions();
        let shown: BTreeSet<&str> = expressions.iter().flat_map(|text| words(text)).collect();
        let families = families();
        assert!(families.len() > 40, "{families:?}");
        let missing: Vec<&String> = families
            .iter()
            .filter(|name| !shown.contains(name.as_str()))
            .collect();
        assert!(missing.is_empty(), "on no panel: {missing:?}");
    }

    #[test]
    fn panels_and_rules_name_no_metric_that_does_not_exist() {
        let families = families();
        let rules = read(rules::SOURCE).expect("the rules are there");
        let expressions = expressions();
        let named = expressions
            .iter()
            .flat_map(|text| words(text))
            .chain(words(&rules));
        let unknown: BTreeSet<&str> = named
            .filter(|word| word.starts_with("why502_"))
            .filter(|word| {
                let of_histogram = ["_bucket", "_count", "_sum"]
                    .iter()
                    .find_map(|end| word.strip_suffix(end));
                !families.contains(*word)
                    && !of_histogram.is_some_and(|name| families.contains(name))
            })
            .collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
