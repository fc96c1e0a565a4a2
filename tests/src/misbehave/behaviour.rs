//! The grammar by which a test, or a person with curl, orders a misbehaviour.
//!
//! In: words separated by commas, from the last segment of a request path or from a port's
//! default. Out: a [`Behaviour`], every field decided. Never touches a socket.
//!
//! ```text
//! status=404  body=5000  chunked  until_close  pad=8000  last        what the answer is
//! wait=300  split=17  bytewise  piece=100  pause=20                  when it is written (ms, bytes)
//! reset  close  unread  hang  garbage  bad_header  bad_chunk         faults before or in the head
//! bad_status  two_framings  h2  tls_bytes  cookies=25                more of them
//! framing=lengths|length|huge|coding|space|cr|empty                  framing fields that break RFC 9112
//! head_cut=20  cut=1000  by=fin|rst|hang|kill|segv                   faults in the middle
//! stall_body  reset_body=5000  early                                 faults while the request's body comes
//! if_reused                                                          all this only on a connection that was used before
//! websocket  hints                                                   101 and echo; 103 before the answer
//! idle=1000  deaf                                                    of a port: keep-alive timeout; never accepts
//! slam  banner  hello=close|reset|alert|plain|hang                   of a port: what happens before any request
//! ```

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The word that leaves everything to the port.
pub const ANY: &str = "any";

/// What a server does with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// Silence between the whole request and the first byte of the answer.
    pub wait: Duration,
    /// Status code.
    pub status: u16,
    /// Bytes of body.
    pub body: usize,
    /// How the end of the body is told.
    pub framing: Framing,
    /// Bytes of padding in a header of their own: makes a head too big.
    pub pad: usize,
    /// How the head is cut into segments.
    pub segments: Segments,
    /// Size of the pieces the body is written in; all at once when unset.
    pub piece: Option<usize>,
    /// Silence between segments and between pieces.
    pub pause: Duration,
    /// Say `Connection: close` and close after the answer.
    pub last: bool,
    /// Send a 103 before the answer. nginx before 1.29 takes it for the answer.
    pub hints: bool,
    /// What goes wrong.
    pub fault: Option<Fault>,
    /// Of a port: how long a kept-alive connection may idle until the server closes it.
    pub idle: Option<Duration>,
    /// Of a port: listen and never accept, so that the accept queue fills.
    pub deaf: bool,
    /// `Set-Cookie` headers of 400 bytes each: a large head of many lines.
    pub cookies: usize,
    /// All of it only on a connection that has carried a request before; 200 on a fresh one.
    pub if_reused: bool,
    /// Of a port: what happens to a connection before it carries a request.
    pub meeting: Option<Meeting>,
}

/// What a server does to a connection before it has read a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// It is ended as soon as it is accepted.
    Slam(Ending),
    /// The server speaks first, in the words of SSH.
    Banner,
    /// The first bytes are read, for example a TLS ClientHello, and this follows.
    Hello(Hello),
}

/// What follows the first bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// FIN.
    Close,
    /// RST.
    Reset,
    /// A TLS alert, handshake_failure, and FIN.
    Alert,
    /// An answer in clear text: 400, as a server says that was spoken to in TLS.
    Plain,
    /// Nothing.
    Hang,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Content-Length.
    Length,
    /// Chunked.
    Chunked,
    /// The end of the connection.
    Close,
}

/// How a head is cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segments {
    /// Head and first body bytes in one write.
    Whole,
    /// Two segments, the first of so many bytes.
    At(usize),
    /// One segment for each byte.
    Bytewise,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// RST instead of an answer, the request having been read.
    Reset,
    /// FIN instead of an answer, the request having been read.
    Close,
    /// Close with request bytes unread, which makes the kernel send RST.
    Unread,
    /// No answer, until the peer closes.
    Hang,
    /// The first bytes are not HTTP.
    Garbage,
    /// A header line that no parser takes.
    BadHeader,
    /// A chunk size that is no number.
    BadChunk,
    /// The head ends after so many bytes.
    HeadCut(usize, Ending),
    /// The body ends after so many bytes; a chunked one without its last chunk.
    Cut(usize, Ending),
    /// Not a fault: answer 101 and echo bytes.
    WebSocket,
    /// The status code is no number.
    BadStatus,
    /// Content-Length and Transfer-Encoding at once.
    TwoFramings,
    /// A framing field that breaks a rule.
    BadFraming(BadFraming),
    /// The first bytes are frames of HTTP/2.
    Http2,
    /// The first bytes are a TLS alert: an HTTPS port that was spoken to in clear text.
    TlsBytes,
    /// The body of the request is never read.
    StallBody,
    /// RST after so many bytes of the request's body.
    ResetBody(usize),
    /// The answer comes before the request's body is read, and the connection is then closed
    /// with the rest unread, which makes the kernel send RST.
    Early,
}

