//! The kernel counts what BPF programs run and take.

use std::fs;

/// The switch.
const BPF_STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// It counts while this lives.
#[derive(Debug)]
pub struct Counting {
    before: String,
}

impl Counting {
    /// From now on.
    #[track_caller]
    pub fn begin() -> Self {
        let before = fs::read_to_string(BPF_STATS)
            .unwrap_or_else(|error| panic!("cannot read {BPF_STATS}: {error}"));
        fs::write(BPF_STATS, "1")
            .unwrap_or_else(|error| panic!("cannot write {BPF_STATS}: {error}"));
        Self { before }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(BPF_STATS, &self.before) {
            eprintln!("{BPF_STATS} stays 1: {error}");
        }
    }
}
