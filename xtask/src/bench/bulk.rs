//! Traffic that is not HTTP, between processes that are no proxies: one stream of iperf3 over
//! loopback.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::contender::{Contender, Programs, program, wait_saying};
use super::proxy::Proxy;
use super::rounds::in_programs;
use super::spread::Spread;
use super::stop_if_asked;
use crate::host::bpf::Program;
use crate::host::cgroup::Cgroup;
use crate::host::child::Guard;
use crate::host::{command, net};

/// What a stream was.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Stream {
    gigabits_per_second: f64,
    bytes: f64,
    /// CPU time of client and server, seconds.
    cpu: f64,
}

/// Without and with the agent, by pair, and what its packet programs did.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Bulk {
    pairs: Vec<(Stream, Stream)>,
    /// Runs of programs that see packets, for each MiB of the stream.
    packet_runs: f64,
    /// Time in all programs for each MiB, ns.
    programs_ns: f64,
}

/// Client and server, each in a cgroup of its own.
struct Ends {
    _server: Guard,
    server_place: Cgroup,
    client_place: Cgroup,
    address: SocketAddr,
}

impl Ends {
    fn start() -> Result<Self> {
        let server_place = Cgroup::new("bench-stream-server")?;
        let client_place = Cgroup::new("bench-stream-client")?;
        let address = net::free_address()?;
        let mut server = Command::new("iperf3");
        server.args(["--server", "--forceflush", "--bind", "127.0.0.1", "--port"]);
        server.arg(address.port().to_string());
        let (guard, lines) = program("iperf3", &server_place.inside(&server))?;
        wait_saying(&lines, "Server listening")?;
        Ok(Self {
            _server: guard,
            server_place,
            client_place,
            address,
        })
    }

    fn stream(&self, time: Duration) -> Result<Stream> {
        let mut client = Command::new("iperf3");
        client
            .args(["--client", "127.0.0.1", "--json", "--port"])
            .arg(self.address.port().to_string())
            .arg("--time")
            .arg(time.as_secs().to_string());
        let cpu =
            || anyhow::Ok(self.client_place.cpu_seconds()? + self.server_place.cpu_seconds()?);
        let before = cpu()?;
        let said = command::output(&mut self.client_place.inside(&client))?;
        parse(&said, cpu()? - before)
    }
}

fn parse(said: &str, cpu: f64) -> Result<Stream> {
    let said: Value = serde_json::from_str(said)?;
    let number = |name: &str| {
        let number = said.pointer(&format!("/end/sum_received/{name}"));
        let number = number.and_then(Value::as_f64);
        number.with_context(|| format!("iperf3 tells no {name}"))
    };
    Ok(Stream {
        gigabits_per_second: number("bits_per_second")? / 1e9,
        bytes: number("bytes")?,
        cpu,
    })
}

/// Measures all of it. `proxy` is there and has nothing to do.
pub(super) fn measure(
    programs: &Programs,
    proxy: &Proxy,
    pairs: usize,
    each: Duration,
) -> Result<Bulk> {
    let ends = Ends::start()?;
    ends.stream(each)?;
    let mut measured = Vec::new();
    for number in 0..pairs {
        let mut without = None;
        if number.is_multiple_of(2) {
            without = Some(ends.stream(each)?);
        }
        let program = Contender::Agent.start(programs, proxy)?;
        let with = ends.stream(each)?;
        program.stop()?;
        let without = without.map_or_else(|| ends.stream(each), Ok)?;
        measured.push((without, with));
        stop_if_asked()?;
    }
    let program = Contender::Agent.start(programs, proxy)?;
    let (stream, used) = in_programs(&program, || ends.stream(each))?;
    program.stop()?;
    let mebibytes = stream.bytes / f64::from(1 << 20);
    let (packet_runs, time) = sums(&used);
    Ok(Bulk {
        pairs: measured,
        packet_runs: packet_runs as f64 / mebibytes,
        programs_ns: time as f64 / mebibytes,
    })
}

/// Runs of programs that see packets, and time in all.
fn sums(used: &[Program]) -> (u64, u64) {
    let packets = used.iter().filter(|one| one.name.starts_with("packet_"));
    (
        packets.map(|one| one.run_cnt).sum(),
        used.iter().map(|one| one.run_time_ns).sum(),
    )
}

impl Bulk {
    /// The part of the report.
    pub(super) fn summary(&self) -> String {
        let spread = |of: fn(&(Stream, Stream)) -> f64| Spread::of(self.pairs.iter().map(of));
        format!(
            "
## Traffic that is not HTTP

One stream of iperf3 over loopback, client and server each in a cgroup of its own, beside a proxy that
has nothing to do; packets of up to 64 KiB.

| Gbit/s without | with | ratio | CPU without, us a MiB | with | ratio, without to with | packet programs, runs a MiB | all programs, ns a MiB |
| --- | --- | --- | --- | --- | --- | --- | --- |
| {:.1} | {:.1} | {} | {:.1} | {:.1} | {} | {:.2} | {:.0} |
",
            spread(|(without, _)| without.gigabits_per_second).median,
            spread(|(_, with)| with.gigabits_per_second).median,
            spread(|(without, with)| with.gigabits_per_second / without.gigabits_per_second),
            spread(|(without, _)| without.us_per_mebibyte()).median,
            spread(|(_, with)| with.us_per_mebibyte()).median,
            spread(|(without, with)| without.us_per_mebibyte() / with.us_per_mebibyte()),
            self.packet_runs,
            self.programs_ns,
        )
    }
}

impl Stream {
    fn us_per_mebibyte(&self) -> f64 {
        self.cpu * 1e6 / (self.bytes / f64::from(1 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_bytes_are_those_that_arrived() {
        let said = r#"{"end": {"sum_sent": {"bytes": 9, "bits_per_second": 9},
            "sum_received": {"bytes": 2097152, "bits_per_second": 3e9}}}"#;
        let stream = parse(said, 0.5).expect("complete");
        assert_eq!(stream.gigabits_per_second, 3.0);
        assert_eq!(stream.us_per_mebibyte(), 250_000.0);
        assert!(parse("{}", 0.5).is_err());
    }

    #[test]
    fn runs_are_those_of_packet_programs_and_time_is_that_of_all() {
        let program = |name: &str, time, runs| Program {
            id: 1,
            name: name.into(),
            run_time_ns: time,
            run_cnt: runs,
        };
        let used = [
            program("packet_in", 10, 3),
            program("packet_out", 20, 4),
            program("data_read", 5, 9),
        ];
        assert_eq!(sums(&used), (7, 35));
    }
}
