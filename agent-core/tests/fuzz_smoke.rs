//! A bounded run of the fuzz targets on stable: the seed corpus, mutated.
//!
//! `WHY502_FUZZ_SEED` repeats a run, `WHY502_FUZZ_RUNS` or `WHY502_FUZZ_SECONDS` makes it longer
//! (`cargo xtask fuzz`). An input that fails is kept, and its file named. After a change of the
//! record layout, `cargo test -p agent-core --test fuzz_smoke -- --ignored` writes the corpus
//! anew.
#![expect(clippy::expect_used, reason = "a test may panic")]

#[path = "../fuzz/drive.rs"]
mod drive;
#[path = "support/effort.rs"]
mod effort;
#[path = "support/random.rs"]
mod random;

use std::fs;
use std::panic::{catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use agent_wire::plain::{Plain, bytes_of};
use agent_wire::record::{
    Abandoned, Connect, Death, Dns, End, Errand, Exchange, Header, Hello, MessageHead,
    Path as UnixPath, Reset, Tls, UnixConnect, UnreadClient, end, flag, framing, kind, phase, side,
    talk,
};
use effort::Effort;
use random::Random;

/// Runs per target when nothing else is said; well under a second together.
const RUNS: u64 = 3000;

#[test]
fn mutated_records_are_decoded_or_refused() {
    run("decode", drive::decode, mutate);
}

#[test]
fn mutated_heads_are_parsed_within_bounds() {
    run("head", drive::head, mutate);
}

#[test]
fn mutated_streams_keep_the_core_sound() {
    run("core", drive::core, mutate_stream);
}

#[test]
#[ignore = "writes the seed corpus"]
fn write_the_seed_corpus() {
    let records = records();
    for (at, record) in records.iter().enumerate() {
        write("decode", at, record);
    }
    let heads: [&[u8]; 5] = [
        b"GET /a?b HTTP/1.1\r\nHost: h\r\nX-Request-Id: 1\r\n\r\n",
        b"POST http://u:p@h/a HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\
          traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nServer: s\r\nA : b\r\n c\r\n\r\n",
        b"HTTP/1.1 502 Bad",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
    ];
    for (at, head) in heads.iter().enumerate() {
        write("head", at, head);
    }
    let mut stream = Vec::new();
    for record in &records {
        stream.extend(u16::try_from(record.len()).expect("short").to_le_bytes());
        stream.extend(record);
    }
    write("core", 0, &stream);
    stream.extend([0; 8]);
    write("core", 1, &stream);
}

/// A client's request, refused once and then lost to a race, and one of each other kind.
fn records() -> Vec<Vec<u8>> {
    let errand = Errand {
        cookie: 1,
        index: 0,
        age_us: 100,
    };
    let header = |kind, side, cookie, time_ns| Header {
        kind,
        side,
        flags: flag::SEEN_OPEN | flag::ACTIVE_OPEN | flag::OWN_ERRAND,
        tgid: 100,
        time_ns,
        cookie,
        opened_ns: 1000,
        remote_port: 80,
        srtt_us: 100,
        ..Header::default()
    };
    let asked = |index, request_ns| Exchange {
        index,
        request_ns,
        request_last_ns: request_ns,
        request_bytes: 40,
        request_head_bytes: 40,
        errand,
        ..Exchange::default()
    };
    let raced = Exchange {
        end: end::PEER_FIN,
        peer_fin_ns: 5000,
        ..asked(3, 4000)
    };
    let answered = Exchange {
        end: end::COMPLETE,
        framing: framing::LENGTH,
        status: 502,
        first_byte_ns: 6000,
        head_ns: 6000,
        last_byte_ns: 6000,
        response_bytes: 30,
        head_bytes: 30,
        ..asked(0, 2000)
    };
    let connect = |kind, cookie, outcome| Connect {
        header: header(kind, side::UNKNOWN, cookie, 3000),
        errand,
        outcome,
        ..Connect::default()
    };
    let mut path = UnixPath::default();
    path.bytes[..8].copy_from_slice(b"/run/app");
    let unix = Header {
        errno: 2,
        ..header(kind::UNIX_CONNECT, side::UNKNOWN, 0, 3500)
    };
    let request = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
    let response = b"HTTP/1.1 502 Bad Gateway\r\n\r\n";
    vec![
        message(
            header(kind::REQUEST, side::CLIENT, 1, 2000),
            asked(0, 2000),
            request,
        ),
        bytes(connect(kind::CONNECT, 2, end::PEER_RESET)),
        bytes(connect(kind::CONNECT_ERRNO, 0, end::OPEN)),
        bytes(UnixConnect {
            header: unix,
            errand,
            path_len: 8,
            path,
            ..UnixConnect::default()
        }),
        bytes(connect(kind::CONNECT, 3, end::COMPLETE)),
        message(
            header(kind::REQUEST, side::UPSTREAM, 3, 4000),
            asked(3, 4000),
            request,
        ),
        bytes(End {
            header: header(kind::END, side::UPSTREAM, 3, 5000),
            exchange: raced,
        }),
        bytes(Reset {
            header: header(kind::RESET, side::UPSTREAM, 3, 5500),
            phase: phase::REQUEST,
            direction: 2,
            ..Reset::default()
        }),
        bytes(End {
            header: header(kind::CLOSE, side::UPSTREAM, 3, 5600),
            exchange: Exchange::default(),
        }),
        bytes(Tls {
            header: header(kind::TLS, side::UNKNOWN, 4, 5700),
            errand,
            hello_ns: 5650,
            outcome: end::PEER_FIN,
            ..Tls::default()
        }),
        bytes(Dns {
            header: header(kind::DNS, side::UNKNOWN, 0, 5800),
            errand,
            asked_ns: 5800,
            ..Dns::default()
        }),
        bytes(Death {
            header: header(kind::DEATH, side::UNKNOWN, 0, 5900),
            signal: 9,
            ..Death::default()
        }),
        bytes(Hello {
            header: header(kind::HELLO, side::UNKNOWN, 4, 5660),
            named: 1,
            name_len: 4,
            ..Hello::default()
        }),
        bytes(Abandoned {
            header: header(kind::ABANDONED, side::CLIENT, 5, 5940),
            ..Abandoned::default()
        }),
        bytes(header(kind::IGNORED, side::CLIENT, 5, 5950)),
        bytes(header(kind::CLIENT_LEFT, side::UNKNOWN, 7, 5955)),
        bytes(End {
            header: header(kind::UNREAD, side::UNKNOWN, 6, 5960),
            exchange: Exchange {
                index: 1,
                request_ns: 5955,
                ..Exchange::default()
            },
        }),
        bytes(UnreadClient {
            header: header(kind::UNREAD_CLIENT, side::UNKNOWN, 7, 5970),
            talk: talk::TLS,
            reserved: [0; 7],
        }),
        message(
            header(kind::RESPONSE, side::CLIENT, 1, 6000),
            answered,
            response,
        ),
    ]
}

fn bytes<T: Plain>(record: T) -> Vec<u8> {
    bytes_of(&record).to_vec()
}

fn message(header: Header, exchange: Exchange, text: &[u8]) -> Vec<u8> {
    let captured = u32::try_from(text.len()).expect("short");
    [
        bytes_of(&MessageHead {
            header,
            exchange,
            captured,
            final_start: 0,
        }),
        text,
    ]
    .concat()
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

fn write(target: &str, number: usize, bytes: &[u8]) {
    let folder = corpus(target);
    fs::create_dir_all(&folder).expect("corpus folder");
    fs::write(folder.join(format!("seed-{number}")), bytes).expect("seed");
}

/// Changes an input; the last argument is what pieces may be taken from.
type Mutate = fn(&mut Vec<u8>, &mut Random, &[Vec<u8>]);

fn run(target: &str, drive: fn(&[u8]), mutate: Mutate) {
    let mut effort = Effort::new(target, RUNS);
    let mut seeds: Vec<Vec<u8>> = fs::read_dir(corpus(target))
        .expect("the corpus is committed")
        .map(|entry| fs::read(entry.expect("entry").path()).expect("seed"))
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    for whole in &seeds {
        drive(whole);
    }
    let mut random = Random::new(effort.seed());
    while effort.goes_on() {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(8) {
            mutate(&mut bytes, &mut random, &seeds);
        }
        if let Err(panic) = catch_unwind(|| drive(&bytes)) {
            let kept = std::env::temp_dir().join(format!("why502-fuzz-{target}"));
            fs::write(&kept, &bytes).expect("the input is kept");
            println!("the input that failed: {}", kept.display());
            resume_unwind(panic);
        }
    }
}

/// Changes the order, number and losses of records, or bytes in them.
fn mutate_stream(bytes: &mut Vec<u8>, random: &mut Random, seeds: &[Vec<u8>]) {
    if random.below(2) == 0 {
        mutate(bytes, random, seeds);
        return;
    }
    let mut records = parts(bytes);
    let at = random.below(records.len().max(1));
    match random.below(5) {
        _ if records.is_empty() => {}
        0 => drop(records.remove(at)),
        1 => records.insert(random.below(records.len()), records[at].clone()),
        2 => records.swap(at, at / 2),
        // Time passes, or something is lost.
        3 => records.insert(at, vec![0, 0]),
        _ => records.insert(at, vec![0xff, 0xff]),
    }
    *bytes = records.concat();
}

/// A stream's records, each with its length before it.
fn parts(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    while let Some(length) = stream.first_chunk::<2>() {
        let length = match usize::from(u16::from_le_bytes(*length)) {
            32_768.. => 0,
            length => length,
        };
        let (part, rest) = stream.split_at((length + 2).min(stream.len()));
        parts.push(part.to_vec());
        stream = rest;
    }
    parts
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random, seeds: &[Vec<u8>]) {
    let at = random.below(bytes.len() + 1);
    match random.below(6) {
        0 => bytes.truncate(at),
        1 => {
            let other = &seeds[random.below(seeds.len())];
            let tail = other[random.below(other.len() + 1)..].to_vec();
            bytes.splice(at.., tail);
        }
        2 => {
            let part = bytes[at..(at + random.below(300)).min(bytes.len())].to_vec();
            bytes.extend(part);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = match random.below(3) {
                    0 => *byte ^ (1 << random.below(8)),
                    1 => [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
                    _ => random.next() as u8,
                };
            }
        }
    }
}
