//! Loads and attaches the programs, and says which abilities are on.
//!
//! In: the loaded object, and what [`super::catalog`] lists. Out: attached programs, and a
//! [`Capability`] for each ability, with the kernel's own words where it is off.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, FEntry, FExit, Program,
    ProgramError, SockOps, TracePoint,
};
use aya::{Btf, Ebpf};

use super::KernelError;
use super::catalog::{Calls, Entry, Flows, Hook, Way, entries, find};
use super::kernel_types::Known;
use super::packets::PacketProgram;

/// One ability and whether this kernel gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Label value of `why502_agent_capability`.
    pub name: &'static str,
    /// What it is good for, in a few words.
    pub purpose: &'static str,
    /// It is on.
    pub available: bool,
    /// Why not.
    pub reason: Option<String>,
}

impl Capability {
    fn refuse(&mut self, reason: String) {
        self.available = false;
        self.reason = Some(reason);
    }
}

/// One program, shown to the verifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its name.
    pub name: &'static str,
    /// The ability it is for.
    pub capability: &'static str,
    /// The kernel took it.
    pub loaded: bool,
    /// Instructions the verifier walked; told since 5.16.
    pub instructions: Option<u32>,
    /// How long it took to verify and compile it.
    pub took: Duration,
}

/// Which way this kernel allows: small programs are shown to it, and some are attached for a
/// moment. With it, why it is tracepoints if programs at functions are refused.
pub(super) fn way(ebpf: &mut Ebpf, btf: &Btf) -> (Way, Option<String>) {
    const SMALL: &str = "reset_received";
    const AT_FUNCTIONS: [&str; 2] = ["connect_called", "connect_returned"];
    let (flows, calls, refusal) = match find(SMALL).map(|entry| load(ebpf, btf, entry)) {
        // Without the right to load anything it says nothing.
        Some(Err(ProgramError::LoadError { io_error, .. }))
            if io_error.raw_os_error() == Some(libc::EPERM) =>
        {
            (Flows::Storage, Calls::Functions, None)
        }
        Some(Err(ProgramError::LoadError { .. })) => (Flows::Cookie, Calls::Tracepoints, None),
        _ => {
            let mut programs = AT_FUNCTIONS.into_iter().filter_map(find);
            match programs.find_map(|entry| try_function(ebpf, btf, entry).err()) {
                Some(error) => {
                    let words = format!("programs at functions are refused: {}", in_short(&error));
                    (Flows::Storage, Calls::Tracepoints, Some(words))
                }
                None => (Flows::Storage, Calls::Functions, None),
            }
        }
    };
    (Way { flows, calls }, refusal)
}

/// Attached, and detached again: an architecture may take the program and not the place.
fn try_function(ebpf: &mut Ebpf, btf: &Btf, entry: &Entry) -> Result<(), ProgramError> {
    load(ebpf, btf, entry)?;
    if matches!(entry.hook, Hook::Return(_)) {
        let program = program::<FExit>(ebpf, entry)?;
        let link = program.attach()?;
        program.detach(link)
    } else {
        let program = program::<FEntry>(ebpf, entry)?;
        let link = program.attach()?;
        program.detach(link)
    }
}

/// The kernel's error alone, where there is one.
fn in_short(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, .. } => io_error.to_string(),
        ProgramError::SyscallError(error) => error.io_error.to_string(),
        other => first_lines(other),
    }
}

/// Loads every program, and then attaches them: the verifier takes its time, and what happens
/// between the first and the last is seen in part.
///
/// The packet programs are loaded here, and attached where proxies are (`packets`).
///
/// # Errors
/// A program that is needed was refused.
pub(super) fn attach_all(
    ebpf: &mut Ebpf,
    btf: &Btf,
    cgroup: BorrowedFd<'_>,
    way: Way,
) -> Result<Vec<Capability>, KernelError> {
    let loaded: Vec<_> = entries(way)
        .map(|entry| {
            let refused = entry.missing().or_else(|| {
                let refused = load(ebpf, btf, entry).err();
                refused.map(|error| first_lines(&error))
            });
            (entry, refused)
        })
        .collect();
    let mut capabilities: Vec<Capability> = Vec::new();
    for (entry, refused) in loaded {
        let refused = refused.or_else(|| {
            let refused = attach(ebpf, cgroup, entry).err();
            refused.map(|error| first_lines(&error))
        });
        if let (Some(reason), true) = (&refused, entry.needed) {
            return Err(KernelError::Program {
                name: entry.program,
                reason: reason.clone(),
            });
        }
        record(&mut capabilities, entry, refused);
    }
    add_stand_ins(&mut capabilities, way);
    Ok(capabilities)
}

