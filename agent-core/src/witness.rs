//! The names of what speaks for a join, as they are reported.

/// What spoke for the request that an attempt is joined to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Witnesses(u16);

impl Witnesses {
    /// The thread that acted had just touched the request's connection.
    pub const ERRAND: Self = Self(1);
    /// The same method and path.
    pub const REQUEST_LINE: Self = Self(1 << 1);
    /// The same method, and the same end of the path.
    pub const PATH_END: Self = Self(1 << 2);
    /// The same request id or trace id.
    pub const ID: Self = Self(1 << 3);
    /// A body of the same size.
    pub const BODY_SIZE: Self = Self(1 << 4);
    /// The same Host.
    pub const HOST: Self = Self(1 << 5);
    /// The client got the status that the upstream gave.
    pub const STATUS: Self = Self(1 << 6);
    /// The client got a body as long as the upstream announced.
    pub const ANSWER_LENGTH: Self = Self(1 << 7);
    /// The answer followed the end of the attempt at once.
    pub const ANSWER: Self = Self(1 << 8);
    /// The next attempt of the request followed the end of this one at once.
    pub const NEXT_ATTEMPT: Self = Self(1 << 9);
    /// An earlier attempt of the request went to the same upstream.
    pub const SAME_UPSTREAM: Self = Self(1 << 10);
    /// Nothing speaks as much for any other request.
    pub const NO_OTHER: Self = Self(1 << 11);

    /// What the heads of both say: no chance would have it so.
    pub(crate) const OF_HEADS: Self = Self(Self::REQUEST_LINE.0 | Self::PATH_END.0 | Self::ID.0);

    /// What they are called.
    const NAMES: [(Self, &str); 12] = [
        (Self::ERRAND, "errand"),
        (Self::REQUEST_LINE, "request_line"),
        (Self::PATH_END, "path_end"),
        (Self::ID, "id"),
        (Self::BODY_SIZE, "body_size"),
        (Self::HOST, "host"),
        (Self::STATUS, "status"),
        (Self::ANSWER_LENGTH, "answer_length"),
        (Self::ANSWER, "answer"),
        (Self::NEXT_ATTEMPT, "next_attempt"),
        (Self::SAME_UPSTREAM, "same_upstream"),
        (Self::NO_OTHER, "no_other"),
    ];

    /// One of `others` speaks for it.
    pub(crate) const fn has_any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// With another one, where there is one.
    #[must_use]
    pub const fn and_if(self, is_so: bool, other: Self) -> Self {
        if is_so { Self(self.0 | other.0) } else { self }
    }

    /// Their names, those that say most first.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let here = Self::NAMES
            .into_iter()
            .filter(move |(one, _)| self.0 & one.0 != 0);
        here.map(|(_, name)| name)
    }
}
