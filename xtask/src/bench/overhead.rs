//! `bench overhead`: what the agent costs at saturation, beside nothing, beside probes that return
//! at once, and beside the agent of another commit.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use super::against::Against;
use super::contender::{Contender, Programs};
use super::report::Setting;
use super::rounds::{Plan, Taken, Turn};
use super::spread::Spread;
use super::stage::{Layout, Stage};
use crate::host::root;
use crate::host::scratch::Scratch;
use crate::{build, cli};

/// How long and how often.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds; in each of them every way of watching has its turn.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Rounds of their own in which the time in the probes is measured.
    #[arg(long, default_value_t = 7)]
    probe_rounds: usize,
    /// Compare with the agent of this commit, which is built first unless it was built before.
    #[arg(long, value_name = "COMMIT")]
    against: Option<String>,
    /// Build what is measured, and stop: for a machine that has to be quiet for the rest.
    #[arg(long)]
    build_only: bool,
    /// Length of each turn.
    #[arg(long, default_value = "2s", value_parser = cli::duration)]
    each: Duration,
    /// Client connections that wrk keeps open.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Folder for the results.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

const LAYOUTS: [Layout; 2] = [Layout::Apart, Layout::Together];

/// What was aimed at: a bound of one number.
struct Aim {
    what: &'static str,
    bound: fn(Layout) -> Bound,
    /// It says something beside another commit only.
    is_of_other: bool,
    measured: fn(&Taken, Layout, Contender) -> Spread,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "at least {bound}"),
            Self::AtMost(bound) => write!(f, "at most {bound}"),
        }
    }
}

impl Bound {
    /// What was not measured meets nothing.
    fn is_met(&self, measured: f64) -> bool {
        match *self {
            Self::AtLeast(bound) => measured >= bound,
            Self::AtMost(bound) => measured <= bound,
        }
    }
}

/// What is to be left of throughput, and of what a second of CPU does.
fn left(layout: Layout) -> Bound {
    Bound::AtLeast(match layout {
        Layout::Apart => 0.92,
        Layout::Together => 0.88,
    })
}

const AIMS: [Aim; 4] = [
    Aim {
        what: "throughput of that of nothing",
        bound: left,
        is_of_other: false,
        measured: |taken, layout, watching| {
            let pair = [watching, Contender::Nothing];
            taken.ratio(layout, pair, |turn| turn.load.per_second)
        },
    },
    Aim {
        what: "CPU a request, nothing's of it",
        bound: left,
        is_of_other: false,
        measured: |taken, layout, watching| {
            taken.ratio(layout, [Contender::Nothing, watching], Turn::cpu_us)
        },
    },
    Aim {
        what: "time in the probes of the other commit's",
        bound: |_| Bound::AtMost(0.4),
        is_of_other: true,
        measured: |taken, layout, watching| {
            taken.probes_ratio(layout, [watching, Contender::Against])
        },
    },
    Aim {
        what: "the agent's own CPU a request of the other commit's",
        bound: |_| Bound::AtMost(0.15),
        is_of_other: true,
        measured: |taken, layout, watching| {
            let pair = [watching, Contender::Against];
            taken.ratio(layout, pair, Turn::watching_us)
        },
    },
];

/// Measures and writes the report.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options {
        rounds,
        probe_rounds,
        against,
        build_only,
        each,
        connections,
        out,
    } = options;
    if *rounds == 0 || each.as_secs() == 0 {
        bail!("a measurement needs at least one round and one second");
    }
    let against = against.as_deref().map(Against::build).transpose()?;
    if *build_only {
        println!("agent: {}", build::everything(true)?.display());
        return Ok(());
    }
    let (agent, _tracefs) = super::ready(&[])?;
    let commit = against.as_ref().map(|against| against.commit.clone());
    let mut contenders = vec![Contender::Nothing, Contender::Idle];
    contenders.extend(commit.is_some().then_some(Contender::Against));
    contenders.extend([Contender::Agent, Contender::Sparing]);
    let programs = Programs::new(agent, against)?;
    let scratch = Scratch::new("bench")?;
    let start = |layout| Stage::start(scratch.path(), layout, 1);
    let stages = [start(Layout::Apart)?, start(Layout::Together)?];
    let plan = Plan {
        contenders: &contenders,
        stages: &stages,
        programs: &programs,
        rounds: *rounds,
        probe_rounds: *probe_rounds,
        each: *each,
        connections: *connections,
    };
    let taken = plan.measure()?;
    let folder = out.clone().unwrap_or_else(|| root().join("docs/bench"));
    let setting = Setting::of_this_machine(*connections, *each);
    let json = serde_json::to_string_pretty(&(&setting, &commit, &taken))? + "\n";
    super::write(&folder, "overhead.json", &json)?;
    super::write(&folder, "overhead.csv", &csv(&taken))?;
    let summary = summary(&setting, &taken, &plan, commit.as_deref());
    super::write(&folder, "overhead.md", &summary)?;
    println!("\n{summary}\nwritten to {}", folder.display());
    Ok(())
}

