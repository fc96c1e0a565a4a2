//! soon.
#[test]
fn none() {}
