//! What is asked for: mostly good answers, and faults that are over fast.
//!
//! In: a seed. Out: orders, each with the causes that are true of it. What a proxy makes of a
//! fault is no matter here: an error that its client sees has to be told with a true cause.

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::load::Order;
use fastrand::Rng;

/// A kind of request.
#[derive(Debug)]
pub(crate) struct Case {
    /// What it is called in tables.
    pub(crate) name: &'static str,
    /// How often, in proportion to the others.
    weight: u32,
    /// What may truly be said of an attempt that fails; nothing when none may.
    pub(crate) causes: &'static [&'static str],
    make: fn(&mut Rng) -> Shape,
}

/// Where a request goes, and what is done there.
struct Shape {
    group: &'static str,
    body: Option<usize>,
    words: String,
    /// The client leaves after so long.
    leaves_after: Option<Duration>,
}

/// An order with its truth.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) order: Order,
    pub(crate) case: &'static Case,
}

/// The connection ended before a byte of an answer.
pub(crate) const CLOSED: &[&str] = &["closed_before_response"];
/// It was reset soon after the request on a connection that was used before: an application that
/// closes with the request unread does the same, which is a race.
const RESET_SOON: &[&str] = &["closed_before_response", "keepalive_race"];
/// Too short: a busy proxy has not read the request. Too long: its answer comes first.
const LEAVES_AFTER: Duration = Duration::from_millis(200);
/// Nobody listened.
pub(crate) const REFUSED: &[&str] = &["connect_refused"];

/// Requests whose last segment tells the server what to do, in groups of servers whose
/// connections are new (`fresh`) or kept (`kept`). What fails on a kept connection is a POST, for
/// nginx and Caddy try a GET again.
pub(crate) static BY_PATH: &[Case] = &[
    good("ok", 230, |rng| get(either(rng), "ok")),
    good("slow", 230, |rng| {
        get(either(rng), format!("wait={}", rng.u32(1..15)))
    }),
    good("body", 150, |rng| {
        get(either(rng), format!("body={}", rng.u32(1..40_000)))
    }),
    good("chunked", 60, |rng| {
        get(either(rng), format!("body={},chunked", rng.u32(1..9000)))
    }),
    good("post", 100, |rng| {
        post(either(rng), rng.usize(1..3000), "body=100")
    }),
    good("status", 60, |rng| {
        get(
            either(rng),
            format!("status={}", pick(rng, &[204, 304, 404])),
        )
    }),
    fault("refused", 15, REFUSED, |_| get("refused", "ok")),
    fault("reset", 15, CLOSED, |rng| {
        get("fresh", format!("wait={},reset", rng.u32(0..6)))
    }),
    fault("close", 15, CLOSED, |rng| {
        get("fresh", format!("wait={},close", rng.u32(0..6)))
    }),
    fault("unread", 5, CLOSED, |rng| {
        get("fresh", format!("wait={},unread", rng.u32(0..6)))
    }),
    fault("reset_kept", 12, RESET_SOON, |rng| {
        post("kept", 10, format!("wait={},reset", rng.u32(1..6)))
    }),
    fault("close_kept", 12, CLOSED, |rng| {
        post("kept", 10, format!("wait={},close", rng.u32(1..6)))
    }),
    fault("head_cut", 15, &["truncated_response"], |rng| {
        post(
            either(rng),
            10,
            format!("head_cut={},by={}", rng.u32(1..40), ending(rng)),
        )
    }),
    fault("body_cut", 15, &["truncated_response"], |rng| {
        get(
            either(rng),
            format!("body=9000,cut={},by={}", rng.u32(0..8000), ending(rng)),
        )
    }),
    fault("chunks_cut", 10, &["truncated_response"], |rng| {
        get(
            either(rng),
            format!("body=9000,cut={},chunked,by=fin", rng.u32(0..8000)),
        )
    }),
    fault("garbage", 8, &["invalid_response"], |rng| {
        post(either(rng), 10, "garbage")
    }),
    fault("bad_header", 8, &["invalid_response"], |rng| {
        post(either(rng), 10, "bad_header")
    }),
    fault("too_big", 8, &["header_too_big"], |rng| {
        post(either(rng), 10, "pad=70000")
    }),
    fault("status_5xx", 15, &["upstream_status"], |rng| {
        get(
            either(rng),
            format!("status={},body=20", pick(rng, &[500, 502, 503])),
        )
    }),
    fault("hang", 4, &["response_timeout"], |rng| {
        post(either(rng), 10, "hang")
    }),
    // One of two servers resets whatever it is asked; most proxies turn to the other one.
    fault("retry", 20, CLOSED, |_| get("retry", "any")),
];

/// A proxy asks again by itself, and what is asked on a new connection is answered. At nginx only: Go's
/// client does so too, but of nine attempts there one may not be found for its request.
pub(crate) static ASKED_AGAIN: &[Case] = &[fault("reset_reused", 12, RESET_SOON, |rng| {
    get("kept", format!("wait={},if_reused,reset", rng.u32(1..6)))
})];

