//! Both ends of a connection that carries what it is told to.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::shapes::Shape;

/// How long an end waits for bytes. Longer than the proxy's own limits.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of filler written at once.
const PIECE: usize = 256 * 1024;

/// A server that gives each connection the shape that the number in its request's path names.
#[derive(Debug)]
pub(crate) struct Hostile {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hostile {
    /// Starts it. A request whose path has no number that is one gets an empty 200.
    #[expect(
        clippy::expect_used,
        reason = "a server that cannot be made ends the test"
    )]
    pub(crate) fn start(shapes: Vec<Shape>) -> Self {
        let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
        let listener = listener.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let shapes = Arc::new(shapes);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let shapes = Arc::clone(&shapes);
                if let Ok(stream) = stream {
                    // A peer that leaves ends it.
                    std::thread::spawn(move || serve(stream, &shapes).ok());
                }
            }
        });
        Self {
            address,
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(mut stream: TcpStream, shapes: &[Shape]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    let mut buffer = vec![0; PIECE];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        head.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let number = text.split('/').nth(2).and_then(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<usize>().ok()
    });
    match number.and_then(|number| shapes.get(number)) {
        Some(shape) => write(&mut stream, shape)?,
        None => {
            // What a client sends is taken to its end first.
            let length = text.to_ascii_lowercase();
            let length = length.split("content-length: ").nth(1).unwrap_or("0");
            let digits: String = length.chars().take_while(char::is_ascii_digit).collect();
            let end = head.windows(4).position(|end| end == b"\r\n\r\n");
            let body = end.map_or(0, |end| head.len() - end - 4);
            let mut left = digits.parse::<u64>().unwrap_or(0);
            left = left.saturating_sub(body as u64);
            while left > 0 {
                let read = stream.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                left = left.saturating_sub(read as u64);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        }
    }
    stream.shutdown(Shutdown::Write)?;
    drain(&mut stream);
    Ok(())
}

/// What a client does when it has said what it has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It waits, and may say more.
    Wait,
    /// It says that this was all: FIN.
    End,
}

/// Says this to a server; the status it gives, if any.
pub(crate) fn say(address: SocketAddr, shape: &Shape, then: Then) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    let options = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .and_then(|()| stream.set_nodelay(true));
    // A server that has heard enough closes: what it said is read nevertheless.
    let _said = options.and_then(|()| write(&mut stream, shape));
    if then == Then::End {
        drop(stream.shutdown(Shutdown::Write));
    }
    let mut start = Vec::new();
    let mut buffer = vec![0; PIECE];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        if start.len() < 64 {
            start.extend_from_slice(buffer.get(..read.min(64)).unwrap_or_default());
        }
    }
    let text = String::from_utf8_lossy(&start);
    text.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

fn write(stream: &mut TcpStream, shape: &Shape) -> std::io::Result<()> {
    let Shape {
        name: _,
        pieces,
        pause,
        filler,
    } = shape;
    for (number, piece) in pieces.iter().enumerate() {
        if number > 0 {
            std::thread::sleep(*pause);
        }
        stream.write_all(piece)?;
    }
    let block = vec![b'x'; PIECE];
    let mut left = *filler;
    while left > 0 {
        let now = left.min(PIECE as u64);
        stream.write_all(block.get(..now as usize).unwrap_or_default())?;
        left -= now;
    }
    Ok(())
}

fn drain(stream: &mut TcpStream) {
    let mut buffer = vec![0; PIECE];
    while let Ok(1..) = stream.read(&mut buffer) {}
}
