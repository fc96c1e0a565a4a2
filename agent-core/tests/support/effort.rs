//! How long a fuzz target runs, and what it says about it.
//!
//! In: `WHY502_FUZZ_SEED`, and `WHY502_FUZZ_RUNS` or `WHY502_FUZZ_SECONDS`. Out: a line with the
//! seed at the start, and one with the number of executions at the end.

use std::time::{Duration, Instant};

/// The seed when nothing else is said.
const SEED: u64 = 0x5eed_0502;

/// One run of one target.
pub(crate) struct Effort {
    target: String,
    seed: u64,
    runs: u64,
    time: Option<Duration>,
    started: Instant,
    done: u64,
}

impl Effort {
    /// `runs` executions, unless the environment says otherwise.
    pub(crate) fn new(target: &str, runs: u64) -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let effort = Self {
            target: target.to_owned(),
            seed: number("WHY502_FUZZ_SEED").unwrap_or(SEED),
            runs: number("WHY502_FUZZ_RUNS").unwrap_or(runs),
            time: number("WHY502_FUZZ_SECONDS").map(Duration::from_secs),
            started: Instant::now(),
            done: 0,
        };
        println!("fuzzing {target}: WHY502_FUZZ_SEED={}", effort.seed);
        effort
    }

    /// What random choices begin with.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether to execute once more.
    pub(crate) fn goes_on(&mut self) -> bool {
        let more = match self.time {
            Some(time) => self.started.elapsed() < time,
            None => self.done < self.runs,
        };
        if more {
            self.done += 1;
        } else {
            println!(
                "fuzzed {}: {} executions in {:.1} s",
                self.target,
                self.done,
                self.started.elapsed().as_secs_f64()
            );
        }
        more
    }
}
