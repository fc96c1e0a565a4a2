//! Pictures of panels and a protocol of notifications, from the run of the test, for the documents.
//!
//! Only with `WHY502_PICTURES=FOLDER`, a path from the root of the checkout. Each panel is drawn from
//! its own query in the shipped dashboard.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use e2e::agent::binary;
use e2e::picture::{Cell, Chart, Frame, Picture, Series};
use e2e::process::output_of;
use e2e::prometheus::Prometheus;
use serde_json::Value;

use crate::dashboards::{filled_in, since_1970};
use crate::scene::Scene;
use crate::{FASTER, Watch};

/// Pixels of a column and of a row of Grafana's grid of 24 columns.
const COLUMN: u32 = 52;
const ROW: u32 = 30;
/// Between two values.
const STEP: Duration = Duration::from_secs(1);

/// File, dashboard, and the panels on the picture.
const PICTURES: [(&str, &str, &[&str]); 2] = [
    (
        "gateway.svg",
        "dashboards/why502-gateway.json",
        &[
            "Failed",
            "Errors",
            "Saved by retries",
            "Not explained",
            "Answers",
            "p99",
            "Errors by cause",
            "Errors by code",
            "Errors in this range, by upstream and cause",
            "Failures that retries hid, by cause",
            "Is it us or them: seconds per request",
            "Attempts at upstreams (native histogram)",
        ],
    ),
    (
        "upstream.svg",
        "dashboards/why502-upstream.json",
        &[
            "Failed attempts by cause",
            "Resets by direction and phase",
            "SYN timeouts by who gave up",
            "SYNs sent again",
            "Idle before reuse (native histogram)",
            "First byte (native histogram)",
            "Requests under way",
            "Oldest request under way",
        ],
    ),
];

/// Draws all, when asked to.
pub(crate) fn draw(watch: &Watch, scene: &Scene, started: SystemTime) {
    let Some(folder) = std::env::var_os("WHY502_PICTURES") else {
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder: PathBuf = root.join(folder);
    fs::create_dir_all(&folder)
        .unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
    let save = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    };
    let range = (since_1970(started), since_1970(SystemTime::now()));
    for (name, path, titles) in PICTURES {
        let picture = picture(&watch.native, path, titles, range);
        let svg = picture
            .svg()
            .unwrap_or_else(|error| panic!("cannot draw {name}: {error}"));
        save(name, &svg);
    }
    save("on-call.txt", &protocol(watch, scene, started));
}

