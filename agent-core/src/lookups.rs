//! Names that proxies asked for while they served a request.
//!
//! In: questions and answers, each with the errand of the thread that asked. Out: whether a
//! request that made no attempt had a name that did not resolve.

use std::collections::VecDeque;

use crate::observation::{DnsAnswer, Nanos};
use crate::table::Key;

/// Questions remembered. With more within the life of one request, its own may be forgotten, and
/// the request is told as it would be without it.
const REMEMBERED: usize = 1024;

#[derive(Debug)]
struct Question {
    tgid: u32,
    request: Option<Key>,
    /// The thread that asked was surely at work for that request.
    sure: bool,
    /// What the asking request shares with others that go to the same place.
    route: Option<u64>,
    asked: Nanos,
    /// Transaction id (RFC 1035, 4.1.1).
    id: Option<u16>,
    answered: Option<Nanos>,
    answer: Option<DnsAnswer>,
}

/// What waited for a name acts within this time after its answer, ns.
const AFTERWARDS: Nanos = 20_000_000;

/// How a request's name lookups went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Its own question was refused, or nobody answered.
    Failed,
    /// Another request of the same process and route had asked and was waiting, and failed: a
    /// proxy asks once for all who wait for a name. Or it is not sure who asked.
    FailedForAnother,
}

/// Recent questions, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    questions: VecDeque<Question>,
    forgotten: u64,
}

impl Lookups {
    pub(crate) fn asked(
        &mut self,
        tgid: u32,
        request: Option<Key>,
        sure: bool,
        route: Option<u64>,
        asked: Nanos,
        id: Option<u16>,
    ) {
        if self.questions.len() >= REMEMBERED {
            self.questions.pop_front();
            self.forgotten += 1;
        }
        self.questions.push_back(Question {
            tgid,
            request,
            sure,
            route,
            asked,
            id,
            answered: None,
            answer: None,
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.questions.len()
    }

    /// Questions that made room for newer ones.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The answer to the question with this `id`; to what its socket was asked last, at `asked`, if none is
    /// known. Of several questions at once (A and AAAA) one good answer is enough.
    pub(crate) fn answered(
        &mut self,
        tgid: u32,
        id: Option<u16>,
        asked: Nanos,
        at: Nanos,
        answer: DnsAnswer,
    ) {
        // nginx asks for all names on one socket.
        let is_it = |one: &&mut Question| match id {
            Some(_) => one.id == id && one.asked <= at,
            None => one.asked == asked,
        };
        let own = self.questions.iter_mut().rev();
        let open = own.filter(|one| one.tgid == tgid).find(is_it);
        if let Some(question) = open
            && !question.answer.is_some_and(is_good)
        {
            question.answer = Some(answer);
            question.answered = Some(at);
        }
    }

    /// Whether `tgid` got a name just before `at`: a request that waited for it goes upstream then,
    /// and not when it is read.
    pub(crate) fn has_answered(&self, tgid: u32, at: Nanos) -> bool {
        self.questions.iter().any(|question| {
            let since = question
                .answered
                .and_then(|answered| at.checked_sub(answered));
            question.tgid == tgid && since.is_some_and(|since| since <= AFTERWARDS)
        })
    }

    /// What became of the names asked for by `tgid` for `request` of `route`, which was open
    /// between `from` and `to`.
    pub(crate) fn of_request(
        &self,
        tgid: u32,
        request: Key,
        route: Option<u64>,
        from: Nanos,
        to: Nanos,
    ) -> Option<Lookup> {
        let (mut own, mut own_good, mut sure) = (false, false, true);
        let (mut other, mut other_good) = (false, false);
        for question in &self.questions {
            if question.tgid != tgid || question.asked > to {
                continue;
            }
            let good = question.answer.is_some_and(is_good);
            let waited_on = question.answered.is_none_or(|at| at >= from);
            if question.request == Some(request) {
                own = true;
                own_good |= good;
                sure &= question.sure;
            } else if route.is_some() && question.route == route && waited_on {
                other = true;
                other_good |= good;
            }
        }
        match (own, own_good) {
            (true, false) if sure => Some(Lookup::Failed),
            (true, false) => Some(Lookup::FailedForAnother),
            (true, true) => None,
            (false, _) if other && !other_good => Some(Lookup::FailedForAnother),
            (false, _) => None,
        }
    }
}

fn is_good(answer: DnsAnswer) -> bool {
    answer.rcode == 0 && answer.records > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: DnsAnswer = DnsAnswer {
        rcode: 0,
        records: 1,
    };

    /// nginx asks for all names on one socket, of which the kernel side knows when it asked last.
    #[test]
    fn answers_go_to_the_questions_with_their_ids() {
        let request = |cookie| Key { cookie, index: 0 };
        let of = |lookups: &Lookups, cookie| lookups.of_request(1, request(cookie), None, 5, 100);
        let mut lookups = Lookups::default();
        lookups.asked(1, Some(request(7)), true, None, 10, Some(70));
        lookups.asked(1, Some(request(8)), true, None, 20, Some(80));

        lookups.answered(1, Some(70), 20, 30, GOOD);

        assert_eq!(of(&lookups, 7), None);
        assert_eq!(of(&lookups, 8), Some(Lookup::Failed));
        lookups.answered(1, Some(80), 20, 40, GOOD);
        assert_eq!(of(&lookups, 8), None);
    }
}
