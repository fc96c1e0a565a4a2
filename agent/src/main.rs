//! The `why502` program.

fn main() {}
