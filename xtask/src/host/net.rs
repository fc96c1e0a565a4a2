//! Loopback addresses that nobody uses, and plain HTTP requests with a time limit.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What an answer may weigh. More is not what a task asks for.
const ANSWER_BYTES: u64 = 16 << 20;

/// A loopback address with a port that is free now.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free loopback port")?;
    Ok(listener.local_addr()?)
}

/// `wanted` when it is free, else another port on loopback.
pub(crate) fn address_near(wanted: SocketAddr) -> Result<SocketAddr> {
    match TcpListener::bind(wanted) {
        Ok(_) => Ok(wanted),
        Err(_) => free_address(),
    }
}

/// GET on a connection of its own; the body of a 200.
pub(crate) fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<String> {
    let answer = request(address, "GET", path, &[], limit)
        .with_context(|| format!("cannot read http://{address}{path}"))?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("http://{address}{path} gave no complete head");
    };
    match status(head) {
        Some(200) => Ok(body.to_owned()),
        _ => bail!(
            "http://{address}{path}: {}",
            head.lines().next().unwrap_or_default()
        ),
    }
}

/// GET /metrics as Prometheus asks for it: packed OpenMetrics, which is thrown away.
pub(crate) fn scrape(address: SocketAddr, limit: Duration) -> Result<()> {
    let asked = b"GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\
                  Accept-Encoding: gzip\r\n\r\n";
    let answer = exchange(address, asked, limit)
        .with_context(|| format!("cannot scrape http://{address}/metrics"))?;
    match status(&answer) {
        Some(200) => Ok(()),
        _ => bail!(
            "a scrape of http://{address}/metrics: {}",
            answer.lines().next().unwrap_or_default()
        ),
    }
}

/// One request on a connection of its own, read to its end: everything that came back.
pub(crate) fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &[u8],
    limit: Duration,
) -> Result<String> {
    // HTTP/1.0: the server closes after the answer, and never sends chunks.
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n");
    exchange(address, &[head.as_bytes(), body].concat(), limit)
}

/// What comes back for these bytes, to its end.
fn exchange(address: SocketAddr, bytes: &[u8], limit: Duration) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    let read = BufReader::new(stream)
        .take(ANSWER_BYTES)
        .read_to_end(&mut answer);
    // A reset after part of an answer still leaves that part.
    if answer.is_empty() {
        read?;
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The status code of a response head, if it is one.
pub(crate) fn status(head: &str) -> Option<u16> {
    let line = head.as_bytes().lines().next()?.ok()?;
    let mut words = line.split(' ');
    words
        .next()
        .filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn serve_once(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listens");
        let address = listener.local_addr().expect("address");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accepts");
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer);
            let _ = stream.write_all(answer.as_bytes());
        });
        address
    }

    #[test]
    fn the_body_of_a_200_comes_back() {
        let address = serve_once("HTTP/1.0 200 OK\r\nX: y\r\n\r\nhello");
        assert_eq!(
            get(address, "/", Duration::from_secs(5)).expect("body"),
            "hello"
        );
    }

    #[test]
    fn another_status_is_an_error_that_names_it() {
        let address = serve_once("HTTP/1.0 404 Not Found\r\n\r\n");
        let error = get(address, "/x", Duration::from_secs(5)).expect_err("404");
        assert!(format!("{error:#}").contains("404"));
    }

    #[test]
    fn what_is_no_http_has_no_status() {
        assert_eq!(
            status("HTTP/1.1 502 Bad Gateway\r\nServer: nginx"),
            Some(502)
        );
        assert_eq!(status("SSH-2.0-OpenSSH"), None);
        assert_eq!(status(""), None);
    }
}
