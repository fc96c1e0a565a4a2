//! What the running kernel's types say.
//!
//! In: BTF, the description of its types that a kernel carries (Documentation/bpf/btf.rst). Out:
//! places of fields, numbers of names. Types are walked over in place: to build a model of all
//! 100,000 takes tens of megabytes, more than the daemon ever needs again.

use std::sync::OnceLock;

use agent_wire::reset_reason::NUMBERS;

use super::reset_reasons;

/// The kernel's own BTF.
const OF_KERNEL: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u32 = 0xeb9f;
const KIND_POINTER: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_PROTOTYPE: u32 = 13;

/// Unnamed structures inside each other that are looked into. The kernel's have two or three.
const UNNAMED: usize = 4;

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

/// What the probes need to know of the running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// Where a socket has its error (`sk_err`), bytes.
    pub(super) socket_error: Option<u32>,
    /// Where it has its peer's port and its own, bytes.
    pub(super) ports: Option<(u32, u32)>,
    /// Where it has its network namespace, and where that has its inode; and where a thread has its
    /// namespaces, and these the one of the network, bytes.
    pub(super) network: Option<[u32; 4]>,
    /// Where it has the last of its queued errors, and where that has what it says, bytes.
    pub(super) queued_error: Option<(u32, u32)>,
    /// Where a thread has what its process shares, its exit code and its process's number; and where
    /// the first has the count of threads that run and the memory it was chosen to give back, bytes.
    pub(super) process: Option<[u32; 5]>,
    /// Our code for each number that the kernel has for the reason of a reset.
    pub(super) reset_reasons: Option<[u8; NUMBERS]>,
}

impl Known {
    /// Looked up once, for the kernel's BTF is megabytes.
    pub(super) fn of_this_kernel() -> Self {
        static KNOWN: OnceLock<Known> = OnceLock::new();
        *KNOWN.get_or_init(|| {
            let btf = std::fs::read(OF_KERNEL).unwrap_or_default();
            let types = Types::of(&btf);
            types.map_or_else(Self::default, |types| Self {
                socket_error: types.offset("sock", "sk_err"),
                ports: ports(&types),
                network: network(&types),
                queued_error: queued_error(&types),
                process: process(&types),
                reset_reasons: reset_reasons::of(&types),
            })
        })
    }
}

fn process(types: &Types<'_>) -> Option<[u32; 5]> {
    let task = |member| types.offset("task_struct", member);
    let shared = |member| types.offset("signal_struct", member);
    Some([
        task("signal")?,
        task("exit_code")?,
        task("tgid")?,
        shared("live")?,
        shared("oom_mm")?,
    ])
}

fn network(types: &Types<'_>) -> Option<[u32; 4]> {
    let common = types.offset("sock", "__sk_common")?;
    let at = common + types.offset("sock_common", "skc_net")?;
    let inode = types.offset("net", "ns")? + types.offset("ns_common", "inum")?;
    let of_thread = types.offset("task_struct", "nsproxy")?;
    let network = types.offset("nsproxy", "net_ns")?;
    Some([at, inode, of_thread, network])
}

fn ports(types: &Types<'_>) -> Option<(u32, u32)> {
    let common = types.offset("sock", "__sk_common")?;
    let peer = common + types.offset("sock_common", "skc_dport")?;
    let own = common + types.offset("sock_common", "skc_num")?;
    Some((peer, own))
}

/// A queue is a ring of which the head has two pointers, to the first and to the last (`struct
/// sk_buff_head`, include/linux/skbuff.h).
fn queued_error(types: &Types<'_>) -> Option<(u32, u32)> {
    let last = types.offset("sock", "sk_error_queue")? + 8;
    let error = types.offset("sk_buff", "cb")? + types.offset("sock_exterr_skb", "ee")?;
    Some((last, error))
}

/// BTF, taken apart no further than into its parts.
pub(super) struct Types<'a> {
    btf: &'a [u8],
    /// Where the types are, and where they end.
    types: std::ops::Range<usize>,
    /// Where their names are.
    names: usize,
}

