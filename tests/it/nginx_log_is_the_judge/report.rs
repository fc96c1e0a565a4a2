//! Disagreements, gathered so that one failing run tells all of them.

use std::collections::BTreeMap;

/// Examples that are printed of each kind.
const EXAMPLES: usize = 4;

/// Disagreements by kind.
#[derive(Default)]
pub(crate) struct Report {
    kinds: BTreeMap<String, Vec<String>>,
    checked: usize,
}

impl Report {
    /// Counts a thing that was looked at.
    pub(crate) fn looked(&mut self) {
        self.checked += 1;
    }

    /// Adds a disagreement.
    pub(crate) fn add(&mut self, kind: impl Into<String>, example: impl Into<String>) {
        self.kinds
            .entry(kind.into())
            .or_default()
            .push(example.into());
    }

    /// Panics when there is any, or when nothing was looked at.
    #[track_caller]
    pub(crate) fn finish(self) {
        let Self { kinds, checked } = self;
        for (kind, examples) in &kinds {
            println!("{} x {kind}", examples.len());
            for example in examples.iter().take(EXAMPLES) {
                println!("    {example}");
            }
        }
        let wrong: usize = kinds.values().map(Vec::len).sum();
        assert!(checked > 0, "nothing was looked at");
        assert!(
            kinds.is_empty(),
            "{wrong} disagreements of {} kinds in {checked} looks, printed above",
            kinds.len()
        );
        println!("{checked} looks, no disagreement");
    }
}
