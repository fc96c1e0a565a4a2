//! What a test program built with Rust's own harness said about its tests.
//!
//! In: the names it lists, how it ended, and its standard output in the `pretty` format with
//! one thread. Out: which tests failed, with the output of each, or that the program itself
//! broke. Whatever does not add up is a broken program: a failure is never lost because it
//! could not be read. Only what the harness prints at its end is relied on, since programs
//! started by a test write into the lines before.

use std::process::ExitStatus;

/// The exit code of the harness when a test failed.
const TESTS_FAILED: i32 = 101;

/// A run of a test program.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// Every test ran, but for those left out by `#[ignore]`, and none failed.
    Passed,
    /// These failed; every other ran.
    Failed(Vec<Failure>),
    /// The program did not come to its end, or its words do not add up.
    Broken(String),
}

/// A test that failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) name: String,
    /// What the harness kept of its output, the panic among it.
    pub(super) output: String,
}

/// The first lines of the message of the last panic in a test's output, at most
/// [`PANIC_LINES`]; none when it did not panic.
pub(super) fn panic(output: &str) -> Vec<&str> {
    let Some((_, after)) = output.rsplit_once(" panicked at ") else {
        return Vec::new();
    };
    let ends = ["stack backtrace:", "note: ", "the agent's last words:"];
    let lines = after.lines().skip(1);
    let message = lines.take_while(|line| !ends.iter().any(|end| line.starts_with(end)));
    message
        .filter(|line| !line.trim().is_empty())
        .take(PANIC_LINES)
        .collect()
}

/// Lines of a panic's message that are repeated in a summary. Fewer: the cells that a table
/// lacks are cut off; more: the table of steps is out of sight.
const PANIC_LINES: usize = 12;

/// The line `test result: ...`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    ignored: usize,
}

/// The names in the output of `--list --format terse`.
pub(super) fn names(listed: &str) -> Vec<String> {
    let tests = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    tests.map(str::to_owned).collect()
}

/// What became of the tests `names`, which were asked for.
pub(super) fn judge(names: &[String], status: ExitStatus, stdout: &str) -> Run {
    let Some((before, counts)) = result(stdout) else {
        return Run::Broken(unfinished(names, status, stdout));
    };
    let Counts {
        passed,
        failed,
        ignored,
    } = counts;
    let ran = passed + failed + ignored;
    if ran != names.len() {
        let listed = names.len();
        return Run::Broken(format!("lists {listed} tests and tells of {ran}"));
    }
    match status.code() {
        Some(0) if failed == 0 => Run::Passed,
        Some(TESTS_FAILED) if failed > 0 => match failures(before) {
            found if found.len() == failed && found.iter().all(|it| names.contains(&it.name)) => {
                Run::Failed(found)
            }
            _ => Run::Broken(format!("{failed} tests failed, which cannot be read")),
        },
        _ => Run::Broken(format!("ended with {status} and says {failed} failed")),
    }
}

/// The last line `test result: ...` with the text before it. A test may print such lines too,
/// but the harness prints its own after all of them.
fn result(stdout: &str) -> Option<(&str, Counts)> {
    let (before, line) = stdout.rsplit_once("\ntest result: ")?;
    let (_, parts) = line.lines().next()?.split_once(". ")?;
    let count = |what: &str| -> Option<usize> {
        let mut parts = parts.split("; ");
        parts.find_map(|part| part.strip_suffix(what)?.parse().ok())
    };
    let counts = Counts {
        passed: count(" passed")?,
        failed: count(" failed")?,
        ignored: count(" ignored")?,
    };
    Some((before, counts))
}

/// The tests of the last list `failures:` in what was printed before the result.
fn failures(before: &str) -> Vec<Failure> {
    let Some((told, list)) = before.rsplit_once("\nfailures:\n") else {
        return Vec::new();
    };
    let names: Vec<&str> = list
        .lines()
        .map_while(|line| line.strip_prefix("    "))
        .collect();
    let headers: Vec<Option<usize>> = names.iter().map(|name| told.find(&header(name))).collect();
    let section = |name: &str, start: usize| {
        let next = headers.iter().flatten().filter(|&&other| other > start);
        let end = next.min().copied().unwrap_or(told.len());
        told[start + header(name).len()..end].trim_end().to_owned()
    };
    let failures = names.iter().zip(&headers).map(|(name, header)| Failure {
        name: (*name).to_owned(),
        output: header.map(|start| section(name, start)).unwrap_or_default(),
    });
    failures.collect()
}

fn header(name: &str) -> String {
    format!("\n---- {name} stdout ----\n")
}

/// What can be said of a program that never printed its result.
fn unfinished(names: &[String], status: ExitStatus, stdout: &str) -> String {
    let mut began: Vec<(usize, &str)> = names
        .iter()
        .filter_map(|name| Some((began_at(stdout, name)?, name.as_str())))
        .collect();
    began.sort_unstable();
    let Some((&(_, last), earlier)) = began.split_last() else {
        return format!("ended with {status} before its first test");
    };
    let ends = began.iter().skip(1).map(|&(at, _)| at);
    let failed: Vec<&str> = earlier
        .iter()
        .zip(ends)
        .filter(|&(&(start, _), end)| stdout[start..end].trim_end().ends_with("FAILED"))
        .map(|(&(_, name), _)| name)
        .collect();
    let mut what = format!("ended with {status} in {last}");
    if !failed.is_empty() {
        what.push_str(&format!("; before it failed {}", failed.join(", ")));
    }
    match names.len() - began.len() {
        0 => {}
        left => what.push_str(&format!("; {left} tests after it never ran")),
    }
    what
}

