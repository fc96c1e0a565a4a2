//! Keep-alive races as they happen: over a line of 20 ms each way, the upstream's FIN crosses the
//! request. And crashes at the same moment on the same kind of connection, which are none.
//!
//! Judged by what the client got and by the proxy's own log, request by request, and by the
//! upstream's idle timeout, which the histogram has to show. `WHY502_PROXY=nginx` runs one proxy.

use std::net::SocketAddr;
use std::time::Duration;

use e2e::agent::events::{Attempt, Line, Request};
use e2e::agent::metrics::Metrics;
use e2e::agent::{Agent, Events};
use e2e::beside::each;
use e2e::delay::DelayLine;
use e2e::load::{Client, Order, Outcome, runtime};
use e2e::netns::Netns;
use e2e::process::need_root;
use e2e::proxies::{Group, Kind, Proxy, Target};
use e2e::upstreams::Upstreams;
use e2e::wait::eventually;

/// One way. Shorter: a busy machine misses the moment. Longer: slow tests.
const DELAY: Duration = Duration::from_millis(20);
/// How long the upstream keeps an idle connection.
const IDLE: Duration = Duration::from_millis(600);
/// A request that leaves the proxy this long before the end of [`IDLE`], as the proxy counts
/// it, meets the FIN half way: it is too late by a delay when it arrives, and in time by a delay
/// when it leaves.
const BEFORE: Duration = DELAY;
/// And this much sooner or later, three times as much more with each three rounds that did not do: where
/// CPUs are taken away, the proxy or the upstream may be late in every one. Three times: the moment lasts for
/// two delays.
const SPREAD_MS: [i64; 3] = [0, -8, 8];
/// Races and crashes of each kind.
const ROUNDS: usize = 3;

/// Requests that have to meet the FIN. Fewer: one kind of request may not have; more: a slow test.
const RACES: usize = 4;

/// Rounds of races at most, of two requests each. Fewer: a busy machine fails, for it misses the
/// moment more often than not; more: where none ever meets it, that shows late.
const RACE_ROUNDS: usize = 25;

/// A CPU that is taken away makes the upstream close later, or the line slower, by so much.
const TAKEN: Duration = Duration::from_millis(250);

/// Kills on the way at most, of which two have to meet their moment. Fewer: a busy machine fails. More:
/// where none ever does, that shows late.
const KILLS: usize = 20;

/// An upstream that closes idle connections.
const RACING: u16 = 9001;
/// One that does not.
const LASTING: u16 = 9002;
/// One that is killed.
const MORTAL: u16 = 9003;

/// Proxies at a time: they mostly wait. More: a busy machine misses more moments.
const BESIDE: usize = 2;

/// How long the agent may take to tell the end of it.
const TELL: Duration = Duration::from_secs(10);

/// A request that was made at the moment that matters.
#[derive(Debug)]
struct Made {
    outcome: Outcome,
    /// What came of it at the proxy, in its words.
    words: String,
    /// What the agent told.
    told: Request,
}

/// An upstream far away, with what stands between.
struct Scene {
    far: Netns,
    line: DelayLine,
    _upstreams: Upstreams,
}

impl Scene {
    fn build() -> Self {
        need_root();
        let far = Netns::new();
        let line = DelayLine::to(&far, DELAY);
        let racing = format!("{RACING}=ok,idle={}", IDLE.as_millis());
        let lasting = LASTING.to_string();
        let upstreams = Upstreams::start(line.far, &[&racing, &lasting], Some(&far));
        Self {
            far,
            line,
            _upstreams: upstreams,
        }
    }

    fn groups(&self) -> Vec<Group> {
        let ports = [("racing", RACING), ("lasting", LASTING), ("mortal", MORTAL)];
        ports
            .map(|(name, port)| {
                let server = SocketAddr::new(self.line.far, port);
                Group::new(name, Target::Servers(vec![server])).kept()
            })
            .to_vec()
    }

    fn mortal(&self) -> Upstreams {
        Upstreams::start(self.line.far, &[&MORTAL.to_string()], Some(&self.far))
    }
}

impl Made {
    /// The attempt that failed, if one did.
    fn failed(&self) -> Option<&Attempt> {
        let mut attempts = self.told.attempts.iter();
        attempts.find(|attempt| attempt.cause.is_some())
    }

