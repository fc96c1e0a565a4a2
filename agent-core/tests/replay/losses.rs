//! Recordings with some of their records lost: what is still called proof must be what the whole
//! recording says, whatever is lost.
//!
//! Losses are told as the daemon tells them: it looks at the probes' counters after it has taken
//! records out of the ring and before it feeds them to the core, and again in the round after.

use std::collections::HashMap;

use agent_core::cause::{Cause, Certainty};
use agent_core::event::{Event, Failure};
use agent_core::{Core, Input, Limits};

use crate::effort::Effort;
use crate::random::Random;
use crate::{input, lines, recordings};

/// Runs when nothing else is said: some seconds without optimisation.
const RUNS: u64 = 24;

/// A recording, cut where the daemon let time pass.
type Rounds = Vec<Vec<Input>>;

/// Cause and certainty of each request's error (`true`) and of each attempt's or health check's
/// failure (`false`).
type Verdicts = HashMap<(bool, u64, u32), (Cause, Certainty)>;

#[test]
fn what_is_proof_of_a_recording_with_losses_is_so_without() {
    let whole: Vec<(Rounds, Verdicts)> = recordings()
        .iter()
        .map(|recording| {
            let inputs = lines(recording).skip(1);
            let inputs = inputs.map(|line| input(&line).expect("a line is an input"));
            let rounds = rounds(inputs);
            let verdicts = verdicts(rounds.iter().flatten().cloned());
            (rounds, verdicts)
        })
        .collect();
    let mut effort = Effort::new("losses", RUNS);
    let mut random = Random::new(effort.seed());
    let (mut proofs, mut errors) = (0, 0);
    while effort.goes_on() {
        let (rounds, truth) = &whole[random.below(whole.len())];
        // One in 2 to one in 512, alone or in bursts.
        let rarity = 2 << random.below(9);
        let burst = 1 + random.below(40);
        let told = verdicts(with_losses(rounds, &mut random, rarity, burst));
        for (key, (cause, certainty)) in told {
            errors += 1;
            if certainty == Certainty::Proof {
                proofs += 1;
                assert_eq!(
                    Some(cause),
                    truth.get(&key).map(|(cause, _)| *cause),
                    "{key:?}: proof left, whole right"
                );
            }
        }
    }
    println!("{proofs} of {errors} verdicts were proofs all the same");
    assert!(proofs > 0, "a loss elsewhere does not spoil everything");
}

fn rounds(inputs: impl Iterator<Item = Input>) -> Rounds {
    let mut rounds = vec![Vec::new()];
    for input in inputs {
        let over = matches!(input, Input::Advance { .. });
        if let Some(round) = rounds.last_mut() {
            round.push(input);
        }
        if over {
            rounds.push(Vec::new());
        }
    }
    rounds
}

/// Loses observations; one in `rarity` begins a burst of them.
fn with_losses(rounds: &Rounds, random: &mut Random, rarity: usize, burst: usize) -> Vec<Input> {
    let mut left = 0;
    let mut again = false;
    let mut inputs = Vec::new();
    for round in rounds {
        let mut kept = Vec::new();
        let mut lost = false;
        for input in round {
            if left == 0 && random.below(rarity) == 0 {
                left = 1 + random.below(burst);
            }
            if left > 0 && matches!(input, Input::Observe(_)) {
                left -= 1;
                lost = true;
            } else {
                kept.push(input.clone());
            }
        }
        if lost || again {
            inputs.push(Input::RecordsLost);
        }
        again = lost;
        inputs.append(&mut kept);
    }
    inputs
}

fn verdicts(inputs: impl IntoIterator<Item = Input>) -> Verdicts {
    let mut core = Core::new(Limits::default());
    let mut events = Vec::new();
    let mut verdicts = Verdicts::new();
    for input in inputs {
        core.feed(input, &mut events);
        for event in events.drain(..) {
            let mut keep = |key, failure: Option<Failure>| {
                if let Some(failure) = failure {
                    verdicts.insert(key, (failure.cause, failure.certainty));
                }
            };
            // A connect without a socket has no cookie to be known by.
            for attempt in event.attempts().iter().filter(|one| one.cookie != 0) {
                keep((false, attempt.cookie, attempt.index), attempt.failure);
            }
            match &event {
                Event::Request(request) => {
                    keep((true, request.cookie, request.index), request.error);
                }
                Event::Check(check) => {
                    if let Some(cause) = check.failure {
                        let key = (false, check.cookie, check.index);
                        verdicts.insert(key, (cause, Certainty::Strong));
                    }
                }
                _ => {}
            }
        }
    }
    verdicts
}
