//! Ctrl-C and SIGTERM as a question to ask, so that a task can clean up after itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};

/// How often a waiting task looks whether it shall end.
const POLL: Duration = Duration::from_millis(50);

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on Ctrl-C and SIGTERM no longer end this process: [`requested`] tells of
/// them. A second one ends it at once.
pub(crate) fn listen() -> Result<()> {
    let asked = ASKED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(asked))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(asked)))
            .context("cannot listen for Ctrl-C")?;
    }
    Ok(())
}

/// Whether Ctrl-C or SIGTERM came.
pub(crate) fn requested() -> bool {
    ASKED
        .get()
        .is_some_and(|asked| asked.load(Ordering::Relaxed))
}

/// Waits until `deadline` or a signal; true when it was a signal.
pub(crate) fn wait_until(deadline: Option<Instant>) -> bool {
    while !requested() {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}
