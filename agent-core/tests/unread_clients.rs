//! Connections of clients that are not read: those of proxies count, by what is spoken on them.

mod support;

use agent_core::cause::Certainty;
use agent_core::event::Join;
use agent_core::observation::Talk;
use agent_core::{ProcessKind, UnreadClients};
use support::{client, core, know, sent, told, upstream};

/// A program that nobody knows.
const GATEWAY: u32 = 500;

#[test]
fn they_count_by_what_is_spoken() {
    let mut core = core();
    let talks = [
        Talk::Tls,
        Talk::Tls,
        Talk::Http2,
        Talk::Other,
        Talk::BeforeAgent,
    ];
    let cookies = 1..;
    let seen = cookies
        .zip(talks)
        .map(|(cookie, talk)| client(cookie).unread_client(1.0, talk));
    told(&mut core, seen);
    let expected = UnreadClients {
        tls: 2,
        http2: 1,
        other: 1,
        before_agent: 1,
    };
    assert_eq!(core.stats().unread_clients, expected);
}

#[test]
fn those_of_a_program_that_is_no_proxy_count_when_it_turns_out_to_be_one() {
    let mut core = core();
    know(&mut core, GATEWAY, "gateway", ProcessKind::Unknown);
    let c = client(1).of(Some(GATEWAY));
    told(&mut core, [c.unread_client(1.0, Talk::Tls)]);
    assert_eq!(core.stats().unread_clients.sum(), 0);

    let (c, u) = (
        client(2).of(Some(GATEWAY)),
        upstream(10).of(Some(GATEWAY)).opened(2.1),
    );
    let x = sent(0, 2.3).errand(2, 0, 100).answered(200, 3.0);
    let passed_on = vec![
        c.request(&sent(0, 2.0), "GET", "/"),
        u.request(&x, "GET", "/"),
        u.response(&x),
        c.response(&sent(0, 2.0).answered(200, 3.1)),
    ];
    let attempt = told(&mut core, passed_on).attempt();
    assert_eq!(attempt.join, Join::Errand);
    assert_ne!(attempt.join_certainty, Some(Certainty::Guess));
    assert_eq!(core.stats().unread_clients.sum(), 1);
}
