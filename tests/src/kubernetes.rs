//! A stand-in for the Kubernetes API server: real HTTP, lists in pages and watches, with the answers
//! that a real one was recorded to give (resource versions, bookmarks, 410 for what is forgotten).
//!
//! In: objects put and deleted, and ways to go wrong. Out: what a client of the three kinds that
//! are served sees. It has no other kind, no authentication, and knows no field but
//! `spec.nodeName` to select by.

pub mod recorded;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::AUTHORIZATION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Objects in a page, whatever the client allows: few, so that small lists have several.
const PAGE: usize = 2;

/// A kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Pod.
    Pod,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
}

/// The objects, whether they are served or not.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    state: Arc<Mutex<State>>,
}

/// The server, while it is up.
#[derive(Debug)]
pub struct ApiServer {
    /// Where it listens.
    pub address: SocketAddr,
    runtime: Option<Runtime>,
    cluster: Cluster,
}

#[derive(Debug, Default)]
struct State {
    frozen: bool,
    version: u64,
    objects: BTreeMap<(Kind, String), Value>,
    /// What changed, by version.
    changes: Vec<Change>,
    /// Changes up to this version are forgotten.
    compacted: u64,
    watches: Vec<Watch>,
    asked: Vec<String>,
    /// The bearer token without which nothing is told.
    token: Option<String>,
    /// Kinds that nobody may read, and those that there are none of.
    forbidden: BTreeSet<Kind>,
    missing: BTreeSet<Kind>,
}

#[derive(Clone, Debug)]
struct Change {
    version: u64,
    kind: Kind,
    what: &'static str,
    object: Value,
}

#[derive(Debug)]
struct Watch {
    kind: Kind,
    node: Option<String>,
    lines: mpsc::UnboundedSender<io::Result<Bytes>>,
}

impl Kind {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/api/v1/pods" => Some(Self::Pod),
            "/api/v1/services" => Some(Self::Service),
            "/apis/discovery.k8s.io/v1/endpointslices" => Some(Self::EndpointSlice),
            _ => None,
        }
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Pod => ("v1", "Pod"),
            Self::Service => ("v1", "Service"),
            Self::EndpointSlice => ("discovery.k8s.io/v1", "EndpointSlice"),
        }
    }
}

