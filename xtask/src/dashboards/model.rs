//! Dashboards as Grafana reads them (schema 39, Grafana 10 and 11).
//!
//! In: rows of panels. Out: JSON. Places on the grid, ids and the variables at the top are made
//! here, so that a panel says only what it shows and how to read it.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::expression::{HOSTS, PROXY};

/// Columns of Grafana's grid.
const GRID: u32 = 24;

/// A dashboard.
#[derive(Debug)]
pub(super) struct Dashboard {
    pub(super) uid: &'static str,
    pub(super) title: &'static str,
    pub(super) description: &'static str,
    /// Variables beside cluster and instance.
    pub(super) variables: &'static [Variable],
    pub(super) rows: Vec<Row>,
}

/// A choice at the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    Proxy,
    Upstream,
}

/// A heading with panels.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) panels: Vec<Panel>,
}

/// One picture.
#[derive(Debug)]
pub(super) struct Panel {
    title: &'static str,
    reads: &'static str,
    view: View,
    unit: &'static str,
    width: u32,
    steps: Vec<(f64, &'static str)>,
    queries: Vec<(String, &'static str)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Lines,
    Stack,
    Stat,
    Heatmap,
    Table,
}

impl Panel {
    /// Lines over time. `reads` says how to read it.
    pub(super) fn lines(title: &'static str, unit: &'static str, reads: &'static str) -> Self {
        Self {
            title,
            reads,
            view: View::Lines,
            unit,
            width: 12,
            steps: Vec::new(),
            queries: Vec::new(),
        }
    }

    /// Areas over time that add up.
    pub(super) fn stack(title: &'static str, unit: &'static str, reads: &'static str) -> Self {
        Self {
            view: View::Stack,
            ..Self::lines(title, unit, reads)
        }
    }

    /// One number, with its course behind it.
    pub(super) fn stat(title: &'static str, unit: &'static str, reads: &'static str) -> Self {
        Self {
            view: View::Stat,
            width: 4,
            ..Self::lines(title, unit, reads)
        }
    }

    /// Buckets of a histogram in seconds.
    pub(super) fn heatmap(title: &'static str, reads: &'static str) -> Self {
        Self {
            view: View::Heatmap,
            ..Self::lines(title, "s", reads)
        }
    }

    /// Numbers of now, or of all the range, beside their labels.
    pub(super) fn table(title: &'static str, unit: &'static str, reads: &'static str) -> Self {
        Self {
            view: View::Table,
            ..Self::lines(title, unit, reads)
        }
    }

    /// One more query, and what its series are called.
    pub(super) fn query(mut self, expression: impl Into<String>, legend: &'static str) -> Self {
        self.queries.push((expression.into(), legend));
        self
    }

    /// Columns of 24.
    pub(super) fn wide(self, width: u32) -> Self {
        Self { width, ..self }
    }

    /// Colours from these values on; green below.
    pub(super) fn steps(self, steps: &[(f64, &'static str)]) -> Self {
        Self {
            steps: steps.to_vec(),
            ..self
        }
    }

    fn height(&self) -> u32 {
        match self.view {
            View::Stat => 4,
            View::Lines | View::Stack | View::Heatmap | View::Table => 8,
        }
    }

    fn to_json(&self, id: u32, (x, y): (u32, u32)) -> Value {
        let kind = match self.view {
            View::Lines | View::Stack => "timeseries",
            View::Stat => "stat",
            View::Heatmap => "heatmap",
            View::Table => "table",
        };
        let mut panel = json!({
            "id": id,
            "type": kind,
            "title": self.title,
            "description": self.reads,
            "datasource": source(),
            "gridPos": { "x": x, "y": y, "w": self.width, "h": self.height() },
            "targets": self.targets(),
            "fieldConfig": { "defaults": self.defaults(), "overrides": [] },
            "options": self.options(),
        });
        if self.view == View::Table {
            panel["transformations"] = json!([
                { "id": "merge", "options": {} },
                { "id": "organize", "options": { "excludeByName": { "Time": true } } },
            ]);
        }
        panel
    }

    fn targets(&self) -> Vec<Value> {
        let format = match self.view {
            View::Heatmap => "heatmap",
            View::Table => "table",
            View::Lines | View::Stack | View::Stat => "time_series",
        };
        let instant = self.view == View::Table;
        ('A'..='Z')
            .zip(&self.queries)
            .map(|(id, (expression, legend))| {
                json!({
                    "refId": id.to_string(),
                    "datasource": source(),
                    "editorMode": "code",
                    "expr": expression,
                    "legendFormat": legend,
                    "format": format,
                    "instant": instant,
                    "range": !instant,
                })
            })
            .collect()
    }

    fn defaults(&self) -> Value {
        let mut steps = vec![json!({ "color": "green", "value": null })];
        let more = self.steps.iter();
        steps.extend(more.map(|(value, color)| json!({ "color": color, "value": value })));
        let thresholds = json!({ "mode": "absolute", "steps": steps });
        let custom = match self.view {
            View::Lines => json!({ "fillOpacity": 5, "lineWidth": 1, "showPoints": "never" }),
            View::Stack => json!({
                "fillOpacity": 60,
                "lineWidth": 0,
                "showPoints": "never",
                "stacking": { "group": "A", "mode": "normal" },
            }),
            View::Stat | View::Heatmap | View::Table => json!({}),
        };
        let colour = match self.view {
            View::Stat => "thresholds",
            View::Lines | View::Stack | View::Heatmap | View::Table => "palette-classic",
        };
        let mut defaults = json!({
            "unit": self.unit,
            "custom": custom,
            "color": { "mode": colour },
            "thresholds": thresholds,
        });
        match self.view {
            View::Stat => defaults["noValue"] = json!("none"),
            // Rates and times have no values below 0.
            View::Lines | View::Stack => defaults["min"] = json!(0),
            View::Heatmap | View::Table => {}
        }
        defaults
    }

    fn options(&self) -> Value {
        match self.view {
            View::Lines | View::Stack => json!({
                "legend": { "displayMode": "table", "placement": "right", "calcs": ["lastNotNull", "max"] },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            View::Stat => json!({
                "colorMode": "value",
                "graphMode": "area",
                "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
            }),
            View::Heatmap => json!({
                "calculate": false,
                "cellGap": 1,
                "color": {
                    "mode": "scheme",
                    "scheme": "Oranges",
                    "steps": 64,
                    "exponent": 0.5,
                    "fill": "dark-orange",
                    "reverse": false,
                },
                "exemplars": { "color": "rgba(255,0,255,0.7)" },
                "legend": { "show": true },
                "showValue": "never",
                "filterValues": { "le": 1e-9 },
                "tooltip": { "mode": "single", "yHistogram": true },
                "yAxis": { "unit": self.unit, "axisPlacement": "left" },
            }),
            View::Table => json!({ "showHeader": true, "cellHeight": "sm" }),
        }
    }
}

impl Dashboard {
    /// The file.
    pub(super) fn to_text(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(&self.to_json())
            .with_context(|| format!("the dashboard {} is no JSON", self.title))?;
        Ok(text + "\n")
    }

    /// All expressions on panels.
    #[cfg(test)]
    pub(super) fn expressions(&self) -> Vec<String> {
        let panels = self.rows.iter().flat_map(|row| &row.panels);
        panels
            .flat_map(|panel| {
                panel
                    .queries
                    .iter()
                    .map(|(expression, _)| expression.clone())
            })
            .collect()
    }

    fn to_json(&self) -> Value {
        json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["why502"],
            "schemaVersion": 39,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": { "from": "now-1h", "to": "now" },
            "timezone": "browser",
            "annotations": { "list": [alerts()] },
            "links": [{
                "type": "dashboards",
                "title": "why502",
                "tags": ["why502"],
                "asDropdown": false,
                "icon": "external link",
                "targetBlank": false,
                "tooltip": "",
                "includeVars": true,
                "keepTime": true,
            }],
            "templating": { "list": self.templating() },
            "panels": self.panels(),
        })
    }

    fn panels(&self) -> Vec<Value> {
        let mut panels = Vec::new();
        let (mut id, mut y) = (0, 0);
        for Row {
            title,
            panels: of_row,
        } in &self.rows
        {
            id += 1;
            panels.push(json!({
                "id": id,
                "type": "row",
                "title": title,
                "collapsed": false,
                "gridPos": { "x": 0, "y": y, "w": GRID, "h": 1 },
                "panels": [],
            }));
            y += 1;
            let (mut x, mut tallest) = (0, 0);
            for panel in of_row {
                if x + panel.width > GRID {
                    (x, y, tallest) = (0, y + tallest, 0);
                }
                id += 1;
                panels.push(panel.to_json(id, (x, y)));
                x += panel.width;
                tallest = tallest.max(panel.height());
            }
            y += tallest;
        }
        panels
    }

    fn templating(&self) -> Vec<Value> {
        let mut list = vec![
            json!({
                "name": "datasource",
                "label": "Data source",
                "type": "datasource",
                "query": "prometheus",
                "refresh": 1,
            }),
            choice(
                "cluster",
                "Cluster",
                "label_values(why502_agent_build_info, cluster)",
            ),
            choice(
                "instance",
                "Agent",
                r#"label_values(why502_agent_build_info{cluster=~"$cluster"}, instance)"#,
            ),
        ];
        list.extend(self.variables.iter().map(|variable| match variable {
            Variable::Proxy => choice(
                "proxy",
                "Proxy",
                &format!("label_values(why502_gateway_responses_total{{{HOSTS}}}, proxy)"),
            ),
            Variable::Upstream => choice(
                "upstream",
                "Upstream",
                &format!(
                    "label_values({{__name__=~\"why502_upstream_responses_total|why502_upstream_failures_total\", {PROXY}}}, upstream)"
                ),
            ),
        }));
        list
    }
}

/// A variable with the values of a label, several or all of them. All is `.*`, which also matches
/// what does not have the label: there may be no `cluster`.
fn choice(name: &str, label: &str, query: &str) -> Value {
    json!({
        "name": name,
        "label": label,
        "type": "query",
        "datasource": source(),
        "definition": query,
        "query": { "query": query, "refId": "StandardVariableQuery" },
        "refresh": 2,
        "sort": 1,
        "multi": true,
        "includeAll": true,
        "allValue": ".*",
        "current": { "text": ["All"], "value": ["$__all"] },
    })
}

/// Marks on the graphs where an alert began to fire.
fn alerts() -> Value {
    json!({
        "name": "Alerts",
        "datasource": source(),
        "enable": true,
        "iconColor": "red",
        "expr": "ALERTS{alertname=~\"Why502.*\", alertstate=\"firing\"}",
        "titleFormat": "{{alertname}}",
        "textFormat": "{{proxy}} {{upstream}} {{instance}}",
        "step": "30s",
    })
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}
