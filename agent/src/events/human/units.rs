//! Times, sizes and widths as people read them.

use std::fmt::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `14:02:11.318`; as it came when it is no time.
pub(super) fn time_of_day(time: &str, zone: &TimeZone) -> String {
    in_zone(time, zone, "%H:%M:%S.%3f")
}

/// `2026-11-25 14:02:11.318 UTC`; as it came when it is no time.
pub(super) fn date_and_time(time: &str, zone: &TimeZone) -> String {
    in_zone(time, zone, "%Y-%m-%d %H:%M:%S.%3f %Z")
}

fn in_zone(time: &str, zone: &TimeZone, format: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => time.to_zoned(zone.clone()).strftime(format).to_string(),
        Err(_) => time.to_owned(),
    }
}

/// Microseconds below a millisecond, milliseconds below a second, else seconds.
pub fn duration(seconds: f64) -> String {
    if seconds < 0.001 {
        format!("{:.0} µs", seconds * 1e6)
    } else if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1000.0)
    } else {
        format!("{seconds:.3} s")
    }
}

/// As [`duration`] below a minute; then to the second, and above an hour to the minute.
pub(super) fn age(seconds: f64) -> String {
    if seconds < 60.0 {
        return duration(seconds);
    }
    let seconds = seconds as u64;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match hours {
        0 => format!("{minutes} min {} s", seconds % 60),
        hours => format!("{hours} h {minutes} min"),
    }
}

/// From one time to another, milliseconds; `None` when either is no time.
pub(super) fn milliseconds_between(from: &str, to: &str) -> Option<f64> {
    let from = from.parse::<Timestamp>().ok()?;
    let to = to.parse::<Timestamp>().ok()?;
    Some(to.duration_since(from).as_secs_f64() * 1000.0)
}

/// `1 byte`, `2 bytes`.
pub(crate) fn counted(count: u64, one: &str) -> String {
    if count == 1 {
        format!("1 {one}")
    } else {
        format!("{count} {one}s")
    }
}

/// The kernel's text for an errno.
pub(super) fn errno(number: u16) -> String {
    let text = std::io::Error::from_raw_os_error(i32::from(number)).to_string();
    text.replace("(os error ", "(errno ")
}

/// At most so many characters, the last of them an ellipsis when something is cut.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// Text behind `lead`, broken between words at `width` and continued behind `indent` blanks;
/// each line with its newline.
pub(super) fn wrapped(lead: &str, indent: usize, width: usize, text: &str) -> String {
    let mut out = lead.to_owned();
    let mut column = lead.chars().count();
    let mut fresh = true;
    for word in text.split(' ') {
        let length = word.chars().count();
        if !fresh && column + 1 + length > width {
            // Writing to a string cannot fail.
            let _ = write!(out, "\n{:indent$}", "");
            column = indent;
            fresh = true;
        }
        if !fresh {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
        fresh = false;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::{age, counted, cut, duration, errno, milliseconds_between, wrapped};

    #[test]
    fn long_text_breaks_between_words() {
        assert_eq!(
            wrapped("a: ", 3, 10, "one two three"),
            "a: one two\n   three\n"
        );
        assert_eq!(wrapped("", 2, 4, "unbreakable x"), "unbreakable\n  x\n");
    }

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!(cut("/short", 10), "/short");
        assert_eq!(cut("/a/long/path", 6), "/a/lo…");
    }

    #[test]
    fn numbers_read_as_words() {
        assert_eq!(counted(1, "byte"), "1 byte");
        assert_eq!(counted(2, "SYN"), "2 SYNs");
        assert_eq!(duration(0.000_02), "20 µs");
        assert_eq!(duration(0.041), "41.0 ms");
        assert_eq!(duration(5.002), "5.002 s");
        assert_eq!(age(59.9994), "59.999 s");
        assert_eq!(age(754.9), "12 min 34 s");
        assert_eq!(age(7_384.0), "2 h 3 min");
        assert_eq!(errno(111), "Connection refused (errno 111)");
    }

    #[test]
    fn a_distance_can_be_negative() {
        let between = milliseconds_between("2026-11-25T14:00:00.002Z", "2026-11-25T14:00:00Z");

        assert!((between.unwrap() + 2.0).abs() < 1e-6);
    }
}
