//! What is known of the end of an attempt from elsewhere than its own connection.
//!
//! In: the upstream's end of the connection, if it is on this host; other attempts that waited;
//! health checks; clients whose talk is not read. Out: [`Around`], which the rules look at.

use super::Core;
use crate::around::Around;
use crate::attempt::Trial;
use crate::event::Failure;
use crate::routes::Instance;
use crate::transport::ClosedBy;

impl Core {
    /// Gathers what is known of the end of an attempt.
    pub(super) fn look_around(&self, trial: &mut Trial) {
        // Nothing is asked of what went well.
        if trial.is_complete() && !trial.answer.interim && !trial.is_until_close() {
            return;
        }
        let habits = self.processes.habits(trial.tgid);
        let mut around = Around {
            timeout_code: habits.timeout_code,
            refuses_interim: habits.refuses_interim,
            ..Around::default()
        };
        let network = self.processes.network(trial.tgid);
        self.peers.ask(trial, network, &mut around);
        let by_proxy = trial.closed_by() == ClosedBy::Local;
        if by_proxy {
            around.client_left = self.departures.of_client(trial, habits);
        }
        if let Some(instance) = self.instance_of(trial) {
            let (upstream, ended) = (&trial.upstream, trial.ended);
            let failed_check = || self.upstreams.failed_before(instance, upstream, ended);
            around.check_failed = by_proxy && failed_check().is_some();
            around.others = self.upstreams.others(instance, trial);
        }
        trial.around = Some(Box::new(around));
    }

    /// Remembers how long the attempt waited for an answer.
    pub(super) fn keep_patience(&mut self, trial: &Trial, failure: Option<Failure>) {
        if let Some(instance) = self.instance_of(trial) {
            self.upstreams.waited(instance, trial, failure);
        }
    }

    /// Looks through the attempts under way for those that still wait.
    pub(super) fn look_who_waits(&mut self) {
        let Self {
            exchanges,
            processes,
            upstreams,
            pace,
            ..
        } = self;
        let under_way = exchanges
            .under_way()
            .filter_map(|trial| Some((processes.instance(trial.tgid?), trial)));
        upstreams.still_wait(under_way, pace.now());
    }

    /// The instance of a proxy that made the attempt.
    pub(super) fn instance_of(&self, trial: &Trial) -> Option<Instance> {
        trial.tgid.map(|tgid| self.processes.instance(tgid))
    }
}
