//! Makes one mode happen at a running proxy.
//!
//! In: a mode, a proxy, the stage. Out: what the client got for each request that is looked
//! at, and their paths. Requests that only prepare are marked in their paths: they are of no
//! mode.

use std::cell::Cell;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::stage::Stage;
use super::{Before, MODES, Mode};
use crate::load::{Client, Order, Outcome};
use crate::proxies::{Kind, Proxy};

/// A client that waits longer gives up. Too short: an answer at the end of several timers is
/// missed. Too long: a proxy that has no timer there holds the test up.
const GIVES_UP: Duration = Duration::from_secs(6);

/// How long preparations may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two requests that have to come in this order. Too short: they do not, on a busy
/// machine. Too long: the first one's answer comes before the last one's request.
const NEXT: Duration = Duration::from_millis(100);

/// Slow modes at a time.
const BESIDE: usize = 6;
/// By how much they start after each other at least.
const APART: Duration = Duration::from_millis(60);

/// What came of one mode.
#[derive(Clone, Debug)]
pub struct Played {
    /// Which.
    pub mode: &'static Mode,
    /// The requests that are looked at, in order.
    pub outcomes: Vec<Outcome>,
}

/// Plays all modes that the proxy can have, see [`play_these`].
pub async fn play_all(proxy: &Proxy, stage: &Stage, run: &str) -> Vec<Played> {
    play_these(proxy, stage, MODES.iter(), run).await
}

/// Plays those of the modes that the proxy can have: quick ones one after the other, slow ones
/// beside each other. `run` makes the paths of this run its own.
pub async fn play_these(
    proxy: &Proxy,
    stage: &Stage,
    modes: impl Iterator<Item = &'static Mode>,
    run: &str,
) -> Vec<Played> {
    let able = |mode: &&Mode| lacks(proxy, stage, mode).is_none();
    let (slow, quick): (Vec<_>, Vec<_>) = modes.filter(able).partition(|mode| mode.slow);
    let mut played = Vec::new();
    for mode in quick {
        played.push(play(proxy, stage, mode, run).await);
    }
    let (places, next) = (Semaphore::new(BESIDE), Cell::new(Instant::now()));
    let plays = slow.into_iter().map(|mode| async {
        let _place = places.acquire().await;
        // Apart in time, or their timers run out together, and whose attempt was whose is a
        // matter for another test.
        let starts = next.get().max(Instant::now());
        next.set(starts + APART);
        tokio::time::sleep_until(starts).await;
        play(proxy, stage, mode, run).await
    });
    played.extend(join_all(plays.collect()).await);
    played
}

/// Why the proxy cannot have a mode, if it cannot.
pub fn lacks(proxy: &Proxy, stage: &Stage, mode: &Mode) -> Option<&'static str> {
    if mode.group == "unix_full" && matches!(proxy.kind(), Kind::ApacheEvent | Kind::ApachePrefork)
    {
        return Some("waits in connect() without limit, and cannot be stopped then");
    }
    if mode.name == "stalled-post" && matches!(proxy.kind(), Kind::Varnish | Kind::Traefik) {
        return Some("goes on sending long after the client left");
    }
    let group = stage.groups.iter().find(|group| group.name == mode.group);
    match group {
        Some(group) => proxy.kind().lacks(group),
        None => panic!("mode {} is at a group that is not there", mode.name),
    }
}

/// Plays one mode.
pub async fn play(proxy: &Proxy, stage: &Stage, mode: &'static Mode, run: &str) -> Played {
    let mut client = Client::new(proxy.address);
    let mut number = 0;
    let mut path = || {
        number += 1;
        mode.path(run, number)
    };
    let prepare = |words: &str, number: usize| {
        Order::get(format!(
            "/{}/prepare/{}/{run}/{number}/{words}",
            mode.group, mode.name
        ))
    };
    let order = |path: String| Order {
        abort_after: Some(mode.leaves_after.map_or(GIVES_UP, Duration::from_millis)),
        ..match mode.post {
            Some(body) => Order::post(path, body),
            None => Order::get(path),
        }
    };
    let mut outcomes = Vec::new();
    match mode.before {
        Before::Nothing => {}
        Before::Served | Before::Darkened | Before::Raced => {
            let served = client.ask(&prepare("ok", 0)).await;
            assert!(
                served.is(200),
                "{} of {}: {served:?}",
                mode.name,
                proxy.kind()
            );
        }
        Before::Failed => {
            for number in 0..2 {
                client.ask(&prepare("any", number)).await;
            }
        }
        Before::Occupied => {}
    }
    match mode.before {
        Before::Darkened => stage.darken(),
        Before::Raced => {
            let order = order(path());
            outcomes.push(raced(proxy, stage.race, &mut client, &order).await);
            return Played { mode, outcomes };
        }
        Before::Occupied => {
            // Two, for some proxies let one wait. Each has to be there before the next.
            let mut others = [Client::new(proxy.address), Client::new(proxy.address)];
            let [first, second] = &mut others;
            let occupying = prepare("wait=800", 0);
            let waiting = Order {
                pause: NEXT,
                ..prepare("wait=800", 1)
            };
            let order = Order {
                pause: NEXT * 2,
                ..order(path())
            };
            let (_, _, outcome) = tokio::join!(
                first.ask(&occupying),
                second.ask(&waiting),
                client.ask(&order)
            );
            outcomes.push(outcome);
            return Played { mode, outcomes };
        }
        Before::Nothing | Before::Served | Before::Failed => {}
    }
    for _ in 0..mode.times {
        outcomes.push(client.ask(&order(path())).await);
    }
    Played { mode, outcomes }
}

/// Asks while the proxy is held still, and lets it go on when the upstream has closed.
async fn raced(proxy: &Proxy, upstream: SocketAddr, client: &mut Client, order: &Order) -> Outcome {
    let held = proxy.hold();
    let let_go = async {
        let started = std::time::Instant::now();
        while !has_close_waiting(upstream) && started.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(held);
    };
    let (outcome, ()) = tokio::join!(client.ask(order), let_go);
    outcome
}

/// Whether a connection to `upstream` was closed by it and not yet by the proxy (CLOSE_WAIT).
fn has_close_waiting(upstream: SocketAddr) -> bool {
    let port = format!(":{:04X}", upstream.port());
    fs::read_to_string("/proc/net/tcp").is_ok_and(|table| {
        table.lines().any(|line| {
            let mut words = line.split_whitespace().skip(2);
            words.next().is_some_and(|remote| remote.ends_with(&port)) && words.next() == Some("08")
        })
    })
}

/// Runs them beside each other on this task, for they borrow.
async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures
        .into_iter()
        .map(|future| (Box::pin(future), None))
        .collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, output) in &mut running {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(done) => *output = Some(done),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            std::task::Poll::Pending
        } else {
            std::task::Poll::Ready(())
        }
    })
    .await;
    running
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}