    /// Cause and certainty of the attempt that failed.
    fn verdict(&self) -> String {
        self.failed().map_or("none failed".to_owned(), |attempt| {
            let word = |word: &Option<String>| word.clone().unwrap_or_default();
            format!("{} {}", word(&attempt.cause), word(&attempt.certainty))
        })
    }
}

/// Asks twice on one connection: first for what is served, then, when the connection to the
/// upstream has idled for `pause`, with `order`.
async fn twice(proxy: SocketAddr, first: String, order: Order, pause: Duration) -> Outcome {
    let mut client = Client::new(proxy);
    let served = client.ask(&Order::get(first)).await;
    assert!(served.is(200), "{served:?}");
    client.ask(&Order { pause, ..order }).await
}

/// The moment of the race, a little sooner or later in each round.
fn moment(round: usize) -> Duration {
    let times = 3 * i64::try_from(round / SPREAD_MS.len()).unwrap_or(0) + 1;
    let spread = SPREAD_MS[round % SPREAD_MS.len()] * times;
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(0);
    let pause = ms(IDLE) - ms(BEFORE) + spread;
    Duration::from_millis(u64::try_from(pause).unwrap_or(0))
}

/// Puts beside each outcome what proxy and agent say of it.
fn judged(proxy: &Proxy, agent_says: &Events, outcomes: Vec<Outcome>) -> Vec<Made> {
    let paths: Vec<&str> = outcomes
        .iter()
        .map(|outcome| outcome.path.as_str())
        .collect();
    let said = proxy.said_of(paths.iter().copied());
    let requests = || -> Vec<Request> {
        let lines = agent_says.so_far().into_iter();
        lines
            .filter_map(|line| match line {
                Line::Request(request) => Some(*request),
                _ => None,
            })
            .collect()
    };
    eventually(TELL, "each request is told", || {
        let requests = requests();
        let has = |path: &&str| requests.iter().any(|one| one.path.as_deref() == Some(path));
        match paths.iter().find(|path| !has(path)) {
            None => Ok(()),
            Some(path) => Err(format!("{path} is not told")),
        }
    });
    let requests = requests();
    let of = |path: &str| {
        requests
            .iter()
            .find(|one| one.path.as_deref() == Some(path))
    };
    outcomes
        .into_iter()
        .filter_map(|outcome| {
            let told = of(&outcome.path)?.clone();
            let words = said.get(&outcome.path).map(|said| said.words.clone());
            Some(Made {
                outcome,
                words: words.unwrap_or_default(),
                told,
            })
        })
        .inspect(|made| {
            println!(
                "{:<15}{:<44}{:<6}{:<32}{}",
                proxy.kind().name(),
                made.outcome.path,
                made.outcome
                    .status
                    .map_or("none".to_owned(), |status| status.to_string()),
                made.verdict(),
                made.words
            );
        })
        .collect()
}

/// The race itself: with POST, which proxies do not repeat, and with GET, which some do.
fn race(proxy: &Proxy, round: usize) -> Vec<Outcome> {
    let kind = proxy.kind();
    runtime().block_on(async {
        let mut outcomes = Vec::new();
        for order in [
            Order::post(format!("/racing/{kind}/{round}/post/ok"), 50),
            Order::get(format!("/racing/{kind}/{round}/get/ok")),
        ] {
            let first = format!("/racing/{kind}/{round}/{}/first/ok", order.method);
            outcomes.push(twice(proxy.address, first, order, moment(round)).await);
        }
        outcomes
    })
}

/// Rounds until enough requests met the FIN, a POST among them. What misses it is answered: too
/// early, and the upstream has it in time; too late, and the proxy makes another connection.
fn races(proxy: &Proxy, events: &Events) -> Vec<Made> {
    let mut raced: Vec<Made> = Vec::new();
    for round in 0..RACE_ROUNDS {
        raced.extend(judged(proxy, events, race(proxy, round)));
        let lost = raced.iter().filter(|made| made.failed().is_some()).count();
        if lost >= RACES && raced.iter().any(|made| !made.outcome.is(200)) {
            break;
        }
    }
    raced
}

