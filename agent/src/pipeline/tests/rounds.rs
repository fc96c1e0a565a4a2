//! How long a round takes records in.

use std::time::Duration;

use agent_wire::plain::bytes_of;
use agent_wire::record::{End, Header, kind};

use super::super::{LONGEST_ROUND, ROUND, questions, slice};
use super::{Fake, close, header, pipeline, pipeline_of};
use crate::clock;
use crate::config::Settings;

/// A connection that is closed at this moment.
pub(super) fn closed_now() -> Vec<u8> {
    let header = Header {
        time_ns: clock::monotonic(),
        ..header(kind::CLOSE, 0)
    };
    bytes_of(&End {
        header,
        ..End::default()
    })
    .to_vec()
}

#[test]
fn a_round_ends_while_records_come_faster_than_they_are_taken_in() {
    let source = Fake {
        records: vec![close(0)].into(),
        coming: 9,
        ..Fake::default()
    };
    let (mut pipeline, report) = pipeline_of(source, &Settings::default());

    let round = pipeline.round();

    pipeline.report();
    let decoded: u64 = report.get().records.decoded.iter().sum();
    let slice = u64::try_from(slice::RECORDS).unwrap();
    assert_eq!((round.more, decoded), (true, 1 + slice));
    assert_eq!(round.pause(LONGEST_ROUND), Duration::ZERO);
    assert_eq!(
        (0..8).map(|_| pipeline.round().more).collect::<Vec<_>>(),
        [true; 8],
        "each takes what came before it, and stops at what came behind"
    );
    let last = pipeline.round();
    assert_eq!((last.more, last.pause(Duration::ZERO)), (false, ROUND));
}

#[tokio::test]
async fn what_waits_at_the_stop_is_drained_before_the_end() {
    let (pipeline, report) = pipeline(vec![close(0)], &Settings::default());
    let (_ask, asked) = questions();

    pipeline.run(asked, std::future::ready(())).await;

    assert_eq!(report.get().records.decoded.iter().sum::<u64>(), 1);
}

#[test]
fn what_came_just_now_waits_for_what_may_go_wrong_after_it() {
    let settings = Settings {
        brief: true,
        ..Settings::default()
    };
    let (mut pipeline, report) = pipeline(vec![close(0), closed_now()], &settings);
    let mut decoded = || {
        pipeline.round();
        pipeline.report();
        report.get().records.decoded.iter().sum::<u64>()
    };

    assert_eq!(decoded(), 1);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(decoded(), 2);
}
