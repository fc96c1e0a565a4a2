//! From turns to numbers, and from numbers to tables: nothing that the raw files do not hold.

use std::fmt;
use std::fs;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use super::contender::Contender;
use super::rounds::{ProbeTurn, Taken, Turn};
use super::spread::Spread;
use super::stage::Layout;

/// More of the CPUs than this taken by others, and the numbers are of a disturbed machine, percent.
const DISTURBED_PERCENT: f64 = 3.0;

/// The machine and the load.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Setting {
    kernel: String,
    cpu: String,
    cpus: usize,
    nginx: String,
    connections: u32,
    seconds_per_run: u64,
}

impl Setting {
    /// This machine, as far as it matters to the numbers.
    pub(super) fn of_this_machine(connections: u32, each: Duration) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, name)| name);
        Self {
            kernel: kernel.trim().to_owned(),
            cpu: cpu.to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            nginx: nginx_version(),
            connections,
            seconds_per_run: each.as_secs(),
        }
    }
}

/// In one line.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kernel,
            cpu,
            cpus,
            nginx,
            connections,
            seconds_per_run,
        } = self;
        write!(
            f,
            "Kernel {kernel}, {cpu}, {cpus} CPUs, {nginx}; wrk with {connections} connections, {seconds_per_run} s at a time."
        )
    }
}

/// Numbers of some turns, one for each round in which there is one.
type ByRound = Vec<(usize, f64)>;

impl Taken {
    fn of(&self, layout: Layout, watching: Contender) -> impl Iterator<Item = &Turn> {
        let turns = self.turns.iter();
        turns.filter(move |turn| turn.layout == layout && turn.watching == watching)
    }

    fn by_round(&self, layout: Layout, watching: Contender, of: fn(&Turn) -> f64) -> ByRound {
        let turns = self.of(layout, watching);
        turns.map(|turn| (turn.round, of(turn))).collect()
    }

    /// Median and all that of a number of its turns.
    pub(super) fn spread(
        &self,
        layout: Layout,
        watching: Contender,
        of: fn(&Turn) -> f64,
    ) -> Spread {
        Spread::of(self.of(layout, watching).map(of))
    }

    /// The number of `one` over that of `other`, in the same round.
    pub(super) fn ratio(
        &self,
        layout: Layout,
        [one, other]: [Contender; 2],
        of: fn(&Turn) -> f64,
    ) -> Spread {
        let by_round = |watching| self.by_round(layout, watching, of);
        Spread::of(ratios(&by_round(one), &by_round(other)))
    }

    fn probe_turns(&self, layout: Layout, watching: Contender) -> impl Iterator<Item = &ProbeTurn> {
        let turns = self.probes.iter();
        turns.filter(move |turn| turn.layout == layout && turn.watching == watching)
    }

    /// Time in the probes for a request, ns.
    pub(super) fn probes(&self, layout: Layout, watching: Contender) -> Spread {
        let turns = self.probe_turns(layout, watching);
        Spread::of(turns.map(ProbeTurn::ns_per_request))
    }

    /// That of `one` over that of `other`, in the same round of the probes.
    pub(super) fn probes_ratio(&self, layout: Layout, [one, other]: [Contender; 2]) -> Spread {
        let by_round = |watching| -> ByRound {
            let turns = self.probe_turns(layout, watching);
            turns
                .map(|turn| (turn.round, turn.ns_per_request()))
                .collect()
        };
        Spread::of(ratios(&by_round(one), &by_round(other)))
    }

    /// Medians of runs a request and of ns a run, of the program of this name.
    fn program(&self, layout: Layout, watching: Contender, name: &str) -> (f64, f64) {
        let of = |number: fn(u64, u64, u64) -> f64| {
            let turns = self.probe_turns(layout, watching);
            let numbers = turns.map(|turn| {
                let (time, runs) = turn.program(name);
                number(time, runs, turn.requests)
            });
            Spread::of(numbers).median
        };
        (
            of(|_, runs, requests| runs as f64 / requests as f64),
            of(|time, runs, _| time as f64 / runs as f64),
        )
    }

