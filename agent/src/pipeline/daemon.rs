//! One record after the other: decode, identify, observe, count, tell.

mod attaching;
mod brief;
mod counts;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_core::decode::{Record, decode};
use agent_core::event::{Attempt, Event, Request, Upstream};
use agent_core::observation::{Nanos, Observation, What};
use agent_core::open::{GoesThere, OpenFilter};
use agent_core::{Core, Input, Limits, Outstanding, ProcessInfo, ProcessKind};
use agent_wire::record::kind;
use rustc_hash::FxHashMap;

use self::brief::Brief;
use self::counts::core_counts;
use super::coverage;
use crate::attachment::{Attachment, Seen};
use crate::clock::monotonic;
use crate::config::Settings;
use crate::events::EventStream;
use crate::events::shape::{Line, has_failed, is_trouble};
use crate::events::teller::Teller;
use crate::identity::conntrack::Translations;
use crate::identity::kubernetes::Directory;
use crate::identity::locator::Locator;
use crate::incidents::{Incidents, filter};
use crate::kernel::Attention;
use crate::metrics::report::{
    CoreCounts, Coverage, IncidentCounts, RecordCounts, TranslationCounts,
};
use crate::metrics::traffic::{Traffic, UnderWay};
use crate::open::{Found, Question};
use crate::processes::{Identity, Look, Processes, Standing};
use crate::recording::Recorder;

/// How often quiet processes are forgotten, ns.
const FORGET_EVERY_NANOS: Nanos = 10_000_000_000;

/// How often a refused record is logged at most, ns; every one is counted.
const LOG_EVERY_NANOS: Nanos = 10_000_000_000;

/// For how long a bystander is not watched, ns. Too small: it costs as much as a proxy. Too large:
/// one that becomes a proxy is found out late, and a new process with its number is not watched.
const PARKED_NANOS: Nanos = 60_000_000_000;

/// Everything but the source of records.
#[derive(Debug)]
pub(super) struct Daemon {
    core: Core,
    /// Writes down what the core is fed.
    recorder: Option<Recorder>,
    processes: Processes,
    /// `None`: all packets are seen from the start.
    attachment: Option<Attachment>,
    locator: Locator,
    sink: Sink,
    records: RecordCounts,
    coverage: Coverage,
    /// What began before may have been seen in part, and is left aside.
    whole_since: Nanos,
    /// How much of that there was.
    seen_in_part: u64,
    /// Scratch for the core's events.
    events: Vec<Event>,
    /// What the source must learn.
    changes_of_attention: Vec<(u32, Attention)>,
    /// Who is told of in brief.
    brief: Brief,
    /// Bystanders that are not watched, and since when; the first first.
    parked: VecDeque<(Nanos, u32)>,
    forgot: Nanos,
    logged: Nanos,
}

/// Where events go.
#[derive(Debug)]
struct Sink {
    traffic: Traffic,
    stream: EventStream,
    incidents: Incidents,
    teller: Teller,
}

/// What is known when the first record comes.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) processes: Processes,
    pub(super) attachment: Option<Attachment>,
    pub(super) whole_since: Nanos,
}

/// What telling asks who was where.
struct Places<'a> {
    locator: &'a mut Locator,
    processes: &'a Processes,
}

impl Daemon {
    pub(super) fn new(
        settings: &Settings,
        traffic: Traffic,
        stream: EventStream,
        incidents: Incidents,
        recorder: Option<Recorder>,
        known: Known,
    ) -> Self {
        let Known {
            processes,
            attachment,
            whole_since,
        } = known;
        Self {
            core: Core::new(Limits {
                bystander_exchanges: settings.bystander_exchanges,
                ..Limits::default()
            }),
            recorder,
            processes,
            attachment,
            locator: Locator::default(),
            sink: Sink {
                traffic,
                stream,
                incidents,
                teller: Teller::new(settings),
            },
            records: RecordCounts::default(),
            coverage: Coverage::default(),
            whole_since,
            seen_in_part: 0,
            events: Vec::new(),
            changes_of_attention: Vec::new(),
            brief: Brief::new(settings.brief),
            parked: VecDeque::new(),
            forgot: monotonic(),
            logged: 0,
        }
    }

