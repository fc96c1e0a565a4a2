//! Writes one answer, or what stands in for it.
//!
//! In: a stream whose request was read, and the [`Behaviour`] ordered. Out: whether the
//! connection may carry another request. An error means that the peer went away first.

use std::time::Duration;

use anyhow::Result;
use rustix::process::{Signal, getpid, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::behaviour::{BadFraming, Behaviour, Ending, Fault, Framing, Segments};
use super::request::Head;
use super::websocket;

/// The longest a server waits for its peer to give up. Too short: a hang looks like a close.
/// Too long: a test that forgot to close keeps a task.
const PATIENCE: Duration = Duration::from_secs(600);

/// Between an early answer and the close. Too short: the reset overtakes the answer in the
/// proxy. Too long: the proxy has sent all of its request.
const EARLY: Duration = Duration::from_millis(20);

/// Most bytes of one chunk, and of one write of a body that is not cut in pieces.
const CHUNK: usize = 64 * 1024;

/// SETTINGS and GOAWAY (RFC 9113): what a server of HTTP/2 says to a request in HTTP/1.
const HTTP2: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64\
    \0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01";

/// A fatal alert, handshake_failure, in TLS 1.2 (RFC 5246).
pub(super) const TLS_ALERT: &[u8] = &[0x15, 3, 3, 0, 2, 2, 40];

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Keep,
    Close,
}

/// Answers `head` as `behaviour` says.
pub(super) async fn answer(
    stream: &mut TcpStream,
    head: &Head,
    behaviour: &Behaviour,
) -> Result<After> {
    if !behaviour.wait.is_zero() {
        sleep(behaviour.wait).await;
    }
    match behaviour.fault {
        Some(Fault::Reset) => return end(stream, Ending::Rst).await,
        Some(Fault::Close | Fault::Unread) => return end(stream, Ending::Fin).await,
        Some(Fault::Hang) => return end(stream, Ending::Hang).await,
        Some(Fault::Garbage) => {
            stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await?;
            return end(stream, Ending::Fin).await;
        }
        Some(Fault::Http2) => {
            stream.write_all(HTTP2).await?;
            return end(stream, Ending::Fin).await;
        }
        Some(Fault::TlsBytes) => {
            stream.write_all(TLS_ALERT).await?;
            return end(stream, Ending::Fin).await;
        }
        Some(Fault::WebSocket) => return websocket::serve(stream, head).await,
        // What happens to the request's body happened before.
        Some(Fault::StallBody | Fault::ResetBody(_) | Fault::Early) => {}
        Some(
            Fault::BadHeader
            | Fault::BadChunk
            | Fault::BadStatus
            | Fault::TwoFramings
            | Fault::BadFraming(_)
            | Fault::HeadCut(..)
            | Fault::Cut(..),
        )
        | None => {}
    }
    if behaviour.hints {
        stream
            .write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
            .await?;
    }

    let bodiless = head.method == "HEAD" || matches!(behaviour.status, 204 | 304);
    let keep =
        head.keep_alive && !behaviour.last && (bodiless || behaviour.framing != Framing::Close);
    let mut bytes = head_bytes(behaviour, keep);
    if let Some(Fault::HeadCut(length, ending)) = behaviour.fault {
        bytes.truncate(length.min(bytes.len().saturating_sub(1)));
        write_head(stream, &bytes, behaviour).await?;
        return end(stream, ending).await;
    }
    if bodiless {
        write_head(stream, &bytes, behaviour).await?;
        return Ok(if keep { After::Keep } else { After::Close });
    }
    if behaviour.segments == Segments::Whole && behaviour.piece.is_none() {
        // One write for head and small body: the usual server, and the usual single segment.
        bytes.extend_from_slice(&body_bytes(behaviour));
        write_pieces(stream, &bytes, CHUNK, Duration::ZERO).await?;
    } else {
        write_head(stream, &bytes, behaviour).await?;
        let piece = behaviour.piece.unwrap_or(CHUNK);
        write_pieces(stream, &body_bytes(behaviour), piece, behaviour.pause).await?;
    }
    match behaviour.fault {
        Some(Fault::Cut(_, ending)) => end(stream, ending).await,
        Some(Fault::Early) => {
            // The answer shall be there before the reset is.
            sleep(EARLY).await;
            Ok(After::Close)
        }
        Some(Fault::BadChunk) => end(stream, Ending::Fin).await,
        _ if keep => Ok(After::Keep),
        _ => Ok(After::Close),
    }
}

