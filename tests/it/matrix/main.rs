//! Every fault at every proxy, and what the agent says of it.
//!
//! What is expected is written beforehand in `expected.md`, from what the proxies say without
//! the agent and from what really happens in each mode. What was observed is in
//! `docs/coverage.md`, wrong cells among it; the test fails when a cell is wrong that was right
//! there, and when the page is not of this list and this table. `WHY502_BLESS=1` writes it anew.
//! `WHY502_PROXY=haproxy` runs one proxy and `WHY502_MODES=hang,refused` some modes: both print, and
//! compare nothing.

mod checks;
mod coverage;

use std::fs;

use e2e::agent::Agent;
use e2e::faults::expected::{Table, code};
use e2e::faults::observed::Told;
use e2e::faults::play::{lacks, play_these};
use e2e::faults::stage::Stage;
use e2e::faults::{MODES, Mode};
use e2e::load::runtime;
use e2e::process::need_root;
use e2e::proxies::{Group, Kind, Proxy};

use coverage::{Verdict, Verdicts};

/// How often cells that became wrong are played again, those of a proxy by themselves, before they
/// count: some depend on timing. Fewer: a busy machine fails. More: what goes wrong now and then passes.
const AGAIN: usize = 2;

/// Cells that may be played again. More: what goes wrong only beside others, as all do in the first run,
/// is not seen.
const UNSTEADY: usize = 4;

/// Paths and Hosts reach the servers as they were asked for.
const PASSED_ON: fn(Group) -> Group = |group| group;

#[test]
fn the_agent_names_each_fault_also_where_the_proxy_rewrites_path_and_host() {
    need_root();
    let table = Table::read();
    let one = std::env::var("WHY502_PROXY").ok();
    let committed = fs::read_to_string(coverage::path()).unwrap_or_default();
    let mut verdicts = Verdicts::new();
    for kind in Kind::ALL {
        if one.as_deref().is_none_or(|one| one == kind.name()) {
            let modes = modes();
            judge(
                kind,
                modes,
                "rewritten",
                Group::rewritten,
                &table,
                &mut verdicts,
            );
        }
    }
    if some_modes().is_some() {
        return;
    }
    for again in 0..=AGAIN {
        let mut wrong = Vec::new();
        for kind in Kind::ALL {
            if verdicts.keys().all(|(played, _)| *played != kind) {
                continue;
            }
            let modes = coverage::became_wrong(&committed, &verdicts, kind);
            assert!(
                modes.len() <= UNSTEADY,
                "{kind}: {} cells are wrong",
                modes.len()
            );
            wrong.extend(modes.iter().map(|mode| format!("{kind} {}", mode.name)));
            if again < AGAIN && !modes.is_empty() {
                println!("{kind} again:");
                let run = format!("rewritten{again}");
                judge(kind, modes, &run, Group::rewritten, &table, &mut verdicts);
            }
        }
        assert!(
            again < AGAIN || wrong.is_empty(),
            "wrong: {}",
            wrong.join(", ")
        );
    }
}

#[test]
fn the_agent_names_each_fault_at_each_proxy_as_the_page_says() {
    need_root();
    let table = Table::read();
    let one = std::env::var("WHY502_PROXY").ok();

    let mut verdicts = Verdicts::new();
    for kind in Kind::ALL {
        if one.as_deref().is_none_or(|one| one == kind.name()) {
            judge(kind, modes(), "first", PASSED_ON, &table, &mut verdicts);
        }
    }
    if one.is_some() || some_modes().is_some() {
        return;
    }
    let committed = fs::read_to_string(coverage::path()).unwrap_or_default();
    let blesses = std::env::var_os("WHY502_BLESS").is_some();
    for again in 0..=AGAIN {
        let page = coverage::page(&table, &verdicts);
        let rows_false: Vec<&str> = page.lines().filter(|row| coverage::is_false(row)).collect();
        assert!(
            rows_false.is_empty(),
            "a wrong cause is told for sure:\n{}",
            rows_false.join("\n")
        );
        let became_wrong = Kind::ALL.map(|kind| {
            let modes = coverage::became_wrong(&committed, &verdicts, kind);
            (kind, modes)
        });
        let count: usize = became_wrong.iter().map(|(_, modes)| modes.len()).sum();
        assert!(blesses || count <= UNSTEADY, "{count} cells became wrong");
        if again == AGAIN {
            break;
        }
        for (kind, modes) in became_wrong {
            if !modes.is_empty() {
                println!("{kind} again:");
                judge(
                    kind,
                    modes,
                    &format!("again{again}"),
                    PASSED_ON,
                    &table,
                    &mut verdicts,
                );
            }
        }
    }
    let page = coverage::page(&table, &verdicts);
    if blesses {
        fs::write(coverage::path(), page).expect("docs/coverage.md is written");
        return;
    }
    let worse = coverage::worse(&committed, &page).join("\n");
    assert!(
        worse.is_empty(),
        "docs/coverage.md is stale; WHY502_BLESS=1 writes it anew:\n{worse}"
    );
}

/// The modes that are asked for by name.
fn some_modes() -> Option<Vec<String>> {
    let names = std::env::var("WHY502_MODES").ok()?;
    Some(names.split(',').map(str::to_owned).collect())
}

/// The modes to play: all, or those that are asked for.
fn modes() -> Vec<&'static Mode> {
    let some = some_modes();
    let asked = |mode: &&Mode| {
        let named = |some: &Vec<String>| some.iter().any(|name| name == mode.name);
        some.as_ref().is_none_or(named)
    };
    MODES.iter().filter(asked).collect()
}

/// Plays these modes at one proxy and prints a line for each.
fn judge(
    kind: Kind,
    modes: Vec<&'static Mode>,
    run: &str,
    paths: fn(Group) -> Group,
    table: &Table,
    verdicts: &mut Verdicts,
) {
    let stage = Stage::build();
    let agent = Agent::start_as(kind.name(), &[]);
    let events = agent.events();
    let groups: Vec<Group> = stage.groups.iter().cloned().map(paths).collect();
    let proxy = Proxy::start(kind, &groups);
    let run = format!("{}-{run}", std::process::id());

    let played = play_these(&proxy, &stage, modes.iter().copied(), &run);
    let played = runtime().block_on(played);
    let told = Told::of(&events, &played);

    for mode in modes {
        let lacks = lacks(&proxy, &stage, mode);
        assert!(
            table.row(mode.name).is_applicable(kind) == lacks.is_none(),
            "{kind} {}: expected.md and the driver disagree: {lacks:?}",
            mode.name
        );
        let verdict = match (lacks, played.iter().find(|one| one.mode.name == mode.name)) {
            (Some(why), _) => Verdict::NotApplicable(why),
            (None, None) => Verdict::Wrong("not played".to_owned()),
            (None, Some(played)) => {
                let observed = told.observe(kind, played);
                let row = table.row(mode.name);
                let wrong = observed
                    .faults
                    .first()
                    .cloned()
                    .or_else(|| row.wrong(kind, observed.code, &observed.found));
                println!(
                    "{:<15}{:<22}{:<5}{:<40}{}",
                    kind.name(),
                    mode.name,
                    code(observed.code),
                    observed.found.to_string(),
                    wrong
                        .as_ref()
                        .map_or("ok".to_owned(), |why| format!("WRONG: {why}"))
                );
                wrong.map_or(Verdict::Right, Verdict::Wrong)
            }
        };
        verdicts.insert((kind, mode.name), verdict);
    }
}
