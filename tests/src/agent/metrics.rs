//! Reads OpenMetrics text.
//!
//! In: a scrape. Out: a value for each name and label set. Timestamps and exemplars are read
//! over; a line that is no sample is an error, for the form is promised.

use std::collections::BTreeMap;

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// One scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    samples: BTreeMap<(String, Labels), f64>,
}

impl Metrics {
    /// Reads a scrape; panics with the line that is none.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let sample = sample(line);
            let (name, labels, value) =
                sample.unwrap_or_else(|| panic!("no sample of OpenMetrics: {line}"));
            metrics.samples.insert((name, labels), value);
        }
        metrics
    }

    /// Sum of all samples of a name whose labels include `with`.
    pub fn sum(&self, name: &str, with: &[(&str, &str)]) -> f64 {
        self.of(name, with).fold(0.0, |sum, (_, value)| sum + value)
    }

    /// Sums of a name by the values of some labels; sums of 0 are left out.
    pub fn by(
        &self,
        name: &str,
        with: &[(&str, &str)],
        labels: &[&str],
    ) -> BTreeMap<Vec<String>, u64> {
        let mut sums: BTreeMap<Vec<String>, f64> = BTreeMap::new();
        for (found, value) in self.of(name, with) {
            let key = labels
                .iter()
                .map(|label| found.get(*label).cloned().unwrap_or_default())
                .collect();
            *sums.entry(key).or_default() += value;
        }
        sums.into_iter()
            .filter(|(_, sum)| *sum != 0.0)
            .map(|(key, sum)| (key, sum as u64))
            .collect()
    }

    /// Samples of a name whose labels include `with`.
    pub fn of<'a>(
        &'a self,
        name: &'a str,
        with: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = (&'a Labels, f64)> {
        self.samples
            .iter()
            .filter(move |((found, labels), _)| {
                found == name
                    && with.iter().all(|(label, value)| {
                        labels.get(*label).is_some_and(|found| found == value)
                    })
            })
            .map(|((_, labels), value)| (labels, *value))
    }

    /// A counter of traffic that moved since `before`, if any did.
    pub(super) fn moved_since(&self, before: &Self) -> Option<String> {
        let told = |name: &str| {
            name.ends_with("_total")
                && (name.starts_with("why502_gateway_")
                    || name.starts_with("why502_upstream_")
                    || name.starts_with("why502_tcp_"))
        };
        self.samples
            .iter()
            .find(|(key, value)| told(&key.0) && before.samples.get(*key) != Some(value))
            .map(|((name, labels), value)| format!("{name}{labels:?} moved to {value}"))
    }
}

/// Name, labels, value.
fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (Labels::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name.to_owned(), labels, value))
}

/// Labels up to the closing brace, and what follows it.
fn labels(inside: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    let mut rest = inside;
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at + 1,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        rest = quoted.get(end..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a A.\n# TYPE a counter\n\
        a_total{proxy=\"nginx\",code=\"200\"} 5\n\
        a_total{proxy=\"nginx\",code=\"502\"} 2 # {trace_id=\"x\"} 1.0 1669161600.0\n\
        a_total{proxy=\"a\\\"b,}\",code=\"200\"} 1\nup 1\n# EOF\n";

    #[test]
    fn samples_are_summed_by_labels() {
        let metrics = Metrics::parse(TEXT);

        assert_eq!(metrics.sum("a_total", &[("proxy", "nginx")]), 7.0);
        assert_eq!(
            metrics.by("a_total", &[], &["code"]),
            BTreeMap::from([(vec!["200".to_owned()], 6), (vec!["502".to_owned()], 2)])
        );
        assert_eq!(metrics.sum("a_total", &[("proxy", "a\"b,}")]), 1.0);
        assert_eq!(metrics.sum("up", &[]), 1.0);
    }
}
