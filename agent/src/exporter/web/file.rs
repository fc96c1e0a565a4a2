//! The file itself, in the format of Prometheus' exporter-toolkit (docs/web-configuration.md
//! there). What that has and this lacks is refused, not skipped: someone relies on it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;

use super::{Rules, Users, WebError, invalid, tls};

/// Headers that the format knows.
const HEADERS: [&str; 5] = [
    "Content-Security-Policy",
    "X-Frame-Options",
    "X-Content-Type-Options",
    "X-XSS-Protection",
    "Strict-Transport-Security",
];

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    tls_server_config: Option<TlsServer>,
    http_server_config: HttpServer,
    /// Name to bcrypt hash.
    basic_auth_users: BTreeMap<String, String>,
}

/// How TLS is spoken.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TlsServer {
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) client_ca_file: Option<PathBuf>,
    pub(super) client_auth_type: Option<String>,
    pub(super) min_version: Option<String>,
    pub(super) max_version: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HttpServer {
    http2: Option<bool>,
    headers: BTreeMap<String, String>,
}

/// Reads it; paths in it are relative to its folder.
pub(super) fn read(path: &Path) -> Result<File, WebError> {
    let text = fs::read_to_string(path).map_err(|source| WebError::Read {
        what: "the web configuration",
        path: path.to_owned(),
        source,
    })?;
    // A file of nothing but comments is YAML's null.
    let file: Option<File> = yaml_serde::from_str(&text)
        .map_err(|error| invalid(path, error.to_string().replace('\n', " ")))?;
    let mut file = file.unwrap_or_default();
    let folder = path.parent().unwrap_or(Path::new(""));
    if let Some(tls) = &mut file.tls_server_config {
        for named in tls.files() {
            *named = folder.join(&*named);
        }
    }
    Ok(file)
}

impl TlsServer {
    fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self {
            cert_file,
            key_file,
            client_ca_file,
            client_auth_type: _,
            min_version: _,
            max_version: _,
        } = self;
        [cert_file, key_file, client_ca_file].into_iter().flatten()
    }
}

impl File {
    /// Other files that it names.
    pub(super) fn names(&self) -> Vec<PathBuf> {
        let tls = self.tls_server_config.as_ref();
        let files = tls.map(|tls| [&tls.cert_file, &tls.key_file, &tls.client_ca_file]);
        let files = files.into_iter().flatten().flatten();
        files.cloned().collect()
    }

    /// What it asks for.
    pub(super) fn rules(self, path: &Path) -> Result<Rules, WebError> {
        let Self {
            tls_server_config,
            http_server_config,
            basic_auth_users,
        } = self;
        let HttpServer { http2, headers } = http_server_config;
        if http2 == Some(true) {
            let reason = "http2: the agent speaks HTTP/1.1 only; leave it out, or say false";
            return Err(invalid(path, reason));
        }
        let headers = headers
            .iter()
            .map(|(name, value)| header(path, name, value))
            .collect::<Result<_, _>>()?;
        let users = Users::new(basic_auth_users).map_err(|reason| invalid(path, reason))?;
        let tls = tls_server_config
            .map(|tls| tls::server(path, &tls))
            .transpose()?;
        let (tls, clients_are_verified) = tls.unzip();
        Ok(Rules {
            tls,
            users,
            clients_are_verified: clients_are_verified.unwrap_or(false),
            headers,
        })
    }
}

fn header(path: &Path, name: &str, value: &str) -> Result<(HeaderName, HeaderValue), WebError> {
    let known = HEADERS.iter().any(|known| known.eq_ignore_ascii_case(name));
    let parsed = HeaderName::try_from(name).ok().filter(|_| known);
    let Some(parsed) = parsed else {
        let reason = format!("headers: `{name}` is none of {}", HEADERS.join(", "));
        return Err(invalid(path, reason));
    };
    match HeaderValue::try_from(value) {
        Ok(value) => Ok((parsed, value)),
        Err(_) => Err(invalid(
            path,
            format!("headers: the value of {name} is no header value"),
        )),
    }
}
