//! What became of a client's request: what the rules need to judge its attempts.

use crate::observation::{Ended, Nanos};

/// The status that Go's proxies write, to nobody, for a client that left.
pub(crate) const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What became of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Status code given.
    pub(crate) code: Option<u16>,
    /// The answer is complete by its framing.
    pub(crate) complete: bool,
    /// When the client's FIN or RST came, where that was before its answer was complete.
    pub(crate) client_gone: Option<Nanos>,
    /// When the client's FIN came, where that was before its answer began. It may still have
    /// been there to read.
    pub(crate) client_fin: Option<Nanos>,
    /// How long its body is, by its Content-Length.
    pub(crate) length: Option<u64>,
    /// First byte of the answer.
    pub(crate) answer_began: Option<Nanos>,
    /// Last byte of the answer, or the end without one.
    pub(crate) ended: Nanos,
    /// The client took nothing more in when that was: its last acknowledgement offered no window.
    pub(crate) client_stalls: bool,
    /// How the process that served the client ended, where its connection ended with that.
    pub(crate) proxy_ended: Option<Ended>,
}

impl Outcome {
    /// The client got an error or no answer, or its answer was cut short while it was there.
    pub(crate) fn is_failed(&self) -> bool {
        match self.code {
            Some(code) => code >= 500 || self.is_cut(),
            None => true,
        }
    }

    /// It got a whole error after its FIN: it may have been there to read it.
    pub(crate) fn was_answered_after_fin(&self) -> bool {
        self.complete && self.client_fin.is_some() && self.code.is_some_and(|code| code >= 500)
    }

    /// An answer that began was not whole, and its client had not left.
    pub(crate) fn is_cut(&self) -> bool {
        self.code.is_some() && !self.complete && self.client_gone.is_none()
    }

    /// When the client got what the last attempt led to: an error, or the end of half an answer.
    pub(crate) fn failed_at(&self) -> Option<Nanos> {
        self.answer_began.filter(|_| !self.is_cut())
    }
}
