//! What is under way, asked of a pipeline that runs.

use std::time::Duration;

use agent_core::event::Upstream;
use agent_core::open::Asker;
use agent_wire::plain::bytes_of;
use agent_wire::record::{Errand, Exchange, Header, MessageHead, flag, kind, side};
use tokio::sync::oneshot;

use super::{pipeline, questions, refused_connect_and_502};
use crate::clock;
use crate::config::Settings;
use crate::open::{Found, Question};

/// The proxy `tgid` sends the request of the client with cookie 10 to 10.0.0.18:8080.
fn sent_upstream(tgid: u32) -> Vec<u8> {
    let now = clock::monotonic();
    let head = b"GET /report HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    let length = u32::try_from(head.len()).unwrap();
    let address = |last: u8| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last];
    let record = MessageHead {
        header: Header {
            kind: kind::REQUEST,
            side: side::UPSTREAM,
            flags: flag::SEEN_OPEN | flag::ACTIVE_OPEN | flag::OWN_ERRAND,
            tgid,
            time_ns: now,
            opened_ns: now,
            cookie: 30,
            local: address(1),
            remote: address(18),
            local_port: 40_001,
            remote_port: 8080,
            ..Header::default()
        },
        exchange: Exchange {
            request_ns: now,
            request_last_ns: now,
            request_bytes: u64::from(length),
            request_head_bytes: length,
            errand: Errand {
                cookie: 10,
                index: 0,
                age_us: 100,
            },
            ..Exchange::default()
        },
        captured: length,
        final_start: 0,
    };
    [bytes_of(&record), head].concat()
}

#[tokio::test]
async fn what_is_under_way_is_found_by_what_is_asked_for() {
    let tgid = std::process::id();
    let name = std::env::current_exe().unwrap();
    let name = name.file_name().unwrap().to_str().unwrap().to_owned();
    let settings = format!(
        "[proxy_names]\n\"{name}\" = \"nginx\"\n[upstream_names]\n\"10.0.0.18:8080\" = \"orders\""
    );
    let mut records = refused_connect_and_502(tgid);
    // The client is not answered: the proxy tries another server.
    records.pop();
    records.push(sent_upstream(tgid));
    let (pipeline, _) = pipeline(records, &Settings::parse(&settings).unwrap());
    let (ask, asked) = questions();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = pipeline.run(asked, async {
        let _ = stopped.await;
    });
    let asking = async {
        let found = ask.open(Question::default()).await.unwrap();
        let mut matched = Vec::new();
        for query in [
            "proxy=nginx",
            "proxy=envoy",
            "upstream=10.0.0.18:8080",
            "upstream=orders",
            "upstream=10.0.0.17:8080",
            "min_age=10ms",
            "min_age=1h",
        ] {
            let question = Question::parse(query).unwrap();
            matched.push((query, ask.open(question).await.unwrap().list.matched));
        }
        stop.send(()).unwrap();
        (found, matched)
    };

    let ((), (found, matched)) = tokio::join!(running, asking);

    let Found {
        list,
        whereabouts,
        now,
        ..
    } = found;
    let [open] = &list.open[..] else {
        panic!("{list:#?}");
    };
    assert_eq!((list.matched, whereabouts.len()), (1, 1));
    assert_eq!((&*open.proxy.name, open.proxy.tgid), ("nginx", tgid));
    assert!(matches!(open.asker, Asker::Client { cookie: 10, .. }));
    assert_eq!(open.head.as_ref().unwrap().path, "/report");
    assert_eq!(open.earlier, 1, "one was refused");
    let age = Duration::from_nanos(now - open.started);
    assert!(age >= Duration::from_millis(40), "{age:?}");
    let [attempt] = &open.attempts[..] else {
        panic!("{open:#?}");
    };
    let upstream = Upstream::Inet("10.0.0.18:8080".parse().unwrap());
    assert_eq!(attempt.upstream, upstream);
    let expected = [
        ("proxy=nginx", 1),
        ("proxy=envoy", 0),
        ("upstream=10.0.0.18:8080", 1),
        ("upstream=orders", 1),
        // That attempt is over.
        ("upstream=10.0.0.17:8080", 0),
        ("min_age=10ms", 1),
        ("min_age=1h", 0),
    ];
    assert_eq!(matched, expected);
}
