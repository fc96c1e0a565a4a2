//! One HTTP/1.1 client on one connection, which it keeps where it can.
//!
//! Its own and not a library's: a test has to leave in the middle, to see a body that is cut,
//! and to tell an answer without a status line from no answer.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{Order, Outcome};

/// The longest an answer may take. Too short: an answer at the proxy's own limit is missed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client.
#[derive(Debug)]
pub struct Client {
    target: SocketAddr,
    stream: Option<TcpStream>,
    /// Read and not used yet.
    buffer: Vec<u8>,
}

/// What is known of an answer as it comes.
#[derive(Default)]
struct Progress {
    status: Option<u16>,
    body: u64,
    complete: bool,
    keep: bool,
}

/// A head, read.
struct Head {
    /// Bytes it takes.
    length: usize,
    status: u16,
    /// The connection lives on after the answer.
    keep: bool,
    body: Body,
}

/// How the body of an answer ends.
enum Body {
    Length(u64),
    Chunked,
    Close,
}

impl Client {
    /// A client that is not connected yet.
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            stream: None,
            buffer: Vec::new(),
        }
    }

    /// Makes a request and tells what came of it; never fails itself.
    pub async fn ask(&mut self, order: &Order) -> Outcome {
        if !order.pause.is_zero() {
            sleep(order.pause).await;
        }
        let mut progress = Progress::default();
        let asked = match order.abort_after {
            Some(after) => match timeout(after, self.exchange(order, &mut progress)).await {
                Ok(asked) => asked.map(|()| false),
                Err(_) => Ok(true),
            },
            None => match timeout(PATIENCE, self.exchange(order, &mut progress)).await {
                Ok(asked) => asked.map(|()| false),
                Err(_) => Err(anyhow!("no whole answer within {PATIENCE:?}")),
            },
        };
        let Progress {
            status,
            body,
            complete,
            keep,
        } = progress;
        let client = self
            .stream
            .as_ref()
            .and_then(|stream| stream.local_addr().ok());
        if asked.is_err() || !complete || !keep || order.last {
            self.close();
        }
        Outcome {
            path: order.path.clone(),
            words: order.words.clone(),
            status,
            complete,
            body,
            aborted: matches!(asked, Ok(true)),
            error: asked.err().map(|error| format!("{error:#}")),
            client,
        }
    }

    /// Upgrades to a WebSocket with `key` and gives the raw stream and the answer's head.
    ///
    /// # Errors
    /// The connection fails, or the answer is no 101.
    pub async fn upgrade(mut self, path: &str, key: &str) -> Result<(TcpStream, String)> {
        let target = self.target;
        let stream = self.connected().await?;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {target}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await?);
        }
        let answer = String::from_utf8(answer)?;
        if !answer.starts_with("HTTP/1.1 101 ") {
            bail!("no upgrade: {answer}");
        }
        Ok((self.stream.take().context("it was connected")?, answer))
    }

    /// Closes the connection.
    pub fn close(&mut self) {
        self.stream = None;
        self.buffer.clear();
    }

    async fn connected(&mut self) -> Result<&mut TcpStream> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.target).await.context("connect")?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        Ok(self.stream.insert(stream))
    }

    async fn exchange(&mut self, order: &Order, progress: &mut Progress) -> Result<()> {
        let target = self.target;
        let mut request = format!(
            "{} {} HTTP/1.1\r\nHost: {target}\r\n",
            order.method, order.path
        );
        if order.body > 0 || order.method == "POST" {
            request.push_str(&format!("Content-Length: {}\r\n", order.body));
        }
        if order.expect_continue {
            request.push_str("Expect: 100-continue\r\n");
        }
        if let Some(words) = &order.words {
            request.push_str(&format!("X-Order: {words}\r\n"));
        }
        if order.last {
            request.push_str("Connection: close\r\n");
        }
        request.push_str("\r\n");
        let mut request = request.into_bytes();
        let body: Vec<u8> = (b'0'..=b'9').cycle().take(order.body).collect();
        if !order.expect_continue {
            request.extend_from_slice(&body);
        }
        let written = self.connected().await?.write_all(&request).await;
        // A server may answer and close before it has all of a large body: what it said is
        // read nevertheless.
        if written.is_err() && order.body == 0 {
            return written.context("write");
        }
        if order.expect_continue {
            let Head { status, .. } = self.head(order.method).await?;
            if status == 100 {
                self.connected()
                    .await?
                    .write_all(&body)
                    .await
                    .context("write body")?;
            } else {
                bail!("{status} instead of 100");
            }
        }
        let Head {
            status, keep, body, ..
        } = loop {
            let head = self.head(order.method).await?;
            if head.status >= 200 || head.status == 101 {
                break head;
            }
        };
        progress.status = Some(status);
        progress.keep = keep;
        self.body(body, &mut progress.body).await?;
        progress.complete = true;
        Ok(())
    }

    /// Reads the next head, 1xx or final.
    async fn head(&mut self, method: &str) -> Result<Head> {
        loop {
            if let Some(head) = parse_head(&self.buffer, method)? {
                self.buffer.drain(..head.length);
                return Ok(head);
            }
            self.more().await.context("head")?;
        }
    }

    async fn body(&mut self, framing: Body, received: &mut u64) -> Result<()> {
        match framing {
            Body::Length(length) => self.data(length, received).await,
            Body::Chunked => loop {
                let line = self.line().await?;
                let size = u64::from_str_radix(line.trim(), 16)
                    .with_context(|| format!("`{line}` is no chunk size"))?;
                self.data(size, received).await?;
                self.line().await?;
                if size == 0 {
                    return Ok(());
                }
            },
            Body::Close => loop {
                *received += self.buffer.len() as u64;
                self.buffer.clear();
                if !self.more_or_end().await? {
                    return Ok(());
                }
            },
        }
    }

    async fn data(&mut self, mut left: u64, received: &mut u64) -> Result<()> {
        loop {
            let here = self.buffer.len().min(usize::try_from(left)?);
            self.buffer.drain(..here);
            *received += here as u64;
            left -= here as u64;
            if left == 0 {
                return Ok(());
            }
            self.more()
                .await
                .with_context(|| format!("body, {left} bytes missing"))?;
        }
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.more().await.context("chunk")?;
        }
    }

    async fn more(&mut self) -> Result<()> {
        if self.more_or_end().await? {
            Ok(())
        } else {
            bail!("the connection was closed")
        }
    }

    async fn more_or_end(&mut self) -> Result<bool> {
        let stream = self.stream.as_mut().context("not connected")?;
        self.buffer.reserve(64 * 1024);
        Ok(stream.read_buf(&mut self.buffer).await? > 0)
    }
}

/// The head at the front of `bytes`; `None` when more is to come.
fn parse_head(bytes: &[u8], method: &str) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(bytes).context("not HTTP")? else {
        return Ok(None);
    };
    let status = response.code.unwrap_or_default();
    let header = |name: &str| {
        response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let keep = header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close"));
    let body = if method == "HEAD" || status < 200 || matches!(status, 204 | 304) {
        Body::Length(0)
    } else if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    {
        Body::Chunked
    } else {
        match header("content-length") {
            // What is no length never comes to its end.
            Some(length) => Body::Length(length.parse().unwrap_or(u64::MAX)),
            None => Body::Close,
        }
    };
    let keep = keep && !matches!(body, Body::Close);
    Ok(Some(Head {
        length,
        status,
        keep,
        body,
    }))
}