    /// The kernel does not tell of `connect(2)`.
    pub(super) fn connects_unseen(&mut self) {
        self.feed(Input::ConnectsUnseen);
    }

    /// Takes names from there as well.
    pub(super) fn name_by(&mut self, directory: Directory) {
        self.sink.traffic.name_by(directory.clone());
        self.locator.name_by(directory);
    }

    /// Follows translated addresses by that from now on.
    pub(super) fn follow(&mut self, translations: Translations) {
        self.locator.follow(translations);
    }

    /// Hears where connections lead that have begun since the last time.
    pub(super) fn hear_translations(&mut self) -> usize {
        self.locator.hear_translations()
    }

    /// A round begins.
    pub(super) fn begin_round(&mut self) {
        self.locator.begin_round();
    }

    /// What is known of that; `None` when it is not wanted.
    pub(super) fn translations(&self) -> Option<TranslationCounts> {
        self.locator.translations()
    }

    /// Takes one record.
    pub(super) fn record(&mut self, bytes: &[u8], now: Nanos) {
        let slot = RecordCounts::slot(bytes.first().copied());
        self.records.drained[slot] += 1;
        let record = match decode(bytes) {
            Ok(record) => record,
            Err(error) => {
                self.records.refused += 1;
                self.feed(Input::RecordsLost);
                if self.logged == 0 || now.saturating_sub(self.logged) >= LOG_EVERY_NANOS {
                    self.logged = now;
                    tracing::warn!(%error, refused = self.records.refused, "a record was refused");
                }
                return;
            }
        };
        self.records.decoded[slot] += 1;
        match record {
            Record::Observation(observation) => self.observe(observation, now),
            Record::Lookup(lookup) => {
                self.identify(lookup.tgid, now);
                self.feed(Input::LookUp(lookup));
                self.tell(now);
            }
        }
    }

    fn observe(&mut self, observation: Observation, now: Nanos) {
        if observation
            .began()
            .is_some_and(|began| began < self.whole_since)
        {
            self.seen_in_part += 1;
            return;
        }
        // A process that dies is known already, or no connection of its was ever seen.
        match (observation.socket.tgid, &observation.what) {
            (Some(tgid), What::Disturbed) => {
                self.brief.disturbed(tgid, observation.socket.time);
                self.changes_of_attention.push((tgid, Attention::Watch));
            }
            (Some(tgid), What::Death { ended, .. }) => {
                self.locator.saw_end(tgid, *ended, observation.socket.time);
            }
            (Some(tgid), _) => {
                self.identify(tgid, now);
                self.locator.saw(&observation.socket, &self.processes);
            }
            (None, _) => {}
        }
        self.locator
            .saw_opened(&observation.socket, &self.processes);
        match self.notice(&observation, now) {
            Seen::Whole => {}
            Seen::InPart => {
                self.seen_in_part += 1;
                return;
            }
            // What is not seen may be what decides.
            Seen::BesideUnseen => self.feed(Input::RecordsLost),
        }
        self.feed(Input::Observe(observation));
        self.tell(now);
    }

    /// Lets time pass.
    pub(super) fn advance(&mut self, now: Nanos) {
        self.sink.teller.clock.refresh(now);
        self.feed(Input::Advance { now });
        self.tell(now);
        if now.saturating_sub(self.forgot) >= FORGET_EVERY_NANOS {
            self.forgot = now;
            for tgid in self.processes.forget_quiet(now) {
                self.feed(Input::ForgetProcess { tgid });
                self.sink.traffic.set_pod(tgid, None);
                self.changes_of_attention.push((tgid, Attention::Watch));
            }
        }
        self.park(now);
        self.choose_brief(now);
    }

    /// Processes that turned out to be no proxies are not watched for a while.
    fn park(&mut self, now: Nanos) {
        for tgid in self.core.take_bystanders() {
            tracing::debug!(
                tgid,
                "is no proxy: its connections are not looked at for a while"
            );
            if let Some(attachment) = &mut self.attachment {
                attachment.is_no_proxy(tgid);
            }
            self.parked.push_back((now, tgid));
            self.changes_of_attention.push((tgid, Attention::Park));
        }
        let is_over = |(since, _): &mut (Nanos, u32)| now.saturating_sub(*since) >= PARKED_NANOS;
        while let Some((_, tgid)) = self.parked.pop_front_if(is_over) {
            self.feed(Input::LookAgain { tgid });
            if let Some(attachment) = &mut self.attachment {
                attachment.may_be_proxy(tgid, now, &self.processes);
            }
            self.changes_of_attention.push((tgid, Attention::Watch));
        }
    }

