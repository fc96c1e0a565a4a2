//! Whether a message is whole.
//!
//! In: an exchange as far as it was seen, and how it ended. Out: whether a response, or a request, was
//! there to its last byte by its framing (RFC 9112, 6.3). It is decided here and nowhere else.

use crate::observation::{End, Exchange, Framing, RequestHead, Side};

/// Whether a message is there to its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whole {
    /// It is.
    Yes,
    /// Part of it is missing.
    No,
    /// Its end cannot be known, for this was not read of it.
    Unknown(Unread),
}

/// What was not read of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Its head, or the part of it that says where the message ends.
    Head,
    /// Its chunks.
    Chunks,
}

/// A response, as one end of its connection saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Response<'a> {
    pub(crate) exchange: &'a Exchange,
    /// Which end: the client's side is where the response is written.
    pub(crate) side: Side,
    /// How the exchange ended.
    pub(crate) end: End,
    /// Something of a response was seen.
    pub(crate) began: bool,
    /// A head on the connection could not be read whole.
    pub(crate) head_cut: bool,
}

impl Response<'_> {
    /// Whether it is whole.
    pub(crate) fn whole(self) -> Whole {
        let Self {
            exchange,
            side,
            end,
            began,
            head_cut,
        } = self;
        let is_whole = match (end, exchange.framing) {
            (End::Complete | End::Tunnel, _) => true,
            // The next request was sent: who asked had what it wanted.
            (End::Superseded, _) => began,
            (_, Framing::Unknown) if head_cut => return Whole::Unknown(Unread::Head),
            (_, Framing::Chunked) if !exchange.chunks_followed => {
                return Whole::Unknown(Unread::Chunks);
            }
            (_, Framing::None) => exchange.head.get().is_some(),
            (_, Framing::Length(length)) => {
                let head = u64::from(exchange.head_bytes);
                let body = exchange.response_bytes.checked_sub(head);
                head > 0 && body.is_some_and(|body| body >= length)
            }
            // The end that writes it closes behind it.
            (end, Framing::Close) => match side {
                Side::Client => end == End::LocalClose,
                Side::Upstream | Side::Unknown => end == End::PeerFin,
            },
            (_, Framing::Chunked | Framing::Unknown) => false,
        };
        Whole::of(is_whole)
    }
}

impl Whole {
    fn of(is_whole: bool) -> Self {
        if is_whole { Self::Yes } else { Self::No }
    }
}

/// Whether a request is there to its last byte.
pub(crate) fn request(head: Option<&RequestHead>, exchange: &Exchange) -> Whole {
    match (head, request_length(head, exchange)) {
        (_, Some(length)) => Whole::of(exchange.request_bytes >= length),
        (Some(head), None) if head.chunked => Whole::Unknown(Unread::Chunks),
        (_, None) => Whole::Unknown(Unread::Head),
    }
}

/// Bytes of a request, its head included; `None` when its length is not known.
pub(crate) fn request_length(head: Option<&RequestHead>, exchange: &Exchange) -> Option<u64> {
    let head_bytes = u64::from(exchange.request_head_bytes);
    let head = head.filter(|head| head_bytes > 0 && !head.chunked)?;
    Some(head_bytes.saturating_add(head.content_length.unwrap_or(0)))
}

/// Bytes that a response announces as its body; `None` when it is framed in another way.
pub(crate) fn announced(exchange: &Exchange) -> Option<u64> {
    match exchange.framing {
        Framing::Length(length) => Some(length),
        Framing::Unknown | Framing::None | Framing::Chunked | Framing::Close => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Seen;

    fn exchange(framing: Framing) -> Exchange {
        Exchange {
            index: 0,
            end: None,
            framing,
            status: 200,
            request: Seen::told(1),
            request_last: Seen::told(1),
            first_byte: Seen::told(2),
            head: Seen::told(2),
            last_byte: Seen::told(3),
            idle_since: Seen::default(),
            peer_fin: Seen::default(),
            request_bytes: 50,
            request_acked: 50,
            response_bytes: 120,
            head_bytes: 20,
            request_head_bytes: 40,
            chunks_followed: true,
            errand: None,
        }
    }

    #[test]
    fn a_response_is_whole_by_its_framing() {
        let unfollowed = Exchange {
            chunks_followed: false,
            ..exchange(Framing::Chunked)
        };
        let (length, close) = (Framing::Length, exchange(Framing::Close));
        let cut = Whole::Unknown(Unread::Head);
        for (exchange, side, end, head_cut, expected) in [
            (
                exchange(length(100)),
                Side::Upstream,
                End::PeerFin,
                false,
                Whole::Yes,
            ),
            (
                exchange(length(101)),
                Side::Upstream,
                End::PeerFin,
                false,
                Whole::No,
            ),
            (
                exchange(length(101)),
                Side::Upstream,
                End::Complete,
                false,
                Whole::Yes,
            ),
            (
                exchange(length(101)),
                Side::Client,
                End::Superseded,
                false,
                Whole::Yes,
            ),
            (
                exchange(Framing::None),
                Side::Client,
                End::LocalClose,
                false,
                Whole::Yes,
            ),
            (
                close.clone(),
                Side::Upstream,
                End::PeerFin,
                false,
                Whole::Yes,
            ),
            (
                close.clone(),
                Side::Upstream,
                End::PeerReset,
                false,
                Whole::No,
            ),
            (close.clone(), Side::Client, End::PeerFin, false, Whole::No),
            (close, Side::Client, End::LocalClose, false, Whole::Yes),
            (
                exchange(Framing::Chunked),
                Side::Upstream,
                End::PeerFin,
                false,
                Whole::No,
            ),
            (
                unfollowed,
                Side::Upstream,
                End::PeerFin,
                false,
                Whole::Unknown(Unread::Chunks),
            ),
            (
                exchange(Framing::Unknown),
                Side::Upstream,
                End::PeerFin,
                false,
                Whole::No,
            ),
            (
                exchange(Framing::Unknown),
                Side::Upstream,
                End::PeerFin,
                true,
                cut,
            ),
            (
                exchange(length(101)),
                Side::Client,
                End::LocalClose,
                true,
                Whole::No,
            ),
        ] {
            let response = Response {
                exchange: &exchange,
                side,
                end,
                began: true,
                head_cut,
            };
            assert_eq!(response.whole(), expected, "{response:?}");
        }
    }

    #[test]
    fn a_request_is_whole_by_its_head() {
        let head = |content_length, chunked| RequestHead {
            content_length,
            chunked,
            ..RequestHead::default()
        };
        let unread = Exchange {
            request_head_bytes: 0,
            ..exchange(Framing::Unknown)
        };
        let read = exchange(Framing::Unknown);
        for (head, exchange, expected) in [
            (Some(head(None, false)), &read, Whole::Yes),
            (Some(head(Some(10), false)), &read, Whole::Yes),
            (Some(head(Some(11), false)), &read, Whole::No),
            (
                Some(head(None, true)),
                &read,
                Whole::Unknown(Unread::Chunks),
            ),
            (
                Some(head(None, false)),
                &unread,
                Whole::Unknown(Unread::Head),
            ),
            (None, &read, Whole::Unknown(Unread::Head)),
        ] {
            assert_eq!(request(head.as_ref(), exchange), expected, "{head:?}");
        }
    }
}
