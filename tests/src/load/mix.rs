//! A random mix of right and wrong, with the truth about each request kept.
//!
//! In: a seed. Out: orders, each with its [`Case`]: what nginx must say about it and which
//! causes are true. The same seed gives the same orders.

use std::time::Duration;

use fastrand::Rng;

use super::Order;
use crate::nginx::error_log::Words;

/// A kind of request.
#[derive(Debug)]
pub struct Case {
    /// What it is called in tables.
    pub name: &'static str,
    /// How often, in proportion to the others.
    pub weight: u32,
    /// Statuses that nginx may log.
    pub statuses: &'static [u16],
    /// Words of nginx's error log of which one must appear; none when it is silent.
    pub words: &'static [Words],
    /// What an attempt that failed on account of this case may be called; empty when none
    /// may fail.
    pub causes: &'static [&'static str],
    make: fn(&mut Rng) -> Shape,
}

/// An order with its truth.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What to ask.
    pub order: Order,
    /// What is true of it.
    pub case: &'static Case,
}

/// What a case decides of an order.
struct Shape {
    location: &'static str,
    words: String,
    method: &'static str,
    body: usize,
    expect_continue: bool,
    abort_after: Option<Duration>,
}

/// A connection that is cut before a whole head; a crash on a reused connection can look like
/// a race, which is why the judge also refuses a race that is called proven.
const CUT_EARLY: &[&str] = &["closed_before_response", "keepalive_race"];

