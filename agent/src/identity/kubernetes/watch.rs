//! List and watch of one kind of objects, for ever.
//!
//! In: a client. Out: changes of the [`Directory`]. All objects are listed, then changes are
//! watched from there on. A watch that ends is resumed where it was; what the server has forgotten
//! (410) is listed again. Errors are retried with growing pauses.

use std::fmt::Debug;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use hyper::StatusCode;
use hyper::header::{HeaderValue, USER_AGENT};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::client::Body;
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::objects::{EndpointSlice, Pod, Service};
use super::tables::Tabled;
use super::{Directory, Kind};

/// Objects asked for at once. Fewer: more requests. More: the daemon's one thread reads long.
const PAGE: u32 = 500;

/// How long a watch is asked to last, seconds; the server ends it then, and it is resumed.
const WATCH_SECONDS: u32 = 120;

/// A watch that says nothing for so long is broken: the server ends it earlier.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);

/// How long the server may take for an answer to begin.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// The first pause after an error; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause. Longer: it takes long to notice that the server is back. Shorter: all agents
/// of a cluster ask a server that has just started.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Pause between a watch that ended well and the next: a server that ends each at once is not
/// to be asked in a tight loop.
const BETWEEN: Duration = Duration::from_millis(200);

/// How often the server is asked whether it is there, for a watch without changes says nothing.
/// Longer: names are used so long after the server went silent. Shorter: a question of each node's
/// agent so often.
const PULSE: Duration = Duration::from_secs(15);

/// How long that answer may take.
const PULSE_ANSWER: Duration = Duration::from_secs(5);

/// How often it is looked whether anything is too old.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// What a 404 means: of what is asked for, only this is not in each server.
const NO_SUCH_KIND: &str =
    "it has no such kind; discovery.k8s.io/v1 is in Kubernetes 1.21 and newer";

/// What it calls itself.
const CALLED: &str = concat!("why502/", env!("CARGO_PKG_VERSION"));

/// Why the API server cannot be asked.
#[derive(Debug, Error)]
pub enum Away {
    /// It says so, or cannot be reached.
    #[error("{}", in_full(.0))]
    Failed(Box<kube::Error>),
    /// It says so in a watch.
    #[error("{0}")]
    Refused(String),
    /// It says nothing.
    #[error("no answer in time")]
    Silent,
}

impl Away {
    /// What the server says, where it answers and says no: asking again changes nothing until
    /// someone changes its rights or its version.
    pub(super) fn refusal(&self) -> Option<String> {
        let Self::Failed(error) = self else {
            return None;
        };
        let kube::Error::Api(status) = error.as_ref() else {
            return None;
        };
        match StatusCode::from_u16(status.code) {
            Ok(StatusCode::NOT_FOUND) => Some(NO_SUCH_KIND.to_owned()),
            Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Some(status.message.clone()),
            _ => None,
        }
    }
}

/// No way to the API server is known.
#[derive(Debug, Error)]
#[error(
    "cannot find the Kubernetes API server: {0}; run in a pod with a service account, or name a kubeconfig in KUBECONFIG"
)]
pub struct NoCluster(String);

/// Watches the pods of `node`, and all EndpointSlices and Services, in the background. Returns at
/// once; whether the server can be reached shows later.
///
/// # Errors
/// Neither a service account nor a kubeconfig is there, or they are no use.
pub async fn connect(node: &str) -> Result<Directory, NoCluster> {
    let failed = |error: &dyn std::error::Error| NoCluster(error.to_string());
    let mut config = Config::infer().await.map_err(|error| failed(&error))?;
    config.connect_timeout = Some(CONNECT);
    config.default_retry = false;
    // Audit logs and flow control of the API server tell clients apart by it.
    config
        .headers
        .push((USER_AGENT, HeaderValue::from_static(CALLED)));
    let client = Client::try_from(config).map_err(|error| failed(&error))?;
    let directory = Directory::default();

    let (silences, silent) = watch::channel(0);
    tokio::spawn(feel_the_pulse(client.clone(), silences));
    let here = format!("spec.nodeName={node}");
    let pods: Api<Pod> = Api::all(client.clone());
    let of = |kind| Followed {
        kind,
        directory: directory.clone(),
        silent: silent.clone(),
    };
    tokio::spawn(follow(pods, Some(here), of(Kind::Pods)));
    let slices: Api<EndpointSlice> = Api::all(client.clone());
    tokio::spawn(follow(slices, None, of(Kind::EndpointSlices)));
    let services: Api<Service> = Api::all(client);
    tokio::spawn(follow(services, None, of(Kind::Services)));
    let expiring = directory.clone();
    tokio::spawn(async move {
        loop {
            sleep(EXPIRE_EVERY).await;
            expiring.expire();
        }
    });
    Ok(directory)
}

/// One kind of objects, and what all kinds share.
struct Followed {
    kind: Kind,
    directory: Directory,
    /// Changes when the server was found silent.
    silent: watch::Receiver<u64>,
}

