//! A packet capture by tcpdump.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::pcap::{Segment, parse};
use crate::netns::Netns;
use crate::process::{Running, command};

/// Within this time tcpdump writes what the kernel has given it.
const FLUSH: Duration = Duration::from_millis(300);

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    process: Running,
    stderr: BufReader<std::process::ChildStderr>,
    folder: TempDir,
}

impl Capture {
    /// Captures TCP on an interface (`lo` or an end of a veth pair) of a namespace, the host
    /// when none is given; returns when capturing has begun.
    #[track_caller]
    pub fn start(interface: &str, netns: Option<&Netns>) -> Self {
        let folder = TempDir::with_prefix("e2e-pcap-").expect("a temporary folder can be made");
        let file = folder.path().join("pcap");
        let mut command = command("tcpdump", netns);
        // Z: as root, for the folder is ours. s: heads are enough. B: room for bursts, KiB.
        command
            .args([
                "-i", interface, "-Z", "root", "-n", "-U", "-s", "128", "-B", "16384",
            ])
            .args(["--immediate-mode", "-w"])
            .arg(&file)
            .arg("tcp");
        command.stderr(Stdio::piped());
        let mut process = Running::start("tcpdump", &mut command);
        let stderr = process.child().stderr.take().expect("stderr is piped");
        let mut stderr = BufReader::new(stderr);
        let mut said = String::new();
        while !said.contains("listening on") {
            let read = stderr.read_line(&mut said).unwrap_or_default();
            assert!(read > 0, "tcpdump on {interface} ended: {said}");
        }
        Self {
            process,
            stderr,
            folder,
        }
    }

    /// Ends the capture and gives its segments; panics when tcpdump lost any.
    #[track_caller]
    pub fn stop(mut self) -> Vec<Segment> {
        // In immediate mode nothing is held back but by the scheduler.
        std::thread::sleep(FLUSH);
        self.process.stop(Signal::INT);
        let said: Vec<String> = self.stderr.lines().map_while(Result::ok).collect();
        assert!(
            said.iter()
                .any(|line| line.starts_with("0 packets dropped by kernel")),
            "tcpdump lost packets: {said:?}"
        );
        let bytes = fs::read(self.folder.path().join("pcap")).expect("tcpdump wrote a file");
        parse(&bytes).unwrap_or_else(|error| panic!("tcpdump's file: {error:#}"))
    }
}
