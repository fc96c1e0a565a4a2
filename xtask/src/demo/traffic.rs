//! The audience: a few requests a second, one thread for those that go well and one for
//! those that do not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::race;
use super::stage::{Stage, WELL};
use crate::host::{interrupt, net};

/// Between two requests that go well.
const PACE: Duration = Duration::from_millis(50);

/// Between two that do not: a person reads along.
const PAUSE: Duration = Duration::from_millis(200);

/// Longer than nginx's own time-outs.
const PATIENCE: Duration = Duration::from_secs(5);

/// What clients were told, by path and status; status 0 is no answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    answers: BTreeMap<(&'static str, u16), u64>,
}

impl Tally {
    /// Counts an answer.
    pub(super) fn count(&mut self, path: &'static str, status: Option<u16>) {
        *self.answers.entry((path, status.unwrap_or(0))).or_insert(0) += 1;
    }

    /// Answers by status.
    pub(super) fn by_status(&self) -> BTreeMap<u16, u64> {
        let mut sums = BTreeMap::new();
        for ((_, status), count) in &self.answers {
            *sums.entry(*status).or_insert(0) += count;
        }
        sums
    }
}

/// Sends requests until the deadline or Ctrl-C.
pub(super) fn play(stage: &Stage, deadline: Instant, tally: &Arc<Mutex<Tally>>) -> Result<()> {
    let over = move || interrupt::requested() || Instant::now() >= deadline;
    let well = {
        let (address, tally) = (stage.address(), Arc::clone(tally));
        thread::spawn(move || {
            while !over() {
                ask(address, WELL.method, WELL.path, &tally);
                thread::sleep(PACE);
            }
        })
    };
    let mut raced = Ok(());
    'play: while !over() {
        raced = race::run(stage, tally);
        if raced.is_err() {
            break;
        }
        for scene in stage.scenes() {
            if over() {
                break 'play;
            }
            ask(stage.address(), scene.method, scene.path, tally);
            thread::sleep(PAUSE);
        }
    }
    // It ends with the deadline, or with Ctrl-C, at most.
    let _ = well.join();
    raced
}

fn ask(address: SocketAddr, method: &str, path: &'static str, tally: &Mutex<Tally>) {
    // An answer that breaks off is an answer; no connection or no byte is none.
    let status = net::request(address, method, path, b"", PATIENCE)
        .ok()
        .and_then(|answer| net::status(&answer));
    tally
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .count(path, status);
}
