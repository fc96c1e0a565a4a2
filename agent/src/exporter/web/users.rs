//! Passwords: who asks, and whether he may.
//!
//! A hash by bcrypt is slow on purpose, so what came of a password is remembered: scrapes cost
//! one hash, not one each. Unknown passwords are hashed one after the other, with a pause after
//! each wrong one, and only so many wait, each address as long as any other: whoever guesses takes
//! a small share of one CPU, and does not shut out who knows.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bcrypt::HashParts;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::turns::Turns;

/// bcrypt's cost is a power of two: 16 is about 5 s of CPU time.
const COSTS: std::ops::RangeInclusive<u32> = 4..=16;

/// Answers remembered, right and wrong ones. Too few: two scrapers with different wrong
/// passwords are hashed each time. Too many: memory, 150 bytes each.
const REMEMBERED: usize = 128;

/// Requests that wait for their password to be hashed. More: memory, and the last waits for
/// minutes. Fewer: a scraper is refused beside someone who guesses.
const WAITING: usize = 8;

/// How long one waits at most. Longer than scrapes take nobody is there any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// After a wrong password the next is looked at after so many times the time it took.
const PAUSE: u32 = 9;

/// One at a time, whatever file is in force.
static TURNS: LazyLock<Arc<Turns>> = LazyLock::new(|| Turns::new(WAITING));

/// What remembered passwords are told apart by, new at each start: what is in memory says
/// nothing about them.
static KEY: LazyLock<Option<hmac::Key>> =
    LazyLock::new(|| hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok());

/// Names and hashes.
#[derive(Debug, Default)]
pub(in crate::exporter) struct Users {
    hashes: BTreeMap<String, String>,
    memory: Arc<Memory>,
}

/// What came of passwords, the oldest first.
#[derive(Debug, Default)]
struct Memory(Mutex<VecDeque<Outcome>>);

#[derive(Debug)]
struct Outcome {
    /// Of name, hash and password.
    tag: Vec<u8>,
    /// Of name and hash.
    user: Option<Vec<u8>>,
    right: bool,
}

/// What is to be said to who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::exporter) enum Verdict {
    /// He may.
    Welcome,
    /// No, or no such name, or no password.
    Wrong,
    /// Too many passwords wait to be looked at.
    Busy,
}

impl Users {
    /// Checks the form of names and hashes.
    pub(super) fn new(hashes: BTreeMap<String, String>) -> Result<Self, String> {
        for (name, hash) in &hashes {
            if name.is_empty() || name.contains(':') {
                return Err(format!(
                    "basic_auth_users: `{name}` is no user name: it must not be empty nor have a colon"
                ));
            }
            let parts = HashParts::from_str(hash).map_err(|_| {
                format!("basic_auth_users: what `{name}` has is no bcrypt hash; make one with htpasswd -nBC 10 {name}")
            })?;
            let cost = parts.get_cost();
            if !COSTS.contains(&cost) {
                return Err(format!(
                    "basic_auth_users: the hash of `{name}` has cost {cost}, which takes too long to check; use {} to {}",
                    COSTS.start(),
                    COSTS.end()
                ));
            }
        }
        Ok(Self {
            hashes,
            memory: Arc::default(),
        })
    }

    /// Nobody is asked for a password.
    pub(in crate::exporter) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Remembers what was known before the file was read again, of those whose name and hash are
    /// as they were.
    pub(super) fn inherit(&mut self, before: &Self) {
        self.memory = Arc::clone(&before.memory);
        let users = self.hashes.iter();
        let users: Vec<_> = users
            .filter_map(|(name, hash)| tag(&[name.as_bytes(), hash.as_bytes()]))
            .collect();
        self.memory.keep(&users);
    }

    /// Judges an `Authorization` header (RFC 7617) that comes from this address.
    pub(in crate::exporter) async fn judge(&self, from: IpAddr, header: Option<&[u8]>) -> Verdict {
        if self.is_empty() {
            return Verdict::Welcome;
        }
        let Some((name, password)) = header.and_then(credentials) else {
            return Verdict::Wrong;
        };
        let known = self.hashes.get(&name);
        // An unknown name takes as long as a known one.
        let Some(hash) = known.or_else(|| self.hashes.values().next()) else {
            return Verdict::Wrong;
        };
        let asked = tag(&[name.as_bytes(), hash.as_bytes(), &password]);
        if let Some(right) = self.memory.find(asked.as_ref()) {
            return verdict(right && known.is_some());
        }
        let Some(turn) = TURNS.take(from, PATIENCE).await else {
            return Verdict::Busy;
        };
        // Someone may have asked the same meanwhile.
        if let Some(right) = self.memory.find(asked.as_ref()) {
            return verdict(right && known.is_some());
        }
        let user = tag(&[name.as_bytes(), hash.as_bytes()]);
        let (memory, hash, is_known) = (Arc::clone(&self.memory), hash.clone(), known.is_some());
        let (answer, answered) = oneshot::channel();
        // On its own: who hangs up does not have the next one hashed beside it.
        tokio::spawn(async move {
            let started = Instant::now();
            let checked = spawn_blocking(move || bcrypt::verify(password, &hash));
            let right = matches!(checked.await, Ok(Ok(true))) && is_known;
            memory.put(asked, user, right);
            // Who asked need not wait for the pause, and may be gone.
            let _ = answer.send(right);
            if !right {
                sleep(started.elapsed() * PAUSE).await;
            }
            drop(turn);
        });
        verdict(answered.await.unwrap_or(false))
    }
}

impl Memory {
    fn find(&self, tag: Option<&Vec<u8>>) -> Option<bool> {
        let tag = tag?;
        let outcomes = self.lock();
        // By a key that nobody knows: how far two of them agree says nothing of a password.
        let found = outcomes.iter().find(|outcome| outcome.tag == *tag)?;
        Some(found.right)
    }