/// All cases.
pub static CASES: &[Case] = &[
    case("small", 300, &[200], |_| get("one", "ok")),
    case("sizes", 80, &[200], |rng| get("one", sized(rng, 200_000))),
    case("large", 3, &[200], |rng| get("one", sized(rng, 5_000_000))),
    case("slow", 80, &[200], |rng| {
        get("one", format!("wait={}", rng.u32(1..300)))
    }),
    case("status", 80, &[204, 304, 404, 500, 502, 503], |rng| {
        let status = pick(rng, &[204, 304, 404, 500, 502, 503]);
        get("one", format!("status={status},body=20"))
    }),
    case("head", 50, &[200, 404], |rng| Shape {
        method: "HEAD",
        ..get(
            "one",
            format!("status={},body=5000", pick(rng, &[200, 404])),
        )
    }),
    case("post", 80, &[200], |rng| {
        let length = rng.usize(0..100_000);
        post("one", format!("body={}", rng.usize(0..2000)), length)
    }),
    case("expect", 20, &[200], |rng| Shape {
        expect_continue: true,
        ..post("one", "ok", rng.usize(1..50_000))
    }),
    case("split", 50, &[200], |rng| {
        get(
            "one",
            format!("split={},pause={},body=100", rng.u32(1..70), rng.u32(0..20)),
        )
    }),
    case("bytewise", 20, &[200], |rng| {
        get("one", format!("bytewise,pause={}", rng.u32(0..2)))
    }),
    case("drip", 30, &[200], |rng| {
        let framing = pick(rng, &["", ",chunked", ",until_close"]);
        get(
            "one",
            format!("body=200,piece=20,pause={}{framing}", rng.u32(1..15)),
        )
    }),
    case("last", 40, &[200], |_| get("one", "last,body=300")),
    case("websocket_asked_by_get", 5, &[400], |_| {
        get("one", "websocket")
    }),
    fault(
        "reset",
        25,
        &[502],
        &[Words::ResetInHead, Words::ResetInRequest],
        CUT_EARLY,
        |rng| either("one", format!("wait={},reset", rng.u32(0..30)), rng),
    ),
    fault(
        "close",
        25,
        &[502],
        &[Words::ClosedInHead],
        CUT_EARLY,
        |rng| either("one", format!("wait={},close", rng.u32(0..30)), rng),
    ),
    fault(
        "unread",
        20,
        &[502],
        &[Words::ResetInHead, Words::ResetInRequest],
        CUT_EARLY,
        |rng| either("one", format!("wait={},unread", rng.u32(0..30)), rng),
    ),
    fault(
        "twice",
        15,
        &[502],
        &[Words::ResetInHead, Words::ResetInRequest],
        CUT_EARLY,
        |rng| get("many", format!("wait={},reset", rng.u32(0..10))),
    ),
    fault("masked", 30, &[200], &[], CUT_EARLY, |_| {
        get("mixed", "any")
    }),
    fault(
        "head_cut",
        20,
        &[502],
        &[Words::ClosedInHead, Words::ResetInHead],
        &["truncated_response"],
        |rng| {
            get(
                "one",
                format!(
                    "head_cut={},by={}",
                    rng.u32(1..40),
                    pick(rng, &["fin", "rst"])
                ),
            )
        },
    ),
    fault(
        "head_stalls",
        4,
        &[504],
        &[Words::HeadTimedOut],
        &["response_timeout"],
        |rng| get("one", format!("head_cut={},by=hang", rng.u32(1..40))),
    ),
    fault(
        "hang",
        8,
        &[504],
        &[Words::HeadTimedOut],
        &["response_timeout"],
        |rng| either("one", "hang".to_owned(), rng),
    ),
    fault(
        "body_cut",
        30,
        &[200],
        &[Words::ClosedInBody, Words::ResetInBody],
        &["truncated_response"],
        |rng| {
            let framing = pick(rng, &["", ",chunked"]);
            let by = pick(rng, &["fin", "rst"]);
            get(
                "one",
                format!("body=9000,cut={},by={by}{framing}", rng.u32(1..8000)),
            )
        },
    ),
    fault(
        "body_stalls",
        4,
        &[200],
        &[Words::BodyTimedOut],
        &["response_timeout"],
        |rng| get("one", format!("body=9000,cut={},by=hang", rng.u32(1..8000))),
    ),
    fault(
        "garbage",
        10,
        &[9],
        &[Words::NotHttp],
        &["invalid_response"],
        |_| get("one", "garbage"),
    ),
    fault(
        "bad_header",
        12,
        &[502],
        &[Words::InvalidHead],
        &["invalid_response"],
        |_| get("one", "bad_header"),
    ),
    fault(
        "bad_chunk",
        8,
        &[200],
        &[Words::InvalidChunk],
        &["invalid_response"],
        |_| get("one", "bad_chunk,chunked,body=50"),
    ),
    fault(
        "too_big",
        12,
        &[502],
        &[Words::TooBig],
        &["header_too_big"],
        |rng| get("one", format!("pad={}", rng.u32(10_000..50_000))),
    ),
    fault(
        "refused",
        25,
        &[502],
        &[Words::Refused],
        &["connect_refused"],
        |rng| either("refused", "ok".to_owned(), rng),
    ),
    fault(
        "dark",
        6,
        &[504],
        &[Words::ConnectTimedOut],
        &["connect_timeout"],
        |rng| either("dark", "ok".to_owned(), rng),
    ),
    fault(
        "dead",
        15,
        &[502],
        &[Words::Refused, Words::NoLive],
        &["connect_refused"],
        |_| get("dead", "ok"),
    ),
    // Idles as long as the upstream keeps a connection: most go well, some race.
    fault("race", 40, &[200, 502], &[], &["keepalive_race"], |rng| {
        either("race", "ok".to_owned(), rng)
    }),
    case("static", 8, &[503], |_| get("static", "ok")),
    fault(
        "abort",
        12,
        &[499],
        &[Words::ClientLeft],
        &["client_abort"],
        |rng| Shape {
            abort_after: Some(Duration::from_millis(rng.u64(100..300))),
            ..either("one", "hang".to_owned(), rng)
        },
    ),
];

