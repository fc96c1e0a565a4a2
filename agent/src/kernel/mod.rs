//! The only room that names aya: load, attach, drain, and what the kernel says of the cost.
//!
//! In: [`Options`]. Out: raw records ([`Probes::drain`]), tallies, capabilities. A program
//! the kernel refuses switches one ability off and says why; only the packet programs, the
//! ring and the cgroup are needed to run at all. Dropping [`Probes`] detaches everything,
//! and so does the kernel when the process dies: links are held by descriptors, nothing is
//! pinned.
//!
//! Reading order: `catalog` (which programs there are and what each is for), `attaching`, this
//! file, `ring`, `cgroup`, [`survey`](fn@survey).

mod attaching;
#[cfg(test)]
mod budgets;
mod catalog;
mod cgroup;
mod costs;
mod held;
mod kernel_types;
mod packets;
mod reset_reasons;
mod ring;
mod survey;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_core::observation::Nanos;
use agent_wire::attention;
use agent_wire::limits::{DEFAULT_RING_BYTES, HELD_EXCHANGES};
use agent_wire::reset_reason::NUMBERS;
use agent_wire::tally::SLOTS;
use aya::maps::{Array, CgroupArray, HashMap, Map, MapData, MapError, PerCpuArray, Queue};
use aya::{Btf, Ebpf, EbpfLoader, VerifierLogLevel};
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;

use catalog::{Flows, Way};
use held::Held;
use kernel_types::Known;
use packets::Packets;
use ring::Ring;

pub use attaching::{Capability, Verified};
pub use cgroup::{is_root, version_2};
pub use costs::{MapUse, ProgramCost};
pub use survey::{Survey, survey};

use crate::clock;
use crate::privileges::Confinement;

/// The probes, built by `cargo xtask build`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/agent-ebpf"));

/// Sockets remembered at a time where they are in a map (456 bytes each, set aside at the start).
/// Smaller: connections of a busy host are not seen, which is counted. Larger: memory.
const FLOWS_BY_COOKIE: u32 = 32_768;

/// The map with the cgroup that is watched.
const WATCHED: &str = "WATCHED";

/// Smallest ring the kernel takes: one page.
pub const MIN_RING_BYTES: u32 = 4096;

/// How the probes are loaded.
#[derive(Clone, Debug)]
pub struct Options {
    /// cgroup v2 directory to watch; `None` finds the root of the mounted hierarchy.
    pub cgroup: Option<PathBuf>,
    /// Ring buffer size, bytes: a power of two, at least [`MIN_RING_BYTES`].
    pub ring_bytes: u32,
    /// Log lines of the probes; `None` leaves no trace of them in the loaded programs.
    pub probe_log: Option<ProbeLog>,
    /// The probes return at once: what is measured is what it costs to have them attached.
    pub idle: bool,
    /// What goes well may be told in brief ([`Attention::InBrief`]).
    pub in_brief: bool,
    /// What the thread gives up that attaches the packet programs.
    pub confinement: Confinement,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cgroup: None,
            ring_bytes: DEFAULT_RING_BYTES,
            probe_log: None,
            idle: false,
            in_brief: false,
            confinement: Confinement::default(),
        }
    }
}

/// How the kernel side attends to the sockets of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// As to any other.
    Watch,
    /// Only their end is told: it is no proxy.
    Park,
    /// Not at all.
    Ignore,
    /// As to any other, but exchanges that go well are told in brief. The kernel side ends that by itself
    /// when something goes wrong, and says so.
    InBrief,
}

/// Level of the probes' own log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeLog {
    /// Errors only.
    Error,
    /// And warnings.
    Warn,
    /// And what happened to connections.
    Info,
    /// And everything.
    Debug,
}

/// Why the probes cannot run.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Not allowed.
    #[error(
        "the kernel forbids loading the probes although this process has the capabilities for it: look for a seccomp profile, a security module, lockdown, or a user namespace around it, or run it as root of the host"
    )]
    NotPermitted,
    /// No cgroup v2.
    #[error(
        "no cgroup v2 hierarchy is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified) or name it with --cgroup"
    )]
    NoCgroup,
    /// The cgroup cannot be opened.
    #[error("cannot open cgroup {}: {source}", path.display())]
    Cgroup {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is not a cgroup v2 directory.
    #[error("{} is not a cgroup v2 directory (it has no cgroup.procs of a cgroup2 mount)", path.display())]
    NotCgroup2 {
        /// Which.
        path: PathBuf,
    },
    /// The ring size is not usable.
    #[error("ring size {0} is not a power of two of at least {MIN_RING_BYTES} bytes")]
    RingBytes(u32),
    /// No BTF.
    #[error(
        "the kernel has no BTF (/sys/kernel/btf/vmlinux): a kernel with CONFIG_DEBUG_INFO_BTF is needed: {0}"
    )]
    NoBtf(aya::BtfError),
    /// The object did not load.
    #[error("cannot load the probes: {0}")]
    Load(#[from] aya::EbpfError),
    /// A map is missing or of the wrong type: agent and object do not match.
    #[error("map {name}: {source}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        source: MapError,
    },
    /// A needed program was refused.
    #[error("the kernel refuses the program {name}: {reason}")]
    Program {
        /// Which.
        name: &'static str,
        /// What it said.
        reason: String,
    },
    /// Nothing can be attached later.
    #[error("cannot start the thread that attaches the packet programs: {0}")]
    Attacher(io::Error),
    /// Descriptor registration failed.
    #[error("cannot watch the ring: {0}")]
    Watch(io::Error),
}

