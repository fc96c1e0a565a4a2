//! What TCP says of a socket: opened, reset, failed, closed.
//!
//! A socket enters CLOSE before or after the hook that says why, by kernel version and by
//! reason (`tcp_done_with_error` reports after CLOSE since 6.11, `tcp_close` resets after
//! it, `tcp_reset` is told before it). So CLOSE without a known reason waits for the next
//! hook; `tcp_destroy_sock` always comes.

use agent_flow::flow::phase;
use agent_flow::{clients, ending, unread};
use agent_wire::record::{
    Abandoned, Connect, End, Exchange, RESET_RECEIVED, RESET_SENT, Reset, end, flag, kind,
    phase as told_phase,
};
use agent_wire::tally::Tally;

use crate::attention;
use crate::calls;
use crate::connecting;
use crate::death;
use crate::deferred;
use crate::errand;
use crate::flow::{self, Flow};
use crate::held;
use crate::kernel::{self, Sock};
use crate::listener;
use crate::log;
use crate::machine::Kernel;
use crate::output;
use crate::scope;
use crate::serving;
use crate::tallies;

/// `include/net/tcp_states.h`
mod state {
    pub(super) const ESTABLISHED: i32 = 1;
    pub(super) const SYN_SENT: i32 = 2;
    pub(super) const SYN_RECV: i32 = 3;
    pub(super) const FIN_WAIT1: i32 = 4;
    pub(super) const CLOSE: i32 = 7;
    pub(super) const CLOSE_WAIT: i32 = 8;
    pub(super) const LAST_ACK: i32 = 9;
    pub(super) const LISTEN: i32 = 10;
}

/// [`Flow::closing`]: the next hook will say why.
const CLOSING: u8 = 1;
/// The same, and the kernel did it, not the socket's own thread.
const TAKEN_DOWN: u8 = 2;

/// How often it is told at most how TCP fares on a connection that is not HTTP, ns.
const TOLD_EVERY: u64 = 1_000_000_000;

#[inline(always)]
pub(crate) fn state_changed(sk: Sock, old: i32, new: i32) {
    if old == state::CLOSE && new == state::SYN_SENT {
        opening(sk);
        return;
    }
    if new == state::LISTEN {
        serving::begins();
        return;
    }
    if old == state::SYN_RECV && new == state::ESTABLISHED {
        if let Some(flow) = flow::open(sk, sk.cookie(), true) {
            deferred::take(flow, sk);
        }
        return;
    }
    let Some(flow) = flow::of(sk) else { return };
    log::state(flow, old, new);
    if new == state::CLOSE {
        // Here, and not only when it is reported: in between, the socket's owner is woken, and may
        // have asked for the error, which takes it away (SO_ERROR).
        let number = sk.error();
        if number != 0 {
            flow.header.errno = number;
        }
    }
    if new == state::CLOSE_WAIT || new == state::CLOSE && flow.flags.has::<{ flag::PEER_RESET }>() {
        abandoned(flow, sk);
    }
    let sends_fin = new == state::FIN_WAIT1 || new == state::LAST_ACK;
    if sends_fin || new == state::CLOSE && is_own_doing(flow) {
        death::closes(flow, sk);
    }
    if new == state::CLOSE {
        entered_close(flow);
    } else if old == state::SYN_SENT && new == state::ESTABLISHED {
        connected(flow, end::COMPLETE);
    } else if new == state::CLOSE_WAIT {
        peer_closed(flow);
    } else if sends_fin {
        local_closed(flow);
    }
}

/// A SYN is about to leave.
#[inline(always)]
pub(crate) fn opening(sk: Sock) {
    // Callbacks come of what is inside only, and cannot ask.
    if !kernel::by_cookie() && !scope::is_inside() {
        return;
    }
    let cookie = sk.cookie();
    let Some(flow) = flow::open(sk, cookie, true) else {
        log::no_storage(cookie);
        return;
    };
    let now = kernel::now();
    flow.flags.set::<{ flag::ACTIVE_OPEN }>();
    flow.flags.set::<{ flag::OWN_ERRAND }>();
    flow.connecting = 1;
    flow.header.opened_ns = now;
    flow.header.tgid = connecting::thread_group();
    flow.task = kernel::task();
    flow.exchange.errand = errand::current(now);
    if attention::opens_unseen(flow.header.tgid) {
        flow.ignored = 1;
        flow.phase = phase::OPAQUE;
    }
    connecting::syn_sent(flow);
}

/// The handshake is decided.
#[inline(always)]
fn connected(flow: &mut Flow, outcome: u8) {
    flow.connecting = 0;
    if flow.ignored != 0 {
        return;
    }
    log::connected(flow, outcome);
    if outcome != end::COMPLETE {
        calls::disturbed(flow.header.tgid, kernel::now());
    }
    if outcome == end::LOCAL_CLOSE && flow.header.errno == 0 {
        // Who asks the socket for its error (SO_ERROR) gets this one, and closes it for that.
        flow.header.errno = flow.soft_error;
    }
    let listener_silent = u8::from(outcome != end::COMPLETE && listener::is_silent(flow));
    output::emit_with(kind::CONNECT, kernel::now(), |record: &mut Connect| {
        flow.head(&mut record.header);
        kernel::assign(&mut record.errand, &flow.exchange.errand);
        record.outcome = outcome;
        record.listener_silent = listener_silent;
        record.reserved = [0; 6];
    });
}