/// The loaded packet programs.
///
/// # Errors
/// One is not loaded, or no descriptor is left.
pub(super) fn packet_programs(
    ebpf: &mut Ebpf,
    way: Way,
) -> Result<Vec<PacketProgram>, KernelError> {
    let mut programs = Vec::new();
    for entry in entries(way) {
        let Hook::Packets(direction) = entry.hook else {
            continue;
        };
        let refused = |error: &dyn std::error::Error| KernelError::Program {
            name: entry.program,
            reason: first_lines(error),
        };
        let loaded = program::<CgroupSkb>(ebpf, entry).map_err(|error| refused(&error))?;
        let fd = loaded.fd().map_err(|error| refused(&error))?;
        let own = fd.as_fd().try_clone_to_owned();
        programs.push(PacketProgram {
            program: own.map_err(|error| refused(&error))?,
            attach_type: attach_type(direction),
        });
    }
    Ok(programs)
}

/// Its number in `enum bpf_attach_type` (include/uapi/linux/bpf.h).
fn attach_type(direction: CgroupSkbAttachType) -> u32 {
    match direction {
        CgroupSkbAttachType::Ingress => 0,
        CgroupSkbAttachType::Egress => 1,
    }
}

/// Loads every program, for the verifier's word, and attaches those at classic tracepoints, for
/// as long as `ebpf` lives: whether that is allowed, nothing else tells. A program whose
/// tracepoint is not there counts as refused, for it could not be attached.
pub(super) fn load_all(ebpf: &mut Ebpf, btf: &Btf, way: Way) -> (Vec<Capability>, Vec<Verified>) {
    let mut capabilities: Vec<Capability> = Vec::new();
    let mut programs = Vec::new();
    for entry in entries(way) {
        let started = Instant::now();
        let refused = load(ebpf, btf, entry).err();
        programs.push(Verified {
            name: entry.program,
            capability: entry.capability,
            loaded: refused.is_none(),
            instructions: verified_instructions(ebpf, entry.program),
            took: started.elapsed(),
        });
        let reason = refused
            .map(|error| first_lines(&error))
            .or_else(|| entry.missing())
            .or_else(|| {
                let refused = entry.try_classic(ebpf)?;
                Some(first_lines(&refused))
            });
        record(&mut capabilities, entry, reason);
    }
    add_stand_ins(&mut capabilities, way);
    (capabilities, programs)
}

fn verified_instructions(ebpf: &Ebpf, name: &str) -> Option<u32> {
    let info = ebpf.program(name)?.info().ok()?;
    info.verified_instruction_count()
}

impl Entry {
    /// Why it cannot be attached at its classic tracepoint, if it is at one.
    fn try_classic(&self, ebpf: &mut Ebpf) -> Option<ProgramError> {
        let (Hook::Classic(category, name) | Hook::Cookie(category, name)) = self.hook else {
            return None;
        };
        let program = program::<TracePoint>(ebpf, self);
        program.and_then(|it| it.attach(category, name)).err()
    }

