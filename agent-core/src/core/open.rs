//! Lists what is under way, when somebody asks.
//!
//! In: a filter. Out: the oldest requests of proxies that are under way, with their attempts, and attempts
//! under way without such a request. Each question looks once at each request and each attempt under way,
//! and copies no more of them than it answers with.

use std::collections::BinaryHeap;

use super::Core;
use crate::attempt::{Finish, Trial};
use crate::cause::Certainty;
use crate::event::Join;
use crate::observation::Nanos;
use crate::open::{Asker, GoesThere, Open, OpenAttempt, OpenFilter, OpenList};
use crate::request::OpenRequest;
use crate::table::Key;
use crate::timing::SLACK;
use crate::unread::Used;

/// Where an entry is found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Request(Key),
    Attempt(Key),
}

/// The oldest of those seen so far.
#[derive(Debug)]
struct Oldest {
    /// The youngest of them on top.
    kept: BinaryHeap<(Nanos, Found)>,
    limit: usize,
    seen: usize,
}

impl Core {
    /// What is under way at proxies, the oldest first; where `goes_there` is given, only what has an
    /// attempt under way on a connection (its cookie) to an upstream that it says yes to. Looks at all
    /// requests and attempts under way: for a question, not for every record.
    pub fn open(&self, filter: &OpenFilter<'_>, goes_there: Option<GoesThere<'_>>) -> OpenList {
        let OpenFilter {
            now,
            min_age,
            proxy,
            limit,
        } = *filter;
        let latest = now.saturating_sub(min_age);
        let is_its = |tgid| self.processes.is_proxy_named(tgid, proxy);
        let mut oldest = Oldest::new(limit);
        let mut looked_at = 0;
        for (key, request) in self.exchanges.requests().under_way() {
            looked_at += 1;
            if request.started > latest || !self.holder(request).is_some_and(is_its) {
                continue;
            }
            if let Some(goes_there) = goes_there {
                let attempts = self.attempts_under_way(key, request);
                looked_at += attempts.len();
                let goes = |one: &OpenAttempt| goes_there(one.cookie, &one.upstream);
                if !attempts.iter().any(goes) {
                    continue;
                }
            }
            oldest.add(request.started, Found::Request(key));
        }
        for trial in self.exchanges.under_way() {
            looked_at += 1;
            let goes = goes_there.is_none_or(|goes| goes(trial.key.cookie, &trial.upstream));
            let is_wanted = trial.started <= latest && goes && trial.tgid.is_some_and(is_its);
            if is_wanted && !self.has_open_request(trial) && !self.is_known_check(trial) {
                oldest.add(trial.started, Found::Attempt(trial.key));
            }
        }
        let matched = oldest.seen;
        let found = oldest.kept.into_sorted_vec().into_iter();
        let open = found.filter_map(|(_, found)| match found {
            Found::Request(key) => self.open_request(key, now),
            Found::Attempt(key) => self.lone_attempt(key),
        });
        OpenList {
            open: open.collect(),
            matched,
            looked_at,
        }
    }

    fn open_request(&self, key: Key, now: Nanos) -> Option<Open> {
        let request = self.exchanges.request(key)?;
        let tgid = self.holder(request)?;
        let attempts = self.attempts_under_way(key, request);
        let elsewhere = if attempts.is_empty() {
            self.may_be_at(tgid, request, now)
        } else {
            Used::Nothing
        };
        Some(Open {
            proxy: self.processes.proxy(Some(tgid))?,
            asker: Asker::Client {
                client: request.client(),
                cookie: key.cookie,
                index: key.index,
            },
            head: request.head.clone(),
            started: request.started,
            code: request.code(),
            attempts,
            earlier: request.tries.iter().filter(|trial| !trial.unread).count(),
            elsewhere,
        })
    }

    fn lone_attempt(&self, key: Key) -> Option<Open> {
        let trial = self.exchanges.attempt(key)?;
        Some(Open {
            proxy: self.processes.proxy(trial.tgid)?,
            asker: match trial.parent {
                Some(_) => Asker::Over,
                None => Asker::Unknown,
            },
            head: trial.head.clone(),
            started: trial.started,
            code: None,
            attempts: vec![open_attempt(trial)],
            earlier: 0,
            elsewhere: Used::Nothing,
        })
    }

    /// The process that has the request, as far as is known. Until one has read from a connection for the
    /// first time, its attempts say which, and else who has answered there before.
    fn holder(&self, request: &OpenRequest) -> Option<u32> {
        let is_proxy = |tgid: &u32| self.processes.is_proxy_named(*tgid, None);
        request.tgid.or_else(|| {
            let open = request.open.iter();
            let open = open.filter_map(|key| self.exchanges.attempt(*key)?.tgid);
            let over = request.tries.iter().filter_map(|trial| trial.tgid);
            let tried = open.chain(over).find(is_proxy);
            tried.or_else(|| self.exchanges.requests().owner(request))
        })
    }

    fn attempts_under_way(&self, key: Key, request: &OpenRequest) -> Vec<OpenAttempt> {
        let read = request.open.iter();
        let read = read.filter_map(|key| Some(open_attempt(self.exchanges.attempt(*key)?)));
        // Of a connection to a Unix socket the end is not seen.
        let unseen = request.tries.iter();
        let unseen = unseen.filter(|trial| trial.finish == Some(Finish::Unread));
        let used = self.connections.used_by_any(request.tgid, key);
        let used = used.map(|(cookie, used, one)| OpenAttempt {
            upstream: one.remote(),
            local: one.local().into(),
            cookie,
            index: used.index,
            join: Join::Errand,
            join_certainty: Some(Certainty::Strong),
            started: used.began.max(request.started),
            is_read: false,
            is_answering: false,
        });
        let unseen = unseen.map(|trial| open_attempt(trial));
        let mut attempts: Vec<_> = read.chain(unseen).chain(used).collect();
        attempts.sort_by_key(|one| one.started);
        attempts
    }

    /// The attempt was made for a request that is under way itself.
    fn has_open_request(&self, trial: &Trial) -> bool {
        let request = trial.parent.and_then(|one| self.exchanges.request(one.key));
        request.is_some_and(|request| request.end.is_none())
    }

    /// What the process has begun to use since the request came, or may use without a trace, of what is not
    /// read, for it is not known whom.
    fn may_be_at(&self, tgid: u32, request: &OpenRequest, now: Nanos) -> Used {
        let head = request.head.as_ref();
        let route = head.map(|head| self.upstreams.routes().of(head));
        let mut used = self.unread.kept(tgid, route);
        let since = request.started.saturating_sub(SLACK);
        let outgoing = self.connections.outgoing();
        outgoing.unowned(tgid, since, now, &mut used);
        used
    }
}

impl Oldest {
    fn new(limit: usize) -> Self {
        Self {
            kept: BinaryHeap::new(),
            limit,
            seen: 0,
        }
    }

    fn add(&mut self, started: Nanos, found: Found) {
        self.seen += 1;
        if self.kept.len() < self.limit {
            self.kept.push((started, found));
        } else if let Some(mut youngest) = self.kept.peek_mut()
            && (started, found) < *youngest
        {
            *youngest = (started, found);
        }
    }
}

fn open_attempt(trial: &Trial) -> OpenAttempt {
    OpenAttempt {
        upstream: trial.upstream.clone(),
        local: trial.local(),
        cookie: trial.key.cookie,
        index: trial.key.index,
        join: trial.parent.map_or(Join::None, |parent| parent.join),
        join_certainty: trial.parent.map(|parent| parent.surety),
        started: trial.started,
        is_read: !trial.unread,
        is_answering: trial.response_began(),
    }
}
