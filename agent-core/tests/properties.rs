//! What holds for any traffic, in any order, with any loss.

mod support;

use std::collections::{HashMap, HashSet};

use agent_core::cause::{Cause, Certainty};
use agent_core::decode;
use agent_core::event::Event;
use agent_core::observation::Observation;
use agent_core::observation::Seen;
use agent_core::{Core, Ledger, Limits, ProcessKind};
use agent_wire::plain::bytes_of;
use agent_wire::record::{Connect, End, Exchange, Header, MessageHead, Reset, UnixConnect, kind};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, proptest};
use support::scenario::{FATES, Plan, client_cookie, expected, observations, time};
use support::{PROXY, Told, know, told};

const SMALL: Limits = Limits {
    bystander_exchanges: 3,
    connections: 24,
    requests: 8,
    attempts: 12,
    attempts_per_request: 2,
    processes: 4,
    closed: 4096,
    grace: 250_000_000,
    idle: 600_000_000_000,
    stuck: 3_600_000_000_000,
};

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let fate = prop::sample::select(&FATES[..]);
    let plan = (
        0.0..4000.0f64,
        0..3u8,
        prop::collection::vec(fate, 0..4),
        any::<bool>(),
    );
    prop::collection::vec(plan, 1..12).prop_map(|plans| {
        plans
            .into_iter()
            .map(|(start, path, fates, answers_first)| {
                // After the client has left nothing is tried again.
                let left = fates.iter().position(|fate| *fate == FATES[10]);
                let fates = fates[..left.map_or(fates.len(), |at| at + 1)].to_vec();
                Plan {
                    start,
                    path,
                    fates,
                    answers_first,
                }
            })
            .collect()
    })
}

fn core(limits: Limits) -> Core {
    let mut core = Core::new(limits);
    know(&mut core, PROXY, "nginx", ProcessKind::Known);
    core
}

fn assert_told_once(told: &Told) {
    let mut attempts = HashSet::new();
    // One without a socket is made up of its request, which is told once.
    for attempt in told.attempts().iter().filter(|one| one.cookie != 0) {
        assert!(
            attempts.insert((attempt.cookie, attempt.index)),
            "told twice: {attempt:?}"
        );
    }
    let mut requests = HashSet::new();
    for request in told.requests() {
        assert!(
            requests.insert((request.cookie, request.index)),
            "told twice: {request:?}"
        );
    }
}

fn assert_conserved(core: &Core, told: &Told) {
    let stats = core.stats();
    for (ledger, held, events) in [
        (stats.request_ledger, stats.requests, told.requests().len()),
        (stats.attempt_ledger, stats.attempts, told.attempts().len()),
    ] {
        let Ledger {
            begun,
            told,
            checks,
            foreign,
            not_begun,
            ends_lost,
            swept,
        } = ledger;
        assert_eq!(
            begun,
            told + checks + foreign + not_begun + ends_lost + swept + held as u64,
            "{stats:?}"
        );
        assert_eq!(told, events as u64, "{stats:?}");
    }
}

/// Cause and certainty of each attempt and each request's error, by (cookie, index).
fn causes(told: &Told) -> HashMap<(bool, u64, u32), (Cause, Certainty)> {
    let attempts = told.attempts().into_iter().filter_map(|attempt| {
        let failure = attempt.failure?;
        Some((
            (false, attempt.cookie, attempt.index),
            (failure.cause, failure.certainty),
        ))
    });
    let requests = told.requests().into_iter().filter_map(|request| {
        let error = request.error?;
        Some((
            (true, request.cookie, request.index),
            (error.cause, error.certainty),
        ))
    });
    attempts.chain(requests).collect()
}

