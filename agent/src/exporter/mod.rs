//! The HTTP server: metrics, health, the event stream, incidents, what is under way.
//!
//! In: connections on one address. Out: answers (`routes`), to those who may ask (`gate`,
//! `web`). Everything is bounded: the number of connections (`places`), the time to agree on
//! TLS and to send a head, its size, the time to take an answer, the number of stream readers;
//! a request has no body. The port is taken before any probe is loaded, so that a port in use
//! costs nothing. It is plain hyper: a few fixed paths need no router, and the limits above
//! are hyper's connection builder's, which axum's `serve` does not give out.

mod gate;
mod incidents;
mod negotiate;
mod open;
mod places;
mod routes;
pub mod web;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::config::ApiAccess;
use crate::events::EventStream;
use crate::incidents::Incidents;
use crate::metrics::report::Report;
use crate::pipeline::Questions;
use places::{Place, Places};
use routes::Answer;
use web::{Rules, Web};

/// Connections at once. Too few: slow ones have to go for a new one. Too many: whoever reaches
/// the port can take that much memory, up to about 100 KB each.
const MAX_CONNECTIONS: usize = 64;

/// Time for a request head, and before it for TLS. Shorter: slow links fail. Longer: a silent
/// peer holds one of [`MAX_CONNECTIONS`] for so long.
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
    /// What the agent knows of itself.
    pub report: Report,
    /// What `/api/v1/events` sends.
    pub stream: EventStream,
    /// What `/api/v1/incidents` shows.
    pub incidents: Incidents,
    /// Asks the pipeline to bring the registry up to date, and what is under way.
    pub pipeline: Questions,
    /// The probes are attached.
    pub ready: Arc<AtomicBool>,
    /// Connections that had to go at the bound.
    pub turned_away: Arc<AtomicU64>,
    /// Who may ask, and how it is said.
    pub web: Web,
    /// Whether the API is there.
    pub opening: Opening,
}

/// For whom the API is.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// What the operator wants.
    pub api: ApiAccess,
    /// Only this host can ask.
    pub is_loopback: bool,
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
    let places = Places::new(MAX_CONNECTIONS);
    loop {
        let (connection, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (place, someone_left) = places.take(peer.ip());
        if someone_left {
            service.turned_away.fetch_add(1, Ordering::Relaxed);
        }
        let Some(place) = place else { continue };
        let (service, place) = (Arc::clone(&service), Arc::new(place));
        tokio::spawn(async move {
            tokio::select! {
                () = place.lost() => {}
                () = converse(connection, service, Arc::clone(&place)) => {}
            }
        });
        // Who has a place is heard before the next one may have it.
        yield_now().await;
    }
}

/// One connection, one exchange: without keep-alive an idle scraper holds no place, and
/// none can be raced by a close.
async fn converse(connection: TcpStream, service: Arc<Service>, place: Arc<Place>) {
    let rules = service.web.now();
    let Some(tls) = &rules.tls else {
        return exchange(connection, service, rules, place).await;
    };
    let acceptor = TlsAcceptor::from(Arc::clone(tls));
    let agreed = async {
        if !speaks_tls(&connection).await? {
            return Ok(Err(connection));
        }
        acceptor.accept(connection).await.map(Ok)
    };
    match timeout(HEAD_TIMEOUT, agreed).await {
        Ok(Ok(Ok(connection))) => exchange(connection, service, rules, place).await,
        Ok(Ok(Err(connection))) => explain_tls(connection).await,
        Ok(Err(error)) => tracing::debug!(%error, "TLS was not agreed on with a client"),
        Err(_) => {}
    }
}

/// Whether it begins as TLS does: with a record of a handshake (RFC 8446, 5.1).
async fn speaks_tls(connection: &TcpStream) -> io::Result<bool> {
    const HANDSHAKE: u8 = 22;
    let mut first = [0];
    let count = connection.peek(&mut first).await?;
    Ok(count == 0 || first == [HANDSHAKE])
}

async fn exchange<C>(connection: C, service: Arc<Service>, rules: Arc<Rules>, place: Arc<Place>)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let answered = Arc::clone(&place);
    let answer = service_fn(move |request| {
        let (service, rules) = (Arc::clone(&service), Arc::clone(&rules));
        let place = Arc::clone(&answered);
        async move { Ok::<_, Infallible>(answer(request, service, &rules, &place).await) }
    });
    let conversation = server().serve_connection(TokioIo::new(connection), answer);
    tokio::pin!(conversation);

    let finished = match timeout_at(Instant::now() + EXCHANGE_TIMEOUT, conversation.as_mut()).await
    {
        Ok(finished) => finished,
        Err(_) if place.is_streaming() => conversation.await,
        Err(_) => Ok(()),
    };
    if let Err(error) = finished {
        tracing::debug!(%error, "a connection to the exporter ended early");
    }
}