/// The peer's FIN was taken in.
#[inline(always)]
fn peer_closed(flow: &mut Flow) {
    let now = kernel::now();
    flow.flags.set::<{ flag::PEER_FIN }>();
    flow.exchange.peer_fin_ns = now;
    // A client may shut down its sending side and still read: only noted.
    if !flow.is_client_side() {
        ending::finish(&Kernel, flow, end::PEER_FIN, now);
        client_left(flow, now);
    }
}

/// The peer of a connection that is not read closed while it waited. It may be the client of an attempt
/// that is under way: its proxy will close that, and nothing else says why.
#[inline(always)]
fn client_left(flow: &mut Flow, now: u64) {
    if clients::waits(flow) && !attention::is_withdrawn(flow) {
        output::header(flow, kind::CLIENT_LEFT, now);
    }
}

/// The peer closed: tells who had read from its connection by then, where that is one of a client
/// whose first request no byte has answered. Of a later request that is not known: the one before had
/// readers.
#[inline(always)]
fn abandoned(flow: &Flow, sk: Sock) {
    let is_first = flow.flags.has::<{ flag::SEEN_OPEN }>() && flow.exchange.index == 0;
    let is_unanswered = flow.in_exchange() && flow.exchange.first_byte_ns == 0;
    if !flow.is_client_side() || !is_first || !is_unanswered || flow.closed != 0 {
        return;
    }
    let network = if kernel::by_cookie() {
        flow.network
    } else {
        sk.network()
    };
    output::emit_with(kind::ABANDONED, kernel::now(), |record: &mut Abandoned| {
        flow.head(&mut record.header);
        record.network = network;
        record.reserved = 0;
    });
}

/// This end closed or shut down.
#[inline(always)]
fn local_closed(flow: &mut Flow) {
    flow.flags.set::<{ flag::LOCAL_FIN }>();
    flow.window_counts = 1;
    if flow.task == kernel::task() {
        errand::touched(flow);
    }
    if !flow.is_client_side() {
        ending::finish(&Kernel, flow, end::LOCAL_CLOSE, kernel::now());
    }
}

#[inline(always)]
fn entered_close(flow: &mut Flow) {
    if flow.closed != 0 {
        return;
    }
    if flow.connecting != 0 && connecting::failed_in_call(flow) {
        flow.connecting = 0;
        flow.closed = 1;
        return;
    }
    let idle = flow.connecting == 0
        && !flow.in_exchange()
        && flow.phase != phase::HANDSHAKE
        && !unread::in_use(flow);
    // A reset of ours that left before CLOSE was no close(2): the kernel gave up on its keep-alive
    // probes, and says so next (tcp_keepalive_timer, net/ipv4/tcp_timer.c).
    if idle || flow.flags.has::<{ flag::PEER_RESET }>() || flow.header.errno != 0 {
        closed(flow);
    } else {
        flow.closing = if kernel::by_cookie() && !connecting::acts_itself(flow) {
            TAKEN_DOWN
        } else {
            CLOSING
        };
    }
}

/// The socket went to CLOSE without a FIN of ours, a reset received or an error: its owner closed it
/// with data unread, or took it down (`__tcp_close`, `tcp_disconnect`, net/ipv4/tcp.c).
#[inline(always)]
fn is_own_doing(flow: &Flow) -> bool {
    let for_another_reason = flow.flags.has::<{ flag::LOCAL_FIN }>()
        || flow.flags.has::<{ flag::PEER_RESET }>()
        || flow.header.errno != 0;
    flow.closed == 0
        && flow.connecting == 0
        && !for_another_reason
        && (!kernel::by_cookie() || connecting::acts_itself(flow))
}

/// The connection is gone and everything that will be known of why is known.
#[inline(always)]
fn closed(flow: &mut Flow) {
    if flow.closed != 0 {
        return;
    }
    let taken_down = flow.closing == TAKEN_DOWN;
    flow.closed = 1;
    flow.closing = 0;
    let how = if flow.flags.has::<{ flag::PEER_RESET }>() {
        end::PEER_RESET
    } else if flow.header.errno != 0 {
        end::KERNEL_ERROR
    } else if flow.flags.has::<{ flag::LOCAL_RESET }>() {
        end::LOCAL_RESET
    } else if taken_down {
        end::KERNEL_ERROR
    } else {
        end::LOCAL_CLOSE
    };
    log::closed(flow, how);
    if flow.connecting != 0 {
        connected(flow, how);
    }
    let now = kernel::now();
    ending::finish(&Kernel, flow, how, now);
    held::let_go(flow);
    if flow.is_told() {
        // In place, as the others: a callback has no stack to spare.
        output::emit_with(kind::CLOSE, now, |record: &mut End| {
            flow.head(&mut record.header);
            record.exchange = Exchange::default();
            record.exchange.request_bytes = u64::from(flow.talked);
        });
    }
}

