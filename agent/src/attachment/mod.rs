//! At which cgroups the packet programs are attached.
//!
//! In: processes as they are known, records of what they do, those that begin to listen, and `/proc`.
//! Out: attachments ([`Attaches`]) at the cgroups of proxies and of the upstreams on this host that
//! these talk to. Where a cgroup does not tell, it is the one that is watched, with all in it.
//!
//! Reading order: `cover` (which cgroups), `hierarchy` (where a process is), this file (what is wanted),
//! `upstreams` (who is talked to), `start` (what was there before the agent), `serving` (who serves).

mod cover;
mod hierarchy;
mod serving;
mod start;
#[cfg(test)]
mod tests;
mod upstreams;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use agent_core::observation::{Nanos, Observation, Side, What};
use rustc_hash::{FxHashMap, FxHashSet};

use self::hierarchy::{Hierarchy, Place, folder, number};
use self::serving::Serving;
use self::upstreams::{Asked, Upstreams, only_place};
use crate::config::Attach;
use crate::identity::listeners::Found;
use crate::kernel::{KernelError, Probes};
use crate::metrics::report::AttachmentCounts;
use crate::processes::{Processes, Standing};

/// How often processes are looked for that have ended, ns. Longer: packets of a cgroup without a proxy
/// pass the programs for so long. Shorter: more reads of `/proc`.
const SWEEP_EVERY: Nanos = 10_000_000_000;

/// How soon it is asked again whether a process that connects serves as well, ns; one that begins to
/// listen is asked about at once. Longer: one that inherits a listener is found late. Shorter: clients
/// that connect all the time cost more, 50 us each time.
const ASK_AGAIN: Nanos = 10_000_000_000;

/// The least between two looks at all processes, ns, where the kernel does not say which of them begins
/// to listen. Shorter: each reads files of every process.
const LOOK_EVERY: Nanos = 500_000_000;

/// How often what is wanted is settled at once, for what cannot be attached changes what is.
const SETTLINGS: usize = 3;

/// Processes remembered that connect and do not serve.
const MAX_CLIENTS: usize = 4096;

/// Who attaches.
pub trait Attaches {
    /// Sees packets of the sockets in this cgroup from now on; since when.
    ///
    /// # Errors
    /// It is gone, or the kernel refuses.
    fn attach(&mut self, cgroup: &Path) -> Result<Nanos, KernelError>;
    /// Sees them no more.
    fn detach(&mut self, cgroup: &Path);
}

impl Attaches for Probes {
    fn attach(&mut self, cgroup: &Path) -> Result<Nanos, KernelError> {
        Probes::attach(self, cgroup)
    }

    fn detach(&mut self, cgroup: &Path) {
        Probes::detach(self, cgroup);
    }
}

/// What of a record was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All that the agent sees of such a process.
    Whole,
    /// It began before packets of its process were seen.
    InPart,
    /// Packets of this socket are seen, and those of other sockets of its process are not.
    BesideUnseen,
}

/// What is attached, and why.
#[derive(Debug)]
pub struct Attachment {
    /// The cgroup that is watched.
    watched: PathBuf,
    /// `None` where all of it is attached, because the operator wants it or nothing tells cgroups apart.
    hierarchy: Option<Hierarchy>,
    /// By thread group.
    wants: FxHashMap<u32, Want>,
    upstreams: Upstreams,
    attached: BTreeMap<PathBuf, Attached>,
    /// Since when packets of a process are seen; `None`: they are not. A memory of what `attached` says.
    since: FxHashMap<u32, Option<Nanos>>,
    /// Processes that connect and did not serve when that was looked at.
    clients: FxHashMap<u32, Nanos>,
    serving: Serving,
    /// Attached at a cgroup whose name another one has now.
    replaced: Vec<PathBuf>,
    /// Upstreams on this host that nobody has asked for.
    found: Vec<Found>,
    /// What is wanted changed.
    is_stale: bool,
    /// Some process began to listen, and the kernel did not say which.
    looks_for_all: bool,
    looked: Nanos,
    swept: Nanos,
    counts: AttachmentCounts,
}

