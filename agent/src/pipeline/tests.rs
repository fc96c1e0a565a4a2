//! The pipeline fed with records made by hand.

mod fed;
mod open;
mod rounds;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_core::observation::Nanos;
use agent_wire::plain::bytes_of;
use agent_wire::record::{
    Connect, End, Errand, Exchange, Header, MessageHead, end, flag, framing, kind, side,
};
use agent_wire::tally::{self, SLOTS, Tally};
use tokio::sync::oneshot;

use super::{Pipeline, Sinks, Source, questions};
use crate::attachment::Attaches;
use crate::clock;
use crate::config::Settings;
use crate::events::{EventStream, Interest};
use crate::incidents::Incidents;
use crate::kernel::{Attention, Capability, KernelError, MapUse, ProgramCost};
use crate::metrics::Metrics;
use crate::metrics::exposition::Format;
use crate::metrics::report::{RecordCounts, Report};
use crate::processes::Processes;

/// Records that wait, and what was asked to be ignored.
#[derive(Default)]
struct Fake {
    records: VecDeque<Vec<u8>>,
    /// Full slices of records that come while others are taken in.
    coming: usize,
    /// What is held back.
    held: Vec<Vec<u8>>,
    /// What was, by cookie.
    ended: Vec<(u64, Vec<u8>)>,
    told: Vec<(u32, Attention)>,
    /// The probes' counters; zeros when empty.
    tallies: Vec<u64>,
    /// They cannot be read one by one.
    unreadable: bool,
    whole_since: Nanos,
}

impl Attaches for Fake {
    fn attach(&mut self, _: &Path) -> Result<Nanos, KernelError> {
        Ok(clock::monotonic())
    }

    fn detach(&mut self, _: &Path) {}
}

impl Source for Fake {
    async fn wait(&self, _: Duration) {
        tokio::task::yield_now().await;
    }

    fn whole_since(&self) -> Nanos {
        self.whole_since
    }

    fn drain(&mut self, at_most: usize, mut each: impl FnMut(&[u8])) -> usize {
        if self.records.is_empty() && self.coming > 0 {
            self.coming -= 1;
            self.records
                .extend((0..at_most).map(|_| rounds::closed_now()));
        }
        let count = self.records.len().min(at_most);
        self.records.drain(..count).for_each(|record| each(&record));
        count
    }

    fn held(&self, each: impl FnMut(&[u8])) -> Result<(), KernelError> {
        self.held.iter().map(Vec::as_slice).for_each(each);
        Ok(())
    }

    fn ended(&self, cookie: u64, _: u32, mut each: impl FnMut(&[u8])) -> Result<(), KernelError> {
        let its = self.ended.iter().filter(|(of, _)| *of == cookie);
        its.for_each(|(_, record)| each(record));
        Ok(())
    }

    fn take_serving(&mut self, _: impl FnMut(Nanos, u32)) -> bool {
        true
    }

    fn tallies(&self) -> Result<Vec<u64>, KernelError> {
        let mut tallies = self.tallies.clone();
        tallies.resize(SLOTS as usize, 0);
        Ok(tallies)
    }

    fn tally(&self, slot: u32) -> Result<u64, KernelError> {
        if self.unreadable {
            return Err(KernelError::NoCgroup);
        }
        Ok(self.tallies.get(slot as usize).copied().unwrap_or(0))
    }

    fn programs(&self) -> Vec<ProgramCost> {
        vec![ProgramCost {
            name: "state_changed".to_owned(),
            runs: 3,
            nanos: 1_500_000_000,
            verified_instructions: Some(9),
        }]
    }

    fn maps(&self) -> Vec<MapUse> {
        Vec::new()
    }

    fn capabilities(&self) -> &[Capability] {
        &[]
    }

    fn attend(&mut self, tgid: u32, attention: Attention) -> Result<(), KernelError> {
        self.told.push((tgid, attention));
        Ok(())
    }
}

fn pipeline(records: Vec<Vec<u8>>, settings: &Settings) -> (Pipeline<Fake>, Report) {
    let source = Fake {
        records: records.into(),
        ..Fake::default()
    };
    pipeline_of(source, settings)
}

fn pipeline_of(source: Fake, settings: &Settings) -> (Pipeline<Fake>, Report) {
    let Metrics {
        traffic, report, ..
    } = Metrics::new(settings);
    let sinks = Sinks {
        traffic,
        report: report.clone(),
        stream: EventStream::new(),
        incidents: Incidents::new(settings),
        turned_away: Arc::default(),
        recorder: None,
        directory: None,
        translations: None,
        processes: Processes::new(settings),
        attachment: None,
    };
    (Pipeline::new(source, settings, sinks), report)
}

