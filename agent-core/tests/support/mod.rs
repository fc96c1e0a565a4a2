//! Observations in a few words, and a core to feed them to.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::expect_used, reason = "a test may panic")]

pub(crate) mod scenario;

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;

use agent_core::cause::{Cause, Certainty, How};
use agent_core::event::{Attempt, Event, Failure, Request};
use agent_core::observation::{
    ConnectOutcome, End, Ended, Errand, Exchange, Flags, Framing, Nanos, Observation, Phase,
    RequestHead, ResponseHead, Seen, Side, Socket, Talk, TlsHandshake, What,
};
use agent_core::{Core, Limits, ProcessInfo, ProcessKind};
use agent_wire::record::flag;

/// Thread group of the proxy in most tests.
pub(crate) const PROXY: u32 = 100;

/// Milliseconds on the tests' clock, which does not start at 0.
pub(crate) fn ms(at: f64) -> Nanos {
    (1e12 + at * 1e6) as Nanos
}

/// A core that knows [`PROXY`] as a proxy named nginx.
pub(crate) fn core() -> Core {
    let mut core = Core::new(Limits::default());
    know(&mut core, PROXY, "nginx", ProcessKind::Known);
    core
}

/// Number of the network namespace that all processes are in unless a test says otherwise.
pub(crate) const NETWORK: u64 = 1;

pub(crate) fn know(core: &mut Core, tgid: u32, name: &str, kind: ProcessKind) {
    core.know_process(tgid, process(name, kind));
}

pub(crate) fn process(name: &str, kind: ProcessKind) -> ProcessInfo {
    ProcessInfo {
        name: Arc::from(name),
        program: Arc::from(name),
        kind,
        network: Some(NETWORK),
        instance: None,
    }
}

/// Everything told for `observations`, the end of the input included.
pub(crate) fn told(core: &mut Core, observations: impl IntoIterator<Item = Observation>) -> Told {
    let mut events = Vec::new();
    for observation in observations {
        core.observe(observation, &mut events);
    }
    core.finish(&mut events);
    Told { events }
}

/// Events, with questions.
pub(crate) struct Told {
    pub(crate) events: Vec<Event>,
}

impl Told {
    pub(crate) fn attempts(&self) -> Vec<Arc<Attempt>> {
        self.events
            .iter()
            .flat_map(|event| event.attempts().iter().cloned())
            .collect()
    }

    pub(crate) fn requests(&self) -> Vec<Arc<Request>> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Request(request) => Some(Arc::clone(request)),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn attempt(&self) -> Arc<Attempt> {
        let attempts = self.attempts();
        assert_eq!(attempts.len(), 1, "{:#?}", self.events);
        Arc::clone(&attempts[0])
    }

    pub(crate) fn request(&self) -> Arc<Request> {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{:#?}", self.events);
        Arc::clone(&requests[0])
    }
}

/// One socket of the tests' proxy.
#[derive(Clone)]
pub(crate) struct Sock {
    pub(crate) socket: Socket,
}

/// A connection a client opened to the proxy at time 0.
pub(crate) fn client(cookie: u64) -> Sock {
    Sock::new(cookie, Side::Client, "10.0.0.9:40000", flag::SEEN_OPEN)
}

/// A connection the proxy opened to an upstream at time 0.
pub(crate) fn upstream(cookie: u64) -> Sock {
    let flags = flag::SEEN_OPEN | flag::ACTIVE_OPEN | flag::OWN_ERRAND;
    Sock::new(cookie, Side::Upstream, "10.0.3.17:8080", flags)
}

impl Sock {
    fn new(cookie: u64, side: Side, remote: &str, flags: u16) -> Self {
        Self {
            socket: Socket {
                cookie,
                time: ms(0.0),
                side,
                tgid: Some(PROXY),
                opened: Some(ms(0.0)),
                local: "10.0.0.1:80".parse().expect("address"),
                remote: remote.parse().expect("address"),
                errno: None,
                syns: 1,
                retransmits: 0,
                srtt_us: Some(200),
                flags: Flags(flags),
            },
        }
    }

    pub(crate) fn of(mut self, tgid: Option<u32>) -> Self {
        self.socket.tgid = tgid;
        self
    }

    pub(crate) fn opened(mut self, at: f64) -> Self {
        self.socket.opened = Some(ms(at));
        self
    }

    /// Open before the agent started.
    pub(crate) fn picked_up(mut self) -> Self {
        self.socket.opened = None;
        self.socket.flags.0 &= !flag::SEEN_OPEN;
        self
    }

    pub(crate) fn to(mut self, remote: &str) -> Self {
        self.socket.remote = remote.parse::<SocketAddr>().expect("address");
        self
    }

    pub(crate) fn flag(mut self, bits: u16) -> Self {
        self.socket.flags.0 |= bits;
        self
    }

    pub(crate) fn without_flag(mut self, bits: u16) -> Self {
        self.socket.flags.0 &= !bits;
        self
    }

    pub(crate) fn errno(mut self, errno: u16) -> Self {
        self.socket.errno = Some(errno);
        self
    }

