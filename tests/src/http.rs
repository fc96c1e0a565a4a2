//! A blocking HTTP client for small answers: scrapes and probes of the agent.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// `Content-Type`, empty when there is none.
    pub content_type: String,
    /// Body, unframed.
    pub body: Vec<u8>,
}

/// An answer whose body comes as it is made.
pub struct Stream {
    /// Status code.
    pub status: u16,
    content_type: String,
    framing: Framing,
    reader: BufReader<TcpStream>,
}

enum Framing {
    Length(u64),
    Chunked { left: u64, over: bool },
    Close,
}

/// Asks and reads all of the answer.
///
/// # Errors
/// Nobody listens, or the answer is not HTTP/1 or is cut.
pub fn get(address: SocketAddr, path: &str, accept: &str) -> io::Result<Answer> {
    let mut stream = open(address, path, accept, Some(Duration::from_secs(10)))?;
    let mut body = Vec::new();
    stream.read_to_end(&mut body)?;
    let Stream {
        status,
        content_type,
        ..
    } = stream;
    Ok(Answer {
        status,
        content_type,
        body,
    })
}

/// Asks and gives the answer to read as it comes.
///
/// # Errors
/// As [`get`].
pub fn open(
    address: SocketAddr,
    path: &str,
    accept: &str,
    timeout: Option<Duration>,
) -> io::Result<Stream> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(timeout)?;
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    )?;
    let mut reader = BufReader::new(socket);
    let status_line = line(&mut reader)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no status in `{status_line}`")))?;
    let mut framing = Framing::Close;
    let mut content_type = String::new();
    loop {
        let header = line(&mut reader)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap_or((&header, ""));
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                framing = Framing::Length(value.parse().map_err(io::Error::other)?);
            }
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => {
                framing = Framing::Chunked {
                    left: 0,
                    over: false,
                };
            }
            "content-type" => content_type = value.to_owned(),
            _ => {}
        }
    }
    Ok(Stream {
        status,
        content_type,
        framing,
        reader,
    })
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self {
            reader, framing, ..
        } = self;
        match framing {
            Framing::Close => reader.read(buffer),
            Framing::Length(left) => {
                let read = reader.take(*left).read(buffer)?;
                if read == 0 && *left > 0 && !buffer.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *left -= read as u64;
                Ok(read)
            }
            Framing::Chunked { left, over } => {
                if *over {
                    return Ok(0);
                }
                if *left == 0 {
                    let size = line(reader)?;
                    *left = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
                    if *left == 0 {
                        *over = true;
                        line(reader)?;
                        return Ok(0);
                    }
                }
                let read = reader.take(*left).read(buffer)?;
                if read == 0 && !buffer.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *left -= read as u64;
                if *left == 0 {
                    line(reader)?;
                }
                Ok(read)
            }
        }
    }
}

fn line(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(line)
}
