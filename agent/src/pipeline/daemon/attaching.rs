//! What the daemon has to do with where packets are seen.

use agent_core::Input;
use agent_core::observation::{Nanos, Observation};

use super::super::Source;
use super::Daemon;
use crate::attachment::{Attachment, Seen};
use crate::metrics::report::AttachmentCounts;

impl Daemon {
    /// What of that was seen.
    pub(super) fn notice(&mut self, observation: &Observation, now: Nanos) -> Seen {
        let Some(attachment) = &mut self.attachment else {
            return Seen::Whole;
        };
        let asked = self.locator.leads_to(&observation.socket);
        let seen = attachment.notices(observation, asked, now, &self.processes);
        for found in attachment.take_found() {
            self.identify(found.proxy, now);
            self.identify(found.server, now);
            self.locator.found(found, &self.processes);
        }
        seen
    }

    /// Hears which processes began to listen.
    pub(in crate::pipeline) fn hear_servers(&mut self, source: &mut impl Source, now: Nanos) {
        let Self {
            attachment: Some(attachment),
            processes,
            ..
        } = self
        else {
            return;
        };
        let all = source.take_serving(|at, tgid| attachment.begins_to_serve(tgid, at, processes));
        if !all {
            attachment.begins_to_serve(0, now, processes);
        }
    }

    /// Has the source see packets where they are wanted now.
    pub(in crate::pipeline) fn settle(&mut self, source: &mut impl Source, now: Nanos) {
        let Some(attachment) = &mut self.attachment else {
            return;
        };
        attachment.advance(now, &self.processes);
        if attachment.settle(source) {
            // Of a request that is under way, an attempt may have been made before.
            self.feed(Input::RecordsLost);
        }
    }

    /// At which cgroups packets are seen.
    pub(in crate::pipeline) fn attachment(&self) -> Option<AttachmentCounts> {
        self.attachment.as_ref().map(Attachment::counts)
    }
}
