//! Upstream servers that misbehave on request.
//!
//! In: listeners and, for each, what it does when a path orders nothing. Out: answers, resets
//! and silences as [`behaviour`] words them. A server never decides anything at random: what
//! happens is in the path or in the port.

mod answer;
pub mod behaviour;
mod request;
pub mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use answer::After;
use behaviour::{Behaviour, Fault};

/// Waiting connections of a listener. Too small: load tests overflow it.
const BACKLOG: i32 = 4096;

/// How long a kept-alive connection may idle when the port does not say. Longer than any
/// proxy keeps one, so that a race happens only where it was ordered.
const IDLE: Duration = Duration::from_secs(3600);

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
pub async fn serve(listener: TcpListener, port: Behaviour) {
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
        // A connection that ends in an error ended because the peer left.
        tokio::spawn(async move { connection(stream, &port).await.ok() });
    }
}

/// One connection, request after request.
async fn connection(mut stream: TcpStream, port: &Behaviour) -> Result<()> {
    stream.set_nodelay(true)?;
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
        let behaviour = Behaviour::of_path(&head.target, port);
        if behaviour.fault == Some(Fault::Unread) {
            tokio::time::sleep(behaviour.wait).await;
            return Ok(());
        }
        request::take(&mut stream, &head).await?;
        if head.expects_continue {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        request::take_body(&mut stream, head.body).await?;
        match answer::answer(&mut stream, &head, &behaviour).await? {
            After::Keep => {}
            After::Close => return Ok(()),
        }
    }
}