/// Why the cgroup of a process is wanted.
#[derive(Debug)]
struct Want {
    /// When it started, ticks since boot: ids are used again.
    start: Option<u64>,
    place: PathBuf,
    /// It is a proxy, or acts as one.
    is_proxy: bool,
    /// Proxies that talk to it.
    serves: FxHashSet<u32>,
    /// When that was known, ns, until it is attached.
    waits_since: Option<Nanos>,
}

#[derive(Clone, Copy, Debug)]
struct Attached {
    since: Nanos,
    /// Number of the cgroup: another one may get its name.
    number: Option<u64>,
}

impl Attachment {
    /// Attaches for the proxies that run. Call it with all rights: later the files of other users'
    /// processes may be closed to the agent.
    ///
    /// # Errors
    /// All of the cgroup that is watched is to be attached, and cannot be.
    pub fn begin(
        attach: Attach,
        watched: &Path,
        processes: &Processes,
        to: &mut impl Attaches,
        now: Nanos,
    ) -> Result<Self, KernelError> {
        let hierarchy = match attach {
            Attach::Everywhere => None,
            Attach::Proxies => {
                let proc = processes.proc();
                let found = proc.and_then(|proc| Hierarchy::new(watched, proc));
                if found.is_none() {
                    tracing::warn!(
                        "the agent does not see in which cgroups processes are: the packet programs run for all of them"
                    );
                }
                found
            }
        };
        let mut attachment = Self {
            watched: watched.to_owned(),
            hierarchy,
            wants: FxHashMap::default(),
            upstreams: Upstreams::default(),
            attached: BTreeMap::new(),
            since: FxHashMap::default(),
            clients: FxHashMap::default(),
            serving: Serving::since(now),
            replaced: Vec::new(),
            found: Vec::new(),
            is_stale: false,
            looks_for_all: false,
            looked: now,
            swept: now,
            counts: AttachmentCounts::default(),
        };
        if attachment.hierarchy.is_none() {
            attachment.attach_one(PathBuf::new(), to)?;
        } else {
            attachment.look_at_all(processes, now);
            attachment.settle(to);
        }
        Ok(attachment)
    }

    /// Nothing will be attached later.
    pub fn is_final(&self) -> bool {
        self.hierarchy.is_none()
    }

    /// A process began to listen; 0: the kernel does not say which.
    pub fn begins_to_serve(&mut self, tgid: u32, at: Nanos, processes: &Processes) {
        if self.is_final() {
            return;
        }
        self.upstreams.somebody_listens();
        if tgid == 0 {
            self.looks_for_all = true;
            return;
        }
        self.serving.listens(tgid, processes);
        let acts = self.clients.remove(&tgid).is_some();
        match processes.identify(tgid).standing {
            Standing::Gateway => self.want_proxy(tgid, at, processes),
            Standing::Undecided if acts => self.want_proxy(tgid, at, processes),
            Standing::Undecided | Standing::Excluded => {}
        }
    }

    /// A process is known from now on, or is another one than was known under its id.
    pub fn meets(&mut self, tgid: u32, standing: Standing, now: Nanos, processes: &Processes) {
        if self.is_final() {
            return;
        }
        self.since.remove(&tgid);
        self.clients.remove(&tgid);
        let start = processes.start(tgid);
        if self
            .wants
            .get(&tgid)
            .is_some_and(|want| want.start != start)
        {
            self.forget(tgid);
        }
        if standing == Standing::Gateway {
            self.want_proxy(tgid, now, processes);
        }
    }

