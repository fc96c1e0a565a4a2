//! Observations per second through decode and core, on the exchanges of a busy proxy:
//! keep-alive on both sides, four records a request.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use agent_core::observation::Observation;
use agent_core::{Core, Limits, ProcessInfo, ProcessKind, decode};
use agent_wire::plain::bytes_of;
use agent_wire::record::{Errand, Exchange, Header, MessageHead, end, flag, framing, kind, side};
use criterion::{BatchSize, Criterion, Throughput};

/// Connections on each side.
const CONNECTIONS: u64 = 1024;
/// Requests in one batch; four records each.
const BATCH: u64 = 1024;
/// Nanoseconds from one request to the next: 40,000 a second.
const PACE: u64 = 25_000;

const REQUEST: &[u8] = b"POST /api/orders?id=4711 HTTP/1.1\r\nHost: shop.example\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nAccept: application/json\r\n\
Accept-Encoding: gzip, deflate, br\r\nX-Request-Id: 8c5c8d2e9b2f4b7aa1f0\r\n\
Content-Type: application/json\r\nContent-Length: 312\r\nX-Forwarded-For: 10.0.0.9\r\n\
Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: app/1.0\r\n\
Date: Mon, 23 Nov 2026 10:00:00 GMT\r\nContent-Type: application/json\r\n\
Content-Length: 1200\r\nConnection: keep-alive\r\n\r\n";

/// Writes the records of one request after another.
struct Traffic {
    number: u64,
}

impl Traffic {
    fn batch(&mut self) -> Vec<Vec<u8>> {
        (0..BATCH).flat_map(|_| self.request()).collect()
    }

    fn request(&mut self) -> [Vec<u8>; 4] {
        let connection = self.number % CONNECTIONS;
        let index = (self.number / CONNECTIONS) as u32;
        let at = 1_000_000_000 + self.number * PACE;
        self.number += 1;
        let errand = Errand {
            cookie: 1 + connection,
            index,
            age_us: 80,
        };
        let client = |kind, time_ns| header(kind, side::CLIENT, 1 + connection, time_ns);
        let upstream =
            |kind, time_ns| header(kind, side::UPSTREAM, 1_000_001 + connection, time_ns);
        let asked = |at, errand| Exchange {
            index,
            request_ns: at,
            request_last_ns: at,
            request_bytes: 700,
            request_head_bytes: REQUEST.len() as u32,
            idle_since_ns: if index == 0 { 0 } else { at - 1000 },
            errand,
            ..Exchange::default()
        };
        let answered = |exchange: Exchange, at| Exchange {
            end: end::COMPLETE,
            framing: framing::LENGTH,
            status: 200,
            first_byte_ns: at,
            head_ns: at,
            last_byte_ns: at,
            request_acked: 700,
            response_bytes: RESPONSE.len() as u64 + 1200,
            head_bytes: RESPONSE.len() as u32,
            content_length: 1200,
            ..exchange
        };
        let outer = asked(at, Errand::default());
        let inner = asked(at + 80_000, errand);
        [
            record(client(kind::REQUEST, at), outer, REQUEST),
            record(upstream(kind::REQUEST, at + 80_000), inner, REQUEST),
            record(
                upstream(kind::RESPONSE, at + 900_000),
                answered(inner, at + 900_000),
                RESPONSE,
            ),
            record(
                client(kind::RESPONSE, at + 950_000),
                answered(outer, at + 950_000),
                RESPONSE,
            ),
        ]
    }
}

fn header(kind: u8, side: u8, cookie: u64, time_ns: u64) -> Header {
    let peer = 10 + (cookie % 16) as u8;
    Header {
        kind,
        side,
        flags: flag::SEEN_OPEN | flag::OWN_ERRAND,
        tgid: 100,
        time_ns,
        cookie,
        opened_ns: 900_000_000,
        local: Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets(),
        remote: Ipv4Addr::new(10, 0, 3, peer).to_ipv6_mapped().octets(),
        local_port: 80,
        remote_port: 8080,
        srtt_us: 180,
        ..Header::default()
    }
}

fn record(header: Header, exchange: Exchange, text: &[u8]) -> Vec<u8> {
    let head = MessageHead {
        header,
        exchange,
        captured: text.len() as u32,
        final_start: 0,
    };
    [bytes_of(&head), text].concat()
}

fn decoded(records: &[Vec<u8>]) -> Vec<Observation> {
    records
        .iter()
        .filter_map(|record| decode(record).ok()?.observation())
        .collect()
}

fn core() -> Core {
    let mut core = Core::new(Limits::default());
    core.know_process(
        100,
        ProcessInfo {
            name: Arc::from("nginx"),
            program: Arc::from("nginx"),
            kind: ProcessKind::Known,
            network: None,
            instance: None,
        },
    );
    core
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    group.throughput(Throughput::Elements(4 * BATCH));

    let records = Traffic { number: 0 }.batch();
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            for record in &records {
                let _seen = black_box(decode(record));
            }
        });
    });

    let mut traffic = Traffic { number: 0 };
    let mut one = core();
    let mut out = Vec::new();
    group.bench_function("observe", |bencher| {
        bencher.iter_batched(
            || decoded(&traffic.batch()),
            |batch| {
                for seen in batch {
                    one.observe(seen, &mut out);
                }
                out.clear();
            },
            BatchSize::LargeInput,
        );
    });
    // Not all of them could have been told if the traffic were not taken for what it is.
    let stats = one.stats();
    assert_eq!(
        stats.request_ledger.begun, stats.request_ledger.told,
        "{stats:?}"
    );
    assert_eq!(stats.attempts_unmatched, 0, "{stats:?}");

    let mut traffic = Traffic { number: 0 };
    let mut one = core();
    group.bench_function("decode_and_observe", |bencher| {
        bencher.iter_batched(
            || traffic.batch(),
            |batch| {
                for record in &batch {
                    if let Ok(record) = decode(record) {
                        one.feed(record.into(), &mut out);
                    }
                }
                out.clear();
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    benches(&mut criterion);
    criterion.final_summary();
}
