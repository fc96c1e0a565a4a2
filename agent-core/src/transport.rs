//! What carried an attempt: the connection beneath the messages, and what it shows of them.
//!
//! In: the records of a connection, as far as they are of its transport. Out: answers to what a rule
//! asks of any transport: whether there was a connection, what was delivered, whether the peer is
//! there, who closed. Only this file knows by which segment, flag or errno TCP shows that, and what it
//! cannot show of another transport is not known. It decides no cause.

#[cfg(test)]
mod tests;

use std::num::NonZero;

use crate::cause::How;
use crate::errno;
use crate::event::Evidence;
use crate::observation::{ConnectOutcome, End, Flags, Nanos, Socket};

/// The transport of one connection.
#[derive(Debug)]
pub(crate) enum Transport {
    /// TCP: packets are seen.
    Tcp(Tcp),
    /// A Unix stream socket: what connect(2) returned is all that is seen.
    Unix(Unix),
    /// Nothing was seen of the connection.
    Unknown,
}

/// What is known of a TCP connection.
#[derive(Debug)]
pub(crate) struct Tcp {
    /// Why there is no connection; `None` where there is one.
    not_connected: Option<NotConnected>,
    flags: Flags,
    /// In few bytes: there is one of it in each attempt under way.
    errno: Option<NonZero<u16>>,
    syns: u16,
    /// Segments retransmitted on the connection before this attempt, and by its last record.
    retransmits_before: u32,
    retransmits: u32,
    srtt_us: Option<u32>,
}

/// What is known of a connection between Unix sockets.
#[derive(Debug)]
pub(crate) struct Unix {
    /// Why there is no connection; `None` where there is one.
    not_connected: Option<NotConnected>,
    errno: Option<u16>,
}

/// By what a connect was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connect {
    /// By the handshake.
    Handshake {
        /// What it came to.
        outcome: ConnectOutcome,
        /// A listener on this host got the SYN and did not answer it.
        listener_silent: bool,
    },
    /// By connect(2) before any packet left.
    Call,
    /// By connect(2) on a Unix socket.
    UnixCall,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotConnected {
    /// This host did not try: it has no port, no descriptor or no permission.
    LocalError,
    /// No route leads to the peer, or something on the way says that it cannot be reached.
    Unreachable(How),
    /// Nobody listens there, and the peer, its kernel or something on the way says so.
    Refused(How),
    /// The kernel of this host says that the listener's queue is full.
    QueueFull,
    /// A listener on this host was asked and did not answer, until this end or the kernel gave up.
    ListenerSilent(How),
    /// Nothing answered, until this end or the kernel gave up.
    Unanswered(How),
    /// None of these.
    Unclear,
}

/// How much of what was sent has arrived at the peer's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// Nothing of it.
    Nothing,
    /// Part of it.
    Part,
    /// All of it.
    All,
    /// The transport does not show it, or nothing was sent.
    Unknown,
}

/// Who closed a connection under an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClosedBy {
    /// The peer, in order.
    Peer,
    /// The peer, by a reset.
    PeerReset,
    /// This end.
    Local,
    /// The kernel gave up.
    Kernel,
    /// Nobody: the connection goes on, or how it ended is not known.
    Nobody,
}

impl NotConnected {
    /// What a connect came to; `None` when it succeeded.
    pub(crate) fn of(socket: &Socket, connect: Connect) -> Option<Self> {
        let errno = socket.errno;
        match connect {
            Connect::Handshake {
                outcome,
                listener_silent,
            } => {
                let soft = socket.flags.soft_error();
                Self::of_handshake(outcome, errno, soft, listener_silent)
            }
            Connect::Call => errno.map(|errno| match errno {
                errno::ENETUNREACH | errno::EHOSTUNREACH if socket.flags.soft_error() => {
                    Self::Unreachable(How::Icmp)
                }
                errno::ENETUNREACH | errno::EHOSTUNREACH => Self::Unreachable(How::Errno),
                errno::ECONNREFUSED => Self::Refused(How::Errno),
                errno::ETIMEDOUT => Self::Unanswered(How::Errno),
                _ => Self::LocalError,
            }),
            // Nobody listens on the path, or there is no such path. For EAGAIN see unix_stream_connect
            // (net/unix/af_unix.c).
            Connect::UnixCall => errno.map(|errno| match errno {
                errno::ECONNREFUSED | errno::ENOENT => Self::Refused(How::Errno),
                errno::EAGAIN => Self::QueueFull,
                _ => Self::LocalError,
            }),
        }
    }

