//! Applications and clients on the proxy's host are looked at until they have shown that they are
//! no proxies. What is told of the proxy must not suffer from it.

use std::time::Duration;

use e2e::agent::Agent;
use e2e::agent::events::Line;
use e2e::load::{Client, Order, runtime};
use e2e::process::need_root;
use e2e::stage::Stage;
use e2e::wait::eventually;

const EXCHANGES: &str = "why502_agent_exchanges_total";

/// After so many the application and the client are bystanders.
const ENOUGH: usize = 200;

const REQUESTS: usize = 2000;

/// Of the stage's upstream that is kept alive.
const SERVERS: usize = 4;

/// Requests after which it is looked what was seen of them.
const BATCH: usize = 100;

/// How long it may take until both are looked at no more. Each look at the counters takes seconds.
const PARK: Duration = Duration::from_secs(90);

/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(20);

#[test]
fn a_bystander_is_not_read_and_its_death_is_told_all_the_same() {
    need_root();
    let stage = Stage::build();
    let agent = Agent::start(&["--bystander-exchanges", &ENOUGH.to_string()]);
    let events = agent.events();

    let runtime = runtime();
    // One connection, kept on both sides of the proxy, so that it lives on when its ends are
    // looked at no more.
    let mut client = Client::new(stage.address);
    let mut asked = 0;
    let mut ask = |requests: usize| {
        for _ in 0..requests {
            let outcome = runtime.block_on(client.ask(&Order::get(format!("/one/0/{asked}/ok"))));
            assert!(outcome.is(200), "{outcome:?}");
            asked += 1;
        }
        // The application's requests, and the client's attempts.
        let metrics = agent.settled(TELL);
        ["request", "attempt"]
            .map(|what| metrics.sum(EXCHANGES, &[("fate", "foreign"), ("what", what)]) as usize)
    };
    // Others on this host may serve and ask as well, but not at this pace.
    let few = |asked: usize, before: [usize; 2], now: [usize; 2]| {
        let more = before.iter().zip(now).map(|(before, now)| now - before);
        more.max().is_some_and(|most| most < asked / 4)
    };
    let mut before = [0; 2];
    let foreign = eventually(PARK, "application and client are looked at no more", || {
        let now = ask(BATCH);
        let said = format!("{before:?}, then {now:?}");
        let parked = few(BATCH, std::mem::replace(&mut before, now), now);
        parked.then_some(now).ok_or(said)
    });
    assert!(
        foreign.into_iter().all(|count| count >= ENOUGH),
        "{foreign:?}"
    );
    let after = ask(REQUESTS);
    assert!(few(REQUESTS, foreign, after), "{foreign:?}, then {after:?}");
    let killed = "/one/0/last/head_cut=0,by=kill";
    runtime.block_on(client.ask(&Order::post(killed, 10)));

    let told = eventually(TELL, "the death is told", || {
        let found = events.so_far().into_iter().find_map(|line| match line {
            Line::Request(request) if request.path.as_deref() == Some(killed) => Some(request),
            _ => None,
        });
        found.ok_or_else(|| "not yet".to_owned())
    });
    assert_eq!(told.cause.as_deref(), Some("upstream_crashed"), "{told:?}");
    let metrics = agent.settled(TELL);
    let count = |fate, what| metrics.sum(EXCHANGES, &[("fate", fate), ("what", what)]) as usize;
    // All that the proxy did, and the one that was killed.
    assert_eq!(count("told", "request"), asked + 1);
    assert_eq!(count("told", "attempt"), asked + 1);
}

#[test]
fn an_excluded_process_is_left_alone_on_connections_from_before_the_agent() {
    need_root();
    let stage = Stage::build();
    let runtime = runtime();
    let mut client = Client::new(stage.address);
    let mut ask = |path: String| {
        let outcome = runtime.block_on(client.ask(&Order::get(path)));
        assert!(outcome.is(200), "{outcome:?}");
    };
    // Kept alive on both sides of the proxy, to each of its four servers.
    for number in 0..SERVERS {
        ask(format!("/one/0/before/{number}/ok"));
    }
    // Where packets are seen of none but proxies, an excluded one has none seen at all.
    let agent = Agent::start(&[
        "--attach",
        "everywhere",
        "--exclude-process",
        "nginx",
        "--bystander-exchanges",
        "0",
    ]);

    let emitted = || {
        let requests = [("kind", "request"), ("stage", "emitted")];
        let metrics = agent.settled(TELL);
        metrics.sum("why502_agent_records_total", &requests) as usize
    };
    let mut before = emitted();
    let mut batch = 0;
    eventually(TELL, "only the client and the application are seen", || {
        for number in 0..BATCH {
            ask(format!("/one/0/{batch}/{number}/ok"));
        }
        batch += 1;
        let now = emitted();
        let seen = now - std::mem::replace(&mut before, now);
        assert!(seen >= 2 * BATCH, "{seen} records of {BATCH} requests");
        if seen < 2 * BATCH + BATCH / 10 {
            Ok(())
        } else {
            Err(format!("{seen} records of {BATCH} requests"))
        }
    });
}