impl Cluster {
    /// Puts an object in, or in place of the one of its name; watches are told.
    pub fn put(&self, kind: Kind, mut object: Value) {
        let mut state = self.lock();
        state.version += 1;
        let (api_version, name) = kind.words();
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(name);
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let key = (kind, key(&object));
        let what = match state.objects.insert(key, object.clone()) {
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        state.change(kind, what, object);
    }

    /// Takes an object out; watches are told.
    #[track_caller]
    pub fn delete(&self, kind: Kind, name: &str) {
        let mut state = self.lock();
        state.version += 1;
        let mut object = state
            .objects
            .remove(&(kind, name.to_owned()))
            .unwrap_or_else(|| panic!("no {kind:?} is called {name}"));
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.change(kind, "DELETED", object);
    }

    /// Tells all watches the version that they have reached.
    pub fn bookmark(&self) {
        let state = self.lock();
        for watch in &state.watches {
            watch.send(&recorded::bookmark(watch.kind, &state.version.to_string()));
        }
    }

    /// From now on nobody may list or watch this kind, or everybody may again.
    pub fn forbid(&self, kind: Kind, is_forbidden: bool) {
        let mut state = self.lock();
        set(&mut state.forbidden, kind, is_forbidden);
        state.watches.retain(|watch| watch.kind != kind);
    }

    /// From now on there is no such kind, as in an older server, or there is again.
    pub fn omit(&self, kind: Kind, is_missing: bool) {
        let mut state = self.lock();
        set(&mut state.missing, kind, is_missing);
        state.watches.retain(|watch| watch.kind != kind);
    }

    /// Forgets what changed so far: who asks for changes since then is told so, with code 410.
    pub fn compact(&self) {
        let mut state = self.lock();
        // One more than anyone has seen.
        state.version += 1;
        state.compacted = state.version;
        state.changes.clear();
    }

    /// Ends all watches with the error that their version is forgotten.
    pub fn expire_watches(&self) {
        let mut state = self.lock();
        for watch in state.watches.drain(..) {
            watch.send(&recorded::gone());
        }
    }

    /// From now on nothing is answered, nor said in a watch, and no connection ends; or all is again.
    pub fn freeze(&self, frozen: bool) {
        self.lock().frozen = frozen;
    }

    fn is_frozen(&self) -> bool {
        self.lock().frozen
    }

    /// Ends all watches in the middle of a line, with their connections.
    pub fn cut_watches(&self) {
        let mut state = self.lock();
        for watch in state.watches.drain(..) {
            let half = Bytes::from_static(b"{\"type\":\"MODIFIED\",\"object\":{\"api");
            // One whose client has gone is cut already.
            let _gone = watch.lines.send(Ok(half));
            let _gone = watch.lines.send(Err(io::ErrorKind::ConnectionReset.into()));
        }
    }

    /// Watches that are open.
    pub fn watches(&self) -> usize {
        let mut state = self.lock();
        state.watches.retain(|watch| !watch.lines.is_closed());
        state.watches.len()
    }

    /// From now on only who has this bearer token is answered.
    pub fn require(&self, token: &str) {
        self.lock().token = Some(token.to_owned());
    }

    /// Paths and queries asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.lock().asked.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Answer> {
        let mut state = self.lock();
        state.asked.push(request.uri().to_string());
        if let Some(token) = &state.token {
            let given = request.headers().get(AUTHORIZATION);
            if given.is_none_or(|given| given.as_bytes() != format!("Bearer {token}").as_bytes()) {
                return answered(StatusCode::UNAUTHORIZED, &recorded::unauthorized());
            }
        }
        let query: BTreeMap<String, String> = request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), decoded(value)))
            .collect();
        let Some(kind) =
            Kind::of(request.uri().path()).filter(|kind| !state.missing.contains(kind))
        else {
            return answered(StatusCode::NOT_FOUND, &recorded::not_found());
        };
        if state.forbidden.contains(&kind) {
            return answered(StatusCode::FORBIDDEN, &recorded::forbidden());
        }
        let node = query
            .get("fieldSelector")
            .and_then(|selector| selector.strip_prefix("spec.nodeName="))
            .map(str::to_owned);
        if query.get("watch").is_some_and(|watch| watch == "true") {
            let from = query
                .get("resourceVersion")
                .and_then(|from| from.parse().ok());
            state.watch(kind, node, from.unwrap_or(0))
        } else {
            state.list(kind, node.as_deref(), query.get("continue"))
        }
    }
}

impl State {
    fn change(&mut self, kind: Kind, what: &'static str, object: Value) {
        let change = Change {
            version: self.version,
            kind,
            what,
            object,
        };
        for watch in &self.watches {
            watch.tell(&change);
        }
        self.changes.push(change);
    }

    fn list(&self, kind: Kind, node: Option<&str>, token: Option<&String>) -> Response<Answer> {
        let from: usize = token.and_then(|token| token.parse().ok()).unwrap_or(0);
        let all: Vec<&Value> = self
            .objects
            .iter()
            .filter(|((of, _), object)| *of == kind && is_on(object, node))
            .map(|(_, object)| object)
            .collect();
        let items = all.iter().skip(from).take(PAGE);
        let items: Vec<Value> = items.map(|item| without_kind(item)).collect();
        let (api_version, name) = kind.words();
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if from + PAGE < all.len() {
            metadata["continue"] = json!((from + PAGE).to_string());
        }
        let list = json!({"apiVersion": api_version, "kind": format!("{name}List"),
            "metadata": metadata, "items": items});
        answered(StatusCode::OK, &list)
    }

