//! The same faults, each in the middle of exchanges that are told in brief (`--brief true`): what fails is
//! explained as it is where all are followed.
//!
//! Only upstreams that are neither checked nor unread, for a proxy that has others is followed whole; only
//! faults, for what goes well has no event then. `WHY502_PROXY=envoy` runs that proxy.

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
use e2e::wait::eventually;

use super::{AGAIN, BESIDE, UNSTEADY};

/// How long it may take until a proxy is told of in brief again.
const CALM: std::time::Duration = std::time::Duration::from_secs(30);

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
    let is_there = |mode: &Mode| groups.iter().any(|group| group.name == mode.group);

    let mut played = Vec::new();
    for mode in modes.iter().filter(|mode| is_there(mode)) {
        if lacks(&proxy, &stage, mode).is_none() && table.row(mode.name).may_fail(kind) {
            is_told_in_brief(&agent, &proxy);
            played.push(runtime().block_on(play(&proxy, &stage, mode, &run)));
        }
    }
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

/// Asks for what goes well until that is told in brief.
fn is_told_in_brief(agent: &Agent, proxy: &Proxy) {
    let briefs = || {
        let labels = [("kind", "brief"), ("stage", "decoded")];
        agent.metrics().sum("why502_agent_records_total", &labels)
    };
    let before = briefs();
    eventually(CALM, "exchanges are told in brief", || {
        let order = |number| Order::get(format!("/fresh/prepare/calm/{number}/ok"));
        one_by_one(proxy.address, (0..4).map(order).collect());
        let now = briefs();
        if now > before {
            Ok(())
        } else {
            Err(now.to_string())
        }
    });
}