    fn of_handshake(
        outcome: ConnectOutcome,
        errno: Option<u16>,
        soft: bool,
        listener_silent: bool,
    ) -> Option<Self> {
        let unanswered = if listener_silent {
            Self::ListenerSilent
        } else {
            Self::Unanswered
        };
        let by = if soft { How::Icmp } else { How::Errno };
        Some(match (outcome, errno) {
            (ConnectOutcome::Established, _) => return None,
            (ConnectOutcome::Reset, _) => Self::Refused(How::Rst),
            // As kube-proxy refuses for a Service without endpoints.
            (ConnectOutcome::ClosedByUs, Some(errno::ECONNREFUSED)) if soft => {
                Self::Refused(How::Icmp)
            }
            (ConnectOutcome::ClosedByUs, _) if soft => Self::Unreachable(How::Icmp),
            (ConnectOutcome::ClosedByUs, _) => unanswered(How::Timeout),
            (ConnectOutcome::KernelError, Some(errno::ENETUNREACH | errno::EHOSTUNREACH)) => {
                Self::Unreachable(by)
            }
            (ConnectOutcome::KernelError, Some(errno::ECONNREFUSED)) => Self::Refused(by),
            (ConnectOutcome::KernelError, Some(errno::ETIMEDOUT)) => unanswered(How::Errno),
            (ConnectOutcome::KernelError, _) => Self::Unclear,
        })
    }

    /// Nothing answered, and this end gave up.
    pub(crate) fn is_given_up(self) -> bool {
        matches!(
            self,
            Self::ListenerSilent(How::Timeout) | Self::Unanswered(How::Timeout)
        )
    }

    /// This end closed it in the end, whatever something on the way had said.
    pub(crate) fn is_closed_here(self) -> bool {
        let by_icmp = matches!(
            self,
            Self::Unreachable(How::Icmp) | Self::Refused(How::Icmp)
        );
        by_icmp || self.is_given_up()
    }
}

impl Transport {
    /// Of a connect, which may have failed.
    pub(crate) fn of_connect(socket: &Socket, connect: Connect) -> Self {
        let not_connected = NotConnected::of(socket, connect);
        match connect {
            Connect::Handshake { .. } | Connect::Call => {
                Self::Tcp(Tcp::new(socket, not_connected, 0, 0))
            }
            Connect::UnixCall => Self::Unix(Unix {
                not_connected,
                errno: socket.errno,
            }),
        }
    }

    /// Of a connection on which no request was sent.
    pub(crate) fn unused(socket: &Socket) -> Self {
        Self::Tcp(Tcp::new(socket, None, 0, 0))
    }

    /// Of a connection on which a request was sent; `retransmits_before` segments were retransmitted
    /// on it before that.
    pub(crate) fn used(socket: &Socket, retransmits_before: u32) -> Self {
        let retransmits = socket.retransmits;
        Self::Tcp(Tcp::new(socket, None, retransmits_before, retransmits))
    }

    /// Takes in a later record of the same connection.
    pub(crate) fn update(&mut self, socket: &Socket) {
        match self {
            Self::Tcp(tcp) => tcp.update(socket),
            Self::Unix(_) | Self::Unknown => {}
        }
    }

    /// Why there is no connection; `None` where there is one.
    pub(crate) fn not_connected(&self) -> Option<NotConnected> {
        match self {
            Self::Tcp(tcp) => tcp.not_connected,
            Self::Unix(unix) => unix.not_connected,
            Self::Unknown => None,
        }
    }

