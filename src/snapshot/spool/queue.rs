//! The queue of one reader of a scan: chunks of users that the scan has read, and the reader has not taken yet.

use super::chunk::Chunk;
use super::interruption::Interruption;
use crate::model::{IdHash, User, UserId};
use crate::sync::lock;
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What the scan, its reader and the spool share.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    filled: Notify,
    /// Whether the reader may be interrupted to make room.
    pub(super) may_leave: bool,
}

struct Inner {
    chunks: VecDeque<Chunk>,
    end: End,
    /// When the reader took a chunk, or got its first one.
    taken: Instant,
    /// How long scans have waited for this reader: its share of the waits of all.
    delay: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The scan goes on.
    Open,
    /// The scan has sent everything.
    Complete,
    Interrupted(Interruption),
    /// The reader is gone.
    Closed,
}

enum Popped {
    Chunk(Chunk),
    /// The reader has everything.
    End,
    /// The scan goes on.
    Nothing,
}

/// What a queue holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backlog {
    pub(super) bytes: u64,
    /// Since the reader has taken something.
    pub(super) idle: Duration,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    fn pop(&self) -> Result<Popped, Interruption> {
        let mut inner = self.lock();
        if let Some(chunk) = inner.chunks.pop_front() {
            inner.taken = Instant::now();
            return Ok(Popped::Chunk(chunk));
        }
        match &inner.end {
            End::Open => Ok(Popped::Nothing),
            End::Complete => Ok(Popped::End),
            End::Interrupted(why) => Err(why.clone()),
            End::Closed => Err(Interruption::BrokenOff),
        }
    }

    /// What waits for the reader; `None` if it will get nothing more.
    pub(super) fn backlog(&self) -> Option<Backlog> {
        let inner = self.lock();
        let is_open = match inner.end {
            End::Open => true,
            End::Complete => !inner.chunks.is_empty(),
            End::Interrupted(_) | End::Closed => false,
        };
        let bytes = inner.chunks.iter().map(Chunk::size).sum();
        is_open.then(|| Backlog { bytes, idle: inner.taken.elapsed() })
    }

    pub(super) fn delay(&self) -> Duration {
        self.lock().delay
    }

    pub(super) fn add_delay(&self, delay: Duration) {
        self.lock().delay += delay;
    }

    /// Ends the queue early and frees what it holds.
    pub(super) fn interrupt(&self, why: Interruption) {
        let mut inner = self.lock();
        if matches!(inner.end, End::Open | End::Complete) {
            inner.end = End::Interrupted(why);
            let chunks = std::mem::take(&mut inner.chunks);
            drop(inner);
            drop(chunks);
            self.filled.notify_one();
        }
    }
}

/// The scan's end of a queue. Dropping it before [`RowSender::finish`] interrupts the reader.
pub(crate) struct RowSender {
    pub(super) queue: Arc<Queue>,
}

/// The reader's end of a queue.
pub(crate) struct RowReceiver {
    queue: Arc<Queue>,
    unmappable: Vec<(UserId, String)>,
    left_out: HashSet<IdHash>,
    mark: Option<i64>,
}

pub(super) fn queue(may_leave: bool) -> (RowSender, RowReceiver) {
    let inner = Inner { chunks: VecDeque::new(), end: End::Open, taken: Instant::now(), delay: Duration::ZERO };
    let queue = Arc::new(Queue { inner: Mutex::new(inner), filled: Notify::new(), may_leave });
    (
        RowSender { queue: queue.clone() },
        RowReceiver { queue, unmappable: Vec::new(), left_out: HashSet::new(), mark: None },
    )
}

impl RowSender {
    /// Whether the reader still takes users of this scan.
    pub(crate) fn is_open(&self) -> bool {
        self.queue.lock().end == End::Open
    }

    pub(super) fn put(&self, chunk: Chunk) {
        let mut inner = self.queue.lock();
        if inner.end == End::Open {
            if inner.chunks.is_empty() {
                inner.taken = Instant::now();
            }
            inner.chunks.push_back(chunk);
            drop(inner);
            self.queue.filled.notify_one();
        }
    }

    /// The reader has got everything once it has taken what waits.
    pub(crate) fn finish(self) {
        let mut inner = self.queue.lock();
        if inner.end == End::Open {
            inner.end = End::Complete;
        }
        drop(inner);
        self.queue.filled.notify_one();
    }

    /// Ends the queue early.
    pub(crate) fn interrupt(self, why: Interruption) {
        self.queue.interrupt(why);
    }
}

impl Drop for RowSender {
    fn drop(&mut self) {
        if self.is_open() {
            self.queue.interrupt(Interruption::BrokenOff);
        }
    }
}

impl RowReceiver {
    /// All users at once.
    pub(crate) fn of(users: Vec<User>) -> RowReceiver {
        let (sender, receiver) = queue(false);
        sender.put(Chunk::Given(users));
        sender.finish();
        receiver
    }

    /// The rest of a scan that has failed.
    #[cfg(test)]
    pub(crate) fn broken_off() -> RowReceiver {
        queue(true).1
    }

    /// From now on these users are not received.
    pub(crate) fn leave_out(&mut self, users: HashSet<IdHash>) {
        self.left_out = users;
    }

    /// Whether [`RowReceiver::mark`] is computed from now on.
    pub(crate) fn compute_mark(&mut self, compute: bool) {
        self.mark = compute.then_some(0);
    }

    /// A number that depends on the ids of all received users whose rows can be mapped, and not on their order.
    pub(crate) fn mark(&self) -> Option<i64> {
        self.mark
    }

    /// The users among those received so far whose rows cannot be mapped, with the reasons.
    pub(crate) fn take_unmappable(&mut self) -> Vec<(UserId, String)> {
        std::mem::take(&mut self.unmappable)
    }

    /// Waits for the next users; `None` after the last ones.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<User>>, Interruption> {
        loop {
            match self.queue.pop()? {
                Popped::Chunk(chunk) => {
                    let mut users = chunk.take().await?;
                    if !self.left_out.is_empty() {
                        users.retain(|user| !self.left_out.contains(&IdHash::of(&user.id)));
                    }
                    if let Some(mark) = &mut self.mark {
                        let mappable = users.iter().filter(|user| user.why_unmappable().is_none());
                        *mark ^= mappable.fold(0, |mark, user| mark ^ IdHash::of(&user.id).prefix());
                    }
                    let why = |user: &User| Some((user.id.clone(), user.why_unmappable()?.to_owned()));
                    self.unmappable.extend(users.iter().filter_map(why));
                    return Ok(Some(users));
                }
                Popped::End => return Ok(None),
                Popped::Nothing => self.queue.filled.notified().await,
            }
        }
    }
}

impl Drop for RowReceiver {
    fn drop(&mut self) {
        let mut inner = self.queue.lock();
        inner.end = End::Closed;
        let chunks = std::mem::take(&mut inner.chunks);
        drop(inner);
        drop(chunks);
    }
}
