//! A real Prometheus that scrapes one agent, and is asked.
//!
//! In: what to scrape and how, rules, an Alertmanager. Out: what it answers to queries. It gets
//! files, ports and storage of its own, and is gone when dropped.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::http;
use crate::ports;
use crate::process::{Running, command};
use crate::wait::eventually;

/// It starts, scrapes and answers within this time.
const SCRAPED: Duration = Duration::from_secs(30);

/// How it is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Between two scrapes.
    pub every: Duration,
    /// Protobuf and native histograms; text and classic ones otherwise.
    pub native: bool,
    /// More lines of the scrape configuration, each indented by two.
    pub how: &'a str,
    /// A file of rules.
    pub rules: Option<&'a Path>,
    /// Where alerts go.
    pub alertmanager: Option<SocketAddr>,
}

/// A Prometheus that scrapes one target as job `why502` of the cluster `e2e`.
#[derive(Debug)]
pub struct Prometheus {
    address: SocketAddr,
    _process: Running,
    folder: TempDir,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            every: Duration::from_millis(500),
            native: true,
            how: "",
            rules: None,
            alertmanager: None,
        }
    }
}

impl Prometheus {
    /// Starts it and waits until it answers.
    #[track_caller]
    pub fn start(target: SocketAddr, setup: &Setup<'_>) -> Self {
        let address = ports::free(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let folder =
            TempDir::with_prefix("e2e-prometheus-").expect("a temporary folder can be made");
        let path = folder.path();
        fs::write(path.join("prometheus.yml"), configuration(target, setup))
            .expect("its configuration is written");
        let log = fs::File::create(path.join("log")).expect("its log is made");
        let mut command = command("prometheus", None);
        command
            .arg(format!(
                "--config.file={}",
                path.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                path.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stderr(log);
        if setup.native {
            command.arg("--enable-feature=native-histograms");
        }
        let mut process = Running::start("prometheus", &mut command);
        wait_ready("Prometheus", &mut process, address, &path.join("log"));
        Self {
            address,
            _process: process,
            folder,
        }
    }

    /// The one value of a query, once there is one.
    #[track_caller]
    pub fn value(&self, query: &str) -> f64 {
        eventually(SCRAPED, &format!("Prometheus answers {query}"), || {
            let data = self.get("/api/v1/query", &[("query", query)])?;
            data.pointer("/result/0/value/1")
                .and_then(Value::as_str)
                .and_then(|value| value.parse().ok())
                .ok_or(data.to_string())
        })
    }

    /// The series of a query at each `step` from one time of day to another, in seconds since
    /// 1970.
    ///
    /// # Errors
    /// What Prometheus says of a query that it cannot answer.
    pub fn range(
        &self,
        query: &str,
        (from, to): (f64, f64),
        step: Duration,
    ) -> Result<Vec<Value>, String> {
        let data = self.get(
            "/api/v1/query_range",
            &[
                ("query", query),
                ("start", &from.to_string()),
                ("end", &to.to_string()),
                ("step", &step.as_secs_f64().to_string()),
            ],
        )?;
        match data.get("result") {
            Some(Value::Array(series)) => Ok(series.clone()),
            _ => Err(data.to_string()),
        }
    }

    /// What a path of its API has under `data`.
    ///
    /// # Errors
    /// What Prometheus says instead.
    pub fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let parameters: Vec<String> = parameters
            .iter()
            .map(|(name, value)| {
                let value: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
                format!("{name}={value}")
            })
            .collect();
        let path = format!("{path}?{}", parameters.join("&"));
        let answer = http::get(self.address, &path, "*/*").map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let mut json: Value =
            serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        match json.get("status").and_then(Value::as_str) {
            Some("success") => Ok(json["data"].take()),
            _ => Err(text),
        }
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// Waits until a server of the Prometheus family says that it is ready; what it wrote to `log`, when
/// it ends instead.
#[track_caller]
pub(crate) fn wait_ready(name: &str, process: &mut Running, address: SocketAddr, log: &Path) {
    eventually(SCRAPED, &format!("{name} is ready"), || {
        if let Some(status) = process.ended() {
            let said = fs::read_to_string(log).unwrap_or_default();
            panic!("{name} ended with {status}: {said}");
        }
        match http::get(address, "/-/ready", "*/*") {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(format!("/-/ready answers {}", answer.status)),
            Err(error) => Err(error.to_string()),
        }
    });
}

fn configuration(target: SocketAddr, setup: &Setup<'_>) -> String {
    let Setup {
        every,
        native: _,
        how,
        rules,
        alertmanager,
    } = setup;
    let every = every.as_millis();
    let mut text = format!(
        "global:\n  scrape_interval: {every}ms\n  scrape_timeout: {every}ms\nscrape_configs:\n\
         - job_name: why502\n  static_configs:\n  - targets: ['{target}']\n    labels:\n      \
         cluster: e2e\n{how}"
    );
    if let Some(rules) = rules {
        text.push_str(&format!("rule_files: ['{}']\n", rules.display()));
    }
    if let Some(alertmanager) = alertmanager {
        text.push_str(&format!(
            "alerting:\n  alertmanagers:\n  - static_configs:\n    - targets: ['{alertmanager}']\n"
        ));
    }
    text
}
