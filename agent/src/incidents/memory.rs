//! How much memory a kept request takes: an estimate from above, without the allocator's
//! own share.

use std::sync::Arc;

use agent_core::event::{Attempt, Request, Upstream};
use agent_core::observation::RequestHead;
use smol_str::SmolStr;

use super::Kept;

/// Bytes of a request and everything that it alone holds.
pub(super) fn of(request: &Request) -> usize {
    size_of::<Kept>()
        + size_of::<Request>()
        + head(request.head.as_ref())
        + request
            .attempts
            .iter()
            .map(|attempt| attempt_bytes(attempt))
            .sum::<usize>()
}

fn attempt_bytes(attempt: &Attempt) -> usize {
    let path = match &attempt.upstream {
        Upstream::Inet(_) | Upstream::Unknown => 0,
        Upstream::Unix(path) => path.len(),
    };
    size_of::<Arc<Attempt>>() + size_of::<Attempt>() + path + head(attempt.head.as_ref())
}

fn head(head: Option<&RequestHead>) -> usize {
    let Some(head) = head else { return 0 };
    let RequestHead {
        method,
        path,
        host,
        request_id,
        trace_id,
        content_length: _,
        chunked: _,
    } = head;
    // What is short is kept in place, but ids are not.
    let words = [Some(method), Some(path), host.as_ref()].into_iter();
    let words = words.flatten().filter(|word| word.is_heap_allocated());
    let ids = [request_id, trace_id].into_iter().flatten();
    words.map(SmolStr::len).sum::<usize>() + ids.map(|id| id.len()).sum::<usize>()
}