    /// A record of a process; `asked`: whom its socket leads to.
    pub fn notices(
        &mut self,
        observation: &Observation,
        asked: SocketAddr,
        now: Nanos,
        processes: &Processes,
    ) -> Seen {
        let Some(tgid) = observation.socket.tgid else {
            return Seen::Whole;
        };
        if self.is_final() {
            return self.seen(observation, tgid, processes);
        }
        let connects = matches!(
            observation.what,
            What::Connect { .. } | What::ConnectErrno { .. } | What::UnixConnect { .. }
        );
        if connects {
            self.connects(tgid, now, processes);
        }
        let leads_out = connects || observation.socket.side == Side::Upstream;
        let is_proxy = self.wants.get(&tgid).is_some_and(|want| want.is_proxy);
        if leads_out && is_proxy && asked.port() != 0 {
            let netns = processes.known(tgid).and_then(|identity| identity.netns);
            self.talks_to(
                tgid,
                Asked {
                    from: netns,
                    at: asked,
                },
                now,
                processes,
            );
        }
        self.seen(observation, tgid, processes)
    }

    /// Who was found to listen where proxies connect to, since this was last asked.
    pub fn take_found(&mut self) -> Vec<Found> {
        std::mem::take(&mut self.found)
    }

    /// The process turned out to be no proxy.
    pub fn is_no_proxy(&mut self, tgid: u32) {
        if let Some(want) = self.wants.get_mut(&tgid) {
            want.is_proxy = false;
            self.is_stale = true;
            self.leaves(tgid);
        }
    }

    /// It may have become one.
    pub fn may_be_proxy(&mut self, tgid: u32, now: Nanos, processes: &Processes) {
        if !self.is_final() {
            self.clients.remove(&tgid);
            self.connects(tgid, now, processes);
        }
    }

