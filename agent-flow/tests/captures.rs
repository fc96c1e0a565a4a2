//! Captures of real conversations, walked through from the end that opened the connection and from the other.
//!
//! In: those in `tests/captures`, and those below the folder that `WHY502_CAPTURES` names, if it does. Out:
//! each is reported as if its segments had come in order, or what is missing is reported.

#[path = "support/capture.rs"]
mod capture;
mod support;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use agent_flow::segment::{ACK, FIN, RST, SYN};
use agent_wire::record::{UNFOLLOWED, end, flag, framing};
use agent_wire::tally::Tally;
use capture::{Capture, Captured};
use support::{Connection, Reported};

/// Names a folder with more captures.
const MORE: &str = "WHY502_CAPTURES";

/// Segments that wait for missing bytes ahead of them, at most.
const HELD_BACK: usize = 1000;

/// A segment of a connection, by the place of its first byte in the stream.
#[derive(Clone, Debug)]
struct Piece {
    /// It goes from the end that opened the connection.
    from_opener: bool,
    at: u32,
    flags: u8,
    payload: Vec<u8>,
}

/// One connection of a capture.
#[derive(Clone, Debug, Default)]
struct Conversation {
    pieces: Vec<Piece>,
}

/// From where it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Opener,
    Acceptor,
}

/// Both ends of a connection, the lesser one first.
fn ends(one: &Captured) -> (SocketAddr, SocketAddr) {
    (one.from.min(one.to), one.from.max(one.to))
}

/// The connections of a capture, in the order in which they began.
fn conversations(capture: &Capture) -> Vec<Conversation> {
    let mut all: Vec<Vec<&Captured>> = Vec::new();
    let mut open: BTreeMap<_, usize> = BTreeMap::new();
    for segment in &capture.segments {
        let begins = segment.flags & (SYN | ACK) == SYN;
        let next = all.len();
        let at = open.entry(ends(segment)).or_insert(next);
        // A port that is used again, and not the same SYN once more.
        let is_over = || all[*at].iter().any(|one| one.flags & (FIN | RST) != 0);
        if *at < next && begins && is_over() {
            *at = next;
        }
        if *at == next {
            all.push(Vec::new());
        }
        all[*at].push(segment);
    }
    all.iter().map(|one| Conversation::of(one)).collect()
}

/// Who opened it: who sent the SYN, or what only a client sends, or else who is seen first.
fn opener(segments: &[&Captured]) -> Option<SocketAddr> {
    let syn = segments.iter().find(|one| one.flags & SYN != 0);
    let by_syn = syn.map(|one| {
        if one.flags & ACK == 0 {
            one.from
        } else {
            one.to
        }
    });
    let answers = |one: &&&Captured| one.payload.starts_with(b"HTTP/1.");
    let by_answer = || segments.iter().find(answers).map(|one| one.to);
    by_syn
        .or_else(by_answer)
        .or_else(|| segments.first().map(|one| one.from))
}

impl Conversation {
    fn of(segments: &[&Captured]) -> Self {
        let opener = opener(segments);
        // The first byte of each direction.
        let mut starts: [Option<u32>; 2] = [None; 2];
        let mut pieces = Vec::new();
        for segment in segments {
            let from_opener = Some(segment.from) == opener;
            // A SYN has a number of its own.
            let syn = u32::from(segment.flags & SYN != 0);
            let first = segment.seq.wrapping_add(syn);
            let start = *starts[usize::from(from_opener)].get_or_insert(first);
            pieces.push(Piece {
                from_opener,
                at: first.wrapping_sub(start),
                flags: segment.flags,
                payload: segment.payload.clone(),
            });
        }
        Self { pieces }
    }

    /// The same as who reads it gets it: in order, each byte once; and whether that is all of it. What is
    /// behind bytes that were not captured is left out.
    fn in_order(&self) -> (Self, bool) {
        let mut next = [0_u32; 2];
        let mut waiting: Vec<&Piece> = Vec::new();
        let mut pieces = Vec::new();
        for piece in &self.pieces {
            waiting.push(piece);
            assert!(waiting.len() <= HELD_BACK, "too much of it is missing");
            while let Some(found) = waiting
                .iter()
                .position(|one| next[usize::from(one.from_opener)].wrapping_sub(one.at) < 1 << 31)
            {
                let one = waiting.remove(found);
                let next = &mut next[usize::from(one.from_opener)];
                let known = next.wrapping_sub(one.at) as usize;
                let payload = one.payload.get(known..).unwrap_or_default().to_vec();
                let at = *next;
                *next = next.wrapping_add(payload.len() as u32);
                if !payload.is_empty() || one.flags & (FIN | RST | SYN) != 0 {
                    pieces.push(Piece {
                        at,
                        payload,
                        ..*one
                    });
                }
            }
        }
        let is_all = waiting.iter().all(|one| one.payload.is_empty());
        (Self { pieces }, is_all)
    }

