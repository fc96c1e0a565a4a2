//! The `why502` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent::commands::main()
}
