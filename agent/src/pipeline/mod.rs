//! The one task that owns probes and core.
//!
//! In: records. Out: series, lines of the event stream, incidents, the agent's own state. A round
//! drains the ring of what was in it when the round began, looks whether anything was lost, decodes, tells
//! the core who the processes are, counts what the core tells, and lets the core's time pass. Questions are
//! answered between two rounds. Records in are records decoded
//! plus records refused, at every moment.

mod coverage;
mod daemon;
mod gathered;
mod questions;
mod slice;
mod source;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::daemon::{Daemon, Known};
use self::gathered::Gathered;
use self::questions::Ask;
#[cfg(test)]
pub(crate) use self::questions::answered;
pub use self::questions::{Asked, Questions, questions};
use self::slice::Slice;
pub use self::source::Source;
use crate::attachment::Attachment;
use crate::clock;
use crate::config::Settings;
use crate::events::EventStream;
use crate::identity::conntrack::Translations;
use crate::identity::kubernetes::Directory;
use crate::incidents::Incidents;
use crate::kernel::Attention;
use crate::metrics::report::{Map, Program, Report, ServiceCounts, Snapshot};
use crate::metrics::traffic::Traffic;
use crate::processes::Processes;
use crate::recording::Recorder;
use agent_core::observation::Nanos;
use agent_wire::record::kind;
use agent_wire::tally::{self, Tally};

/// Time between two rounds where there is much to do. Longer: a burst needs a larger ring.
/// Shorter: the agent wakes more often for nothing.
const ROUND: Duration = Duration::from_millis(20);

/// The same where there is not, which is come to by doubling. Longer: errors are told later. Shorter:
/// each record costs more, for what it needs is in no cache any more.
const LONGEST_ROUND: Duration = Duration::from_millis(80);

/// What a round did.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Records that it took in, or connections that it was told of, whichever were more.
    taken: usize,
    /// More had come meanwhile.
    more: bool,
}

impl Round {
    /// For how long nothing need be done after it; `before` it was that.
    fn pause(self, before: Duration) -> Duration {
        if self.more {
            Duration::ZERO
        } else if self.taken >= slice::RECORDS {
            ROUND
        } else {
            (2 * before).clamp(ROUND, LONGEST_ROUND)
        }
    }
}

/// What is under way for this long is taken in although its head is held back, ns: it may go on for minutes.
const OLD: Nanos = 1_000_000_000;

/// Losses of the probes after which an attempt or a request may be missing.
const MISSING: [Tally; 4] = [
    Tally::STORAGE_FAILED,
    Tally::CONNECTING_FULL,
    Tally::SCRATCH_BUSY,
    Tally::STATE_MISSED,
];

/// What the capability is called that names from Kubernetes are there.
const KUBERNETES: &str = "kubernetes";

/// What the capability is called that connection tracking is heard.
const CONNTRACK: &str = "conntrack";

/// Where the pipeline puts what it finds out.
#[derive(Debug)]
pub struct Sinks {
    /// Series.
    pub traffic: Traffic,
    /// The agent's own state.
    pub report: Report,
    /// Lines.
    pub stream: EventStream,
    /// What happened last.
    pub incidents: Incidents,
    /// Connections the exporter turned away.
    pub turned_away: Arc<AtomicU64>,
    /// What the core is fed.
    pub recorder: Option<Recorder>,
    /// Names from Kubernetes, where the operator wants them.
    pub directory: Option<Directory>,
    /// Where translated addresses lead, where the operator wants that.
    pub translations: Option<Translations>,
    /// Who is which proxy.
    pub processes: Processes,
    /// At which cgroups packets are seen; `None`: at all from the start.
    pub attachment: Option<Attachment>,
}

/// Records to everything else.
#[derive(Debug)]
pub struct Pipeline<S> {
    source: S,
    daemon: Daemon,
    report: Report,
    slice: Slice,
    gathered: Gathered,
    losses: LossWatch,
    turned_away: Arc<AtomicU64>,
    directory: Option<Directory>,
}

