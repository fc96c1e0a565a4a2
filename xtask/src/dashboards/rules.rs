//! What the tests of the alert rules cover.

/// The rules.
pub(super) const SOURCE: &str = "dashboards/alerts/why502.rules.yml";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::SOURCE;
    use crate::host::root;

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