    /// A line of a table for each way of watching.
    pub(super) fn table(&self, layout: Layout, contenders: &[Contender]) -> String {
        let mut text = String::from(
            "| what watches | requests/s | ratio to nothing | CPU, us a request | ratio of nothing to it | CPU of the whole machine, us a request | CPUs idle, % | p50, us | p99, us | probes, ns a request | its own CPU, us a request | its memory, MB | peak |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
",
        );
        for &watching in contenders {
            let median = |of: fn(&Turn) -> f64| self.spread(layout, watching, of).median;
            text += &format!(
                "| {} | {:.0} | {} | {:.1} | {} | {:.1} | {:.1} | {:.0} | {:.0} | {} | {:.2} | {:.1} | {:.1} |\n",
                watching.title(),
                median(|turn| turn.load.per_second),
                self.ratio(layout, [watching, Contender::Nothing], |turn| turn
                    .load
                    .per_second),
                median(Turn::cpu_us),
                self.ratio(layout, [Contender::Nothing, watching], Turn::cpu_us),
                median(Turn::machine_us),
                median(|turn| {
                    turn.machine.idle / (turn.machine.busy + turn.machine.idle) * 100.0
                }),
                median(|turn| turn.load.p50_us),
                median(|turn| turn.load.p99_us),
                whole(self.probes(layout, watching).median),
                median(Turn::watching_us),
                median(|turn| turn.memory.now as f64 / 1e6),
                median(|turn| turn.memory.peak as f64 / 1e6),
            );
        }
        text
    }

    /// A line for each eBPF program that ran, and each of `contenders` beside each other.
    pub(super) fn programs(&self, layout: Layout, contenders: &[Contender]) -> String {
        let mut names: Vec<&str> = Vec::new();
        let turns = self.probes.iter().filter(|turn| turn.layout == layout);
        for program in turns.flat_map(|turn| &turn.programs) {
            if program.run_cnt > 0 && !names.contains(&program.name.as_str()) {
                names.push(&program.name);
            }
        }
        let heads = contenders.iter().map(|watching| {
            let title = watching.title();
            format!(" {title}: runs a request | ns a run | ns a request |")
        });
        let mut text = format!("| program |{}\n", heads.collect::<String>());
        text += &format!("| --- |{}\n", " --- | --- | --- |".repeat(contenders.len()));
        for name in names {
            text += &format!("| {name} |");
            for &watching in contenders {
                let (runs, time) = self.program(layout, watching, name);
                let all = if runs == 0.0 { 0.0 } else { runs * time };
                text += &format!(" {} | {} | {} |", hundredths(runs), whole(time), whole(all));
            }
            text.push('\n');
        }
        text
    }

    /// Says what else the machine did, and whether that was too much.
    pub(super) fn disturbance(&self) -> String {
        let all = |turn: &Turn| turn.machine.busy + turn.machine.idle + turn.machine.stolen;
        let spread = |part: fn(&Turn) -> f64| {
            Spread::of(self.turns.iter().map(|turn| part(turn) / all(turn) * 100.0))
        };
        // What is rounded to ticks may come to less than nothing.
        let others =
            spread(|turn| (turn.machine.busy - turn.used.all - turn.watching_cpu).max(0.0));
        let stolen = spread(|turn| turn.machine.stolen);
        let doubt = if others.median + stolen.median > DISTURBED_PERCENT {
            " **The machine was disturbed**: ratios are those of the same round and hold as far as their intervals do, and absolute numbers say little."
        } else {
            ""
        };
        format!(
            "Beside client, proxy, application and what watches, the kernel's threads and other programs had {:.1} % of the CPUs (median of turns; most {:.1}), and the hypervisor took {:.1} % (most {:.1}).{doubt}",
            others.median, others.most, stolen.median, stolen.most
        )
    }

    /// How busy the proxy was when nothing watched, percent of a CPU.
    pub(super) fn saturation(&self, seconds: u64) -> f64 {
        let proxy = self.of(Layout::Apart, Contender::Nothing);
        let busy = proxy.filter_map(|turn| turn.used.proxy);
        Spread::of(busy.map(|used| used / seconds as f64 * 100.0)).median
    }
}

/// Of the rounds that both have.
fn ratios(one: &[(usize, f64)], other: &[(usize, f64)]) -> Vec<f64> {
    let ratio = |(round, number): &(usize, f64)| {
        let (_, base) = other.iter().find(|(another, _)| another == round)?;
        Some(number / base)
    };
    one.iter().filter_map(ratio).collect()
}

