//! Why a reset was sent, as [`crate::record::Reset::reason`] tells it.
//!
//! The kernel numbers its `enum sk_rst_reason` (include/net/rstreason.h, since 6.10) anew when it
//! gets another entry. The daemon reads the running kernel's numbers and tells the kernel side
//! which code of this list each of them is.

/// Names of the codes, as the kernel has them, in lower case. The code of a name is its place here
/// plus one; 0 is for what the kernel does not say, or says in a word that is not listed.
pub const NAMES: [&str; 16] = [
    "no_socket",
    "tcp_invalid_ack_sequence",
    "tcp_rfc7323_paws",
    "tcp_too_old_ack",
    "tcp_ack_unsent_data",
    "tcp_flags",
    "tcp_old_ack",
    "tcp_abort_on_data",
    "tcp_timewait_socket",
    "invalid_syn",
    "tcp_abort_on_close",
    "tcp_abort_on_linger",
    "tcp_abort_on_memory",
    "tcp_state",
    "tcp_keepalive_timeout",
    "tcp_disconnect_with_data",
];

/// Numbers of the running kernel that are told apart: a power of two.
pub const NUMBERS: usize = 64;

/// The name of a code.
pub fn name(code: u16) -> Option<&'static str> {
    let place = usize::from(code).checked_sub(1)?;
    NAMES.get(place).copied()
}

/// The code of a name.
pub fn code(name: &str) -> Option<u8> {
    let place = NAMES.iter().position(|known| *known == name)?;
    u8::try_from(place + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::{NAMES, code, name};

    #[test]
    fn each_code_has_its_name_back() {
        for known in NAMES {
            let code = code(known).expect("known");
            assert_eq!(name(u16::from(code)), Some(known));
        }
        assert_eq!((name(0), name(17), code("max")), (None, None, None));
    }
}
