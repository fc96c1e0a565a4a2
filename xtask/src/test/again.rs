//! A failed end-to-end test is run again, alone, when all others are done.
//!
//! Where CPUs are taken away for tens of milliseconds at a time, a test may miss its moment once
//! in many runs. A test that passes when run alone is flaky: no failure, but shown with both
//! outputs and named again in the summary, since a product fault may hide in it. What is a fault
//! without doubt is not run again: a program that broke off, or many tests at once.

use anyhow::{Result, bail};

use super::libtest::{self, Failure};
use super::programs::{Ended, Program, Programs};
use crate::host::interrupt;

/// How often a failed test is run again at most. Fewer: two bad moments in a row fail a run;
/// more: a test that fails every other time passes for long.
const TIMES: usize = 2;

/// With more failed tests than this none is run again. Fewer: a bad minute of the machine fails
/// the run; more: a broken agent takes three times as long to be told.
const MANY: usize = 8;

/// What became of the suite.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Tests that failed and then passed, one line each.
    pub(super) flaky: Vec<String>,
    /// Why the suite failed, if it did.
    pub(super) error: Option<String>,
}

/// A test that failed among the others.
struct Failed<'a> {
    program: &'a Program,
    failure: Failure,
}

/// What became of one test that was run again.
enum Settled {
    /// It passed at last: how often it had failed alone, and what it said when it passed.
    Flaky { failed: usize, output: String },
    /// It failed each time; what it said last.
    Failed { output: String },
}

/// Runs all programs, and again what failed.
pub(super) fn run(programs: &Programs) -> Result<Outcome> {
    let mut failed = Vec::new();
    let mut broken = Vec::new();
    for program in programs.list.iter().filter(|it| !it.tests.is_empty()) {
        println!("\n{}", program.target);
        let Ended { status, output } = programs.run(program)?;
        stop_if_interrupted()?;
        match libtest::judge(&program.tests, status, &output) {
            libtest::Run::Passed => {}
            libtest::Run::Failed(failures) => {
                failed.extend(
                    failures
                        .into_iter()
                        .map(|failure| Failed { program, failure }),
                );
            }
            libtest::Run::Broken(why) => {
                println!("{} {why}", program.target);
                broken.push(format!("{} {why}", program.target));
            }
        }
    }
    conclude(failed, broken, |Failed { program, failure }| {
        let name = &failure.name;
        println!("again, alone: {} {name}", program.target);
        let Ended { status, output } = programs.run_alone(program, name)?;
        stop_if_interrupted()?;
        Ok((
            libtest::judge(std::slice::from_ref(name), status, &output),
            output,
        ))
    })
}

