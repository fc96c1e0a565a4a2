//! A real Prometheus that scrapes one target.
//!
//! In: the target, and how it is to be asked. Out: what queries give.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::http;
use crate::ports;
use crate::process::{Running, command};
use crate::wait::eventually;

/// Prometheus starts, scrapes and answers within this time.
const SCRAPED: Duration = Duration::from_secs(30);

/// A running one.
#[derive(Debug)]
pub struct Prometheus {
    address: SocketAddr,
    _process: Running,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts it. `how`: lines of the scrape configuration, each indented by two.
    #[track_caller]
    pub fn start(target: SocketAddr, how: &str) -> Self {
        let address = ports::free(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let folder =
            TempDir::with_prefix("e2e-prometheus-").expect("a temporary folder can be made");
        let path = folder.path();
        let config = format!(
            "global:\n  scrape_interval: 500ms\n  scrape_timeout: 500ms\nscrape_configs:\n- job_name: why502\n  \
             static_configs:\n  - targets: ['{target}']\n{how}"
        );
        fs::write(path.join("prometheus.yml"), config).expect("its configuration is written");
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
            .arg("--enable-feature=native-histograms")
            .stderr(log);
        Self {
            address,
            _process: Running::start("prometheus", &mut command),
            _folder: folder,
        }
    }

    /// The one value of a query, once there is one.
    #[track_caller]
    pub fn value(&self, query: &str) -> f64 {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        eventually(SCRAPED, &format!("Prometheus answers {query}"), || {
            let answer =
                http::get(self.address, &path, "*/*").map_err(|error| error.to_string())?;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            let json: Value =
                serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
            json.pointer("/data/result/0/value/1")
                .and_then(Value::as_str)
                .and_then(|value| value.parse().ok())
                .ok_or(text)
        })
    }
}