/// A rule of RFC 9112 that the framing of an answer breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFraming {
    /// Content-Length twice, and the second is larger.
    Lengths,
    /// A Content-Length that is no number.
    Length,
    /// A Content-Length that takes more than 64 bits; their lowest are the right length.
    Huge,
    /// A transfer coding that nobody knows.
    Coding,
    /// A space before the colon of Content-Length.
    Space,
    /// A CR without LF in a field.
    Cr,
    /// 204, which has no body, with Content-Length and a body.
    Empty,
}

/// How an answer that is cut short ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The connection is closed in an orderly way.
    Fin,
    /// The connection is reset.
    Rst,
    /// Nothing more comes.
    Hang,
    /// The server's process ends by SIGKILL, as the out-of-memory killer ends one.
    Kill,
    /// The server's process ends by SIGSEGV.
    Segv,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            wait: Duration::ZERO,
            status: 200,
            body: 2,
            framing: Framing::Length,
            pad: 0,
            segments: Segments::Whole,
            piece: None,
            pause: Duration::from_millis(1),
            last: false,
            hints: false,
            fault: None,
            idle: None,
            deaf: false,
            cookies: 0,
            if_reused: false,
            meeting: None,
        }
    }
}

impl Behaviour {
    /// What the last segment of `path` orders on a port whose default is `port`. A segment
    /// that is not in the grammar, [`ANY`] among them, leaves it to the port.
    pub fn of_path(path: &str, port: &Self) -> Self {
        let path = path.split('?').next().unwrap_or(path);
        let words = path.rsplit('/').next().unwrap_or(ANY);
        words.parse().unwrap_or_else(|_| port.clone())
    }
}

impl FromStr for Behaviour {
    type Err = anyhow::Error;

    fn from_str(words: &str) -> Result<Self> {
        let mut behaviour = Self::default();
        let mut ending = Ending::Fin;
        for word in words.split(',') {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            match name {
                "ok" => {}
                "status" => behaviour.status = number(name, value)?,
                "body" => behaviour.body = number(name, value)?,
                "chunked" => behaviour.framing = Framing::Chunked,
                "until_close" => behaviour.framing = Framing::Close,
                "pad" => behaviour.pad = number(name, value)?,
                "last" => behaviour.last = true,
                "wait" => behaviour.wait = milliseconds(name, value)?,
                "split" => behaviour.segments = Segments::At(number(name, value)?),
                "bytewise" => behaviour.segments = Segments::Bytewise,
                "piece" => behaviour.piece = Some(number::<usize>(name, value)?.max(1)),
                "pause" => behaviour.pause = milliseconds(name, value)?,
                "hints" => behaviour.hints = true,
                "idle" => behaviour.idle = Some(milliseconds(name, value)?),
                "deaf" => behaviour.deaf = true,
                "by" => {
                    ending = match value {
                        Some("fin") => Ending::Fin,
                        Some("rst") => Ending::Rst,
                        Some("hang") => Ending::Hang,
                        Some("kill") => Ending::Kill,
                        Some("segv") => Ending::Segv,
                        _ => bail!("`by` is fin, rst, hang, kill or segv, not `{word}`"),
                    }
                }
                "reset" => behaviour.fault = Some(Fault::Reset),
                "close" => behaviour.fault = Some(Fault::Close),
                "unread" => behaviour.fault = Some(Fault::Unread),
                "hang" => behaviour.fault = Some(Fault::Hang),
                "garbage" => behaviour.fault = Some(Fault::Garbage),
                "bad_header" => behaviour.fault = Some(Fault::BadHeader),
                "bad_chunk" => behaviour.fault = Some(Fault::BadChunk),
                "head_cut" => behaviour.fault = Some(Fault::HeadCut(number(name, value)?, ending)),
                "cut" => behaviour.fault = Some(Fault::Cut(number(name, value)?, ending)),
                "bad_status" => behaviour.fault = Some(Fault::BadStatus),
                "two_framings" => behaviour.fault = Some(Fault::TwoFramings),
                "framing" => {
                    behaviour.fault = Some(Fault::BadFraming(match value {
                        Some("lengths") => BadFraming::Lengths,
                        Some("length") => BadFraming::Length,
                        Some("huge") => BadFraming::Huge,
                        Some("coding") => BadFraming::Coding,
                        Some("space") => BadFraming::Space,
                        Some("cr") => BadFraming::Cr,
                        Some("empty") => BadFraming::Empty,
                        _ => bail!("`{word}` is no framing; see the grammar"),
                    }));
                }
                "h2" => behaviour.fault = Some(Fault::Http2),
                "tls_bytes" => behaviour.fault = Some(Fault::TlsBytes),
                "cookies" => behaviour.cookies = number(name, value)?,
                "stall_body" => behaviour.fault = Some(Fault::StallBody),
                "reset_body" => behaviour.fault = Some(Fault::ResetBody(number(name, value)?)),
                "early" => behaviour.fault = Some(Fault::Early),
                "if_reused" => behaviour.if_reused = true,
                "slam" => behaviour.meeting = Some(Meeting::Slam(ending)),
                "banner" => behaviour.meeting = Some(Meeting::Banner),
                "hello" => behaviour.meeting = Some(Meeting::Hello(hello(word, value)?)),
                "websocket" => behaviour.fault = Some(Fault::WebSocket),
                _ => bail!("`{word}` is no behaviour; see the grammar in `misbehave --help`"),
            }
        }
        // `by` may stand before or after what it belongs to.
        if let Some(Fault::HeadCut(_, by) | Fault::Cut(_, by)) = &mut behaviour.fault {
            *by = ending;
        }
        if let Some(Meeting::Slam(by)) = &mut behaviour.meeting {
            *by = ending;
        }
        Ok(behaviour)
    }
}

