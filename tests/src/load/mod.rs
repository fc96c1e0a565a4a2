//! Clients: what they ask, and what they got.
//!
//! In: orders, shared out over a number of clients. Out: one [`Outcome`] for each order, in
//! no particular order. Random choices come from [`mix`] and a seed, never from here.

mod client;
pub mod known;
pub mod mix;
pub mod traffic;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use client::Client;

/// One request to make.
#[derive(Clone, Debug)]
pub struct Order {
    /// Method.
    pub method: &'static str,
    /// Path; unique, so that logs and events can be matched.
    pub path: String,
    /// Bytes of request body.
    pub body: usize,
    /// Wait for a 100 before the body.
    pub expect_continue: bool,
    /// Close the connection this long after the request instead of waiting for the answer.
    pub abort_after: Option<Duration>,
    /// Close the connection after the answer.
    pub last: bool,
    /// Silence before the request.
    pub pause: Duration,
    /// An `X-Order` header: what a server is to do when the path does not say.
    pub words: Option<String>,
}

/// What came of an order.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of the order.
    pub path: String,
    /// Of the order.
    pub words: Option<String>,
    /// Status received, 1xx but 101 not counted; none without a status line.
    pub status: Option<u16>,
    /// The answer came to the end that its framing says.
    pub complete: bool,
    /// Bytes of body received.
    pub body: u64,
    /// The client left on purpose.
    pub aborted: bool,
    /// What went wrong, if anything.
    pub error: Option<String>,
    /// Where the client's connection began; none when it could not connect.
    pub client: Option<SocketAddr>,
}

impl Order {
    /// A GET on a connection that lives on.
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            method: "GET",
            path: path.into(),
            body: 0,
            expect_continue: false,
            abort_after: None,
            last: false,
            pause: Duration::ZERO,
            words: None,
        }
    }

    /// A POST with a body.
    pub fn post(path: impl Into<String>, body: usize) -> Self {
        Self {
            method: "POST",
            body,
            ..Self::get(path)
        }
    }
}

impl Outcome {
    /// A whole answer with this status.
    pub fn is(&self, status: u16) -> bool {
        self.status == Some(status) && self.complete
    }
}

/// Makes all requests, `clients` at a time, each client on its own connection which it keeps
/// where it can.
pub async fn run(target: SocketAddr, orders: Vec<Order>, clients: usize) -> Vec<Outcome> {
    let orders = Arc::new(Mutex::new(VecDeque::from(orders)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let orders = Arc::clone(&orders);
        tasks.spawn(async move {
            let mut client = Client::new(target);
            let mut outcomes = Vec::new();
            loop {
                let order = orders
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop_front();
                let Some(order) = order else {
                    return outcomes;
                };
                outcomes.push(client.ask(&order).await);
            }
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// Makes requests one after the other on one client, without a runtime of the caller's own.
#[track_caller]
pub fn one_by_one(target: SocketAddr, orders: Vec<Order>) -> Vec<Outcome> {
    runtime().block_on(run(target, orders, 1))
}

/// A runtime for clients: one thread, for the machine is shared with what is measured.
#[track_caller]
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be made")
}
