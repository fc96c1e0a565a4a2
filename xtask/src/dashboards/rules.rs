//! The alert rules for the Prometheus operator: the plain file, one level deeper.

/// The plain rules of Prometheus.
pub(super) const SOURCE: &str = "dashboards/alerts/why502.rules.yml";

const HEAD: &str = "\
# Made from dashboards/alerts/why502.rules.yml by `cargo xtask dashboards`: change that file.
# The operator takes it when its ruleSelector matches the labels; see dashboards/README.md.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: why502
  labels:
    app.kubernetes.io/name: why502
spec:
";

/// The PrometheusRule: `groups` and what is under it become part of `spec`.
pub(super) fn manifest(rules: &str) -> String {
    let groups = rules.find("groups:").unwrap_or(0);
    let mut text = HEAD.to_owned();
    for line in rules.get(groups..).unwrap_or_default().lines() {
        if !line.is_empty() {
            text.push_str("  ");
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::host::root;

    #[test]
    fn the_manifest_is_the_plain_file_one_level_deeper() {
        let text = manifest("# a comment\ngroups:\n\n- name: a\n  rules: []\n");
        assert!(text.ends_with("spec:\n  groups:\n\n  - name: a\n    rules: []\n"));
        assert!(!text.contains("a comment"));
    }

    /// What each `alertname` of the tests is expected to do, in order: fire or not.
    fn tested() -> BTreeMap<String, Vec<bool>> {
        let folder = root().join("dashboards/alerts/tests");
        let mut tested: BTreeMap<String, Vec<bool>> = BTreeMap::new();
        for file in fs::read_dir(folder).expect("the tests are there").flatten() {
            let text = fs::read_to_string(file.path()).expect("a test is text");
            for part in text.split("- alertname: ").skip(1) {
                let name = part.lines().next().unwrap_or_default().to_owned();
                let fires = !part.contains("exp_alerts: []");
                tested.entry(name).or_default().push(fires);
            }
        }
        tested
    }

    #[test]
    fn each_alert_is_tested_before_while_and_after_it_fires() {
        let rules = fs::read_to_string(root().join(SOURCE)).expect("the rules are there");
        let tested = tested();
        let alerts = rules
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- alert: "));
        let mut count = 0;
        for alert in alerts {
            count += 1;
            let seen = tested.get(alert).map(Vec::as_slice).unwrap_or_default();
            assert!(
                seen.windows(3).any(|three| three == [false, true, false]),
                "{alert}: {seen:?}"
            );
        }
        assert!(count > 10, "{count} alerts");
    }
}
