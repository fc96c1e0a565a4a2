//! The counts themselves, from the kernel that has loaded the programs and the maps.

use std::mem::size_of;
use std::process::Command;

use agent_wire::brief::Brief;
use agent_wire::record::{
    Abandoned, Connect, Death, Dns, End, Header, Hello, MessageHead, Reset, Tls, UnixConnect,
    UnreadClient,
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::maps::{MapData, MapType};
use aya::programs::ProgramError;
use aya::{Btf, VerifierLogLevel};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::chain;
use crate::kernel::catalog::{Calls, Flows, Way};
use crate::kernel::{Options, attaching, catalog, costs, load_object, load_object_logging};

/// Bytes of one instruction (`struct bpf_insn`; one with a constant of 64 bits counts as two).
const INSTRUCTION_BYTES: u32 = 8;

/// All of it.
pub(super) struct Measured {
    /// What the counts depend on.
    pub(super) place: Place,
    pub(super) programs: Vec<Program>,
    pub(super) maps: Vec<Map>,
    /// Records without the bytes of a head, in order of their kinds.
    pub(super) records: Vec<(&'static str, usize)>,
}

/// Where it was measured.
pub(super) struct Place {
    pub(super) kernel: String,
    pub(super) cpus: usize,
    pub(super) compiler: String,
}

pub(super) struct Program {
    pub(super) name: &'static str,
    /// Instructions that the verifier looked at.
    pub(super) verified: u32,
    /// Instructions that were loaded, as the verifier left them.
    pub(super) instructions: u32,
    /// Bytes of machine code.
    pub(super) machine_code: u32,
    /// Bytes of stack of each function, the entry first.
    pub(super) frames: Vec<u32>,
    /// Bytes of stack of the deepest chain of calls.
    pub(super) chain: u32,
}

pub(super) struct Map {
    pub(super) name: String,
    pub(super) kind: MapType,
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) entries: u32,
    /// Kernel memory, bytes, before any socket has storage.
    pub(super) memory: Option<u64>,
}

/// What is measured: the connects at tracepoints, for there are machines that let nothing be attached
/// to functions. What the verifier says of those programs is in `docs/kernels.md`.
const WAY: Way = Way {
    flows: Flows::Storage,
    calls: Calls::Tracepoints,
};

impl Measured {
    pub(super) fn here() -> Result<Self> {
        let btf = Btf::from_sys_fs()?;
        let words = verifier_words(&btf)?;
        let mut ebpf = load_object(&all(), WAY.flows)?;
        let mut programs = Vec::new();
        for (entry, (_, words)) in catalog::entries(WAY).zip(words) {
            attaching::load(&mut ebpf, &btf, entry).context(entry.program)?;
            let program = ebpf.program(entry.program).context(entry.program)?;
            let info = program.info()?;
            let bytes = info.size_translated().context("loaded as root")?;
            let frames = frames(&words)?;
            programs.push(Program {
                name: entry.program,
                verified: processed(&words)?,
                instructions: bytes / INSTRUCTION_BYTES,
                machine_code: info.size_jitted(),
                chain: chain::deepest(&code(info.id())?, &frames).context(entry.program)?,
                frames,
            });
        }
        programs.sort_by_key(|program| program.name);
        let mut maps = Vec::new();
        for (name, map) in ebpf.maps() {
            let map = costs::data(map).with_context(|| format!("the kind of the map {name}"))?;
            maps.push(Map::of(name, map)?);
        }
        maps.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Self {
            place: Place::here()?,
            programs,
            maps,
            records: records(),
        })
    }

    /// Storage of a socket that has all of it.
    pub(super) fn socket_bytes(&self) -> u64 {
        let storage = |map: &&Map| map.kind == MapType::SkStorage;
        self.maps
            .iter()
            .filter(storage)
            .map(|map| u64::from(map.value))
            .sum()
    }
}

impl Map {
    fn of(name: &str, map: &MapData) -> Result<Self> {
        let info = map.info()?;
        Ok(Self {
            name: name.to_owned(),
            kind: info.map_type()?,
            key: info.key_size(),
            value: info.value_size(),
            entries: info.max_entries(),
            memory: costs::memlock(map),
        })
    }
}

