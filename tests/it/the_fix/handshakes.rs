//! A TLS handshake that one side refuses: the alert by its name, and the server name that was sent.

use std::net::SocketAddr;

use e2e::agent::events::{Line, Request};
use e2e::load::{Order, one_by_one};
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::proxies::{Group, Kind, Proxy, Target, Tls};
use e2e::tls::TlsServer;
use e2e::wait::eventually;

use super::{LOCALHOST, Scene, TELL, assert_case};

/// nginx that serves no name, and refuses every ClientHello for that with unrecognized_name.
fn refusing() -> (Nginx, SocketAddr) {
    let app = ports::free(LOCALHOST);
    let http = format!("server {{ listen {app} ssl; ssl_reject_handshake on; }}");
    (Nginx::start(&Config::new(http), None), app)
}

/// Sends everything to `app` by TLS.
fn scene(app: SocketAddr, rest: &str) -> Scene {
    Scene::directed(&format!("proxy_pass https://{app}; {rest}"))
}

#[test]
fn a_server_name_that_the_upstream_does_not_serve_is_named() {
    let (_upstream, app) = refusing();
    let scene = scene(
        app,
        "proxy_ssl_server_name on; proxy_ssl_name shop.internal;",
    );

    let told = scene.ask("/wrong-name");

    let log = scene.nginx.error_text();
    assert!(log.contains("unrecognized name"), "{log}");
    let case = assert_case(&told, "tls_failed", ("server_name_unknown", "proof"));
    assert_eq!(case.facts["server_name"], "shop.internal");
    assert_eq!(case.facts["alert"], "unrecognized_name (112)");
    let explained = scene.explained();
    println!("{explained}");
    for words in [
        "unrecognized_name (112)",
        "the proxy asked for server name shop.internal",
    ] {
        assert!(explained.replace('\n', " ").contains(words), "{explained}");
    }
}

#[test]
fn a_handshake_without_a_server_name_is_told_as_that() {
    let (_upstream, app) = refusing();
    let scene = scene(app, "proxy_ssl_server_name off;");

    let told = scene.ask("/no-name");

    let case = assert_case(&told, "tls_failed", ("no_server_name", "strong"));
    assert_eq!(case.facts["alert"], "unrecognized_name (112)");
    let fix = told.fix.unwrap_or_default();
    assert!(fix.contains("proxy_ssl_server_name on"), "{fix}");
}

#[test]
fn versions_of_tls_that_do_not_meet_are_named() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let server = TlsServer::start(folder.path(), "new", &["-tls1_3"]);
    let scene = scene(server.address, "proxy_ssl_protocols TLSv1.2;");

    let told = scene.ask("/old-version");

    let case = assert_case(&told, "tls_failed", ("no_common_tls_version", "proof"));
    assert_eq!(case.facts["alert"], "protocol_version (70)");
}

/// Each has a TLS library of its own, or another order of extensions.
#[test]
fn the_server_name_is_read_of_every_proxy_that_speaks_tls() {
    let (_upstream, app) = refusing();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let trusted = TlsServer::start(folder.path(), "any", &[]).certificate;
    let scene = scene(app, "");
    for kind in Kind::ALL {
        let tls = Tls {
            server: app,
            trusted: trusted.clone(),
        };
        let group = Group::new("tls", Target::Tls(tls));
        if kind.lacks(&group).is_some() {
            continue;
        }
        let proxy = Proxy::start(kind, &[group]);
        let path = format!("/tls/{kind}/any");

        one_by_one(proxy.address, vec![Order::get(&path)]);

        // Traefik is asked for `/ready` more than once.
        let told = eventually(TELL, "the request is told", || {
            let lines = scene.events.so_far().into_iter();
            let mut requests = lines.filter_map(|line| match line {
                Line::Request(request) => Some(*request),
                _ => None,
            });
            let of_path = |request: &Request| request.path.as_ref() == Some(&path);
            requests.find(of_path).ok_or(format!("{path} is not told"))
        });
        let evidence = &told.attempts.last().expect("an attempt").evidence;
        println!("{kind}: {evidence}");
        assert_eq!(evidence["tls_alert_name"], "unrecognized_name", "{kind}");
        assert_eq!(evidence["tls_alert_by"], "upstream", "{kind}");
        assert!(evidence["server_name_sent"].is_boolean(), "{kind}");
    }
}