    /// Ends what is under way.
    pub(super) fn finish(&mut self, now: Nanos) {
        self.feed(Input::Finish);
        self.tell(now);
    }

    /// Brings the gauges of attempts under way up to date.
    pub(super) fn show_under_way(&mut self, now: Nanos) {
        let Self { core, sink, .. } = self;
        let under_way = core.outstanding().map(|one| {
            let Outstanding {
                proxy,
                upstream,
                count,
                oldest,
            } = one;
            UnderWay {
                proxy,
                upstream,
                requests: u64::try_from(count).unwrap_or(u64::MAX),
                oldest_seconds: Duration::from_nanos(now.saturating_sub(oldest)).as_secs_f64(),
            }
        });
        sink.traffic.set_under_way(under_way, now);
    }

    /// What is under way now.
    pub(super) fn open(&self, question: &Question, now: Nanos) -> Found {
        let Question {
            proxy,
            upstream,
            min_age,
            limit,
        } = question;
        let filter = OpenFilter {
            now,
            min_age: u64::try_from(min_age.as_nanos()).unwrap_or(Nanos::MAX),
            proxy: proxy.as_deref(),
            limit: *limit,
        };
        let called = upstream.as_deref().map(|name| self.is_called(name));
        let goes_there = called.as_ref().map(|is_called| is_called as GoesThere<'_>);
        let list = self.core.open(&filter, goes_there);
        let whereabouts = list.open.iter();
        let whereabouts = whereabouts.map(|one| self.locator.of_open(one, &self.processes));
        let stats = self.core.stats();
        Found {
            whereabouts: whereabouts.collect(),
            list,
            now,
            clock: self.sink.teller.clock,
            unread_clients: stats.unread_clients,
            swept: stats.request_ledger.swept,
        }
    }

    /// Whether a connection, by its cookie, to an upstream goes to what is called so. What it asks of an
    /// upstream it asks once.
    fn is_called(&self, name: &str) -> impl Fn(u64, &Upstream) -> bool {
        let names = self.sink.incidents.names();
        let endpoint = name.parse::<SocketAddr>().ok();
        let known: RefCell<FxHashMap<Upstream, bool>> = RefCell::default();
        move |cookie, upstream| {
            if endpoint.is_some() && self.locator.endpoint(cookie) == endpoint {
                return true;
            }
            if let Some(is_called) = known.borrow().get(upstream) {
                return *is_called;
            }
            let service = match upstream {
                Upstream::Inet(address) => self.locator.service_name(*address),
                Upstream::Unix(_) | Upstream::Unknown => None,
            };
            let is_called =
                service.as_deref() == Some(name) || filter::is_called(upstream, name, names);
            known.borrow_mut().insert(upstream.clone(), is_called);
            is_called
        }
    }

    /// What the source must learn: how to attend to which process.
    pub(super) fn take_changes_of_attention(&mut self) -> Vec<(u32, Attention)> {
        std::mem::take(&mut self.changes_of_attention)
    }

    /// Records so far.
    pub(super) fn records(&self) -> RecordCounts {
        self.records
    }

    /// Errors seen and explained so far.
    pub(super) fn coverage(&self) -> Coverage {
        Coverage {
            unread_clients: self.core.stats().unread_clients,
            ..self.coverage
        }
    }

    /// The event stream.
    pub(super) fn stream(&self) -> &EventStream {
        &self.sink.stream
    }

    /// The store of incidents.
    pub(super) fn incidents(&self) -> IncidentCounts {
        self.sink.incidents.counts()
    }

    /// What the core holds, lost and left aside.
    pub(super) fn core(&self) -> CoreCounts {
        let mut counts = core_counts(self.core.stats());
        counts.skips.push(("seen_in_part", self.seen_in_part));
        counts
    }

    /// The ring was full: what is under way may lack something.
    pub(super) fn records_lost(&mut self) {
        self.feed(Input::RecordsLost);
    }

    /// The only way into the core, so that a recording has all of it.
    fn feed(&mut self, input: Input) {
        if let Some(recorder) = &mut self.recorder {
            recorder.note(&input);
        }
        self.core.feed(input, &mut self.events);
    }

    fn identify(&mut self, tgid: u32, now: Nanos) {
        match self.processes.look(tgid, now) {
            Look::Fresh => {}
            Look::Same(identity) => self.feed(Input::KnowProcess {
                tgid,
                info: info(identity),
            }),
            Look::New(identity) => {
                let attention = match identity.standing {
                    Standing::Excluded => Attention::Ignore,
                    Standing::Gateway | Standing::Undecided => Attention::Watch,
                };
                self.changes_of_attention.push((tgid, attention));
                if let Some(attachment) = &mut self.attachment {
                    attachment.meets(tgid, identity.standing, now, &self.processes);
                }
                self.sink
                    .traffic
                    .set_pod(tgid, identity.ids.pod_uid.clone());
                self.feed(Input::ForgetProcess { tgid });
                self.feed(Input::KnowProcess {
                    tgid,
                    info: info(identity),
                });
            }
        }
    }

    fn tell(&mut self, now: Nanos) {
        let Self {
            sink,
            events,
            coverage,
            locator,
            processes,
            ..
        } = self;
        sink.traffic.renew_names();
        for event in events.iter() {
            sink.traffic.record(event, now);
            for attempt in event.attempts() {
                locator.met(attempt, processes);
            }
            match event {
                Event::Request(request) => coverage::count(coverage, request),
                Event::Tls(done) => locator.saw_tls(done, processes),
                Event::LoneAttempt(_)
                | Event::Connect(_)
                | Event::Reset(_)
                | Event::Tcp(_)
                | Event::Check(_) => {}
            }
        }
        let mut places = Places { locator, processes };
        sink.tell(events, &mut places);
        events.clear();
    }
}

impl Sink {
    /// Keeps incidents, and sends what readers of the stream want to see: the requests of a round, and
    /// behind them the attempts that none of them brought.
    fn tell(&self, events: &[Event], places: &mut Places<'_>) {
        for event in events {
            if let Event::Request(request) = event {
                self.tell_request(request, places);
            }
        }
        for event in events {
            if let Event::LoneAttempt(attempt) = event {
                self.tell_attempt(attempt, places);
            }
        }
    }