/// One line a turn.
fn csv(taken: &Taken) -> String {
    let mut text = String::from(
        "round,layout,watching,requests,requests_per_second,p50_us,p99_us,cpu_seconds,proxy_cpu_seconds,watching_cpu_seconds,machine_busy_seconds,machine_idle_seconds,machine_stolen_seconds,watching_peak_bytes\n",
    );
    for turn in &taken.turns {
        let proxy = turn.used.proxy.map(|cpu| format!("{cpu:.6}"));
        text += &format!(
            "{},{:?},{:?},{},{:.2},{},{},{:.6},{},{:.6},{:.2},{:.2},{:.2},{}\n",
            turn.round,
            turn.layout,
            turn.watching,
            turn.load.requests,
            turn.load.per_second,
            turn.load.p50_us,
            turn.load.p99_us,
            turn.used.all,
            proxy.unwrap_or_default(),
            turn.watching_cpu,
            turn.machine.busy,
            turn.machine.idle,
            turn.machine.stolen,
            turn.memory.peak,
        );
    }
    text
}

fn summary(setting: &Setting, taken: &Taken, plan: &Plan<'_>, commit: Option<&str>) -> String {
    let other = commit.map_or_else(String::new, |commit| {
        format!(" The other commit is {commit}; its agent was built by its own tree.")
    });
    let mut text = format!(
        "# What the agent costs

Written by `cargo xtask bench overhead`; every turn is in `overhead.csv`, with the probes' times in
`overhead.json`.

{setting} {} rounds; in each of them every way of watching had its turn, in an order that rotates, and
ratios are those of turns of the same round: the median, and the interval that holds it with 95 %
certainty (below six rounds, least and most).{other} One nginx worker as proxy, one as application,
keep-alive on both sides, answers of about 100 bytes, all on this host. {} The
proxy was busy {:.0} % of the time when nothing watched.

CPU is that of client, proxy, application and what watches, from cpu.stat of their cgroups, to the
microsecond. It includes the programs that the kernel runs in their name, and the softirqs of
loopback, which run where the packet was sent; a kernel that counts interrupts apart
(CONFIG_IRQ_TIME_ACCOUNTING) leaves softirqs out of it. CPU of the whole machine, from /proc/stat, has
all interrupts and all other programs in it, in steps of 10 ms.
",
        plan.rounds,
        taken.disturbance(),
        taken.saturation(plan.each.as_secs()),
    );
    text += &aims(taken, commit.is_some());
    for layout in LAYOUTS {
        text += &format!(
            "\n## {}\n\n{}",
            layout.title(),
            taken.table(layout, plan.contenders)
        );
    }
    let others: Vec<Contender> = plan.contenders.iter().skip(1).copied().collect();
    text += &format!(
        "
## By program

Time in the probes is of {} rounds of its own, with the kernel's statistics on, which are most of what
probes take that return at once. Client, proxy and application are on this host. Each in a cgroup of its
own; medians.

{}",
        plan.probe_rounds,
        taken.programs(Layout::Apart, &others)
    );
    text
}