impl Place {
    fn here() -> Result<Self> {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let compiler = std::env::var("WHY502_BUDGETS_COMPILER")
            .context("`cargo xtask test --only budgets` names the compiler")?;
        Ok(Self {
            kernel: version(&kernel).to_owned(),
            cpus: aya::util::nr_cpus().map_err(|(what, error)| anyhow!("{what}: {error}"))?,
            compiler,
        })
    }
}

/// `6.18.44` of `6.18.44-of-someones-making`.
fn version(release: &str) -> &str {
    release.split(['-', '\n']).next().unwrap_or(release)
}

/// What the verifier writes about each program, of which the stack is told nowhere else.
///
/// aya keeps the log of programs that were refused only. So no descriptor is left for them: the
/// kernel verifies a program, and then has no number to give.
fn verifier_words(btf: &Btf) -> Result<Vec<(&'static str, String)>> {
    let mut ebpf = load_object_logging(&all(), WAY.flows, VerifierLogLevel::STATS)?;
    let before = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        maximum: before.maximum,
    };
    setrlimit(Resource::Nofile, none)?;
    let refused: Vec<_> = catalog::entries(WAY)
        .map(|entry| (entry.program, attaching::load(&mut ebpf, btf, entry)))
        .collect();
    setrlimit(Resource::Nofile, before)?;
    let log = |(name, result)| match result {
        Err(ProgramError::LoadError { verifier_log, .. }) => Ok((name, verifier_log.to_string())),
        other => bail!("{name} was not refused for want of a descriptor: {other:?}"),
    };
    refused.into_iter().map(log).collect()
}

/// `processed 4205 insns (limit 1000000) max_states_per_insn ...`
fn processed(words: &str) -> Result<u32> {
    let number = after(words, "processed ")?.split(' ').next();
    Ok(number.unwrap_or_default().parse()?)
}

/// `stack depth 96+0+16`
fn frames(words: &str) -> Result<Vec<u32>> {
    let parts = after(words, "stack depth ")?.split('+');
    parts.map(|part| Ok(part.trim().parse()?)).collect()
}

/// The instructions of a loaded program, which aya does not fetch.
fn code(id: u32) -> Result<Vec<u8>> {
    let file = std::env::temp_dir().join(format!("why502-code-{}", std::process::id()));
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["prog", "dump", "xlated", "id", &id.to_string(), "file"]);
    let output = bpftool.arg(&file).output().context("bpftool")?;
    let code = std::fs::read(&file);
    // Not there when bpftool failed.
    let _ = std::fs::remove_file(&file);
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "bpftool: {words}");
    Ok(code?)
}

/// What follows `start` in the line that begins with it.
fn after<'a>(words: &'a str, start: &str) -> Result<&'a str> {
    let mut lines = words.lines();
    let found = lines.find_map(|line| line.strip_prefix(start));
    found.with_context(|| format!("no `{start}` in what the verifier says: {words}"))
}

fn records() -> Vec<(&'static str, usize)> {
    vec![
        ("Connect", size_of::<Connect>()),
        ("MessageHead", size_of::<MessageHead>()),
        ("End", size_of::<End>()),
        ("Reset", size_of::<Reset>()),
        ("UnixConnect", size_of::<UnixConnect>()),
        ("Tls", size_of::<Tls>()),
        ("Dns", size_of::<Dns>()),
        ("Death", size_of::<Death>()),
        ("Hello", size_of::<Hello>()),
        ("Abandoned", size_of::<Abandoned>()),
        ("UnreadClient", size_of::<UnreadClient>()),
        ("Brief", size_of::<Brief>()),
        ("Header (TCP)", size_of::<Header>()),
    ]
}

#[test]
fn a_kernel_is_named_by_its_version() {
    assert_eq!(version("6.18.44-of-mine\n"), "6.18.44");
    assert_eq!(version("6.18.44\n"), "6.18.44");
}

#[test]
fn the_verifiers_statistics_are_read() {
    let words = "verification time 1412 usec\nstack depth 96+0+16\nprocessed 4205 insns (limit 1000000) max_states_per_insn 4 total_states 92 peak_states 92 mark_read 12\n";
    assert_eq!(processed(words).unwrap(), 4205);
    assert_eq!(frames(words).unwrap(), [96, 0, 16]);
}

/// All that the probes can be asked for: what is off, the verifier takes out.
fn all() -> Options {
    Options {
        in_brief: true,
        ..Options::default()
    }
}
