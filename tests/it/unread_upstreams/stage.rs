//! The upstreams: small servers that misbehave as the path says, and real php-fpm and uWSGI.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use e2e::ports::{self, Refusing};
use e2e::process::{Running, command};
use e2e::tls::Certificate;
use e2e::wait::eventually;
use tempfile::TempDir;

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(20);

/// Debian's, which uWSGI's plugin is of as well.
const PYTHON: &str = "/usr/bin/python3";

/// Servers and their files; all end with it.
pub(crate) struct Stage {
    folder: TempDir,
    running: Vec<Running>,
    nobody: Vec<Refusing>,
    number: usize,
}

/// A real application server.
pub(crate) struct Served {
    pub(crate) tcp: String,
    pub(crate) unix: String,
    /// The file it runs.
    pub(crate) script: String,
}

impl Served {
    /// Waits until it listens at both.
    fn listening(tcp: String, unix: String, script: &Path) -> Self {
        listens(&tcp);
        listens(&unix);
        Self {
            tcp,
            unix,
            script: script.to_string_lossy().into_owned(),
        }
    }
}

impl Stage {
    pub(crate) fn new() -> Self {
        let folder = TempDir::with_prefix("e2e-unread-").expect("a temporary folder can be made");
        fs::write(folder.path().join("server.py"), include_str!("server.py"))
            .expect("the server is written");
        Self {
            folder,
            running: Vec::new(),
            nobody: Vec::new(),
            number: 0,
        }
    }

    /// A file of a proxy.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path(name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn socket(&mut self) -> String {
        self.number += 1;
        let path = self.path(&format!("{}.sock", self.number));
        path.to_string_lossy().into_owned()
    }

    /// A server that does what paths say; where it listens.
    pub(crate) fn server(&mut self, protocol: &str, unix: bool) -> String {
        let more = (protocol == "https").then(|| self.certificate());
        let address = if unix {
            self.socket()
        } else {
            ports::free(LOCALHOST).to_string()
        };
        self.start(protocol, &address, more.as_deref());
        address
    }

    /// A server of HTTP/2 that does the same on every connection.
    pub(crate) fn deaf_to_paths(&mut self, order: &str) -> String {
        let address = ports::free(LOCALHOST).to_string();
        self.start("h2", &address, Some(order));
        address
    }

    fn start(&mut self, protocol: &str, address: &str, more: Option<&str>) {
        let mut server = command(PYTHON, None);
        server
            .arg(self.path("server.py"))
            .args([protocol, address])
            .args(more)
            .stdout(Stdio::null());
        self.running.push(Running::start("server.py", &mut server));
        listens(address);
    }

    /// Where nobody listens.
    pub(crate) fn nobody(&mut self, unix: bool) -> String {
        if unix {
            return self.socket();
        }
        let refusing = Refusing::new(LOCALHOST);
        let address = refusing.address.to_string();
        self.nobody.push(refusing);
        address
    }

    /// A key and its certificate in one file.
    fn certificate(&self) -> String {
        let Certificate { certificate, key } = Certificate::make(self.folder.path(), "server");
        let read = |path: &Path| fs::read_to_string(path).expect("openssl wrote it");
        let both = read(&key) + &read(&certificate);
        let path = self.path("both.pem");
        fs::write(&path, both).expect("it is written");
        path.to_string_lossy().into_owned()
    }

    /// A real php-fpm.
    pub(crate) fn php(&mut self) -> Served {
        let (tcp, unix) = (ports::free(LOCALHOST).to_string(), self.socket());
        let pool = |name: &str, listen: &str| {
            format!(
                "[{name}]\nlisten = {listen}\nuser = root\ngroup = root\npm = static\n\
                 pm.max_children = 4\n"
            )
        };
        let text = format!(
            "[global]\nerror_log = {}\ndaemonize = no\n{}{}",
            self.path("php.log").display(),
            pool("tcp", &tcp),
            pool("unix", &unix)
        );
        let script = self.path("app.php");
        // Killed by a program that it runs, which holds the connection as well, and may hold it longer.
        let app =
            "<?php $order = preg_replace('/.*order-(\\w+).*/', '$1', $_SERVER['REQUEST_URI']);
if ($order == 'hang') { sleep(60); }
if ($order == 'cutkill') { header('Content-Length: 20000'); echo str_repeat('x', 9000); flush(); usleep(100000); }
if ($order == 'kill' || $order == 'cutkill') { exec('kill -9 ' . getmypid()); sleep(5); }
if (substr($order, 0, 3) == 'own') { http_response_code((int) substr($order, 3)); }
echo 'fine';
";
        fs::write(&script, app).expect("the script is written");
        let configuration = self.path("fpm.conf");
        fs::write(&configuration, text).expect("its configuration is written");
        let mut server = command("php-fpm8.2", None);
        server
            .args(["--nodaemonize", "--allow-to-run-as-root", "--fpm-config"])
            .arg(configuration)
            .stderr(Stdio::null());
        self.running.push(Running::start("php-fpm", &mut server));
        Served::listening(tcp, unix, &script)
    }

    /// A real uWSGI.
    pub(crate) fn uwsgi(&mut self) -> Served {
        let (tcp, unix) = (ports::free(LOCALHOST).to_string(), self.socket());
        let script = self.path("app.py");
        let app = "import os, re, time
def cut(start):
    start('200 Told', [('Content-Length', '20000')])
    yield b'x' * 9000
    time.sleep(0.1)
    os.kill(os.getpid(), 9)
def application(environ, start):
    order = re.search(r'order-(\\w+)', environ['PATH_INFO']).group(1)
    if order == 'hang':
        time.sleep(60)
    if order == 'kill':
        os.kill(os.getpid(), 9)
    if order == 'cutkill':
        return cut(start)
    code = order[3:] if order.startswith('own') else '200'
    start(code + ' Told', [('Content-Length', '4')])
    return [b'fine']
";
        fs::write(&script, app).expect("the application is written");
        let mut server = command("uwsgi", None);
        server
            .args(["--plugin", "python3", "--master", "--processes", "4"])
            .args(["--die-on-term", "--socket", &tcp, "--socket", &unix])
            .arg("--wsgi-file")
            .arg(&script)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.running.push(Running::start("uwsgi", &mut server));
        Served::listening(tcp, unix, &script)
    }
}

fn listens(address: &str) {
    eventually(START, "an upstream listens", || {
        let connected = if address.starts_with('/') {
            UnixStream::connect(address).map(drop)
        } else {
            TcpStream::connect(address).map(drop)
        };
        connected.map_err(|error| format!("{address}: {error}"))
    });
}
