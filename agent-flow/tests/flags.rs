//! The flags of a connection under writers that do not wait for each other.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use agent_flow::flags::Flags;
use agent_flow::machine::{Machine, SharedByte};
use agent_wire::record::flag;

/// A byte that threads of the host share.
#[derive(Default)]
struct Shared(AtomicU8);

impl SharedByte for Shared {
    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, value: u8) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// A host with several CPUs.
struct Host;

impl Machine for Host {
    type Byte = Shared;
}

/// Writes of each thread. Fewer: two CPUs may not meet on one word.
const ROUNDS: u32 = 1_000_000;

/// Sets and clears a flag that nobody else writes, and counts how often it was not what was written
/// last.
fn contradictions<const FLAG: u16>(flags: &Flags<Host>) -> u32 {
    let mut wrong = 0;
    for _ in 0..ROUNDS {
        flags.set::<FLAG>();
        wrong += u32::from(!flags.has::<FLAG>());
        flags.clear::<FLAG>();
        wrong += u32::from(flags.has::<FLAG>());
    }
    flags.set::<FLAG>();
    wrong
}

#[test]
fn no_writer_undoes_or_repeats_what_another_wrote() {
    let flags = &Flags::<Host>::default();
    let start = &Barrier::new(3);
    let wrong: u32 = thread::scope(|scope| {
        let writers = [
            contradictions::<{ flag::ZERO_WINDOW }>,
            contradictions::<{ flag::NOT_HTTP }>,
            contradictions::<{ flag::OWN_ERRAND }>,
        ]
        .map(|write| {
            scope.spawn(move || {
                start.wait();
                write(flags)
            })
        });
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap_or(u32::MAX))
            .sum()
    });

    assert_eq!(wrong, 0);
    assert_eq!(
        flags.bits(),
        flag::ZERO_WINDOW | flag::NOT_HTTP | flag::OWN_ERRAND
    );
}

#[test]
fn a_record_has_each_flag_as_its_bit() {
    let flags = Flags::<Host>::default();
    assert_eq!(flags.bits(), 0);
    flags.set::<{ flag::SEEN_OPEN }>();
    flags.set::<{ flag::BAD_CHUNK }>();
    flags.set::<{ flag::HEAD_CUT }>();
    flags.clear::<{ flag::HEAD_CUT }>();

    assert!(flags.has::<{ flag::BAD_CHUNK }>() && !flags.has::<{ flag::HEAD_CUT }>());
    assert_eq!(flags.bits(), flag::SEEN_OPEN | flag::BAD_CHUNK);
}
