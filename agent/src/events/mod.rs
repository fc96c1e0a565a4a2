//! The event stream: what happened, one JSON object a line.
//!
//! In: the core's events. Out: lines for every reader of `GET /api/v1/events`. The stream
//! is bounded: a reader that is too slow misses events, is told how many, and they are
//! counted. Without readers nothing is written at all.

pub mod human;
pub mod shape;
pub mod teller;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use self::shape::{Envelope, Line};

/// Lines kept for readers that are behind. Too small: a reader misses events in a burst.
/// Too large: memory, about 1 KB each, while there are readers.
const BACKLOG_LINES: usize = 4096;

/// What a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Gateway errors, masked failures, failed attempts whose request is not known.
    Trouble,
    /// Every request, and every attempt whose request is not known.
    Everything,
}

/// The stream; clones share it.
#[derive(Clone, Debug)]
pub struct EventStream {
    sender: broadcast::Sender<Sent>,
    shared: Arc<Shared>,
}

/// A reader of the stream.
#[derive(Debug)]
pub struct Reader {
    receiver: broadcast::Receiver<Sent>,
    shared: Arc<Shared>,
    interest: Interest,
}

#[derive(Debug, Default)]
struct Shared {
    readers: AtomicUsize,
    readers_of_everything: AtomicUsize,
    lagged: AtomicU64,
}

#[derive(Clone, Debug)]
struct Sent {
    trouble: bool,
    json: Bytes,
}

impl EventStream {
    /// A stream without readers.
    pub fn new() -> Self {
        let (sender, _) = broadcast::channel(BACKLOG_LINES);
        Self {
            sender,
            shared: Arc::default(),
        }
    }

    /// Whether anyone reads a line of this kind.
    pub fn is_wanted(&self, trouble: bool) -> bool {
        let readers = if trouble {
            &self.shared.readers
        } else {
            &self.shared.readers_of_everything
        };
        readers.load(Ordering::Relaxed) > 0
    }

    /// Sends a line to who wants it.
    pub fn send(&self, trouble: bool, line: Line) {
        match Envelope::new(line).to_line() {
            // Nobody is left to read it: that is no loss.
            Ok(json) => drop(self.sender.send(Sent { trouble, json })),
            Err(error) => tracing::warn!(%error, "an event could not be written as JSON"),
        }
    }

    /// A new reader; it gets what is sent from now on.
    pub fn subscribe(&self, interest: Interest) -> Reader {
        self.shared.readers.fetch_add(1, Ordering::Relaxed);
        if interest == Interest::Everything {
            self.shared
                .readers_of_everything
                .fetch_add(1, Ordering::Relaxed);
        }
        Reader {
            receiver: self.sender.subscribe(),
            shared: Arc::clone(&self.shared),
            interest,
        }
    }

    /// Readers now.
    pub fn readers(&self) -> usize {
        self.shared.readers.load(Ordering::Relaxed)
    }

    /// Events that slow readers missed, all together.
    pub fn lagged(&self) -> u64 {
        self.shared.lagged.load(Ordering::Relaxed)
    }
}

impl Default for EventStream {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// The next line, newline included; `None` when the agent stops.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.receiver.recv().await {
                Ok(Sent { trouble, json }) if trouble || self.interest == Interest::Everything => {
                    return Some(json);
                }
                Ok(_) => {}
                Err(RecvError::Lagged(events)) => {
                    self.shared.lagged.fetch_add(events, Ordering::Relaxed);
                    if let Ok(json) = Envelope::new(Line::Lost { events }).to_line() {
                        return Some(json);
                    }
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.readers.fetch_sub(1, Ordering::Relaxed);
        if self.interest == Interest::Everything {
            self.shared
                .readers_of_everything
                .fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::shape::Line;
    use super::{BACKLOG_LINES, EventStream, Interest};

    fn line(events: u64) -> Line {
        Line::Lost { events }
    }

    #[tokio::test]
    async fn a_reader_of_trouble_is_spared_the_rest() {
        let stream = EventStream::new();
        let mut trouble = stream.subscribe(Interest::Trouble);
        let mut everything = stream.subscribe(Interest::Everything);

        stream.send(false, line(1));
        stream.send(true, line(2));

        assert_eq!(
            trouble.next().await.unwrap(),
            "{\"v\":1,\"type\":\"lost\",\"events\":2}\n"
        );
        assert_eq!(
            everything.next().await.unwrap(),
            "{\"v\":1,\"type\":\"lost\",\"events\":1}\n"
        );
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_what_it_missed_and_it_is_counted() {
        let stream = EventStream::new();
        let mut reader = stream.subscribe(Interest::Trouble);

        for _ in 0..BACKLOG_LINES + 7 {
            stream.send(true, line(0));
        }

        assert_eq!(
            reader.next().await.unwrap(),
            "{\"v\":1,\"type\":\"lost\",\"events\":7}\n"
        );
        assert_eq!(stream.lagged(), 7);
    }

    #[test]
    fn without_readers_nothing_is_wanted() {
        let stream = EventStream::new();
        assert!(!stream.is_wanted(true));

        let reader = stream.subscribe(Interest::Trouble);
        assert!(stream.is_wanted(true));
        assert!(!stream.is_wanted(false));

        drop(reader);
        assert!(!stream.is_wanted(true));
    }

    #[tokio::test]
    async fn the_stream_ends_when_the_agent_stops() {
        let stream = EventStream::new();
        let mut reader = stream.subscribe(Interest::Trouble);

        drop(stream);

        assert_eq!(reader.next().await, None);
    }
}
