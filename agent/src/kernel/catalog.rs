//! The programs: what each is for, what is lost without it, and how it is attached.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, Program, ProgramError,
    SockOps, TracePoint,
};
use aya::{Btf, Ebpf};

use super::{KernelError, struct_layout};

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

/// How a program is attached.
#[derive(Clone, Copy, Debug)]
enum Hook {
    /// At the cgroup.
    Packets(CgroupSkbAttachType),
    /// A BTF-typed tracepoint.
    Typed(&'static str),
    /// A classic tracepoint: category, name.
    Classic(&'static str, &'static str),
    /// A classic tracepoint that tells the socket's cookie where the probes read it.
    Cookie(&'static str, &'static str),
    /// Callbacks of the sockets in the cgroup.
    Callbacks,
}

/// How a probe finds what is remembered of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// In the socket's own storage, from every program.
    Storage,
    /// In a map, by the socket's cookie: before 5.11, where tracepoints cannot reach the storage.
    Cookie,
}

pub(super) struct Entry {
    pub(super) program: &'static str,
    capability: &'static str,
    purpose: &'static str,
    hook: Hook,
    /// Nothing works without it.
    needed: bool,
}

/// In the order they are attached. The packet programs come last, so that no socket is picked up
/// as "already open" that the state tracepoint would have seen open.
const CATALOG: [Entry; 13] = [
    Entry {
        program: "state_changed",
        capability: "tcp_state",
        purpose: "connects, connect failures and closes",
        hook: Hook::Typed("inet_sock_set_state"),
        needed: false,
    },
    Entry {
        program: "reset_received",
        capability: "tcp_receive_reset",
        purpose: "resets received",
        hook: Hook::Typed("tcp_receive_reset"),
        needed: false,
    },
    Entry {
        program: "reset_sent",
        capability: "tcp_send_reset",
        purpose: "resets sent",
        hook: Hook::Typed("tcp_send_reset"),
        needed: false,
    },
    Entry {
        program: "retransmitted",
        capability: "tcp_retransmit",
        purpose: "retransmitted segments",
        hook: Hook::Typed("tcp_retransmit_skb"),
        needed: false,
    },
    Entry {
        program: "error_reported",
        capability: "socket_error",
        purpose: "which error the kernel gave a connection up with",
        hook: Hook::Typed("inet_sk_error_report"),
        needed: false,
    },
    Entry {
        program: "destroyed",
        capability: "tcp_destroy",
        purpose: "ends of failed sockets",
        hook: Hook::Typed("tcp_destroy_sock"),
        needed: false,
    },
    Entry {
        program: "data_read",
        capability: "reader_join",
        purpose: "which thread reads which client, the strongest join of attempt and request",
        hook: Hook::Typed("tcp_rcv_space_adjust"),
        needed: false,
    },
    Entry {
        program: "socket_enter",
        capability: "connect_errno",
        purpose: "connects that fail without a packet",
        hook: Hook::Classic("syscalls", "sys_enter_socket"),
        needed: false,
    },
    Entry {
        program: "socket_exit",
        capability: "connect_errno",
        purpose: "connects that fail without a packet",
        hook: Hook::Classic("syscalls", "sys_exit_socket"),
        needed: false,
    },
    Entry {
        program: "connect_enter",
        capability: "connect_errno",
        purpose: "connects that fail without a packet",
        hook: Hook::Classic("syscalls", "sys_enter_connect"),
        needed: false,
    },
    Entry {
        program: "connect_exit",
        capability: "connect_errno",
        purpose: "connects that fail without a packet",
        hook: Hook::Classic("syscalls", "sys_exit_connect"),
        needed: false,
    },
    Entry {
        program: "signal_delivered",
        capability: "process_death",
        purpose: "upstream processes on this host that crash or are killed",
        hook: Hook::Classic("signal", "signal_deliver"),
        needed: false,
    },
    Entry {
        program: "packet_out",
        capability: "packets",
        purpose: "HTTP messages, timings and status codes",
        hook: Hook::Packets(CgroupSkbAttachType::Egress),
        needed: true,
    },
];

/// Instead of those at typed tracepoints where the way is [`Way::Cookie`]. Resets that leave are
/// seen by the packet programs; errors are told by nothing.
const BY_COOKIE: [Entry; 4] = [
    Entry {
        program: "state_callback",
        capability: "tcp_state",
        purpose: "connects, connect failures and closes, told by callbacks",
        hook: Hook::Callbacks,
        needed: false,
    },
    Entry {
        program: "reset_received_by_cookie",
        capability: "tcp_receive_reset",
        purpose: "resets received",
        hook: Hook::Cookie("tcp", "tcp_receive_reset"),
        needed: false,
    },
    Entry {
        program: "destroyed_by_cookie",
        capability: "tcp_destroy",
        purpose: "ends of failed sockets",
        hook: Hook::Cookie("tcp", "tcp_destroy_sock"),
        needed: false,
    },
    Entry {
        program: "data_read_by_cookie",
        capability: "reader_join",
        purpose: "which thread reads which client, the strongest join of attempt and request",
        hook: Hook::Cookie("tcp", "tcp_rcv_space_adjust"),
        needed: false,
    },
];

