//! Label values and label sets.
//!
//! Every closed set of values is an enum somewhere; here each gets its word, once, and the
//! compiler says where a new one must be named. Open sets (`proxy`, `upstream`) are strings
//! that [`super::traffic`] bounds before they get here.

use std::fmt;
use std::sync::Arc;

use agent_core::cause::{Cause, Certainty, How};
use agent_core::event::{ConnectResult, Join};
use agent_core::observation::{Phase, ResetDirection};
use prometheus_client::encoding::{
    EncodeLabel, EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder,
};

/// A value from a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Word(&'static str);

/// A status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// One that HTTP has a class for, 100 to 599.
    Status(u16),
    /// Any other number: a peer may send what it likes, the label set stays small.
    Other,
    /// No answer was given.
    None,
}

/// A label set with the names of its labels.
pub trait Labels:
    EncodeLabelSet + Clone + Eq + std::hash::Hash + Send + Sync + fmt::Debug + 'static
{
    /// In the order in which they are written.
    const NAMES: &'static [&'static str];
}

/// Labels that say where, which the operator asked for; only those that are known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct PlaceLabels(Option<Arc<[PlaceLabel]>>);

/// Name and value.
type PlaceLabel = (&'static str, Arc<str>);

/// Declares a label set and lists its names for the reference.
macro_rules! label_set {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub(super) struct $name {
            $(pub(super) $field: $kind,)*
        }

        impl Labels for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];
        }
    };
}

/// The same for what is about a proxy, or a proxy and an upstream.
macro_rules! placed_label_set {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub(super) struct $name {
            $(pub(super) $field: $kind,)*
            #[prometheus(flatten)]
            pub(super) place: PlaceLabels,
        }

        impl Labels for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];
        }
    };
}

placed_label_set! {
    /// One proxy.
    ProxySet { proxy: Arc<str> }
}
placed_label_set! {
    /// Answers of a proxy.
    ProxyCodeSet { proxy: Arc<str>, code: Code }
}
placed_label_set! {
    /// Errors of a proxy.
    ErrorSet { proxy: Arc<str>, code: Code, cause: Word, upstream: Arc<str>, certainty: Word }
}
placed_label_set! {
    /// One upstream of a proxy.
    TargetSet { proxy: Arc<str>, upstream: Arc<str> }
}
placed_label_set! {
    /// Answers of an upstream.
    TargetCodeSet { proxy: Arc<str>, upstream: Arc<str>, code: Code }
}
placed_label_set! {
    /// Failed attempts.
    FailureSet { proxy: Arc<str>, upstream: Arc<str>, cause: Word, phase: Word, masked: Word }
}
placed_label_set! {
    /// Idle times.
    IdleSet { proxy: Arc<str>, upstream: Arc<str>, raced: bool }
}
placed_label_set! {
    /// Resets.
    ResetSet { proxy: Arc<str>, upstream: Arc<str>, direction: Word, phase: Word }
}
placed_label_set! {
    /// SYN timeouts.
    SynTimeoutSet { proxy: Arc<str>, upstream: Arc<str>, gave_up: Word }
}
placed_label_set! {
    /// Active opens.
    ConnectSet { proxy: Arc<str>, upstream: Arc<str>, result: Word }
}
placed_label_set! {
    /// Health checks.
    CheckSet { proxy: Arc<str>, upstream: Arc<str>, result: Word, code: Code }
}
label_set! {
    /// A kind of thing.
    KindSet { kind: Word }
}
label_set! {
    /// How attempts are joined.
    JoinSet { join: Word }
}
label_set! {
    /// A label that overflowed.
    LabelNameSet { label: Word }
}

impl PlaceLabels {
    /// Both, one behind the other.
    pub(super) fn and(&self, other: &Self) -> Self {
        match (&self.0, &other.0) {
            (None, _) => other.clone(),
            (_, None) => self.clone(),
            (Some(one), Some(two)) => one.iter().chain(two.iter()).cloned().collect(),
        }
    }
}

impl FromIterator<PlaceLabel> for PlaceLabels {
    fn from_iter<I: IntoIterator<Item = PlaceLabel>>(labels: I) -> Self {
        let labels: Arc<[_]> = labels.into_iter().collect();
        Self((!labels.is_empty()).then_some(labels))
    }
}

impl EncodeLabelSet for PlaceLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        for (label, value) in self.0.iter().flat_map(|labels| labels.iter()) {
            (*label, &**value).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

impl Word {
    /// A word that is not the name of an enum's value.
    pub(super) const fn new(word: &'static str) -> Self {
        Self(word)
    }

    /// The word.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        EncodeLabelValue::encode(&self.0, encoder)
    }
}

impl EncodeLabelValue for Code {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Status(code) => EncodeLabelValue::encode(code, encoder),
            Self::Other => EncodeLabelValue::encode(&"other", encoder),
            Self::None => EncodeLabelValue::encode(&"none", encoder),
        }
    }
}

impl From<Option<u16>> for Code {
    fn from(code: Option<u16>) -> Self {
        match code {
            None => Self::None,
            Some(code @ 100..=599) => Self::Status(code),
            Some(_) => Self::Other,
        }
    }
}

impl From<Cause> for Word {
    fn from(cause: Cause) -> Self {
        Self(cause.label())
    }
}

impl From<Certainty> for Word {
    fn from(certainty: Certainty) -> Self {
        Self(certainty.label())
    }
}

impl From<How> for Word {
    fn from(how: How) -> Self {
        Self(how.label())
    }
}

impl From<Phase> for Word {
    fn from(phase: Phase) -> Self {
        Self(match phase {
            Phase::Connect => "connect",
            Phase::Tls => "tls",
            Phase::Idle => "idle",
            Phase::Request => "request",
            Phase::Head => "head",
            Phase::Body => "body",
            Phase::Opaque => "opaque",
        })
    }
}

impl From<Join> for Word {
    fn from(join: Join) -> Self {
        Self(match join {
            Join::Errand => "errand",
            Join::RequestLine => "request_line",
            Join::PathEnd => "path_end",
            Join::Answer => "answer",
            Join::Retry => "retry",
            Join::Waiting => "waiting",
            Join::InBrief => "in_brief",
            Join::None => "none",
        })
    }
}

impl From<ResetDirection> for Word {
    fn from(direction: ResetDirection) -> Self {
        Self(match direction {
            ResetDirection::Received => "received",
            ResetDirection::Sent => "sent",
        })
    }
}

impl From<ConnectResult> for Word {
    fn from(result: ConnectResult) -> Self {
        Self(match result {
            ConnectResult::Established => "established",
            ConnectResult::Refused => "refused",
            ConnectResult::TimeoutProxy => "timeout_proxy",
            ConnectResult::TimeoutKernel => "timeout_kernel",
            ConnectResult::Unreachable => "unreachable",
            ConnectResult::LocalError => "local_error",
        })
    }
}

/// Whether the client's request still succeeded; `unknown` when its request is not known.
impl From<Option<bool>> for Word {
    fn from(masked: Option<bool>) -> Self {
        Self(match masked {
            Some(true) => "true",
            Some(false) => "false",
            None => "unknown",
        })
    }
}
