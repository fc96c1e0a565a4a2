//! `deny`: licences, sources, duplicates and advisories of every dependency, as `deny.toml` says.
//!
//! Advisories need a database that cargo-deny clones from GitHub. Where that cannot be had, the
//! rest is checked, and it is said that advisories were not.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::host::cargo_deny::{self, CargoDeny};
use crate::host::command;

/// A clone of the database that takes longer will not come.
const FETCH: Duration = Duration::from_secs(120);

/// Checks the dependencies of all crates.
pub(crate) fn run() -> Result<()> {
    let deny = cargo_deny::ensure()?;
    let mut checks = vec!["bans", "licenses", "sources"];
    if fetch_advisories(&deny) {
        checks.push("advisories");
    } else {
        println!("advisories NOT checked: their database cannot be fetched from here");
    }
    let mut check = deny.command();
    // What is not allowed fails; a warning would be read by nobody.
    check.args(["--locked", "check", "--deny", "warnings"]);
    if command::run(check.args(&checks)).is_err() {
        bail!("a dependency is not as deny.toml wants it; cargo-deny says which, above");
    }
    Ok(())
}

fn fetch_advisories(deny: &CargoDeny) -> bool {
    let mut fetch = deny.command();
    command::run_within(fetch.args(["fetch", "db"]), FETCH).is_ok()
}
