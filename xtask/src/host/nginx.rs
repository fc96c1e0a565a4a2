//! A real nginx in a folder of its own: no file of the system's nginx is read or written.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::cgroup::Cgroup;
use super::child::Guard;
use super::which;

/// nginx starts in a few milliseconds; a machine under load takes longer.
const START: Duration = Duration::from_secs(10);

/// A running nginx. It ends with this.
#[derive(Debug)]
pub(crate) struct Nginx {
    guard: Guard,
}

impl Nginx {
    /// Starts one with `http` as the content of its `http` block, in `folder/name`.
    ///
    /// `main` goes to the top level of the configuration.
    pub(crate) fn start(
        folder: &Path,
        name: &str,
        main: &str,
        http: &str,
        listens: SocketAddr,
    ) -> Result<Self> {
        Self::launch(&program(), None, folder, name, main, http, listens)
    }

    /// The same in a cgroup.
    pub(crate) fn start_inside(
        place: &Cgroup,
        folder: &Path,
        name: &str,
        main: &str,
        http: &str,
        listens: SocketAddr,
    ) -> Result<Self> {
        Self::launch(&program(), Some(place), folder, name, main, http, listens)
    }

    /// The same under another name, so that nobody takes it for a proxy: an application server.
    pub(crate) fn start_as_application(
        place: &Cgroup,
        folder: &Path,
        name: &str,
        main: &str,
        http: &str,
        listens: SocketAddr,
    ) -> Result<Self> {
        let application = folder.join(Self::application(name));
        let nginx = program();
        std::fs::copy(&nginx, &application)
            .with_context(|| format!("cannot copy {}", nginx.display()))?;
        Self::launch(&application, Some(place), folder, name, main, http, listens)
    }

    /// The executable of the application server of this name.
    pub(crate) fn application(name: &str) -> String {
        format!("{name}-server")
    }

    /// Process ids of the workers.
    pub(crate) fn workers(&self) -> Vec<u32> {
        let pid = self.guard.pid();
        let children = format!("/proc/{pid}/task/{pid}/children");
        let text = std::fs::read_to_string(children).unwrap_or_default();
        text.split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect()
    }

    fn launch(
        program: &Path,
        place: Option<&Cgroup>,
        folder: &Path,
        name: &str,
        main: &str,
        http: &str,
        listens: SocketAddr,
    ) -> Result<Self> {
        let command = command(program, folder, name, main, http)?;
        let command = match place {
            Some(place) => place.inside(&command),
            None => command,
        };
        let mut guard = Guard::start(name, &command)?;
        guard.wait_listening(listens, START)?;
        Ok(Self { guard })
    }
}

/// The executable.
fn program() -> PathBuf {
    which("nginx").unwrap_or_else(|| PathBuf::from("nginx"))
}

/// Writes the configuration; the command that starts with it.
fn command(program: &Path, folder: &Path, name: &str, main: &str, http: &str) -> Result<Command> {
    let prefix = folder.join(name);
    std::fs::create_dir_all(prefix.join("temp"))
        .with_context(|| format!("cannot make the folder {}", prefix.display()))?;
    let config = prefix.join("nginx.conf");
    std::fs::write(&config, configuration(&prefix, main, http))
        .with_context(|| format!("cannot write {}", config.display()))?;
    let mut command = Command::new(program);
    command.arg("-p").arg(prefix).arg("-c").arg(config);
    Ok(command)
}

fn configuration(prefix: &Path, main: &str, http: &str) -> String {
    let user = if super::is_root() { "user root;" } else { "" };
    let prefix = prefix.display();
    format!(
        "daemon off;
{user}
pid {prefix}/nginx.pid;
error_log {prefix}/error.log info;
{main}
http {{
    client_body_temp_path {prefix}/temp/body;
    proxy_temp_path {prefix}/temp/proxy;
    fastcgi_temp_path {prefix}/temp/fastcgi;
    uwsgi_temp_path {prefix}/temp/uwsgi;
    scgi_temp_path {prefix}/temp/scgi;
{http}
}}
"
    )
}
