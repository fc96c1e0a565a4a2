//! Reads one request from a connection, as far as its sender means it to be read.
//!
//! In: a stream at the first byte of a request. Out: the [`Head`], and later the body gone.
//! The head is looked at before it is taken, so that a behaviour may leave it unread.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The longest head that is understood, bytes. Too small: requests with many cookies are
/// refused. Too large: only memory.
const MAX_HEAD: usize = 64 * 1024;

/// Between two looks at a head that is not all there. Too short: a busy loop. Too long: a
/// wait in the measured time.
const NEXT_LOOK: Duration = Duration::from_millis(1);

/// What a server has to know of a request head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// GET, HEAD, POST, ...
    pub(super) method: String,
    /// With query.
    pub(super) target: String,
    /// How the body ends.
    pub(super) body: Body,
    /// The client waits for a 100.
    pub(super) expects_continue: bool,
    /// The connection may be used again after this exchange.
    pub(super) keep_alive: bool,
    /// `X-Order`: words that the path does not have.
    pub(super) words: Option<String>,
    /// `Sec-WebSocket-Key`.
    pub(super) websocket_key: Option<String>,
    /// Bytes of the head.
    pub(super) length: usize,
}

/// How a request body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Length(u64),
    Chunked,
}

/// Looks at the next head without taking it from the socket; `None` when the peer closed.
pub(super) async fn look(stream: &TcpStream) -> Result<Option<Head>> {
    let mut buffer = vec![0; MAX_HEAD];
    let mut seen = 0;
    loop {
        let length = stream.peek(&mut buffer).await?;
        if length == 0 {
            return Ok(None);
        }
        if length > seen {
            seen = length;
            if let Some(head) = parse(buffer.get(..length).unwrap_or_default())? {
                return Ok(Some(head));
            }
        }
        if length == MAX_HEAD {
            bail!("a request head of more than {MAX_HEAD} bytes");
        }
        tokio::time::sleep(NEXT_LOOK).await;
    }
}

/// Takes the head that was looked at.
pub(super) async fn take(stream: &mut TcpStream, head: &Head) -> Result<()> {
    let mut bytes = vec![0; head.length];
    stream.read_exact(&mut bytes).await?;
    Ok(())
}

/// Takes so many bytes, or what there is until the end.
pub(super) async fn take_some(stream: &mut TcpStream, length: usize) -> Result<()> {
    let mut bytes = vec![0; length];
    let mut taken = 0;
    while taken < length {
        match stream
            .read(bytes.get_mut(taken..).unwrap_or_default())
            .await?
        {
            0 => break,
            read => taken += read,
        }
    }
    Ok(())
}

/// Takes the body.
pub(super) async fn take_body(stream: &mut TcpStream, body: Body) -> Result<()> {
    match body {
        Body::Length(mut left) => {
            let mut bytes = vec![0; 64 * 1024];
            while left > 0 {
                let most = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let read = stream
                    .read(bytes.get_mut(..most).unwrap_or_default())
                    .await?;
                if read == 0 {
                    bail!("the client closed with {left} body bytes to come");
                }
                left = left.saturating_sub(read as u64);
            }
        }
        Body::Chunked => loop {
            let line = line(stream).await?;
            let size = u64::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16)
                .with_context(|| format!("`{line}` is no chunk size"))?;
            let mut data = vec![0; usize::try_from(size)?];
            stream.read_exact(&mut data).await?;
            self::line(stream).await?;
            if size == 0 {
                break;
            }
        },
    }
    Ok(())
}

async fn line(stream: &mut TcpStream) -> Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await?);
    }
    line.truncate(line.len() - 2);
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// The head at the front of `bytes`; `None` when more is to come.
fn parse(bytes: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = request.parse(bytes)? else {
        return Ok(None);
    };
    let header = |name: &str| {
        request
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let holds = |name: &str, word: &str| {
        header(name).is_some_and(|value| value.to_ascii_lowercase().contains(word))
    };
    let body = if holds("transfer-encoding", "chunked") {
        Body::Chunked
    } else {
        Body::Length(header("content-length").map_or(Ok(0), str::parse)?)
    };
    Ok(Some(Head {
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        body,
        expects_continue: holds("expect", "100-continue"),
        keep_alive: match request.version {
            Some(1) => !holds("connection", "close"),
            _ => holds("connection", "keep-alive"),
        },
        words: header("x-order").map(str::to_owned),
        websocket_key: header("sec-websocket-key").map(str::to_owned),
        length,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_how_its_body_ends_and_whether_the_connection_lives_on() {
        let bytes = b"POST /a HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello";
        let head = parse(bytes).unwrap().unwrap();
        assert_eq!(head.body, Body::Length(5));
        assert!(head.expects_continue && head.keep_alive);
        assert_eq!(head.length, bytes.len() - 5);

        let head = parse(b"GET /a HTTP/1.0\r\n\r\n").unwrap().unwrap();
        assert!(!head.keep_alive);

        assert_eq!(parse(b"GET /a HT").unwrap(), None);
    }
}
