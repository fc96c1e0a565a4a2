//! What a guest finds: one archive with the first process, nginx, the agent and their
//! libraries, in the form that the kernel unpacks at its start (cpio "newc",
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::host::{command, target_dir, which};

/// Programs of the system that the tests start, beside their own.
const PROGRAMS: [&str; 3] = ["nginx", "setpriv", "ip"];

/// Files that programs expect, with what is in them.
const FILES: [(&str, &str); 4] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files\n",
    ),
    ("etc/hosts", "127.0.0.1 localhost\n"),
];

/// Where programs are in a guest: on the `PATH` that it is given.
pub(super) const BIN: &str = "bin";

/// A file of the archive: what it is, permissions, content.
type Entries = BTreeMap<String, (u32, Vec<u8>)>;

const FOLDER: u32 = 0o040_755;
const REGULAR: u32 = 0o100_644;
const EXECUTABLE: u32 = 0o100_755;

/// Writes the archive and gives its path. `tests` is the folder of the tests' programs.
pub(super) fn write(folder: &Path, agent: &Path, tests: &Path) -> Result<PathBuf> {
    let mut entries = Entries::new();
    for (path, text) in FILES {
        add(&mut entries, path, REGULAR, text.as_bytes().to_vec());
    }
    let stripped = target_dir().join("vm/stripped");
    let mut programs = vec![
        // The tests' own programs look for each other in the folder they are in.
        (tests.join("guest"), "init".to_owned()),
        (tests.join("misbehave"), "misbehave".to_owned()),
        (agent.to_path_buf(), format!("{BIN}/why502")),
    ];
    for name in PROGRAMS {
        let path = which(name).ok_or_else(|| anyhow!("there is no {name} on this machine"))?;
        programs.push((path, format!("{BIN}/{name}")));
    }
    for (from, to) in &programs {
        for library in libraries(from)? {
            let name = library.trim_start_matches('/').to_owned();
            if !entries.contains_key(&name) {
                let bytes = read(Path::new(&library))?;
                add(&mut entries, &name, EXECUTABLE, bytes);
            }
        }
        add(
            &mut entries,
            to,
            EXECUTABLE,
            without_symbols(from, &stripped)?,
        );
    }
    let path = folder.join("initramfs");
    fs::write(&path, archive(&entries))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A program without what only a debugger reads: the guest's memory holds it all.
fn without_symbols(program: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(scratch).arg(program);
    match command::probe(&mut strip) {
        Some(_) => read(scratch),
        None => read(program),
    }
}

/// The shared libraries of a program and its loader, by their absolute paths.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let text = command::output(Command::new("ldd").arg(program))?;
    Ok(parse_libraries(&text))
}

fn parse_libraries(ldd: &str) -> Vec<String> {
    ldd.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(str::to_owned)
        .collect()
}

/// Adds a file and the folders above it.
fn add(entries: &mut Entries, path: &str, mode: u32, bytes: Vec<u8>) {
    for (at, _) in path.match_indices('/') {
        let folder = path.get(..at).unwrap_or_default().to_owned();
        entries.entry(folder).or_insert((FOLDER, Vec::new()));
    }
    entries.insert(path.to_owned(), (mode, bytes));
}

fn archive(entries: &Entries) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Sorted by name, a folder comes before what is in it.
    for (number, (path, (mode, content))) in (1u32..).zip(entries) {
        append(&mut bytes, number, path, *mode, content);
    }
    append(&mut bytes, 0, "TRAILER!!!", 0, &[]);
    bytes
}

fn append(archive: &mut Vec<u8>, number: u32, path: &str, mode: u32, content: &[u8]) {
    let links = 1;
    let (size, name_size) = (content.len(), path.len() + 1);
    let head = format!(
        "070701{number:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
        0, 0, 0, 0, 0, 0, 0, 0
    );
    archive.extend_from_slice(head.as_bytes());
    archive.extend_from_slice(path.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    while !archive.len().is_multiple_of(4) {
        archive.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_what_cpio_reads() {
        let mut entries = Entries::new();
        add(&mut entries, "etc/hosts", REGULAR, b"x\n".to_vec());
        let bytes = archive(&entries);
        assert!(bytes.starts_with(b"070701"));
        assert!(bytes.len().is_multiple_of(4));
        let text = String::from_utf8_lossy(&bytes);
        let (folder, file) = (text.find("etc\0"), text.find("etc/hosts\0"));
        assert!(folder.is_some() && folder < file);
        assert!(text.contains("TRAILER!!!"));
    }

    #[test]
    fn libraries_and_the_loader_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        assert_eq!(
            parse_libraries(text),
            ["/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
    }
}
