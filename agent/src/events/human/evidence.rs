//! The numbers of one attempt as a sentence.
//!
//! It says what was seen, whatever the cause: by what the attempt ended, in which part of it,
//! what was sent, acknowledged and received. Only the last words are about the cause.

use agent_core::cause::Cause;

use super::known;
use super::units::{counted, duration, errno};
use crate::events::shape::{AttemptShape, EvidenceShape, PlaceShape};

/// Digits of a container's id that people read.
const SHORT_ID: usize = 12;

/// The cause whose gloss says that the request was read.
const CLOSED: &str = "closed_before_response";

/// The certainty of a case that is one possibility among others.
pub(super) const GUESS: &str = "guess";

/// Everything in one sentence, and what the case means behind it.
pub(super) fn sentence(attempt: &AttemptShape) -> String {
    let upstream = &named(attempt);
    let mut parts = vec![match attempt.phase.as_deref() {
        // What came of connecting is told by how it ended.
        Some("connect") => format!("upstream {upstream}"),
        _ => format!("upstream {upstream}, {}", connection(attempt)),
    }];
    parts.extend(traffic(attempt));
    parts.push(ending(attempt));
    parts.extend(circumstances(attempt));
    if let Some(case) = attempt.case.as_ref().filter(|case| case.certainty != GUESS) {
        // It is sentences of its own.
        return format!("{}. {}", parts.join("; "), case.meaning);
    }
    let mut gloss = attempt.cause.as_deref().map(gloss).unwrap_or_default();
    if has_unread_data(attempt) && attempt.cause.as_deref() == Some(CLOSED) {
        gloss = "the app closed, and had not read all of the request";
    }
    if !gloss.is_empty() {
        parts.push(gloss.to_owned());
    }
    parts.join("; ")
}

/// The upstream's address, where that is translated to, and who is there where that is known.
pub(super) fn named(attempt: &AttemptShape) -> String {
    named_as(
        &attempt.upstream,
        attempt.endpoint.as_deref(),
        &attempt.peer,
    )
}

/// As [`named`], from its parts.
pub(super) fn named_as(upstream: &str, endpoint: Option<&str>, peer: &PlaceShape) -> String {
    let mut name = upstream.to_owned();
    if let Some(endpoint) = endpoint {
        name.push_str(" → ");
        name.push_str(endpoint);
    }
    if let Some(who) = who(peer) {
        name.push_str(&format!(" ({who})"));
    }
    name
}

/// `shop/orders, pod orders-5f7d8-x2x4z, container 4f2a9c1be7d0`; the id as `docker ps` shows it.
pub(super) fn who(place: &PlaceShape) -> Option<String> {
    let PlaceShape {
        container,
        namespace,
        workload: _,
        pod,
        service,
    } = place;
    let namespace = namespace.as_deref().unwrap_or("?");
    let service = service
        .as_deref()
        .map(|service| format!("{namespace}/{service}"));
    let pod = pod.as_deref().map(|pod| match service {
        Some(_) => format!("pod {pod}"),
        None => format!("pod {namespace}/{pod}"),
    });
    let container = container.as_deref().map(|id| {
        let short = id.get(..SHORT_ID).unwrap_or(id);
        format!("container {short}")
    });
    let known: Vec<String> = [service, pod, container].into_iter().flatten().collect();
    (!known.is_empty()).then(|| known.join(", "))
}

/// A few words about a cause; empty when there are none.
pub(super) fn gloss(cause: &str) -> &'static str {
    known(cause).map(|entry| entry.gloss).unwrap_or_default()
}

/// Fresh or reused, and how that went.
pub(super) fn connection(attempt: &AttemptShape) -> String {
    match (
        attempt.reused,
        attempt.idle_seconds,
        attempt.connect_seconds,
    ) {
        (Some(true), Some(idle), _) => {
            format!(
                "reused connection, idle {}{}",
                duration(idle),
                carried(attempt)
            )
        }
        (Some(true), None, _) => format!("reused connection{}", carried(attempt)),
        (Some(false), _, Some(connect)) => {
            format!("fresh connection ({} to connect)", duration(connect))
        }
        (Some(false), _, None) => "fresh connection".to_owned(),
        // No connection was seen to be used: that one was is a guess.
        (None, _, _) if attempt.cookie == 0 => "perhaps a connection that is not read".to_owned(),
        (None, _, _) => "connection from before the agent".to_owned(),
    }
}

/// How many requests the connection had carried; nothing where that is not known.
fn carried(attempt: &AttemptShape) -> String {
    let count = attempt.evidence.carried_requests.map(u64::from);
    count.map_or_else(String::new, |count| {
        format!(" after {}", counted(count, "request"))
    })
}

/// What went which way; nothing when no request left.
pub(super) fn traffic(attempt: &AttemptShape) -> Option<String> {
    let EvidenceShape {
        retransmits,
        request_bytes,
        request_acked,
        response_bytes,
        content_length,
        request_length,
        ..
    } = &attempt.evidence;
    if *request_bytes == 0 {
        return None;
    }
    let sent = match request_length {
        Some(length) if length > request_bytes => {
            format!("{request_bytes} of {}", counted(*length, "byte"))
        }
        _ => counted(*request_bytes, "byte"),
    };
    let delivered = if request_acked >= request_bytes {
        format!("{sent} sent and acknowledged")
    } else if *request_acked == 0 {
        format!("{sent} sent, none acknowledged")
    } else {
        format!("{sent} sent, {request_acked} acknowledged")
    };
    let retransmitted = match retransmits {
        0 => String::new(),
        count => format!(", {}", counted(u64::from(*count), "retransmit")),
    };
    let received = match (response_bytes, content_length) {
        (0, _) => "nothing received".to_owned(),
        (_, Some(length)) => format!(
            "{} received of head and a body of {length}",
            counted(*response_bytes, "byte")
        ),
        (_, None) => format!("{} received", counted(*response_bytes, "byte")),
    };
    Some(format!("{delivered}{retransmitted}, {received}"))
}

