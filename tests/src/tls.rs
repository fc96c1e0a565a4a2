//! Certificates, and servers that speak TLS, by `openssl`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::ports;
use crate::process::{Running, command, output_of};
use crate::wait::eventually;

/// A server with a certificate of its own. It answers every request, and dies with the value.
#[derive(Debug)]
pub struct TlsServer {
    _server: Running,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its certificate, which is for 127.0.0.1, in PEM.
    pub certificate: PathBuf,
}

/// A certificate for 127.0.0.1 that signs itself, in PEM.
#[derive(Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one, in files of `folder` by `name`.
    #[track_caller]
    pub fn make(folder: &Path, name: &str) -> Self {
        let file = |end: &str| folder.join(format!("{name}.{end}"));
        let made = Self {
            certificate: file("pem"),
            key: file("key"),
        };
        output_of(
            Command::new("openssl")
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
                .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
                .args(["-subj", "/CN=127.0.0.1", "-addext"])
                .args(["subjectAltName=IP:127.0.0.1", "-keyout"])
                .arg(&made.key)
                .arg("-out")
                .arg(&made.certificate),
        );
        made
    }
}

impl TlsServer {
    /// Starts one that keeps its files in `folder` by `name`; `words` are more arguments for
    /// `openssl s_server`.
    #[track_caller]
    pub fn start(folder: &Path, name: &str, words: &[&str]) -> Self {
        let Certificate { certificate, key } = Certificate::make(folder, name);
        let address = ports::free(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut server = command("openssl", None);
        server
            .args(["s_server", "-quiet", "-www", "-accept"])
            .arg(address.to_string())
            .arg("-cert")
            .arg(&certificate)
            .arg("-key")
            .arg(key)
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Running::start("openssl", &mut server);
        eventually(Duration::from_secs(10), "a TLS server listens", || {
            TcpStream::connect(address).map_err(|error| error.to_string())
        });
        Self {
            _server: server,
            address,
            certificate,
        }
    }
}
