//! Observations per second.

fn main() {}