/// What [`BY_COOKIE`] has a stand-in for, in its own or in the packet programs.
const REPLACED: [&str; 6] = [
    "state_changed",
    "reset_received",
    "reset_sent",
    "retransmitted",
    "destroyed",
    "data_read",
];

/// The other direction; apart only because it shares a capability and must be last.
const LAST: Entry = Entry {
    program: "packet_in",
    capability: "packets",
    purpose: "HTTP messages, timings and status codes",
    hook: Hook::Packets(CgroupSkbAttachType::Ingress),
    needed: true,
};

/// In the order in which they are attached.
pub(super) fn entries(way: Way) -> impl Iterator<Item = &'static Entry> {
    let (instead, replaced): (&[Entry], &[&str]) = match way {
        Way::Storage => (&[], &[]),
        Way::Cookie => (&BY_COOKIE, &REPLACED),
    };
    instead
        .iter()
        .chain(
            CATALOG
                .iter()
                .filter(|entry| !replaced.contains(&entry.program)),
        )
        .chain(std::iter::once(&LAST))
}

/// Which way this kernel allows: a small program is shown to it that goes by the storage.
pub(super) fn way(ebpf: &mut Ebpf, btf: &Btf) -> Way {
    const SMALL: &str = "reset_received";
    let found = CATALOG.iter().find(|entry| entry.program == SMALL);
    match found.map(|entry| load(ebpf, btf, entry)) {
        // Without the right to load anything it says nothing.
        Some(Err(ProgramError::LoadError { io_error, .. }))
            if io_error.raw_os_error() != Some(libc::EPERM) =>
        {
            Way::Cookie
        }
        _ => Way::Storage,
    }
}

/// Loads every program, and then attaches them: the verifier takes its time, and what happens
/// between the first and the last is seen in part.
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
        if self.capability == "socket_error" && struct_layout::socket_error().is_none() {
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

fn add_stand_ins(capabilities: &mut Vec<Capability>, way: Way) {
    if way == Way::Storage {
        return;
    }
    for (name, purpose, by) in STAND_INS {
        let other = capabilities.iter().find(|other| other.name == by);
        let available = other.is_some_and(|other| other.available);
        capabilities.push(Capability {
            name,
            purpose,
            available,
            reason: (!available).then(|| format!("it goes by {by}")),
        });
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
        capabilities[at].available = false;
        capabilities[at].reason = Some(reason);
    }
}

pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf, entry: &Entry) -> Result<(), ProgramError> {
    let loaded = match entry.hook {
        Hook::Packets(_) => program::<CgroupSkb>(ebpf, entry)?.load(),
        Hook::Typed(tracepoint) => program::<BtfTracePoint>(ebpf, entry)?.load(tracepoint, btf),
        Hook::Classic(..) | Hook::Cookie(..) => program::<TracePoint>(ebpf, entry)?.load(),
        Hook::Callbacks => program::<SockOps>(ebpf, entry)?.load(),
    };
    match loaded {
        // By which [`way`] found out.
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        loaded => loaded,
    }
}

fn attach(ebpf: &mut Ebpf, cgroup: BorrowedFd<'_>, entry: &Entry) -> Result<(), ProgramError> {
    match entry.hook {
        // A cgroup bpf_link always stacks with others; AllowMultiple is for the older way.
        Hook::Packets(direction) => program::<CgroupSkb>(ebpf, entry)?
            .attach(cgroup, direction, CgroupAttachMode::Single)
            .map(drop),
        Hook::Typed(_) => program::<BtfTracePoint>(ebpf, entry)?.attach().map(drop),
        Hook::Classic(category, name) | Hook::Cookie(category, name) => {
            program::<TracePoint>(ebpf, entry)?
                .attach(category, name)
                .map(drop)
        }
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
        let names = |way| {
            let mut capabilities = Vec::new();
            for entry in entries(way) {
                record(&mut capabilities, entry, None);
            }
            add_stand_ins(&mut capabilities, way);
            let mut names: Vec<&str> = capabilities.iter().map(|one| one.name).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(Way::Storage), names(Way::Cookie));
    }
}
