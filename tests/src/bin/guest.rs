//! Asks the kernel that runs what works on it, and prints the answer as one line of JSON.
//!
//! As the first process of a virtual machine it makes the machine ready before and switches it
//! off afterwards. Elsewhere it wants a network namespace of its own.

use std::any::Any;
use std::process::ExitCode;

use e2e::guest::{Answer, ask, machine};

fn main() -> ExitCode {
    let ours = machine::is_ours();
    let answer = if ours { asked_from_nothing() } else { asked() };
    let failed = !answer.wrong.is_empty();
    match serde_json::to_string(&answer) {
        Ok(line) => {
            if let Err(error) = machine::tell(&line) {
                eprintln!("the answer cannot be told: {error}: {line}");
            }
        }
        Err(error) => eprintln!("the answer is no JSON: {error}"),
    }
    if ours {
        machine::switch_off();
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn asked_from_nothing() -> Answer {
    // The kernel gives its first process a HOME and a TERM.
    match machine::mount_all() {
        Ok(()) => asked(),
        Err(error) => failed(format!("{error:#}")),
    }
}

/// Asks on a thread of its own: the parts of a test end it by a panic, and a first process
/// that ends takes the machine with it.
fn asked() -> Answer {
    std::thread::spawn(ask)
        .join()
        .unwrap_or_else(|panic| failed(words(panic.as_ref())))
}

fn failed(why: String) -> Answer {
    Answer {
        release: machine::release(),
        wrong: vec![why],
        ..Answer::default()
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