/// Asks whether the server is there, and says when it is not. Any answer will do.
async fn feel_the_pulse(client: Client, silences: watch::Sender<u64>) {
    loop {
        sleep(PULSE).await;
        let Ok(question) = hyper::Request::get("/version").body(Body::empty()) else {
            return;
        };
        if !matches!(
            timeout(PULSE_ANSWER, client.send(question)).await,
            Ok(Ok(_))
        ) {
            silences.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}

async fn follow<K>(api: Api<K>, fields: Option<String>, mut followed: Followed)
where
    K: Tabled + Resource + Clone + DeserializeOwned + Debug,
{
    let kind = followed.kind;
    let directory = followed.directory.clone();
    let mut pause = FIRST_PAUSE;
    // Where the watch is to go on; none when everything has to be listed.
    let mut version: Option<String> = None;
    loop {
        let step = async {
            let from = match version.take() {
                Some(version) if directory.is_listed(kind) => version,
                _ => {
                    let (objects, version) = list::<K>(&api, fields.as_deref()).await?;
                    directory.replace::<K>(kind, objects);
                    version
                }
            };
            take_in(&api, fields.as_deref(), from, &mut followed).await
        };
        match step.await {
            Ok(next) => {
                version = next;
                pause = FIRST_PAUSE;
                sleep(BETWEEN).await;
            }
            Err(Broken { why, from }) => {
                directory.fails(kind, &why);
                tracing::debug!(?kind, %why, "Kubernetes: asking again");
                // What had worked for a while is tried again soon.
                if from.is_some() {
                    pause = FIRST_PAUSE;
                }
                version = from;
                sleep(jittered(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// What ended a step, and where the watch may be resumed.
struct Broken {
    why: Away,
    from: Option<String>,
}

/// All objects, and the version they are of. Of each page only what the tables keep is kept.
async fn list<K>(api: &Api<K>, fields: Option<&str>) -> Result<(K::Objects, String), Broken>
where
    K: Tabled + Clone + DeserializeOwned + Debug,
{
    let mut params = ListParams::default().limit(PAGE);
    params.field_selector = fields.map(str::to_owned);
    let mut objects = K::Objects::default();
    loop {
        let page = timeout(ANSWER, api.list(&params))
            .await
            .map_err(|_elapsed| broken(Away::Silent))?
            .map_err(|error| broken(Away::Failed(Box::new(error))))?;
        for object in page.items {
            object.put(&mut objects);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok((objects, page.metadata.resource_version.unwrap_or_default())),
        }
    }
}

/// Takes changes in until the server ends the watch; where the next is to begin, `None` when
/// everything has to be listed again.
async fn take_in<K>(
    api: &Api<K>,
    fields: Option<&str>,
    mut version: String,
    followed: &mut Followed,
) -> Result<Option<String>, Broken>
where
    K: Tabled + Resource + Clone + DeserializeOwned + Debug,
{
    let Followed {
        kind,
        directory,
        silent,
    } = followed;
    silent.mark_unchanged();
    let mut params = WatchParams::default().timeout(WATCH_SECONDS);
    params.field_selector = fields.map(str::to_owned);
    let stream = match timeout(ANSWER, api.watch(&params, &version)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(kube::Error::Api(status))) if status.code == GONE => return Ok(None),
        Ok(Err(error)) => return Err(resumable(Away::Failed(Box::new(error)), version)),
        Err(_elapsed) => return Err(resumable(Away::Silent, version)),
    };
    directory.works(*kind);
    let mut stream = pin!(stream);
    loop {
        let event = tokio::select! {
            event = timeout(SILENCE, stream.next()) => event,
            Ok(()) = silent.changed() => return Err(resumable(Away::Silent, version)),
        };
        let event = match event {
            Ok(Some(Ok(event))) => event,
            Ok(Some(Err(error))) => return Err(resumable(Away::Failed(Box::new(error)), version)),
            Ok(None) => return Ok(Some(version)),
            Err(_elapsed) => return Err(resumable(Away::Silent, version)),
        };
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                version = object.resource_version().unwrap_or(version);
                directory.change(|tables| tables.put(object));
            }
            WatchEvent::Deleted(object) => {
                version = object.resource_version().unwrap_or(version);
                directory.change(|tables| tables.remove(&object));
            }
            WatchEvent::Bookmark(bookmark) => version = bookmark.metadata.resource_version,
            WatchEvent::Error(status) if status.code == GONE => return Ok(None),
            // Nothing says from where a watch that was refused may go on.
            WatchEvent::Error(status) => return Err(broken(Away::Refused(status.message))),
        }
    }
}

/// The server has forgotten the version asked for (RFC 9110, 15.5.11).
const GONE: u16 = 410;

fn broken(why: Away) -> Broken {
    Broken { why, from: None }
}

fn resumable(why: Away, version: String) -> Broken {
    let from = Some(version);
    Broken { why, from }
}

/// An error with what it comes from: a client error alone says nothing of the certificate. What the
/// server said is enough: its error prints as the answer's debug form.
fn in_full(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        let words = [&status.message, &status.reason];
        let words = words.iter().find(|words| !words.is_empty());
        return match words {
            Some(words) => format!("HTTP {}: {words}", status.code),
            None => format!("HTTP {}", status.code),
        };
    }
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        let more = error.to_string();
        // Some repeat what they come from.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = error.source();
    }
    text
}

/// Between half of it and the whole: agents that lost the server together come back apart.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 1000;
    let part = u32::try_from(random).unwrap_or_default();
    pause / 2 + pause / 2 * part / 1000
}
