//! Upstream servers that misbehave on request.
//!
//! In: listeners and, for each, what it does when a path orders nothing. Out: answers, resets
//! and silences as [`behaviour`] words them, and a [`record`] of what arrived. A server never
//! decides anything at random: what happens is in the path, in the header `X-Order`, or in the
//! port.

mod answer;
pub mod behaviour;
pub mod dns;
pub mod record;
mod request;
pub mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use answer::After;
use behaviour::{Behaviour, Ending, Fault, Hello, Meeting};
use record::Record;

/// Waiting connections of a listener. Too small: load tests overflow it.
const BACKLOG: i32 = 4096;

/// How long a kept-alive connection may idle when the port does not say. Longer than any
/// proxy keeps one, so that a race happens only where it was ordered.
const IDLE: Duration = Duration::from_secs(3600);

/// How long a request's body stays unread. Too short: a proxy with a long timeout sees a
/// close instead of a stall.
const STALL: Duration = Duration::from_secs(60);

/// Listens on `address`. A deaf listener has room for one connection and never accepts.
///
/// # Errors
/// The address cannot be bound, for example because the port is in use.
pub fn listen(address: SocketAddr, behaviour: &Behaviour) -> Result<TcpListener> {
    let listener = || -> Result<TcpListener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(if behaviour.deaf { 0 } else { BACKLOG })?;
        socket.set_nonblocking(true)?;
        Ok(TcpListener::from_std(socket.into())?)
    };
    listener().with_context(|| format!("cannot listen on {address}"))
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, port: Behaviour, record: Arc<Record>) {
    if port.deaf {
        std::future::pending::<()>().await;
    }
    let port = Arc::new(port);
    loop {
        // An accept that fails is the peer's doing, or too many open files: try the next.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let port = Arc::clone(&port);
        let record = Arc::clone(&record);
        // A connection that ends in an error ended because the peer left.
        tokio::spawn(async move { connection(stream, &port, &record).await.ok() });
    }
}

/// One connection, request after request.
async fn connection(mut stream: TcpStream, port: &Behaviour, record: &Record) -> Result<()> {
    stream.set_nodelay(true)?;
    let address = stream.local_addr()?;
    if let Some(meeting) = port.meeting {
        return meet(stream, meeting).await;
    }
    let mut earlier = 0;
    loop {
        let idle = port.idle.unwrap_or(IDLE);
        let head = match tokio::time::timeout(idle, request::look(&stream)).await {
            Ok(head) => head?,
            // The keep-alive timeout: closing now is what a race is made of.
            Err(_) => return Ok(()),
        };
        let Some(head) = head else {
            return Ok(());
        };
        record.add(address, earlier, &head)?;
        let words = head.words.as_ref().unwrap_or(&head.target);
        let behaviour = match Behaviour::of_path(words, port) {
            ordered if ordered.if_reused && earlier == 0 => Behaviour::default(),
            ordered => ordered,
        };
        earlier += 1;
        if behaviour.fault == Some(Fault::Unread) {
            tokio::time::sleep(behaviour.wait).await;
            return Ok(());
        }
        request::take(&mut stream, &head).await?;
        if head.expects_continue {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        match behaviour.fault {
            Some(Fault::StallBody) => {
                tokio::time::sleep(STALL).await;
                return Ok(());
            }
            Some(Fault::ResetBody(length)) => {
                request::take_some(&mut stream, length).await?;
                stream.set_zero_linger()?;
                return Ok(());
            }
            Some(Fault::Early) => {}
            _ => request::take_body(&mut stream, head.body).await?,
        }
        match answer::answer(&mut stream, &head, &behaviour).await? {
            After::Keep => {}
            After::Close => return Ok(()),
        }
    }
}

/// A connection that ends before it has carried a request.
async fn meet(mut stream: TcpStream, meeting: Meeting) -> Result<()> {
    match meeting {
        Meeting::Slam(ending) => {
            answer::end(&mut stream, ending).await?;
        }
        Meeting::Banner => {
            stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await?;
            answer::end(&mut stream, Ending::Hang).await?;
        }
        Meeting::Hello(hello) => {
            let mut bytes = [0; 16 * 1024];
            let _first = stream.read(&mut bytes).await?;
            match hello {
                Hello::Close => {}
                Hello::Reset => stream.set_zero_linger()?,
                Hello::Alert => stream.write_all(answer::TLS_ALERT).await?,
                Hello::Plain => {
                    stream
                        .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                        .await?;
                }
                Hello::Hang => {
                    answer::end(&mut stream, Ending::Hang).await?;
                }
            }
        }
    }
    Ok(())
}