fn picture(prometheus: &Prometheus, path: &str, titles: &[&str], range: (f64, f64)) -> Picture {
    let dashboard: Value =
        serde_json::from_str(&crate::shipped(path)).unwrap_or_else(|error| panic!("{error}"));
    let panels = dashboard["panels"].as_array().cloned().unwrap_or_default();
    let (mut x, mut y, mut tallest) = (0, 0, 0);
    let mut frames = Vec::new();
    for title in titles {
        let panel = panels
            .iter()
            .find(|panel| panel["title"] == *title)
            .unwrap_or_else(|| panic!("{path} has no panel `{title}`"));
        let pixels = |side: &str, of: u32| {
            let cells = panel["gridPos"][side].as_u64().unwrap_or(0);
            u32::try_from(cells).unwrap_or(0) * of
        };
        let (wide, high) = (pixels("w", COLUMN), pixels("h", ROW));
        if x + wide > 24 * COLUMN {
            (x, y, tallest) = (0, y + tallest, 0);
        }
        frames.push(Frame {
            title: (*title).to_owned(),
            unit: panel["fieldConfig"]["defaults"]["unit"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            place: (x, y, wide, high),
            chart: chart(prometheus, panel, range),
        });
        x += wide;
        tallest = tallest.max(high);
    }
    Picture {
        title: dashboard["title"].as_str().unwrap_or_default().to_owned(),
        note: "Some panels of the dashboard, drawn by the test from what Prometheus scraped while \
               faults were made at one nginx; not a screenshot of Grafana."
            .to_owned(),
        size: (24 * COLUMN, y + tallest),
        seconds: (0.0, range.1 - range.0),
        step: STEP.as_secs_f64(),
        frames,
    }
}

fn chart(prometheus: &Prometheus, panel: &Value, range: (f64, f64)) -> Chart {
    let mut results = Vec::new();
    for target in panel["targets"].as_array().into_iter().flatten() {
        let word = |name: &str| target[name].as_str().unwrap_or_default().to_owned();
        let answer = prometheus.range(&filled_in(&word("expr"), range), range, STEP);
        let answer = answer.unwrap_or_else(|error| panic!("{error}"));
        results.extend(answer.into_iter().map(|one| (word("legendFormat"), one)));
    }
    let custom = &panel["fieldConfig"]["defaults"]["custom"];
    match panel["type"].as_str() {
        Some("heatmap") => Chart::Heat(
            results
                .iter()
                .flat_map(|(_, one)| cells(one, range.0))
                .collect(),
        ),
        Some("stat") => {
            let series: Vec<Series> = results
                .iter()
                .map(|(legend, one)| series(legend, one, range.0))
                .collect();
            let last = series.first().and_then(|one| one.points.last());
            Chart::Number(last.map_or(0.0, |(_, value)| *value))
        }
        Some("table") => Chart::Table(table(&results)),
        _ => {
            let mut all: Vec<Series> = results
                .iter()
                .map(|(legend, one)| series(legend, one, range.0))
                .collect();
            // The largest first, as the names below have room for some.
            let size = |one: &Series| one.points.iter().map(|(_, value)| value).sum::<f64>();
            all.sort_by(|a, b| size(b).total_cmp(&size(a)));
            if custom["stacking"].is_object() {
                Chart::Stack(all)
            } else {
                Chart::Lines(all)
            }
        }
    }
}

fn series(legend: &str, answer: &Value, start: f64) -> Series {
    let points = answer["values"].as_array().into_iter().flatten();
    let points = points
        .filter_map(|pair| {
            let value: f64 = pair[1].as_str()?.parse().ok()?;
            Some((pair[0].as_f64()? - start, value))
        })
        .filter(|(_, value)| value.is_finite());
    let mut name = legend.to_owned();
    for (label, value) in answer["metric"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        name = name.replace(&format!("{{{{{label}}}}}"), value);
    }
    Series {
        name,
        points: points.collect(),
    }
}

/// The buckets of a native histogram: `[rule, low, high, count]` each.
fn cells(answer: &Value, start: f64) -> Vec<Cell> {
    let mut cells = Vec::new();
    for pair in answer["histograms"].as_array().into_iter().flatten() {
        let at = pair[0].as_f64().unwrap_or(0.0) - start;
        for bucket in pair[1]["buckets"].as_array().into_iter().flatten() {
            let number = |place: usize| bucket[place].as_str()?.parse::<f64>().ok();
            if let (Some(low), Some(high), Some(count)) = (number(1), number(2), number(3))
                && low > 0.0
                && count > 0.0
            {
                cells.push(Cell {
                    at,
                    bounds: (low, high),
                    count,
                });
            }
        }
    }
    cells
}

/// The last value of each series, the highest first, beside its labels.
fn table(results: &[(String, Value)]) -> Vec<Vec<String>> {
    let mut rows: Vec<(f64, Vec<String>)> = Vec::new();
    let mut head = Vec::new();
    for (_, one) in results {
        let labels = one["metric"].as_object().cloned().unwrap_or_default();
        head = labels.keys().cloned().collect();
        let last = one["values"].as_array().and_then(|values| values.last());
        let value = last
            .and_then(|pair| pair[1].as_str()?.parse().ok())
            .unwrap_or(0.0);
        let mut row: Vec<String> = labels
            .values()
            .map(|value| value.as_str().unwrap_or_default().to_owned())
            .collect();
        row.push(format!("{value:.0}"));
        rows.push((value, row));
    }
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    head.push("count".to_owned());
    std::iter::once(head)
        .chain(rows.into_iter().map(|(_, row)| row))
        .collect()
}

/// What the webhook was told and when, and what the agent says of one error of each kind.
fn protocol(watch: &Watch, scene: &Scene, started: SystemTime) -> String {
    let mut text = format!(
        "What whoever is on call was told in one run of the test `alerts`, with durations of the\n\
         rules divided by {FASTER}: seconds since the start, and the texts as the webhook got them.\n\n"
    );
    for told in watch.webhook.all() {
        let at = told.at.duration_since(started).unwrap_or_default();
        let word = |name: &str| told.annotations.get(name).cloned().unwrap_or_default();
        let name = told.labels.get("alertname").cloned().unwrap_or_default();
        let severity = told.labels.get("severity").cloned().unwrap_or_default();
        let _written = writeln!(
            text,
            "{:6.1} s  {:<8}  {:<8}  {name}\n          {}",
            at.as_secs_f64(),
            told.status,
            severity,
            word("summary")
        );
        if told.status == "firing" {
            let _written = writeln!(
                text,
                "          {}\n          {}",
                word("description"),
                word("runbook_url")
            );
        }
    }
    for (upstream, cause) in [
        (scene.gone, "connect_refused"),
        (scene.racing, "keepalive_race"),
        (scene.dark, "connect_timeout"),
    ] {
        let words = [
            "explain",
            "--last",
            "1",
            "--upstream",
            &upstream.to_string(),
            "--cause",
            cause,
        ]
        .map(str::to_owned);
        let _written = writeln!(text, "\n$ why502 {}", words.join(" "));
        let mut command = Command::new(binary());
        command
            .args(&words)
            .args(["--agent", &scene.agent.address.to_string()]);
        text.push_str(&output_of(&mut command));
    }
    text
}