/// One type.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    /// Parts have places that may be of bit fields.
    has_bits: bool,
    /// Its parts, how many and how far apart.
    count: usize,
    step: usize,
    /// Another type, where the kind has one.
    other: u32,
    /// Where its parts are.
    parts: usize,
}

impl<'a> Types<'a> {
    /// `None` when it is no BTF.
    pub(super) fn of(btf: &'a [u8]) -> Option<Self> {
        if word(btf, 0)? & 0xffff != MAGIC {
            return None;
        }
        let header = word(btf, 4)? as usize;
        let start = header.checked_add(word(btf, 8)? as usize)?;
        let end = start.checked_add(word(btf, 12)? as usize)?;
        let names = header.checked_add(word(btf, 16)? as usize)?;
        Some(Self {
            btf,
            types: start..end,
            names,
        })
    }

    /// Offset of `member` in `structure`, bytes, also where it is in unnamed structures and unions
    /// inside of it. `None` when it has no such field, or has it as a bit field or inside another
    /// named one.
    fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        self.offset_in(self.named(KIND_STRUCT, structure)?, member, UNNAMED)
    }

    fn offset_in(&self, of: Type, member: &str, depth: usize) -> Option<u32> {
        (0..of.count).find_map(|number| {
            let at = of.parts + number * of.step;
            let [name, other, place] = [0, 4, 8].map(|part| word(self.btf, at + part));
            let (name, place) = (name?, place?);
            // With the flag, the upper byte is the width of a bit field.
            if of.has_bits && place >> 24 != 0 || !place.is_multiple_of(8) {
                return None;
            }
            if name == 0 {
                let inner = self.numbered(other?).filter(|_| depth > 0)?;
                let has_parts = matches!(inner.kind, KIND_STRUCT | KIND_UNION);
                let inside = has_parts.then(|| self.offset_in(inner, member, depth - 1))?;
                return inside.map(|inside| place / 8 + inside);
            }
            self.is_name(name, member).then_some(place / 8)
        })
    }

    /// Names and numbers of an enumeration; none when there is no such.
    pub(super) fn enumerators(&self, name: &str) -> impl Iterator<Item = (&'a str, u32)> {
        let of = self.named(KIND_ENUM, name);
        of.into_iter().flat_map(move |of| {
            (0..of.count).filter_map(move |number| {
                let at = of.parts + number * of.step;
                Some((self.name(word(self.btf, at)?)?, word(self.btf, at + 4)?))
            })
        })
    }

    /// How many parameters the functions have that `name` is a pointer to.
    pub(super) fn parameters(&self, name: &str) -> Option<usize> {
        let pointer = self.numbered(self.named(KIND_TYPEDEF, name)?.other)?;
        let prototype = self.numbered(pointer.other)?;
        let is_one = pointer.kind == KIND_POINTER && prototype.kind == KIND_PROTOTYPE;
        is_one.then_some(prototype.count)
    }

    fn named(&self, kind: u32, name: &str) -> Option<Type> {
        self.iter()
            .find(|one| one.kind == kind && self.is_name(one.name, name))
    }

    /// The type of that number; the first has 1, for 0 is `void`.
    fn numbered(&self, number: u32) -> Option<Type> {
        self.iter().nth((number as usize).checked_sub(1)?)
    }

    /// All of them, as far as they can be read.
    fn iter(&self) -> impl Iterator<Item = Type> {
        let mut at = self.types.start;
        std::iter::from_fn(move || {
            if at >= self.types.end {
                return None;
            }
            let info = word(self.btf, at + 4)?;
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let (tail, step) = *TAILS.get(kind as usize)?;
            let one = Type {
                name: word(self.btf, at)?,
                kind,
                has_bits: info >> 31 == 1,
                count,
                step,
                other: word(self.btf, at + 8)?,
                parts: at + 12,
            };
            at = one.parts + tail + count * step;
            Some(one)
        })
    }

    fn name(&self, name: u32) -> Option<&'a str> {
        let bytes = self.btf.get(self.names.checked_add(name as usize)?..)?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        str::from_utf8(&bytes[..end]).ok()
    }

    fn is_name(&self, name: u32, wanted: &str) -> bool {
        let at = self.names.checked_add(name as usize);
        let bytes = at.and_then(|at| self.btf.get(at..));
        bytes
            .and_then(|bytes| bytes.strip_prefix(wanted.as_bytes()))
            .is_some_and(|behind| behind.first() == Some(&0))
    }
}