/// The loaded, attached probes. Dropping detaches them.
pub struct Probes {
    ebpf: Ebpf,
    ring: AsyncFd<Ring>,
    tallies: PerCpuArray<MapData, u64>,
    attention: HashMap<MapData, u32, u8>,
    listings: Array<MapData, u64>,
    serving: Queue<MapData, [u64; 2]>,
    held: Held,
    attached: Array<MapData, u64>,
    packets: Packets,
    watched: PathBuf,
    capabilities: Vec<Capability>,
    uses_tracepoints: bool,
    why_tracepoints: Option<String>,
    whole_since: Nanos,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
}

impl Probes {
    /// Loads all, and attaches all but the packet programs ([`Probes::attach`]). Needs a tokio runtime.
    ///
    /// # Errors
    /// [`KernelError`], each with what to do about it. A program that only one ability
    /// needs is not an error: see [`Probes::capabilities`].
    pub fn load(options: &Options) -> Result<Self, KernelError> {
        let watched = cgroup::find(options.cgroup.as_deref())?;
        let cgroup = cgroup::open(&watched)?;
        let (mut ebpf, btf, way, why_tracepoints) = load_the_right_way(options)?;
        watch(&mut ebpf, &cgroup)?;
        let capabilities = attaching::attach_all(&mut ebpf, &btf, cgroup.as_fd(), way)?;
        let programs = attaching::packet_programs(&mut ebpf, way)?;
        let packets = Packets::start(programs, options.confinement)?;
        let whole_since = clock::monotonic();
        let ring = open_ring(&mut ebpf)?;
        // SAFETY: the ring owns its map's descriptor and keeps it open until it is dropped,
        // which is what `register` asks of its I/O object.
        let ring = unsafe { AsyncFd::register(ring) };
        let logger = options
            .probe_log
            .and_then(|_| EbpfLogger::init(&mut ebpf).ok());
        Ok(Self {
            ring: ring.map_err(|error| KernelError::Watch(error.into()))?,
            tallies: take_map(&mut ebpf, "TALLIES")?,
            attention: take_map(&mut ebpf, "ATTENTION")?,
            listings: take_map(&mut ebpf, "LISTINGS")?,
            serving: take_map(&mut ebpf, "SERVING")?,
            held: Held::of(&mut ebpf)?,
            attached: take_map(&mut ebpf, "ATTACHED")?,
            packets,
            watched,
            capabilities,
            uses_tracepoints: way.uses_tracepoints(),
            why_tracepoints,
            whole_since,
            logger,
            ebpf,
        })
    }

    /// What is on and what is off.
    pub fn capabilities(&self) -> &[Capability] {
        &self.capabilities
    }

    /// Some of it is seen by classic tracepoints, for which more rights are needed.
    pub fn uses_tracepoints(&self) -> bool {
        self.uses_tracepoints
    }

    /// Why connects are seen at tracepoints, if programs at functions are refused.
    pub fn why_tracepoints(&self) -> Option<&str> {
        self.why_tracepoints.as_deref()
    }

    /// The cgroup that is watched.
    pub fn watched(&self) -> &Path {
        &self.watched
    }

    /// Sees packets of the sockets in this cgroup from now on; since when, ns of `CLOCK_MONOTONIC`. A
    /// connection that opened before is one that was there before the agent.
    ///
    /// # Errors
    /// It is gone, or the kernel refuses.
    pub fn attach(&mut self, cgroup: &Path) -> Result<Nanos, KernelError> {
        // Of a connection whose first packet passes meanwhile it is not known either.
        self.set_attached(Nanos::MAX)?;
        let attached = self.packets.attach(cgroup);
        let now = clock::monotonic();
        self.set_attached(now)?;
        attached.map(|()| now)
    }

    /// Sees packets of the sockets in this cgroup no more.
    pub fn detach(&mut self, cgroup: &Path) {
        self.packets.detach(cgroup);
    }