/// A number without a point, `-` when it is none.
fn whole(number: f64) -> String {
    if number.is_nan() {
        return "-".to_owned();
    }
    format!("{number:.0}")
}

fn hundredths(number: f64) -> String {
    if number.is_nan() {
        return "-".to_owned();
    }
    format!("{number:.2}")
}

fn nginx_version() -> String {
    // nginx -v writes to standard error.
    let output = Command::new("sh").args(["-c", "nginx -v 2>&1"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    let version = text
        .trim()
        .strip_prefix("nginx version: ")
        .unwrap_or("nginx");
    version.replace('/', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cost::{Machine, Memory};
    use crate::bench::stage::Used;
    use crate::bench::wrk::Loaded;
    use crate::host::bpf::Program;

    fn turn(round: usize, watching: Contender, per_second: f64, cpu: f64) -> Turn {
        Turn {
            round,
            layout: Layout::Apart,
            watching,
            load: Loaded {
                requests: 1_000_000,
                per_second,
                p50_us: 1.0,
                p99_us: 2.0,
                failed: 0,
            },
            used: Used {
                all: cpu,
                proxy: Some(1.0),
            },
            watching_cpu: 2.0,
            machine: Machine {
                busy: cpu + 2.5,
                idle: 7.0 - cpu,
                stolen: 0.5,
            },
            memory: Memory::default(),
        }
    }

    fn probes(round: usize, watching: Contender, time: u64) -> ProbeTurn {
        ProbeTurn {
            round,
            layout: Layout::Apart,
            watching,
            requests: 100,
            programs: vec![Program {
                id: 1,
                name: "packet_in".into(),
                run_time_ns: time,
                run_cnt: 400,
            }],
        }
    }

    fn taken() -> Taken {
        use Contender::{Against, Agent, Nothing};
        Taken {
            turns: vec![
                turn(1, Nothing, 1000.0, 4.0),
                turn(1, Agent, 900.0, 4.0),
                // A slow round, and a lone turn.
                turn(2, Agent, 450.0, 6.0),
                turn(2, Nothing, 500.0, 4.0),
                turn(3, Agent, 100.0, 5.0),
            ],
            probes: vec![
                probes(1, Agent, 40_000),
                probes(1, Against, 100_000),
                probes(2, Against, 200_000),
                probes(2, Agent, 60_000),
            ],
        }
    }

    #[test]
    fn ratios_are_those_of_turns_of_one_round() {
        let ratio = taken().ratio(
            Layout::Apart,
            [Contender::Agent, Contender::Nothing],
            |turn| turn.load.per_second,
        );
        assert_eq!((ratio.least, ratio.most), (0.9, 0.9));
        let other = taken().ratio(Layout::Together, [Contender::Agent; 2], Turn::cpu_us);
        assert!(other.median.is_nan());
    }

    #[test]
    fn what_watches_is_part_of_the_cpu_time() {
        let taken = taken();
        // 6 and 8 s for a million requests.
        let pair = [Contender::Nothing, Contender::Agent];
        let ratio = taken.ratio(Layout::Apart, pair, Turn::cpu_us);
        assert_eq!((ratio.most, ratio.least), (1.0, 0.75));
        let own = taken.spread(Layout::Apart, Contender::Agent, Turn::watching_us);
        assert_eq!(own.median, 2.0);
    }

    #[test]
    fn probes_are_compared_round_by_round_too() {
        let taken = taken();
        let pair = [Contender::Agent, Contender::Against];
        let ratio = taken.probes_ratio(Layout::Apart, pair);
        assert_eq!((ratio.least, ratio.most), (0.3, 0.4));
        let table = taken.programs(Layout::Apart, &pair);
        assert!(
            table.contains("| packet_in | 4.00 | 125 | 500 | 4.00 | 375 | 1500 |"),
            "{table}"
        );
    }

    #[test]
    fn what_was_not_measured_is_no_number() {
        let table = taken().table(Layout::Together, &[Contender::Agent]);
        assert!(table.contains("| why502 | NaN | - |"), "{table}");
    }

    #[test]
    fn a_disturbed_machine_is_called_so() {
        // Of ten seconds of CPU half of one was taken by others, and as much stolen.
        let said = taken().disturbance();
        assert!(
            said.contains("had 5.0 %") && said.contains("took 5.0 %"),
            "{said}"
        );
        assert!(said.contains("**The machine was disturbed**"), "{said}");
    }
}
