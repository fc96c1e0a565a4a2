//! TLS: certificate, key, and whose certificates are asked for.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};

use super::file::TlsServer;
use super::{WebError, invalid};

/// What is spoken inside.
const HTTP_1: &[u8] = b"http/1.1";

/// How it is spoken, and whether only clients with a certificate may speak. `path`: of the
/// file that says so, for messages.
pub(super) fn server(
    path: &Path,
    wanted: &TlsServer,
) -> Result<(Arc<ServerConfig>, bool), WebError> {
    let TlsServer {
        cert_file,
        key_file,
        client_ca_file,
        client_auth_type,
        min_version,
        max_version,
    } = wanted;
    let missing = |what| invalid(path, format!("tls_server_config: {what} is missing"));
    let cert_file = cert_file.as_deref().ok_or_else(|| missing("cert_file"))?;
    let key_file = key_file.as_deref().ok_or_else(|| missing("key_file"))?;
    let versions = versions(min_version.as_deref(), max_version.as_deref())
        .map_err(|reason| invalid(path, reason))?;
    let asked = asked(client_auth_type.as_deref()).map_err(|reason| invalid(path, reason))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| invalid(path, error.to_string()))?;
    let builder = match (asked, client_ca_file) {
        (Asked::Nobody, None) => builder.with_no_client_auth(),
        (Asked::Nobody, Some(_)) => {
            let reason = "client_ca_file: without client_auth_type: RequireAndVerifyClientCert nobody is asked for a certificate";
            return Err(invalid(path, reason));
        }
        (_, None) => return Err(missing("client_ca_file")),
        (asked, Some(ca)) => {
            builder.with_client_cert_verifier(verifier(path, ca, asked, &provider)?)
        }
    };
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(pem("the key", key_file))?;
    let mut config = builder
        .with_single_cert(certificates("the certificate", cert_file)?, key)
        .map_err(|error| invalid(path, format!("certificate and key: {error}")))?;
    config.alpn_protocols = vec![HTTP_1.to_vec()];
    Ok((Arc::new(config), asked == Asked::Everybody))
}

/// Who is asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nobody,
    WhoeverHasOne,
    Everybody,
}

/// Kinds that ask for a certificate and do not look at it are not offered.
fn asked(kind: Option<&str>) -> Result<Asked, String> {
    match kind {
        None | Some("" | "NoClientCert") => Ok(Asked::Nobody),
        Some("VerifyClientCertIfGiven") => Ok(Asked::WhoeverHasOne),
        Some("RequireAndVerifyClientCert") => Ok(Asked::Everybody),
        Some(other) => Err(format!(
            "client_auth_type: `{other}` is not offered; there are NoClientCert, VerifyClientCertIfGiven and RequireAndVerifyClientCert"
        )),
    }
}

fn versions(
    min: Option<&str>,
    max: Option<&str>,
) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let number = |key, text: Option<&str>, default| match text {
        None => Ok(default),
        Some("TLS12") => Ok(12),
        Some("TLS13") => Ok(13),
        Some(other) => Err(format!(
            "{key}: `{other}` is not offered; there are TLS12 and TLS13"
        )),
    };
    let range = number("min_version", min, 12)?..=number("max_version", max, 13)?;
    let versions: Vec<_> = [(12, &version::TLS12), (13, &version::TLS13)]
        .into_iter()
        .filter(|(number, _)| range.contains(number))
        .map(|(_, version)| version)
        .collect();
    if versions.is_empty() {
        return Err("min_version is above max_version".to_owned());
    }
    Ok(versions)
}

fn verifier(
    path: &Path,
    ca: &Path,
    asked: Asked,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, WebError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("the certificates of client_ca_file", ca)? {
        roots
            .add(certificate)
            .map_err(|error| invalid(path, format!("client_ca_file: {error}")))?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let verifier = match asked {
        Asked::WhoeverHasOne => verifier.allow_unauthenticated(),
        Asked::Nobody | Asked::Everybody => verifier,
    };
    verifier
        .build()
        .map_err(|error| invalid(path, format!("client_ca_file: {error}")))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, WebError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem(what, path))?;
    if certificates.is_empty() {
        return Err(pem(what, path)(PemError::NoItemsFound));
    }
    Ok(certificates)
}

fn pem(what: &'static str, path: &Path) -> impl Fn(PemError) -> WebError {
    move |error| WebError::Read {
        what,
        path: path.to_owned(),
        source: match error {
            PemError::Io(source) => source,
            other => io::Error::other(format!("no PEM of that kind ({other})")),
        },
    }
}
