//! How the running process ends, as the kernel keeps it.

use super::facts::PROCESS;
use super::{read_kernel, task, try_read_kernel};

/// How the running process ends.
#[derive(Clone, Copy)]
pub(crate) struct Ending {
    task: u64,
    /// `struct signal_struct *`: what the threads of a process share.
    shared: u64,
}

impl Ending {
    /// `None` while any thread of it still runs, and where that cannot be known.
    #[inline(always)]
    pub(crate) fn of_the_running_process() -> Option<Self> {
        let (signal, live) = (PROCESS[0].load(), PROCESS[3].load());
        if signal == 0 || live == 0 {
            return None;
        }
        let task = task();
        let shared = read_kernel(task.wrapping_add(u64::from(signal)));
        match try_read_kernel(shared.wrapping_add(u64::from(live))) {
            Some(threads) if threads as u32 == 0 => Some(Self { task, shared }),
            _ => None,
        }
    }

    /// As its parent will get it (wait(2)).
    #[inline(always)]
    pub(crate) fn wait_status(self) -> u32 {
        read_kernel(self.task.wrapping_add(u64::from(PROCESS[1].load()))) as u32
    }

    /// Its thread group. Not every program may ask the kernel for it.
    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        read_kernel(self.task.wrapping_add(u64::from(PROCESS[2].load()))) as u32
    }

    /// The kernel chose it to be killed for want of memory (`mark_oom_victim`, mm/oom_kill.c).
    #[inline(always)]
    pub(crate) fn is_for_memory(self) -> bool {
        let at = PROCESS[4].load();
        at != 0 && read_kernel(self.shared.wrapping_add(u64::from(at))) != 0
    }
}
