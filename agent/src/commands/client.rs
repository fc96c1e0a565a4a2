//! Questions to a running agent over HTTP.
//!
//! In: its address, how it wants to be spoken to, and a path. Out: its answer, or one sentence
//! about why there is none.

use std::error::Error;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::DEFAULT_LISTEN;
use crate::exporter::web::authorization;
use crate::incidents::shape::Refusal;

/// How long to wait for the agent to take the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for a whole answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest answer taken, bytes: the agent's own bound is far below.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Longest refusal taken, bytes: it is a sentence.
const MAX_REFUSAL_BYTES: usize = 64 << 10;

/// Where the password is when no file has it.
const PASSWORD: &str = "WHY502_PASSWORD";

/// Whom to ask, and how.
#[derive(Debug, Args)]
pub(super) struct Whom {
    /// Where the agent listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = DEFAULT_LISTEN)]
    pub(super) agent: SocketAddr,
    /// Speak TLS; the agent's certificate is of its address and signed by one of these (PEM)
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The agent's certificate is of this name instead
    #[arg(long, value_name = "NAME", requires = "ca_file")]
    server_name: Option<String>,
    /// Show this certificate (PEM), for an agent that asks for one; with --key-file
    #[arg(long, value_name = "FILE", requires_all = ["key_file", "ca_file"])]
    cert_file: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// Give this user name, and the password in the variable WHY502_PASSWORD or --password-file
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The password is in this file
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
}

/// A connection, in clear text or not.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

impl Whom {
    /// Asks; the answer's body is still to come. The agent's own sentence is an error where it
    /// does not want to answer.
    ///
    /// # Errors
    /// Nobody listens there, it is no HTTP server, or it wants a password or another one.
    pub(super) async fn ask(&self, target: &str) -> anyhow::Result<Response<Incoming>> {
        let agent = self.agent;
        let connection = timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .unwrap_or_else(|_| Err(nobody(agent, &io::ErrorKind::TimedOut.into())))?;
        let (mut sender, conversation) = http1::handshake(TokioIo::new(connection))
            .await
            .with_context(|| format!("{agent} does not speak HTTP"))?;
        tokio::spawn(conversation);
        let mut request = Request::get(target).header(HOST, agent.to_string());
        if let Some(user) = &self.user {
            request = request.header(AUTHORIZATION, authorization(user, &self.password()?));
        }
        let request = request.body(Empty::<Bytes>::new())?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| match alert(&error) {
                Some(AlertDescription::CertificateRequired) => anyhow!(
                    "the agent at {agent} wants a certificate: give --cert-file and --key-file"
                ),
                Some(alert) => anyhow!(
                    "the agent at {agent} does not take the certificate of --cert-file ({alert:?})"
                ),
                None => {
                    anyhow!(error).context(format!("what listens at {agent} is no why502 agent"))
                }
            })?;
        match answer.status() {
            StatusCode::UNAUTHORIZED if self.user.is_none() => bail!(
                "the agent at {agent} wants a password: give --user, and the password in {PASSWORD} or --password-file"
            ),
            StatusCode::UNAUTHORIZED => {
                bail!("the agent at {agent} does not know this user and password")
            }
            StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST | StatusCode::TOO_MANY_REQUESTS => {
                Err(self.refused(answer).await)
            }
            _ => Ok(answer),
        }
    }

    /// Asks, and takes the whole answer.
    ///
    /// # Errors
    /// As [`Whom::ask`], or the answer does not end.
    pub(super) async fn get(&self, target: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let agent = self.agent;
        let whole = async {
            let answer = self.ask(target).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES);
            match body.collect().await {
                Ok(body) => Ok((status, body.to_bytes())),
                Err(error) => bail!("the answer of {agent} broke off: {error}"),
            }
        };
        timeout(ANSWER_TIMEOUT, whole).await.unwrap_or_else(|_| {
            bail!(
                "what listens at {agent} does not answer within {} s",
                ANSWER_TIMEOUT.as_secs()
            )
        })
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Wire>> {
        let agent = self.agent;
        let connection = TcpStream::connect(agent)
            .await
            .map_err(|error| nobody(agent, &error))?;
        let Some(ca_file) = &self.ca_file else {
            return Ok(Box::new(connection));
        };
        let name = match &self.server_name {
            Some(name) => ServerName::try_from(name.clone())
                .with_context(|| format!("--server-name {name} is no name of a host"))?,
            None => ServerName::from(agent.ip()),
        };
        let connector = TlsConnector::from(Arc::new(self.tls(ca_file)?));
        let connection = connector
            .connect(name, connection)
            .await
            .with_context(|| format!("cannot agree on TLS with what listens at {agent}"))?;
        Ok(Box::new(connection))
    }

    fn tls(&self, ca_file: &Path) -> anyhow::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca_file)? {
            roots
                .add(certificate)
                .with_context(|| unreadable(ca_file))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let (Some(cert_file), Some(key_file)) = (&self.cert_file, &self.key_file) else {
            return Ok(config.with_no_client_auth());
        };
        let key = PrivateKeyDer::from_pem_file(key_file)
            .with_context(|| format!("cannot read a private key from {}", key_file.display()))?;
        config
            .with_client_auth_cert(certificates(cert_file)?, key)
            .with_context(|| {
                format!(
                    "{} and {} are no certificate and its key",
                    cert_file.display(),
                    key_file.display()
                )
            })
    }

    fn password(&self) -> anyhow::Result<String> {
        match &self.password_file {
            Some(path) => {
                let text = fs::read_to_string(path)
                    .with_context(|| format!("cannot read the password in {}", path.display()))?;
                Ok(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            None => std::env::var(PASSWORD).with_context(|| {
                format!("--user wants a password: put it into {PASSWORD}, or name a file with --password-file")
            }),
        }
    }

    /// The agent's own sentence, when it has one.
    async fn refused(&self, answer: Response<Incoming>) -> anyhow::Error {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_REFUSAL_BYTES).collect();
        let body = match timeout(CONNECT_TIMEOUT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            _ => Bytes::new(),
        };
        if let Ok(Refusal { error, .. }) = serde_json::from_slice(&body) {
            return anyhow!(error);
        }
        let words = String::from_utf8_lossy(&body);
        let words = words.trim();
        if words.contains("speaks TLS") {
            return anyhow!(
                "the agent at {} speaks TLS: name who signs its certificate with --ca-file",
                self.agent
            );
        }
        stranger(self.agent, status)
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.with_context(|| unreadable(path))
}

fn unreadable(path: &Path) -> String {
    format!("cannot read certificates from {}", path.display())
}

/// What the other side of TLS ended it with. After a handshake of TLS 1.3 the client's
/// certificate is judged, so a request finds out.
fn alert(error: &hyper::Error) -> Option<AlertDescription> {
    let source = error.source()?.downcast_ref::<io::Error>()?;
    match source.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

fn nobody(agent: SocketAddr, error: &io::Error) -> anyhow::Error {
    anyhow!(
        "no agent answers at {agent} ({error}): start one with `sudo why502 run`, or name its address with --agent"
    )
}

/// What to say about an answer nobody expected.
pub(super) fn stranger(agent: SocketAddr, status: StatusCode) -> anyhow::Error {
    anyhow!("what listens at {agent} answered {status}: it is no why502 agent, or an older one")
}
