//! What is sent: answers and requests that no well-meaning program makes.

use std::time::Duration;

/// Bytes to write one piece after the other, with a pause before each but the first.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// What it is called when something is wrong with it.
    pub(crate) name: String,
    /// The pieces.
    pub(crate) pieces: Vec<Vec<u8>>,
    /// The pause.
    pub(crate) pause: Duration,
    /// Pieces of this many bytes follow, without a pause, until so many bytes are written.
    pub(crate) filler: u64,
}

/// Between two bytes of what drips.
const DRIP: Duration = Duration::from_millis(2);

impl Shape {
    fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.into(),
            pieces: vec![bytes.into()],
            pause: Duration::ZERO,
            filler: 0,
        }
    }

    fn dripping(name: &str, bytes: &[u8]) -> Self {
        Self {
            pieces: bytes.iter().map(|byte| vec![*byte]).collect(),
            pause: DRIP,
            ..Self::new(name, [])
        }
    }

    fn filled(self, filler: u64) -> Self {
        Self { filler, ..self }
    }
}

/// Answers of an upstream.
pub(crate) fn answers(body: u64) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for byte in 0..=255u8 {
        let mut with = |name: &str, before: &str, after: &str| {
            let bytes = [before.as_bytes(), &[byte], after.as_bytes()].concat();
            shapes.push(Shape::new(format!("{name} {byte:#04x}"), bytes));
        };
        with(
            "first byte",
            "",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        );
        with("version", "HTTP/1.", " 200 OK\r\nContent-Length: 0\r\n\r\n");
        with("status", "HTTP/1.1 2", "0 OK\r\nContent-Length: 0\r\n\r\n");
        with("reason", "HTTP/1.1 200 O", "K\r\nContent-Length: 0\r\n\r\n");
        with(
            "name",
            "HTTP/1.1 200 OK\r\nX",
            "Y: 1\r\nContent-Length: 0\r\n\r\n",
        );
        with(
            "value",
            "HTTP/1.1 200 OK\r\nX: a",
            "b\r\nContent-Length: 0\r\n\r\n",
        );
        with("length", "HTTP/1.1 200 OK\r\nContent-Length: ", "\r\n\r\n");
        with(
            "chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "\r\na\r\n0\r\n\r\n",
        );
        with(
            "last bytes",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r",
            "",
        );
    }
    let head = "HTTP/1.1 200 OK\r\n";
    let many = "X-A: b\r\n".repeat(20_000);
    for (name, text) in [
        ("nothing", String::new()),
        ("many headers", format!("{head}{many}\r\n")),
        (
            "long header",
            format!("{head}X: {}\r\n\r\n", "a".repeat(200_000)),
        ),
        (
            "long reason",
            format!("HTTP/1.1 200 {}\r\n\r\n", "a".repeat(70_000)),
        ),
        (
            "no end of the head",
            format!("{head}{}", "X: y\r\n".repeat(50)),
        ),
        (
            "two lengths",
            format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"),
        ),
        (
            "same length twice",
            format!("{head}Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde"),
        ),
        (
            "length and chunks",
            format!("{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "chunked twice",
            format!(
                "{head}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "chunked, then not",
            format!("{head}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        ),
        (
            "unknown coding",
            format!("{head}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "length with a sign",
            format!("{head}Content-Length: +5\r\n\r\nabcde"),
        ),
        (
            "length below zero",
            format!("{head}Content-Length: -1\r\n\r\n"),
        ),
        (
            "length beyond 64 bits",
            format!("{head}Content-Length: 99999999999999999999999\r\n\r\nabc"),
        ),
        (
            "length of 63 bits",
            format!("{head}Content-Length: 9223372036854775807\r\n\r\nabc"),
        ),
        (
            "length list",
            format!("{head}Content-Length: 5, 5\r\n\r\nabcde"),
        ),
        (
            "folded length",
            format!("{head}Content-Length:\r\n 5\r\n\r\nabcde"),
        ),
        (
            "space before the colon",
            format!("{head}Content-Length : 5\r\n\r\nabcde"),
        ),
        (
            "bare line feeds",
            "HTTP/1.1 200 OK\nContent-Length: 5\n\nabcde".to_owned(),
        ),
        (
            "bare carriage returns",
            "HTTP/1.1 200 OK\rContent-Length: 5\r\rabcde".to_owned(),
        ),
        ("HTTP/0.9", "<html></html>".to_owned()),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("status of two digits", "HTTP/1.1 99 x\r\n\r\n".to_owned()),
        (
            "status of four digits",
            "HTTP/1.1 1000 x\r\n\r\n".to_owned(),
        ),
        (
            "status 000",
            "HTTP/1.1 000 x\r\nContent-Length: 0\r\n\r\n".to_owned(),
        ),
        (
            "status 600",
            "HTTP/1.1 600 x\r\nContent-Length: 0\r\n\r\n".to_owned(),
        ),
        (
            "100 without end",
            "HTTP/1.1 100 Continue\r\n\r\n".repeat(200),
        ),
        (
            "100 and 200",
            format!("HTTP/1.1 100 Continue\r\n\r\n{head}Content-Length: 0\r\n\r\n"),
        ),
        (
            "101 unasked",
            "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n\0\0".to_owned(),
        ),
        (
            "204 with a body",
            "HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nabcde".to_owned(),
        ),
        (
            "two answers",
            format!("{head}Content-Length: 0\r\n\r\n").repeat(2),
        ),
        (
            "more than its length",
            format!("{head}Content-Length: 2\r\n\r\nabcdefgh"),
        ),
        (
            "large chunk",
            format!("{head}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc"),
        ),
        (
            "huge chunk size",
            format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n{}1\r\na\r\n0\r\n\r\n",
                "0".repeat(9000)
            ),
        ),
        (
            "chunk size with 0x",
            format!("{head}Transfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n"),
        ),
        (
            "chunk size below zero",
            format!("{head}Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n"),
        ),
        (
            "chunk extension",
            format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n5;{}=1\r\nabcde\r\n0\r\n\r\n",
                "x".repeat(3000)
            ),
        ),
        (
            "chunk too long",
            format!("{head}Transfer-Encoding: chunked\r\n\r\n2\r\nabcdef\r\n0\r\n\r\n"),
        ),
        (
            "chunks of one byte",
            format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
                "1\r\na\r\n".repeat(5000)
            ),
        ),
        (
            "trailers",
            format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n0\r\n{}\r\n",
                "T: a\r\n".repeat(300)
            ),
        ),
    ] {
        shapes.push(Shape::new(name, text));
    }
    shapes.push(Shape::dripping(
        "dripping head",
        b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 3\r\n\r\nabc",
    ));
    let endless = format!("{head}{}", "X-A: b\r\n".repeat(90));
    shapes.push(Shape::dripping("head that never ends", endless.as_bytes()));
    let sized = format!("{head}Content-Length: {body}\r\n\r\n");
    shapes.push(Shape::new("large body", sized).filled(body));
    shapes.push(Shape::new("large body without length", format!("{head}\r\n")).filled(body / 64));
    shapes
}

