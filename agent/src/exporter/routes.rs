//! What is answered to which request.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, VARY,
};
use hyper::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::gate::text;
use super::places::Place;
use super::{Service, incidents, negotiate, open};
use crate::events::shape::{Envelope, Line};
use crate::events::{Interest, Reader};

/// Readers of the event stream at once. Each costs the pipeline nothing and the daemon one
/// connection; without a bound they could take all connections from the scraper.
const MAX_STREAM_READERS: usize = 16;

/// How long the stream is silent at most: a reader can tell a quiet agent from a dead one.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

/// How long an answer waits for the pipeline to finish its round. Longer than any round; when
/// it takes longer, the answer shows the state of before.
pub(super) const REFRESH_WAIT: Duration = Duration::from_secs(1);

pub(super) const PLAIN: &str = "text/plain; charset=utf-8";

const INDEX: &str = "\
why502 explains 502, 503 and 504 answers.

/metrics         Prometheus metrics: protobuf, OpenMetrics or text, as asked for
/api/v1/events   failed requests as they happen, one JSON object a line; ?all=1 for every request
/api/v1/incidents
                 the last failed requests with their evidence; ?cause=..&since=10m and others
/api/v1/open     requests under way, the oldest first; ?min_age=10s and others
/healthz         200 while the process lives
/readyz          200 while the probes are attached, else 503
";

/// The body of an answer.
pub(super) type AnswerBody = BoxBody<Bytes, Infallible>;
/// An answer.
pub(super) type Answer = Response<AnswerBody>;

/// Answers one request that may be asked; `place` learns when the answer has no end of its own.
pub(super) async fn answer(
    request: Request<Incoming>,
    service: Arc<Service>,
    place: &Place,
) -> Answer {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return with(
            text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n"),
            ALLOW,
            "GET, HEAD",
        );
    }
    match request.uri().path() {
        "/" => text(StatusCode::OK, INDEX),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" if service.ready.load(Ordering::Relaxed) => {
            text(StatusCode::OK, "probes attached\n")
        }
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "probes not attached\n"),
        "/metrics" => metrics(&request, &service).await,
        "/api/v1/events" => {
            let all = request
                .uri()
                .query()
                .is_some_and(|query| query.split('&').any(|part| part == "all=1"));
            events(&service, all, place)
        }
        "/api/v1/open" => open::answer(request.uri().query().unwrap_or_default(), &service).await,
        path => match path.strip_prefix("/api/v1/incidents") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                let query = request.uri().query().unwrap_or_default();
                incidents::answer(rest, query, &service).await
            }
            _ => text(StatusCode::NOT_FOUND, "not found; / lists what there is\n"),
        },
    }
}

/// Waits for the pipeline to finish its round, so that the answer shows all that happened.
pub(super) async fn catch_up(service: &Service) {
    if timeout(REFRESH_WAIT, service.pipeline.refresh())
        .await
        .is_err()
    {
        tracing::warn!("the pipeline is slow: this answer shows an earlier state");
    }
}

async fn metrics(request: &Request<Incoming>, service: &Service) -> Answer {
    let header = |name: HeaderName| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let format = negotiate::format(header(ACCEPT));
    let gzip = negotiate::gzip(header(ACCEPT_ENCODING));

    catch_up(service).await;
    let registry = Arc::clone(&service.registry);
    let written = spawn_blocking(move || -> anyhow::Result<Vec<u8>> {
        if !gzip {
            return Ok(format.to_vec(&registry)?);
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        format.write(&registry, &mut packed)?;
        Ok(packed.finish()?)
    })
    .await;

    match written {
        Ok(Ok(body)) => {
            let answer = with(
                bytes(StatusCode::OK, body),
                CONTENT_TYPE,
                format.content_type(),
            );
            let answer = with(answer, VARY, "Accept, Accept-Encoding");
            if gzip {
                with(answer, CONTENT_ENCODING, "gzip")
            } else {
                answer
            }
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "metrics could not be written");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "metrics could not be written; see the agent's log\n",
            )
        }
        Err(error) => {
            tracing::error!(%error, "writing metrics failed");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "metrics could not be written; see the agent's log\n",
            )
        }
    }
}

fn events(service: &Service, all: bool, place: &Place) -> Answer {
    if service.stream.readers() >= MAX_STREAM_READERS {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many readers of the event stream; close one\n",
        );
    }
    place.streams();
    let interest = if all {
        Interest::Everything
    } else {
        Interest::Trouble
    };
    let reader = service.stream.subscribe(interest);
    let (lines, body) = mpsc::channel(1);
    tokio::spawn(forward(reader, all, lines));
    let answer = Response::new(EventBody(body).boxed());
    with(answer, CONTENT_TYPE, "application/x-ndjson")
}

/// Moves lines from the stream to one answer until either end is gone.
async fn forward(mut reader: Reader, all: bool, lines: mpsc::Sender<Bytes>) {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let mut next = Envelope::new(Line::Hello { version, all }).to_line().ok();
    loop {
        if let Some(line) = next
            && lines.send(line).await.is_err()
        {
            return;
        }
        let waited = tokio::select! {
            waited = timeout(ALIVE_EVERY, reader.next()) => waited,
            () = lines.closed() => return,
        };
        next = match waited {
            Ok(Some(line)) => Some(line),
            Ok(None) => return,
            Err(_) => {
                let time = format!("{:.6}", Timestamp::now());
                Envelope::new(Line::Alive { time }).to_line().ok()
            }
        };
    }
}

/// Lines as a body.
struct EventBody(mpsc::Receiver<Bytes>);

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

pub(super) fn bytes(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed());
    *answer.status_mut() = status;
    answer
}

pub(super) fn with(mut answer: Answer, name: HeaderName, value: &'static str) -> Answer {
    answer
        .headers_mut()
        .insert(name, hyper::header::HeaderValue::from_static(value));
    answer
}
