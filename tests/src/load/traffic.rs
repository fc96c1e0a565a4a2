//! Clients that ask without end until they are told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Client, Order, Outcome, runtime};
use crate::wait::eventually;

/// How long it may take until one more request is done. How many are done in a second is the
/// machine's business.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the `number`-th request of a client is.
type Next = dyn Fn(usize, usize) -> Order + Send + Sync;

/// The clients.
#[derive(Debug)]
pub struct Traffic {
    over: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    /// `None` when it was waited for.
    thread: Option<JoinHandle<Vec<Outcome>>>,
}

impl Traffic {
    /// Starts so many clients; `next` makes the orders of each client by number.
    pub fn start(
        address: SocketAddr,
        clients: usize,
        next: impl Fn(usize, usize) -> Order + Send + Sync + 'static,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicUsize::new(0));
        let next: Arc<Next> = Arc::new(next);
        let (ended, count) = (Arc::clone(&over), Arc::clone(&asked));
        let thread = std::thread::spawn(move || {
            runtime().block_on(async move {
                let mut tasks = tokio::task::JoinSet::new();
                for client in 0..clients {
                    let (over, asked) = (Arc::clone(&ended), Arc::clone(&count));
                    let next = Arc::clone(&next);
                    tasks.spawn(async move {
                        let mut connection = Client::new(address);
                        let mut outcomes = Vec::new();
                        for number in 0.. {
                            if over.load(Ordering::Relaxed) {
                                break;
                            }
                            let order = next(client, number);
                            outcomes.push(connection.ask(&order).await);
                            asked.fetch_add(1, Ordering::Relaxed);
                        }
                        outcomes
                    });
                }
                tasks.join_all().await.into_iter().flatten().collect()
            })
        });
        Self {
            over,
            asked,
            thread: Some(thread),
        }
    }

    /// Requests done so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests are done.
    #[track_caller]
    pub fn goes_on(&self, more: usize) {
        let until = self.asked() + more;
        while self.asked() < until {
            let before = self.asked();
            eventually(PATIENCE, "traffic goes on", || match self.asked() {
                asked if asked > before => Ok(()),
                asked => Err(format!("{asked} requests of {until}")),
            });
        }
    }

    /// Ends it; gives what came of each request.
    pub fn stop(mut self) -> Vec<Outcome> {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take();
        thread.map_or_else(Vec::new, |thread| {
            thread.join().expect("clients do not panic")
        })
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        // A test that failed must not leave load for the next.
        self.over.store(true, Ordering::Relaxed);
    }
}