/// Where the harness says that this test begins.
fn began_at(stdout: &str, name: &str) -> Option<usize> {
    [" ... ", " - should panic ... "]
        .iter()
        .find_map(|dots| stdout.find(&format!("\ntest {name}{dots}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    /// Of the harness of Rust 1.95: one test's child prints a result without a line end, one
    /// prints what a harness would, one returns an error, one is left out.
    const MIXED: &str = include_str!("captured/mixed.txt");
    /// One test fails, then one aborts while a child of it says FAILED.
    const ABORTED: &str = include_str!("captured/aborted.txt");
    /// The first test ends the program with exit code 0.
    const EXITED: &str = include_str!("captured/exited.txt");

    #[test]
    fn the_message_of_the_last_panic_is_what_the_test_said() {
        let output = "thread 'a' panicked at it/a.rs:1:1:\nfirst\n\
                      thread 'a' panicked at it/a.rs:2:1:\n2 cells:\n| a |\n\n| b |\n\
                      stack backtrace:\n   0: core\n";
        assert_eq!(panic(output), ["2 cells:", "| a |", "| b |"]);
        assert_eq!(panic("ok so far\n"), [""; 0]);
        let long = format!("panicked at it:\n{}", "line\n".repeat(PANIC_LINES + 5));
        assert_eq!(panic(&format!("it {long}")).len(), PANIC_LINES);
    }

    fn listed(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn mixed() -> Vec<String> {
        names(
            "a_passes: test\nb_child_prints_without_newline: test\nc_fails_and_says_failed: test\n\
             d_passes: test\nf_left_out: test\ng_panics: test\ninner::e_fails: test\n",
        )
    }

    fn code(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    fn broken(run: Run) -> String {
        match run {
            Run::Broken(why) => why,
            other => panic!("not broken: {other:?}"),
        }
    }

    #[test]
    fn the_tests_of_the_last_list_failed_whatever_was_printed_before() {
        let Run::Failed(failures) = judge(&mixed(), code(101), MIXED) else {
            panic!("two of them failed");
        };
        let names: Vec<&str> = failures.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["c_fails_and_says_failed", "inner::e_fails"]);
        let [first, second] = &failures[..] else {
            panic!("two of them failed");
        };
        assert!(first.output.starts_with("test d_passes ... FAILED\n"));
        assert!(first.output.contains("the count is FAILED"));
        assert!(!first.output.contains("by an error"));
        assert_eq!(second.output, "Error: \"by an error\"");
    }

    #[test]
    fn all_passed_when_exit_code_and_counts_say_so() {
        let names = listed("a b");
        let said = "\nrunning 2 tests\ntest a ... ok\ntest b ... junkok\n\n\
                    test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n";
        assert_eq!(judge(&names, code(0), said), Run::Passed);
        broken(judge(&listed("a b c"), code(0), said));
        broken(judge(&names, code(1), said));
        broken(judge(&names, code(101), said));
        broken(judge(&names, ExitStatus::from_raw(11), said));
    }

    #[test]
    fn one_test_run_by_itself_is_judged_by_itself() {
        let said = "\nrunning 1 test\ntest b ... ok\n\n\
                    test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 6 filtered out; finished in 0.00s\n";
        assert_eq!(judge(&listed("b"), code(0), said), Run::Passed);
        let none = said.replace("1 passed", "0 passed");
        broken(judge(&listed("b"), code(0), &none));
    }

    #[test]
    fn a_program_that_aborts_is_broken_and_says_where() {
        let names = listed("a_passes b_fails c_aborts d_never_runs");
        let why = broken(judge(&names, ExitStatus::from_raw(6), ABORTED));
        assert!(why.contains("SIGABRT"), "{why}");
        assert!(
            why.contains("in c_aborts; before it failed b_fails; 1 tests"),
            "{why}"
        );
    }

    #[test]
    fn a_program_that_exits_well_without_a_result_is_broken() {
        let why = broken(judge(&listed("a_exits b_never_runs"), code(0), EXITED));
        assert!(
            why.contains("in a_exits; 1 tests after it never ran"),
            "{why}"
        );
        let why = broken(judge(&listed("a"), code(127), ""));
        assert!(why.contains("before its first test"), "{why}");
    }

    #[test]
    fn failures_that_cannot_be_read_are_not_lost() {
        let lost = MIXED.replace("    inner::e_fails\n", "");
        broken(judge(&mixed(), code(101), &lost));
        let renamed = MIXED.replace("    inner::e_fails\n", "    inner::x_fails\n");
        broken(judge(&mixed(), code(101), &renamed));
    }

    #[test]
    fn names_are_those_of_tests() {
        assert_eq!(
            names("a::b: test\nc: benchmark\n\n1 test, 1 benchmark\n"),
            ["a::b"]
        );
    }
}
