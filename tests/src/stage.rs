//! The stage of the random mix: four upstream servers, one whose keep-alive timeout is
//! shorter than nginx's, dead and dark addresses, and an nginx with a location for each of
//! the ways in which it can be told to use them.
//!
//! The locations are the first segments of the paths in [`crate::load::mix`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::netns::Netns;
use crate::nginx::{Config, Nginx};
use crate::ports::{self, Refusing};
use crate::upstreams::Upstreams;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The port that nobody answers at, in a namespace of its own.
const DARK_PORT: u16 = 9;

/// Everything that is needed, alive until dropped.
#[derive(Debug)]
pub struct Stage {
    /// The proxy and its logs.
    pub nginx: Nginx,
    /// Where it listens.
    pub address: SocketAddr,
    /// Four that do as the path says, one that resets whatever the path, one that closes idle
    /// connections after 20 ms.
    pub upstreams: Upstreams,
    /// Refuses connections.
    pub refusing: [Refusing; 2],
    /// Swallows SYNs.
    pub dark: SocketAddr,
    _dark_netns: Netns,
}

impl Stage {
    /// Builds it; nginx waits 1 s for a connection and 1 s for a head or a body byte.
    #[track_caller]
    pub fn build() -> Self {
        let upstreams = Upstreams::start(
            LOCALHOST,
            &["0", "0", "0", "0", "0=reset", "0=ok,idle=20"],
            None,
        );
        let refusing = [Refusing::new(LOCALHOST), Refusing::new(LOCALHOST)];
        let dark_netns = Netns::new();
        let dark = SocketAddr::new(dark_netns.join(None).far, DARK_PORT);
        dark_netns.swallow(DARK_PORT);
        let address = ports::free(LOCALHOST);
        let http = http_block(address, &upstreams, &refusing, dark);
        Self {
            nginx: Nginx::start(&Config::new(http), None),
            address,
            upstreams,
            refusing,
            dark,
            _dark_netns: dark_netns,
        }
    }
}

fn http_block(
    address: SocketAddr,
    upstreams: &Upstreams,
    refusing: &[Refusing; 2],
    dark: SocketAddr,
) -> String {
    let [a, b, c, d, resetting, racing] = upstreams.addresses.as_slice() else {
        panic!("six upstream servers were ordered");
    };
    let [first, second] = refusing.each_ref().map(|refusing| refusing.address);
    format!(
        "proxy_http_version 1.1;
proxy_set_header Connection '';
proxy_connect_timeout 1s;
proxy_read_timeout 1s;
proxy_send_timeout 1s;
client_max_body_size 20m;
keepalive_requests 100000;

upstream good {{
    server {a} max_fails=0; server {b} max_fails=0; server {c} max_fails=0; server {d} max_fails=0;
    keepalive 32;
}}
upstream mixed {{ server {a} max_fails=0; server {resetting} max_fails=0; keepalive 8; }}
upstream racing {{ server {racing} max_fails=0; keepalive 8; }}
upstream refused {{ server {first} max_fails=0; }}
upstream dead {{ server {first} max_fails=1 fail_timeout=1s; server {second} max_fails=1 fail_timeout=1s; }}
upstream dark {{ server {dark} max_fails=0; }}

server {{
    listen {address} backlog=4096;
    location /one/ {{ proxy_pass http://good; proxy_next_upstream off; }}
    location /many/ {{ proxy_pass http://good; proxy_next_upstream_tries 2; }}
    location /mixed/ {{ proxy_pass http://mixed; }}
    location /race/ {{ proxy_pass http://racing; }}
    location /refused/ {{ proxy_pass http://refused; }}
    location /dead/ {{ proxy_pass http://dead; }}
    location /dark/ {{ proxy_pass http://dark; }}
    location /static/ {{ return 503; }}
}}"
    )
}

/// An `http` block with one listener and one upstream that is kept alive, for tests that need
/// no more. Paths, WebSockets and timeouts are as in the stage.
pub fn plain(listen: &[String], upstream: SocketAddr) -> String {
    let listen: String = listen
        .iter()
        .map(|listen| format!("listen {listen};"))
        .collect();
    format!(
        "proxy_http_version 1.1;
proxy_connect_timeout 1s;
proxy_read_timeout 2s;
keepalive_requests 1000000;
keepalive_timeout 300s;
map $http_upgrade $connection_header {{ '' ''; default upgrade; }}
upstream app {{ server {upstream} max_fails=0; keepalive 64; }}
server {{
    {listen}
    location / {{
        proxy_pass http://app;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_header;
    }}
}}"
    )
}