    /// Forgets processes that have ended, and looks for upstreams that were not found.
    pub fn advance(&mut self, now: Nanos, processes: &Processes) {
        if self.is_final() {
            return;
        }
        if self.looks_for_all && now.saturating_sub(self.looked) >= LOOK_EVERY {
            self.looks_for_all = false;
            self.looked = now;
            self.look_at_all(processes, now);
        }
        for (asked, by) in self.upstreams.due(now) {
            for proxy in by {
                self.talks_to(proxy, asked, now, processes);
            }
        }
        if now.saturating_sub(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = now;
        let ended: Vec<u32> = self
            .wants
            .iter()
            .filter(|(tgid, want)| want.start.is_none() || processes.start(**tgid) != want.start)
            .map(|(tgid, _)| *tgid)
            .collect();
        for tgid in ended {
            self.forget(tgid);
        }
        self.clients
            .retain(|_, at| now.saturating_sub(*at) < ASK_AGAIN);
        self.drop_replaced();
        self.is_stale = true;
    }

    /// Attaches and detaches as is wanted. True when packets of a proxy are seen now that were not.
    pub fn settle(&mut self, to: &mut impl Attaches) -> bool {
        if self.is_final() || !self.is_stale {
            return false;
        }
        for path in std::mem::take(&mut self.replaced) {
            to.detach(&folder(&self.watched, &path));
        }
        for _ in 0..SETTLINGS {
            if !std::mem::take(&mut self.is_stale) {
                break;
            }
            self.settle_once(to);
        }
        self.since.clear();
        self.count_waits()
    }

    fn settle_once(&mut self, to: &mut impl Attaches) {
        let wanted = self.wants.values().filter(|want| want.is_wanted());
        let cover = cover::cover(wanted.map(|want| want.place.as_path()));
        let attached: BTreeSet<PathBuf> = self.attached.keys().cloned().collect();
        let cover::Steps { attach, detach } = cover::steps(&attached, &cover);
        let mut failed: Vec<PathBuf> = Vec::new();
        for path in attach {
            if let Err(error) = self.attach_one(path.clone(), to) {
                self.cannot_attach(&path, &error);
                failed.push(path);
            }
        }
        for path in detach {
            // What is in a cgroup that could not be attached stays as it is.
            if !failed.iter().any(|kept| path.starts_with(kept)) {
                self.detach_one(&path, to);
            }
        }
    }

    /// What is attached, and what came of it.
    pub fn counts(&self) -> AttachmentCounts {
        let proxies = self.wants.values().filter(|want| want.is_proxy);
        AttachmentCounts {
            cgroups: self.attached.len() as u64,
            is_everywhere: self.attached.contains_key(Path::new("")),
            waiting: proxies.filter(|want| want.waits_since.is_some()).count() as u64,
            unknown_upstreams: self.upstreams.unknown() as u64,
            ..self.counts
        }
    }

    fn seen(&mut self, observation: &Observation, tgid: u32, processes: &Processes) -> Seen {
        let began = observation.began();
        let since = self.seen_since(tgid, processes);
        match (began, since) {
            (Some(began), Some(since)) if began < since => Seen::InPart,
            (Some(_), None) if !matches!(observation.what, What::Connect { .. }) => {
                let is_proxy = self.wants.get(&tgid).is_some_and(|want| want.is_proxy);
                if is_proxy {
                    Seen::BesideUnseen
                } else {
                    Seen::Whole
                }
            }
            _ => Seen::Whole,
        }
    }

    fn seen_since(&mut self, tgid: u32, processes: &Processes) -> Option<Nanos> {
        let Some(hierarchy) = &self.hierarchy else {
            return self.attached.values().next().map(|one| one.since);
        };
        if let Some(since) = self.since.get(&tgid) {
            return *since;
        }
        let cgroup = processes.known(tgid)?.cgroup.as_deref();
        let place = match cgroup.map(|cgroup| hierarchy.place(cgroup)) {
            Some(Place::Inside(place)) => place,
            _ => PathBuf::new(),
        };
        let mut around = place.ancestors().filter_map(|one| self.attached.get(one));
        let since = around.next().map(|one| one.since);
        self.since.insert(tgid, since);
        since
    }

    /// A process that is no known gateway connects: it acts as a proxy if it serves as well.
    fn connects(&mut self, tgid: u32, now: Nanos, processes: &Processes) {
        let standing = processes.known(tgid).map(|identity| identity.standing);
        if standing != Some(Standing::Undecided)
            || self.wants.get(&tgid).is_some_and(|want| want.is_proxy)
            || self.clients.contains_key(&tgid)
        {
            return;
        }
        if self.serving.serves(tgid, processes) {
            self.want_proxy(tgid, now, processes);
        } else if self.clients.len() < MAX_CLIENTS {
            self.clients.insert(tgid, now);
        }
    }

    fn talks_to(&mut self, proxy: u32, asked: Asked, now: Nanos, processes: &Processes) {
        let Some(servers) = self.upstreams.ask(asked, proxy, now, processes) else {
            return;
        };
        if let Some(server) = only_place(&servers, processes) {
            let at = asked.at;
            self.found.push(Found { proxy, at, server });
        }
        for server in servers {
            if let Some(want) = self.want(server, now, processes) {
                want.serves.insert(proxy);
            }
        }
    }

    fn want_proxy(&mut self, tgid: u32, now: Nanos, processes: &Processes) {
        if let Some(want) = self.want(tgid, now, processes)
            && !want.is_proxy
        {
            want.is_proxy = true;
            want.waits_since = Some(now);
            self.is_stale = true;
        }
    }

    /// That process, in its cgroup; `None` when it has ended, or is outside of the one that is watched.
    fn want(&mut self, tgid: u32, now: Nanos, processes: &Processes) -> Option<&mut Want> {
        if !self.wants.contains_key(&tgid) {
            let start = processes.start(tgid)?;
            let place = self.place(tgid, processes)?;
            self.drop_if_replaced(&place);
            self.is_stale = true;
            let want = Want {
                start: Some(start),
                place,
                is_proxy: false,
                serves: FxHashSet::default(),
                waits_since: Some(now),
            };
            self.wants.insert(tgid, want);
        }
        self.wants.get_mut(&tgid)
    }

    /// The cgroup of a process now: all that is watched where nothing tells which it is.
    fn place(&self, tgid: u32, processes: &Processes) -> Option<PathBuf> {
        let hierarchy = self.hierarchy.as_ref()?;
        match hierarchy.place(processes.identify(tgid).cgroup.as_deref()?) {
            Place::Outside => None,
            Place::Inside(place) if hierarchy.holds(&place, tgid) => Some(place),
            Place::Inside(_) | Place::Unknown => {
                processes.start(tgid)?;
                tracing::info!(
                    tgid,
                    "its cgroup is not known: packets of all processes are seen for it"
                );
                Some(PathBuf::new())
            }
        }
    }

    /// The process is gone, or another one.
    fn forget(&mut self, tgid: u32) {
        if self.wants.remove(&tgid).is_some() {
            self.is_stale = true;
            self.leaves(tgid);
        }
        self.upstreams.ended(tgid);
    }

    /// The proxy talks to nobody any more.
    fn leaves(&mut self, proxy: u32) {
        self.upstreams.left(proxy);
        for want in self.wants.values_mut() {
            want.serves.remove(&proxy);
        }
        self.wants.retain(|_, want| want.is_wanted());
    }

    fn attach_one(&mut self, path: PathBuf, to: &mut impl Attaches) -> Result<(), KernelError> {
        let cgroup = folder(&self.watched, &path);
        let since = to.attach(&cgroup)?;
        self.counts.attached += 1;
        tracing::info!(cgroup = %cgroup.display(), "packets are seen here from now on");
        let number = number(&cgroup);
        self.attached.insert(path, Attached { since, number });
        Ok(())
    }

    fn detach_one(&mut self, path: &Path, to: &mut impl Attaches) {
        let cgroup = folder(&self.watched, path);
        to.detach(&cgroup);
        self.counts.detached += 1;
        tracing::info!(cgroup = %cgroup.display(), "packets are not seen here any more");
        self.attached.remove(path);
    }

    /// A cgroup that is gone is found out about when its processes are. For any other reason all that is
    /// watched is attached.
    fn cannot_attach(&mut self, path: &Path, error: &KernelError) {
        self.counts.failed += 1;
        let is_gone = matches!(error, KernelError::Cgroup { source, .. } if is_gone(source));
        if is_gone || path.as_os_str().is_empty() {
            tracing::warn!(%error, "packets are not seen here");
            return;
        }
        tracing::warn!(%error, "packets of all processes are seen instead");
        for want in self.wants.values_mut().filter(|want| want.place == path) {
            want.place = PathBuf::new();
        }
        self.is_stale = true;
    }

    /// Proxies that waited and are attached now; whether there were any.
    fn count_waits(&mut self) -> bool {
        let mut any = false;
        for want in self.wants.values_mut() {
            let mut around = want.place.ancestors();
            let attached = around.find_map(|one| self.attached.get(one));
            if let Some(attached) = attached
                && let Some(waited) = want.waits_since.take()
                && want.is_proxy
                && attached.since > waited
            {
                any = true;
                let nanos = attached.since.saturating_sub(waited);
                self.counts.last_nanos = nanos;
                self.counts.longest_nanos = self.counts.longest_nanos.max(nanos);
            }
        }
        any
    }

    fn drop_replaced(&mut self) {
        let paths: Vec<PathBuf> = self.attached.keys().cloned().collect();
        for path in paths {
            self.drop_if_replaced(&path);
        }
    }

    /// What `path` is attached by is not there any more, or another cgroup has its name.
    fn drop_if_replaced(&mut self, path: &Path) {
        let mut around = path.ancestors();
        let Some(by) = around.find(|one| self.attached.contains_key(*one)) else {
            return;
        };
        let now = number(&folder(&self.watched, by));
        if self.attached.get(by).is_some_and(|one| one.number != now) {
            self.attached.remove(by);
            self.replaced.push(by.to_owned());
            self.is_stale = true;
        }
    }
}

impl Want {
    fn is_wanted(&self) -> bool {
        self.is_proxy || !self.serves.is_empty()
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}