/// Requests of a client; `{}` stands for a path that no other shape has.
pub(crate) fn requests(path: impl Fn(usize) -> String, body: u64) -> Vec<Shape> {
    let mut shapes = Vec::new();
    let mut number = 0;
    let mut add = |name: String, before: &str, byte: &[u8], after: &str| {
        let fill = |text: &str, number: usize| text.replace("{}", &path(number)).into_bytes();
        let bytes = [fill(before, number), byte.to_vec(), fill(after, number)].concat();
        number += 1;
        shapes.push(Shape::new(name, bytes));
    };
    let end = " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    for byte in 0..=255u8 {
        let one = &[byte][..];
        let name = |what: &str| format!("{what} {byte:#04x}");
        add(name("first byte"), "", one, &format!("GET {{}}{end}"));
        add(name("method"), "G", one, &format!("T {{}}{end}"));
        add(name("query"), "GET {}?a", one, &format!("b{end}"));
        add(
            name("version"),
            "GET {} HTTP/1.",
            one,
            "\r\nHost: h\r\nConnection: close\r\n\r\n",
        );
        add(
            name("name"),
            "GET {} HTTP/1.1\r\nHost: h\r\nX",
            one,
            ": 1\r\nConnection: close\r\n\r\n",
        );
        add(
            name("value"),
            "GET {} HTTP/1.1\r\nHost: h\r\nX: ",
            one,
            "1\r\nConnection: close\r\n\r\n",
        );
        add(
            name("length"),
            "POST {} HTTP/1.1\r\nHost: h\r\nContent-Length: ",
            one,
            "\r\nConnection: close\r\n\r\n0123456789",
        );
    }
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let post = "POST {} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n";
    for (name, text) in [
        (
            "length before chunks",
            format!(
                "{post}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
            ),
        ),
        (
            "chunks before length",
            format!(
                "{post}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n26\r\n{smuggled}\r\n0\r\n\r\n"
            ),
        ),
        (
            "request in a body",
            format!("{post}Content-Length: {}\r\n\r\n{smuggled}", smuggled.len()),
        ),
        (
            "request in a chunk",
            format!(
                "{post}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{smuggled}\r\n0\r\n\r\n",
                smuggled.len()
            ),
        ),
        (
            "two lengths",
            format!("{post}Content-Length: 0\r\nContent-Length: 30\r\n\r\n{smuggled}"),
        ),
        (
            "hidden coding",
            format!("{post}Transfer-Encoding:\x0bchunked\r\nContent-Length: 2\r\n\r\nab"),
        ),
        (
            "folded coding",
            format!("{post}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "coding that is none",
            format!("{post}Transfer-Encoding: cow\r\n\r\n"),
        ),
        (
            "GET with a body",
            format!(
                "GET {{}} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{smuggled}",
                smuggled.len()
            ),
        ),
        (
            "line feeds only",
            "GET {} HTTP/1.1\nHost: h\nConnection: close\n\n".to_owned(),
        ),
        ("HTTP/0.9", "GET {}\r\n".to_owned()),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("empty lines first", format!("\r\n\r\n\r\nGET {{}}{end}")),
        ("absolute form", format!("GET http://h{{}}{end}")),
        (
            "CONNECT",
            "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        ),
        ("TRACE", format!("TRACE {{}}{end}")),
        (
            "no host",
            "GET {} HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(),
        ),
        (
            "two hosts",
            "GET {} HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n".to_owned(),
        ),
        (
            "many headers",
            format!(
                "GET {{}} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{}\r\n",
                "X: y\r\n".repeat(5000)
            ),
        ),
        (
            "long header",
            format!(
                "GET {{}} HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
                "a".repeat(60_000)
            ),
        ),
        ("long path", format!("GET {{}}/{}{end}", "a".repeat(60_000))),
        ("long method", format!("{} {{}}{end}", "A".repeat(60_000))),
        ("TLS", "\x16\x03\x01\x02\0\x01\0\x01".to_owned()),
        (
            "half a head",
            "GET {} HTTP/1.1\r\nHost: h\r\nX-A".to_owned(),
        ),
        ("nothing", String::new()),
    ] {
        add(name.to_owned(), &text, b"", "");
    }
    let slow = format!("GET {}{end}", path(usize::MAX));
    shapes.push(Shape::dripping("dripping head", slow.as_bytes()));
    let post = format!(
        "POST {} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {body}\r\n\r\n",
        path(usize::MAX - 1)
    );
    shapes.push(Shape::new("large upload", post).filled(body));
    shapes
}

/// What random messages are made of.
const PARTS: [&[u8]; 24] = [
    b"GET ",
    b"POST ",
    b"/b/1/x",
    b" HTTP/1.1\r\n",
    b"HTTP/1.1 ",
    b"200 OK\r\n",
    b"100 Continue\r\n\r\n",
    b"101 Switching\r\n",
    b"502 Bad\r\n",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: h\r\n",
    b"Connection: close\r\n",
    b"0",
    b"5\r\n",
    b"ffff\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"\n",
    b"\0",
    b"\xff\xfe",
    b"X-A: b\r\n",
    b"\x16\x03\x01\x02\0\x01",
];

/// Messages of random parts, in one piece or in several.
pub(crate) fn random(seed: u64, count: usize) -> Vec<Shape> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..count)
        .map(|number| {
            let parts = rng.usize(1..30);
            let parts = (0..parts).map(|_| match rng.usize(0..PARTS.len() + 2) {
                at if at < PARTS.len() => PARTS.get(at).copied().unwrap_or_default().to_vec(),
                _ => (0..rng.usize(0..600)).map(|_| rng.u8(..)).collect(),
            });
            let pieces: Vec<Vec<u8>> = parts.collect();
            let shape = Shape::new(format!("random {number}"), []);
            if number % 4 == 0 {
                Shape { pieces, ..shape }
            } else {
                let pieces = vec![pieces.concat()];
                Shape { pieces, ..shape }
            }
        })
        .collect()
}