fn header(kind: u8, tgid: u32) -> Header {
    Header {
        kind,
        tgid,
        time_ns: 5,
        cookie: 1,
        ..Header::default()
    }
}

fn close(tgid: u32) -> Vec<u8> {
    bytes_of(&End {
        header: header(kind::CLOSE, tgid),
        ..End::default()
    })
    .to_vec()
}

#[tokio::test]
async fn records_drained_are_records_decoded_plus_records_refused() {
    let refused_connect = Connect {
        header: header(kind::CONNECT, 0),
        outcome: 99,
        ..Connect::default()
    };
    let records = vec![
        close(0),
        bytes_of(&refused_connect).to_vec(),
        vec![kind::CLOSE, 0, 0],
        vec![250; 400],
        Vec::new(),
    ];
    let (pipeline, report) = pipeline(records, &Settings::default());
    let (ask, asked) = questions();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = async {
        pipeline
            .run(asked, async {
                let _ = stopped.await;
            })
            .await;
    };
    let scrape = async {
        ask.refresh().await;
        let counts = report.get().records;
        stop.send(()).unwrap();
        counts
    };

    let (
        (),
        RecordCounts {
            drained,
            decoded,
            refused,
        },
    ) = tokio::join!(running, scrape);

    assert_eq!(drained.iter().sum::<u64>(), 5);
    assert_eq!(decoded.iter().sum::<u64>(), 1);
    assert_eq!(refused, 4);
    assert_eq!(
        (
            drained[usize::from(kind::CLOSE)],
            decoded[usize::from(kind::CLOSE)]
        ),
        (2, 1)
    );
    assert_eq!(
        drained[kind::COUNT],
        2,
        "kinds that are none have a slot of their own"
    );
}

#[tokio::test]
async fn what_began_before_all_probes_were_there_is_left_aside() {
    let source = Fake {
        records: refused_connect_and_502(std::process::id()).into(),
        whole_since: clock::monotonic(),
        ..Fake::default()
    };
    let (pipeline, report) = pipeline_of(source, &Settings::default());
    let (_ask, asked) = questions();

    pipeline.run(asked, std::future::ready(())).await;

    let told = report.get();
    assert_eq!(told.records.decoded.iter().sum::<u64>(), 3);
    assert!(told.core.skips.contains(&("seen_in_part", 3)), "{told:?}");
    assert!(told.core.tracked.contains(&("requests", 0)), "{told:?}");
}

#[test]
fn the_agent_leaves_itself_and_excluded_processes_alone() {
    let myself = std::process::id();
    let name = std::env::current_exe().unwrap();
    let name = name.file_name().unwrap().to_str().unwrap();
    let excluded = format!("exclude_processes = [\"{name}\"]");
    for settings in ["", excluded.as_str()] {
        let settings = Settings::parse(settings).unwrap();
        let (mut pipeline, _) = pipeline(vec![close(myself)], &settings);
        let ignore = (myself, Attention::Ignore);
        assert_eq!(pipeline.source.told, [ignore]);

        pipeline.round();

        assert_eq!(pipeline.source.told, [ignore, ignore]);
    }
}

#[test]
fn the_cost_of_programs_is_reported_in_seconds() {
    let (_, report) = pipeline(Vec::new(), &Settings::default());

    let program = report.get().programs.remove(0);

    assert_eq!((program.runs, program.seconds), (3, 1.5));
}

