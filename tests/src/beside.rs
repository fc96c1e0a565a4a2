//! Scenes that mostly wait, played beside each other.

use std::panic::resume_unwind;
use std::thread;

/// What `play` makes of each of `scenes`, `beside` of them at a time, in their order. What one of them
/// asks for and looks at has to be its own: each agent sees what the others do.
///
/// # Panics
/// When one of them does.
pub fn each<S: Sync, T: Send>(
    scenes: &[S],
    beside: usize,
    play: impl Fn(&S) -> T + Sync,
) -> Vec<T> {
    let mut made = Vec::new();
    for some in scenes.chunks(beside) {
        let play = &play;
        thread::scope(|scope| {
            let running: Vec<_> = some
                .iter()
                .map(|scene| scope.spawn(move || play(scene)))
                .collect();
            for one in running {
                match one.join() {
                    Ok(one) => made.push(one),
                    Err(panic) => resume_unwind(panic),
                }
            }
        });
    }
    made
}
