//! The numbers behind an attempt, as JSON.

use agent_core::event::{Evidence, ServerName};
use agent_core::observation::Ended;
use serde::{Deserialize, Serialize};

use crate::knowledge::tls_alerts;

/// The signal of the kernel when memory is short (signal(7)).
const SIGKILL: u32 = 9;

/// The numbers behind an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceShape {
    /// errno, where the kernel gave one.
    pub errno: Option<u16>,
    /// SYNs sent.
    pub syns: u16,
    /// Segments sent again.
    pub retransmits: u32,
    /// Request bytes sent.
    pub request_bytes: u64,
    /// Of these acknowledged.
    pub request_acked: u64,
    /// Response bytes received.
    pub response_bytes: u64,
    /// Content-Length of the response.
    pub content_length: Option<u64>,
    /// The RST had the ACK flag; null without RST.
    pub reset_had_ack: Option<bool>,
    /// Smoothed round-trip time, microseconds.
    pub srtt_us: Option<u32>,
    /// The upstream's last acknowledgement offered no window.
    pub zero_window: bool,
    /// Signal that took the upstream's process down, where that runs on this host.
    pub killed_by: Option<u32>,
    /// The kernel killed the upstream's process for want of memory, where that runs on this host.
    #[serde(default)]
    pub out_of_memory: bool,
    /// Status that the upstream's process exited with by itself, where that runs on this host.
    #[serde(default)]
    pub exit_status: Option<u8>,
    /// Why the upstream sent RST (`enum sk_rst_reason`), where that runs on this host.
    pub reset_reason: Option<String>,
    /// Description of the TLS alert that passed in clear (RFC 8446, 6).
    pub tls_alert: Option<u8>,
    /// What the upstream's first bytes are, where they are not what the proxy asked for.
    #[serde(default)]
    pub opening: Option<String>,
    /// Its name.
    #[serde(default)]
    pub tls_alert_name: Option<String>,
    /// Who sent it: `upstream` or `proxy`.
    #[serde(default)]
    pub tls_alert_by: Option<String>,
    /// The server that the ClientHello of a failed handshake named.
    #[serde(default)]
    pub server_name: Option<String>,
    /// Whether it named one; null when that is not known.
    #[serde(default)]
    pub server_name_sent: Option<bool>,
    /// Bytes that the request has by its head; null where the head does not say.
    #[serde(default)]
    pub request_length: Option<u64>,
    /// Requests that the connection had carried before; null where it was not seen from its opening.
    #[serde(default)]
    pub carried_requests: Option<u32>,
    /// A process of the upstream, if it is on this host, had read from the connection when the
    /// proxy closed it; null when that is not known.
    #[serde(default)]
    pub read_by_upstream: Option<bool>,
}

impl EvidenceShape {
    pub(in crate::events) fn new(evidence: &Evidence) -> Self {
        let Evidence {
            errno,
            syns,
            retransmits,
            request_bytes,
            request_acked,
            response_bytes,
            content_length,
            reset_had_ack,
            srtt_us,
            zero_window,
            process_ended,
            reset_reason,
            tls_alert,
            opening,
            server_name,
            request_length,
            carried,
            read,
        } = evidence;
        let (killed_by, out_of_memory, exit_status) = match *process_ended {
            None => (None, false, None),
            Some(Ended::Signal(signal)) => (Some(signal), false, None),
            Some(Ended::OutOfMemory) => (Some(SIGKILL), true, None),
            Some(Ended::Status(status)) => (None, false, Some(status)),
        };
        Self {
            errno: *errno,
            syns: *syns,
            retransmits: *retransmits,
            request_bytes: *request_bytes,
            request_acked: *request_acked,
            response_bytes: *response_bytes,
            content_length: *content_length,
            reset_had_ack: *reset_had_ack,
            srtt_us: *srtt_us,
            zero_window: *zero_window,
            killed_by,
            out_of_memory,
            exit_status,
            reset_reason: reset_reason.map(str::to_owned),
            tls_alert: tls_alert.map(|alert| alert.description),
            tls_alert_name: tls_alert
                .and_then(|alert| tls_alerts::name(alert.description))
                .map(str::to_owned),
            tls_alert_by: tls_alert.map(|alert| {
                let by = if alert.by_peer { "upstream" } else { "proxy" };
                by.to_owned()
            }),
            server_name: match server_name {
                Some(ServerName::Sent(name)) => Some(name.to_string()),
                Some(ServerName::Absent) | None => None,
            },
            server_name_sent: server_name
                .as_ref()
                .map(|name| matches!(name, ServerName::Sent(_))),
            request_length: *request_length,
            carried_requests: *carried,
            read_by_upstream: *read,
            opening: opening.map(|opening| opening.label().to_owned()),
        }
    }
}
