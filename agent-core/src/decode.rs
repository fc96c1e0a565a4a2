//! From the bytes of one ring record to a checked [`Observation`].
//!
//! In: a record as the kernel side wrote it ([`agent_wire::record`]). Out: an
//! [`Observation`], or the reason why these bytes are none. Every kind, length and code is
//! checked; head bytes are parsed by [`head`]. Any byte string is safe to hand in.

pub mod head;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZero;

use agent_wire::brief::{Brief, UNKNOWN_US};
use agent_wire::limits::{HEAD_BYTES, SERVER_NAME_BYTES, UNIX_PATH_BYTES};
use agent_wire::plain::{self, Plain};
use agent_wire::record::{self, Header, MessageHead, end, ended, framing, kind, phase, side, talk};
use smol_str::SmolStr;

use crate::observation::{
    ConnectOutcome, DnsAnswer, End, Ended, Errand, Exchange, Flags, Framing, Lookup, Nanos,
    Observation, Opening, Phase, ResetDirection, ResponseHead, Seen, Side, Socket, Talk, TlsAlert,
    TlsHandshake, What,
};

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its kind needs.
    #[error("record of kind {kind} has {have} bytes, needs {need}")]
    Short {
        /// The kind it claims, 0 when not even a header is there.
        kind: u8,
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// No such kind.
    #[error("no record kind {0}: agent and kernel object are of different builds")]
    Kind(u8),
    /// A code outside its range.
    #[error("field {field} of a record of kind {kind} holds {value}")]
    Code {
        /// The kind of the record.
        kind: u8,
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u32,
    },
    /// A record about a socket without its cookie.
    #[error("record of kind {0} names no socket")]
    NoCookie(u8),
    /// A record about a process without its number.
    #[error("record of kind {0} names no process")]
    NoProcess(u8),
    /// A record without a time.
    #[error("record of kind {0} has no time")]
    NoTime(u8),
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all records are observations, and none is kept"
)]
pub enum Record {
    /// A socket.
    Observation(Observation),
    /// A process that looks up a name.
    Lookup(Lookup),
}

impl Record {
    /// When that was.
    pub fn time(&self) -> Nanos {
        match self {
            Self::Observation(observation) => observation.socket.time,
            Self::Lookup(lookup) => lookup.time,
        }
    }

    /// What it says, where it is about a socket.
    pub fn observation(self) -> Option<Observation> {
        match self {
            Self::Observation(observation) => Some(observation),
            Self::Lookup(_) => None,
        }
    }
}

/// Checks one record and types it.
///
/// # Errors
/// [`DecodeError`] when the bytes are too short for their kind or a code is out of range.
pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    if bytes.first() == Some(&kind::BRIEF) {
        return in_brief(bytes).map(Record::Observation);
    }
    let header: Header = take(0, bytes)?;
    Ok(match header.kind {
        kind::DNS => Record::Lookup(lookup(&header, bytes)?),
        _ => Record::Observation(observation(&header, bytes)?),
    })
}

fn observation(header: &Header, bytes: &[u8]) -> Result<Observation, DecodeError> {
    let what = match header.kind {
        kind::CONNECT => connect(bytes)?,
        kind::CONNECT_ERRNO => {
            let record: record::Connect = take(header.kind, bytes)?;
            What::ConnectErrno {
                errand: errand(record.errand),
            }
        }
        kind::UNIX_CONNECT => unix_connect(bytes)?,
        kind::REQUEST => {
            let (record, message, _) = message(bytes)?;
            What::Request {
                exchange: exchange(header.kind, &record.exchange)?,
                head: head::request(message),
            }
        }
        kind::RESPONSE => {
            let (record, message, last) = message(bytes)?;
            let not_http = Flags(header.flags).not_http();
            let head = match header.side {
                _ if not_http => None,
                side::CLIENT => head::status_line(last).or_else(|| head::response(last)),
                _ => head::response(last),
            };
            let interim = record.final_start > 0;
            What::Response {
                exchange: exchange(header.kind, &record.exchange)?,
                head: head.map(|head| ResponseHead { interim, ..head }),
                opening: not_http.then(|| Opening::of(message)).flatten(),
            }
        }
        kind::END => {
            let record: record::End = take(header.kind, bytes)?;
            let exchange = exchange(header.kind, &record.exchange)?;
            if exchange.end.is_none() {
                return Err(DecodeError::Code {
                    kind: header.kind,
                    field: "end",
                    value: u32::from(end::OPEN),
                });
            }
            What::End { exchange }
        }
        kind::CLOSE => {
            let record: record::End = take(header.kind, bytes)?;
            What::Close {
                talked: record.exchange.request_bytes != 0,
            }
        }
        kind::RESET => reset(bytes)?,
        kind::TLS => tls(bytes)?,
        kind::HELLO => hello(bytes)?,
        kind::ABANDONED => abandoned(bytes)?,
        kind::TCP => What::Tcp,
        kind::DISTURBED => What::Disturbed,
        kind::IGNORED => What::Ignored,
        kind::CLIENT_LEFT => What::ClientLeft,
        kind::UNREAD => {
            let record: record::End = take(header.kind, bytes)?;
            What::Unread {
                exchange: exchange(header.kind, &record.exchange)?,
            }
        }
        kind::UNREAD_CLIENT => {
            let record: record::UnreadClient = take(header.kind, bytes)?;
            let talk = match record.talk {
                talk::TLS => Talk::Tls,
                talk::HTTP2 => Talk::Http2,
                talk::OTHER => Talk::Other,
                talk::BEFORE_AGENT => Talk::BeforeAgent,
                other => return Err(code(header.kind, "talk", other)),
            };
            What::UnreadClient { talk }
        }
        kind::DEATH => {
            let record: record::Death = take(header.kind, bytes)?;
            What::Death {
                ended: match record.ended {
                    ended::KILLED => Ended::Signal(record.signal),
                    ended::EXITED => Ended::Status(record.status),
                    ended::OUT_OF_MEMORY => Ended::OutOfMemory,
                    other => return Err(code(header.kind, "ended", other)),
                },
                network: (record.network != 0).then_some(u64::from(record.network)),
            }
        }
        other => return Err(DecodeError::Kind(other)),
    };
    Ok(Observation {
        socket: socket(header)?,
        what,
    })
}