fn word(btf: &[u8], at: usize) -> Option<u32> {
    let bytes = btf.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Known, Types};

    /// BTF of: an integer, `struct other { int sk_err; }`, `struct sock { int a; int sk_err; int
    /// bits:3; }` with places in the form that has bit fields, `enum why { A = 0, B = 7 }`,
    /// `typedef void (*told)(int, int)`.
    fn small() -> Vec<u8> {
        let names = b"\0int\0other\0sk_err\0sock\0a\0bits\0why\0A\0B\0told\0";
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
        let bits = [name("a"), 1, 0, name("sk_err"), 1, 32];
        let bits = [&bits[..], &[name("bits"), 1, 3 << 24 | 64]].concat();
        let sock = [vec![name("sock"), 1 << 31 | 4 << 24 | 3, 12], bits].concat();
        let types = [
            vec![name("int"), 1 << 24, 4, 32],
            vec![name("other"), 4 << 24 | 1, 4, name("sk_err"), 1, 0],
            sock,
            vec![name("why"), 6 << 24 | 2, 4, name("A"), 0, name("B"), 7],
            vec![name("told"), 8 << 24, 6],
            vec![0, 2 << 24, 7],
            vec![0, 13 << 24 | 2, 0, 0, 1, 0, 1],
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

    fn offset(btf: &[u8], structure: &str, member: &str) -> Option<u32> {
        Types::of(btf)?.offset(structure, member)
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
    fn an_enumeration_gives_its_names_and_numbers() {
        let btf = small();
        let types = Types::of(&btf).expect("BTF");
        assert_eq!(
            types.enumerators("why").collect::<Vec<_>>(),
            [("A", 0), ("B", 7)]
        );
        assert_eq!(types.enumerators("sock").count(), 0, "no enumeration");
    }

    #[test]
    fn a_pointer_to_a_function_gives_its_parameters() {
        let btf = small();
        let types = Types::of(&btf).expect("BTF");
        assert_eq!(types.parameters("told"), Some(2));
        assert_eq!(types.parameters("int"), None);
    }

    #[test]
    fn what_is_cut_short_or_no_btf_gives_nothing() {
        let btf = small();
        for len in 0..btf.len() {
            let cut = &btf[..len];
            let found = offset(cut, "sock", "sk_err");
            assert!(matches!(found, None | Some(4)), "{len}: {found:?}");
            let Some(types) = Types::of(cut) else {
                continue;
            };
            assert!(types.enumerators("why").count() <= 2);
            assert!(matches!(types.parameters("told"), None | Some(2)));
        }
        assert!(Types::of(&[0xff; 64]).is_none());
    }

    #[test]
    fn the_running_kernel_has_an_error_number_in_its_sockets() {
        let Ok(_) = std::fs::metadata(super::OF_KERNEL) else {
            return;
        };
        let known = Known::of_this_kernel();
        let at = known.socket_error.expect("every kernel has it");
        assert!(at > 0 && at.is_multiple_of(4), "{at}");
        let (last, error) = known.queued_error.expect("every kernel has them");
        assert!(last.is_multiple_of(8) && last != at, "{last}");
        assert!(error.is_multiple_of(4), "{error}");
        let process = known.process.expect("every kernel has them");
        assert!(process.iter().all(|at| *at > 0), "{process:?}");
        let network = known.network.expect("every kernel has them");
        assert!(network.iter().all(|at| *at > 0), "{network:?}");
        // They are of the kernel's interface to programs of the first kind: nothing moves them.
        assert_eq!(known.ports, Some((12, 14)));
    }
}
