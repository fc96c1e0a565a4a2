//! The grammar by which a test, or a person with curl, orders a misbehaviour.
//!
//! In: words separated by commas, from the last segment of a request path or from a port's
//! default. Out: a [`Behaviour`], every field decided. Never touches a socket.
//!
//! ```text
//! status=404  body=5000  chunked  until_close  pad=8000  last        what the answer is
//! wait=300  split=17  bytewise  piece=100  pause=20                  when it is written (ms, bytes)
//! reset  close  unread  hang  garbage  bad_header  bad_chunk         faults before or in the head
//! head_cut=20  cut=1000  by=fin|rst|hang                             faults in the middle
//! websocket  hints                                                   101 and echo; 103 before the answer
//! idle=1000  deaf                                                    of a port: keep-alive timeout; never accepts
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
                        _ => bail!("`by` is by=fin, by=rst or by=hang, not `{word}`"),
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
                "websocket" => behaviour.fault = Some(Fault::WebSocket),
                _ => bail!("`{word}` is no behaviour; see the grammar in `misbehave --help`"),
            }
        }
        // `by` may stand before or after what it belongs to.
        if let Some(Fault::HeadCut(_, by) | Fault::Cut(_, by)) = &mut behaviour.fault {
            *by = ending;
        }
        Ok(behaviour)
    }
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
    fn what_is_not_in_the_grammar_is_refused_by_name() {
        for words in ["resett", "status", "wait=soon", "by=magic", ""] {
            assert!(words.parse::<Behaviour>().is_err(), "{words}");
        }
    }
}
