//! PromQL that occurs on many panels.
//!
//! Histograms are asked in both forms, native and classic: a Prometheus has one of them, or both,
//! depending on how it scrapes, and `or` takes what is there.

/// What the variables at the top of a dashboard choose.
pub(super) const HOSTS: &str = r#"cluster=~"$cluster", instance=~"$instance""#;
/// The same, and a proxy.
pub(super) const PROXY: &str = r#"cluster=~"$cluster", instance=~"$instance", proxy=~"$proxy""#;
/// The same, and an upstream.
pub(super) const UPSTREAM: &str =
    r#"cluster=~"$cluster", instance=~"$instance", proxy=~"$proxy", upstream=~"$upstream""#;

/// How fast a counter grows, per second, summed by labels.
pub(super) fn rate(by: &str, counter: &str, with: &str) -> String {
    format!("sum by ({by}) (rate({counter}{{{with}}}[$__rate_interval]))")
}

/// The same of what is seldom. A series that is new starts with a value and not from 0, so that `rate`
/// misses its first events: of such a one, where the agent was there before it, the value counts.
pub(super) fn rare(by: &str, counter: &str, with: &str) -> String {
    let series = format!("{counter}{{{with}}}");
    format!(
        "sum by ({by}) ((({series} unless {series} offset $__rate_interval) \
         and on (job, instance) (why502_agent_build_info offset $__rate_interval)) \
         * 1000 / $__rate_interval_ms or rate({series}[$__rate_interval]))"
    )
}

/// By how much a counter grew in the range that is shown, summed by labels. Of a series that began in
/// it the first value, which is the least, counts as well, if it was scraped less often than the
/// agent of its target: so the agent was there before it. What the first scrape of an agent brings may
/// be older than the range.
pub(super) fn grown(by: &str, counter: &str, with: &str) -> String {
    let series = format!("{counter}{{{with}}}");
    format!(
        "sum by ({by}) (((increase({series}[$__range]) or 0 * last_over_time({series}[$__range])) \
         + min_over_time({series}[$__range])) unless {series} offset $__range \
         and count_over_time({series}[$__range]) < on (cluster, job, instance) group_left () \
         sum by (cluster, job, instance) (count_over_time(why502_agent_build_info[$__range])) \
         or increase({series}[$__range])) > 0"
    )
}

/// A quantile of a histogram.
pub(super) fn quantile(quantile: f64, by: &str, histogram: &str, with: &str) -> String {
    let le = if by.is_empty() {
        "le".to_owned()
    } else {
        format!("le, {by}")
    };
    format!(
        "histogram_quantile({quantile}, sum by ({by}) (rate({histogram}{{{with}}}[$__rate_interval]))) \
         or histogram_quantile({quantile}, sum by ({le}) (rate({histogram}_bucket{{{with}}}[$__rate_interval])))"
    )
}

/// Observations of a histogram per second.
pub(super) fn count(by: &str, histogram: &str, with: &str) -> String {
    format!(
        "(histogram_count(sum by ({by}) (rate({histogram}{{{with}}}[$__rate_interval]))) \
         or sum by ({by}) (rate({histogram}_count{{{with}}}[$__rate_interval])))"
    )
}

/// Sum of what a histogram observed, per second.
pub(super) fn sum(by: &str, histogram: &str, with: &str) -> String {
    format!(
        "(histogram_sum(sum by ({by}) (rate({histogram}{{{with}}}[$__rate_interval]))) \
         or sum by ({by}) (rate({histogram}_sum{{{with}}}[$__rate_interval])))"
    )
}

/// A heatmap of native buckets.
pub(super) fn native(histogram: &str, with: &str) -> String {
    format!("sum (rate({histogram}{{{with}}}[$__rate_interval]))")
}

/// A heatmap of classic buckets.
pub(super) fn classic(histogram: &str, with: &str) -> String {
    format!("sum by (le) (rate({histogram}_bucket{{{with}}}[$__rate_interval]))")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::grown;
    use crate::host::root;

    #[test]
    fn what_promtool_asks_is_what_tables_ask() {
        let path = root().join("dashboards/alerts/tests/tables.yml");
        let text = fs::read_to_string(path).expect("the test is there");
        let asked = grown("upstream, cause", "why502_gateway_errors_total", "");
        let asked = format!("  - expr: '{}'\n", asked.replace("$__range", "1h"));
        assert!(text.contains(&asked), "not asked: {asked}");
    }
}