    pub(crate) fn syns(mut self, syns: u16) -> Self {
        self.socket.syns = syns;
        self
    }

    pub(crate) fn retransmits(mut self, retransmits: u32) -> Self {
        self.socket.retransmits = retransmits;
        self
    }

    pub(crate) fn srtt_us(mut self, srtt_us: u32) -> Self {
        self.socket.srtt_us = Some(srtt_us);
        self
    }

    fn what(&self, at: f64, what: What) -> Observation {
        Observation {
            socket: Socket {
                time: ms(at),
                ..self.socket.clone()
            },
            what,
        }
    }

    pub(crate) fn connect(
        &self,
        at: f64,
        outcome: ConnectOutcome,
        errand: Option<Errand>,
    ) -> Observation {
        let what = What::Connect {
            outcome,
            errand,
            listener_silent: false,
        };
        let mut seen = self.what(at, what);
        seen.socket.side = Side::Unknown;
        seen
    }

    /// A connect that nobody answered, although a listener on this host got the SYN.
    pub(crate) fn connect_unaccepted(&self, at: f64, errand: Option<Errand>) -> Observation {
        let mut seen = self.connect(at, ConnectOutcome::ClosedByUs, errand);
        seen.what = What::Connect {
            outcome: ConnectOutcome::ClosedByUs,
            errand,
            listener_silent: true,
        };
        seen
    }

    /// A TLS handshake that began at `hello` and ended so at `at`.
    pub(crate) fn tls(&self, at: f64, handshake: TlsHandshake, cookie: u64) -> Observation {
        let mut seen = self.what(
            at,
            What::Tls {
                handshake,
                errand: errand(cookie),
            },
        );
        seen.socket.side = Side::Unknown;
        seen
    }

    /// A ClientHello left that names this server, or none.
    pub(crate) fn hello(&self, at: f64, server_name: Option<&str>) -> Observation {
        let server_name = server_name.map(Into::into);
        let mut seen = self.what(at, What::Hello { server_name });
        seen.socket.side = Side::Unknown;
        seen
    }

    /// The client closed before its first request was answered; the socket's process has read it, if
    /// it has one.
    pub(crate) fn abandoned(&self, at: f64) -> Observation {
        self.what(at, What::Abandoned { network: None })
    }

    /// The process of this socket ends, and closes it.
    pub(crate) fn ends(&self, at: f64, ended: Ended) -> Observation {
        self.what(
            at,
            What::Death {
                ended,
                network: None,
            },
        )
    }

    pub(crate) fn connect_errno(&self, at: f64, errand: Option<Errand>) -> Observation {
        let mut seen = self.what(at, What::ConnectErrno { errand });
        seen.socket.side = Side::Unknown;
        seen.socket.cookie = 0;
        seen
    }

    pub(crate) fn unix_connect(&self, at: f64, path: &str, errand: Option<Errand>) -> Observation {
        let mut seen = self.what(
            at,
            What::UnixConnect {
                path: path.into(),
                errand,
            },
        );
        seen.socket.side = Side::Unknown;
        seen.socket.cookie = 0;
        seen
    }

    /// A request; its time is that of its first byte.
    pub(crate) fn request(&self, x: &Ex, method: &str, path: &str) -> Observation {
        let mut exchange = x.exchange.clone();
        exchange.end = None;
        exchange.status = 0;
        exchange.framing = Framing::Unknown;
        exchange.first_byte = Seen::default();
        exchange.head = Seen::default();
        exchange.last_byte = Seen::default();
        exchange.peer_fin = Seen::default();
        exchange.response_bytes = 0;
        exchange.head_bytes = 0;
        exchange.request_acked = 0;
        let time = exchange.request.get().expect("a request was sent");
        let head = RequestHead {
            method: method.into(),
            path: path.into(),
            host: Some("shop.example".into()),
            ..RequestHead::default()
        };
        Observation {
            socket: Socket {
                time,
                ..self.socket.clone()
            },
            what: What::Request {
                exchange,
                head: Some(head),
            },
        }
    }

    /// The response head, at the time it was complete.
    pub(crate) fn response(&self, x: &Ex) -> Observation {
        let mut exchange = x.exchange.clone();
        let time = exchange
            .head
            .get()
            .or(exchange.first_byte.get())
            .expect("a response came");
        if exchange.end != Some(End::Complete) || exchange.last_byte > exchange.head {
            exchange.end = None;
        }
        let status = exchange.status;
        let head = (status != 0).then(|| ResponseHead {
            status,
            ..ResponseHead::default()
        });
        Observation {
            socket: Socket {
                time,
                ..self.socket.clone()
            },
            what: What::Response {
                exchange,
                head,
                opening: None,
            },
        }
    }

    pub(crate) fn end(&self, at: f64, x: &Ex) -> Observation {
        assert!(x.exchange.end.is_some(), "an END says how");
        self.what(
            at,
            What::End {
                exchange: x.exchange.clone(),
            },
        )
    }

    pub(crate) fn ignored(&self, at: f64) -> Observation {
        self.what(at, What::Ignored)
    }

