//! Some measurements of one thing as few numbers, none of which a single bad moment of the
//! machine can move far.

use std::fmt;

/// How sure the interval of a [`Spread`] is to hold the median of all measurements that could be
/// made.
const SURE: f64 = 0.95;

/// Middle and ends of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    /// The median of many more would lie between this and [`Self::high`], with 95 % certainty and
    /// whatever the distribution. Below six numbers, the ends of what there is.
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Spread {
    /// All not-a-number when there are none. What is no number itself is left out.
    pub(super) fn of(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = numbers.into_iter().filter(|one| !one.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let count = sorted.len();
        let last = count.saturating_sub(1);
        let outside = outside(count);
        Self {
            median: f64::midpoint(at(last / 2), at(count / 2)),
            low: at(outside),
            high: at(last.saturating_sub(outside)),
            least: at(0),
            most: at(last),
        }
    }
}

/// The median and how far it is sure, with three digits after the point: for ratios.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.median.is_nan() {
            return f.write_str("-");
        }
        write!(
            f,
            "{:.3} ({:.3} to {:.3})",
            self.median, self.low, self.high
        )
    }
}

/// How many numbers at each end of so many lie outside of the interval: each is below the true
/// median with probability one half, so their count is binomial.
fn outside(count: usize) -> usize {
    let mut probability = 0.5f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut below = 0.0;
    for number in 0..count / 2 {
        below += probability;
        if below > (1.0 - SURE) / 2.0 {
            return number.saturating_sub(1);
        }
        probability *= (count - number) as f64 / (number + 1) as f64;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0]);
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.5, 4.0));
        assert_eq!(Spread::of([7.0]).median, 7.0);
        assert_eq!(Spread::of([1.0, 9.0, 2.0]).median, 2.0);
        assert!(Spread::of([]).median.is_nan());
        assert_eq!(Spread::of([f64::NAN, 3.0]).median, 3.0);
    }

    #[test]
    fn the_interval_is_that_of_the_tables_of_the_sign_test() {
        // Ranks 6 and 15 of 20, 2 and 9 of 10, 1 and 6 of 6: as in printed tables.
        for (count, low, high) in [
            (20, 6.0, 15.0),
            (10, 2.0, 9.0),
            (6, 1.0, 6.0),
            (2, 1.0, 2.0),
        ] {
            let spread = Spread::of((1..=count).map(f64::from));
            assert_eq!((spread.low, spread.high), (low, high), "of {count}");
        }
    }

    #[test]
    fn one_bad_moment_moves_neither_median_nor_interval_far() {
        let calm = Spread::of((0..20).map(|number| 0.9 + f64::from(number) / 1000.0));
        let numbers = (0..20).map(|number| 0.9 + f64::from(number) / 1000.0);
        let disturbed = Spread::of(numbers.map(|one| if one > 0.9185 { 9.0 } else { one }));
        assert_eq!(disturbed.most, 9.0);
        assert_eq!(disturbed.median, calm.median);
        assert_eq!(disturbed.high, calm.high);
    }

    #[test]
    fn a_ratio_is_told_with_its_interval() {
        let spread = Spread::of([0.9, 0.92, 0.94]);
        assert_eq!(spread.to_string(), "0.920 (0.900 to 0.940)");
        assert_eq!(Spread::of([]).to_string(), "-");
    }
}
