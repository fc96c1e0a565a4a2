//! What is made by `cargo xtask dashboards` is as it makes it.

use anyhow::Context;

use super::Problem;
use super::tree::Tree;
use crate::dashboards;

const REMEDY: &str = "is not as `cargo xtask dashboards` makes it: change its source, and run that";

/// Grafana's JSON and the PrometheusRule are what their sources say.
pub(super) fn dashboards_are_as_made(tree: &Tree) -> Vec<Problem> {
    let read = |path: &str| {
        let file = tree.get(path).context("is missing")?;
        Ok(file.text.clone())
    };
    match dashboards::made(read) {
        Err(error) => vec![Problem::of_file("dashboards/alerts", format!("{error:#}"))],
        Ok(made) => made
            .into_iter()
            .filter(|(path, text)| tree.get(path).is_none_or(|file| file.text != *text))
            .map(|(path, _)| Problem::of_file(path, REMEDY))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_by_hand_is_found() {
        let rules = ("dashboards/alerts/why502.rules.yml", "groups: []\n");
        let tree = Tree::of(&[rules]);
        let made = dashboards::made(|path| Ok(tree.get(path).context("there")?.text.clone()))
            .expect("it can be made");
        let mut samples: Vec<(&str, &str)> = vec![rules];
        samples.extend(made.iter().map(|(path, text)| (*path, text.as_str())));
        assert_eq!(dashboards_are_as_made(&Tree::of(&samples)), []);

        samples.pop();
        let problems = dashboards_are_as_made(&Tree::of(&samples));
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}