proptest! {
    #[test]
    fn whole_input_in_order_explains_every_error(plans in plans()) {
        let mut core = core(Limits::default());
        let told = told(&mut core, observations(&plans));
        assert_told_once(&told);
        assert_conserved(&core, &told);
        let requests: HashMap<_, _> =
            told.requests().into_iter().map(|request| (request.cookie, request)).collect();
        prop_assert_eq!(requests.len(), plans.len());
        for (number, plan) in plans.iter().enumerate() {
            let request = &requests[&client_cookie(number)];
            prop_assert_eq!(request.attempts.len(), plan.fates.len(), "{:?}", plan);
            let error = request.error.map(|error| error.cause);
            if plan.fates.is_empty() {
                let by_itself = [
                    Cause::NoLiveUpstream,
                    Cause::ProxyGenerated,
                    Cause::Unattributed,
                ];
                prop_assert!(error.is_some_and(|cause| by_itself.contains(&cause)), "{:?}", error);
                let sure = request.error.map(|error| error.certainty);
                prop_assert!(sure != Some(Certainty::Proof));
            } else {
                prop_assert_eq!(error, expected(plan), "{:#?}", request);
            }
        }
        prop_assert_eq!(core.stats().attempts, 0);
        prop_assert_eq!(core.stats().requests, 0);
    }

    #[test]
    fn any_order_with_doubles_and_losses_tells_nothing_twice_and_stays_in_bounds(
        plans in plans(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
        small in any::<bool>(),
        advance_every in 1..20usize,
    ) {
        let whole = observations(&plans);
        let limits = if small { SMALL } else { Limits::default() };
        let mut core = core(limits);
        let mut events = Vec::new();
        for (at, pick) in picks.iter().enumerate() {
            let seen: Observation = pick.get(&whole).clone();
            let now = time(&seen);
            core.observe(seen, &mut events);
            if at % advance_every == 0 {
                core.advance(now, &mut events);
            }
            let stats = core.stats();
            prop_assert!(stats.connections <= limits.connections);
            prop_assert!(stats.requests <= limits.requests);
            prop_assert!(stats.attempts <= limits.attempts);
        }
        core.finish(&mut events);
        let told = Told { events };
        assert_told_once(&told);
        assert_conserved(&core, &told);
    }

    #[test]
    fn what_is_proof_with_losses_is_true_without(
        plans in plans(),
        lost in prop::collection::vec(prop::bool::weighted(0.2), 300),
    ) {
        let whole = observations(&plans);
        let truth = causes(&told(&mut core(Limits::default()), whole.clone()));
        let mut core = core(Limits::default());
        let mut events: Vec<Event> = Vec::new();
        for (seen, lost) in whole.into_iter().zip(lost) {
            let now = time(&seen);
            if lost {
                core.advance(now, &mut events);
                core.records_lost();
            } else {
                core.observe(seen, &mut events);
            }
        }
        core.finish(&mut events);
        for (key, (cause, certainty)) in causes(&Told { events }) {
            if certainty == Certainty::Proof {
                prop_assert_eq!(Some(cause), truth.get(&key).map(|(cause, _)| *cause), "{:?}", key);
            }
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _refused = decode(&bytes);
    }

    #[test]
    fn any_fields_behind_a_known_kind_are_decoded_or_refused_and_observed(
        kind in 1..kind::COUNT as u8,
        bytes in prop::collection::vec(any::<u8>(), 600),
        tame in any::<bool>(),
    ) {
        let mut bytes = bytes;
        bytes[0] = kind;
        if tame {
            // Codes in range, so that more gets through.
            bytes[1] %= 3;
            bytes[size_of::<Header>() + 4] %= 9;
            bytes[size_of::<Header>() + 5] %= 5;
            let captured = size_of::<MessageHead>() - 8;
            bytes[captured..captured + 8].copy_from_slice(&[100, 0, 0, 0, 10, 0, 0, 0]);
        }
        if let Ok(seen) = decode(&bytes) {
            let mut core = core(SMALL);
            let mut events = Vec::new();
            core.feed(seen.clone().into(), &mut events);
            core.feed(seen.into(), &mut events);
            core.advance(u64::MAX, &mut events);
            core.finish(&mut events);
        }
    }

    #[test]
    fn a_record_keeps_its_numbers(
        numbers in prop::collection::vec(1..u64::MAX, 12),
        (index, port) in (any::<u32>(), any::<u16>()),
        text in Just(b"HTTP/1.1 200 OK\r\n\r\n"),
    ) {
        let header = Header {
            kind: kind::RESPONSE,
            time_ns: numbers[0],
            cookie: numbers[1],
            opened_ns: numbers[2],
            remote_port: port,
            ..Header::default()
        };
        let exchange = Exchange {
            index,
            request_ns: numbers[3],
            request_last_ns: numbers[4],
            first_byte_ns: numbers[5],
            head_ns: numbers[6],
            last_byte_ns: numbers[7],
            idle_since_ns: numbers[8],
            request_bytes: numbers[9],
            request_acked: numbers[10],
            response_bytes: numbers[11],
            ..Exchange::default()
        };
        let record = MessageHead { header, exchange, captured: 19, final_start: 0 };
        let seen = decode(&[bytes_of(&record), &text[..]].concat()).expect("a record");
        let seen = seen.observation().expect("about a socket");
        prop_assert_eq!((seen.socket.time, seen.socket.cookie), (numbers[0], numbers[1]));
        prop_assert_eq!(seen.socket.remote.port(), port);
        let agent_core::observation::What::Response { exchange: x, head, .. } = seen.what else {
            panic!("another kind");
        };
        prop_assert_eq!(head.map(|head| head.status), Some(200));
        prop_assert_eq!(
            [x.request, x.request_last, x.first_byte, x.head, x.last_byte, x.idle_since],
            [3, 4, 5, 6, 7, 8].map(|at| Seen::told(numbers[at]))
        );
        prop_assert_eq!(
            (x.index, x.request_bytes, x.request_acked, x.response_bytes),
            (index, numbers[9], numbers[10], numbers[11])
        );
    }
}

#[test]
fn the_shortest_record_is_shorter_than_the_bytes_of_the_properties() {
    let longest = [
        size_of::<Connect>(),
        size_of::<End>(),
        size_of::<MessageHead>() + 100,
        size_of::<Reset>(),
        size_of::<UnixConnect>(),
    ];
    assert!(longest.iter().all(|size| *size < 600), "{longest:?}");
}