/// The upstream has the request, and then ends the connection in one of these ways.
fn crash(proxy: &Proxy) -> Vec<Outcome> {
    let kind = proxy.kind();
    runtime().block_on(async {
        let mut outcomes = Vec::new();
        for round in 0..ROUNDS {
            for words in ["if_reused,reset", "if_reused,close"] {
                let order = Order::post(format!("/lasting/{kind}/{round}/{words}"), 50);
                let first = format!("/lasting/{kind}/{round}/first/ok");
                outcomes.push(twice(proxy.address, first, order, moment(round)).await);
            }
        }
        outcomes
    })
}

/// The upstream's process is killed when it has the request.
fn kill(proxy: &Proxy, scene: &Scene) -> Vec<Outcome> {
    let kind = proxy.kind();
    let mut outcomes = Vec::new();
    for round in 0..2 {
        let _killed = scene.mortal();
        let order = Order::post(
            format!("/mortal/{kind}/{round}/if_reused,head_cut=0,by=kill"),
            50,
        );
        let first = format!("/mortal/{kind}/{round}/first/ok");
        let asked = twice(proxy.address, first, order, moment(round));
        outcomes.push(runtime().block_on(asked));
    }
    outcomes
}

/// The upstream's process is killed while the request is on its way to it: its FIN crosses the
/// request as in a race, and only its death tells one from the other.
fn kill_under_way(proxy: &Proxy, scene: &Scene, round: usize) -> Outcome {
    let kind = proxy.kind();
    let mut mortal = scene.mortal();
    let order = Order::post(format!("/mortal/{kind}/{round}/under-way/ok"), 50);
    let first = format!("/mortal/{kind}/{round}/under-way/first/ok");
    let asked = twice(proxy.address, first, order, moment(round));
    let killed = async {
        // The first request takes two ways and a connect; then the pause, and half a way.
        tokio::time::sleep(4 * DELAY + moment(round) + DELAY / 2).await;
        mortal.kill();
    };
    let (outcome, ()) = runtime().block_on(async { tokio::join!(asked, killed) });
    outcome
}

/// Two that were killed at that moment. A machine that is busy elsewhere misses it: too late, and the
/// client has its answer; too early, and the proxy knows that the connection is gone and makes another.
fn killed_under_way(proxy: &Proxy, scene: &Scene, events: &Events) -> Vec<Made> {
    let kind = proxy.kind();
    let rounds = (0..KILLS).map(|round| kill_under_way(proxy, scene, round));
    let made = rounds.flat_map(|outcome| judged(proxy, events, vec![outcome]));
    let in_time: Vec<Made> = made
        .filter(|made| {
            let early = if words_of(kind).is_empty() {
                made.verdict() == "connect_refused proof"
            } else {
                // A process that had not read the request yet leaves RST instead of FIN.
                !said(kind, made) && !made.words.contains(RESET)
            };
            let late = made.outcome.is(200);
            if late {
                assert_eq!(made.verdict(), "none failed", "{kind}: {made:#?}");
            } else if early {
                assert_eq!(made.verdict(), "connect_refused proof", "{kind}: {made:#?}");
            }
            !late && !early
        })
        .take(2)
        .collect();
    assert_eq!(in_time.len(), 2, "{kind}: killed in time, of {KILLS}");
    in_time
}

/// What proxies write when an upstream resets instead of answering.
const RESET: &str = "eset by peer";

/// One of what the proxy writes when an upstream closes instead of answering; HAProxy writes nothing
/// on a connection that carried a request before. What Go writes depends on who hears of it first, the
/// goroutine that reads or the one that writes.
fn words_of(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Nginx | Kind::NginxCurrent => {
            &["upstream prematurely closed connection while reading response header"]
        }
        Kind::HaProxy => &[],
        Kind::ApacheEvent | Kind::ApachePrefork => &["AH01102: error reading status line"],
        Kind::Envoy => &["UC "],
        Kind::Caddy | Kind::CaddyCurrent | Kind::Traefik => {
            &["EOF", "use of closed network connection"]
        }
        Kind::Varnish => &["HTC eof"],
    }
}

/// Whether the proxy wrote that.
fn said(kind: Kind, made: &Made) -> bool {
    words_of(kind)
        .iter()
        .any(|words| made.words.contains(words))
}

