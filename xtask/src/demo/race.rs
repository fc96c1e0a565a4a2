//! The keep-alive race, made to happen: an upstream closes an idle connection, and nginx
//! sends a request on it before it has noticed.
//!
//! In production this takes bad luck of a few milliseconds, a network between the two or a
//! busy proxy. Here the proxy is made busy: its worker is held still (SIGSTOP) for the
//! moment in which first the client's request and then the upstream's FIN arrive. When it
//! goes on it finds both, in this order, and sends into the closed connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::stage::{IDLE, RACE, Stage};
use super::traffic::Tally;
use crate::host::net;

/// How long before the upstream's close the worker is held. Too short: the request comes
/// after the close, and nginx sees that. Too long: the other requests of the demo wait.
const BEFORE: Duration = Duration::from_millis(60);

/// How long after the close it goes on.
const AFTER: Duration = Duration::from_millis(40);

const PATIENCE: Duration = Duration::from_secs(5);

/// One race; both of its requests are counted.
pub(super) fn run(stage: &Stage, tally: &Arc<Mutex<Tally>>) -> Result<()> {
    let mut client = TcpStream::connect_timeout(&stage.address(), PATIENCE)
        .context("nginx takes no connection")?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_nodelay(true)?;
    let first = ask(&mut client);
    let answered = Instant::now();
    let count = |status| {
        tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .count(RACE.path, status);
    };
    count(first);
    thread::sleep((answered + IDLE - BEFORE).saturating_duration_since(Instant::now()));
    let held = stage.worker().map(Held::hold).transpose()?;
    send(&mut client)?;
    thread::sleep((answered + IDLE + AFTER).saturating_duration_since(Instant::now()));
    drop(held);
    count(receive(&mut client));
    Ok(())
}

/// A process that is held still. It goes on when this is gone.
struct Held {
    pid: Pid,
}

impl Held {
    fn hold(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .context("no such process")?;
        kill_process(pid, Signal::STOP).context("cannot hold nginx's worker")?;
        Ok(Self { pid })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Gone means that it ended; nothing is held then.
        let _ = kill_process(self.pid, Signal::CONT);
    }
}

fn ask(client: &mut TcpStream) -> Option<u16> {
    send(client).ok()?;
    receive(client)
}

fn send(client: &mut TcpStream) -> Result<()> {
    let request = format!(
        "{} {} HTTP/1.1\r\nHost: demo\r\nContent-Length: 0\r\n\r\n",
        RACE.method, RACE.path
    );
    client
        .write_all(request.as_bytes())
        .context("nginx closed the connection")
}

/// One answer with a Content-Length, which is all that nginx and the upstream send here.
fn receive(client: &mut TcpStream) -> Option<u16> {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() >= length(head)
        {
            return net::status(head);
        }
        match client.read(&mut buffer) {
            Ok(0) | Err(_) => return net::status(&text),
            Ok(read) => answer.extend_from_slice(buffer.get(..read)?),
        }
    }
}

fn length(head: &str) -> usize {
    let value = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    value.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_an_answer_is_read_whatever_its_case() {
        assert_eq!(length("HTTP/1.1 200 OK\r\ncontent-length: 12"), 12);
        assert_eq!(length("HTTP/1.1 204 No Content"), 0);
    }
}