/// Notices when the probes lost something, so that the core claims no proof from what is left.
#[derive(Debug, Default)]
struct LossWatch {
    lost: u64,
    /// They did in this round.
    fresh: bool,
}

impl<S: Source> Pipeline<S> {
    /// Nothing drained yet. The agent's own process is left alone.
    pub fn new(mut source: S, settings: &Settings, sinks: Sinks) -> Self {
        let Sinks {
            traffic,
            report,
            stream,
            incidents,
            turned_away,
            recorder,
            directory,
            translations,
            processes,
            attachment,
        } = sinks;
        if let Err(error) = source.attend(std::process::id(), Attention::Ignore) {
            tracing::warn!(%error, "the agent cannot ignore its own connections: scrapes of it will be watched");
        }
        let whole_since = source.whole_since();
        let known = Known {
            processes,
            attachment,
            whole_since,
        };
        let mut daemon = Daemon::new(settings, traffic, stream, incidents, recorder, known);
        let mut abilities = source.capabilities().iter();
        if abilities.any(|one| one.name == "connect_errno" && !one.available) {
            daemon.connects_unseen();
        }
        if let Some(directory) = &directory {
            daemon.name_by(directory.clone());
        }
        if let Some(translations) = translations {
            daemon.follow(translations);
        }
        let pipeline = Self {
            source,
            daemon,
            report,
            slice: Slice::default(),
            gathered: Gathered::default(),
            losses: LossWatch::default(),
            turned_away,
            directory,
        };
        pipeline.report();
        pipeline
    }

    /// Runs rounds until `stop` is ready, then drains and finishes.
    pub async fn run(mut self, mut asked: Asked, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut pause = ROUND;
        loop {
            let question = tokio::select! {
                () = self.source.wait(pause) => None,
                question = asked.next() => Some(question),
                () = &mut stop => break,
            };
            pause = self.round().pause(pause);
            match question {
                None => {}
                Some(Ask::Refresh(scrapes)) => {
                    self.take_in_held();
                    self.daemon.show_under_way(clock::monotonic());
                    self.report();
                    scrapes.done();
                }
                // One each round: however many ask, records wait for one answer at most.
                Some(Ask::Open(open)) => {
                    self.take_in_held();
                    open.answer(|question| self.daemon.open(question, clock::monotonic()))
                }
            }
        }
        self.round();
        self.take_in_held();
        self.daemon.finish(clock::monotonic());
        self.report();
    }

    /// Takes in what is in the ring, and what is told of connections. What comes meanwhile waits for the
    /// next round: where records come faster than they are taken in, time would not pass for the core, and
    /// nobody's question would be answered.
    fn round(&mut self) -> Round {
        // Taken before the drain: what happened before it is in the ring by now.
        let now = clock::monotonic();
        let Self {
            source,
            daemon,
            slice,
            gathered,
            losses,
            ..
        } = self;
        // When a loss of the last round was is known no better than that it was before this one.
        let mut lost = std::mem::take(&mut losses.fresh);
        let mut looked = false;
        let (mut records, mut heard, mut more) = (0, 0, false);
        // Until when records belong to this round, and whether something went wrong in it.
        let (mut until, mut is_disturbed) = (now, false);
        let lingers = daemon.lingers();
        daemon.begin_round();
        daemon.hear_servers(source, now);
        loop {
            let filled = slice.fill(source);
            if filled || !looked {
                looked = true;
                lost |= losses.grew(source);
            }
            if std::mem::take(&mut lost) {
                daemon.records_lost();
            }
            // Taken after the slice: of whatever connection a record tells, its translation was
            // told before. And without records too: connections of others begin all the time.
            heard += daemon.hear_translations();
            if !filled {
                break;
            }
            for record in slice.records() {
                records += 1;
                if lingers.is_none() {
                    // No later record changes what this one says: it need not be copied once more.
                    daemon.record(record, now);
                    continue;
                }
                gathered.add(record);
                if !is_disturbed && slice::kind_of(record) == Some(kind::DISTURBED) {
                    // What ends meanwhile is in the ring after that.
                    gathered.add_held(source, Nanos::MAX);
                    (until, is_disturbed) = (clock::monotonic(), true);
                }
            }
            if slice.is_past(until) {
                more = true;
                break;
            }
        }
        let known = if is_disturbed {
            gathered.recall(source);
            gathered.in_order(|record| daemon.record(record, now));
            now
        } else {
            let waits = lingers.map(|time| now.saturating_sub(time));
            let until = waits.unwrap_or(Nanos::MAX);
            gathered.until(until, |record| daemon.record(record, now));
            waits.unwrap_or(now)
        };
        if !is_disturbed && daemon.looks_what_is_under_way(now) {
            let mut held = Gathered::default();
            held.add_held(source, now.saturating_sub(OLD));
            held.in_order(|record| daemon.record(record, now));
        }
        daemon.settle(source, now);
        daemon.advance(known);
        for (tgid, attention) in daemon.take_changes_of_attention() {
            if let Err(error) = source.attend(tgid, attention) {
                tracing::warn!(tgid, %error, "a process is still watched by the probes");
            }
        }
        Round {
            taken: records.max(heard),
            more,
        }
    }

