//! Passwords: who asks, and whether he may.
//!
//! A hash by bcrypt is slow on purpose, so what came of a password is remembered: scrapes cost
//! one hash, not one each. Unknown passwords are hashed one after the other, with a pause after
//! each wrong one, and only so many wait: whoever guesses takes a small share of one CPU.

use std::collections::{BTreeMap, VecDeque};
use std::str::FromStr;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bcrypt::HashParts;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

/// bcrypt's cost is a power of two: 16 is about 5 s of CPU time.
const COSTS: std::ops::RangeInclusive<u32> = 4..=16;

/// Answers remembered, right and wrong ones. Too few: two scrapers with different wrong
/// passwords are hashed each time. Too many: memory, 40 bytes each.
const REMEMBERED: usize = 128;

/// Requests that wait for their password to be hashed. More: memory, and the last waits for
/// minutes. Fewer: a scraper is refused beside someone who guesses.
const WAITING: usize = 8;

/// How long one waits at most. Longer than scrapes take nobody is there any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// After a wrong password the next is looked at after so many times the time it took.
const PAUSE: u32 = 9;

/// One at a time, whatever file is in force.
static TURNS: Turns = Turns {
    waiting: Semaphore::const_new(WAITING),
    hashing: Semaphore::const_new(1),
};

struct Turns {
    waiting: Semaphore,
    hashing: Semaphore,
}

/// What remembered passwords are told apart by, new at each start: what is in memory says
/// nothing about them.
static KEY: LazyLock<Option<hmac::Key>> =
    LazyLock::new(|| hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok());

/// Names and hashes.
#[derive(Debug, Default)]
pub(in crate::exporter) struct Users {
    hashes: BTreeMap<String, String>,
    remembered: Mutex<VecDeque<(Vec<u8>, bool)>>,
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
            remembered: Mutex::default(),
        })
    }

    /// Nobody is asked for a password.
    pub(in crate::exporter) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Judges an `Authorization` header (RFC 7617).
    pub(in crate::exporter) async fn judge(&self, header: Option<&[u8]>) -> Verdict {
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
        let tag = tag(&name, hash, &password);
        if let Some(right) = self.remembered(tag.as_ref()) {
            return verdict(right);
        }
        let Ok(_place) = TURNS.waiting.try_acquire() else {
            return Verdict::Busy;
        };
        let Ok(Ok(turn)) = timeout(PATIENCE, TURNS.hashing.acquire()).await else {
            return Verdict::Busy;
        };
        // Someone may have asked the same meanwhile.
        if let Some(right) = self.remembered(tag.as_ref()) {
            return verdict(right);
        }
        let started = Instant::now();
        let hash = hash.clone();
        let checked = spawn_blocking(move || bcrypt::verify(password, &hash));
        let right = matches!(checked.await, Ok(Ok(true))) && known.is_some();
        self.remember(tag, right);
        if !right {
            let pause = started.elapsed() * PAUSE;
            // Who asked need not wait for it; the next one's turn does.
            tokio::spawn(async move {
                sleep(pause).await;
                drop(turn);
            });
        }
        verdict(right)
    }

    fn remembered(&self, tag: Option<&Vec<u8>>) -> Option<bool> {
        let tag = tag?;
        let remembered = self.remembered.lock();
        let remembered = remembered.unwrap_or_else(PoisonError::into_inner);
        // By a key that nobody knows: how far two of them agree says nothing of a password.
        let found = remembered.iter().find(|(other, _)| other == tag)?;
        Some(found.1)
    }

    /// Wrong ones push out wrong ones first: guessing does not make scrapes slow.
    fn remember(&self, tag: Option<Vec<u8>>, right: bool) {
        let Some(tag) = tag else { return };
        let remembered = self.remembered.lock();
        let mut remembered = remembered.unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED {
            let wrong = remembered.iter().position(|(_, right)| !right);
            remembered.remove(wrong.unwrap_or(0));
        }
        remembered.push_back((tag, right));
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
fn tag(name: &str, hash: &str, password: &[u8]) -> Option<Vec<u8>> {
    let mut context = hmac::Context::with_key(KEY.as_ref()?);
    for part in [name.as_bytes(), hash.as_bytes(), password] {
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
    use std::time::Instant;

    use super::{Users, Verdict, authorization, credentials};

    fn users(cost: u32) -> Users {
        let hash = bcrypt::hash("secret", cost).unwrap();
        Users::new(BTreeMap::from([("prom".to_owned(), hash)])).unwrap()
    }

    async fn judge(users: &Users, name: &str, password: &str) -> Verdict {
        users
            .judge(Some(authorization(name, password).as_bytes()))
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
        assert_eq!(users.judge(None).await, Verdict::Wrong);
        assert_eq!(users.judge(Some(b"Bearer x")).await, Verdict::Wrong);
        assert_eq!(Users::default().judge(None).await, Verdict::Welcome);
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