/// Runs again with `alone` what deserves it, and shows what came of it.
fn conclude(
    failed: Vec<Failed<'_>>,
    broken: Vec<String>,
    mut alone: impl FnMut(&Failed<'_>) -> Result<(libtest::Run, String)>,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut faults = broken;
    let many = failed.len() > MANY;
    if many {
        println!(
            "{} tests failed: that is a fault, none is run again",
            failed.len()
        );
    }
    for test in failed {
        let name = format!("{} {}", test.program.target, test.failure.name);
        if many {
            faults.push(with_panic(&name, &test.failure.output));
            continue;
        }
        match settle(|| alone(&test))? {
            Settled::Flaky { failed, output } => {
                let line = format!("{name}: failed {}, then passed alone", times(failed + 1));
                println!("FLAKY {line}");
                show("it failed", &test.failure.output);
                show("it passed", &output);
                outcome.flaky.push(with_panic(&line, &test.failure.output));
            }
            Settled::Failed { output } => {
                println!("FAILED {name}: {}", times(TIMES + 1));
                show("it failed alone", &output);
                faults.push(with_panic(&name, &output));
            }
        }
    }
    if !faults.is_empty() {
        outcome.error = Some(format!("failed: {}", faults.join("\n        ")));
    }
    Ok(outcome)
}

/// Runs a failed test until it passes, at most [`TIMES`] times. A program that breaks with that
/// one test in it did not pass.
fn settle(mut alone: impl FnMut() -> Result<(libtest::Run, String)>) -> Result<Settled> {
    let mut last = String::new();
    for failed in 0..TIMES {
        let (run, output) = alone()?;
        if run == libtest::Run::Passed {
            return Ok(Settled::Flaky { failed, output });
        }
        last = output;
    }
    Ok(Settled::Failed { output: last })
}

/// A line of the summary, and below it the panic: of a long log often only the end is kept.
fn with_panic(line: &str, output: &str) -> String {
    let mut text = line.to_owned();
    for said in libtest::panic(output) {
        text.push_str("\n            ");
        text.push_str(said);
    }
    text
}

fn times(count: usize) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

fn show(when: &str, output: &str) {
    println!("──── output when {when}\n{}\n────", output.trim_end());
}

/// Ctrl-C reaches the programs too, so that they fail: that says nothing of them.
fn stop_if_interrupted() -> Result<()> {
    if interrupt::requested() {
        bail!("interrupted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::test::libtest::Run;

    fn program() -> Program {
        Program {
            target: "timers".to_owned(),
            tests: Vec::new(),
            path: PathBuf::new(),
            folder: PathBuf::new(),
        }
    }

    fn failed(program: &Program, count: usize) -> Vec<Failed<'_>> {
        let failed = |number| Failed {
            program,
            failure: failure(number),
        };
        (0..count).map(failed).collect()
    }

    fn failure(number: usize) -> Failure {
        Failure {
            name: format!("test_{number}"),
            output: "thread 'it' panicked at it/timers.rs:7:5:\n2 are not 3\nstack backtrace:\n"
                .to_owned(),
        }
    }

    /// The suite with these failures, of which each fails so often alone; how many runs it took.
    fn outcome(count: usize, broken: &[&str], fails: usize) -> (Outcome, usize) {
        let program = program();
        let broken = broken.iter().map(|it| (*it).to_owned()).collect();
        let mut runs = 0;
        let mut left = fails;
        let outcome = conclude(failed(&program, count), broken, |_| {
            runs += 1;
            let run = match left {
                0 => Run::Passed,
                _ => Run::Failed(vec![failure(0)]),
            };
            left = left.checked_sub(1).unwrap_or(fails);
            Ok((run, "output".to_owned()))
        });
        (outcome.expect("nothing was interrupted"), runs)
    }

    #[test]
    fn a_test_that_passes_when_run_again_is_flaky_and_fails_nothing() {
        let (Outcome { flaky, error }, runs) = outcome(2, &[], 0);
        assert_eq!((error, runs), (None, 2));
        assert_eq!(
            flaky[0],
            "timers test_0: failed once, then passed alone\n            2 are not 3"
        );
        let (Outcome { flaky, error }, runs) = outcome(1, &[], 1);
        assert_eq!((error, runs), (None, 2));
        assert!(flaky[0].starts_with("timers test_0: failed 2 times, then passed alone\n"));
    }

    #[test]
    fn a_test_that_fails_three_times_is_a_fault() {
        let (Outcome { flaky, error }, runs) = outcome(1, &[], 2);
        assert_eq!((flaky.len(), runs), (0, 2));
        // What it said when it failed alone: "output" is no panic.
        assert_eq!(error.as_deref(), Some("failed: timers test_0"));
    }

    #[test]
    fn a_program_that_breaks_with_one_test_in_it_did_not_pass() {
        let program = program();
        let outcome = conclude(failed(&program, 1), Vec::new(), |_| {
            Ok((Run::Broken("ended with SIGABRT".to_owned()), String::new()))
        });
        assert!(outcome.expect("not interrupted").error.is_some());
    }

    #[test]
    fn many_failures_are_a_fault_and_none_is_run_again() {
        let (Outcome { flaky, error }, runs) = outcome(MANY + 1, &[], 0);
        assert_eq!((flaky.len(), runs), (0, 0));
        assert!(error.is_some_and(|error| error.matches("timers").count() == MANY + 1));
        assert_eq!(outcome(MANY, &[], 0).1, MANY);
    }

    #[test]
    fn a_broken_program_fails_the_suite_whatever_passes_again() {
        let (Outcome { flaky, error }, _) = outcome(1, &["pairs ended with SIGSEGV"], 0);
        assert_eq!(flaky.len(), 1);
        assert_eq!(error.as_deref(), Some("failed: pairs ended with SIGSEGV"));
    }

    #[test]
    fn an_interruption_is_no_outcome() {
        let program = program();
        let outcome = conclude(failed(&program, 1), Vec::new(), |_| bail!("interrupted"));
        assert!(outcome.is_err());
    }
}