fn hello(word: &str, value: Option<&str>) -> Result<Hello> {
    Ok(match value {
        Some("close") => Hello::Close,
        Some("reset") => Hello::Reset,
        Some("alert") => Hello::Alert,
        Some("plain") => Hello::Plain,
        Some("hang") => Hello::Hang,
        _ => bail!("`hello` is close, reset, alert, plain or hang, not `{word}`"),
    })
}

fn number<T>(name: &str, value: Option<&str>) -> Result<T>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    value
        .with_context(|| format!("`{name}` needs a number: {name}=N"))?
        .parse()
        .with_context(|| format!("`{name}` needs a number: {name}=N"))
}

fn milliseconds(name: &str, value: Option<&str>) -> Result<Duration> {
    number(name, value).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_last_segment_decide() {
        let port = Behaviour::default();

        let behaviour = Behaviour::of_path("/one/7/12/status=404,body=10,chunked?x=/reset", &port);

        assert_eq!(behaviour.status, 404);
        assert_eq!(behaviour.body, 10);
        assert_eq!(behaviour.framing, Framing::Chunked);
        assert_eq!(behaviour.fault, None);
    }

    #[test]
    fn a_path_without_orders_is_left_to_the_port() {
        let port: Behaviour = "reset".parse().unwrap();

        for path in ["/", "/api/cart", "/mixed/7/12/any", "/status=many"] {
            assert_eq!(Behaviour::of_path(path, &port), port, "{path}");
        }
        assert_eq!(
            Behaviour::of_path("/mixed/7/12/ok", &port),
            Behaviour::default()
        );
    }

    #[test]
    fn the_ending_of_a_cut_may_stand_on_either_side() {
        for words in ["cut=5,by=rst", "by=rst,cut=5"] {
            let behaviour: Behaviour = words.parse().unwrap();
            assert_eq!(behaviour.fault, Some(Fault::Cut(5, Ending::Rst)));
        }
    }

    #[test]
    fn a_port_may_end_a_connection_before_its_request() {
        let behaviour: Behaviour = "slam,by=rst".parse().unwrap();
        assert_eq!(behaviour.meeting, Some(Meeting::Slam(Ending::Rst)));
        let behaviour: Behaviour = "hello=alert".parse().unwrap();
        assert_eq!(behaviour.meeting, Some(Meeting::Hello(Hello::Alert)));
    }

    #[test]
    fn what_is_not_in_the_grammar_is_refused_by_name() {
        for words in ["resett", "status", "wait=soon", "by=magic", ""] {
            assert!(words.parse::<Behaviour>().is_err(), "{words}");
        }
    }
}
