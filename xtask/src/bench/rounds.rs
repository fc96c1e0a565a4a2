//! Rounds, in each of which every way of watching has its turn on every stage: what slows the
//! machine down for a while slows all of them.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::contender::{Contender, Programs, Watching};
use super::cost::{self, Machine, Memory};
use super::stage::{Layout, Stage, Used};
use super::wrk::{Load, Loaded};
use super::{WARM_UP, ensure_no_other_agent, stop_if_asked};
use crate::host::bpf::Program;
use crate::host::kernel;

/// What is to be measured.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// The first is what the others are compared with.
    pub(super) contenders: &'a [Contender],
    pub(super) stages: &'a [Stage],
    pub(super) programs: &'a Programs,
    pub(super) rounds: usize,
    /// Rounds in which the time in the probes is measured and nothing else.
    pub(super) probe_rounds: usize,
    pub(super) each: Duration,
    pub(super) connections: u32,
}

/// One turn.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Turn {
    pub(super) round: usize,
    pub(super) layout: Layout,
    pub(super) watching: Contender,
    pub(super) load: Loaded,
    /// CPU time of client, proxy and application.
    pub(super) used: Used,
    /// CPU time of the program that watches, not of what it makes the kernel do for others; seconds.
    pub(super) watching_cpu: f64,
    /// Of all processes, and of the kernel.
    pub(super) machine: Machine,
    pub(super) memory: Memory,
}

/// One turn with the kernel's statistics on.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ProbeTurn {
    pub(super) round: usize,
    pub(super) layout: Layout,
    pub(super) watching: Contender,
    /// Requests during it.
    pub(super) requests: u64,
    /// What each program used.
    pub(super) programs: Vec<Program>,
}

/// All turns.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Taken {
    pub(super) turns: Vec<Turn>,
    pub(super) probes: Vec<ProbeTurn>,
}

impl Turn {
    /// CPU time of all together for a request, microseconds.
    pub(super) fn cpu_us(&self) -> f64 {
        (self.used.all + self.watching_cpu) / self.load.requests as f64 * 1e6
    }

    /// CPU time of the whole machine for a request, microseconds.
    pub(super) fn machine_us(&self) -> f64 {
        self.machine.busy / self.load.requests as f64 * 1e6
    }

    /// CPU time of the program that watches for a request, microseconds.
    pub(super) fn watching_us(&self) -> f64 {
        self.watching_cpu / self.load.requests as f64 * 1e6
    }
}

impl ProbeTurn {
    /// Time in all programs for a request, ns.
    pub(super) fn ns_per_request(&self) -> f64 {
        let time: u64 = self.programs.iter().map(|one| one.run_time_ns).sum();
        time as f64 / self.requests as f64
    }

    /// What the program of this name used; programs of the same name are one.
    pub(super) fn program(&self, name: &str) -> (u64, u64) {
        let named = self.programs.iter().filter(|program| program.name == name);
        named.fold((0, 0), |(time, runs), one| {
            (time + one.run_time_ns, runs + one.run_cnt)
        })
    }
}

