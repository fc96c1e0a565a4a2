//! `docs/budgets.md`: from the counts to its text, and back to its parts.

use std::fmt::Write;

use super::measure::{Map, Measured, Place, Program};
use super::{MAPS_MOST, RECORD_MOST, SOCKET_MOST, STACK_MOST, VERIFIED_MOST};

/// Begins the part that another kernel or compiler counts differently.
const COUNTS: &str = "\n## As one kernel counts\n";

/// The line that names them.
const PLACE: &str = "Counted by Linux ";

pub(super) fn of(measured: &Measured) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write(&mut text, measured);
    text
}

/// Sizes, which the source decides; counts, which kernel and compiler have a part in.
pub(super) fn parts(text: &str) -> (&str, &str) {
    text.split_once(COUNTS).unwrap_or((text, ""))
}

/// Kernel and compiler, in one line.
pub(super) fn place(counts: &str) -> &str {
    let mut lines = counts.lines();
    lines
        .find(|line| line.starts_with(PLACE))
        .unwrap_or_default()
}

fn write(text: &mut String, measured: &Measured) -> std::fmt::Result {
    let Measured {
        place,
        programs,
        maps,
        records,
    } = measured;
    text.push_str(OPENING);
    write!(
        text,
        "\n## Records\n\n\
         What the ring takes for each, without the bytes of a head; the kernel adds 8. At most\n\
         {RECORD_MOST} bytes.\n\n\
         | record | bytes |\n| --- | ---: |\n"
    )?;
    for (name, bytes) in records {
        writeln!(text, "| {name} | {bytes} |")?;
    }
    write!(
        text,
        "\n## Maps at defaults\n\n\
         Socket storage is made for each socket that is watched, {} bytes if it needs all of it, and\n\
         dies with it; at most {SOCKET_MOST} bytes. Per-CPU values are there once for each CPU. The\n\
         entries of a ring are its bytes.\n\n\
         | map | kind | key bytes | value bytes | entries |\n| --- | --- | ---: | ---: | ---: |\n",
        measured.socket_bytes()
    )?;
    for Map {
        name,
        kind,
        key,
        value,
        entries,
        memory: _,
    } in maps
    {
        writeln!(text, "| {name} | {kind:?} | {key} | {value} | {entries} |")?;
    }
    text.push_str(COUNTS);
    write_counts(text, place, programs, maps)
}

fn write_counts(
    text: &mut String,
    place: &Place,
    programs: &[Program],
    maps: &[Map],
) -> std::fmt::Result {
    let Place {
        kernel,
        cpus,
        compiler,
    } = place;
    writeln!(
        text,
        "\n{PLACE}{kernel} with {cpus} CPUs, of an object by {compiler}."
    )?;
    write!(
        text,
        "\n### Programs\n\n\
         *Verified* are the instructions that the verifier looked at, over all paths. The kernel refuses\n\
         a program at 1,000,000; ours may have {VERIFIED_MOST}, which leaves room for\n\
         other verifiers, compilers and protocols. *Loaded* are the instructions of the program. *Stack* is in\n\
         bytes, the entry's first, then that of each function that is called; *chain* is the deepest\n\
         of their calls, each rounded up to 32, of which a kernel allows {STACK_MOST}.\n\n\
         | program | verified | loaded | machine code, bytes | stack | chain |\n\
         | --- | ---: | ---: | ---: | --- | ---: |\n"
    )?;
    for Program {
        name,
        verified,
        instructions,
        machine_code,
        frames,
        chain,
    } in programs
    {
        let frames: Vec<String> = frames.iter().map(u32::to_string).collect();
        writeln!(
            text,
            "| {name} | {verified} | {instructions} | {machine_code} | {} | {chain} |",
            frames.join(" + ")
        )?;
    }
    let all: u64 = maps.iter().filter_map(|map| map.memory).sum();
    write!(
        text,
        "\n### Memory of the maps\n\nBefore any socket is watched: {all} bytes, at most {MAPS_MOST}.\n\n\
         | map | bytes |\n| --- | ---: |\n"
    )?;
    for Map { name, memory, .. } in maps {
        let bytes = memory.map_or_else(|| "?".to_owned(), |bytes| bytes.to_string());
        writeln!(text, "| {name} | {bytes} |")?;
    }
    Ok(())
}

const OPENING: &str = "\
# Budgets

What the probes take of the kernel, counted. A change shows here, in the diff of the change that
made it. `cargo xtask test --only budgets` loads the object and compares; when a difference is
meant, this writes the page anew:

    WHY502_BLESS=1 cargo xtask test --only budgets

The first two tables follow from the source and hold on every machine. Those below count what a
kernel made of an object: they are compared where kernel, number of CPUs and compiler are the same,
and elsewhere only the ceilings are. A ceiling is raised in `agent/src/kernel/budgets`, with a
reason. What other kernels count of the same programs, and refuse, is in [kernels](kernels.md);
before 5.11 they are loaded with their flows in a map, which takes more memory than is told here.
";

#[test]
fn the_page_falls_into_its_parts() {
    let text = format!("sizes\n{COUNTS}\n{PLACE}6.18 with 2 CPUs, of an object by x.\n| a |\n");
    let (sizes, counts) = parts(&text);
    assert_eq!(sizes, "sizes\n");
    assert_eq!(
        place(counts),
        "Counted by Linux 6.18 with 2 CPUs, of an object by x."
    );
    assert_eq!(parts("old"), ("old", ""));
}
