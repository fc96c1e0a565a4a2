//! What is seen of a TLS handshake that a proxy began with an upstream, and what an upstream answers
//! that speaks something else than the proxy.

use super::{End, Nanos};

/// What an upstream's first bytes are, where they are not what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Opening {
    /// A TLS record (RFC 8446, 5.1), such as an alert.
    Tls,
    /// HTTP/1, by the first letter at least.
    Http,
    /// Something else.
    Other,
}

impl Opening {
    /// By the first bytes of a message; `None` without any.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        /// Content types, RFC 8446, 5.1.
        const RECORDS: std::ops::RangeInclusive<u8> = 20..=23;
        /// `legacy_record_version`: every version since SSL 3.0 has it.
        const MAJOR: u8 = 3;
        let first = bytes.first()?;
        // Of a handshake's answer the first byte alone is told.
        let is_version = bytes.get(1).is_none_or(|major| *major == MAJOR);
        Some(if RECORDS.contains(first) && is_version {
            Self::Tls
        } else if b"HTTP/".starts_with(&bytes[..bytes.len().min(5)]) {
            Self::Http
        } else {
            Self::Other
        })
    }

    /// The word for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Other => "other",
        }
    }
}

/// A TLS handshake that a proxy began with an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TlsHandshake {
    /// [`End::Complete`] when application data followed, else how it failed.
    pub end: End,
    /// ClientHello left.
    pub hello: Nanos,
    /// First byte of the peer's reply.
    pub reply: Option<Nanos>,
    /// The peer's FIN.
    pub peer_fin: Option<Nanos>,
    /// The proxy finished its part.
    pub finished: Option<Nanos>,
    /// The reply starts as a TLS record; `None` without one.
    pub reply_is_tls: Option<bool>,
    /// What the reply starts as, by its first byte.
    #[cfg_attr(feature = "serde", serde(default))]
    pub opening: Option<Opening>,
    /// The first alert that passed in clear.
    pub alert: Option<TlsAlert>,
    /// Every byte sent was acknowledged.
    pub acked: bool,
    /// The proxy said that it closes (`close_notify`), when it had finished its part.
    #[cfg_attr(feature = "serde", serde(default))]
    pub said_goodbye: bool,
}

/// A TLS alert in clear (RFC 8446, 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TlsAlert {
    /// Sent by the upstream; else by the proxy.
    pub by_peer: bool,
    /// AlertDescription.
    pub description: u8,
}
