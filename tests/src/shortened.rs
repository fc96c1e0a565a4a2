//! Rules that take hours, made to take minutes.
//!
//! In: the text of a rule file. Out: the same text, in which each duration of PromQL and of the
//! rules (`5m`, `for: 2m`, `interval: 30s`) is a fraction of what it was. Nothing else changes,
//! so what is tested is the file that is shipped, faster.

/// Durations in `text` divided by `by`; those in names (`rate5m`) stay.
pub fn shortened(text: &str, by: u64) -> String {
    let mut short = String::new();
    let mut rest = text;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let inside = before.is_ascii_alphanumeric() || matches!(before, '_' | '.' | ':');
        match duration(rest).filter(|_| !inside) {
            Some((milliseconds, length)) => {
                short.push_str(&format!("{}ms", milliseconds / by));
                rest = rest.get(length..).unwrap_or_default();
                before = 's';
            }
            None => {
                short.push(first);
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
                before = first;
            }
        }
    }
    short
}

/// A duration that `text` begins with, in milliseconds, and its length.
fn duration(text: &str) -> Option<(u64, usize)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let mut after = text.get(digits..)?.chars();
    let unit = match after.next()? {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return None,
    };
    match after.next() {
        Some(next) if next.is_ascii_alphanumeric() || next == '_' => None,
        _ => Some((number.checked_mul(unit)?, digits + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_divided_and_nothing_else_changes() {
        let text = "interval: 30s\nfor: 2m\nrecord: a:b:increase5m\nsum(x[1h] offset 5m) > 14.4 * 0.01 \
                    # 10.0.3.18:8080, 1 s, 5 minutes, 1d\n";
        let expected = "interval: 500ms\nfor: 2000ms\nrecord: a:b:increase5m\n\
                        sum(x[60000ms] offset 5000ms) > 14.4 * 0.01 # 10.0.3.18:8080, 1 s, 5 minutes, 1440000ms\n";
        assert_eq!(shortened(text, 60), expected);
    }
}
