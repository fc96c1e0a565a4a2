//! What nginx itself says about each kind of request, without the agent: the expectations
//! that the agent is judged by are measured on the machine that judges.

use std::collections::{BTreeMap, BTreeSet};

use e2e::load::mix::{CASES, Planned, seed};
use e2e::load::{run, runtime};
use e2e::nginx::error_log::Words;
use e2e::process::need_root;
use e2e::stage::Stage;

/// Requests of each case: enough to see a case that goes two ways.
const EACH: usize = 12;

#[test]
fn nginx_says_of_each_fault_what_the_judge_expects() {
    need_root();
    let seed = seed();
    let stage = Stage::build();
    let mut rng = fastrand::Rng::with_seed(seed);
    let planned: Vec<Planned> = CASES
        .iter()
        .flat_map(|case| std::iter::repeat_n(case, EACH))
        .enumerate()
        .map(|(number, case)| case.order(&mut rng, seed, number))
        .collect();
    let case_of: BTreeMap<&str, &str> = planned
        .iter()
        .map(|planned| (planned.order.path.as_str(), planned.case.name))
        .collect();

    let orders = planned
        .iter()
        .map(|planned| planned.order.clone())
        .collect();
    let outcomes = runtime().block_on(run(stage.address, orders, 8));
    assert_eq!(outcomes.len(), planned.len());
    let access = stage.nginx.access_log_of(planned.len());
    let errors = stage.nginx.error_log();

    let mut statuses: BTreeMap<&str, BTreeMap<u16, usize>> = BTreeMap::new();
    for request in &access {
        let case = case_of[request.path.as_str()];
        *statuses
            .entry(case)
            .or_default()
            .entry(request.status)
            .or_default() += 1;
    }
    let mut words: BTreeMap<&str, BTreeMap<Words, usize>> = BTreeMap::new();
    for line in &errors {
        if let Some(case) = case_of.get(line.path.as_str()) {
            *words
                .entry(case)
                .or_default()
                .entry(line.words)
                .or_default() += 1;
        }
    }
    println!("{:<24}{:<40}error log", "case", "statuses");
    let mut wrong = Vec::new();
    for case in CASES {
        let statuses = statuses.remove(case.name).unwrap_or_default();
        let words = words.remove(case.name).unwrap_or_default();
        println!(
            "{:<24}{:<40}{:?}",
            case.name,
            format!("{statuses:?}"),
            words
        );
        let unexpected: BTreeSet<_> = statuses
            .keys()
            .filter(|status| !case.statuses.contains(status))
            .collect();
        if !unexpected.is_empty() {
            wrong.push(format!("{} gave {unexpected:?}", case.name));
        }
        let said: BTreeSet<_> = words
            .keys()
            .filter(|words| !words.causes().is_empty())
            .collect();
        if case.words.is_empty() && case.causes.is_empty() && !said.is_empty() {
            wrong.push(format!("{} said {said:?}", case.name));
        }
        if !case.words.is_empty() && !said.iter().any(|words| case.words.contains(words)) {
            wrong.push(format!("{} said {said:?}, not {:?}", case.name, case.words));
        }
    }
    for line in errors.iter().filter(|line| line.words == Words::Other) {
        println!("other words: {}", line.line);
    }
    assert!(wrong.is_empty(), "nginx says otherwise: {wrong:#?}");
}