/// Clients leave long before the answer, and long after the proxy has read the request.
pub(crate) static LEAVING: &[Case] = &[fault("leaves", 8, &["client_abort"], |rng| Shape {
    leaves_after: Some(LEAVES_AFTER),
    ..get(either(rng), "wait=600")
})];

/// The same for requests whose path says nothing: the words are in a header.
pub(crate) static BY_HEADER: &[Case] = &[
    good("ok", 500, |_| get("", "ok")),
    good("slow", 250, |rng| {
        get("", format!("wait={}", rng.u32(1..15)))
    }),
    good("body", 100, |rng| {
        get("", format!("body={}", rng.u32(1..40_000)))
    }),
    fault("reset", 30, RESET_SOON, |rng| {
        get("", format!("wait={},reset", rng.u32(1..6)))
    }),
    fault("close", 30, CLOSED, |rng| {
        get("", format!("wait={},close", rng.u32(1..6)))
    }),
    fault("head_cut", 20, &["truncated_response"], |rng| {
        get(
            "",
            format!("head_cut={},by={}", rng.u32(1..40), ending(rng)),
        )
    }),
    fault("body_cut", 20, &["truncated_response"], |rng| {
        get("", format!("body=9000,cut={},by=fin", rng.u32(0..8000)))
    }),
    fault("bad_header", 20, &["invalid_response"], |_| {
        get("", "bad_header")
    }),
    fault("status_5xx", 20, &["upstream_status"], |_| {
        get("", "status=503,body=20")
    }),
    fault("hang", 10, &["response_timeout"], |_| get("", "hang")),
];

/// So many requests with paths of their own.
pub(crate) fn by_path(seed: u64, requests: usize, cases: &[&'static Case]) -> Vec<Planned> {
    let mut rng = Rng::with_seed(seed);
    (0..requests)
        .map(|number| {
            let case = drawn(&mut rng, cases);
            let Shape {
                group,
                body,
                words,
                leaves_after,
            } = (case.make)(&mut rng);
            let path = format!("/{group}/{seed:x}/{number}/{words}");
            let order = match body {
                Some(body) => Order::post(path, body),
                None => Order::get(path),
            };
            let order = Order {
                abort_after: leaves_after,
                ..order
            };
            Planned { order, case }
        })
        .collect()
}

/// So many requests with one path, POST where `kept` says that connections are kept. The number
/// before the words tells them apart.
pub(crate) fn by_header(seed: u64, requests: usize, group: &str, kept: bool) -> Vec<Planned> {
    let mut rng = Rng::with_seed(seed);
    let cases: Vec<&Case> = BY_HEADER.iter().collect();
    (0..requests)
        .map(|number| {
            let case = drawn(&mut rng, &cases);
            let Shape { words, .. } = (case.make)(&mut rng);
            let path = format!("/{group}/{seed:x}/any");
            let order = if kept {
                Order::post(path, 10)
            } else {
                Order::get(path)
            };
            let words = Some(format!("{number}/{words}"));
            Planned {
                order: Order { words, ..order },
                case,
            }
        })
        .collect()
}

/// Those of `planned` by what tells them apart.
pub(crate) fn by_name(planned: &[Planned]) -> BTreeMap<&str, &Planned> {
    planned.iter().map(|one| (one.name(), one)).collect()
}

impl Planned {
    /// What tells it apart: the header, else the path.
    pub(crate) fn name(&self) -> &str {
        self.order.words.as_deref().unwrap_or(&self.order.path)
    }
}

fn drawn(rng: &mut Rng, cases: &[&'static Case]) -> &'static Case {
    let all: u32 = cases.iter().map(|case| case.weight).sum();
    let mut at = rng.u32(0..all);
    let found = cases.iter().find(|case| {
        let found = at < case.weight;
        at = at.saturating_sub(case.weight);
        found
    });
    let Some(case) = found else {
        panic!("a number below the sum of the weights falls on a case");
    };
    case
}

const fn good(name: &'static str, weight: u32, make: fn(&mut Rng) -> Shape) -> Case {
    fault(name, weight, &[], make)
}

const fn fault(
    name: &'static str,
    weight: u32,
    causes: &'static [&'static str],
    make: fn(&mut Rng) -> Shape,
) -> Case {
    Case {
        name,
        weight,
        causes,
        make,
    }
}

fn get(group: &'static str, words: impl Into<String>) -> Shape {
    Shape {
        group,
        body: None,
        words: words.into(),
        leaves_after: None,
    }
}

fn post(group: &'static str, body: usize, words: impl Into<String>) -> Shape {
    Shape {
        body: Some(body),
        ..get(group, words)
    }
}

fn either(rng: &mut Rng) -> &'static str {
    pick(rng, &["fresh", "kept"])
}

fn ending(rng: &mut Rng) -> &'static str {
    pick(rng, &["fin", "rst"])
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    let Some(picked) = rng.choice(from) else {
        panic!("there is something to pick from");
    };
    *picked
}
