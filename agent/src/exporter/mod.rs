//! The HTTP server: metrics, health, the event stream, incidents.
//!
//! In: connections on one address. Out: answers (`routes`). Everything is bounded: the
//! number of connections, the time to send a head, the time to take an answer, the number
//! of stream readers. The port is taken before any probe is loaded, so that a port in use
//! costs nothing. It is plain hyper: a few fixed paths need no router, and the limits above
//! are hyper's connection builder's, which axum's `serve` does not give out.

mod incidents;
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
use crate::incidents::Incidents;
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
    /// What `/api/v1/incidents` shows.
    pub incidents: Incidents,
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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64};

    use flate2::read::GzDecoder;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::{ListenError, MAX_CONNECTIONS, Service, listen, serve};
    use crate::config::Settings;
    use crate::events::EventStream;
    use crate::events::shape::Line;
    use crate::events::teller::Teller;
    use crate::identity::Whereabouts;
    use crate::incidents::Incidents;
    use crate::metrics::Metrics;
    use crate::pipeline::refresh;
    use crate::samples::{failed_attempt, request};

    struct Server {
        address: SocketAddr,
        stream: EventStream,
        incidents: Incidents,
        turned_away: Arc<AtomicU64>,
    }

    async fn server() -> Server {
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = EventStream::new();
        let incidents = Incidents::new(&Settings::default());
        let turned_away = Arc::new(AtomicU64::new(0));
        // Without a pipeline behind it a refresh returns at once.
        let (refresh, _) = refresh();
        let service = Service {
            registry: Metrics::new(&Settings::default()).registry,
            stream: stream.clone(),
            incidents: incidents.clone(),
            refresh,
            ready: Arc::new(AtomicBool::new(true)),
            turned_away: Arc::clone(&turned_away),
        };
        tokio::spawn(serve(listener, Arc::new(service)));
        Server {
            address,
            stream,
            incidents,
            turned_away,
        }
    }

    async fn ask(address: SocketAddr, head: &str) -> (String, Vec<u8>) {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection
            .write_all(format!("{head}\r\nHost: x\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await.unwrap();
        let end = answer
            .windows(4)
            .position(|bytes| bytes == b"\r\n\r\n")
            .unwrap();
        let body = answer.split_off(end + 4);
        (String::from_utf8(answer).unwrap(), body)
    }

    #[tokio::test]
    async fn each_path_answers() {
        let Server { address, .. } = server().await;

        for (line, status) in [
            ("GET / HTTP/1.1", "200"),
            ("GET /healthz HTTP/1.1", "200"),
            ("GET /readyz HTTP/1.1", "200"),
            ("GET /metrics HTTP/1.1", "200"),
            ("GET /nothing HTTP/1.1", "404"),
            ("GET /api/v1/incidentsx HTTP/1.1", "404"),
            ("POST /metrics HTTP/1.1", "405"),
        ] {
            let (head, _) = ask(address, line).await;

            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{line}: {head}"
            );
        }
    }

    #[tokio::test]
    async fn metrics_come_in_the_format_and_encoding_asked_for() {
        let Server { address, .. } = server().await;

        let (head, body) = ask(address, "GET /metrics HTTP/1.1\r\nAccept-Encoding: gzip").await;
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        assert!(head.contains("content-encoding: gzip"), "{head}");
        let mut text = String::new();
        GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
        assert!(
            text.contains("# TYPE why502_agent_build_info gauge\n"),
            "{text}"
        );

        let accept = "Accept: application/openmetrics-text;version=1.0.0";
        let (head, body) = ask(address, &format!("GET /metrics HTTP/1.1\r\n{accept}")).await;
        assert!(
            head.contains("application/openmetrics-text; version=1.0.0"),
            "{head}"
        );
        assert!(body.ends_with(b"# EOF\n"));

        let accept = "Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        let (head, body) = ask(address, &format!("GET /metrics HTTP/1.1\r\n{accept}")).await;
        assert!(head.contains("application/vnd.google.protobuf"), "{head}");
        assert!(!body.is_empty());
    }

    #[tokio::test]
    async fn the_event_stream_greets_and_then_tells() {
        let Server {
            address, stream, ..
        } = server().await;
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection
            .write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut seen = String::new();
        let mut buffer = [0; 4096];

        while !seen.contains("\"type\":\"lost\",\"events\":9}") {
            if seen.contains("\"type\":\"hello\"") && stream.is_wanted(true) {
                stream.send(true, Line::Lost { events: 9 });
            }
            let count = connection.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "ended after {seen}");
            seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }

        assert!(seen.contains("application/x-ndjson"), "{seen}");
        assert!(
            seen.contains("{\"v\":1,\"type\":\"hello\",\"version\":\""),
            "{seen}"
        );
    }

    #[tokio::test]
    async fn incidents_are_listed_found_and_refused_in_json() {
        let Server {
            address, incidents, ..
        } = server().await;
        let request = Arc::new(request(Some(502), vec![failed_attempt()]));
        incidents.keep(&request, Whereabouts::default(), &Teller::fixed(0));
        incidents.keep(&request, Whereabouts::default(), &Teller::fixed(0));

        for (path, status, expected) in [
            ("", "200", ("/matched", json!(2))),
            ("?limit=1", "200", ("/truncated", json!(true))),
            ("?code=502", "200", ("/incidents/0/id", json!(2))),
            ("?cause=path_lost", "200", ("/incidents", json!([]))),
            ("/1", "200", ("/incident/cause", json!("keepalive_race"))),
            (
                "/3",
                "404",
                ("/error", json!("there is no incident 3: the newest is 2")),
            ),
            ("?cause=slow", "400", ("/v", json!(1))),
            (
                "?x=1",
                "400",
                (
                    "/error",
                    json!(
                        "there is no parameter `x`: there are proxy, upstream, cause, code, path, since and limit"
                    ),
                ),
            ),
            (
                "/x",
                "400",
                (
                    "/error",
                    json!("`x` is no incident: write a number, as in /api/v1/incidents/17"),
                ),
            ),
        ] {
            let line = format!("GET /api/v1/incidents{path} HTTP/1.1");
            let (head, body) = ask(address, &line).await;
            let body: Value = serde_json::from_slice(&body).unwrap();

            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{path}: {head}"
            );
            assert!(head.contains("application/json"), "{path}: {head}");
            let (at, expected) = expected;
            assert_eq!(body.pointer(at), Some(&expected), "{path}: {body}");
        }
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_are_turned_away_and_counted() {
        let Server {
            address,
            turned_away,
            ..
        } = server().await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut one_more = TcpStream::connect(address).await.unwrap();

        let mut byte = [0];
        // Closed, or reset when the server closed before it read anything.
        let closed = matches!(one_more.read(&mut byte).await, Ok(0) | Err(_));

        assert!(closed);
        assert_eq!(turned_away.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_port_in_use_is_said_in_one_sentence() {
        let Server { address, .. } = server().await;

        let error = listen(address).await.unwrap_err();

        assert!(matches!(error, ListenError::InUse { .. }));
        let words = error.to_string();
        assert!(
            words.contains("already in use") && words.contains("--listen"),
            "{words}"
        );
    }
}