/// A client asks, the proxy's connect is refused, the client gets a 502.
fn refused_connect_and_502(tgid: u32) -> Vec<Vec<u8>> {
    const CLIENT: u64 = 10;
    const MS: u64 = 1_000_000;
    let start = clock::monotonic() - 50 * MS;
    let address = |last: u8| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last];
    let client = Header {
        side: side::CLIENT,
        flags: flag::SEEN_OPEN,
        tgid,
        cookie: CLIENT,
        opened_ns: start,
        local: address(1),
        remote: address(9),
        local_port: 80,
        remote_port: 40_000,
        ..Header::default()
    };
    let message = |kind: u8, at: u64, exchange: Exchange, head: &[u8]| {
        let captured = u32::try_from(head.len()).unwrap();
        let header = Header {
            kind,
            time_ns: start + at * MS,
            ..client
        };
        let record = MessageHead {
            header,
            exchange,
            captured,
            final_start: 0,
        };
        [bytes_of(&record), head].concat()
    };
    let asked = b"GET /report?secret=1 HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    let answered = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
    let begun = Exchange {
        request_ns: start + MS,
        request_last_ns: start + MS,
        request_bytes: asked.len() as u64,
        request_head_bytes: u32::try_from(asked.len()).unwrap(),
        ..Exchange::default()
    };
    let done = Exchange {
        end: end::COMPLETE,
        framing: framing::NONE,
        status: 502,
        first_byte_ns: start + 5 * MS,
        head_ns: start + 5 * MS,
        last_byte_ns: start + 5 * MS,
        response_bytes: answered.len() as u64,
        head_bytes: u32::try_from(answered.len()).unwrap(),
        ..begun
    };
    let connect = Connect {
        header: Header {
            kind: kind::CONNECT,
            side: side::UPSTREAM,
            flags: flag::SEEN_OPEN | flag::ACTIVE_OPEN | flag::OWN_ERRAND,
            time_ns: start + 4 * MS,
            opened_ns: start + 3 * MS,
            cookie: 20,
            remote: address(17),
            remote_port: 8080,
            syns: 1,
            errno: 111,
            ..client
        },
        errand: Errand {
            cookie: CLIENT,
            index: 0,
            age_us: 2000,
        },
        outcome: end::PEER_RESET,
        ..Connect::default()
    };
    vec![
        message(kind::REQUEST, 1, begun, asked),
        bytes_of(&connect).to_vec(),
        message(kind::RESPONSE, 5, done, answered),
    ]
}

#[tokio::test]
async fn a_refused_connect_comes_out_as_metrics_and_as_an_event() {
    let name = std::env::current_exe().unwrap();
    let name = name.file_name().unwrap().to_str().unwrap().to_owned();
    let settings = Settings::parse(&format!("[proxy_names]\n\"{name}\" = \"nginx\"")).unwrap();
    let Metrics {
        registry,
        traffic,
        report,
        ..
    } = Metrics::new(&settings);
    let stream = EventStream::new();
    let mut reader = stream.subscribe(Interest::Trouble);
    let incidents = Incidents::new(&settings);
    let sinks = Sinks {
        traffic,
        report,
        stream,
        incidents: incidents.clone(),
        turned_away: Arc::default(),
        recorder: None,
        directory: None,
        translations: None,
        processes: Processes::new(&settings),
        attachment: None,
    };
    let records = refused_connect_and_502(std::process::id());
    let source = Fake {
        records: records.into(),
        ..Fake::default()
    };
    let (_ask, asked) = questions();

    Pipeline::new(source, &settings, sinks)
        .run(asked, std::future::ready(()))
        .await;

    let text = String::from_utf8(Format::Text.to_vec(&registry).unwrap()).unwrap();
    for series in [
        "why502_gateway_responses_total{proxy=\"nginx\",code=\"502\"} 1",
        "why502_gateway_errors_total{proxy=\"nginx\",code=\"502\",cause=\"connect_refused\",\
         upstream=\"10.0.0.17:8080\",certainty=\"proof\"} 1",
        "why502_upstream_failures_total{proxy=\"nginx\",upstream=\"10.0.0.17:8080\",\
         cause=\"connect_refused\",phase=\"connect\",masked=\"false\"} 1",
        "why502_tcp_connects_total{proxy=\"nginx\",upstream=\"10.0.0.17:8080\",result=\"refused\"} 1",
    ] {
        assert!(text.contains(series), "{series} is not in\n{text}");
    }
    let line = reader.next().await.unwrap();
    let event: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(event["type"], "request");
    assert_eq!(event["cause"], "connect_refused");
    assert_eq!(event["path"], "/report");
    assert_eq!(event["upstream"], "10.0.0.17:8080");
    assert_eq!(event["join"], "errand");
    assert_eq!(
        event["words"],
        "failed (111: Connection refused) while connecting to upstream"
    );
    assert_eq!(event["id"], 1);
    let kept = incidents.get(1).unwrap().shape();
    assert_eq!(serde_json::to_value(kept).unwrap()["cause"], event["cause"]);
    assert!(
        text.contains("why502_agent_incidents_total{fate=\"stored\"} 1"),
        "{text}"
    );
    assert!(
        text.contains("why502_agent_tracked{what=\"incidents\"} 1"),
        "{text}"
    );
    assert!(
        !String::from_utf8_lossy(&line).contains("secret"),
        "the query stays inside"
    );
    assert_eq!(
        reader.next().await,
        None,
        "the attempt is told with its request only"
    );
}

