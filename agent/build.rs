//! Puts the eBPF object where the loader includes it from: `$OUT_DIR/agent-ebpf`.
//!
//! The object is built apart, by `cargo xtask build`, because it needs another target and
//! another linker. `WHY502_BPF_OBJECT` names another file.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=WHY502_BPF_OBJECT");
    let Some(out) = env::var_os("OUT_DIR") else {
        println!("cargo::error=OUT_DIR is not set: build with cargo");
        return;
    };
    let object = object_path();
    println!("cargo::rerun-if-changed={}", object.display());
    let target = Path::new(&out).join("agent-ebpf");
    if let Err(error) = fs::copy(&object, &target) {
        println!(
            "cargo::error=eBPF object not built: run `cargo xtask build` ({}: {error})",
            object.display()
        );
    }
}

fn object_path() -> PathBuf {
    match env::var_os("WHY502_BPF_OBJECT") {
        Some(path) if path != OsStr::new("") => PathBuf::from(path),
        // Cargo runs this in the package's folder. An absolute path would stay that of another
        // checkout when its `target` is copied, and its object would be put into this agent.
        _ => PathBuf::from("../target/bpf/agent-ebpf"),
    }
}