    /// What that end of it reports.
    fn seen_from(&self, end: End) -> Connection {
        let mut connection = match end {
            End::Opener => Connection::to_upstream(),
            End::Acceptor => Connection::of_client(),
        };
        for piece in &self.pieces {
            let sent = piece.from_opener == (end == End::Opener);
            if piece.flags & SYN != 0 && piece.payload.is_empty() {
                continue;
            }
            connection.segment_with(sent, piece.at, &piece.payload, piece.flags & !SYN);
            if piece.flags & RST != 0 {
                let how = if sent {
                    end::LOCAL_RESET
                } else {
                    end::PEER_RESET
                };
                connection.ends(how);
                return connection;
            }
        }
        let peer_closed =
            |one: &&Piece| one.flags & FIN != 0 && one.from_opener != (end == End::Opener);
        let how = if self.pieces.iter().any(|piece| peer_closed(&piece)) {
            end::PEER_FIN
        } else {
            end::LOCAL_CLOSE
        };
        connection.ends(how);
        connection
    }
}

/// The captures in a folder and below it, sorted.
fn captures(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{} cannot be read: {error}", folder.display()));
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap_or_else(|error| panic!("{error}")).path();
        let is_capture = path
            .extension()
            .is_some_and(|ending| ending == "pcap" || ending == "pcapng");
        if path.is_dir() {
            found.extend(captures(&path));
        } else if is_capture {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Request line and status of each exchange.
fn lines(exchanges: &[Reported]) -> Vec<String> {
    let line = |one: &Reported| {
        let asked = one.request.split(|byte| *byte == b'\r' || *byte == b'\n');
        let asked = asked.take(1).next().unwrap_or_default();
        let asked = String::from_utf8_lossy(asked);
        format!("{asked} -> {}", one.exchange.status)
    };
    exchanges.iter().map(line).collect()
}

/// It says that something of it was not seen.
fn lacks(one: &Reported) -> bool {
    one.flags & (flag::HEAD_CUT | flag::NO_REQUEST | flag::PIPELINED) != 0
        || one.exchange.content_length == UNFOLLOWED
        || one.exchange.end != end::COMPLETE
}

/// Something was counted that says the same of the connection.
fn is_short(connection: &Connection) -> bool {
    [
        Tally::HEAD_REORDERED,
        Tally::HEAD_TOO_LONG,
        Tally::NOT_HTTP,
        Tally::LEFTOVER,
        Tally::UNSOLICITED,
        Tally::PIPELINED,
    ]
    .into_iter()
    .any(|tally| connection.tally(tally) != 0)
}

/// What must be reported of a whole exchange in any order of its segments; its length only if all of the
/// connection was captured. Chunks that are sent to clients are not followed.
fn whole(one: &Reported, is_all: bool) -> (String, u8, u32, Option<u64>) {
    let exchange = &one.exchange;
    let counts = is_all && exchange.framing != framing::CHUNKED;
    let bytes = counts.then_some(exchange.response_bytes);
    (
        lines(std::slice::from_ref(one)).concat(),
        exchange.framing,
        exchange.head_bytes,
        bytes,
    )
}

/// What one capture came to.
#[derive(Debug, Default)]
struct Walked {
    connections: usize,
    exchanges: usize,
    complete: usize,
    short: usize,
    mistakes: Vec<String>,
}

fn walk(path: &Path) -> Walked {
    let capture = Capture::read(path);
    let mut walked = Walked::default();
    for conversation in conversations(&capture) {
        walked.connections += 1;
        let (in_order, is_all) = conversation.in_order();
        for end in [End::Opener, End::Acceptor] {
            let as_captured = conversation.seen_from(end);
            let ordered = in_order.seen_from(end);
            let (came, meant) = (as_captured.exchanges(), ordered.exchanges());
            if end == End::Opener {
                walked.exchanges += came.len();
                walked.complete += came.iter().filter(|one| !lacks(one)).count();
                walked.short += usize::from(is_short(&as_captured));
            }
            let meant_whole: HashSet<_> = meant.iter().map(|one| whole(one, is_all)).collect();
            for one in came.iter().filter(|one| !lacks(one)) {
                let one = whole(one, is_all);
                if !meant_whole.contains(&one) {
                    walked.mistakes.push(format!(
                        "{end:?}: captured {one:?}, in order {:?}",
                        lines(&meant)
                    ));
                }
            }
            let says_so = is_short(&as_captured) || came.iter().any(lacks);
            if came.len() != meant.len() && !says_so {
                walked.mistakes.push(format!(
                    "{end:?}: {:?} captured, {:?} in order",
                    lines(&came),
                    lines(&meant)
                ));
            }
        }
    }
    walked
}

#[test]
fn what_is_reported_of_captured_segments_is_what_they_say_in_order() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut all = captures(&own);
    match std::env::var_os(MORE) {
        Some(more) => all.extend(captures(Path::new(&more))),
        None => println!("{MORE} names no folder with more captures"),
    }
    assert!(!all.is_empty());
    let mut mistakes = BTreeSet::new();
    for path in all {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let walked = walk(&path);
        println!(
            "{name}: {} connections, {} exchanges, {} of them whole, {} connections of which something lacks",
            walked.connections, walked.exchanges, walked.complete, walked.short
        );
        let of_it = walked.mistakes.into_iter();
        mistakes.extend(of_it.map(|mistake| format!("{name}: {mistake}")));
    }
    let mistakes: Vec<_> = mistakes.into_iter().collect();
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

/// The first requests of a client, which its proxy passes on over one connection.
const PASSED_ON: [&str; 7] = [
    "GET /first HTTP/1.1 -> 200",
    "GET /chunked HTTP/1.1 -> 200",
    "GET /none HTTP/1.1 -> 204",
    "GET /large HTTP/1.1 -> 200",
    "POST /post HTTP/1.1 -> 200",
    "HEAD /head HTTP/1.1 -> 200",
    "GET /error HTTP/1.1 -> 503",
];

/// The exchanges of an nginx with its clients and with its application, connection by connection, on one
/// loopback of 1500 bytes a packet. nginx 1.22 gives no answer if 103 comes first.
fn gateway() -> [Vec<&'static str>; 8] {
    let kept = [
        "GET /after HTTP/1.1 -> 200",
        "GET /cut HTTP/1.1 -> 200, not whole",
    ];
    [
        PASSED_ON.to_vec(),
        [&PASSED_ON[..], &kept].concat(),
        vec![
            "GET /refused/one HTTP/1.1 -> 502",
            "GET /after HTTP/1.1 -> 200",
        ],
        // Nobody listened.
        vec![],
        vec!["GET /cut HTTP/1.1 -> 200, not whole"],
        // Of what a client pipelines the first line is known.
        vec![
            "GET /pipelined/1 HTTP/1.1 -> 200, not whole",
            " -> 200, not whole",
            " -> 200, not whole",
        ],
        vec![
            "GET /pipelined/1 HTTP/1.1 -> 200",
            "GET /pipelined/2 HTTP/1.1 -> 200",
            "GET /pipelined/3 HTTP/1.1 -> 200",
            "GET /early HTTP/1.1 -> 200",
        ],
        vec!["GET /early HTTP/1.1 -> 0, not whole"],
    ]
}

#[test]
fn each_exchange_of_a_gateway_is_reported_from_both_of_its_ends() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures/gateway.pcap");
    let all = conversations(&Capture::read(&path));
    let from = |end: End| -> Vec<Vec<String>> {
        let seen = all.iter().map(|one| one.seen_from(end).exchanges());
        let told = |one: &Reported| {
            let line = lines(std::slice::from_ref(one)).concat();
            format!("{line}{}", if lacks(one) { ", not whole" } else { "" })
        };
        seen.map(|exchanges| exchanges.iter().map(told).collect())
            .collect()
    };
    assert_eq!(from(End::Opener), gateway());
    // Who accepted it does not follow the chunks that it sends.
    let unfollowed = |line: &&str| match *line {
        "GET /chunked HTTP/1.1 -> 200" => format!("{line}, not whole"),
        line => line.to_owned(),
    };
    let accepted = gateway().map(|lines| lines.iter().map(unfollowed).collect::<Vec<_>>());
    assert_eq!(from(End::Acceptor), accepted);
}