impl Plan<'_> {
    /// Does all of it.
    pub(super) fn measure(&self) -> Result<Taken> {
        let mut taken = Taken::default();
        for round in 1..=self.rounds {
            ensure_no_other_agent()?;
            for watching in rotated(self.contenders, round) {
                self.turns(round, watching, &mut taken)?;
            }
            println!("round {round}/{}", self.rounds);
        }
        let with_programs: Vec<Contender> = self.contenders.iter().skip(1).copied().collect();
        for round in 1..=self.probe_rounds {
            for watching in rotated(&with_programs, round) {
                self.probes(round, watching, &mut taken)?;
            }
            println!("round {round}/{} of the probes", self.probe_rounds);
        }
        Ok(taken)
    }

    /// One way of watching, on every stage.
    fn turns(&self, round: usize, watching: Contender, taken: &mut Taken) -> Result<()> {
        let Some(first) = self.stages.first() else {
            return Ok(());
        };
        let program = watching.start(self.programs, &first.proxy)?;
        for stage in self.in_order(round) {
            let load = self.load(stage, watching);
            self.warm(&load)?;
            let before = (
                Machine::so_far()?,
                stage.used()?,
                self.programs.cpu_seconds()?,
            );
            let loaded = load.run()?;
            let watching_cpu = self.programs.cpu_seconds()? - before.2;
            let used = stage.used()?.since(before.1);
            let machine = Machine::so_far()?.since(before.0);
            taken.turns.push(Turn {
                round,
                layout: stage.layout,
                watching,
                load: loaded,
                used,
                watching_cpu,
                machine,
                memory: program.memory()?,
            });
            // What was logged is not kept: a run of minutes is gigabytes.
            std::fs::File::create(stage.proxy.access_log())
                .context("cannot empty the access log")?;
            stop_if_asked()?;
        }
        program.stop()
    }

    /// Time in the programs of one way of watching, on every stage.
    fn probes(&self, round: usize, watching: Contender, taken: &mut Taken) -> Result<()> {
        let Some(first) = self.stages.first() else {
            return Ok(());
        };
        let program = watching.start(self.programs, &first.proxy)?;
        for stage in self.in_order(round) {
            let load = self.load(stage, watching);
            self.warm(&load)?;
            let (loaded, programs) = in_programs(&program, || load.run())?;
            taken.probes.push(ProbeTurn {
                round,
                layout: stage.layout,
                watching,
                requests: loaded.requests,
                programs,
            });
            stop_if_asked()?;
        }
        program.stop()
    }

    /// Each stage is the first one in every second round.
    fn in_order(&self, round: usize) -> Vec<&Stage> {
        let mut stages: Vec<&Stage> = self.stages.iter().collect();
        if round.is_multiple_of(2) {
            stages.reverse();
        }
        stages
    }

    fn load<'a>(&self, stage: &'a Stage, watching: Contender) -> Load<'a> {
        Load {
            time: self.each,
            path: watching.path(),
            ..Load::usual(stage, self.connections)
        }
    }

    fn warm(&self, load: &Load<'_>) -> Result<()> {
        let warm = Load {
            time: WARM_UP,
            ..*load
        };
        warm.run().map(drop)
    }
}

/// Does `run` with the kernel's statistics on: what it gives, and what each program used.
pub(super) fn in_programs<T>(
    watching: &Watching,
    run: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<Program>)> {
    let _stats = kernel::BpfStats::enable()?;
    let before = watching.programs()?;
    let ran = run()?;
    Ok((ran, cost::difference(&before, &watching.programs()?)))
}

/// The order of a round: each begins one once in a while, and none has always the same before it.
fn rotated(contenders: &[Contender], round: usize) -> Vec<Contender> {
    let mut order = contenders.to_vec();
    if !order.is_empty() {
        // By half the round, for what is turned around is every second round.
        order.rotate_left(round / 2 % contenders.len());
    }
    if round.is_multiple_of(2) {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const FOUR: [Contender; 4] = [
        Contender::Nothing,
        Contender::Idle,
        Contender::Against,
        Contender::Agent,
    ];

    #[test]
    fn each_has_its_turn_in_each_round_and_comes_first_in_some() {
        let rounds: Vec<_> = (1..=8).map(|round| rotated(&FOUR, round)).collect();
        for order in &rounds {
            assert_eq!(BTreeSet::from_iter(order), BTreeSet::from_iter(&FOUR));
        }
        let first: BTreeSet<_> = rounds.iter().map(|order| order[0]).collect();
        assert_eq!(first.len(), 4, "{first:?}");
    }

    #[test]
    fn none_has_always_the_same_one_before_it() {
        for watching in FOUR {
            let before: BTreeSet<_> = (1..=8)
                .map(|round| rotated(&FOUR, round))
                .filter_map(|order| {
                    let at = order.iter().position(|one| *one == watching)?;
                    order.get(at.checked_sub(1)?).copied()
                })
                .collect();
            assert!(before.len() > 1, "{watching:?} only after {before:?}");
        }
    }

    #[test]
    fn programs_of_one_name_are_counted_as_one() {
        let program = |id, name: &str, time, runs| Program {
            id,
            name: name.into(),
            run_time_ns: time,
            run_cnt: runs,
        };
        let turn = ProbeTurn {
            round: 1,
            layout: Layout::Apart,
            watching: Contender::Agent,
            requests: 10,
            programs: vec![
                program(1, "packet_in", 300, 3),
                program(2, "packet_in", 100, 1),
                program(3, "packet_out", 600, 4),
            ],
        };
        assert_eq!(turn.ns_per_request(), 100.0);
        assert_eq!(turn.program("packet_in"), (400, 4));
        assert_eq!(turn.program("other"), (0, 0));
    }
}
