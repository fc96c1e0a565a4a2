//! Kernel time to wall time.
//!
//! In: nanoseconds of `CLOCK_MONOTONIC`, as every record carries them. Out: timestamps a
//! person can compare with a log. The distance between both clocks moves (NTP slews, an
//! administrator sets the time), so it is sampled again and again, never once.

use std::fs;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use agent_core::observation::Nanos;
use jiff::Timestamp;

/// How long a sampled distance is used, ns. Longer: times drift from the logs of others
/// after the wall clock is set. Shorter: two clock reads more per round for nothing.
const SAMPLE_AGE_NANOS: Nanos = 1_000_000_000;

/// What the time namespace of this process adds to the kernel's `CLOCK_MONOTONIC`
/// (time_namespaces(7), Linux 5.6), ns.
const OFFSETS: &str = "/proc/self/timens_offsets";

/// Now, in nanoseconds of the kernel's `CLOCK_MONOTONIC`: what `bpf_ktime_get_ns` gives, in
/// whatever time namespace this process is.
pub fn monotonic() -> Nanos {
    u64::try_from(kernel_monotonic()).unwrap_or(0)
}

/// The time of so many ticks since boot, as proc_pid_stat(5) tells when a process started: some ms
/// wrong. What started before the clock did is as old as the clock.
pub fn of_ticks(ticks: u64) -> Nanos {
    /// USER_HZ, the same on all architectures of today.
    const TICK: i128 = 10_000_000;
    let age = read(libc::CLOCK_BOOTTIME) - i128::from(ticks) * TICK;
    u64::try_from(kernel_monotonic() - age).unwrap_or(0)
}

/// Turns kernel time into wall time.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    /// Wall time less monotonic time, ns.
    offset: i128,
    sampled: Nanos,
}

impl WallClock {
    /// Samples both clocks.
    pub fn sample() -> Self {
        let before = kernel_monotonic();
        let wall = read(libc::CLOCK_REALTIME);
        let after = kernel_monotonic();
        let offset = wall - (before + after) / 2;
        Self {
            offset,
            sampled: u64::try_from(after).unwrap_or(0),
        }
    }

    /// A distance for tests, ns.
    #[cfg(test)]
    pub(crate) fn fixed(offset: i128) -> Self {
        Self { offset, sampled: 0 }
    }

    /// Samples again when the last sample is older than a second.
    pub fn refresh(&mut self, now: Nanos) {
        if now.saturating_sub(self.sampled) >= SAMPLE_AGE_NANOS {
            *self = Self::sample();
        }
    }

    /// The wall time of a kernel time.
    pub fn at(&self, time: Nanos) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(time) + self.offset).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

fn kernel_monotonic() -> i128 {
    static ADDED: OnceLock<i128> = OnceLock::new();
    // A kernel without time namespaces has no such file, and adds nothing.
    let added = ADDED.get_or_init(|| {
        let offsets = fs::read_to_string(OFFSETS).unwrap_or_default();
        added_to_monotonic(&offsets).unwrap_or(0)
    });
    read(libc::CLOCK_MONOTONIC) - added
}

/// A line a clock: its name, seconds, nanoseconds.
fn added_to_monotonic(offsets: &str) -> Option<i128> {
    let line = offsets
        .lines()
        .find_map(|line| line.strip_prefix("monotonic"))?;
    let mut numbers = line.split_whitespace().map(str::parse::<i128>);
    let (seconds, nanos) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(seconds * 1_000_000_000 + nanos)
}

fn read(clock: libc::clockid_t) -> i128 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `time` is a timespec this call may write; zeroed, it is valid even when the
    // call fails, which it cannot for the two clocks used here.
    let time = unsafe {
        libc::clock_gettime(clock, time.as_mut_ptr());
        time.assume_init()
    };
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{WallClock, added_to_monotonic, monotonic};

    #[test]
    fn a_kernel_time_of_now_is_the_wall_time_of_now() {
        let clock = WallClock::sample();

        let distance = Timestamp::now().duration_since(clock.at(monotonic()));

        assert!(distance.as_secs_f64().abs() < 0.5, "{distance:?}");
    }

    #[test]
    fn a_wall_clock_that_was_set_is_followed_a_second_later() {
        let mut clock = WallClock::fixed(0);

        clock.refresh(monotonic());

        let distance = Timestamp::now().duration_since(clock.at(monotonic()));
        assert!(distance.as_secs_f64().abs() < 0.5, "{distance:?}");
    }

    #[test]
    fn what_a_time_namespace_adds_is_read() {
        let offsets = "monotonic      86400         5\nboottime           0         0\n";
        assert_eq!(added_to_monotonic(offsets), Some(86_400_000_000_005));
        assert_eq!(added_to_monotonic("monotonic -1 0\n"), Some(-1_000_000_000));
        assert_eq!(added_to_monotonic(""), None);
    }

    #[test]
    fn a_distance_between_kernel_times_is_kept() {
        let clock = WallClock::sample();

        let distance = clock
            .at(5_000_000_000)
            .duration_since(clock.at(2_000_000_000));

        assert_eq!(distance.as_secs(), 3);
    }
}
