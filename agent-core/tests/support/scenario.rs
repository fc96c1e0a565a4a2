//! Generated traffic of one proxy: what a kernel that loses nothing would tell, in order.

use agent_core::cause::Cause;
use agent_core::observation::{ConnectOutcome, End, Framing, Nanos, Observation};
use agent_wire::record::flag;

use super::{Ex, Sock, client, errand, sent, upstream};

/// What becomes of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Good,
    Refused,
    SynUnanswered,
    Race,
    Closed,
    CutHead,
    CutBody,
    Timeout,
    Status,
    NotHttp,
    ClientLeaves,
}

/// All of them.
pub(crate) const FATES: [Fate; 11] = [
    Fate::Good,
    Fate::Refused,
    Fate::SynUnanswered,
    Fate::Race,
    Fate::Closed,
    Fate::CutHead,
    Fate::CutBody,
    Fate::Timeout,
    Fate::Status,
    Fate::NotHttp,
    Fate::ClientLeaves,
];

/// One client request, on a connection of its own or on the one of the plan before.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) start: f64,
    pub(crate) path: u8,
    pub(crate) fates: Vec<Fate>,
    /// HAProxy: the answer goes out before the upstream socket is closed.
    pub(crate) answers_first: bool,
}

/// The cause the client's error must have; `None` for no error.
pub(crate) fn expected(plan: &Plan) -> Option<Cause> {
    Some(match plan.fates.last()? {
        Fate::Good | Fate::CutBody | Fate::ClientLeaves => return None,
        Fate::Refused => Cause::ConnectRefused,
        Fate::SynUnanswered => Cause::ConnectTimeout,
        Fate::Race => Cause::KeepaliveRace,
        Fate::Closed => Cause::ClosedBeforeResponse,
        Fate::CutHead => Cause::TruncatedResponse,
        Fate::Timeout => Cause::ResponseTimeout,
        Fate::Status => Cause::UpstreamStatus,
        Fate::NotHttp => Cause::InvalidResponse,
    })
}

/// Cookie of plan `number`'s client connection.
pub(crate) fn client_cookie(number: usize) -> u64 {
    1 + number as u64
}

/// Everything that is seen of `plans`, in order of time.
pub(crate) fn observations(plans: &[Plan]) -> Vec<Observation> {
    let mut seen = Vec::new();
    for (number, plan) in plans.iter().enumerate() {
        play(number, plan, &mut seen);
    }
    seen.sort_by_key(time);
    seen
}

pub(crate) fn time(seen: &Observation) -> Nanos {
    seen.socket.time
}

fn play(number: usize, plan: &Plan, seen: &mut Vec<Observation>) {
    let cookie = client_cookie(number);
    let path = format!("/{}", plan.path);
    let start = plan.start;
    let c = client(cookie).opened(start - 0.5);
    let asked = sent(0, start);
    seen.push(c.request(&asked, "POST", &path));
    let mut at = start + 0.1;
    let mut late = Vec::new();
    let mut code = Some(if plan.fates.is_empty() { 503 } else { 200 });
    for (turn, fate) in plan.fates.iter().enumerate() {
        let u = upstream(1_000_000 + cookie * 100 + turn as u64).opened(at);
        let x = sent(0, at + 0.4).errand(cookie, 0, 150);
        let last = turn + 1 == plan.fates.len();
        let (ended, given, mut records) = attempt(*fate, at, u, x, cookie, &path);
        if last && plan.answers_first && matches!(fate, Fate::Timeout) {
            late.extend(records.pop());
        }
        seen.extend(records);
        at = ended + 0.1;
        code = given;
    }
    let over = match code {
        Some(code) => {
            let x = asked.answered(code, at);
            seen.push(c.response(&x));
            at
        }
        None => {
            // The client's FIN came just before the proxy let go of the upstream.
            let left = at - 0.3;
            seen.push(c.end(left, &asked.peer_fin(left).ended(End::PeerFin)));
            at
        }
    };
    for mut record in late {
        record.socket.time = super::ms(over + 0.5);
        seen.push(record);
    }
    seen.push(c.close(over + 2.0));
}

/// When the attempt ended, the code the client gets for it, and its records.
fn attempt(
    fate: Fate,
    at: f64,
    u: Sock,
    x: Ex,
    client_cookie: u64,
    path: &str,
) -> (f64, Option<u16>, Vec<Observation>) {
    let errand = errand(client_cookie);
    let connected = u.connect(at + 0.2, ConnectOutcome::Established, errand);
    let asked = |u: &Sock, x: &Ex| u.request(x, "POST", path);
    let wait = at + 30.0;
    match fate {
        Fate::Refused => (
            at + 0.2,
            Some(502),
            vec![u.connect(at + 0.2, ConnectOutcome::Reset, errand)],
        ),
        Fate::SynUnanswered => {
            let gave_up = at + 1000.0;
            let record = u.connect(gave_up, ConnectOutcome::ClosedByUs, errand);
            (gave_up, Some(504), vec![record])
        }
        Fate::Good | Fate::Status => {
            let code = if fate == Fate::Good { 200 } else { 503 };
            let x = x.answered(code, wait);
            (
                wait,
                Some(code),
                vec![
                    connected,
                    asked(&u, &x),
                    u.response(&x),
                    u.close(wait + 50.0),
                ],
            )
        }
        Fate::Race => {
            let u = u.opened(at - 5000.0);
            let mut x = x
                .idle_since(at - 4000.0)
                .acked(0)
                .ended(End::PeerFin)
                .peer_fin(wait);
            x.exchange.index = 7;
            (
                wait,
                Some(502),
                vec![asked(&u, &x), u.end(wait, &x), u.close(wait + 1.0)],
            )
        }
        Fate::Closed => {
            let x = x.ended(End::PeerReset);
            let u = u.flag(flag::PEER_RESET | flag::RESET_HAD_ACK);
            (
                wait,
                Some(502),
                vec![connected, asked(&u, &x), u.end(wait, &x)],
            )
        }
        Fate::CutHead => {
            let x = x
                .partial_head(20, wait - 1.0)
                .ended(End::PeerFin)
                .peer_fin(wait);
            (
                wait,
                Some(502),
                vec![connected, asked(&u, &x), u.end(wait, &x)],
            )
        }
        Fate::CutBody => {
            let x = x
                .head(200, wait - 2.0, Framing::Length(900))
                .body(9, wait - 1.0);
            let x = x.ended(End::PeerReset);
            (
                wait,
                Some(200),
                vec![connected, asked(&u, &x), u.response(&x), u.end(wait, &x)],
            )
        }
        Fate::NotHttp => {
            let u = u.flag(flag::NOT_HTTP);
            let x = x
                .partial_head(30, wait - 1.0)
                .ended(End::PeerFin)
                .peer_fin(wait);
            (
                wait,
                Some(502),
                vec![connected, asked(&u, &x), u.end(wait, &x)],
            )
        }
        Fate::Timeout => {
            let x = x.ended(End::LocalClose);
            let gave_up = at + 5000.0;
            (
                gave_up,
                Some(504),
                vec![connected, asked(&u, &x), u.end(gave_up, &x)],
            )
        }
        Fate::ClientLeaves => {
            let x = x.ended(End::LocalClose);
            (wait, None, vec![connected, asked(&u, &x), u.end(wait, &x)])
        }
    }
}