fn take<T: Plain>(kind: u8, bytes: &[u8]) -> Result<T, DecodeError> {
    plain::read(bytes).ok_or(DecodeError::Short {
        kind,
        have: bytes.len(),
        need: size_of::<T>(),
    })
}

fn socket(header: &Header) -> Result<Socket, DecodeError> {
    let Header {
        kind: record_kind,
        side: record_side,
        flags,
        tgid,
        time_ns,
        cookie,
        opened_ns,
        local,
        remote,
        local_port,
        remote_port,
        errno,
        syns,
        retransmits,
        srtt_us,
    } = *header;
    let is_of_no_socket = matches!(
        record_kind,
        kind::CONNECT_ERRNO | kind::UNIX_CONNECT | kind::DISTURBED
    );
    if cookie == 0 && !is_of_no_socket {
        return Err(DecodeError::NoCookie(record_kind));
    }
    Ok(Socket {
        cookie,
        time: seen(time_ns).ok_or(DecodeError::NoTime(record_kind))?,
        side: match record_side {
            side::UNKNOWN => Side::Unknown,
            side::CLIENT => Side::Client,
            side::UPSTREAM => Side::Upstream,
            other => return Err(code(record_kind, "side", other)),
        },
        tgid: (tgid != 0).then_some(tgid),
        opened: seen(opened_ns),
        local: address(local, local_port),
        remote: address(remote, remote_port),
        errno: (errno != 0).then_some(errno),
        syns,
        retransmits,
        srtt_us: (srtt_us != 0).then_some(srtt_us),
        flags: Flags(flags),
    })
}

/// An exchange that went well; its lengths are not told.
fn in_brief(bytes: &[u8]) -> Result<Observation, DecodeError> {
    let Brief {
        kind: record_kind,
        side: record_side,
        flags,
        tgid,
        time_ns,
        cookie,
        request_ns,
        local,
        remote,
        local_port,
        remote_port,
        index,
        status,
        end: record_end,
        framing: record_framing,
        request_us,
        first_byte_us,
        head_us,
        before_us,
        srtt_us,
    } = take(kind::BRIEF, bytes)?;
    let after = |micros: u32| request_ns.saturating_add(u64::from(micros) * 1000);
    let before = match before_us {
        UNKNOWN_US => 0,
        micros => request_ns.saturating_sub(u64::from(micros) * 1000),
    };
    let (opened_ns, idle_since_ns) = if index == 0 { (before, 0) } else { (0, before) };
    let header = Header {
        kind: record_kind,
        side: record_side,
        flags,
        tgid,
        time_ns,
        cookie,
        opened_ns,
        local: address_bytes(local),
        remote: address_bytes(remote),
        local_port,
        remote_port,
        srtt_us,
        ..Header::default()
    };
    let exchange = exchange(
        record_kind,
        &record::Exchange {
            index,
            end: record_end,
            // What is framed by a length is not told with it.
            framing: match record_framing {
                framing::LENGTH => framing::NONE,
                other => other,
            },
            status,
            request_ns: seen(request_ns).ok_or(DecodeError::NoTime(record_kind))?,
            request_last_ns: after(request_us),
            first_byte_ns: after(first_byte_us),
            head_ns: after(head_us),
            last_byte_ns: time_ns,
            idle_since_ns,
            ..record::Exchange::default()
        },
    )?;
    if exchange.end.is_none() {
        return Err(code(record_kind, "end", end::OPEN));
    }
    Ok(Observation {
        socket: socket(&header)?,
        what: What::InBrief { exchange },
    })
}