fn head_bytes(behaviour: &Behaviour, keep: bool) -> Vec<u8> {
    let status = match behaviour.fault {
        Some(Fault::BadFraming(BadFraming::Empty)) => 204,
        _ => behaviour.status,
    };
    let mut head = match behaviour.fault {
        Some(Fault::BadStatus) => "HTTP/1.1 abc What\r\n".to_owned(),
        _ => format!("HTTP/1.1 {status} {}\r\n", reason(status)),
    };
    if behaviour.fault == Some(Fault::BadHeader) {
        head.push_str("X Bad \u{1}Header\r\n");
    }
    head.push_str("Server: misbehave\r\n");
    if behaviour.pad > 0 {
        head.push_str(&format!("X-Pad: {}\r\n", "p".repeat(behaviour.pad)));
    }
    for number in 0..behaviour.cookies {
        let value = "c".repeat(400);
        head.push_str(&format!("Set-Cookie: c{number}={value}\r\n"));
    }
    if behaviour.fault == Some(Fault::TwoFramings) {
        head.push_str(&format!("Content-Length: {}\r\n", behaviour.body));
    }
    match behaviour.framing {
        _ if behaviour.status == 204 => {}
        _ if let Some(Fault::BadFraming(bad)) = behaviour.fault => {
            head.push_str(&framing_fields(bad, behaviour.body));
        }
        Framing::Length => head.push_str(&format!("Content-Length: {}\r\n", behaviour.body)),
        Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
        Framing::Close => {}
    }
    if !keep {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Fields that should tell where a body of `length` bytes ends.
fn framing_fields(bad: BadFraming, length: usize) -> String {
    match bad {
        BadFraming::Lengths => {
            let more = length + 7;
            format!("Content-Length: {length}\r\nContent-Length: {more}\r\n")
        }
        BadFraming::Length => format!("Content-Length: {length}x\r\n"),
        BadFraming::Huge => {
            let huge = (1u128 << 64) + length as u128;
            format!("Content-Length: {huge}\r\n")
        }
        BadFraming::Coding => "Transfer-Encoding: zip\r\n".to_owned(),
        BadFraming::Space => format!("Content-Length : {length}\r\n"),
        BadFraming::Cr => format!("X-Bare: a\rb\r\nContent-Length: {length}\r\n"),
        BadFraming::Empty => format!("Content-Length: {length}\r\n"),
    }
}

/// The body as framed, cut where the behaviour cuts it.
fn body_bytes(behaviour: &Behaviour) -> Vec<u8> {
    let length = match behaviour.fault {
        Some(Fault::Cut(length, _)) => length.min(behaviour.body),
        _ => behaviour.body,
    };
    let data: Vec<u8> = (b'a'..=b'z').cycle().take(length).collect();
    match behaviour.framing {
        Framing::Length | Framing::Close => data,
        Framing::Chunked => {
            let mut framed = Vec::with_capacity(length + 64);
            for chunk in data.chunks(behaviour.piece.unwrap_or(CHUNK)) {
                framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                framed.extend_from_slice(chunk);
                framed.extend_from_slice(b"\r\n");
            }
            match behaviour.fault {
                Some(Fault::Cut(..)) => {}
                Some(Fault::BadChunk) => framed.extend_from_slice(b"zz\r\nnot a chunk\r\n"),
                _ => framed.extend_from_slice(b"0\r\n\r\n"),
            }
            framed
        }
    }
}

async fn write_head(stream: &mut TcpStream, bytes: &[u8], behaviour: &Behaviour) -> Result<()> {
    match behaviour.segments {
        Segments::Whole => stream.write_all(bytes).await?,
        Segments::At(at) => {
            let (first, rest) = bytes.split_at(at.min(bytes.len()));
            stream.write_all(first).await?;
            sleep(behaviour.pause).await;
            stream.write_all(rest).await?;
        }
        Segments::Bytewise => write_pieces(stream, bytes, 1, behaviour.pause).await?,
    }
    Ok(())
}

async fn write_pieces(
    stream: &mut TcpStream,
    bytes: &[u8],
    piece: usize,
    pause: Duration,
) -> Result<()> {
    for (number, piece) in bytes.chunks(piece).enumerate() {
        if number > 0 && !pause.is_zero() {
            sleep(pause).await;
        }
        stream.write_all(piece).await?;
    }
    Ok(())
}

/// Ends a connection that carries no further answer.
pub(super) async fn end(stream: &mut TcpStream, ending: Ending) -> Result<After> {
    match ending {
        Ending::Fin => {}
        Ending::Rst => stream.set_zero_linger()?,
        Ending::Hang => {
            // What the peer still says is read, so that its close is seen as such.
            let mut bytes = [0; 4096];
            let until_closed =
                async { while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {} };
            // Patience that runs out ends the connection as well.
            let _closed = tokio::time::timeout(PATIENCE, until_closed).await;
        }
        Ending::Kill => die(Signal::KILL),
        Ending::Segv => die(Signal::SEGV),
    }
    Ok(After::Close)
}

/// Ends this process by a signal.
fn die(signal: Signal) -> ! {
    loop {
        // A signal that has a handler comes back from it once; the second one ends us.
        let _sent = kill_process(getpid(), signal);
        std::thread::yield_now();
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        413 => "Content Too Large",
        404 => "Not Found",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}