    /// The peer was asked for a connection more than once.
    pub(crate) fn asked_again(&self) -> bool {
        self.tcp().is_some_and(|tcp| tcp.syns > 1)
    }

    /// How much has arrived of `sent` bytes, of which the peer acknowledged `acked`.
    pub(crate) fn delivered(&self, sent: u64, acked: u64) -> Delivered {
        match (self, acked) {
            (Self::Unix(_) | Self::Unknown, _) => Delivered::Unknown,
            (Self::Tcp(_), _) if sent == 0 => Delivered::Unknown,
            (Self::Tcp(_), 0) => Delivered::Nothing,
            (Self::Tcp(_), acked) if acked < sent => Delivered::Part,
            (Self::Tcp(_), _) => Delivered::All,
        }
    }

    /// Something was sent again during the attempt, and more than once: the loss of one packet does not
    /// explain it.
    pub(crate) fn was_sent_again(&self) -> bool {
        self.tcp().is_some_and(|tcp| tcp.retransmits() >= 2)
    }

    /// The peer's host has answered since something was sent again, or says that there is no room for
    /// more.
    pub(crate) fn peer_is_there(&self) -> bool {
        self.peer_stopped_reading() || self.tcp().is_some_and(|tcp| tcp.flags.peer_answers())
    }

    /// The peer's host has no room for more: nobody reads there.
    pub(crate) fn peer_stopped_reading(&self) -> bool {
        self.tcp().is_some_and(|tcp| tcp.flags.zero_window())
    }

    /// The peer has reset the connection.
    pub(crate) fn was_reset(&self) -> bool {
        self.tcp().is_some_and(|tcp| tcp.flags.peer_reset())
    }

    /// The reset does not acknowledge anything. A socket that is closed with data unread, or aborted, says what
    /// it has received (`tcp_send_active_reset`, net/ipv4/tcp_output.c); this is what is sent where there is no
    /// socket any more, or by something on the way.
    pub(crate) fn was_reset_by_no_socket(&self) -> bool {
        self.tcp()
            .is_some_and(|tcp| tcp.flags.peer_reset() && !tcp.flags.reset_had_ack())
    }

    /// Somebody on this host had the kernel end the connection (`ss -K`; tcp_abort, net/ipv4/tcp.c).
    pub(crate) fn was_aborted(&self) -> bool {
        self.tcp()
            .is_some_and(|tcp| tcp.errno() == Some(errno::ECONNABORTED))
    }

    /// This end sent after the peer had closed: in CLOSE_WAIT a reset is EPIPE (tcp_reset,
    /// net/ipv4/tcp_input.c).
    pub(crate) fn sent_after_close(&self) -> bool {
        self.tcp()
            .is_some_and(|tcp| tcp.errno() == Some(errno::EPIPE))
    }

    /// Who closed the connection, where an exchange or a TLS handshake on it ended by `end`;
    /// `peer_closed_first` when the peer's close had come by then.
    pub(crate) fn closed_by(&self, end: End, peer_closed_first: bool) -> ClosedBy {
        match end {
            End::PeerFin => ClosedBy::Peer,
            End::PeerReset => ClosedBy::PeerReset,
            End::LocalClose | End::LocalReset if peer_closed_first => ClosedBy::Peer,
            End::LocalClose | End::LocalReset => ClosedBy::Local,
            End::KernelError => match self.tcp().and_then(Tcp::errno) {
                Some(errno::ECONNRESET | errno::EPIPE) => ClosedBy::PeerReset,
                _ => ClosedBy::Kernel,
            },
            End::Complete | End::Superseded | End::Tunnel => ClosedBy::Nobody,
        }
    }

    /// To the peer and back, ns; `None` when it was not measured.
    pub(crate) fn round_trip(&self) -> Option<Nanos> {
        let us = self.tcp()?.srtt_us?;
        Some(Nanos::from(us) * 1000)
    }

