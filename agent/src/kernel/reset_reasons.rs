//! Which number the running kernel has for which reason of a reset.
//!
//! In: the format of `tcp:tcp_send_reset` as tracefs describes it. Out: the table that the probes
//! translate by; none where the kernel gives no reasons (before 6.10) or tracefs is not mounted.

use std::path::Path;

use agent_wire::reset_reason::{NUMBERS, code};

/// Where tracefs is mounted, in the order they are tried.
const FORMATS: [&str; 2] = [
    "/sys/kernel/tracing/events/tcp/tcp_send_reset/format",
    "/sys/kernel/debug/tracing/events/tcp/tcp_send_reset/format",
];

/// Our code for each number of the kernel.
pub(super) fn of_this_kernel() -> Option<[u8; NUMBERS]> {
    FORMATS
        .iter()
        .find_map(|path| std::fs::read_to_string(Path::new(path)).ok())
        .and_then(|format| parse(&format))
}

/// The list behind the last `__print_symbolic(REC->reason, `: `{ 8, "TCP_ABORT_ON_DATA" }, ...`.
fn parse(format: &str) -> Option<[u8; NUMBERS]> {
    let (_, list) = format.rsplit_once("__print_symbolic(REC->reason,")?;
    let mut codes = [0; NUMBERS];
    for entry in list.split('{').skip(1) {
        let Some((number, name)) = entry.split_once(',') else {
            continue;
        };
        let number = number.trim().parse::<usize>().ok();
        let name = name.split('"').nth(1).unwrap_or_default();
        let slot = number.and_then(|number| codes.get_mut(number));
        if let (Some(slot), Some(code)) = (slot, code(&name.to_ascii_lowercase())) {
            *slot = code;
        }
    }
    codes.iter().any(|code| *code != 0).then_some(codes)
}

#[cfg(test)]
mod tests {
    use agent_wire::reset_reason::{NAMES, name};

    use super::parse;

    /// Of Linux 6.18.
    const FORMAT: &str = r#"print fmt: "state=%s reason=%s", REC->state ? __print_symbolic(REC->state, { TCP_ESTABLISHED, "TCP_ESTABLISHED" }, { TCP_NEW_SYN_RECV, "TCP_NEW_SYN_RECV" }) : "UNKNOWN", __print_symbolic(REC->reason, { 0, "NOT_SPECIFIED" }, { 1, "NO_SOCKET" }, { 8, "TCP_ABORT_ON_DATA" }, { 11, "TCP_ABORT_ON_CLOSE" }, { 12, "TCP_ABORT_ON_LINGER" }, { 900, "TCP_STATE" }, { 25, "MAX" })"#;

    #[test]
    fn the_numbers_are_those_of_the_format() {
        let codes = parse(FORMAT).expect("reasons");
        let named = |number: usize| name(u16::from(codes[number]));
        assert_eq!(named(0), None);
        assert_eq!(named(1), Some("no_socket"));
        assert_eq!(named(11), Some("tcp_abort_on_close"));
        assert_eq!(named(12), Some("tcp_abort_on_linger"));
        assert_eq!(named(25), None, "no reason");
        let known = codes.iter().filter(|code| **code != 0).count();
        assert!(known == 4 && known < NAMES.len());
    }

    #[test]
    fn a_format_without_reasons_gives_no_table() {
        assert_eq!(parse("print fmt: \"src=%pISpc\", REC->saddr"), None);
        assert_eq!(parse("__print_symbolic(REC->reason, { x, y"), None);
        assert_eq!(parse(""), None);
    }
}