    fn tell_request(&self, request: &Arc<Request>, places: &mut Places<'_>) {
        let trouble = is_trouble(request);
        let wanted = self.stream.is_wanted(trouble);
        if !trouble && !wanted {
            return;
        }
        let Places { locator, processes } = places;
        let whereabouts = locator.of_request(request, processes);
        let id = if trouble {
            self.incidents
                .keep(request, whereabouts.clone(), &self.teller)
        } else {
            None
        };
        if wanted {
            let shape = self.teller.request(request, &whereabouts, id);
            self.stream.send(trouble, Line::Request(Box::new(shape)));
        }
    }

    fn tell_attempt(&self, attempt: &Attempt, places: &mut Places<'_>) {
        let trouble = has_failed(attempt);
        if self.stream.is_wanted(trouble) {
            let Places { locator, processes } = places;
            let whereabouts = locator.of_attempt(attempt, processes);
            let shape = self.teller.attempt(attempt, &whereabouts);
            self.stream.send(trouble, Line::Attempt(Box::new(shape)));
        }
    }
}

fn info(identity: Identity) -> ProcessInfo {
    let Identity {
        name,
        program,
        standing,
        ids: _,
        cgroup: _,
        netns,
        instance,
    } = identity;
    let kind = match standing {
        Standing::Gateway => ProcessKind::Known,
        Standing::Undecided => ProcessKind::Unknown,
        Standing::Excluded => ProcessKind::Excluded,
    };
    ProcessInfo {
        name,
        program,
        kind,
        network: netns,
        instance,
    }
}

// A record's first byte is its kind; the counts are by kind.
const _: () = assert!(kind::COUNT < 256);