    /// Gives up attaching: what is attached stays.
    pub fn attach_no_more(&mut self) {
        self.packets.end();
    }

    fn set_attached(&mut self, time: Nanos) -> Result<(), KernelError> {
        let failed = |source| KernelError::Map {
            name: "ATTACHED",
            source,
        };
        self.attached.set(0, time, 0).map_err(failed)
    }

    /// Hands processes to `each` that began to listen, and when; 0 where the kernel does not say which.
    /// False when some were left out, for there were too many.
    pub fn take_serving(&mut self, mut each: impl FnMut(Nanos, u32)) -> bool {
        let room = self.serving.capacity();
        for _ in 0..room {
            // An empty queue is the usual case.
            let Ok([at, tgid]) = self.serving.pop(0) else {
                return true;
            };
            each(at, u32::try_from(tgid).unwrap_or(0));
        }
        false
    }

    /// When the last program was attached that is attached once, ns of `CLOCK_MONOTONIC`. What began
    /// before was seen by some of them only.
    pub fn whole_since(&self) -> Nanos {
        self.whole_since
    }

    /// Waits until the ring fills faster than it is drained, at most `at_most`.
    pub async fn wait(&self, at_most: Duration) {
        let filling = async {
            if let Ok(mut guard) = self.ring.readable().await {
                guard.clear_ready();
            }
        };
        // The time running out is the usual case: the probes wake nobody for a record.
        let _ = tokio::time::timeout(at_most, filling).await;
    }

    /// Hands waiting records to `each`, oldest first and `at_most` so many; how many there were.
    pub fn drain(&mut self, at_most: usize, each: impl FnMut(&[u8])) -> usize {
        let count = self.ring.get_mut().drain(at_most, each);
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        count
    }

    /// Hands the heads of exchanges under way to `each` that are held until it is known whether they are told
    /// in brief: records as [`Probes::drain`] has them, in no order.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn held(&self, each: impl FnMut(&[u8])) -> Result<(), KernelError> {
        self.held.read(each)
    }

    /// Hands `each` the heads of an exchange that was reported in brief, if nothing has taken their place: its
    /// request, and its response if that was held, as [`Probes::drain`] has them.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn ended(
        &self,
        cookie: u64,
        index: u32,
        each: impl FnMut(&[u8]),
    ) -> Result<(), KernelError> {
        self.held.ended(cookie, index, each)
    }

    /// The kernel side's counters, summed over CPUs; index by [`agent_wire::tally`].
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn tallies(&self) -> Result<Vec<u64>, KernelError> {
        (0..SLOTS).map(|slot| self.tally(slot)).collect()
    }

    /// One of them; a system call.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn tally(&self, slot: u32) -> Result<u64, KernelError> {
        let values = self.tallies.get(&slot, 0);
        let values = values.map_err(|source| KernelError::Map {
            name: "TALLIES",
            source,
        })?;
        Ok(values.iter().sum())
    }

    /// Runs, time and verifier work of each program.
    pub fn programs(&self) -> Vec<ProgramCost> {
        costs::programs(&self.ebpf)
    }

    /// Size and use of each map.
    pub fn maps(&self) -> Vec<MapUse> {
        costs::maps(&self.ebpf)
    }

    /// Tells the kernel side how to attend to the sockets of a process: those that it opens from now on,
    /// or, where it is to be ignored, first reads; and others from the next request in clear text on each.
    ///
    /// # Errors
    /// The list is full.
    pub fn attend(&mut self, tgid: u32, attention: Attention) -> Result<(), KernelError> {
        let code = match attention {
            Attention::Watch => None,
            Attention::Park => Some(attention::PARKED),
            Attention::Ignore => Some(attention::IGNORED),
            Attention::InBrief => Some(attention::IN_BRIEF),
        };
        let map = |name| move |source| KernelError::Map { name, source };
        match code {
            Some(code) => self.attention.insert(tgid, code, 0),
            // One that is not on the list is watched already.
            None if self.attention.remove(&tgid).is_err() => return Ok(()),
            None => Ok(()),
        }
        .map_err(map("ATTENTION"))?;
        let number = self.listings.get(&0, 0).map_err(map("LISTINGS"))?;
        self.listings
            .set(0, number.wrapping_add(1), 0)
            .map_err(map("LISTINGS"))?;
        Ok(())
    }
}

/// The object, made for the way in which this kernel lets probes find what they remember; and why
/// it is tracepoints if programs at functions are refused.
fn load_the_right_way(options: &Options) -> Result<(Ebpf, Btf, Way, Option<String>), KernelError> {
    // First, because of its message where rights are missing.
    let mut ebpf = load_object(options, Flows::Storage)?;
    let btf = Btf::from_sys_fs().map_err(KernelError::NoBtf)?;
    let (way, refusal) = attaching::way(&mut ebpf, &btf);
    if way.flows == Flows::Cookie {
        drop(ebpf);
        ebpf = load_object(options, way.flows)?;
    }
    Ok((ebpf, btf, way, refusal))
}

