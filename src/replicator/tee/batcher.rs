//! The way out: a batch is filled while the one before is on its way to Kafka.

use crate::config::Topics;
use crate::model::Lsn;
use crate::replicator::error::ServiceError;
use crate::tee::kafka::{CommitKind, Done, Job};
use crate::tee::{Batch, Encoder};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A batch is handed on when it has become so large, at the latest.
const LARGE: usize = 8 << 20;

/// Where messages go.
pub(crate) struct KafkaBatcher {
    pub(crate) jobs: mpsc::Sender<Job>,
    pub(crate) topics: Arc<Topics>,
    pub(crate) encoder: Arc<Encoder>,
    pub(crate) batch: Batch,
    pub(crate) progress: Arc<PublishProgress>,
}

impl KafkaBatcher {
    pub(crate) fn is_full(&self) -> bool {
        self.batch.len() >= LARGE
    }

    /// Hands the batch on once there is room for it. `reaches`: the position that is in Kafka by it.
    pub(crate) async fn send(&mut self, close: CommitKind, reaches: Option<Lsn>) -> Result<(), ServiceError> {
        let room = self.jobs.reserve().await.map_err(|_| ServiceError::NotPublishing)?;
        self.progress.handed(reaches);
        room.send(Job { batch: std::mem::take(&mut self.batch), topics: self.topics.clone(), close });
        Ok(())
    }

    /// Whether there is room for a batch now.
    pub(crate) fn has_room(&self) -> bool {
        self.jobs.capacity() > 0
    }
}

/// How far the stream is received, and how far it is in Kafka.
pub(crate) struct PublishProgress {
    done: watch::Receiver<Done>,
    now: Mutex<Now>,
}

struct Now {
    received: Lsn,
    published: Lsn,
    /// Jobs that were handed on.
    jobs: Done,
    /// Those that reach a position, and which.
    on_their_way: VecDeque<(Done, Lsn)>,
    /// When a job was handed on while none was on its way.
    busy_since: Instant,
    /// When one was acknowledged last.
    acknowledged: Instant,
}

impl PublishProgress {
    pub(crate) fn new(done: watch::Receiver<Done>, published: Lsn) -> PublishProgress {
        let now = Now {
            received: published,
            published,
            jobs: 0,
            on_their_way: VecDeque::new(),
            busy_since: Instant::now(),
            acknowledged: Instant::now(),
        };
        PublishProgress { done, now: Mutex::new(now) }
    }

    fn handed(&self, reaches: Option<Lsn>) {
        let done = *self.done.borrow();
        let mut now = self.lock();
        if done == now.jobs {
            now.busy_since = Instant::now();
        }
        now.jobs += 1;
        let job = now.jobs;
        now.on_their_way.extend(reaches.map(|position| (job, position)));
    }

    pub(crate) fn received(&self, position: Lsn) {
        let mut now = self.lock();
        now.received = now.received.max(position);
    }

    /// What was received, and what of it is in Kafka.
    pub(crate) fn positions(&self) -> (Lsn, Lsn) {
        let done = *self.done.borrow();
        let mut now = self.lock();
        while let Some((_, position)) = now.on_their_way.pop_front_if(|(job, _)| *job <= done) {
            now.published = now.published.max(position);
        }
        (now.received.max(now.published), now.published)
    }

    /// Something has been acknowledged just now.
    pub(crate) fn hears(&self) {
        self.lock().acknowledged = Instant::now();
    }

    /// Waits until everything that was handed on is in Kafka.
    pub(crate) async fn all_done(&self) -> Result<(), ServiceError> {
        let jobs = self.lock().jobs;
        let mut done = self.done.clone();
        let waited = done.wait_for(|done| *done >= jobs).await;
        waited.map(drop).map_err(|_| ServiceError::NotPublishing)
    }

    /// For how long nothing was acknowledged while something was on its way; `None` where nothing is.
    pub(crate) fn waits_for(&self) -> Option<Duration> {
        let done = *self.done.borrow();
        let now = self.lock();
        let since = now.busy_since.max(now.acknowledged);
        (done < now.jobs).then(|| since.elapsed())
    }

    /// Changes whenever something more is.
    pub(crate) fn done(&self) -> watch::Receiver<Done> {
        self.done.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
