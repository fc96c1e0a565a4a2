//! Every fault at every proxy, and what the agent says of it.
//!
//! What is expected is written beforehand in `expected.md`, from what the proxies say without
//! the agent and from what really happens in each mode. What was observed is in
//! `docs/coverage.md`, wrong cells among it; the test fails when a cell is wrong that was right
//! there, and when the page is not of this list and this table. `WHY502_BLESS=1` writes it anew.
//! What the agent says that a proxy writes has to be in its log, too.
//! `WHY502_PROXY=haproxy` runs one proxy and `WHY502_MODES=hang,refused` some modes: both print, and
//! compare nothing.

mod checks;
mod coverage;
mod in_brief;
mod words;

use std::collections::BTreeMap;
use std::fs;

use e2e::agent::Agent;
use e2e::beside::each;
use e2e::faults::expected::{Table, code};
use e2e::faults::observed::Told;
use e2e::faults::play::{lacks, play_these};
use e2e::faults::stage::Stage;
use e2e::faults::{MODES, Mode};
use e2e::load::{Outcome, runtime};
use e2e::process::need_root;
use e2e::proxies::{Group, Kind, Proxy};

use coverage::{Verdict, Verdicts};

/// How often cells that became wrong are played again, those of a proxy by themselves, before they
/// count: some depend on timing. Fewer: a busy machine fails. More: what goes wrong now and then passes.
const AGAIN: usize = 2;

/// Cells of a proxy that may be played again. More: what goes wrong only beside others, as all do in the first run,
/// is not seen.
const UNSTEADY: usize = 4;

/// Proxies that are played beside each other, each with a stage and an agent of its own: they mostly wait.
/// More: each agent sees what the others do, and the CPUs get short.
const BESIDE: usize = 2;

/// How paths and Hosts reach the servers.
#[derive(Clone, Copy, Debug)]
enum Column {
    /// As they were asked for. What the agent says of the proxy's words is judged by its log.
    PassedOn,
    /// Changed by the proxy, as many are set up to do.
    Rewritten,
}

#[test]
fn the_agent_names_each_fault_also_where_the_proxy_rewrites_path_and_host() {
    need_root();
    let committed = fs::read_to_string(coverage::path()).unwrap_or_default();
    let table = Table::read();
    let mut verdicts = judge_all(Column::Rewritten, "first", of_all(&modes()), &table);
    if some_modes().is_some() {
        return;
    }
    for again in 0..=AGAIN {
        let became_wrong = wrong_of(&committed, &verdicts);
        for (kind, modes) in &became_wrong {
            let count = modes.len();
            assert!(count <= UNSTEADY, "{kind}: {count} cells are wrong");
        }
        if again == AGAIN {
            let wrong = names(&became_wrong);
            assert!(wrong.is_empty(), "wrong: {wrong}");
        }
        let run = format!("again{again}");
        verdicts.extend(judge_all(Column::Rewritten, &run, became_wrong, &table));
    }
}