impl Case {
    /// An order of this case.
    pub fn order(&'static self, rng: &mut Rng, run: u64, number: usize) -> Planned {
        let Shape {
            location,
            words,
            method,
            body,
            expect_continue,
            abort_after,
        } = (self.make)(rng);
        let order = Order {
            method,
            path: format!("/{location}/{run:x}/{number}/{words}"),
            body,
            expect_continue,
            abort_after,
            last: rng.u32(0..20) == 0,
            pause: Duration::from_millis(rng.u64(0..25)),
            words: None,
        };
        Planned { order, case: self }
    }
}

/// The seed of this run: `WHY502_SEED`, or a new one. Printed, so that a failure can be
/// repeated.
#[track_caller]
pub fn seed() -> u64 {
    let seed = match std::env::var("WHY502_SEED") {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("WHY502_SEED is `{text}`, not a number")),
        Err(_) => fastrand::u64(..1 << 32),
    };
    println!("seed {seed}; WHY502_SEED={seed} repeats this order of requests");
    seed
}

/// So many orders, in proportion to the weights.
pub fn plan(seed: u64, orders: usize) -> Vec<Planned> {
    let mut rng = Rng::with_seed(seed);
    let all: u32 = CASES.iter().map(|case| case.weight).sum();
    (0..orders)
        .map(|number| {
            let mut at = rng.u32(0..all);
            let case = CASES.iter().find(|case| {
                let found = at < case.weight;
                at = at.saturating_sub(case.weight);
                found
            });
            let case = case.expect("a number below the sum of the weights falls on a case");
            case.order(&mut rng, seed, number)
        })
        .collect()
}

const fn case(
    name: &'static str,
    weight: u32,
    statuses: &'static [u16],
    make: fn(&mut Rng) -> Shape,
) -> Case {
    fault(name, weight, statuses, &[], &[], make)
}

const fn fault(
    name: &'static str,
    weight: u32,
    statuses: &'static [u16],
    words: &'static [Words],
    causes: &'static [&'static str],
    make: fn(&mut Rng) -> Shape,
) -> Case {
    Case {
        name,
        weight,
        statuses,
        words,
        causes,
        make,
    }
}

fn get(location: &'static str, words: impl Into<String>) -> Shape {
    Shape {
        location,
        words: words.into(),
        method: "GET",
        body: 0,
        expect_continue: false,
        abort_after: None,
    }
}

fn post(location: &'static str, words: impl Into<String>, body: usize) -> Shape {
    Shape {
        method: "POST",
        body,
        ..get(location, words)
    }
}

fn either(location: &'static str, words: String, rng: &mut Rng) -> Shape {
    if rng.bool() {
        get(location, words)
    } else {
        let body = rng.usize(0..2000);
        post(location, words, body)
    }
}

/// A body of any size up to `most`, small ones as likely as large ones, in any framing.
fn sized(rng: &mut Rng, most: usize) -> String {
    let bits = rng.u32(0..=most.ilog2());
    let body = rng.usize(0..=most >> bits);
    format!(
        "body={body}{}",
        pick(rng, &["", ",chunked", ",until_close"])
    )
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    *rng.choice(from).expect("there is something to pick from")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::misbehave::behaviour::{ANY, Behaviour};

    #[test]
    fn the_same_seed_gives_the_same_orders_with_paths_of_their_own() {
        let paths = |seed| -> Vec<String> {
            plan(seed, 2000)
                .into_iter()
                .map(|planned| planned.order.path)
                .collect()
        };
        assert_eq!(paths(7), paths(7));
        assert_ne!(paths(7), paths(8));
        assert_eq!(paths(7).into_iter().collect::<BTreeSet<_>>().len(), 2000);
    }

    #[test]
    fn every_order_is_in_the_grammar() {
        for planned in plan(1, 5000) {
            let words = planned.order.path.rsplit('/').next().unwrap();
            assert!(
                words == ANY || words.parse::<Behaviour>().is_ok(),
                "{words}"
            );
        }
    }
}