    /// Why it could not be attached or would tell nothing, if so: a classic tracepoint that this
    /// kernel lacks, or tells in another way; an error number out of reach. (A typed tracepoint is
    /// missed when it is loaded.)
    fn missing(&self) -> Option<String> {
        if self.capability == "socket_error" && Known::of_this_kernel().socket_error.is_none() {
            return Some("the kernel's BTF does not say where a socket has its error".to_owned());
        }
        let (Hook::Classic(category, name) | Hook::Cookie(category, name)) = self.hook else {
            return None;
        };
        let there = |root: &&&str| Path::new(root).join("events").is_dir();
        let Some(root) = TRACEFS.iter().find(there) else {
            return Some(why_no_tracefs());
        };
        let event = Path::new(root).join("events").join(category).join(name);
        if !event.exists() {
            return Some(format!("this kernel has no tracepoint {category}:{name}"));
        }
        let by_cookie = matches!(self.hook, Hook::Cookie(..));
        let format = fs::read_to_string(event.join("format")).unwrap_or_default();
        (by_cookie && !tells_cookie(&format)).then(|| {
            format!("the tracepoint {category}:{name} does not tell the socket where expected")
        })
    }
}

/// Why there is no folder of tracepoints.
fn why_no_tracefs() -> String {
    let closed = |root: &&str| {
        let error = fs::read_dir(root).err();
        error.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    if TRACEFS.iter().any(closed) {
        "tracefs may not be read: give CAP_DAC_READ_SEARCH, or mount it for a group of this user"
            .to_owned()
    } else {
        "tracefs is not mounted: mount -t tracefs none /sys/kernel/tracing".to_owned()
    }
}

/// Whether a tracepoint of this format has the socket's cookie where the probes read it
/// (`by_cookie.rs`).
fn tells_cookie(format: &str) -> bool {
    let mut lines = format.lines().map(str::trim_start);
    lines.any(|line| line.starts_with("field:__u64 sock_cookie;\toffset:64;"))
}

/// Where tracefs is mounted; the second one by debugfs.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Abilities that go by the cookie without a program of their own: each is on when another is.
const STAND_INS: [(&str, &str, &str); 2] = [
    ("tcp_send_reset", "resets sent, seen as packets", "packets"),
    ("tcp_retransmit", "retransmitted segments", "tcp_state"),
];

/// The same of every way.
const ENDS: (&str, &str, &str) = (
    "process_death",
    "upstream processes on this host that crash, are killed or exit",
    "tcp_state",
);

fn add_stand_ins(capabilities: &mut Vec<Capability>, way: Way) {
    let by_cookie: &[_] = match way.flows {
        Flows::Storage => &[],
        Flows::Cookie => &STAND_INS,
    };
    for (name, purpose, by) in by_cookie.iter().copied().chain([ENDS]) {
        let other = capabilities.iter().find(|other| other.name == by);
        let is_on = other.is_some_and(|other| other.available);
        let unknown = name == ENDS.0 && Known::of_this_kernel().process.is_none();
        let reason = if unknown {
            Some("the kernel's BTF does not say where it keeps how a process ends".to_owned())
        } else {
            (!is_on).then(|| format!("it goes by {by}"))
        };
        match (capabilities.iter().position(|one| one.name == name), reason) {
            (Some(_), None) => {}
            (Some(at), Some(reason)) => capabilities[at].refuse(reason),
            (None, reason) => capabilities.push(Capability {
                name,
                purpose,
                available: reason.is_none(),
                reason,
            }),
        }
    }
}

/// An ability is on when all of its programs are.
fn record(capabilities: &mut Vec<Capability>, entry: &Entry, refused: Option<String>) {
    let at = match capabilities.iter().position(|c| c.name == entry.capability) {
        Some(at) => at,
        None => {
            capabilities.push(Capability {
                name: entry.capability,
                purpose: entry.purpose,
                available: true,
                reason: None,
            });
            capabilities.len() - 1
        }
    };
    if let Some(reason) = refused {
        capabilities[at].refuse(reason);
    }
}

pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf, entry: &Entry) -> Result<(), ProgramError> {
    let loaded = match entry.hook {
        Hook::Packets(_) => program::<CgroupSkb>(ebpf, entry)?.load(),
        Hook::Typed(tracepoint) => program::<BtfTracePoint>(ebpf, entry)?.load(tracepoint, btf),
        Hook::Call(call) => program::<FEntry>(ebpf, entry)?.load(&function_of(call), btf),
        Hook::Return(call) => program::<FExit>(ebpf, entry)?.load(&function_of(call), btf),
        Hook::Classic(..) | Hook::Cookie(..) => program::<TracePoint>(ebpf, entry)?.load(),
        Hook::Callbacks => program::<SockOps>(ebpf, entry)?.load(),
    };
    match loaded {
        // By which [`way`] found out.
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        loaded => loaded,
    }
}

