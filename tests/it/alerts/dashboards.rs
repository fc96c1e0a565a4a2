//! Every query of the shipped dashboards, asked of Prometheis that saw every fault: each is
//! understood, and shows something.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use e2e::prometheus::Prometheus;
use serde_json::Value;

const DASHBOARDS: [&str; 3] = [
    "dashboards/why502-gateway.json",
    "dashboards/why502-upstream.json",
    "dashboards/why502-agent.json",
];

/// Between two looks in a range.
const STEP: Duration = Duration::from_secs(1);

/// Queries that a run like this one cannot fill: the panel, a word of the query, and why.
const EMPTY: [(&str, &str, &str); 2] = [
    (
        "Not explained, by proxy and code",
        "unattributed",
        "each fault of the run is explained",
    ),
    (
        "Health checks by result",
        "health_checks",
        "nginx makes none: the test health_checks asks HAProxy",
    ),
];

/// A query on a panel.
struct Shown {
    panel: String,
    expression: String,
}

/// Each query is understood by both, and shows a number in one of the two forms: of a histogram each
/// has one. Records of the rules have values in both.
pub(crate) fn assert_show(native: &Prometheus, text: &Prometheus, started: SystemTime) {
    let range = (since_1970(started), since_1970(SystemTime::now()));
    let shows = |query: &str, of: &[&Prometheus]| -> Result<bool, String> {
        let mut any = false;
        for prometheus in of {
            any |= has_numbers(&prometheus.range(query, range, STEP)?);
        }
        Ok(any)
    };
    let mut wrong = String::new();
    let mut note = |line: String| {
        let _written = writeln!(wrong, "{line}");
    };
    let mut queries = 0;
    for path in DASHBOARDS {
        let dashboard: Value = serde_json::from_str(&crate::shipped(path))
            .unwrap_or_else(|error| panic!("{path} is no JSON: {error}"));
        for Shown { panel, expression } in shown(&dashboard) {
            queries += 1;
            let excused = EMPTY
                .iter()
                .any(|(title, word, _)| *title == panel && expression.contains(word));
            match shows(&filled_in(&expression, range), &[native, text]) {
                Ok(false) if !excused => note(format!("{path}: {panel}: empty: {expression}")),
                Ok(_) => {}
                Err(error) => note(format!("{path}: {panel}: {error}")),
            }
        }
        for (name, query) in variables(&dashboard) {
            let values = values_of(native, &filled_in(&query, range));
            match values {
                Ok(values) if !values.is_empty() => {}
                other => note(format!("{path}: variable {name}: {other:?}: {query}")),
            }
        }
    }
    assert!(queries > 80, "{queries} queries");
    for prometheus in [native, text] {
        for record in records(prometheus) {
            match shows(&record, &[prometheus]) {
                Ok(true) => {}
                other => note(format!("record {record}: {other:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    println!("{queries} queries of dashboards show something");
}

/// Any number among the series of a range, native histograms included.
fn has_numbers(series: &[Value]) -> bool {
    series.iter().any(|one| {
        let histograms = one["histograms"].as_array();
        let numbers = one["values"].as_array().into_iter().flatten();
        histograms.is_some_and(|all| !all.is_empty())
            || numbers
                .filter_map(|pair| pair[1].as_str()?.parse().ok())
                .any(f64::is_finite)
    })
}

/// The queries of all panels and of the marks of alerts.
fn shown(dashboard: &Value) -> Vec<Shown> {
    let mut shown = Vec::new();
    for panel in dashboard["panels"].as_array().into_iter().flatten() {
        let title = panel["title"].as_str().unwrap_or_default();
        if panel["type"] != "row" {
            let reads = panel["description"].as_str().unwrap_or_default();
            assert!(!reads.is_empty(), "{title} says how to read it");
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            shown.push(Shown {
                panel: title.to_owned(),
                expression: target["expr"].as_str().unwrap_or_default().to_owned(),
            });
        }
    }
    let marks = dashboard["annotations"]["list"].as_array();
    shown.extend(marks.into_iter().flatten().map(|mark| Shown {
        panel: "marks of alerts".to_owned(),
        expression: mark["expr"].as_str().unwrap_or_default().to_owned(),
    }));
    shown
}

/// The variables that ask Prometheus, by name.
fn variables(dashboard: &Value) -> Vec<(String, String)> {
    let list = dashboard["templating"]["list"].as_array();
    list.into_iter()
        .flatten()
        .filter(|variable| variable["type"] == "query")
        .map(|variable| {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (word(&variable["name"]), word(&variable["query"]["query"]))
        })
        .collect()
}

/// What Grafana does: `label_values(selector, label)` asks for the values of a label.
fn values_of(prometheus: &Prometheus, query: &str) -> Result<Vec<Value>, String> {
    let inside = query
        .strip_prefix("label_values(")
        .and_then(|rest| rest.strip_suffix(')'))
        .ok_or("no label_values")?;
    let (selector, label) = inside.rsplit_once(", ").ok_or("no label")?;
    let path = format!("/api/v1/label/{label}/values");
    let values = prometheus.get(&path, &[("match[]", selector)])?;
    Ok(values.as_array().cloned().unwrap_or_default())
}

/// What Grafana puts in the place of variables when all is chosen.
pub(crate) fn filled_in(expression: &str, (from, to): (f64, f64)) -> String {
    let range = format!("{:.0}s", to - from);
    let mut text = expression
        .replace("$__rate_interval_ms", "5000")
        .replace("$__rate_interval", "5s")
        .replace("$__range", &range);
    for variable in ["$cluster", "$instance", "$proxy", "$upstream"] {
        text = text.replace(variable, ".*");
    }
    text
}

/// The names of the recording rules.
fn records(prometheus: &Prometheus) -> Vec<String> {
    let rules = prometheus
        .get("/api/v1/rules", &[("type", "record")])
        .unwrap_or_else(|error| panic!("Prometheus tells no rules: {error}"));
    let groups = rules["groups"].as_array().cloned().unwrap_or_default();
    let records: Vec<String> = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().into_iter().flatten())
        .filter_map(|rule| rule["name"].as_str().map(str::to_owned))
        .collect();
    assert!(records.len() > 10, "{records:?}");
    records
}

/// Seconds.
pub(crate) fn since_1970(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
