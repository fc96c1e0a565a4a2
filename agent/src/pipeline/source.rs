//! Where records come from: the kernel, or a test.

use std::time::Duration;

use agent_core::observation::Nanos;

use crate::attachment::Attaches;
use crate::kernel::{Attention, Capability, KernelError, MapUse, Probes, ProgramCost};

/// A source of records and of what they cost.
pub trait Source: Attaches {
    /// Waits until there is something worth draining, `at_most` so long.
    fn wait(&self, at_most: Duration) -> impl Future<Output = ()>;
    /// Since when nothing passes unseen: what began before may have been seen in part.
    fn whole_since(&self) -> Nanos;
    /// Hands out the records that wait, oldest first and `at_most` so many; how many.
    fn drain(&mut self, at_most: usize, each: impl FnMut(&[u8])) -> usize;
    /// Hands out the heads of exchanges under way that are held back: records, in no order.
    ///
    /// # Errors
    /// They cannot be read.
    fn held(&self, each: impl FnMut(&[u8])) -> Result<(), KernelError>;
    /// Hands out the heads of an exchange that was reported in brief a moment ago, by its
    /// cookie and index, if nothing has taken their place.
    ///
    /// # Errors
    /// They cannot be read.
    fn ended(&self, cookie: u64, index: u32, each: impl FnMut(&[u8])) -> Result<(), KernelError>;
    /// Hands out processes that began to listen, and when, 0 for one that is not known. False when some
    /// were left out.
    fn take_serving(&mut self, each: impl FnMut(Nanos, u32)) -> bool;
    /// The kernel side's counters.
    ///
    /// # Errors
    /// They cannot be read.
    fn tallies(&self) -> Result<Vec<u64>, KernelError>;
    /// One of them.
    ///
    /// # Errors
    /// It cannot be read.
    fn tally(&self, slot: u32) -> Result<u64, KernelError>;
    /// Cost by program.
    fn programs(&self) -> Vec<ProgramCost>;
    /// Use by map.
    fn maps(&self) -> Vec<MapUse>;
    /// What is on and off.
    fn capabilities(&self) -> &[Capability];
    /// Attends to a process in this way from now on.
    ///
    /// # Errors
    /// The list of those that are not watched is full.
    fn attend(&mut self, tgid: u32, attention: Attention) -> Result<(), KernelError>;
}

impl Source for Probes {
    async fn wait(&self, at_most: Duration) {
        Probes::wait(self, at_most).await;
    }

    fn whole_since(&self) -> Nanos {
        Probes::whole_since(self)
    }

    fn drain(&mut self, at_most: usize, each: impl FnMut(&[u8])) -> usize {
        Probes::drain(self, at_most, each)
    }

    fn held(&self, each: impl FnMut(&[u8])) -> Result<(), KernelError> {
        Probes::held(self, each)
    }

    fn ended(&self, cookie: u64, index: u32, each: impl FnMut(&[u8])) -> Result<(), KernelError> {
        Probes::ended(self, cookie, index, each)
    }

    fn take_serving(&mut self, each: impl FnMut(Nanos, u32)) -> bool {
        Probes::take_serving(self, each)
    }

    fn tallies(&self) -> Result<Vec<u64>, KernelError> {
        Probes::tallies(self)
    }

    fn tally(&self, slot: u32) -> Result<u64, KernelError> {
        Probes::tally(self, slot)
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

    fn attend(&mut self, tgid: u32, attention: Attention) -> Result<(), KernelError> {
        Probes::attend(self, tgid, attention)
    }
}
