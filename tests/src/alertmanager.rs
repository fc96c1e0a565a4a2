//! A real Alertmanager, and whom it tells.
//!
//! In: alerts of a Prometheus. Out: the notifications that a webhook got, in order.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::Deserialize;
use tempfile::TempDir;

use crate::agent::metrics::Labels;
use crate::ports;
use crate::process::{Running, command};
use crate::prometheus::wait_ready;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// What a receiver is told of one alert.
#[derive(Clone, Debug, Deserialize)]
pub struct Told {
    /// `firing` or `resolved`.
    pub status: String,
    /// Name and labels.
    pub labels: Labels,
    /// The texts.
    pub annotations: Labels,
    /// When.
    #[serde(skip, default = "SystemTime::now")]
    pub at: SystemTime,
}

#[derive(Deserialize)]
struct Notification {
    alerts: Vec<Told>,
}

/// A receiver of notifications.
#[derive(Debug)]
pub struct Webhook {
    /// Where it listens.
    pub address: SocketAddr,
    told: Arc<Mutex<Vec<Told>>>,
}

/// An Alertmanager with one receiver, that waits for nothing.
#[derive(Debug)]
pub struct Alertmanager {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Running,
    _folder: TempDir,
}

impl Webhook {
    /// Listens until the test ends.
    #[track_caller]
    pub fn start() -> Self {
        let listener = TcpListener::bind((LOCALHOST, 0)).expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let told = Arc::default();
        let heard = Arc::clone(&told);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Err(error) = hear(&stream, &heard) {
                    eprintln!("the webhook could not read a notification: {error}");
                }
            }
        });
        Self { address, told }
    }

    /// All notifications so far.
    pub fn all(&self) -> Vec<Told> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.clone()
    }

    /// Those of an alert.
    pub fn of(&self, alert: &str) -> Vec<Told> {
        let mut told = self.all();
        told.retain(|told| {
            told.labels
                .get("alertname")
                .is_some_and(|name| name == alert)
        });
        told
    }
}

/// Reads one notification and thanks for it.
fn hear(stream: &TcpStream, heard: &Mutex<Vec<Told>>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let notification: Notification = serde_json::from_slice(&body)?;
    heard
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend(notification.alerts);
    let mut stream = stream;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

impl Alertmanager {
    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(webhook: &Webhook) -> Self {
        let address = ports::free(LOCALHOST);
        let folder =
            TempDir::with_prefix("e2e-alertmanager-").expect("a temporary folder can be made");
        let path = folder.path();
        let config = format!(
            "route:\n  receiver: test\n  group_by: ['...']\n  group_wait: 100ms\n  \
             group_interval: 200ms\n  repeat_interval: 1h\nreceivers:\n- name: test\n  \
             webhook_configs:\n  - url: http://{}/\n    send_resolved: true\n",
            webhook.address
        );
        fs::write(path.join("alertmanager.yml"), config).expect("its configuration is written");
        let log = fs::File::create(path.join("log")).expect("its log is made");
        let mut command = command("prometheus-alertmanager", None);
        command
            .arg(format!(
                "--config.file={}",
                path.join("alertmanager.yml").display()
            ))
            .arg(format!("--storage.path={}", path.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            // Alone: no gossip, and no port for it.
            .arg("--cluster.listen-address=")
            .stderr(log);
        let mut process = Running::start("prometheus-alertmanager", &mut command);
        wait_ready("Alertmanager", &mut process, address, &path.join("log"));
        Self {
            address,
            _process: process,
            _folder: folder,
        }
    }
}
