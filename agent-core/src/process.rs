//! Processes: which of them are proxies.
//!
//! A process that the daemon calls known is a proxy. One that it does not know becomes a
//! proxy by what it does: a request it sent upstream was joined, by the thread's errand and
//! by its request line, to a request one of its clients had sent.

use std::sync::Arc;

use crate::event::Proxy;
use crate::network::Network;
use crate::observation::{Nanos, Talk};
use crate::proxies::Habits;
use crate::routes::Instance;
use crate::table::{Key, Table};

/// What the daemon found out about a process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ProcessInfo {
    /// Name for labels, from the executable or the configuration.
    pub name: Arc<str>,
    /// What program it is, whatever its label: "nginx", "haproxy", "httpd", "envoy", "caddy",
    /// "traefik", "varnish" and so on. Some verdicts need a number of that program.
    pub program: Arc<str>,
    /// What the daemon makes of it.
    pub kind: ProcessKind,
    /// Its network namespace, if known.
    #[cfg_attr(feature = "serde", serde(default))]
    pub network: Option<Network>,
    /// Which instance of the program it belongs to, if known: a master process and its workers are
    /// one.
    #[cfg_attr(feature = "serde", serde(default))]
    pub instance: Option<u64>,
}

/// Whether a process is a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum ProcessKind {
    /// It is one.
    Known,
    /// To be found out by what it does.
    Unknown,
    /// It is none, or not to be watched.
    Excluded,
}

#[derive(Debug)]
struct Process {
    info: ProcessInfo,
    habits: Habits,
    acts_as_proxy: bool,
    /// It sent what a client had asked for.
    forwards: bool,
    /// Exchanges told of it while it was no proxy.
    foreign: u32,
    /// Connections of its clients that were not read, while it was no proxy.
    unread_clients: UnreadClients,
    /// There were some.
    has_unread_clients: bool,
    /// When it last read from a connection that is not read here, for it began before the agent, and
    /// that it may have opened itself.
    read_from_before: Option<Nanos>,
    /// When something last went wrong there, and when it last did what is told whole to be understood.
    went_wrong: Nanos,
    was_special: Option<Nanos>,
    /// Its latest attempt whose request is known: when it began, and the request.
    latest_attempt: Option<(Nanos, Key)>,
    last_used: Nanos,
}

/// Connections that clients opened and that are not read, by what is spoken on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnreadClients {
    /// TLS.
    pub tls: u64,
    /// HTTP/2 in clear text.
    pub http2: u64,
    /// Something else than HTTP.
    pub other: u64,
    /// Those that began before the agent, of which it is not known who opened them.
    pub before_agent: u64,
}

/// Every process the core was told of.
#[derive(Debug)]
pub(crate) struct Processes {
    table: Table<u32, Process>,
    /// Those of proxies.
    unread_clients: UnreadClients,
}

