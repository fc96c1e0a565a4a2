//! The stack of the deepest chain of calls, which is what the kernel limits.
//!
//! In: a program as the kernel holds it, and the frame of each of its functions. Out: bytes, by
//! the strictest of the kernels' roundings.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

/// `BPF_JMP | BPF_CALL`
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_CALL`: of a function of the program, not of a helper.
const OF_ITS_OWN: u8 = 1;
/// What a frame is rounded up to (`check_max_stack_depth`, kernel/bpf/verifier.c); newer kernels
/// round to 16 for code that is compiled.
const ROUNDED_TO: u32 = 32;

/// `frames` in the order of the functions in `code`, which is eight bytes an instruction.
pub(super) fn deepest(code: &[u8], frames: &[u32]) -> Result<u32> {
    let mut calls = Vec::new();
    for (at, instruction) in (0i64..).zip(code.chunks_exact(8)) {
        if instruction[0] == CALL && instruction[1] >> 4 == OF_ITS_OWN {
            // A compiled program has the distance here, and the function's number after it.
            let distance = i16::from_le_bytes([instruction[2], instruction[3]]);
            calls.push((at, at + 1 + i64::from(distance)));
        }
    }
    let targets = calls.iter().map(|(_, target)| *target);
    let starts: BTreeSet<i64> = targets.chain([0]).collect();
    ensure!(
        starts.len() == frames.len(),
        "{} functions are called, and {} have a frame",
        starts.len(),
        frames.len()
    );
    let function_at = |at: i64| starts.range(..=at).count() - 1;
    let calls: Vec<_> = calls
        .into_iter()
        .map(|(from, to)| (function_at(from), function_at(to)))
        .collect();
    Ok(from(0, &calls, frames))
}

/// Ends, for the verifier takes no program that calls itself.
fn from(function: usize, calls: &[(usize, usize)], frames: &[u32]) -> u32 {
    let called = calls.iter().filter(|(caller, _)| *caller == function);
    let below = called.map(|(_, callee)| from(*callee, calls, frames)).max();
    frames[function].max(1).next_multiple_of(ROUNDED_TO) + below.unwrap_or_default()
}

#[test]
fn a_chain_is_as_deep_as_its_deepest_calls() {
    let call = |distance: i16| {
        let [low, high] = distance.to_le_bytes();
        [CALL, OF_ITS_OWN << 4, low, high, 0, 0, 0, 0]
    };
    let helper = [CALL, 0, 0, 0, 26, 0, 0, 0];
    let exit = [0x95, 0, 0, 0, 0, 0, 0, 0];
    // 0: calls 3 and 5. 3: calls 5. 5: a helper.
    let code = [call(2), call(3), exit, call(1), exit, helper, exit].concat();
    assert_eq!(deepest(&code, &[0, 376, 96]).unwrap(), 32 + 384 + 96);
    assert_eq!(deepest(&code, &[8, 1, 0]).unwrap(), 96);
    assert!(deepest(&code, &[8, 1]).is_err());
}
