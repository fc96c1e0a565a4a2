//! Who speaks what: TLS to a port for plain HTTP, and the other way round.

use super::{LOCALHOST, Scene, assert_case};

use e2e::nginx::{Config, Nginx};
use e2e::ports;

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
    let fix = told.fix.unwrap_or_default();
    assert!(fix.contains("http:// instead of https://"), "{fix}");
    let explained = scene.explained();
    println!("{explained}");
    assert!(
        explained.contains("tls_to_plain_http (strong)"),
        "{explained}"
    );
}