#[test]
fn the_agent_names_each_fault_at_each_proxy_as_the_page_says() {
    need_root();
    let committed = fs::read_to_string(coverage::path()).unwrap_or_default();
    let blesses = std::env::var_os("WHY502_BLESS").is_some();
    let table = Table::read();
    let mut verdicts = judge_all(Column::PassedOn, "first", of_all(&modes()), &table);
    if the_proxy().is_some() || some_modes().is_some() {
        return;
    }
    for again in 0..=AGAIN {
        let page = coverage::page(&table, &verdicts);
        let rows_false: Vec<&str> = page.lines().filter(|row| coverage::is_false(row)).collect();
        assert!(
            rows_false.is_empty(),
            "a wrong cause is told for sure:\n{}",
            rows_false.join("\n")
        );
        let became_wrong = wrong_of(&committed, &verdicts);
        for (kind, modes) in &became_wrong {
            let count = modes.len();
            assert!(
                blesses || count <= UNSTEADY,
                "{kind}: {count} of {} cells became wrong",
                names(&became_wrong)
            );
        }
        if again < AGAIN {
            let run = format!("again{again}");
            verdicts.extend(judge_all(Column::PassedOn, &run, became_wrong, &table));
        }
    }
    let wordless = coverage::without_words(&verdicts);
    assert!(wordless.is_empty(), "not in the proxy's log: {wordless:?}");
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

/// What is to be played, by proxy.
type Plays = Vec<(Kind, Vec<&'static Mode>)>;

/// The proxy that is asked for by name.
fn the_proxy() -> Option<String> {
    std::env::var("WHY502_PROXY").ok()
}

/// These modes at each proxy that is asked for.
fn of_all(modes: &[&'static Mode]) -> Plays {
    let one = the_proxy();
    let asked = |kind: &Kind| one.as_deref().is_none_or(|one| one == kind.name());
    let kinds = Kind::ALL.into_iter().filter(asked);
    kinds.map(|kind| (kind, modes.to_vec())).collect()
}

/// What is wrong and was right, of the proxies that were played.
fn wrong_of(committed: &str, verdicts: &Verdicts) -> Plays {
    let mut kinds: Vec<Kind> = verdicts.keys().map(|(kind, _)| *kind).collect();
    kinds.dedup();
    let wrong = kinds.into_iter().map(|kind| {
        let modes = coverage::became_wrong(committed, verdicts, kind);
        (kind, modes)
    });
    wrong.filter(|(_, modes)| !modes.is_empty()).collect()
}

fn names(plays: &Plays) -> String {
    let of = |(kind, modes): &(Kind, Vec<&Mode>)| {
        let names: Vec<&str> = modes.iter().map(|mode| mode.name).collect();
        format!("{kind} {}", names.join(" "))
    };
    plays.iter().map(of).collect::<Vec<_>>().join(", ")
}

/// Plays each proxy's modes, [`BESIDE`] proxies at a time.
fn judge_all(column: Column, run: &str, plays: Plays, table: &Table) -> Verdicts {
    let judged = each(&plays, BESIDE, |(kind, modes)| {
        judge(*kind, modes, column, run, table)
    });
    judged.into_iter().flatten().collect()
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
    modes: &[&'static Mode],
    column: Column,
    run: &str,
    table: &Table,
) -> Verdicts {
    let stage = Stage::build();
    let agent = Agent::start_as(kind.name(), &[]);
    let events = agent.events();
    let groups: Vec<Group> = match column {
        Column::PassedOn => stage.groups.clone(),
        Column::Rewritten => stage.groups.iter().cloned().map(Group::rewritten).collect(),
    };
    let proxy = Proxy::start(kind, &groups);
    let run = format!("{kind}-{}-{run}", std::process::id());

    let played = play_these(&proxy, &stage, modes.iter().copied(), &run);
    let played = runtime().block_on(played);
    let told = Told::of(&events, &played);
    let asked: Vec<&Outcome> = played.iter().flat_map(|played| &played.outcomes).collect();
    let said = match column {
        Column::PassedOn => proxy.said_of(asked.iter().map(|outcome| outcome.path.as_str())),
        Column::Rewritten => BTreeMap::new(),
    };
    let unseen = asked
        .iter()
        .filter(|outcome| outcome.status.is_none() && !outcome.aborted && outcome.error.is_none());
    assert_eq!(unseen.count(), 0, "{kind}: each request has an outcome");

    let mut verdicts = Verdicts::new();
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
                let sure = observed.found.certainty.as_deref() != Some("guess");
                let words = || match column {
                    Column::PassedOn if sure => words::missing(kind, played, &said, &told),
                    Column::PassedOn | Column::Rewritten => None,
                };
                let wrong = observed
                    .faults
                    .first()
                    .cloned()
                    .or_else(|| row.wrong(kind, observed.code, &observed.found))
                    .or_else(words);
                println!(
                    "{:<15}{:<22}{:<5}{:<40}{:<40} {}",
                    kind.name(),
                    mode.name,
                    code(observed.code),
                    observed.found.to_string(),
                    wrong
                        .as_ref()
                        .map_or("ok".to_owned(), |why| format!("WRONG: {why}")),
                    words::of_log(played, &said),
                );
                wrong.map_or(Verdict::Right, Verdict::Wrong)
            }
        };
        verdicts.insert((kind, mode.name), verdict);
    }
    verdicts
}
