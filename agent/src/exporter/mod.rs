//! The HTTP server: metrics, health, the event stream.
//!
//! In: connections on one address. Out: answers ([`routes`]). Everything is bounded: the
//! number of connections, the time to send a head, the time to take an answer, the number
//! of stream readers. The port is taken before any probe is loaded, so that a port in use
//! costs nothing. It is plain hyper: five fixed paths need no router, and the limits above
//! are hyper's connection builder's, which axum's `serve` does not give out.

mod negotiate;
mod routes;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use crate::events::EventStream;
use crate::pipeline::Refresh;

/// Connections at once. Too few: a second scraper or a person is turned away. Too many:
/// whoever reaches the port can take that much memory, up to about 100 KB each.
const MAX_CONNECTIONS: usize = 64;

/// Time for a request head. Shorter: slow links fail. Longer: a silent peer holds one of
/// [`MAX_CONNECTIONS`] for so long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a whole exchange that is no event stream: as long as the longest scrape timeout
/// in use.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of a request head.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Pause after accept failed, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers need.
#[derive(Debug)]
pub struct Service {
    /// What `/metrics` shows.
    pub registry: Arc<Registry>,
    /// What `/api/v1/events` sends.
    pub stream: EventStream,
    /// Asks the pipeline to bring the registry up to date.
    pub refresh: Refresh,
    /// The probes are attached.
    pub ready: Arc<AtomicBool>,
    /// Connections turned away at the bound.
    pub turned_away: Arc<AtomicU64>,
}

/// The address cannot be served.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Someone else has it.
    #[error(
        "{address} is already in use: stop what listens there (another why502?), or choose another with --listen"
    )]
    InUse {
        /// Which address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Other {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Takes the address.
///
/// # Errors
/// It is in use, or not an address of this machine, or a port this user may not have.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse { address },
            _ => ListenError::Other { address, source },
        })
}

/// Serves for ever; dropping the future stops accepting.
pub async fn serve(listener: TcpListener, service: Arc<Service>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            service.turned_away.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            converse(connection, service).await;
            drop(place);
        });
    }
}

/// One connection, one exchange: without keep-alive an idle scraper holds no place, and
/// none can be raced by a close.
async fn converse(connection: TcpStream, service: Arc<Service>) {
    let streaming = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&streaming);
    let answer = service_fn(move |request| {
        let (service, streaming) = (Arc::clone(&service), Arc::clone(&streaming));
        async move { Ok::<_, Infallible>(routes::answer(request, service, streaming).await) }
    });
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(connection), answer);
    tokio::pin!(conversation);

    let finished = match timeout_at(Instant::now() + EXCHANGE_TIMEOUT, conversation.as_mut()).await
    {
        Ok(finished) => finished,
        Err(_) if seen.load(Ordering::Relaxed) => conversation.await,
        Err(_) => Ok(()),
    };
    if let Err(error) = finished {
        tracing::debug!(%error, "a connection to the exporter ended early");
    }
}