fn assert_races(kind: Kind, raced: &[Made]) {
    let lost: Vec<&Made> = raced
        .iter()
        .filter(|made| made.failed().is_some())
        .collect();
    assert!(
        lost.len() >= RACES,
        "{kind}: {} of {} requests met the FIN: {raced:#?}",
        lost.len(),
        raced.len()
    );
    for made in raced {
        let path = &made.outcome.path;
        let said = said(kind, made);
        let Some(attempt) = made.failed() else {
            assert!(
                made.outcome.is(200) && !said,
                "{kind} {path}: nothing failed, and no 200 or the proxy's word: {made:#?}"
            );
            continue;
        };
        assert_eq!(made.verdict(), "keepalive_race proof", "{kind} {path}");
        assert_eq!(attempt.reused, Some(true), "{kind} {path}");
        assert_eq!(attempt.how.as_deref(), Some("fin"), "{kind} {path}");
        // A proxy that repeats a GET may do so without a word.
        let in_go = matches!(kind, Kind::Caddy | Kind::CaddyCurrent | Kind::Traefik);
        let may_be_silent = words_of(kind).is_empty() || in_go && made.outcome.is(200);
        assert!(said || may_be_silent, "{kind} {path}: {}", made.words);
    }
    assert!(
        lost.iter().any(|made| !made.outcome.is(200)),
        "{kind}: a POST is not repeated"
    );
}

/// The upstream's timeout is what the histogram shows of lost races, and the wins before it.
fn assert_shows_the_timeout(agent: &Agent, kind: Kind, upstream: &str, races: usize) {
    let of = |metrics: &Metrics, what: &str| {
        let name = format!("why502_upstream_idle_before_reuse_seconds_{what}");
        let proxy = ("proxy", kind.label());
        metrics.sum(&name, &[proxy, ("upstream", upstream), ("raced", "true")])
    };
    let metrics = eventually(TELL, "each race is counted as one", || {
        let metrics = agent.metrics();
        match of(&metrics, "count") {
            count if count as usize == races => Ok(metrics),
            count => Err(format!("{count} of {races}")),
        }
    });
    let mean = of(&metrics, "sum") / races as f64;
    let least = (IDLE - BEFORE - BEFORE - TAKEN).as_secs_f64();
    let most = (IDLE + TAKEN).as_secs_f64();
    assert!(
        (least..=most).contains(&mean),
        "idle for {mean} s before a race that comes by a timeout of {IDLE:?}"
    );
}

fn at(kind: Kind) {
    let scene = Scene::build();
    let agent = Agent::start_as(&format!("race-{kind}"), &[]);
    let events = agent.events();
    let proxy = Proxy::start(kind, &scene.groups());

    let raced = races(&proxy, &events);
    let crashed = judged(&proxy, &events, crash(&proxy));
    let killed = judged(&proxy, &events, kill(&proxy, &scene));
    let killed_under_way = killed_under_way(&proxy, &scene, &events);

    assert_races(kind, &raced);
    let races = raced.iter().filter(|made| made.failed().is_some()).count();
    let upstream = SocketAddr::new(scene.line.far, RACING).to_string();
    assert_shows_the_timeout(&agent, kind, &upstream, races);
    for made in &crashed {
        // A reset at once looks like a close with the request unread; a FIN does not.
        let allowed = [
            "keepalive_race strong",
            "closed_before_response strong",
            "closed_before_response proof",
        ];
        assert!(
            allowed.contains(&made.verdict().as_str()),
            "{kind}: {made:#?}"
        );
    }
    for made in killed.iter().chain(&killed_under_way) {
        assert_eq!(
            made.verdict(),
            "upstream_crashed proof",
            "{kind}: {made:#?}"
        );
    }
}

/// Apache httpd does not close what idles, and its pool gives the connection to whoever comes next: with
/// another path, nothing but the thread says whose the attempt is.
#[test]
fn a_race_behind_another_path_is_of_its_request() {
    let scene = Scene::build();
    for kind in [Kind::ApacheEvent, Kind::ApachePrefork] {
        let agent = Agent::start_as(&format!("race-rewritten-{kind}"), &[]);
        let events = agent.events();
        let groups: Vec<Group> = scene.groups().into_iter().map(Group::rewritten).collect();
        let proxy = Proxy::start(kind, &groups);
        assert_races(kind, &races(&proxy, &events));
    }
}

#[test]
fn a_race_is_proven_and_a_crash_at_the_same_moment_is_not() {
    let one = std::env::var("WHY502_PROXY").ok();
    let asked = |kind: &Kind| one.as_deref().is_none_or(|one| one == kind.name());
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(asked).collect();
    each(&kinds, BESIDE, |kind| at(*kind));
}
