//! Placeholder.
use anyhow::Result;
use clap::Args;
/// o
#[derive(Debug, Args)]
pub(crate) struct Options {}
pub(crate) fn run(_o: &Options) -> Result<()> {
    Ok(())
}
