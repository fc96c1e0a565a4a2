//! nginx in front of an application server that is an nginx under another name: a proxy with
//! nothing to wait for, so that its own speed is the limit.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::stage::Places;
use crate::host::net;
use crate::host::nginx::Nginx;

/// Proxy and upstream.
#[derive(Debug)]
pub(super) struct Proxy {
    // Order of ending: the proxy first.
    _proxy: Nginx,
    _upstream: Nginx,
    address: SocketAddr,
    status: SocketAddr,
    access_log: PathBuf,
}

impl Proxy {
    /// Starts both, files in `folder`; the proxy with so many workers.
    ///
    /// One worker, and one thread of nginx is the limit, and the report says how busy it was. More where
    /// connections want more descriptors than a process may have. Nothing is bound to a CPU: with two
    /// of them, client and upstream on one could be the limit instead.
    pub(super) fn start(folder: &Path, places: &Places, workers: usize) -> Result<Self> {
        let upstream_address = net::free_address()?;
        let files = folder.join("files");
        fs::create_dir_all(&files).context("cannot make a folder for files")?;
        for (name, bytes) in BODIES {
            fs::write(files.join(name), vec![b'x'; bytes]).context("cannot write a file")?;
        }
        for (name, bytes) in TEXTS {
            fs::write(files.join(name), text(bytes)).context("cannot write a file")?;
        }
        let port = upstream_address.port();
        let upstream = Nginx::start_as_application(
            &places.application,
            folder,
            APPLICATION,
            &main(1),
            &format!(
                "    access_log off;
    keepalive_requests 1000000000;
    sendfile on;
    server {{
        listen 0.0.0.0:{port} backlog=4096;
        root {};
        location = / {{ default_type text/plain; return 200 \"{BODY}\"; }}
    }}",
                files.display()
            ),
            upstream_address,
        )?;
        let (address, status) = (net::free_address()?, net::free_address()?);
        let refusing = net::free_address()?;
        let choices = FAILING.map(choice_that_fails).concat();
        let failing = FAILING.map(location_that_fails).concat();
        let access_log = folder.join("access.log");
        let proxy = Nginx::start_inside(
            &places.proxy,
            folder,
            "proxy",
            &main(workers),
            &format!(
                "    access_log off;
    keepalive_requests 1000000000;
    proxy_http_version 1.1;
    proxy_set_header Connection \"\";
    log_format full '$remote_addr - $remote_user [$time_local] \"$request\" $status '
        '$body_bytes_sent \"$http_referer\" \"$http_user_agent\" $upstream_addr '
        '$upstream_status $upstream_connect_time $upstream_header_time $upstream_response_time';
    upstream app {{ server {upstream_address}; keepalive 10240; keepalive_requests 1000000000; }}
    upstream hundred {{ {} keepalive 10240; keepalive_requests 1000000000; }}
    upstream thousand {{ {} keepalive 10240; keepalive_requests 1000000000; }}
    upstream refusing {{ server {refusing}; }}
    {choices}
    server {{ listen {status}; location / {{ stub_status; }} }}
    server {{
        listen {address} backlog=16384 reuseport;
        location / {{ proxy_pass http://app; }}
        location = /logged {{ access_log {} full; proxy_pass http://app/; }}
        location = /hundred {{ proxy_pass http://hundred/; }}
        location = /thousand {{ proxy_pass http://thousand/; }}
        location = /churn {{ proxy_set_header Connection close; proxy_pass http://{upstream_address}/; }}
        {failing}
        location /packed/ {{ gzip on; gzip_types *; gzip_proxied any; proxy_pass http://app/; }}
    }}",
                servers(100, port),
                servers(1000, port),
                access_log.display()
            ),
            address,
        )?;
        Ok(Self {
            _proxy: proxy,
            _upstream: upstream,
            address,
            status,
            access_log,
        })
    }

    /// Where the proxy listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it tells its counters to whoever asks: nobody does whose requests are counted.
    pub(super) fn status(&self) -> SocketAddr {
        self.status
    }

    /// The executable of the application behind it.
    pub(super) fn application() -> String {
        Nginx::application(APPLICATION)
    }

    /// What it logs of requests for `/logged`.
    pub(super) fn access_log(&self) -> &Path {
        &self.access_log
    }
}

/// Lines of an `upstream` block: as many addresses of this host.
fn servers(count: usize, port: u16) -> String {
    (0..count)
        .map(|number| format!("server 127.1.{}.{}:{port};", number / 250, number % 250 + 1))
        .collect()
}

/// Percentages of requests that fail: at `/fail/NUMBER` so many of them go to a port where nobody
/// listens.
const FAILING: [u32; 4] = [0, 1, 5, 100];

fn choice_that_fails(percent: u32) -> String {
    let others = if percent == 100 { "" } else { "* app;" };
    let failing = if percent == 0 {
        String::new()
    } else if percent == 100 {
        "* refusing;".to_owned()
    } else {
        format!("{percent}% refusing;")
    };
    format!("split_clients $request_id $at_{percent} {{ {failing} {others} }}\n")
}

fn location_that_fails(percent: u32) -> String {
    format!("location = /fail/{percent} {{ proxy_pass http://$at_{percent}/; }}\n")
}

/// Words as a text has them: what a proxy packs, and what takes its time.
fn text(bytes: usize) -> Vec<u8> {
    let mut state = 502u32;
    let mut text = Vec::with_capacity(bytes + 8);
    while text.len() < bytes {
        // A linear congruential generator: the same text each time.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let word = state >> 22;
        text.extend_from_slice(format!("{:x}{} ", word * 7, word % 13).as_bytes());
    }
    text.truncate(bytes);
    text
}

/// Files of text that the application has, by size.
const TEXTS: [(&str, usize); 2] = [("4k.text", 4 << 10), ("64k.text", 64 << 10)];

/// Files that the application has, by size.
pub(super) const BODIES: [(&str, usize); 6] = [
    ("empty", 0),
    ("1k", 1 << 10),
    ("10k", 10 << 10),
    ("100k", 100 << 10),
    ("1m", 1 << 20),
    ("10m", 10 << 20),
];

fn main(workers: usize) -> String {
    format!(
        "worker_processes {workers};\nworker_rlimit_nofile 65536;\nevents {{ worker_connections 32768; }}"
    )
}

const APPLICATION: &str = "application";

const BODY: &str = "An answer of a hundred bytes or so, as an API would give for something that is there and small.";
