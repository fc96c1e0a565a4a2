//! Waiting for something to become true, by asking again and never by sleeping a guess.

use std::time::{Duration, Instant};

/// Between two looks. Too short: the looking itself is load. Too long: slow tests.
const NEXT_LOOK: Duration = Duration::from_millis(20);

/// Asks `check` until it answers `Ok`, and panics with its last `Err` when that is not so
/// `within` the time given.
#[track_caller]
pub fn eventually<T>(
    within: Duration,
    what: &str,
    mut check: impl FnMut() -> Result<T, String>,
) -> T {
    let started = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(why) if started.elapsed() > within => {
                panic!("{what}: not so within {within:?}: {why}")
            }
            Err(_) => std::thread::sleep(NEXT_LOOK),
        }
    }
}
