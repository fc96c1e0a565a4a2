//! What the probes take of the kernel, as counts, against `docs/budgets.md`.
//!
//! In: the object as it is loaded at defaults. Out: the page, byte for byte, on the kernel and
//! with the compiler that it names. Elsewhere the verifier and the compiler count differently:
//! there the sizes that neither decides must be those of the page, and the ceilings hold.
//! `WHY502_BLESS=1` writes the page anew. Nothing is attached.

mod chain;
mod measure;
mod page;

use std::path::Path;

use measure::{Measured, Program};

/// Instructions that the verifier may look at for one program. The kernel gives up at 1,000,000
/// (`BPF_COMPLEXITY_LIMIT_INSNS`, `include/linux/bpf.h`), and other kernels and compilers come
/// to other counts. Smaller: good programs are refused here. Larger: one that passes here is
/// refused by a kernel that was not tried.
const VERIFIED_MOST: u32 = 350_000;

/// Stack of the deepest chain of calls, bytes, each function's rounded up to 32 as older
/// kernels do. The kernel refuses more (`MAX_BPF_STACK`).
const STACK_MOST: u32 = 512;

/// What a socket that is watched may cost, bytes of storage.
const SOCKET_MOST: u64 = 8 * 1024;

/// Kernel memory of all maps at defaults, bytes, on a machine of few CPUs.
const MAPS_MOST: u64 = 24 << 20;

/// Bytes of a record without a head: what the ring takes for most of what happens.
const RECORD_MOST: usize = 512;

#[test]
#[ignore = "loads programs, as root: cargo xtask test --only budgets"]
fn the_probes_take_what_the_page_says() {
    let measured = Measured::here().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/budgets.md");
    let text = page::of(&measured);
    let blessed = std::env::var_os("WHY502_BLESS").is_some();

    under_the_ceilings(&measured);
    if blessed {
        std::fs::write(&path, &text).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();

    let (sizes, counts) = page::parts(&text);
    let (committed_sizes, committed_counts) = page::parts(&committed);
    same(committed_sizes, sizes);
    if page::place(committed_counts) == page::place(counts) {
        same(committed_counts, counts);
        println!("budgets: as in docs/budgets.md");
    } else {
        println!(
            "budgets: docs/budgets.md is of another kernel or compiler; here the ceilings hold:\n{counts}"
        );
    }
}

/// Every difference in one message, with what renews the page.
fn same(committed: &str, now: &str) {
    let differ = |from: &str, other: &str, sign: &str| -> String {
        let lines = from
            .lines()
            .filter(|line| !other.lines().any(|it| it == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect()
    };
    let before = differ(committed, now, "-");
    let after = differ(now, committed, "+");
    assert!(
        committed == now,
        "the probes take other amounts than docs/budgets.md says; if that is right, \
         `WHY502_BLESS=1 cargo xtask test --only budgets` writes it anew:\n{before}{after}"
    );
}

fn under_the_ceilings(measured: &Measured) {
    let Measured {
        place: _,
        programs,
        maps,
        records,
    } = measured;
    for program in programs {
        let Program {
            name,
            verified,
            chain,
            ..
        } = program;
        assert!(
            *verified <= VERIFIED_MOST,
            "{name}: the verifier looks at {verified} instructions, and {VERIFIED_MOST} is the most"
        );
        assert!(
            *chain <= STACK_MOST,
            "{name}: a chain of calls takes {chain} bytes of stack, and {STACK_MOST} is the most"
        );
    }
    let socket = measured.socket_bytes();
    assert!(
        socket <= SOCKET_MOST,
        "a socket takes {socket} bytes, and {SOCKET_MOST} is the most"
    );
    let all: u64 = maps.iter().filter_map(|map| map.memory).sum();
    assert!(
        all <= MAPS_MOST,
        "the maps take {all} bytes, and {MAPS_MOST} is the most"
    );
    for (name, bytes) in records {
        assert!(
            *bytes <= RECORD_MOST,
            "a record {name} takes {bytes} bytes, and {RECORD_MOST} is the most"
        );
    }
}