fn address_bytes(words: [u64; 2]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn connect(bytes: &[u8]) -> Result<What, DecodeError> {
    let record: record::Connect = take(kind::CONNECT, bytes)?;
    let outcome = match record.outcome {
        end::COMPLETE => ConnectOutcome::Established,
        end::PEER_RESET => ConnectOutcome::Reset,
        end::LOCAL_CLOSE | end::LOCAL_RESET => ConnectOutcome::ClosedByUs,
        end::KERNEL_ERROR => ConnectOutcome::KernelError,
        other => return Err(code(kind::CONNECT, "outcome", other)),
    };
    Ok(What::Connect {
        outcome,
        errand: errand(record.errand),
        listener_silent: record.listener_silent != 0,
    })
}

fn unix_connect(bytes: &[u8]) -> Result<What, DecodeError> {
    let record: record::UnixConnect = take(kind::UNIX_CONNECT, bytes)?;
    let length = usize::from(record.path_len);
    if length > UNIX_PATH_BYTES {
        return Err(DecodeError::Code {
            kind: kind::UNIX_CONNECT,
            field: "path_len",
            value: u32::from(record.path_len),
        });
    }
    let name = &record.path.bytes[..length];
    // unix(7): an abstract name starts with NUL and has no terminator; a path has one.
    let path = match name.split_first() {
        Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest)),
        _ => {
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(length);
            String::from_utf8_lossy(&name[..end]).into_owned()
        }
    };
    Ok(What::UnixConnect {
        path,
        errand: errand(record.errand),
    })
}

fn reset(bytes: &[u8]) -> Result<What, DecodeError> {
    let record: record::Reset = take(kind::RESET, bytes)?;
    Ok(What::Reset {
        direction: match record.direction {
            record::RESET_RECEIVED => ResetDirection::Received,
            record::RESET_SENT => ResetDirection::Sent,
            other => return Err(code(kind::RESET, "direction", other)),
        },
        phase: match record.phase {
            phase::CONNECT => Phase::Connect,
            phase::IDLE => Phase::Idle,
            phase::REQUEST => Phase::Request,
            phase::HEAD => Phase::Head,
            phase::BODY => Phase::Body,
            phase::OPAQUE => Phase::Opaque,
            other => return Err(code(kind::RESET, "phase", other)),
        },
        reason: (record.reason != 0).then_some(record.reason),
    })
}

/// AlertDescription of who closes (RFC 8446, 6.1).
const CLOSE_NOTIFY: u8 = 0;

fn tls(bytes: &[u8]) -> Result<What, DecodeError> {
    let record: record::Tls = take(kind::TLS, bytes)?;
    let end = ending(kind::TLS, record.outcome)?.ok_or(code(kind::TLS, "outcome", end::OPEN))?;
    let by_peer = match record.alert_by {
        0 => None,
        record::ALERT_BY_PEER => Some(true),
        record::ALERT_BY_US => Some(false),
        other => return Err(code(kind::TLS, "alert_by", other)),
    };
    let finished = seen(record.finished_ns);
    let said_goodbye = by_peer == Some(false) && record.alert == CLOSE_NOTIFY && finished.is_some();
    let reply = seen(record.reply_ns);
    let opening = reply.and_then(|_| Opening::of(&[record.reply]));
    Ok(What::Tls {
        handshake: TlsHandshake {
            end,
            hello: seen(record.hello_ns).ok_or(DecodeError::NoTime(kind::TLS))?,
            reply,
            peer_fin: seen(record.peer_fin_ns),
            finished,
            reply_is_tls: opening.map(|opening| opening == Opening::Tls),
            opening,
            alert: by_peer.filter(|_| !said_goodbye).map(|by_peer| TlsAlert {
                by_peer,
                description: record.alert,
            }),
            acked: record.unacked == 0,
            said_goodbye,
        },
        errand: errand(record.errand),
    })
}

fn hello(bytes: &[u8]) -> Result<What, DecodeError> {
    let record: record::Hello = take(kind::HELLO, bytes)?;
    let length = usize::from(record.name_len).min(SERVER_NAME_BYTES);
    let name = String::from_utf8_lossy(&record.name[..length]);
    let server_name = match record.named {
        0 => None,
        1 => Some(SmolStr::new(name)),
        other => return Err(code(kind::HELLO, "named", other)),
    };
    Ok(What::Hello { server_name })
}