/// All series, and the certainty of the one error told, of a refused connect behind which the
/// probes' counters are these.
async fn with_tallies(tallies: Vec<u64>) -> (String, serde_json::Value) {
    with_counters(tallies, false).await
}

async fn with_counters(tallies: Vec<u64>, unreadable: bool) -> (String, serde_json::Value) {
    let name = std::env::current_exe().unwrap();
    let name = name.file_name().unwrap().to_str().unwrap().to_owned();
    let settings = Settings::parse(&format!("[proxy_names]\n\"{name}\" = \"nginx\"")).unwrap();
    let Metrics {
        registry,
        traffic,
        report,
        ..
    } = Metrics::new(&settings);
    let stream = EventStream::new();
    let mut reader = stream.subscribe(Interest::Trouble);
    let sinks = Sinks {
        traffic,
        report,
        stream,
        incidents: Incidents::new(&settings),
        turned_away: Arc::default(),
        recorder: None,
        directory: None,
        translations: None,
        processes: Processes::new(&settings),
        attachment: None,
    };
    let source = Fake {
        records: refused_connect_and_502(std::process::id()).into(),
        tallies,
        unreadable,
        ..Fake::default()
    };
    let (_ask, asked) = questions();
    Pipeline::new(source, &settings, sinks)
        .run(asked, std::future::ready(()))
        .await;
    let text = String::from_utf8(Format::Text.to_vec(&registry).unwrap()).unwrap();
    let event: serde_json::Value = serde_json::from_slice(&reader.next().await.unwrap()).unwrap();
    (text, event["certainty"].clone())
}

#[tokio::test]
async fn what_came_behind_a_loss_is_no_proof() {
    assert_eq!(with_tallies(Vec::new()).await.1, "proof");
    for lost in [
        tally::RING_FULL + u32::from(kind::CONNECT),
        Tally::STORAGE_FAILED.0,
        Tally::CONNECTING_FULL.0,
        Tally::SCRATCH_BUSY.0,
        Tally::STATE_MISSED.0,
    ] {
        let mut tallies = vec![0; SLOTS as usize];
        tallies[lost as usize] = 1;

        assert_eq!(with_tallies(tallies).await.1, "strong", "slot {lost}");
    }
}

#[tokio::test]
async fn counters_that_cannot_be_read_may_hide_a_loss() {
    assert_eq!(with_counters(Vec::new(), true).await.1, "strong");
}

#[tokio::test]
async fn every_counter_of_the_probes_comes_out_under_its_name() {
    let tallies: Vec<u64> = (1000..1000 + u64::from(SLOTS)).collect();

    let (text, _) = with_tallies(tallies.clone()).await;

    let mut expected = Vec::new();
    for slot in 0..kind::COUNT {
        // Kinds begin with 1.
        let Some(name) = tally::kind_name(slot as u8) else {
            assert_eq!(slot, 0);
            continue;
        };
        let emitted = tallies[tally::EMITTED as usize + slot];
        let lost = tallies[tally::RING_FULL as usize + slot];
        expected.push(format!(
            "why502_agent_records_total{{kind=\"{name}\",stage=\"emitted\"}} {emitted}.0"
        ));
        expected.push(format!(
            "why502_agent_losses_total{{stage=\"ring\",what=\"{name}\"}} {lost}.0"
        ));
    }
    for (slot, name, is_loss) in tally::NAMED {
        let count = tallies[slot.0 as usize];
        expected.push(if is_loss {
            format!("why502_agent_losses_total{{stage=\"probes\",what=\"{name}\"}} {count}.0")
        } else {
            format!("why502_agent_skips_total{{what=\"{name}\"}} {count}.0")
        });
    }
    assert_eq!(expected.len(), SLOTS as usize - 2, "each slot has one name");
    for series in expected {
        assert!(
            text.lines().any(|line| line == series),
            "{series} is not in\n{text}"
        );
    }
}

#[tokio::test]
async fn errors_seen_are_errors_explained_and_unattributed() {
    let (text, _) = with_tallies(Vec::new()).await;

    for series in [
        "why502_agent_explanations_total{fate=\"seen\"} 1.0",
        "why502_agent_explanations_total{fate=\"explained\"} 1.0",
        "why502_agent_explanations_total{fate=\"unattributed\"} 0.0",
        "why502_agent_coverage{} 1.0",
    ] {
        assert!(
            text.lines().any(|line| line == series),
            "{series} is not in\n{text}"
        );
    }
}
