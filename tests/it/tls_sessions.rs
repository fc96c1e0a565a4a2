//! TLS to an upstream that works: no handshake failed, whatever its shape. A resumed session of TLS
//! 1.2 has its messages in another order (RFC 5246, 7.3), and a server may ask for a second
//! ClientHello (RFC 8446, 2.1).

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use e2e::agent::Agent;
use e2e::load::{Order, one_by_one};
use e2e::nginx::{Config, Nginx};
use e2e::ports::free;
use e2e::process::need_root;
use e2e::tls::TlsServer;

/// Requests to each server.
const EACH: usize = 20;
const TELL: Duration = Duration::from_secs(20);
const NGINX: (&str, &str) = ("proxy", "nginx");

/// What `openssl s_server` is told, by name.
const SERVERS: [(&str, &[&str]); 4] = [
    ("old", &["-tls1_2"]),
    (
        "old-cbc",
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA384"],
    ),
    ("new", &["-tls1_3"]),
    // A group for which no client sends a key unasked.
    ("again", &["-tls1_3", "-groups", "P-521"]),
];

#[test]
fn handshakes_that_succeed_are_no_failures_and_one_that_fails_is() {
    need_root();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let servers: Vec<TlsServer> = SERVERS
        .iter()
        .map(|(name, words)| TlsServer::start(folder.path(), name, words))
        .collect();
    let listen = free(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let locations: String = SERVERS
        .iter()
        .zip(&servers)
        .map(|((name, _), server)| {
            format!(
                "    location /{name}/ {{ proxy_pass https://{}; }}\n",
                server.address
            )
        })
        .collect();
    // Told to trust the certificate of another.
    let strict = format!(
        "    location /strict/ {{ proxy_pass https://{}; proxy_ssl_verify on; \
         proxy_ssl_name 127.0.0.1; proxy_ssl_trusted_certificate {}; }}\n",
        servers[0].address,
        servers[1].certificate.display()
    );
    let http = format!(
        "server {{\n    listen {listen};\n    proxy_ssl_session_reuse on;\n    \
         proxy_ssl_protocols TLSv1.2 TLSv1.3;\n{locations}{strict}}}"
    );
    let config = Config {
        workers: 1,
        ..Config::new(http)
    };
    let nginx = Nginx::start(&config, None);
    let agent = Agent::start(&[]);

    let orders = SERVERS
        .iter()
        .flat_map(|(name, _)| (0..EACH).map(move |number| Order::get(format!("/{name}/{number}"))))
        .chain([Order::get("/strict/0")])
        .collect();
    one_by_one(listen, orders);

    let logged = nginx.access_log_of(SERVERS.len() * EACH + 1);
    let good = logged.iter().filter(|one| one.status == 200).count();
    assert_eq!(good, SERVERS.len() * EACH, "the log says so");
    let metrics = agent.settled(TELL);
    let failures = metrics.by(
        "why502_upstream_failures_total",
        &[NGINX],
        &["upstream", "cause", "masked"],
    );
    let strict = [&servers[0].address.to_string(), "tls_failed", "false"].map(str::to_owned);
    assert_eq!(failures.get(strict.as_slice()), Some(&1), "{failures:?}");
    assert_eq!(failures.len(), 1, "{failures:?}");
    for (server, (name, _)) in servers.iter().zip(SERVERS) {
        let upstream = server.address.to_string();
        let labels = [NGINX, ("upstream", upstream.as_str())];
        let count = metrics.sum("why502_upstream_tls_seconds_count", &labels);
        println!("{name}: {count} handshakes");
        assert_eq!(count, EACH as f64, "{name}");
    }
}