async fn answer(
    mut request: Request<Incoming>,
    service: Arc<Service>,
    rules: &Rules,
    place: &Place,
) -> Answer {
    place.asked();
    let mut answer = match gate::refusal(&mut request, place.who(), &service, rules).await {
        Some(refusal) => refusal,
        None => routes::answer(request, service, place).await,
    };
    place.answered();
    for (name, value) in &rules.headers {
        answer.headers_mut().insert(name, value.clone());
    }
    answer
}

/// Someone asks in clear text.
async fn explain_tls(connection: TcpStream) {
    let answer = service_fn(|_| async {
        Ok::<_, Infallible>(gate::text(
            StatusCode::BAD_REQUEST,
            "this port speaks TLS: ask with https://\n",
        ))
    });
    let conversation = server().serve_connection(TokioIo::new(connection), answer);
    // Whether the answer arrived or not.
    let _ = timeout(HEAD_TIMEOUT, conversation).await;
}

fn server() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .keep_alive(false);
    builder
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use flate2::read::GzDecoder;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::web::Web;
    use super::{ListenError, MAX_CONNECTIONS, Opening, Service, listen, serve};
    use crate::config::{ApiAccess, Settings};
    use crate::events::EventStream;
    use crate::events::shape::Line;
    use crate::events::teller::Teller;
    use crate::identity::Whereabouts;
    use crate::incidents::Incidents;
    use crate::metrics::Metrics;
    use crate::open;
    use crate::pipeline::{Questions, answered, questions};
    use crate::samples::{failed_attempt, request};

    struct Server {
        address: SocketAddr,
        stream: EventStream,
        incidents: Incidents,
        turned_away: Arc<AtomicU64>,
    }

    async fn server() -> Server {
        // Without a pipeline behind it a refresh returns at once.
        server_at(questions().0).await
    }

    async fn server_at(pipeline: Questions) -> Server {
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = EventStream::new();
        let incidents = Incidents::new(&Settings::default());
        let turned_away = Arc::new(AtomicU64::new(0));
        let Metrics {
            registry, report, ..
        } = Metrics::new(&Settings::default());
        let service = Service {
            registry,
            report,
            stream: stream.clone(),
            incidents: incidents.clone(),
            pipeline,
            ready: Arc::new(AtomicBool::new(true)),
            turned_away: Arc::clone(&turned_away),
            web: Web::default(),
            opening: Opening {
                api: ApiAccess::Auto,
                is_loopback: true,
            },
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
            // There is no pipeline to say what is under way.
            ("GET /api/v1/open HTTP/1.1", "503"),
            ("GET /api/v1/open/1 HTTP/1.1", "404"),
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
    async fn what_is_under_way_is_answered_by_the_pipeline() {
        let pipeline = answered(|question| {
            assert_eq!(question.proxy.as_deref(), Some("nginx"));
            open::samples::found(question.limit)
        });
        let Server { address, .. } = server_at(pipeline).await;

        let line = "GET /api/v1/open?proxy=nginx&limit=3 HTTP/1.1";
        let (head, body) = ask(address, line).await;

        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("application/json"), "{head}");
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["matched"], 4, "{body}");
        assert_eq!(body["open"].as_array().unwrap().len(), 3);
        assert_eq!(body["open"][0]["upstream"], "10.0.3.17:8080");

        let (head, body) = ask(address, "GET /api/v1/open?code=502 HTTP/1.1").await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        let words = "there is no parameter `code`: there are proxy, upstream, min_age and limit";
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"], words);
    }

    #[tokio::test]
    async fn beyond_the_bound_who_says_nothing_has_to_go_and_is_counted() {
        let Server {
            address,
            turned_away,
            ..
        } = server().await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }

        let (head, _) = ask(address, "GET /metrics HTTP/1.1").await;

        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert_eq!(turned_away.load(Ordering::Relaxed), 1);
        let mut byte = [0];
        let oldest = &mut silent[0];
        assert!(matches!(oldest.read(&mut byte).await, Ok(0) | Err(_)));
    }

    #[tokio::test]
    async fn a_body_is_refused_with_a_sentence() {
        let Server { address, .. } = server().await;
        let mut connection = TcpStream::connect(address).await.unwrap();
        let head = "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n";
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(b"12345").await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();

        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.ends_with("a request has no body here\n"), "{answer}");
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