    /// Wrong ones push out wrong ones first: guessing does not make scrapes slow.
    fn put(&self, tag: Option<Vec<u8>>, user: Option<Vec<u8>>, right: bool) {
        let Some(tag) = tag else { return };
        let mut outcomes = self.lock();
        if outcomes.len() >= REMEMBERED {
            let wrong = outcomes.iter().position(|outcome| !outcome.right);
            outcomes.remove(wrong.unwrap_or(0));
        }
        outcomes.push_back(Outcome { tag, user, right });
    }

    /// Forgets what is not of these users.
    fn keep(&self, users: &[Vec<u8>]) {
        let is_there = |user: &Vec<u8>| users.contains(user);
        self.lock()
            .retain(|outcome| outcome.user.as_ref().is_some_and(is_there));
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Outcome>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn verdict(right: bool) -> Verdict {
    if right {
        Verdict::Welcome
    } else {
        Verdict::Wrong
    }
}

/// Name and password.
fn credentials(header: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, rest) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let mut decoded = BASE64_STANDARD.decode(rest.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let password = decoded.split_off(colon + 1);
    decoded.pop();
    Some((String::from_utf8(decoded).ok()?, password))
}

/// Lengths stand before the parts, so that they cannot be shifted against each other. None
/// without random numbers; then nothing is remembered.
fn tag(parts: &[&[u8]]) -> Option<Vec<u8>> {
    let mut context = hmac::Context::with_key(KEY.as_ref()?);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    Some(context.sign().as_ref().to_vec())
}

/// For a client: the value of its `Authorization`.
pub fn authorization(name: &str, password: &str) -> String {
    format!(
        "Basic {}",
        BASE64_STANDARD.encode(format!("{name}:{password}"))
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Instant;

    use super::{Users, Verdict, authorization, credentials};

    const FROM: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn users(cost: u32) -> Users {
        let hash = bcrypt::hash("secret", cost).unwrap();
        Users::new(BTreeMap::from([("prom".to_owned(), hash)])).unwrap()
    }

    async fn judge(users: &Users, name: &str, password: &str) -> Verdict {
        users
            .judge(FROM, Some(authorization(name, password).as_bytes()))
            .await
    }

    #[tokio::test]
    async fn only_the_right_password_is_welcome() {
        let users = users(4);
        for (name, password, expected) in [
            ("prom", "secret", Verdict::Welcome),
            ("prom", "secret", Verdict::Welcome),
            ("prom", "Secret", Verdict::Wrong),
            ("prom", "", Verdict::Wrong),
            ("other", "secret", Verdict::Wrong),
            ("other", "secret", Verdict::Wrong),
        ] {
            assert_eq!(
                judge(&users, name, password).await,
                expected,
                "{name}:{password}"
            );
        }
        assert_eq!(users.judge(FROM, None).await, Verdict::Wrong);
        assert_eq!(users.judge(FROM, Some(b"Bearer x")).await, Verdict::Wrong);
        assert_eq!(Users::default().judge(FROM, None).await, Verdict::Welcome);
    }

    #[tokio::test]
    async fn a_password_is_hashed_once() {
        let users = users(10);
        let started = Instant::now();
        assert_eq!(judge(&users, "prom", "secret").await, Verdict::Welcome);
        let once = started.elapsed();

        let started = Instant::now();
        for _ in 0..100 {
            assert_eq!(judge(&users, "prom", "secret").await, Verdict::Welcome);
        }
        assert!(started.elapsed() < once, "{:?} {once:?}", started.elapsed());
    }

    #[tokio::test]
    async fn what_is_known_outlives_another_reading_of_the_file() {
        let before = users(4);
        assert_eq!(judge(&before, "prom", "secret").await, Verdict::Welcome);
        let known = |users: &Users| {
            users
                .memory
                .lock()
                .iter()
                .filter(|known| known.right)
                .count()
        };

        let mut after = Users::new(before.hashes.clone()).unwrap();
        after.inherit(&before);
        assert_eq!(known(&after), 1);
        assert_eq!(judge(&after, "prom", "secret").await, Verdict::Welcome);

        // The same hash for another name, and another hash for the same name.
        let hash = before.hashes.get("prom").unwrap().clone();
        for hashes in [
            BTreeMap::from([("other".to_owned(), hash)]),
            users(4).hashes,
        ] {
            let mut after = Users::new(hashes).unwrap();
            assert_eq!(judge(&before, "prom", "secret").await, Verdict::Welcome);
            after.inherit(&before);
            assert_eq!(known(&after), 0);
        }
    }

    #[tokio::test]
    async fn who_is_no_longer_there_is_not_welcome() {
        let before = users(4);
        let hash = before.hashes.get("prom").unwrap().clone();
        let mut after = Users::new(BTreeMap::from([("other".to_owned(), hash)])).unwrap();
        after.inherit(&before);
        // A request that began before the file changed.
        assert_eq!(judge(&before, "prom", "secret").await, Verdict::Welcome);
        assert_eq!(judge(&after, "prom", "secret").await, Verdict::Wrong);
    }

    #[test]
    fn credentials_are_read_as_rfc_7617_writes_them() {
        let read = |text: &str| credentials(text.as_bytes());
        // Its own example.
        assert_eq!(
            read("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            Some(("Aladdin".to_owned(), b"open sesame".to_vec()))
        );
        assert_eq!(
            read("basic YTpiOmM="),
            Some(("a".to_owned(), b"b:c".to_vec()))
        );
        assert_eq!(read("Basic"), None);
        assert_eq!(read("Basic !!"), None);
        assert_eq!(read("Basic YWJj"), None);
    }
}
