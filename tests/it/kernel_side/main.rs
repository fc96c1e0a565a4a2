//! What the kernel saw, attributed to the right connection, process and cgroup.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod before_connect;
mod early_data;
mod process_ends;
mod scope;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use e2e::agent::Events;
use e2e::agent::events::Request;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long a start or a report may take.
const LONG: Duration = Duration::from_secs(20);

/// Asks for `path` and gives the status of the answer.
fn ask(proxy: SocketAddr, path: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(LONG))?;
    begin(&mut stream, path)?;
    status(&mut stream)
}

/// Sends a request for `path`.
fn begin(stream: &mut TcpStream, path: &str) -> io::Result<()> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: app\r\n\r\n")
}

/// The status of the answer that comes.
fn status(stream: &mut TcpStream) -> io::Result<u16> {
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    let code = String::from_utf8_lossy(&start[9..]).into_owned();
    code.parse()
        .map_err(|_| io::Error::other(format!("no status: {code}")))
}

/// The request for `path`, once it is reported.
#[track_caller]
fn reported(events: &Events, path: &str) -> Request {
    let mut all = events.of([path], LONG);
    all.remove(path).expect("it is there")
}
