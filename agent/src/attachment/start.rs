//! Processes that were there before the agent, or came when the kernel did not say which.

use std::fs;

use agent_core::observation::Nanos;

use super::Attachment;
use super::upstreams::Asked;
use crate::identity::sockets::connected;
use crate::processes::{Processes, Standing};

/// Processes looked at. Fewer: on a crowded host a proxy is found by what it does alone. More: a longer
/// start, 50 us each.
const MAX_PROCESSES: usize = 16_384;

impl Attachment {
    /// Looks at every process: whether it is a proxy by its name, or serves and has connected.
    pub(super) fn look_at_all(&mut self, processes: &Processes, now: Nanos) {
        let Some(proc) = processes.proc() else {
            return;
        };
        let entries = fs::read_dir(proc).into_iter().flatten().flatten();
        let tgids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for tgid in tgids.take(MAX_PROCESSES) {
            if self.wants.get(&tgid).is_some_and(|want| want.is_proxy) {
                continue;
            }
            let identity = processes.identify(tgid);
            let leads = match identity.standing {
                Standing::Excluded => continue,
                Standing::Gateway => connected(proc, tgid),
                Standing::Undecided if !self.serving.serves(tgid, processes) => continue,
                Standing::Undecided => connected(proc, tgid),
            };
            if identity.standing == Standing::Undecided && leads.is_empty() {
                continue;
            }
            self.want_proxy(tgid, now, processes);
            if !self.wants.contains_key(&tgid) {
                continue;
            }
            for at in leads {
                let asked = Asked {
                    from: identity.netns,
                    at,
                };
                self.talks_to(tgid, asked, now, processes);
            }
        }
    }
}
