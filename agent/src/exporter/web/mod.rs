//! Who may ask, and how it is said: TLS and passwords, by a file as Prometheus' exporters have
//! it (`--web-config-file`).
//!
//! In: the file, and what it names. Out: what holds now (`Web::now`). File, certificates and
//! keys are looked at before each connection and read again when they changed; what cannot be
//! used then leaves in force what was, and is logged.

mod file;
mod tls;
mod turns;
mod users;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::header::{HeaderName, HeaderValue};
use thiserror::Error;

pub use users::authorization;
pub(super) use users::{Users, Verdict};

/// The file cannot be used.
#[derive(Debug, Error)]
pub enum WebError {
    /// It cannot be read, or a file that it names.
    #[error("cannot read {what} {}: {source}; the agent reads it as the user it runs as", path.display())]
    Read {
        /// What it is.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what is expected.
    #[error("cannot use the web configuration {}: {reason}", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and what would do.
        reason: String,
    },
}

/// What holds for connections that begin now.
#[derive(Debug, Default)]
pub struct Rules {
    /// Speak TLS, so.
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    /// Ask for a password, unless there are none.
    pub(super) users: Users,
    /// Only who has a certificate may ask.
    pub(super) clients_are_verified: bool,
    /// On every answer.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// The file and what was read of it last.
#[derive(Debug, Default)]
pub struct Web {
    path: Option<PathBuf>,
    read: Mutex<Reading>,
}

#[derive(Debug, Default)]
struct Reading {
    rules: Arc<Rules>,
    /// Of each file that was read; none: it was not there.
    stamps: Vec<(PathBuf, Option<Stamp>)>,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    seconds: i64,
    nanos: i64,
}

impl Web {
    /// Reads the file, if one is given; without one everybody may ask, in clear text.
    ///
    /// # Errors
    /// It cannot be used; the message says why.
    pub fn read(path: Option<&Path>) -> Result<Self, WebError> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let web = Self {
            path: Some(path.to_owned()),
            read: Mutex::default(),
        };
        web.again(path)?;
        Ok(web)
    }

    /// Reads it again, whether it changed or not: to see whether that is still allowed.
    ///
    /// # Errors
    /// As [`Web::read`].
    pub fn check(&self) -> Result<(), WebError> {
        self.path.as_deref().map_or(Ok(()), |path| self.again(path))
    }

    /// What holds now.
    pub(super) fn now(&self) -> Arc<Rules> {
        if let Some(path) = &self.path
            && self.has_changed()
        {
            match self.again(path) {
                Ok(()) => {
                    tracing::info!(path = %path.display(), "read the web configuration again")
                }
                Err(error) => {
                    tracing::error!(%error, "the web configuration changed and cannot be used; what it said before stays in force");
                }
            }
        }
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&read.rules)
    }

    fn has_changed(&self) -> bool {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.stamps
            .iter()
            .any(|(path, stamp)| Stamp::of(path) != *stamp)
    }

    /// Of a failed attempt the stamps are kept, so that it is made and logged once a change.
    fn again(&self, path: &Path) -> Result<(), WebError> {
        let mut stamps = vec![(path.to_owned(), Stamp::of(path))];
        let rules = file::read(path).and_then(|file| {
            let named = file.names().into_iter();
            stamps.extend(named.map(|path| (path.clone(), Stamp::of(&path))));
            file.rules(path)
        });
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.stamps = stamps;
        let mut rules = rules?;
        rules.users.inherit(&read.rules.users);
        read.rules = Arc::new(rules);
        Ok(())
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        Some(Self {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            seconds: data.mtime(),
            nanos: data.mtime_nsec(),
        })
    }
}

fn invalid(path: &Path, reason: impl Into<String>) -> WebError {
    WebError::Invalid {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::Web;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("why502-web-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, text: &str) -> PathBuf {
            let path = self.0.join("web.yml");
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const HASH: &str = "$2b$04$EGdrhbKUv8Oc9vGiXX0HQOxSg445d458Muh7DAHskb6QbtCvdxcie";

    #[test]
    fn what_cannot_be_used_is_refused_with_what_would_do() {
        let folder = Folder::new("refused");
        for (text, words) in [
            ("basic_auth_user: {}\n", "unknown field `basic_auth_user`"),
            (
                "tls_server_config: {cert_fil: x}\n",
                "unknown field `cert_fil`",
            ),
            (
                "http_server_config: {headers: {X-Powered-By: x}}\n",
                "X-Powered-By",
            ),
            ("http_server_config: {http2: true}\n", "HTTP/1"),
            ("basic_auth_users: {prom: secret}\n", "prom"),
            (&format!("basic_auth_users: {{\"a:b\": {HASH}}}\n"), "a:b"),
            (
                "basic_auth_users: {prom: $2b$31$EGdrhbKUv8Oc9vGiXX0HQOxSg445d458Muh7DAHskb6QbtCvdxcie}\n",
                "cost 31",
            ),
            ("tls_server_config: {key_file: x}\n", "cert_file"),
            ("tls_server_config: {cert_file: x}\n", "key_file"),
            (
                "tls_server_config: {cert_file: x, key_file: y}\n",
                "No such file",
            ),
            (
                "tls_server_config: {cert_file: x, key_file: y, min_version: TLS10}\n",
                "TLS12",
            ),
            (
                "tls_server_config: {cert_file: x, key_file: y, client_auth_type: RequestClientCert}\n",
                "RequireAndVerifyClientCert",
            ),
            (
                "tls_server_config: {cert_file: x, key_file: y, client_auth_type: RequireAndVerifyClientCert}\n",
                "client_ca_file",
            ),
            (
                "tls_server_config: {cert_file: x, key_file: y, client_ca_file: z}\n",
                "client_auth_type",
            ),
            ("- a\n", "invalid type"),
        ] {
            let path = folder.write(text);
            let error = Web::read(Some(&path)).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
            assert!(error.contains("web.yml") || error.contains("/y"), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let error = Web::read(Some(&folder.0.join("none.yml"))).unwrap_err();
        assert!(error.to_string().contains("none.yml"), "{error}");
    }

    #[test]
    fn an_empty_file_asks_for_nothing() {
        let folder = Folder::new("empty");
        let web = Web::read(Some(&folder.write(""))).unwrap();
        assert!(web.now().users.is_empty());
        assert!(web.now().tls.is_none());
    }

    #[test]
    fn a_change_is_seen_and_a_bad_one_leaves_things_as_they_were() {
        let folder = Folder::new("change");
        let path = folder.write("");
        let web = Web::read(Some(&path)).unwrap();
        assert!(web.now().users.is_empty());

        folder.write(&format!("basic_auth_users: {{prom: {HASH}}}\n"));
        assert!(!web.now().users.is_empty());

        folder.write("nonsense: 1\n");
        assert!(!web.now().users.is_empty());
        fs::remove_file(&path).unwrap();
        assert!(!web.now().users.is_empty());

        folder.write("{}\n# no password\n");
        assert!(web.now().users.is_empty());
    }
}
