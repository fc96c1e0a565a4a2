//! The programs: what each is for, what is lost without it, and how it is attached.

use aya::programs::CgroupSkbAttachType;

/// How a program is attached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hook {
    /// At the cgroups of proxies.
    Packets(CgroupSkbAttachType),
    /// A BTF-typed tracepoint.
    Typed(&'static str),
    /// Where a system call begins; its name.
    Call(&'static str),
    /// Where a system call returns; its name.
    Return(&'static str),
    /// A classic tracepoint: category, name.
    Classic(&'static str, &'static str),
    /// A classic tracepoint that tells the socket's cookie where the probes read it.
    Cookie(&'static str, &'static str),
    /// Callbacks of the sockets in the cgroup that is watched; none comes of a packet.
    Callbacks,
}

/// What this kernel lets the probes go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) flows: Flows,
    pub(super) calls: Calls,
}

impl Way {
    /// tracefs is needed, and the right to open what is in it.
    pub(super) fn uses_tracepoints(self) -> bool {
        self.flows == Flows::Cookie || self.calls == Calls::Tracepoints
    }
}

/// How a probe finds what is remembered of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flows {
    /// In the socket's own storage, from every program.
    Storage,
    /// In a map, by the socket's cookie: before 5.11, where tracepoints cannot reach the storage.
    Cookie,
}

/// How a probe sees `connect(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// At the function that serves the system call.
    Functions,
    /// At classic tracepoints, which cost every system call of the host something: where nothing
    /// can be attached to functions (arm64 before 6.4), and where others of that kind are needed
    /// anyway.
    Tracepoints,
}

pub(super) struct Entry {
    pub(super) program: &'static str,
    pub(super) capability: &'static str,
    pub(super) purpose: &'static str,
    pub(super) hook: Hook,
    /// Nothing works without it.
    pub(super) needed: bool,
}

/// In the order they are attached. The packet programs are attached when all others are, so that no
/// socket is picked up as "already open" that the state tracepoint would have seen open.
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
        program: "process_ends",
        capability: "process_death",
        purpose: "upstream processes on this host that crash, are killed or exit",
        hook: Hook::Typed("sched_process_exit"),
        needed: false,
    },
    Entry {
        program: "socket_made",
        capability: "connect_errno",
        purpose: "connects that fail without a packet",
        hook: Hook::Return("socket"),
        needed: false,
    },
    Entry {
        program: "bind_returned",
        capability: "connect_errno",
        purpose: "connects that fail without a packet",
        hook: Hook::Return("bind"),
        needed: false,
    },
    Entry {
        program: "connect_called",
        capability: "connect_errno",
        purpose: "connects that fail without a packet",
        hook: Hook::Call("connect"),
        needed: false,
    },
    Entry {
        program: "connect_returned",
        capability: "connect_errno",
        purpose: "connects that fail without a packet",
        hook: Hook::Return("connect"),
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

/// Instead of those at typed tracepoints where it is [`Flows::Cookie`]. Resets that leave are
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

/// Instead of those at functions where it is [`Calls::Tracepoints`].
const AT_TRACEPOINTS: [Entry; 6] = [
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
        program: "bind_enter",
        capability: "connect_errno",
        purpose: "connects that fail without a packet",
        hook: Hook::Classic("syscalls", "sys_enter_bind"),
        needed: false,
    },
    Entry {
        program: "bind_exit",
        capability: "connect_errno",
        purpose: "connects that fail without a packet",
        hook: Hook::Classic("syscalls", "sys_exit_bind"),
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

/// The other direction; apart only because it shares a capability.
const LAST: Entry = Entry {
    program: "packet_in",
    capability: "packets",
    purpose: "HTTP messages, timings and status codes",
    hook: Hook::Packets(CgroupSkbAttachType::Ingress),
    needed: true,
};

/// In the order in which they are attached.
pub(super) fn entries(way: Way) -> impl Iterator<Item = &'static Entry> {
    let (by_cookie, replaced): (&[Entry], &[&str]) = match way.flows {
        Flows::Storage => (&[], &[]),
        Flows::Cookie => (&BY_COOKIE, &REPLACED),
    };
    let at_tracepoints: &[Entry] = match way.calls {
        Calls::Functions => &[],
        Calls::Tracepoints => &AT_TRACEPOINTS,
    };
    let is_in_use = move |entry: &&Entry| {
        let is_function = matches!(entry.hook, Hook::Call(_) | Hook::Return(_));
        !replaced.contains(&entry.program) && (at_tracepoints.is_empty() || !is_function)
    };
    by_cookie
        .iter()
        .chain(at_tracepoints)
        .chain(CATALOG.iter().filter(is_in_use))
        .chain(std::iter::once(&LAST))
}

/// An entry of the usual way by its program.
pub(super) fn find(program: &str) -> Option<&'static Entry> {
    CATALOG.iter().find(|entry| entry.program == program)
}