/// What else was seen that few attempts have; nothing for the others.
pub(super) fn circumstances(attempt: &AttemptShape) -> Option<String> {
    let EvidenceShape {
        zero_window,
        killed_by,
        out_of_memory,
        exit_status,
        reset_reason,
        tls_alert,
        tls_alert_name,
        tls_alert_by,
        server_name,
        server_name_sent,
        read_by_upstream,
        ..
    } = &attempt.evidence;
    let mut all = Vec::new();
    if *zero_window {
        all.push("the upstream offered no window".to_owned());
    }
    all.extend(killed_by.map(|signal| {
        let whose = if *out_of_memory {
            ", by the kernel for want of memory"
        } else {
            ""
        };
        format!("its process was killed by signal {signal}{whose}")
    }));
    all.extend(exit_status.map(|status| format!("its process exited with status {status}")));
    all.extend(reset_reason.as_deref().map(|reason| {
        let meaning = reset_meaning(reason).map(|meaning| format!(" ({meaning})"));
        format!("its kernel gave {reason}{}", meaning.unwrap_or_default())
    }));
    all.extend(tls_alert.map(|alert| {
        let alert = match tls_alert_name {
            Some(name) => format!("TLS alert {name} ({alert})"),
            None => format!("TLS alert {alert}"),
        };
        match tls_alert_by {
            Some(by) => format!("{alert} from the {by}"),
            None => alert,
        }
    }));
    all.extend(match (server_name, server_name_sent) {
        (Some(name), _) => Some(format!("the proxy asked for server name {name}")),
        (None, Some(false)) => Some("the proxy sent no server name (SNI)".to_owned()),
        (None, _) => None,
    });
    all.extend(read_by_upstream.map(|read| {
        let text = if read {
            "a process of the upstream had read from the connection"
        } else {
            "no process of the upstream had read anything of it"
        };
        text.to_owned()
    }));
    all.extend(attempt.ready_endpoints.map(|ready| match ready {
        0 => "no endpoint of its Service is ready".to_owned(),
        1 => "one endpoint of its Service is ready".to_owned(),
        more => format!("{more} endpoints of its Service are ready"),
    }));
    (!all.is_empty()).then(|| all.join(", "))
}

/// The upstream's kernel says that data was unread when it closed.
fn has_unread_data(attempt: &AttemptShape) -> bool {
    matches!(
        attempt.evidence.reset_reason.as_deref(),
        Some("tcp_abort_on_close" | "tcp_disconnect_with_data")
    )
}

/// What a server did that its kernel sent RST for, in plain words.
fn reset_meaning(reason: &str) -> Option<&'static str> {
    match reason {
        "tcp_abort_on_close" => Some("it closed with data unread"),
        "tcp_abort_on_data" => Some("it had closed before the data came"),
        "tcp_abort_on_linger" => Some("it closed, and waited for no more data"),
        "tcp_abort_on_memory" => Some("out of memory for TCP"),
        "tcp_keepalive_timeout" => Some("its keep-alive probes were not answered"),
        "tcp_state" => Some("it closed with SO_LINGER 0, or was aborted"),
        "tcp_disconnect_with_data" => Some("it disconnected with data unread"),
        _ => None,
    }
}

/// By what it ended, and after how long.
pub(super) fn ending(attempt: &AttemptShape) -> String {
    let EvidenceShape {
        errno: number,
        syns,
        reset_had_ack,
        ..
    } = &attempt.evidence;
    let after = duration(attempt.duration_seconds);
    let why = number.map(|number| format!(": {}", errno(number)));
    let why = why.unwrap_or_default();
    let connecting = attempt.phase.as_deref() == Some("connect");
    let silent = format!("no answer to {}", counted(u64::from(*syns), "SYN"));
    match (attempt.how.as_deref(), connecting) {
        (Some("rst"), true) => format!("RST answered the SYN after {after}"),
        (Some("timeout"), true) => format!("{silent}, given up by the proxy after {after}"),
        (Some("errno"), true) if *syns > 1 => {
            format!("{silent}, given up by the kernel after {after}{why}")
        }
        (Some("errno"), true) => format!("connect failed after {after}{why}"),
        (Some("icmp"), true) => format!("the network answered unreachable after {after}{why}"),
        (Some("fin"), _) => format!("FIN from the upstream after {after}"),
        (Some("rst"), _) => {
            let bare = if *reset_had_ack == Some(false) {
                " without ACK flag"
            } else {
                ""
            };
            format!("RST{bare} from the upstream after {after}")
        }
        (Some("timeout"), _) => format!("given up by the proxy after {after}"),
        (Some("errno" | "icmp"), _) => format!("given up by the kernel after {after}{why}"),
        _ => match attempt.code {
            Some(code) if attempt.cause.as_deref() == Some(Cause::UpstreamStatus.label()) => {
                format!("answered {code} after {after}")
            }
            Some(code) => format!("answered {code}, ended after {after}"),
            None => format!("ended after {after}"),
        },
    }
}
