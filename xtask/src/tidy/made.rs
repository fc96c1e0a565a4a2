//! What is made by `cargo xtask dashboards` is as it makes it.

use super::Problem;
use super::tree::Tree;
use crate::dashboards;

const REMEDY: &str = "is not as `cargo xtask dashboards` makes it: change its source, and run that";

/// Grafana's JSON is what its source says.
pub(super) fn dashboards_are_as_made(tree: &Tree) -> Vec<Problem> {
    match dashboards::made() {
        Err(error) => vec![Problem::of_file("dashboards", format!("{error:#}"))],
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
        let made = dashboards::made().expect("it can be made");
        let mut samples: Vec<(&str, &str)> = made
            .iter()
            .map(|(path, text)| (*path, text.as_str()))
            .collect();
        assert_eq!(dashboards_are_as_made(&Tree::of(&samples)), []);

        samples.pop();
        let problems = dashboards_are_as_made(&Tree::of(&samples));
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}