/// The function that serves a system call. Its one argument is where the registers were saved;
/// whoever calls it goes by a table, so that no compiler takes it apart.
fn function_of(call: &str) -> String {
    #[cfg(target_arch = "aarch64")]
    const PREFIX: &str = "__arm64_sys_";
    #[cfg(not(target_arch = "aarch64"))]
    const PREFIX: &str = "__x64_sys_";
    format!("{PREFIX}{call}")
}

/// Where the registers' structure has the first arguments of a system call, bytes: `struct pt_regs`
/// (arch/x86/include/uapi/asm/ptrace.h: rdi, rsi, rdx), `struct user_pt_regs`
/// (arch/arm64/include/uapi/asm/ptrace.h: x0, x1, x2).
#[cfg(target_arch = "aarch64")]
pub(super) const ARGUMENTS: [u32; 3] = [0, 8, 16];
#[cfg(not(target_arch = "aarch64"))]
pub(super) const ARGUMENTS: [u32; 3] = [112, 104, 96];

fn attach(ebpf: &mut Ebpf, cgroup: BorrowedFd<'_>, entry: &Entry) -> Result<(), ProgramError> {
    match entry.hook {
        Hook::Packets(_) => Ok(()),
        Hook::Typed(_) => program::<BtfTracePoint>(ebpf, entry)?.attach().map(drop),
        Hook::Call(_) => program::<FEntry>(ebpf, entry)?.attach().map(drop),
        Hook::Return(_) => program::<FExit>(ebpf, entry)?.attach().map(drop),
        Hook::Classic(category, name) | Hook::Cookie(category, name) => {
            program::<TracePoint>(ebpf, entry)?
                .attach(category, name)
                .map(drop)
        }
        // A cgroup bpf_link always stacks with others; AllowMultiple is for the older way.
        Hook::Callbacks => program::<SockOps>(ebpf, entry)?
            .attach(cgroup, CgroupAttachMode::Single)
            .map(drop),
    }
}

fn program<'a, T>(ebpf: &'a mut Ebpf, entry: &Entry) -> Result<&'a mut T, ProgramError>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(entry.program)
        .ok_or(ProgramError::UnexpectedProgramType)?
        .try_into()
}

/// The error and its causes in one line; of a verifier log only its end says why.
fn first_lines(error: &dyn std::error::Error) -> String {
    const KEPT_BYTES: usize = 600;
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.len() <= KEPT_BYTES {
        return text;
    }
    let mut start = text.len() - KEPT_BYTES;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    format!("... {}", &text[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracepoint_that_tells_the_cookie_elsewhere_is_not_used() {
        let format = "\tfield:__u16 dport;\toffset:18;\tsize:2;\tsigned:0;\n\
                      \tfield:__u64 sock_cookie;\toffset:64;\tsize:8;\tsigned:0;\n";
        assert!(tells_cookie(format));
        assert!(!tells_cookie(&format.replace("offset:64", "offset:72")));
        assert!(!tells_cookie(""));
    }

    #[test]
    fn every_way_has_all_abilities() {
        let names = |flows, calls| {
            let way = Way { flows, calls };
            let mut capabilities = Vec::new();
            for entry in entries(way) {
                record(&mut capabilities, entry, None);
            }
            add_stand_ins(&mut capabilities, way);
            let mut names: Vec<&str> = capabilities.iter().map(|one| one.name).collect();
            names.sort_unstable();
            names
        };
        let usual = names(Flows::Storage, Calls::Functions);
        assert_eq!(usual, names(Flows::Storage, Calls::Tracepoints));
        assert_eq!(usual, names(Flows::Cookie, Calls::Tracepoints));
    }
}
