//! Where the running kernel has a field of a structure.
//!
//! In: BTF, the description of its types that a kernel carries (Documentation/bpf/btf.rst). Out:
//! an offset. Types are walked over in place: to build a model of all 100,000 takes tens of
//! megabytes, more than the daemon ever needs again.

use std::sync::OnceLock;

/// The kernel's own BTF.
const OF_KERNEL: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u32 = 0xeb9f;
const KIND_STRUCT: u32 = 4;

/// Bytes of what each kind has behind the three words that all begin with: for itself, and for
/// each of its parts.
const TAILS: [(usize, usize); 20] = [
    (0, 0),  // void
    (4, 0),  // integer
    (0, 0),  // pointer
    (12, 0), // array
    (0, 12), // structure
    (0, 12), // union
    (0, 8),  // enumeration
    (0, 0),  // forward declaration
    (0, 0),  // typedef
    (0, 0),  // volatile
    (0, 0),  // const
    (0, 0),  // restrict
    (0, 0),  // function
    (0, 8),  // function prototype
    (4, 0),  // variable
    (0, 12), // section
    (0, 0),  // floating point
    (4, 0),  // tag of a declaration
    (0, 0),  // tag of a type
    (0, 12), // enumeration, 64 bits
];

/// Offset of a socket's error (`sk_err`), bytes; looked up once, for the kernel's BTF is megabytes.
pub(super) fn socket_error() -> Option<u32> {
    static OFFSET: OnceLock<Option<u32>> = OnceLock::new();
    *OFFSET.get_or_init(|| offset_in_kernel("sock", "sk_err"))
}

/// Offset of `member` in `structure` of the running kernel, bytes. `None` when it has no such
/// field, has it as a bit field or inside another structure, or its BTF cannot be read.
fn offset_in_kernel(structure: &str, member: &str) -> Option<u32> {
    offset(&std::fs::read(OF_KERNEL).ok()?, structure, member)
}

fn offset(btf: &[u8], structure: &str, member: &str) -> Option<u32> {
    let word = |at: usize| -> Option<u32> {
        let bytes = btf.get(at..at.checked_add(4)?)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    if word(0)? & 0xffff != MAGIC {
        return None;
    }
    let header = word(4)? as usize;
    let types = header.checked_add(word(8)? as usize)?;
    let end = types.checked_add(word(12)? as usize)?;
    let names = header.checked_add(word(16)? as usize)?;
    let is_named = |name: u32, wanted: &str| {
        let rest = names
            .checked_add(name as usize)
            .and_then(|at| btf.get(at..));
        rest.is_some_and(|rest| {
            rest.strip_prefix(wanted.as_bytes())
                .is_some_and(|behind| behind.first() == Some(&0))
        })
    };
    let mut at = types;
    while at < end {
        let (name, info) = (word(at)?, word(at + 4)?);
        let (kind, parts) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        let (tail, part) = *TAILS.get(kind as usize)?;
        let behind = at + 12;
        if kind == KIND_STRUCT && is_named(name, structure) {
            return (0..parts).find_map(|number| {
                let at = behind + number * part;
                let (name, place) = (word(at)?, word(at + 8)?);
                // With the flag, the upper byte is the width of a bit field.
                let is_bits = info >> 31 == 1 && place >> 24 != 0 || !place.is_multiple_of(8);
                (is_named(name, member) && !is_bits).then_some(place / 8)
            });
        }
        at = behind + tail + parts * part;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{offset, offset_in_kernel};

    /// BTF of: an integer, `struct other { int sk_err; }`, `struct sock { int a; int sk_err; int
    /// bits:3; }` with places in the form that has bit fields.
    fn small() -> Vec<u8> {
        let names = b"\0int\0other\0sk_err\0sock\0a\0bits\0";
        let name = |wanted: &str| {
            let at = names
                .split(|byte| *byte == 0)
                .scan(0u32, |at, word| {
                    let from = *at;
                    *at += u32::try_from(word.len()).expect("short") + 1;
                    Some((from, word))
                })
                .find(|(_, word)| *word == wanted.as_bytes());
            at.expect("there").0
        };
        let types = [
            vec![name("int"), 1 << 24, 4, 32],
            vec![name("other"), 4 << 24 | 1, 4, name("sk_err"), 1, 0],
            vec![
                name("sock"),
                1 << 31 | 4 << 24 | 3,
                12,
                name("a"),
                1,
                0,
                name("sk_err"),
                1,
                32,
                name("bits"),
                1,
                3 << 24 | 64,
            ],
        ];
        let types: Vec<u8> = types
            .concat()
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect();
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short");
        let header = [0x0001_eb9f, 24, 0, len(&types), len(&types), len(names)];
        let mut btf: Vec<u8> = header.into_iter().flat_map(u32::to_ne_bytes).collect();
        btf.extend(&types);
        btf.extend(names);
        btf
    }

    #[test]
    fn a_field_is_found_in_its_own_structure() {
        let btf = small();
        assert_eq!(offset(&btf, "sock", "sk_err"), Some(4));
        assert_eq!(offset(&btf, "other", "sk_err"), Some(0));
        assert_eq!(offset(&btf, "sock", "bits"), None, "a bit field");
        assert_eq!(offset(&btf, "sock", "sk"), None, "not by a prefix");
        assert_eq!(offset(&btf, "soc", "sk_err"), None);
    }

    #[test]
    fn what_is_cut_short_or_no_btf_gives_nothing() {
        let btf = small();
        for len in 0..btf.len() {
            let found = offset(&btf[..len], "sock", "sk_err");
            assert!(matches!(found, None | Some(4)), "{len}: {found:?}");
        }
        assert_eq!(offset(&[0xff; 64], "sock", "sk_err"), None);
    }

    #[test]
    fn the_running_kernel_has_an_error_number_in_its_sockets() {
        let Ok(_) = std::fs::metadata(super::OF_KERNEL) else {
            return;
        };
        let at = offset_in_kernel("sock", "sk_err").expect("every kernel has it");
        assert!(at > 0 && at.is_multiple_of(4), "{at}");
        assert_eq!(offset_in_kernel("sock", "sk_no_such_thing"), None);
    }
}