/// Its process, which is known since it read, is to be left alone; a request may have been told.
#[inline(always)]
pub(crate) fn found_ignored(flow: &mut Flow) {
    if flow.in_exchange() {
        output::header(flow, kind::IGNORED, kernel::now());
    }
    ignore(flow);
}

/// Nothing more is told of it, its end neither: the daemon forgets what is idle.
#[inline(always)]
pub(crate) fn ignore(flow: &mut Flow) {
    flow.ignored = 1;
    flow.phase = phase::OPAQUE;
}

#[inline(always)]
pub(crate) fn reset_received(flow: &mut Flow) {
    reset(flow, RESET_RECEIVED, 0);
    flow.flags.set::<{ flag::PEER_RESET }>();
    let closing = flow.flags.has::<{ flag::PEER_FIN }>() || flow.flags.has::<{ flag::LOCAL_FIN }>();
    if !closing {
        client_left(flow, kernel::now());
    }
}

/// The reset that was noted; why, no old kernel tells.
#[inline(always)]
pub(crate) fn tell_reset_sent(flow: &mut Flow) {
    reset(flow, RESET_SENT, 0);
}

#[inline(always)]
pub(crate) fn reset_sent(flow: &mut Flow, reason: u8) {
    reset(flow, RESET_SENT, reason);
    if !flow.flags.has::<{ flag::PEER_RESET }>() {
        flow.flags.set::<{ flag::LOCAL_RESET }>();
    }
    if flow.task == kernel::task() {
        errand::touched(flow);
    }
    if flow.closing != 0 {
        closed(flow);
    }
}

#[inline(always)]
fn reset(flow: &mut Flow, direction: u8, reason: u8) {
    if !flow.is_told() {
        return;
    }
    log::reset(flow, direction);
    let told = if flow.connecting != 0 {
        told_phase::CONNECT
    } else {
        match flow.phase {
            phase::REQUEST_HEAD | phase::REQUEST => told_phase::REQUEST,
            phase::RESPONSE_HEAD => told_phase::HEAD,
            phase::RESPONSE_BODY => told_phase::BODY,
            phase::TUNNEL | phase::OPAQUE | phase::PARKED => told_phase::OPAQUE,
            _ => told_phase::IDLE,
        }
    };
    output::emit_with(kind::RESET, kernel::now(), |record: &mut Reset| {
        flow.head(&mut record.header);
        record.phase = told;
        record.direction = direction;
        record.reason = u16::from(reason);
        record.reserved = 0;
    });
}

#[inline(always)]
pub(crate) fn retransmitted(flow: &mut Flow) {
    if flow.connecting == 0 {
        flow.header.retransmits = flow.header.retransmits.wrapping_add(1);
        flow.flags.clear::<{ flag::PEER_ANSWERS }>();
        fares(flow);
    }
}

/// A connection without messages is told of when it is closed, which a pool's may never be: a
/// retransmission on it is told at once, though not more often than every second.
#[inline(always)]
fn fares(flow: &mut Flow) {
    let now = kernel::now();
    if flow.phase < phase::TUNNEL || !flow.is_told() || now - flow.fares_ns < TOLD_EVERY {
        return;
    }
    flow.fares_ns = now;
    output::header(flow, kind::TCP, now);
}

/// The kernel has an error for whoever uses the socket; its number is 0 when that was taken in
/// already, or when it does not end the connection.
#[inline(always)]
pub(crate) fn error_reported(flow: &mut Flow, sk: Sock) {
    let number = sk.error();
    if number == 0 {
        flow.soft_error = sk.icmp_error();
        flow.flags.set::<{ flag::SOFT_ERROR }>();
        return;
    }
    // Whatever the network does is known before the socket enters CLOSE. After it tcp_disconnect()
    // (net/ipv4/tcp.c) reports what its owner does: HAProxy gives up a connect with SO_LINGER 0.
    if flow.closing != 0 {
        closed(flow);
        return;
    }
    flow.header.errno = number;
}

#[inline(always)]
pub(crate) fn destroyed(flow: &mut Flow) {
    if flow.task == kernel::task() {
        errand::touched(flow);
    }
    let under_way = flow.connecting != 0 || flow.in_exchange();
    if flow.closed == 0 && flow.closing == 0 && under_way {
        // No socket is destroyed before it is in CLOSE. What a thread does to its own socket is
        // seen; so it was an interrupt, where the kernel ran no probe.
        tallies::count(Tally::STATE_MISSED);
        flow.closing = TAKEN_DOWN;
    }
    closed(flow);
}
