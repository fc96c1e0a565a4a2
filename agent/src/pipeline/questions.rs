//! What others ask the pipeline, and how they get their answers.
//!
//! In: questions of the exporter's tasks. Out: one at a time, for the pipeline to answer between two rounds.
//! Scrapes that wait are answered together; who wants to know what is under way waits for a round of
//! their own, since each answer is a walk.

use tokio::sync::{mpsc, oneshot};

use crate::open::{Found, Question};

/// Questions of one kind that may wait at once; as many as the exporter lets in.
const MAX_WAITING: usize = 64;

/// Asks the pipeline; clones ask the same one.
#[derive(Clone, Debug)]
pub struct Questions {
    refreshes: mpsc::Sender<oneshot::Sender<()>>,
    open: mpsc::Sender<OpenAsk>,
}

/// The pipeline's end of [`Questions`].
#[derive(Debug)]
pub struct Asked {
    refreshes: mpsc::Receiver<oneshot::Sender<()>>,
    open: mpsc::Receiver<OpenAsk>,
}

/// What the pipeline is asked.
#[derive(Debug)]
pub(super) enum Ask {
    /// To bring the registry up to date.
    Refresh(Scrapes),
    /// What is under way.
    Open(OpenAsk),
}

/// Those that wait for the registry.
#[derive(Debug)]
pub(super) struct Scrapes(Vec<oneshot::Sender<()>>);

/// Somebody who waits for what is under way.
#[derive(Debug)]
pub(super) struct OpenAsk {
    question: Question,
    answer: oneshot::Sender<Found>,
}

/// A pair of ends.
pub fn questions() -> (Questions, Asked) {
    let (ask_refresh, refreshes) = mpsc::channel(MAX_WAITING);
    let (ask_open, open) = mpsc::channel(MAX_WAITING);
    let questions = Questions {
        refreshes: ask_refresh,
        open: ask_open,
    };
    (questions, Asked { refreshes, open })
}

impl Questions {
    /// Returns when the registry shows everything that was in the ring at the call, or when
    /// the pipeline is gone.
    pub async fn refresh(&self) {
        let (done, wait) = oneshot::channel();
        if self.refreshes.send(done).await.is_ok() {
            // An error says that the pipeline ended: the registry is final then.
            let _ = wait.await;
        }
    }

    /// What is under way, by everything that was in the ring at the call; `None` when the pipeline is
    /// gone.
    pub async fn open(&self, question: Question) -> Option<Found> {
        let (answer, wait) = oneshot::channel();
        let ask = OpenAsk { question, answer };
        self.open.send(ask).await.ok()?;
        wait.await.ok()
    }
}

impl Asked {
    /// The next question, or all scrapes that wait; never when nobody can ask any more.
    pub(super) async fn next(&mut self) -> Ask {
        let Self { refreshes, open } = self;
        tokio::select! {
            Some(first) = refreshes.recv() => {
                let mut scrapes = vec![first];
                scrapes.extend(std::iter::from_fn(|| refreshes.try_recv().ok()));
                Ask::Refresh(Scrapes(scrapes))
            }
            Some(ask) = open.recv() => Ask::Open(ask),
            else => std::future::pending().await,
        }
    }
}

impl Scrapes {
    /// The registry is up to date.
    pub(super) fn done(self) {
        for scrape in self.0 {
            // The scrape that asked may have gone.
            let _ = scrape.send(());
        }
    }
}

impl OpenAsk {
    /// Answers, if the one who asked still waits.
    pub(super) fn answer(self, by: impl FnOnce(&Question) -> Found) {
        let Self { question, answer } = self;
        if !answer.is_closed() {
            let _ = answer.send(by(&question));
        }
    }
}

/// Somebody answers what is asked, for tests of who asks.
#[cfg(test)]
pub(crate) fn answered(found: impl Fn(&Question) -> Found + Send + 'static) -> Questions {
    let (questions, mut asked) = questions();
    tokio::spawn(async move {
        loop {
            match asked.next().await {
                Ask::Refresh(scrapes) => scrapes.done(),
                Ask::Open(open) => open.answer(&found),
            }
        }
    });
    questions
}

#[cfg(test)]
mod tests {
    use super::{Ask, questions};
    use crate::open::Question;

    #[tokio::test]
    async fn scrapes_are_answered_together_and_questions_one_by_one() {
        let (questions, mut asked) = questions();
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let questions = questions.clone();
            waiting.spawn(async move { questions.refresh().await });
        }
        for _ in 0..3 {
            let questions = questions.clone();
            waiting.spawn(async move { drop(questions.open(Question::default()).await) });
        }
        tokio::task::yield_now().await;
        drop(questions);

        let mut kinds = Vec::new();
        for _ in 0..4 {
            match asked.next().await {
                Ask::Refresh(scrapes) => kinds.push(scrapes.0.len()),
                Ask::Open(_) => kinds.push(0),
            }
        }

        kinds.sort_unstable();
        assert_eq!(kinds, [0, 0, 0, 3]);
        waiting.join_all().await;
    }
}
