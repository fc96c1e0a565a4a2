//! Conversations of HTTP/1, in segments that are cut anywhere, repeated, reordered and lost. What is reported
//! is what was said, or says what it lacks.

mod support;

use std::collections::BTreeMap;

use agent_flow::segment::{ACK, FIN};
use agent_wire::record::{UNFOLLOWED, end, flag, framing};
use agent_wire::tally::Tally;
use proptest::prelude::{
    Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use proptest::test_runner::TestCaseError;
use support::{Connection, Emitted, Reported};

/// How a message says where its body ends.
#[derive(Clone, Debug)]
enum Body {
    /// Nothing is said, and there is none.
    None,
    /// Content-Length.
    Length(usize),
    /// Chunks of these sizes, with a trailer or without.
    Chunked(Vec<usize>, bool),
    /// Until the connection closes.
    Close(usize),
}

#[derive(Clone, Debug)]
struct Said {
    method: &'static str,
    upload: Body,
    interim: Vec<u16>,
    status: u16,
    body: Body,
    /// Bytes of other fields in both heads.
    fields: usize,
    /// Which of the conversation it is; its path says so.
    number: usize,
}

impl Said {
    fn has_no_body(&self) -> bool {
        self.method == "HEAD" || self.status == 204 || self.status == 304
    }

    fn request_head(&self) -> String {
        let fields = framing_field(&self.upload) + &filler(self.fields);
        let Self { method, number, .. } = self;
        format!("{method} /{number} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
    }

    fn request(&self) -> Vec<u8> {
        [self.request_head().into_bytes(), encoded(&self.upload)].concat()
    }

    fn response_head(&self) -> String {
        let interim: String = self
            .interim
            .iter()
            .map(|code| format!("HTTP/1.1 {code} Soon\r\nLink: </a>\r\nContent-Length: 7\r\n\r\n"))
            .collect();
        let fields = framing_field(&self.body) + &filler(self.fields);
        format!("{interim}HTTP/1.1 {} Reason\r\n{fields}\r\n", self.status)
    }

    fn response(&self) -> Vec<u8> {
        let body = if self.has_no_body() {
            Vec::new()
        } else {
            encoded(&self.body)
        };
        [self.response_head().into_bytes(), body].concat()
    }

    fn framing(&self) -> u8 {
        match self.body {
            _ if self.has_no_body() => framing::NONE,
            Body::None | Body::Close(_) => framing::CLOSE,
            Body::Length(0) => framing::NONE,
            Body::Length(_) => framing::LENGTH,
            Body::Chunked(..) => framing::CHUNKED,
        }
    }
}

fn framing_field(body: &Body) -> String {
    match body {
        Body::None | Body::Close(_) => String::new(),
        Body::Length(len) => format!("Content-Length: {len}\r\n"),
        Body::Chunked(..) => "Transfer-Encoding: chunked\r\n".to_owned(),
    }
}

/// Fields of `bytes` bytes in all, in lines of up to 100.
fn filler(bytes: usize) -> String {
    let line = |len: usize| format!("X: {}\r\n", "f".repeat(len.saturating_sub(5)));
    line(100).repeat(bytes / 100) + &line(bytes % 100)
}

/// Data that looks like the head of a response and like the end of chunks.
fn data(len: usize) -> Vec<u8> {
    let looks = b"\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    looks.iter().copied().cycle().take(len).collect()
}

fn encoded(body: &Body) -> Vec<u8> {
    match body {
        Body::None => Vec::new(),
        Body::Length(len) | Body::Close(len) => data(*len),
        Body::Chunked(sizes, trailer) => {
            let mut bytes = Vec::new();
            for size in sizes {
                bytes.extend(format!("{size:x}\r\n").into_bytes());
                bytes.extend(data(*size));
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n");
            if *trailer {
                bytes.extend(b"Digest: abc\r\n");
            }
            bytes.extend(b"\r\n");
            bytes
        }
    }
}

fn bodies() -> impl Strategy<Value = Body> {
    prop_oneof![
        (0usize..3000).prop_map(Body::Length),
        (prop::collection::vec(1usize..600, 0..8), any::<bool>())
            .prop_map(|(sizes, trailer)| Body::Chunked(sizes, trailer)),
    ]
}

fn said() -> impl Strategy<Value = Said> {
    let method = prop::sample::select(&["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"][..]);
    let upload = prop_oneof![2 => Just(Body::None), 1 => bodies()];
    let interim = prop::collection::vec(prop::sample::select(&[100u16, 102, 103][..]), 0..3);
    let status = prop::sample::select(&[200u16, 204, 304, 404, 500, 502, 503, 504][..]);
    let fields = prop_oneof![3 => 0usize..300, 1 => 3000usize..3700];
    (method, upload, interim, status, bodies(), fields).prop_map(
        |(method, upload, interim, status, body, fields)| Said {
            method,
            upload: if method == "POST" || method == "PUT" {
                upload
            } else {
                Body::None
            },
            interim,
            status,
            body,
            fields,
            number: 0,
        },
    )
}

/// A few exchanges. The last may end with the connection.
fn conversations() -> impl Strategy<Value = Vec<Said>> {
    let last = prop::option::of((said(), 0usize..2000));
    (prop::collection::vec(said(), 1..5), last).prop_map(|(mut all, last)| {
        if let Some((mut said, len)) = last {
            said.body = Body::Close(len);
            all.push(said);
        }
        for (number, said) in all.iter_mut().enumerate() {
            said.number = number;
        }
        all
    })
}

/// How streams are cut into segments, and what happens to these.
#[derive(Clone, Debug)]
struct Road {
    /// Lengths of segments, used in turn.
    cuts: Vec<usize>,
    /// Every how many segments one is repeated, or a later part of it; 0 for never.
    repeats: usize,
}

/// Segments are of `least` bytes or more, but for what is left of a message.
fn roads(least: usize) -> impl Strategy<Value = Road> {
    let cut = prop_oneof![least..20, least..1500, Just(1448), Just(100_000)];
    (prop::collection::vec(cut, 1..12), 0usize..4)
        .prop_map(|(cuts, repeats)| Road { cuts, repeats })
}

/// Segments of a stream from byte `from` on: where each begins, and its bytes.
fn segments<'a>(road: &Road, from: u32, bytes: &'a [u8], turn: &mut usize) -> Vec<(u32, &'a [u8])> {
    let mut at = 0;
    let mut segments = Vec::new();
    while at < bytes.len() {
        let len = road.cuts[*turn % road.cuts.len()].min(bytes.len() - at);
        segments.push((from + at as u32, &bytes[at..at + len]));
        at += len;
        *turn += 1;
    }
    segments
}

/// What becomes of segments on their way.
#[derive(Clone, Debug)]
struct Disorder {
    /// Places by which a segment is late, used in turn.
    delays: Vec<usize>,
    /// Every how many segments one is lost; 0 for none.
    losses: usize,
}

impl Disorder {
    fn delay(&self, number: usize) -> usize {
        self.delays[number % self.delays.len()]
    }

    fn loses(&self, number: usize) -> bool {
        self.losses != 0 && number % self.losses == self.losses - 1
    }
}

fn disorders() -> impl Strategy<Value = Disorder> {
    let delay = prop_oneof![4 => Just(0usize), 1 => 1usize..5];
    let losses = prop_oneof![Just(0usize), 2usize..12];
    (prop::collection::vec(delay, 1..12), losses)
        .prop_map(|(delays, losses)| Disorder { delays, losses })
}

/// Both directions of a connection.
struct Talk {
    connection: Connection,
    is_client_side: bool,
    road: Road,
    turn: usize,
    /// Bytes said so far, of requests and of responses.
    at: [u32; 2],
}

impl Talk {
    fn new(is_client_side: bool, road: &Road) -> Self {
        let connection = if is_client_side {
            Connection::of_client()
        } else {
            Connection::to_upstream()
        };
        Self {
            connection,
            is_client_side,
            road: road.clone(),
            turn: 0,
            at: [0; 2],
        }
    }

    /// The segments of a message that comes next.
    fn cut<'a>(&mut self, is_response: bool, bytes: &'a [u8]) -> Vec<(u32, &'a [u8])> {
        let at = &mut self.at[usize::from(is_response)];
        let segments = segments(&self.road, *at, bytes, &mut self.turn);
        *at += bytes.len() as u32;
        segments
    }

    fn is_sent(&self, is_response: bool) -> bool {
        is_response == self.is_client_side
    }

    /// A message passes in order, parts of it more than once.
    fn say(&mut self, is_response: bool, bytes: &[u8]) {
        let sent = self.is_sent(is_response);
        let first = self.at[usize::from(is_response)];
        for (number, (at, payload)) in self.cut(is_response, bytes).into_iter().enumerate() {
            if self.road.repeats != 0 && number % self.road.repeats == 0 {
                // What goes again may be longer than what went before.
                let start = (at - first) as usize;
                let again = start.min(7);
                let longer = &bytes[start - again..start + payload.len()];
                self.connection.segment(sent, at - again as u32, longer);
            } else {
                self.connection.segment(sent, at, payload);
            }
            if self.road.repeats != 0 && number % self.road.repeats == 0 {
                let half = payload.len() / 2;
                self.connection.segment(sent, at, payload);
                self.connection
                    .segment(sent, at + half as u32, &payload[half..]);
            }
        }
    }

    /// A message passes with its segments in another order, or without some of them; what this host
    /// sends stays in order.
    fn say_in_disorder(&mut self, is_response: bool, bytes: &[u8], disorder: &Disorder) {
        let sent = self.is_sent(is_response);
        if sent {
            self.say(is_response, bytes);
            return;
        }
        let mut segments: Vec<(usize, (u32, &[u8]))> = self
            .cut(is_response, bytes)
            .into_iter()
            .enumerate()
            .map(|(number, segment)| (number + disorder.delay(number), segment))
            .collect();
        segments.sort_by_key(|(place, _)| *place);
        for (number, (_, (at, payload))) in segments.into_iter().enumerate() {
            if !disorder.loses(number) {
                self.connection.segment(sent, at, payload);
            }
        }
    }

    /// The end that answers closes the connection.
    fn close(&mut self) {
        if self.is_client_side {
            let at = self.at[1];
            self.connection.segment_with(true, at, &[], ACK | FIN);
        } else {
            self.connection.ends(end::PEER_FIN);
        }
    }
}

/// Whether `reported` has everything that `said` has.
fn check(
    said: &Said,
    reported: &Reported,
    is_client_side: bool,
    is_last: bool,
) -> Result<(), TestCaseError> {
    let Reported {
        exchange,
        request,
        response,
        flags,
    } = reported;
    let (asked, heads) = (said.request_head(), said.response_head());
    prop_assert_eq!(exchange.status, said.status);
    prop_assert_eq!(exchange.framing, said.framing());
    prop_assert_eq!(exchange.head_bytes as usize, heads.len());
    prop_assert_eq!(exchange.request_head_bytes as usize, asked.len());
    prop_assert_eq!(request, asked.as_bytes());
    if is_client_side && said.interim.is_empty() {
        prop_assert_eq!(response, &heads.as_bytes()[..response.len()]);
    } else {
        prop_assert_eq!(response, heads.as_bytes());
    }
    prop_assert_eq!(exchange.request_bytes as usize, said.request().len());
    let wrong =
        flag::HEAD_CUT | flag::NOT_HTTP | flag::BAD_CHUNK | flag::NO_REQUEST | flag::PIPELINED;
    prop_assert_eq!(flags & wrong, 0);

    let unfollowed = exchange.content_length == UNFOLLOWED || is_client_side;
    if exchange.framing == framing::CHUNKED && unfollowed {
        // It says itself that its end may have passed unseen; chunks that are sent are not followed.
        return Ok(());
    }
    prop_assert_eq!(exchange.response_bytes as usize, said.response().len());
    let how = match said.framing() {
        framing::CLOSE if is_last && !is_client_side => end::PEER_FIN,
        _ => end::COMPLETE,
    };
    prop_assert_eq!(exchange.end, how);
    if exchange.framing == framing::LENGTH {
        let Body::Length(len) = said.body else {
            return Err(TestCaseError::fail("a length"));
        };
        prop_assert_eq!(exchange.content_length as usize, len);
    }
    Ok(())
}

proptest! {
    #![proptest_config(support::cases(2048))]

    /// Cut anywhere and repeated, but in order: what is reported is what was said.
    #[test]
    fn a_conversation_in_order_is_reported_as_it_was(
        all in conversations(),
        road in roads(1),
        is_client_side in any::<bool>(),
    ) {
        let mut talk = Talk::new(is_client_side, &road);
        for said in &all {
            talk.say(false, &said.request());
            talk.say(true, &said.response());
        }
        talk.close();

        let reported = talk.connection.exchanges();
        let blind = reported.iter().zip(&all).position(|(reported, said)| {
            let unfollowed = reported.exchange.content_length == UNFOLLOWED;
            let chunked = matches!(said.upload, Body::Chunked(..)) && reported.exchange.framing == framing::CHUNKED;
            unfollowed && chunked && road.cuts.iter().any(|cut| *cut < 8)
        });
        let seen = blind.unwrap_or(all.len());
        prop_assert!(reported.len() == all.len() || blind.is_some());
        for (index, (said, reported)) in all.iter().zip(&reported).enumerate().take(seen) {
            prop_assert_eq!(reported.exchange.index as usize, index);
            check(said, reported, is_client_side, index + 1 == all.len())?;
        }
        for loss in [Tally::HEAD_REORDERED, Tally::HEAD_TOO_LONG, Tally::NOT_HTTP] {
            prop_assert_eq!(talk.connection.tally(loss), 0);
        }
        prop_assert!(blind.is_some() || talk.connection.tally(Tally::LEFTOVER) == 0);
    }
}

proptest! {
    #![proptest_config(support::cases(2048))]

    /// Reordered and lost: what is reported is what was said, or says that it is not all.
    #[test]
    fn a_conversation_in_disorder_is_not_reported_otherwise_than_it_was(
        all in conversations(),
        road in roads(8),
        disorder in disorders(),
        is_client_side in any::<bool>(),
    ) {
        let mut talk = Talk::new(is_client_side, &road);
        for said in &all {
            talk.say_in_disorder(false, &said.request(), &disorder);
            talk.say_in_disorder(true, &said.response(), &disorder);
        }
        talk.close();

        let reported = talk.connection.exchanges();
        let lacks = [Tally::HEAD_REORDERED, Tally::HEAD_TOO_LONG, Tally::NOT_HTTP]
            .into_iter()
            .chain([Tally::LEFTOVER, Tally::UNSOLICITED, Tally::PIPELINED])
            .any(|tally| talk.connection.tally(tally) != 0);
        let cut = reported.iter().any(|reported| {
            reported.flags & flag::HEAD_CUT != 0
                || reported.exchange.content_length == UNFOLLOWED
                || reported.exchange.end != end::COMPLETE
        });
        prop_assert!(reported.len() == all.len() || lacks || cut, "{} are missing", all.len() - reported.len());
        for reported in &reported {
            let asked = String::from_utf8_lossy(&reported.request);
            let number = asked.split(['/', ' ']).nth(2).and_then(|number| number.parse::<usize>().ok());
            let is_whole = reported.exchange.end == end::COMPLETE
                && reported.flags & flag::HEAD_CUT == 0
                && reported.exchange.content_length != UNFOLLOWED
                && (reported.exchange.framing != framing::CHUNKED || !is_client_side);
            // These are proof to the daemon.
            prop_assert_eq!(reported.flags & (flag::BAD_CHUNK | flag::NOT_HTTP), 0, "{:?}", reported);
            let Some(said) = number.and_then(|number| all.get(number)) else {
                prop_assert!(reported.flags & (flag::HEAD_CUT | flag::NO_REQUEST) != 0);
                continue;
            };
            if is_whole {
                prop_assert_eq!(reported.exchange.status, said.status);
                prop_assert_eq!(reported.exchange.framing, said.framing());
                prop_assert_eq!(reported.exchange.response_bytes as usize, said.response().len());
            }
        }
    }
}

/// What was emitted of each exchange, by its index.
fn by_exchange(talk: &Talk) -> BTreeMap<u32, Vec<Emitted>> {
    let mut exchanges: BTreeMap<u32, Vec<Emitted>> = BTreeMap::new();
    for record in talk.connection.records() {
        let brief = record.brief().map(|brief| brief.index);
        let whole = record.exchange().map(|exchange| exchange.index);
        if let Some(index) = brief.or(whole) {
            exchanges.entry(index).or_default().push(record);
        }
    }
    exchanges
}

proptest! {
    #![proptest_config(support::cases(2048))]

    /// An exchange that may be told in brief is, and went well; or it is told as any other, byte for byte.
    #[test]
    fn what_may_be_told_in_brief_went_well_or_is_told_as_ever(
        all in conversations(),
        road in roads(1),
        disorder in prop::option::of(disorders()),
        is_client_side in any::<bool>(),
        may_be in prop::collection::vec(any::<[bool; 2]>(), 6),
        room in any::<bool>(),
    ) {
        let [mut whole, mut brief] = [(); 2].map(|()| Talk::new(is_client_side, &road));
        let say = |talk: &mut Talk, is_response, bytes: &[u8]| match &disorder {
            None => talk.say(is_response, bytes),
            Some(disorder) => talk.say_in_disorder(is_response, bytes, disorder),
        };
        brief.connection.host.may_hold.set(room);
        for (said, may_be) in all.iter().zip(&may_be) {
            brief.connection.host.in_brief.set(may_be[0]);
            say(&mut whole, false, &said.request());
            say(&mut brief, false, &said.request());
            brief.connection.host.in_brief.set(may_be[0] && may_be[1]);
            say(&mut whole, true, &said.response());
            say(&mut brief, true, &said.response());
        }
        whole.close();
        brief.close();

        let (whole, told) = (by_exchange(&whole), by_exchange(&brief));
        prop_assert_eq!(whole.keys().collect::<Vec<_>>(), told.keys().collect::<Vec<_>>());
        prop_assert_eq!(brief.connection.flow.held, 0, "nothing is held of what is over");
        for (index, told) in told {
            let whole = &whole[&index];
            let Some(brief) = told[0].brief() else {
                let bytes = |records: &[Emitted]| records.iter().map(|one| one.bytes.clone()).collect::<Vec<_>>();
                prop_assert_eq!(bytes(&told), bytes(whole));
                continue;
            };
            let last = whole.last().and_then(Emitted::exchange).unwrap_or_default();
            prop_assert_eq!(told.len(), 1);
            prop_assert!(room && (200..500).contains(&brief.status));
            prop_assert_eq!((brief.status, brief.end, brief.framing), (last.status, last.end, last.framing));
            prop_assert_eq!((brief.request_ns, u64::from(brief.head_us)), (last.request_ns, (last.head_ns - last.request_ns) / 1000));
            prop_assert!(brief.end == end::COMPLETE || brief.framing == framing::CLOSE);
        }
    }
}
