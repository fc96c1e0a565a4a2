//! Certificates, and web configurations that name them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use e2e::process::output_of;
use tempfile::TempDir;

/// Of libxcrypt, `crypt("correct horse", ...)`, cost 10.
pub(crate) const HORSE: &str = "$2y$10$abcdefghijklmnopqrstuu23JPZtHcGhwXSF41f93o/7vBdDut3Xu";
/// "battery staple", cost 5.
pub(crate) const STAPLE: &str = "$2b$05$ABCDEFGHIJKLMNOPQRSTUuKc95hIE.CdSSKhiXXieUyyQFdVSdFW.";

/// A folder with them.
#[derive(Debug)]
pub(crate) struct Files {
    folder: TempDir,
}

#[expect(
    clippy::expect_used,
    reason = "a file that cannot be written ends the test with a sentence"
)]
impl Files {
    /// An authority, a certificate of 127.0.0.1, one of a client.
    #[track_caller]
    pub(crate) fn new() -> Self {
        let folder = TempDir::with_prefix("e2e-endpoint-").expect("a temporary folder can be made");
        let files = Self { folder };
        files.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem");
        files.certificate("server", "subjectAltName=IP:127.0.0.1,DNS:agent.example");
        files.certificate("client", "extendedKeyUsage=clientAuth");
        files
    }

    /// A certificate, signed by the authority; another one each time.
    #[track_caller]
    pub(crate) fn certificate(&self, name: &str, extension: &str) {
        self.write("extensions", extension);
        self.openssl(&format!("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key.new -out {name}.csr"));
        self.openssl(&format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {name}.pem.new"));
        for kind in ["key", "pem"] {
            let path = self.path(&format!("{name}.{kind}"));
            fs::rename(self.path(&format!("{name}.{kind}.new")), path).expect("it was made");
        }
    }

    /// Where a file is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As [`Files::path`], as a flag takes it.
    pub(crate) fn flag(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// Writes a file, all of it at once.
    #[track_caller]
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let new = self.path(&format!("{name}.new"));
        fs::write(&new, text).expect("a file can be written");
        fs::rename(new, self.path(name)).expect("it was written");
        self.flag(name)
    }

    fn openssl(&self, words: &str) -> String {
        output_of(
            Command::new("openssl")
                .args(words.split(' '))
                .current_dir(self.folder.path()),
        )
    }
}

/// TLS with the certificate of [`Files`].
pub(crate) const TLS: &str =
    "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";