    /// Takes in all that waits, and the heads of what is under way that are held back.
    fn take_in_held(&mut self) {
        let Self {
            source,
            daemon,
            gathered,
            ..
        } = self;
        if daemon.lingers().is_some() {
            let now = clock::monotonic();
            gathered.add_held(source, now);
            gathered.in_order(|record| daemon.record(record, now));
        }
    }

    fn report(&self) {
        let Self {
            source,
            daemon,
            report,
            slice: _,
            gathered: _,
            losses: _,
            turned_away,
            directory,
        } = self;
        let tallies = source.tallies().unwrap_or_else(|error| {
            tracing::warn!(%error, "the probes' counters cannot be read");
            report.get().tallies
        });
        let programs = source.programs().into_iter().map(|cost| Program {
            name: cost.name,
            runs: cost.runs,
            seconds: Duration::from_nanos(cost.nanos).as_secs_f64(),
            verified_instructions: cost.verified_instructions,
        });
        let maps = source.maps().into_iter().map(|map| Map {
            name: map.name,
            max_entries: map.max_entries,
            bytes: map.bytes,
        });
        let stream = daemon.stream();
        let translations = daemon.translations();
        let abilities = source
            .capabilities()
            .iter()
            .map(|ability| (ability.name, ability.available))
            .chain(
                directory
                    .iter()
                    .map(|directory| (KUBERNETES, directory.is_current())),
            )
            .chain(
                translations
                    .iter()
                    .map(|translations| (CONNTRACK, translations.is_available)),
            );
        report.set(Snapshot {
            capabilities: abilities.collect(),
            tallies,
            records: daemon.records(),
            core: daemon.core(),
            coverage: daemon.coverage(),
            programs: programs.collect(),
            maps: maps.collect(),
            incidents: daemon.incidents(),
            attachment: daemon.attachment(),
            translations,
            directory: directory.as_ref().map(Directory::counts),
            service: ServiceCounts {
                subscribers: u64::try_from(stream.readers()).unwrap_or(u64::MAX),
                lagged: stream.lagged(),
                turned_away: turned_away.load(Ordering::Relaxed),
            },
        });
    }
}

impl LossWatch {
    /// Whether records were lost since the last look.
    fn grew(&mut self, source: &impl Source) -> bool {
        let kinds = (0..).take(kind::COUNT).map(|kind| tally::RING_FULL + kind);
        let missing = MISSING.iter().map(|Tally(slot)| *slot);
        let lost: Result<u64, _> = kinds.chain(missing).map(|slot| source.tally(slot)).sum();
        // Counters that cannot be read may have grown.
        let grew = lost.as_ref().map_or(true, |lost| *lost > self.lost);
        self.lost = lost.unwrap_or(self.lost);
        self.fresh |= grew;
        grew
    }
}