impl Processes {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            table: Table::new(limit),
            unread_clients: UnreadClients::default(),
        }
    }

    /// Connections of clients of proxies that are not read.
    pub(crate) fn unread_clients(&self) -> UnreadClients {
        self.unread_clients
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn refused(&self) -> u64 {
        self.table.refused()
    }

    pub(crate) fn know(&mut self, tgid: u32, info: ProcessInfo, now: Nanos) {
        let habits = Habits::of(&info.program);
        if let Some(process) = self.table.get_mut(tgid) {
            // Looked at again: what it was seen to do holds on.
            process.habits = habits;
            process.info = info;
            process.last_used = now;
        } else {
            self.table.insert(
                tgid,
                Process {
                    habits,
                    info,
                    acts_as_proxy: false,
                    forwards: false,
                    foreign: 0,
                    unread_clients: UnreadClients::default(),
                    has_unread_clients: false,
                    read_from_before: None,
                    went_wrong: now,
                    was_special: None,
                    latest_attempt: None,
                    last_used: now,
                },
            );
        }
        self.count_unread_clients(tgid);
    }

    pub(crate) fn forget(&mut self, tgid: u32) {
        self.table.remove(tgid);
    }

    pub(crate) fn is_known(&self, tgid: u32) -> bool {
        self.table.contains(tgid)
    }

    /// Marks the process as used at `now`; `true` when it is to be left alone.
    pub(crate) fn is_excluded(&mut self, tgid: u32, now: Nanos) -> bool {
        let Some(process) = self.table.get_mut(tgid) else {
            return false;
        };
        process.last_used = process.last_used.max(now);
        process.info.kind == ProcessKind::Excluded
    }

    /// Something went wrong in the process at `at`: an exchange of it failed, say.
    pub(crate) fn went_wrong(&mut self, tgid: u32, at: Nanos) {
        if let Some(process) = self.table.get_mut(tgid) {
            process.went_wrong = process.went_wrong.max(at);
        }
    }

    /// The process did something at `at` that is understood only where all around it is told whole.
    pub(crate) fn was_special(&mut self, tgid: Option<u32>, at: Nanos) {
        if let Some(process) = tgid.and_then(|tgid| self.table.get_mut(tgid)) {
            process.was_special = process.was_special.max(Some(at));
        }
    }

    /// Proxies that pass requests on, at which nothing went wrong since `quiet`, and that did nothing
    /// special since `plain`.
    pub(crate) fn proxies_that_go_well(
        &self,
        quiet: Nanos,
        plain: Nanos,
    ) -> impl Iterator<Item = u32> {
        self.table.iter().filter_map(move |(tgid, process)| {
            let is_plain = process.was_special.is_none_or(|at| at < plain);
            let goes_well = process.went_wrong < quiet && is_plain;
            let passes_on = process.forwards || process.latest_attempt.is_some();
            (process.is_proxy() && passes_on && goes_well).then_some(*tgid)
        })
    }

    /// The process was seen to pass a client's request on.
    pub(crate) fn saw_forwarding(&mut self, tgid: u32) {
        if let Some(process) = self.table.get_mut(tgid) {
            process.forwards = true;
        }
        self.answers_for_upstream(tgid);
    }

    /// The process answered with an error after an attempt of its own had failed.
    pub(crate) fn answers_for_upstream(&mut self, tgid: u32) {
        if let Some(process) = self.table.get_mut(tgid) {
            process.acts_as_proxy = true;
        }
        self.count_unread_clients(tgid);
    }

    /// At `at`, the process read from a connection that a client opened, and that is not read here.
    pub(crate) fn saw_unread_client(&mut self, tgid: Option<u32>, talk: Talk, at: Nanos) {
        let Some(tgid) = tgid else { return };
        if let Some(process) = self.table.get_mut(tgid) {
            if talk == Talk::BeforeAgent {
                process.read_from_before = Some(at);
            }
            process.unread_clients.add(talk);
            process.has_unread_clients = true;
        }
        self.count_unread_clients(tgid);
    }

    /// Clients of the process talk what is not read: of their requests nothing is known.
    pub(crate) fn has_unread_clients(&self, tgid: u32) -> bool {
        self.table
            .get(tgid)
            .is_some_and(|process| process.has_unread_clients)
    }

    /// When the process last began to read from a connection of which nothing is known, not even who opened
    /// it: it may be one that it keeps to an upstream.
    pub(crate) fn read_from_before(&self, tgid: u32) -> Option<Nanos> {
        self.table.get(tgid)?.read_from_before
    }

    /// All that says that the process is a proxy is an error after a failure of its own: it may be an
    /// application that asks others.
    pub(crate) fn may_be_application(&self, tgid: u32) -> bool {
        let process = self.table.get(tgid);
        process.is_some_and(|one| one.info.kind == ProcessKind::Unknown && !one.forwards)
    }

    /// What is known of a proxy counts; a process that may become one keeps it until then.
    fn count_unread_clients(&mut self, tgid: u32) {
        if let Some(process) = self.table.get_mut(tgid)
            && process.is_proxy()
        {
            let more = std::mem::take(&mut process.unread_clients);
            self.unread_clients = self.unread_clients.with(more);
        }
    }

    /// An attempt of the process for the request `key` began at `at`.
    pub(crate) fn saw_attempt(&mut self, tgid: u32, key: Key, at: Nanos) {
        if let Some(process) = self.table.get_mut(tgid) {
            process.latest_attempt = Some((at, key));
        }
    }

    /// Whether its latest attempt began after `since` and was for another request than `key`.
    pub(crate) fn tried_another(&self, tgid: u32, key: Key, since: Nanos) -> bool {
        let process = self.table.get(tgid);
        let latest = process.and_then(|process| process.latest_attempt);
        latest.is_some_and(|(at, of)| at >= since && of != key)
    }

    /// An exchange was told of a process that is no proxy; `true` when it is the one that makes it a
    /// bystander.
    pub(crate) fn saw_foreign(&mut self, tgid: Option<u32>, enough: u32) -> bool {
        let process = tgid.and_then(|tgid| self.table.get_mut(tgid));
        process.is_some_and(|process| {
            process.foreign = process.foreign.saturating_add(1);
            process.info.kind == ProcessKind::Unknown && process.foreign == enough
        })
    }

    /// The process was called a bystander, and was not looked at again since.
    pub(crate) fn is_bystander(&self, tgid: Option<u32>, enough: u32) -> bool {
        let process = tgid.and_then(|tgid| self.table.get(tgid));
        process.is_some_and(|process| {
            process.info.kind == ProcessKind::Unknown && enough > 0 && process.foreign >= enough
        })
    }

    /// Counts anew from here.
    pub(crate) fn look_again(&mut self, tgid: u32) {
        if let Some(process) = self.table.get_mut(tgid) {
            process.foreign = 0;
        }
    }

    /// Both are proxies of one name.
    pub(crate) fn are_alike(&self, one: u32, other: u32) -> bool {
        let name = |tgid| self.proxy(Some(tgid)).map(|proxy| proxy.name);
        name(one).is_some_and(|one| name(other) == Some(one))
    }

    /// The process as a proxy; `None` when it is none, or not known.
    pub(crate) fn proxy(&self, tgid: Option<u32>) -> Option<Proxy> {
        let tgid = tgid?;
        let process = self.table.get(tgid)?;
        process.is_proxy().then(|| Proxy {
            name: Arc::clone(&process.info.name),
            tgid,
        })
    }

    /// The process is a proxy, and of that name where one is given.
    pub(crate) fn is_proxy_named(&self, tgid: u32, name: Option<&str>) -> bool {
        let process = self.table.get(tgid);
        process.is_some_and(|process| {
            process.is_proxy() && name.is_none_or(|name| *process.info.name == *name)
        })
    }

    /// Which instance of a proxy the process belongs to.
    pub(crate) fn instance(&self, tgid: u32) -> Instance {
        let instance = self.table.get(tgid).and_then(|one| one.info.instance);
        instance.map_or(Instance::Process(tgid), Instance::Known)
    }

    /// The network namespace of the process, if known.
    pub(crate) fn network(&self, tgid: Option<u32>) -> Option<Network> {
        self.table.get(tgid?)?.info.network
    }

    /// What is known of the program that the process runs.
    pub(crate) fn habits(&self, tgid: Option<u32>) -> Habits {
        let process = tgid.and_then(|tgid| self.table.get(tgid));
        process.map_or_else(Habits::default, |process| process.habits)
    }

    /// Forgets what was not used since `oldest`; proxies only when the table is full. What
    /// comes back is asked for again.
    pub(crate) fn sweep(&mut self, oldest: Nanos) {
        let full = self.table.is_full();
        self.table
            .retain(|_, process| (process.is_proxy() && !full) || process.last_used >= oldest);
    }
}

impl UnreadClients {
    /// All of them.
    pub fn sum(self) -> u64 {
        let Self {
            tls,
            http2,
            other,
            before_agent,
        } = self;
        tls + http2 + other + before_agent
    }

    fn add(&mut self, talk: Talk) {
        let count = match talk {
            Talk::Tls => &mut self.tls,
            Talk::Http2 => &mut self.http2,
            Talk::Other => &mut self.other,
            Talk::BeforeAgent => &mut self.before_agent,
        };
        *count += 1;
    }

    fn with(self, more: Self) -> Self {
        Self {
            tls: self.tls + more.tls,
            http2: self.http2 + more.http2,
            other: self.other + more.other,
            before_agent: self.before_agent + more.before_agent,
        }
    }
}

impl Process {
    fn is_proxy(&self) -> bool {
        match self.info.kind {
            ProcessKind::Known => true,
            ProcessKind::Unknown => self.acts_as_proxy,
            ProcessKind::Excluded => false,
        }
    }
}