    /// The numbers that are reported of it, where the connection was closed by `closed_by`.
    pub(crate) fn evidence(&self, closed_by: ClosedBy) -> Evidence {
        match self {
            Self::Tcp(tcp) => {
                let reset = tcp.flags.peer_reset() || closed_by == ClosedBy::PeerReset;
                Evidence {
                    errno: tcp.errno(),
                    syns: tcp.syns,
                    retransmits: tcp.retransmits(),
                    reset_had_ack: reset.then(|| tcp.flags.reset_had_ack()),
                    srtt_us: tcp.srtt_us,
                    zero_window: tcp.flags.zero_window(),
                    ..Evidence::default()
                }
            }
            Self::Unix(unix) => Evidence {
                errno: unix.errno,
                ..Evidence::default()
            },
            Self::Unknown => Evidence::default(),
        }
    }

    fn tcp(&self) -> Option<&Tcp> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Unix(_) | Self::Unknown => None,
        }
    }
}

impl Tcp {
    fn new(
        socket: &Socket,
        not_connected: Option<NotConnected>,
        retransmits_before: u32,
        retransmits: u32,
    ) -> Self {
        Self {
            not_connected,
            flags: socket.flags,
            errno: socket.errno.and_then(NonZero::new),
            syns: socket.syns,
            retransmits_before,
            retransmits,
            srtt_us: socket.srtt_us,
        }
    }

    fn update(&mut self, socket: &Socket) {
        self.flags = Flags(self.flags.0 | socket.flags.0);
        self.errno = socket.errno.and_then(NonZero::new).or(self.errno);
        self.retransmits = self.retransmits.max(socket.retransmits);
        self.srtt_us = socket.srtt_us.or(self.srtt_us);
    }

    fn errno(&self) -> Option<u16> {
        self.errno.map(NonZero::get)
    }

    /// Segments retransmitted during the attempt.
    fn retransmits(&self) -> u32 {
        self.retransmits.saturating_sub(self.retransmits_before)
    }
}

/// A socket that is closed with SO_LINGER 0 while its SYN is not answered has ECONNRESET for an error
/// (`tcp_disconnect`, net/ipv4/tcp.c), and nobody sent a RST: one that answers a SYN gives ECONNREFUSED
/// (`tcp_reset`, net/ipv4/tcp_input.c). HAProxy closes so when `timeout connect` has run out.
pub(crate) fn given_up(socket: &Socket, outcome: ConnectOutcome) -> (Socket, ConnectOutcome) {
    let closed = outcome == ConnectOutcome::KernelError
        && socket.errno == Some(errno::ECONNRESET)
        && !socket.flags.peer_reset();
    if closed {
        let socket = Socket {
            errno: None,
            ..socket.clone()
        };
        (socket, ConnectOutcome::ClosedByUs)
    } else {
        (socket.clone(), outcome)
    }
}

/// connect(2) has decided nothing yet, or did so before.
pub(crate) fn is_under_way(socket: &Socket) -> bool {
    let under_way = [
        errno::EINTR,
        errno::EISCONN,
        errno::EALREADY,
        errno::EINPROGRESS,
    ];
    socket.errno.is_some_and(|errno| under_way.contains(&errno))
}

/// The peer has closed the connection.
pub(crate) fn peer_closed(socket: &Socket) -> bool {
    socket.flags.peer_fin() || socket.flags.peer_reset()
}

/// How a connection ended on which no request was sent, where the peer closed it, or spoke before it was
/// asked and this end would not hear it.
pub(crate) fn ended_unused(socket: &Socket) -> Option<End> {
    let flags = socket.flags;
    match (flags.peer_reset(), flags.peer_fin(), flags.not_http()) {
        (true, _, _) => Some(End::PeerReset),
        (_, true, _) => Some(End::PeerFin),
        (_, _, true) => Some(End::LocalClose),
        (false, false, false) => None,
    }
}
