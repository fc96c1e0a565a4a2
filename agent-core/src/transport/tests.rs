//! Each transport's answers, as tables.

use std::net::SocketAddr;

use agent_wire::record::flag;

use super::*;
use crate::observation::Side;

fn socket(errno: Option<u16>, flags: u16) -> Socket {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    Socket {
        cookie: 1,
        time: 1,
        side: Side::Upstream,
        tgid: None,
        opened: None,
        local: nowhere,
        remote: nowhere,
        errno,
        syns: 1,
        retransmits: 5,
        srtt_us: Some(200),
        flags: Flags(flags),
    }
}

#[test]
fn a_failed_connect_says_why() {
    let handshake = |outcome, listener_silent| Connect::Handshake {
        outcome,
        listener_silent,
    };
    let kernel = |silent| handshake(ConnectOutcome::KernelError, silent);
    let closed = |silent| handshake(ConnectOutcome::ClosedByUs, silent);
    let reset = handshake(ConnectOutcome::Reset, false);
    let soft = flag::SOFT_ERROR;
    for (connect, errno, flags, expected) in [
        (reset, None, 0, NotConnected::Refused(How::Rst)),
        (
            kernel(false),
            Some(111),
            0,
            NotConnected::Refused(How::Errno),
        ),
        (
            kernel(false),
            Some(111),
            soft,
            NotConnected::Refused(How::Icmp),
        ),
        (
            kernel(false),
            Some(113),
            0,
            NotConnected::Unreachable(How::Errno),
        ),
        (
            kernel(false),
            Some(113),
            soft,
            NotConnected::Unreachable(How::Icmp),
        ),
        (
            kernel(false),
            Some(110),
            0,
            NotConnected::Unanswered(How::Errno),
        ),
        (
            kernel(true),
            Some(110),
            0,
            NotConnected::ListenerSilent(How::Errno),
        ),
        (kernel(true), Some(105), 0, NotConnected::Unclear),
        (kernel(false), None, 0, NotConnected::Unclear),
        (
            closed(false),
            None,
            0,
            NotConnected::Unanswered(How::Timeout),
        ),
        (
            closed(true),
            None,
            0,
            NotConnected::ListenerSilent(How::Timeout),
        ),
        (
            closed(true),
            Some(113),
            soft,
            NotConnected::Unreachable(How::Icmp),
        ),
        (
            closed(false),
            Some(111),
            soft,
            NotConnected::Refused(How::Icmp),
        ),
        (
            Connect::Call,
            Some(111),
            0,
            NotConnected::Refused(How::Errno),
        ),
        (
            Connect::Call,
            Some(101),
            0,
            NotConnected::Unreachable(How::Errno),
        ),
        (
            Connect::Call,
            Some(110),
            0,
            NotConnected::Unanswered(How::Errno),
        ),
        (Connect::Call, Some(99), 0, NotConnected::LocalError),
        (
            Connect::UnixCall,
            Some(2),
            0,
            NotConnected::Refused(How::Errno),
        ),
        (Connect::UnixCall, Some(11), 0, NotConnected::QueueFull),
        (Connect::UnixCall, Some(13), 0, NotConnected::LocalError),
    ] {
        let socket = socket(errno, flags);
        let found = Transport::of_connect(&socket, connect).not_connected();
        assert_eq!(found, Some(expected), "{connect:?} {errno:?} {flags}");
    }
    for connect in [
        handshake(ConnectOutcome::Established, false),
        Connect::UnixCall,
    ] {
        let transport = Transport::of_connect(&socket(None, 0), connect);
        assert_eq!(transport.not_connected(), None, "{connect:?}");
    }
}

#[test]
fn what_was_delivered_is_known_of_tcp_alone() {
    let tcp = || Transport::unused(&socket(None, 0));
    let unix = || Transport::of_connect(&socket(None, 0), Connect::UnixCall);
    for (transport, sent, acked, expected) in [
        (tcp(), 0, 0, Delivered::Unknown),
        (tcp(), 10, 0, Delivered::Nothing),
        (tcp(), 10, 9, Delivered::Part),
        (tcp(), 10, 10, Delivered::All),
        (unix(), 10, 10, Delivered::Unknown),
        (Transport::Unknown, 10, 0, Delivered::Unknown),
    ] {
        let found = transport.delivered(sent, acked);
        assert_eq!(found, expected, "{transport:?} {sent} {acked}");
    }
}

#[test]
fn who_closed_first_closed() {
    for (errno, end, peer_closed_first, expected) in [
        (None, End::PeerFin, true, ClosedBy::Peer),
        (None, End::PeerReset, false, ClosedBy::PeerReset),
        (None, End::LocalClose, true, ClosedBy::Peer),
        (None, End::LocalReset, false, ClosedBy::Local),
        (
            Some(errno::EPIPE),
            End::KernelError,
            true,
            ClosedBy::PeerReset,
        ),
        (
            Some(errno::ETIMEDOUT),
            End::KernelError,
            false,
            ClosedBy::Kernel,
        ),
        (None, End::Complete, true, ClosedBy::Nobody),
    ] {
        let transport = Transport::unused(&socket(errno, 0));
        let found = transport.closed_by(end, peer_closed_first);
        assert_eq!(found, expected, "{errno:?} {end:?}");
    }
}

#[test]
fn what_another_attempt_sent_again_does_not_count() {
    let fresh = Transport::used(&socket(None, 0), 0);
    let reused = Transport::used(&socket(None, 0), 4);
    assert!(fresh.was_sent_again());
    assert!(!reused.was_sent_again());
}

#[test]
fn a_connection_without_a_request_ends_by_what_the_peer_did_first() {
    for (flags, expected) in [
        (flag::PEER_RESET | flag::PEER_FIN, Some(End::PeerReset)),
        (flag::PEER_FIN | flag::NOT_HTTP, Some(End::PeerFin)),
        (flag::NOT_HTTP, Some(End::LocalClose)),
        (flag::SEEN_OPEN, None),
    ] {
        assert_eq!(ended_unused(&socket(None, flags)), expected, "{flags}");
    }
}
