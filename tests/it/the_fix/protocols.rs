//! Who speaks what: TLS to a port for plain HTTP, the other way round, and a PROXY protocol header
//! that is expected and not sent.

use e2e::haproxy::Haproxy;
use e2e::nginx::{Config, Nginx};
use e2e::ports;
use e2e::tls::TlsServer;

use super::{LOCALHOST, Scene, assert_case};

#[test]
fn tls_to_a_port_for_plain_http_is_told_as_that() {
    let app = ports::free(LOCALHOST);
    let server = format!("server {{ listen {app}; return 200; }}");
    let _upstream = Nginx::start(&Config::new(server), None);
    let scene = Scene::new(&format!("https://{app}"));

    let told = scene.ask("/tls-to-plain");

    let log = scene.nginx.error_text();
    assert!(log.contains("wrong version number"), "{log}");
    let case = assert_case(&told, "tls_failed", ("tls_to_plain_http", "strong"));
    assert_eq!(case.facts["asked"], app.to_string());
    let fix = told.fix.as_deref().unwrap_or_default();
    assert!(fix.contains("http:// instead of https://"), "{fix}");
    let explained = scene.explained();
    println!("{explained}");
    assert!(
        explained.contains("tls_to_plain_http (strong)"),
        "{explained}"
    );
}

/// OpenSSL closes without a word on a request in clear. Only who has seen TLS at the address knows.
#[test]
fn plain_http_to_a_port_that_was_seen_to_speak_tls_is_told_as_that() {
    let folder = tempfile::TempDir::with_prefix("e2e-fix-").expect("a folder can be made");
    let upstream = TlsServer::start(folder.path(), "upstream", &[]);
    let app = upstream.address;
    let scene = Scene::with(&format!(
        "location / {{ proxy_pass http://{app}; }} location /tls/ {{ proxy_pass https://{app}; }}"
    ));

    let before = scene.ask("/plain/before");
    assert_eq!(scene.ask("/tls/ok").code, Some(200));
    let after = scene.ask("/plain/after");

    let before = assert_case(
        &before,
        "closed_before_response",
        ("closes_each_request", "guess"),
    );
    assert_eq!(before.facts["closed"], "1");
    assert_case(
        &after,
        "closed_before_response",
        ("plain_http_to_tls", "strong"),
    );
    let fix = after.fix.as_deref().unwrap_or_default();
    assert!(fix.contains("https:// instead of http://"), "{fix}");
}

/// Two servers that expect the header, and none of them says so: it stays one possibility.
#[test]
fn a_server_that_expects_a_proxy_header_may_be_one() {
    let (by_nginx, by_haproxy) = (ports::free(LOCALHOST), ports::free(LOCALHOST));
    let server = format!("server {{ listen {by_nginx} proxy_protocol; return 200; }}");
    let nginx = Nginx::start(&Config::new(server), None);
    let _haproxy = Haproxy::start(
        &format!(
            "frontend front\n    bind {by_haproxy} accept-proxy\n    http-request return status 200\n"
        ),
        None,
    );
    e2e::wait::eventually(super::TELL, "haproxy listens", || {
        std::net::TcpStream::connect(by_haproxy).map_err(|error| error.to_string())
    });
    let scene = Scene::with(&format!(
        "location /nginx/ {{ proxy_pass http://{by_nginx}; }}
         location /haproxy/ {{ proxy_pass http://{by_haproxy}; }}"
    ));

    for path in ["/nginx/1", "/haproxy/1"] {
        let told = scene.ask(path);
        assert_case(
            &told,
            "closed_before_response",
            ("closes_each_request", "guess"),
        );
        let fix = told.fix.as_deref().unwrap_or_default();
        // The usual fix stays, and this one is said to be possible.
        assert!(fix.starts_with("Read the application's log"), "{fix}");
        assert!(fix.contains("Possibly: "), "{fix}");
    }

    let log = nginx.error_text();
    assert!(log.contains("broken header"), "{log}");
}

#[test]
fn a_server_that_fails_and_answered_before_expects_no_other_protocol() {
    let upstreams = e2e::upstreams::Upstreams::start(LOCALHOST, &["0"], None);
    let app = *upstreams.addresses.first().expect("it was ordered");
    let scene = Scene::new(&format!("http://{app}"));
    assert_eq!(scene.ask("/one/1/1/ok").code, Some(200));

    let told = scene.ask("/one/1/2/close");

    assert_eq!(told.cause.as_deref(), Some("closed_before_response"));
    assert!(told.case.is_none(), "{:?}", told.case);
}

/// nginx answers plain HTTP on its TLS port by itself, and a PROXY header that it does not expect: the
/// client gets its 400, and no error of a gateway is told.
#[test]
fn a_server_that_answers_400_by_itself_makes_no_gateway_error() {
    let folder = tempfile::TempDir::with_prefix("e2e-fix-").expect("a folder can be made");
    let certified = TlsServer::start(folder.path(), "upstream", &[]);
    let (tls, plain, sender) = (
        ports::free(LOCALHOST),
        ports::free(LOCALHOST),
        ports::free(LOCALHOST),
    );
    let certificate = certified.certificate.display();
    let key = folder.path().join("upstream.key");
    let servers = format!(
        "server {{ listen {tls} ssl; ssl_certificate {certificate}; ssl_certificate_key {}; return 200; }}
         server {{ listen {plain}; return 200; }}",
        key.display()
    );
    let upstream = Nginx::start(&Config::new(servers), None);
    let _haproxy = Haproxy::start(
        &format!(
            "frontend front\n    bind {sender}\n    default_backend back\nbackend back\n    server one {plain} send-proxy\n"
        ),
        None,
    );
    e2e::wait::eventually(super::TELL, "haproxy listens", || {
        std::net::TcpStream::connect(sender).map_err(|error| error.to_string())
    });
    let scene = Scene::with(&format!(
        "location /tls/ {{ proxy_pass http://{tls}; }}
         location /header/ {{ proxy_pass http://{sender}; }}"
    ));

    for path in ["/tls/1", "/header/1"] {
        let told = scene.ask(path);
        assert_eq!((told.code, told.cause), (Some(400), None), "{path}");
    }

    println!("{}", upstream.error_text());
    let said = upstream.error_text();
    assert!(said.contains("plain HTTP request to HTTPS port"), "{said}");
}