fn abandoned(bytes: &[u8]) -> Result<What, DecodeError> {
    let record: record::Abandoned = take(kind::ABANDONED, bytes)?;
    Ok(What::Abandoned {
        network: (record.network != 0).then_some(u64::from(record.network)),
    })
}

fn lookup(header: &Header, bytes: &[u8]) -> Result<Lookup, DecodeError> {
    let record: record::Dns = take(kind::DNS, bytes)?;
    if header.tgid == 0 {
        return Err(DecodeError::NoProcess(kind::DNS));
    }
    Ok(Lookup {
        time: seen(header.time_ns).ok_or(DecodeError::NoTime(kind::DNS))?,
        tgid: header.tgid,
        errand: errand(record.errand),
        asked: seen(record.asked_ns).ok_or(DecodeError::NoTime(kind::DNS))?,
        id: Some(record.id),
        answer: (record.answered != 0).then_some(DnsAnswer {
            rcode: record.rcode,
            records: record.answers,
        }),
    })
}

/// How it ended; `None` while it is under way.
fn ending(record_kind: u8, value: u8) -> Result<Option<End>, DecodeError> {
    Ok(match value {
        end::OPEN => None,
        end::COMPLETE => Some(End::Complete),
        end::PEER_FIN => Some(End::PeerFin),
        end::PEER_RESET => Some(End::PeerReset),
        end::LOCAL_CLOSE => Some(End::LocalClose),
        end::LOCAL_RESET => Some(End::LocalReset),
        end::KERNEL_ERROR => Some(End::KernelError),
        end::SUPERSEDED => Some(End::Superseded),
        end::TUNNEL => Some(End::Tunnel),
        other => return Err(code(record_kind, "end", other)),
    })
}

/// The fixed part of a message record, its captured bytes, and those of the final head.
fn message(bytes: &[u8]) -> Result<(MessageHead, &[u8], &[u8]), DecodeError> {
    let record: MessageHead = take(bytes[0], bytes)?;
    let captured = record.captured as usize;
    let present = &bytes[size_of::<MessageHead>()..];
    let wrong = |field, value| DecodeError::Code {
        kind: record.header.kind,
        field,
        value,
    };
    let message = present
        .get(..captured)
        .filter(|_| captured <= HEAD_BYTES)
        .ok_or(wrong("captured", record.captured))?;
    let last = message
        .get(record.final_start as usize..)
        .ok_or(wrong("final_start", record.final_start))?;
    Ok((record, message, last))
}

fn exchange(record_kind: u8, wire: &record::Exchange) -> Result<Exchange, DecodeError> {
    let record::Exchange {
        index,
        end: record_end,
        framing: record_framing,
        status,
        request_ns,
        request_last_ns,
        first_byte_ns,
        head_ns,
        last_byte_ns,
        idle_since_ns,
        peer_fin_ns,
        request_bytes,
        request_acked,
        response_bytes,
        head_bytes,
        request_head_bytes,
        content_length,
        errand: wire_errand,
    } = *wire;
    Ok(Exchange {
        index,
        end: ending(record_kind, record_end)?,
        framing: match record_framing {
            framing::UNKNOWN => Framing::Unknown,
            framing::NONE => Framing::None,
            framing::LENGTH => Framing::Length(content_length),
            framing::CHUNKED => Framing::Chunked,
            framing::CLOSE => Framing::Close,
            other => return Err(code(record_kind, "framing", other)),
        },
        status,
        request: Seen::told(request_ns),
        request_last: Seen::told(request_last_ns),
        first_byte: Seen::told(first_byte_ns),
        head: Seen::told(head_ns),
        last_byte: Seen::told(last_byte_ns),
        idle_since: Seen::told(idle_since_ns),
        peer_fin: Seen::told(peer_fin_ns),
        request_bytes,
        request_acked,
        response_bytes,
        head_bytes,
        request_head_bytes,
        chunks_followed: content_length != record::UNFOLLOWED,
        errand: errand(wire_errand),
    })
}

fn errand(wire: record::Errand) -> Option<Errand> {
    let record::Errand {
        cookie,
        index,
        age_us,
    } = wire;
    Some(Errand {
        cookie: NonZero::new(cookie)?,
        index,
        age_us,
    })
}

fn seen(time_ns: u64) -> Option<Nanos> {
    (time_ns != 0).then_some(time_ns)
}

fn code(record_kind: u8, field: &'static str, value: u8) -> DecodeError {
    DecodeError::Code {
        kind: record_kind,
        field,
        value: u32::from(value),
    }
}

/// IPv4 travels as a v4-mapped IPv6 address (RFC 4291, 2.5.5.2).
fn address(bytes: [u8; 16], port: u16) -> SocketAddr {
    let v6 = Ipv6Addr::from(bytes);
    SocketAddr::new(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4), port)
}
