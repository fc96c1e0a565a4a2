//! What the core is fed, and in which order.

use std::sync::Arc;

use agent_core::Input;
use agent_core::observation::{Observation, What};
use agent_wire::brief::Brief;
use agent_wire::plain::bytes_of;
use agent_wire::record::{Header, MessageHead, end, kind, side};

use super::super::{Pipeline, Sinks, questions};
use super::{Fake, header, refused_connect_and_502};
use crate::config::Settings;
use crate::events::EventStream;
use crate::incidents::Incidents;
use crate::metrics::Metrics;
use crate::processes::Processes;
use crate::recording::Recorder;

/// A recording of what the source gives where exchanges may be reported in brief, and what was fed by that.
async fn recorded(name: &str, source: Fake) -> (String, Vec<Input>) {
    let path = std::env::temp_dir().join(format!("why502-{name}-{}.jsonl", std::process::id()));
    let settings = Settings {
        brief: true,
        ..Settings::default()
    };
    let incidents = Incidents::new(&settings);
    let Metrics {
        traffic, report, ..
    } = Metrics::new(&settings);
    let sinks = Sinks {
        traffic,
        report,
        stream: EventStream::new(),
        incidents,
        turned_away: Arc::default(),
        recorder: Some(Recorder::create(&path).unwrap()),
        directory: None,
        translations: None,
        processes: Processes::new(&settings),
        attachment: None,
    };
    let (_ask, asked) = questions();

    Pipeline::new(source, &settings, sinks)
        .run(asked, std::future::ready(()))
        .await;

    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let lines = text.lines().skip(1);
    let inputs = lines.map(|line| serde_json::from_str(line).unwrap());
    let inputs = inputs.collect();
    (text, inputs)
}

#[tokio::test]
async fn a_recording_is_all_that_the_core_was_fed_and_holds_no_query() {
    let source = Fake {
        records: refused_connect_and_502(std::process::id()).into(),
        ..Fake::default()
    };

    let (text, inputs) = recorded("fed", source).await;

    let observed = |input: &&Input| matches!(input, Input::Observe(_));
    assert_eq!(inputs.iter().filter(observed).count(), 3);
    assert!(matches!(inputs[0], Input::ForgetProcess { .. }));
    assert!(matches!(inputs[1], Input::KnowProcess { .. }));
    assert_eq!(inputs.last(), Some(&Input::Finish));
    assert!(text.contains("/report"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

/// A head of which the kernel side says nothing more.
fn request(cookie: u64, time_ns: u64) -> Vec<u8> {
    bytes_of(&MessageHead {
        header: Header {
            cookie,
            time_ns,
            ..header(kind::REQUEST, 0)
        },
        ..MessageHead::default()
    })
    .to_vec()
}

/// Something went wrong in process 7.
fn disturbed() -> Vec<u8> {
    bytes_of(&Header {
        cookie: 0,
        time_ns: 20,
        ..header(kind::DISTURBED, 7)
    })
    .to_vec()
}

#[tokio::test]
async fn what_is_told_late_is_brought_into_the_order_of_its_time() {
    let source = Fake {
        records: vec![request(1, 10), disturbed(), request(2, 30), request(3, 15)].into(),
        held: vec![request(4, 17), request(5, 5)],
        ..Fake::default()
    };

    let (_, inputs) = recorded("late", source).await;

    let requests = inputs.into_iter().filter_map(|input| match input {
        Input::Observe(Observation {
            socket,
            what: What::Request { .. },
        }) => Some(socket.cookie),
        _ => None,
    });
    // What is held is asked for again at the end.
    assert_eq!(requests.collect::<Vec<_>>(), [5, 1, 3, 4, 2, 5, 4]);
}

/// An exchange with an upstream that went well.
fn brief(cookie: u64, tgid: u32, time_ns: u64) -> Vec<u8> {
    bytes_of(&Brief {
        kind: kind::BRIEF,
        side: side::UPSTREAM,
        tgid,
        time_ns,
        cookie,
        request_ns: 9,
        status: 200,
        end: end::COMPLETE,
        ..Brief::default()
    })
    .to_vec()
}

#[tokio::test]
async fn what_was_told_in_brief_before_something_went_wrong_has_its_heads() {
    let source = Fake {
        records: vec![
            brief(1, 7, 18),
            brief(2, 8, 19),
            brief(3, 7, 19),
            disturbed(),
        ]
        .into(),
        ended: [1, 2].map(|cookie| (cookie, request(cookie, 10))).into(),
        ..Fake::default()
    };

    let (_, inputs) = recorded("recalled", source).await;

    let observed = inputs.into_iter().filter_map(|input| match input {
        Input::Observe(Observation { socket, what }) => match what {
            What::Request { .. } => Some((socket.cookie, "request")),
            What::InBrief { .. } => Some((socket.cookie, "brief")),
            _ => None,
        },
        _ => None,
    });
    let observed: Vec<_> = observed.collect();
    let brief = |cookie| (cookie, "brief");
    assert_eq!(observed, [(1, "request"), brief(1), brief(2), brief(3)]);
}