/// What was aimed at, and what it came to: of the agent without settings, and where it costs least.
fn aims(taken: &Taken, against: bool) -> String {
    let mut text = String::from(
        "\n## Against the aims\n\n| | | aim | measured | |\n| --- | --- | --- | --- | --- |\n",
    );
    const WATCHING: [Contender; 2] = [Contender::Agent, Contender::Sparing];
    for watching in WATCHING {
        for aim in AIMS.iter().filter(|aim| against || !aim.is_of_other) {
            for layout in LAYOUTS {
                let measured = (aim.measured)(taken, layout, watching);
                let bound = (aim.bound)(layout);
                let met = if bound.is_met(measured.median) {
                    "met"
                } else {
                    "not met"
                };
                text += &format!(
                    "| {}; {} | {} | {bound} | {measured} | {met} |\n",
                    aim.what,
                    layout.title().to_lowercase(),
                    watching.title(),
                );
            }
        }
    }
    if !against {
        return text;
    }
    text += "\nBeside the other commit, in the same rounds:\n\n| | | throughput of its | CPU a request of its |\n| --- | --- | --- | --- |\n";
    for watching in WATCHING {
        let pair = [watching, Contender::Against];
        for layout in LAYOUTS {
            let rate = taken.ratio(layout, pair, |turn| turn.load.per_second);
            let cpu = taken.ratio(layout, pair, Turn::cpu_us);
            text += &format!(
                "| {} | {} | {rate} | {cpu} |\n",
                layout.title(),
                watching.title()
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cost::{Machine, Memory};
    use crate::bench::rounds::ProbeTurn;
    use crate::bench::stage::Used;
    use crate::bench::wrk::Loaded;
    use crate::host::bpf::Program;

    fn turn(watching: Contender, layout: Layout, per_second: f64, watching_cpu: f64) -> Turn {
        Turn {
            round: 1,
            layout,
            watching,
            load: Loaded {
                requests: 1000,
                per_second,
                p50_us: 1.0,
                p99_us: 2.0,
                failed: 0,
            },
            used: Used {
                all: 0.5,
                proxy: (layout == Layout::Apart).then_some(0.25),
            },
            watching_cpu,
            machine: Machine {
                busy: 1.0,
                idle: 1.0,
                stolen: 0.0,
            },
            memory: Memory::default(),
        }
    }

    fn taken() -> Taken {
        let probes = |watching, time| ProbeTurn {
            round: 1,
            layout: Layout::Apart,
            watching,
            requests: 1,
            programs: vec![Program {
                id: 1,
                name: "packet_in".into(),
                run_time_ns: time,
                run_cnt: 1,
            }],
        };
        Taken {
            turns: vec![
                turn(Contender::Nothing, Layout::Apart, 1000.0, 0.0),
                turn(Contender::Agent, Layout::Apart, 950.0, 0.5),
                turn(Contender::Against, Layout::Apart, 500.0, 5.0),
                turn(Contender::Agent, Layout::Together, 800.0, 0.5),
            ],
            probes: vec![
                probes(Contender::Agent, 100),
                probes(Contender::Against, 200),
            ],
        }
    }

    #[test]
    fn each_aim_stands_beside_what_it_came_to() {
        let text = aims(&taken(), true);
        let of = |what: &str| {
            let line = text.lines().find(|line| line.starts_with(what));
            line.expect("a line").to_owned()
        };
        let line = of("| throughput of that of nothing; client");
        assert!(
            line.ends_with("| why502 | at least 0.92 | 0.950 (0.950 to 0.950) | met |"),
            "{line}"
        );
        let line = of("| CPU a request, nothing's of it; client");
        assert!(
            line.ends_with("| 0.500 (0.500 to 0.500) | not met |"),
            "{line}"
        );
        let line = of("| time in the probes of the other commit's; client");
        assert!(
            line.ends_with("| why502 | at most 0.4 | 0.500 (0.500 to 0.500) | not met |"),
            "{line}"
        );
        let line = of("| the agent's own CPU a request of the other commit's; client");
        assert!(
            line.ends_with("| why502 | at most 0.15 | 0.100 (0.100 to 0.100) | met |"),
            "{line}"
        );
        // What was not measured meets nothing.
        let line = of("| throughput of that of nothing; all");
        assert!(
            line.ends_with("| why502 | at least 0.88 | - | not met |"),
            "{line}"
        );
        assert!(!aims(&taken(), false).contains("other commit"));
    }

    #[test]
    fn a_turn_is_a_line_and_what_is_not_told_apart_is_left_empty() {
        let csv = csv(&taken());
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 5);
        let columns = |line: &str| line.split(',').count();
        assert!(lines.iter().all(|line| columns(line) == columns(lines[0])));
        assert!(lines[1].starts_with("1,Apart,Nothing,1000,1000.00,1,2,0.500000,0.250000,"));
        assert!(lines[4].starts_with("1,Together,Agent,1000,800.00,1,2,0.500000,,0.5"));
    }
}
