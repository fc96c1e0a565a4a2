//! nginx in front of an application server that is an nginx under another name: a proxy with
//! nothing to wait for, so that its own speed is the limit.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use crate::host::net;
use crate::host::nginx::Nginx;

/// Proxy and upstream.
#[derive(Debug)]
pub(super) struct Proxy {
    // Order of ending: the proxy first.
    proxy: Nginx,
    _upstream: Nginx,
    address: SocketAddr,
}

impl Proxy {
    /// Starts both, files in `folder`.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let upstream_address = net::free_address()?;
        let upstream = Nginx::start_as_application(
            folder,
            "application",
            MAIN,
            &format!(
                "    access_log off;
    keepalive_requests 1000000000;
    server {{
        listen {upstream_address} backlog=4096;
        location / {{ default_type text/plain; return 200 \"{BODY}\"; }}
    }}"
            ),
            upstream_address,
        )?;
        let address = net::free_address()?;
        let proxy = Nginx::start(
            folder,
            "proxy",
            MAIN,
            &format!(
                "    access_log off;
    keepalive_requests 1000000000;
    upstream app {{ server {upstream_address}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen {address} backlog=4096;
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
        }}
    }}"
            ),
            address,
        )?;
        Ok(Self {
            proxy,
            _upstream: upstream,
            address,
        })
    }

    /// Where the proxy listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its worker processes.
    pub(super) fn workers(&self) -> Vec<u32> {
        self.proxy.workers()
    }
}

/// One worker each: one thread of nginx shall be the limit, and the report says how busy it
/// was. Nothing is bound to a CPU: with two of them, client and upstream on one could be the
/// limit instead.
const MAIN: &str = "worker_processes 1;\nevents { worker_connections 4096; }";

const BODY: &str = "An answer of a hundred bytes or so, as an API would give for something that is there and small.";