    /// The client of a connection that is not read leaves.
    pub(crate) fn left(&self, at: f64) -> Observation {
        let mut seen = self.what(at, What::ClientLeft);
        seen.socket.side = Side::Unknown;
        seen
    }

    pub(crate) fn unread_client(&self, at: f64, talk: Talk) -> Observation {
        self.what(at, What::UnreadClient { talk })
    }

    pub(crate) fn close(&self, at: f64) -> Observation {
        self.what(at, What::Close { talked: true })
    }
}

/// One exchange.
#[derive(Clone)]
pub(crate) struct Ex {
    pub(crate) exchange: Exchange,
}

/// Exchange `index`, its request of 100 bytes sent at `at` and acknowledged.
pub(crate) fn sent(index: u32, at: f64) -> Ex {
    Ex {
        exchange: Exchange {
            index,
            end: None,
            framing: Framing::Unknown,
            status: 0,
            request: Seen::told(ms(at)),
            request_last: Seen::told(ms(at)),
            first_byte: Seen::default(),
            head: Seen::default(),
            last_byte: Seen::default(),
            idle_since: Seen::default(),
            peer_fin: Seen::default(),
            request_bytes: 100,
            request_acked: 100,
            response_bytes: 0,
            head_bytes: 0,
            request_head_bytes: 100,
            chunks_followed: true,
            errand: None,
        },
    }
}

impl Ex {
    pub(crate) fn acked(mut self, bytes: u64) -> Self {
        self.exchange.request_acked = bytes;
        self
    }

    pub(crate) fn idle_since(mut self, at: f64) -> Self {
        self.exchange.idle_since = Seen::told(ms(at));
        self
    }

    /// On the errand of the client request `(cookie, index)`, touched `age_us` before.
    pub(crate) fn errand(mut self, cookie: u64, index: u32, age_us: u32) -> Self {
        self.exchange.errand = NonZero::new(cookie).map(|cookie| Errand {
            cookie,
            index,
            age_us,
        });
        self
    }

    /// A whole response of `status`: head and last byte at `at`.
    pub(crate) fn answered(self, status: u16, at: f64) -> Self {
        let mut this = self.head(status, at, Framing::Length(50)).body(50, at);
        this.exchange.end = Some(End::Complete);
        this
    }

    /// A response head of 200 bytes at `at`.
    pub(crate) fn head(mut self, status: u16, at: f64, framing: Framing) -> Self {
        self.exchange.status = status;
        self.exchange.framing = framing;
        self.exchange.first_byte = Seen::told(ms(at));
        self.exchange.head = Seen::told(ms(at));
        self.exchange.last_byte = Seen::told(ms(at));
        self.exchange.response_bytes = 200;
        self.exchange.head_bytes = 200;
        self
    }

    /// So many bytes of a head that is not complete.
    pub(crate) fn partial_head(mut self, bytes: u64, at: f64) -> Self {
        self.exchange.first_byte = Seen::told(ms(at));
        self.exchange.last_byte = Seen::told(ms(at));
        self.exchange.response_bytes = bytes;
        self
    }

    /// `bytes` of body, the last at `at`.
    pub(crate) fn body(mut self, bytes: u64, at: f64) -> Self {
        self.exchange.response_bytes = 200 + bytes;
        self.exchange.last_byte = Seen::told(ms(at));
        self
    }

    pub(crate) fn ended(mut self, end: End) -> Self {
        self.exchange.end = Some(end);
        self
    }

    pub(crate) fn peer_fin(mut self, at: f64) -> Self {
        self.exchange.peer_fin = Seen::told(ms(at));
        self
    }
}

/// The errand of client request `(cookie, 0)`, touched just before.
pub(crate) fn errand(cookie: u64) -> Option<Errand> {
    NonZero::new(cookie).map(|cookie| Errand {
        cookie,
        index: 0,
        age_us: 100,
    })
}

/// A client request at 1 ms that gets `code` at `at` ms from a proxy whose attempt is
/// `attempt`, the attempt's end told first (nginx).
pub(crate) fn exchange_of(attempt: Vec<Observation>, code: u16, at: f64) -> Told {
    let (c, x) = (client(1), sent(0, 1.0));
    let mut seen = vec![c.request(&x, "POST", "/orders")];
    seen.extend(attempt);
    seen.push(c.response(&x.answered(code, at)));
    told(&mut core(), seen)
}

/// The attempt's exchange on `u`, from its request to its end at `at`.
pub(crate) fn attempt_of(u: &Sock, x: &Ex, at: f64) -> Vec<Observation> {
    let mut seen = vec![u.request(x, "POST", "/orders")];
    if x.exchange.head.get().is_some() {
        seen.push(u.response(x));
    }
    if x.exchange.end != Some(End::Complete) {
        seen.push(u.end(at, x));
    }
    seen
}

/// What a test compares of a failure.
pub(crate) fn parts(failure: Failure) -> (Cause, Certainty, Phase, How) {
    let Failure {
        cause,
        certainty,
        phase,
        how,
    } = failure;
    (cause, certainty, phase, how)
}