    fn watch(&mut self, kind: Kind, node: Option<String>, from: u64) -> Response<Answer> {
        let (lines, body) = mpsc::unbounded_channel();
        let watch = Watch { kind, node, lines };
        if from < self.compacted {
            watch.send(&recorded::gone());
            return Response::new(Answer::Lines(body));
        }
        for change in self.changes.iter().filter(|change| change.version > from) {
            watch.tell(change);
        }
        self.watches.push(watch);
        Response::new(Answer::Lines(body))
    }
}

impl Watch {
    fn tell(&self, change: &Change) {
        let Change {
            version: _,
            kind,
            what,
            object,
        } = change;
        if *kind == self.kind && is_on(object, self.node.as_deref()) {
            self.send(&json!({"type": what, "object": object}));
        }
    }

    fn send(&self, line: &Value) {
        // One whose client has gone needs none.
        let _gone = self.lines.send(Ok(Bytes::from(format!("{line}\n"))));
    }
}

impl ApiServer {
    /// Serves the cluster on loopback at this port, 0 for any.
    #[track_caller]
    pub fn start(cluster: &Cluster, port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let listener = runtime.block_on(async { listen(port) });
        let address = listener.local_addr().expect("a listener has an address");
        let served = cluster.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let served = served.clone();
                let service = service_fn(move |request| {
                    let answer = (!served.is_frozen()).then(|| served.answer(&request));
                    async move {
                        match answer {
                            Some(answer) => Ok::<_, Infallible>(answer),
                            None => std::future::pending().await,
                        }
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self {
            address,
            runtime: Some(runtime),
            cluster: cluster.clone(),
        }
    }

    /// Writes a kubeconfig that leads to a server at `address`: in clear, or over TLS with this
    /// certificate authority and a file with a token.
    #[track_caller]
    pub fn kubeconfig(address: SocketAddr, secrets: Option<(&Path, &Path)>, file: &Path) {
        let (cluster, user) = match secrets {
            None => (format!("{{server: \"http://{address}\"}}"), "{}".to_owned()),
            Some((authority, token)) => (
                format!(
                    "{{server: \"https://{address}\", certificate-authority: \"{}\"}}",
                    authority.display()
                ),
                format!("{{tokenFile: \"{}\"}}", token.display()),
            ),
        };
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: e2e\n\
             clusters:\n- name: e2e\n  cluster: {cluster}\n\
             users:\n- name: e2e\n  user: {user}\n\
             contexts:\n- name: e2e\n  context:\n    cluster: e2e\n    user: e2e\n"
        );
        std::fs::write(file, text).expect("a kubeconfig is written");
    }
}

impl Drop for ApiServer {
    /// Goes away as a server does that is killed: with all its connections.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.cluster.lock().watches.clear();
    }
}

/// What is answered.
#[derive(Debug)]
enum Answer {
    Whole(Option<Bytes>),
    Lines(mpsc::UnboundedReceiver<io::Result<Bytes>>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Lines(lines) => lines
                .poll_recv(context)
                .map(|line| line.map(|line| line.map(Frame::data))),
        }
    }
}

#[track_caller]
fn listen(port: u16) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket can be made");
    // A server that comes back finds its port in TIME_WAIT.
    socket.set_reuseaddr(true).expect("an option can be set");
    socket
        .bind(SocketAddr::from(([127, 0, 0, 1], port)))
        .expect("the port is free");
    socket.listen(64).expect("it can listen")
}

fn answered(status: StatusCode, body: &Value) -> Response<Answer> {
    let mut answer = Response::new(Answer::Whole(Some(Bytes::from(body.to_string()))));
    *answer.status_mut() = status;
    answer
}

/// As it is within a list, which says it once for all.
fn without_kind(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    object
}

fn set(kinds: &mut BTreeSet<Kind>, kind: Kind, is_in: bool) {
    if is_in {
        kinds.insert(kind);
    } else {
        kinds.remove(&kind);
    }
}

/// `namespace/name`.
fn key(object: &Value) -> String {
    let word = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    format!("{}/{}", word("namespace"), word("name"))
}

fn is_on(object: &Value, node: Option<&str>) -> bool {
    node.is_none_or(|node| object["spec"]["nodeName"] == node)
}

/// A value of a query, its percent-encoding undone.
fn decoded(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
