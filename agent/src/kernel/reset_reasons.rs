//! Which number the running kernel has for which reason of a reset.
//!
//! In: the kernel's `enum sk_rst_reason`. Out: the table that the probes translate by; none where
//! `tcp:tcp_send_reset` tells no reason (before 6.10).

use agent_wire::reset_reason::{NUMBERS, code};

use super::kernel_types::Types;

/// What the names of the kernel begin with.
const PREFIX: &str = "SK_RST_REASON_";

/// Parameters of the tracepoint's probes where it tells a reason: what they were registered with,
/// socket, packet, reason.
const PARAMETERS: usize = 4;

/// Our code for each number of the kernel.
pub(super) fn of(types: &Types<'_>) -> Option<[u8; NUMBERS]> {
    if types.parameters("btf_trace_tcp_send_reset") != Some(PARAMETERS) {
        return None;
    }
    codes(types.enumerators("sk_rst_reason"))
}

fn codes<'a>(reasons: impl Iterator<Item = (&'a str, u32)>) -> Option<[u8; NUMBERS]> {
    let mut codes = [0; NUMBERS];
    for (name, number) in reasons {
        let slot = codes.get_mut(number as usize);
        let name = name.strip_prefix(PREFIX).unwrap_or_default();
        if let (Some(slot), Some(code)) = (slot, code(&name.to_ascii_lowercase())) {
            *slot = code;
        }
    }
    codes.iter().any(|code| *code != 0).then_some(codes)
}

#[cfg(test)]
mod tests {
    use agent_wire::reset_reason::{NAMES, name};

    use super::codes;

    #[test]
    fn the_numbers_are_those_of_the_kernel() {
        let codes = codes(
            [
                ("SK_RST_REASON_NOT_SPECIFIED", 0),
                ("SK_RST_REASON_NO_SOCKET", 1),
                ("SK_RST_REASON_TCP_ABORT_ON_CLOSE", 11),
                ("SK_RST_REASON_TCP_ABORT_ON_LINGER", 12),
                ("SK_RST_REASON_TCP_STATE", 900),
                ("TCP_FLAGS", 6),
                ("SK_RST_REASON_MAX", 25),
            ]
            .into_iter(),
        )
        .expect("reasons");
        let named = |number: usize| name(u16::from(codes[number]));
        assert_eq!(named(0), None);
        assert_eq!(named(1), Some("no_socket"));
        assert_eq!(named(11), Some("tcp_abort_on_close"));
        assert_eq!(named(12), Some("tcp_abort_on_linger"));
        assert_eq!(named(25), None, "no reason");
        let known = codes.iter().filter(|code| **code != 0).count();
        assert!(known == 3 && known < NAMES.len());
    }

    #[test]
    fn a_kernel_without_reasons_gives_no_table() {
        assert_eq!(codes([("SK_RST_REASON_MAX", 25)].into_iter()), None);
        assert_eq!(codes(std::iter::empty()), None);
    }
}