fn load_object(options: &Options, flows: Flows) -> Result<Ebpf, KernelError> {
    load_object_logging(options, flows, VerifierLogLevel::default())
}

/// `log`: what the verifier is to say of a program that is refused.
fn load_object_logging(
    options: &Options,
    flows: Flows,
    log: VerifierLogLevel,
) -> Result<Ebpf, KernelError> {
    if options.ring_bytes < MIN_RING_BYTES || !options.ring_bytes.is_power_of_two() {
        return Err(KernelError::RingBytes(options.ring_bytes));
    }
    let level = options.probe_log.map_or(0u8, |level| level as u8 + 1);
    let known = Known::of_this_kernel();
    let has_reason = u8::from(known.reset_reasons.is_some());
    let reasons = known.reset_reasons.unwrap_or([0; NUMBERS]);
    let sk_err = known.socket_error.unwrap_or(0);
    let (last_queued, extended_error) = known.queued_error.unwrap_or((0, 0));
    let (peer_port, own_port) = known.ports.unwrap_or((0, 0));
    let scoped = u8::from(cgroup::is_part(options.cgroup.as_deref()));
    let (by_cookie, in_map) = match flows {
        Flows::Storage => (0u8, 1),
        Flows::Cookie => (1u8, FLOWS_BY_COOKIE),
    };
    let held = if options.in_brief { HELD_EXCHANGES } else { 1 };
    EbpfLoader::new()
        .verifier_log_level(log)
        .map_max_entries("RING", options.ring_bytes)
        .map_max_entries("FLOWS_BY_COOKIE", in_map)
        .map_max_entries("HELD", held)
        .override_global("BY_COOKIE", &by_cookie, true)
        .override_global("AYA_LOG_LEVEL", &level, false)
        .override_global("RESET_HAS_REASON", &has_reason, true)
        .override_global("RESET_REASONS", &reasons, true)
        .override_global("IDLE", &u8::from(options.idle), true)
        .override_global("TELLS_IN_BRIEF", &u8::from(options.in_brief), true)
        .override_global("SK_ERR", &sk_err, true)
        .override_global("PROCESS", &known.process.unwrap_or_default(), true)
        .override_global("SCOPED", &scoped, true)
        .override_global("NETWORK", &known.network.unwrap_or_default(), true)
        .override_global("PORTS", &[peer_port, own_port], true)
        .override_global("LAST_QUEUED", &last_queued, true)
        .override_global("EXTENDED_ERROR", &extended_error, true)
        .override_global("ARGUMENTS", &attaching::ARGUMENTS, true)
        .load(OBJECT)
        .map_err(|error| {
            if is_not_permitted(&error) {
                KernelError::NotPermitted
            } else {
                error.into()
            }
        })
}

/// Has the probes that are not attached to the cgroup ask for it.
fn watch(ebpf: &mut Ebpf, cgroup: &File) -> Result<(), KernelError> {
    let failed = |source| KernelError::Map {
        name: WATCHED,
        source,
    };
    let map = ebpf.map_mut(WATCHED).ok_or_else(|| no_such_map(WATCHED))?;
    let mut watched = CgroupArray::try_from(map).map_err(failed)?;
    watched
        .set(0, cgroup.as_fd().as_raw_fd(), 0)
        .map_err(failed)
}

fn take_map<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, KernelError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or_else(|| no_such_map(name))?;
    T::try_from(map).map_err(|source| KernelError::Map { name, source })
}

fn open_ring(ebpf: &mut Ebpf) -> Result<Ring, KernelError> {
    const NAME: &str = "RING";
    let Some(Map::RingBuf(map)) = ebpf.take_map(NAME) else {
        return Err(no_such_map(NAME));
    };
    // As it was made: it has a page at least, which may be larger than what was asked for.
    let info = map
        .info()
        .map_err(|source| KernelError::Map { name: NAME, source })?;
    let bytes = info.max_entries();
    let own = map.fd().as_fd().try_clone_to_owned();
    own.and_then(|own| Ring::new(own, bytes as usize))
        .map_err(KernelError::Watch)
}

fn no_such_map(name: &'static str) -> KernelError {
    KernelError::Map {
        name,
        source: MapError::InvalidName {
            name: name.to_owned(),
        },
    }
}

/// True when an error chain ends in EPERM or EACCES.
fn is_not_permitted(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && matches!(io.raw_os_error(), Some(libc::EPERM | libc::EACCES))
        {
            return true;
        }
        next = error.source();
    }
    false
}
