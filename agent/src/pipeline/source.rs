//! Where records come from: the kernel, or a test.

use std::time::Duration;

use crate::kernel::{Capability, KernelError, MapUse, Probes, ProgramCost};

/// A source of records and of what they cost.
pub trait Source {
    /// Waits until there is something worth draining, `at_most` so long.
    fn wait(&self, at_most: Duration) -> impl Future<Output = ()>;
    /// Hands out all records that wait.
    fn drain(&mut self, each: impl FnMut(&[u8])) -> usize;
    /// The kernel side's counters.
    ///
    /// # Errors
    /// They cannot be read.
    fn tallies(&self) -> Result<Vec<u64>, KernelError>;
    /// Cost by program.
    fn programs(&self) -> Vec<ProgramCost>;
    /// Use by map.
    fn maps(&self) -> Vec<MapUse>;
    /// What is on and off.
    fn capabilities(&self) -> &[Capability];
    /// Leaves a process alone.
    ///
    /// # Errors
    /// The list is full.
    fn ignore_process(&mut self, tgid: u32) -> Result<(), KernelError>;
    /// Takes that back.
    fn watch_process(&mut self, tgid: u32);
}

impl Source for Probes {
    async fn wait(&self, at_most: Duration) {
        Probes::wait(self, at_most).await;
    }

    fn drain(&mut self, each: impl FnMut(&[u8])) -> usize {
        Probes::drain(self, each)
    }

    fn tallies(&self) -> Result<Vec<u64>, KernelError> {
        Probes::tallies(self)
    }

    fn programs(&self) -> Vec<ProgramCost> {
        Probes::programs(self)
    }

    fn maps(&self) -> Vec<MapUse> {
        Probes::maps(self)
    }

    fn capabilities(&self) -> &[Capability] {
        Probes::capabilities(self)
    }

    fn ignore_process(&mut self, tgid: u32) -> Result<(), KernelError> {
        Probes::ignore_process(self, tgid)
    }

    fn watch_process(&mut self, tgid: u32) {
        Probes::watch_process(self, tgid);
    }
}
