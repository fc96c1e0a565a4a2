//! The same faults, each in the middle of exchanges that are told in brief (`--brief true`): what fails is
//! explained as it is where all are followed.
//!
//! Only upstreams that are neither checked nor unread, for a proxy that has others is followed whole; only
//! faults, for what goes well has no event then. `WHY502_PROXY=envoy` runs that proxy.

use std::time::{Duration, Instant};

use e2e::agent::Agent;
use e2e::beside::each;
use e2e::faults::Mode;
use e2e::faults::expected::{Table, code};
use e2e::faults::observed::Told;
use e2e::faults::play::{lacks, play};
use e2e::faults::stage::Stage;
use e2e::load::{Order, one_by_one, runtime};
use e2e::process::need_root;
use e2e::proxies::{Group, Kind, Proxy, Target};

use super::{AGAIN, BESIDE, UNSTEADY};

/// How long it may take until a proxy is told of in brief again: a second without a failure, as a rule.
const CALM: Duration = Duration::from_secs(10);

/// So often all may be set up anew, for each round.
const SCENES: usize = 4;

#[test]
fn the_agent_names_each_fault_also_in_the_middle_of_what_is_told_in_brief() {
    need_root();
    let asked = super::the_proxy();
    let usual = [Kind::Nginx, Kind::HaProxy];
    let kinds = Kind::ALL.into_iter().filter(|kind| match &asked {
        Some(one) => one == kind.name(),
        None => usual.contains(kind),
    });
    let table = Table::read();
    let mut plays: Vec<(Kind, Vec<&Mode>)> = kinds.map(|kind| (kind, super::modes())).collect();
    for again in 0..=AGAIN {
        let run = format!("brief{again}");
        plays = each(&plays, BESIDE, |(kind, modes)| {
            (*kind, wrong_of(*kind, modes, &run, &table))
        });
        plays.retain(|(_, wrong)| !wrong.is_empty());
        for (kind, wrong) in &plays {
            let count = wrong.len();
            assert!(count <= UNSTEADY, "{kind}: {count} cells are wrong");
        }
    }
    assert!(plays.is_empty(), "wrong: {}", super::names(&plays));
}

/// Plays these modes, and gives those of which the agent said something wrong.
fn wrong_of(kind: Kind, modes: &[&'static Mode], run: &str, table: &Table) -> Vec<&'static Mode> {
    let (mut wrong, mut rest, mut scenes) = (Vec::new(), modes.to_vec(), 0);
    while !rest.is_empty() {
        scenes += 1;
        assert!(scenes <= SCENES, "{kind} is told of whole too often: {run}");
        let before = rest.len();
        wrong.extend(wrong_of_some(
            kind,
            &mut rest,
            &format!("{run}-{scenes}"),
            table,
        ));
        assert!(rest.len() < before, "{kind} is never told of in brief");
    }
    wrong
}

/// Plays these modes while the proxy is told of in brief, and leaves those that were not. A failure that looks
/// like that of a health check ends it for minutes.
fn wrong_of_some(
    kind: Kind,
    modes: &mut Vec<&'static Mode>,
    run: &str,
    table: &Table,
) -> Vec<&'static Mode> {
    let stage = Stage::build();
    let agent = Agent::start_as(kind.name(), &["--brief", "true"]);
    let events = agent.failures();
    let is_plain = |group: &&Group| {
        let target = &group.target;
        matches!(
            target,
            Target::Servers(_) | Target::Static | Target::Disabled(_)
        )
    };
    let groups: Vec<Group> = stage.groups.iter().filter(is_plain).cloned().collect();
    let proxy = Proxy::start(kind, &groups);
    let run = format!("{kind}-{}-{run}", std::process::id());
    let is_there = |mode: &Mode| {
        let has_group = groups.iter().any(|group| group.name == mode.group);
        has_group && lacks(&proxy, &stage, mode).is_none() && table.row(mode.name).may_fail(kind)
    };
    modes.retain(|mode| is_there(mode));

    let mut played = Vec::new();
    let mut left = std::mem::take(modes).into_iter();
    for mode in left.by_ref() {
        if !is_told_in_brief(&agent, &proxy) {
            modes.push(mode);
            break;
        }
        played.push(runtime().block_on(play(&proxy, &stage, mode, &run)));
    }
    modes.extend(left);
    let told = Told::of(&events, &played);
    let wrong = played.iter().filter(|one| {
        let row = table.row(one.mode.name);
        let observed = told.observe(kind, one);
        // Neither is an error: there is no event of them.
        let left = one.outcomes.iter().any(|outcome| outcome.aborted);
        let may_lack = left || row.may_succeed(kind);
        let wrong = if may_lack && observed.found.cause.is_none() {
            None
        } else {
            let fault = observed.faults.first().cloned();
            fault.or_else(|| row.wrong(kind, observed.code, &observed.found))
        };
        println!(
            "{:<15}{:<22}{:<5}{:<40}{}",
            kind.name(),
            one.mode.name,
            code(observed.code),
            observed.found.to_string(),
            wrong
                .as_ref()
                .map_or("ok".to_owned(), |why| format!("WRONG: {why}")),
        );
        wrong.is_some()
    });
    wrong.map(|one| one.mode).collect()
}

/// Asks for what goes well until that is told in brief; false where it is not.
fn is_told_in_brief(agent: &Agent, proxy: &Proxy) -> bool {
    let briefs = || {
        let labels = [("kind", "brief"), ("stage", "decoded")];
        agent.metrics().sum("why502_agent_records_total", &labels)
    };
    let (before, started) = (briefs(), Instant::now());
    while started.elapsed() < CALM {
        let order = |number| Order::get(format!("/fresh/prepare/calm/{number}/ok"));
        one_by_one(proxy.address, (0..4).map(order).collect());
        if briefs() > before {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
