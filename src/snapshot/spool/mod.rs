//! Between a scan of the source and those that need its users: the scan reads at its own pace, and each reader takes its
//! users at the pace of its target. Chunks wait in memory first, then compressed in files.

mod budget;
mod chunk;
mod encoding;
mod file;
mod interruption;
mod queue;

#[cfg(test)]
mod tests;

use crate::config::Spool as SpoolConfig;
use crate::model::User;
use crate::route::Memory;
use crate::sync::lock;
use budget::Budget;
use chunk::Chunk;
use file::{SpoolFile, compress, create_file, size_on_disk};
pub(crate) use interruption::Interruption;
use queue::{Backlog, Queue, queue};
pub(crate) use queue::{RowReceiver, RowSender};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

/// Chunks are not larger: a reader takes one at a time.
const MAX_CHUNK_BYTES: usize = 128 << 10;
/// Chunks are not smaller: a block of the file system.
const MIN_CHUNK_BYTES: usize = 4 << 10;
/// Without files the spool is full soon, so that all readers together determine the pace. One of them leaves only if the scan
/// has waited for it for this many times `limits.stall`,
const PATIENCE_WITHOUT_DIRECTORY: u32 = 12;
/// and for more than this share of its time. A reader that only has many users takes them about as fast as they are read.
const DELAY_RATIO: f64 = 0.8;
const WRITE_REMEDY: &str = "free disk space in spool.directory, or lower spool.size to what it has; create it for the user that runs users-sync";

/// The spool of a session. Scans that follow each other share it, because readers of an earlier one may still take users.
pub(crate) struct Spool {
    budget: Arc<Budget>,
    directory: Option<PathBuf>,
    queues: Mutex<Vec<Weak<Queue>>>,
    /// Tenants that wait for the next scan.
    waiting: Arc<()>,
}

/// Lives as long as a tenant waits for the next scan.
pub(crate) struct WaitingForScan(#[expect(dead_code, reason = "counted")] Arc<()>);

/// Tries whether a file can be created in the directory of the spool.
///
/// # Errors
/// The directory and the fault.
pub(crate) fn try_directory(config: &SpoolConfig) -> Result<(), String> {
    let Some(directory) = &config.directory else { return Ok(()) };
    create_file(Path::new(directory)).map(drop).map_err(|error| format!("{directory}: {error}"))
}

impl Spool {
    /// `memory` is shared with the mailboxes.
    pub(crate) fn new(config: &SpoolConfig, memory: Arc<Memory>) -> Spool {
        let budget = Arc::new(Budget::new(memory, config.size));
        let directory = config.directory.as_ref().map(PathBuf::from);
        Spool { budget, directory, queues: Mutex::default(), waiting: Arc::default() }
    }

    /// Bytes of the users that wait, in memory and in files.
    pub(crate) fn held_bytes(&self) -> (usize, u64) {
        (self.budget.memory_used(), self.budget.disk_used())
    }

    /// A tenant waits for the next scan: the reader of the current one is not alone any more.
    pub(crate) fn wait_for_scan(&self) -> WaitingForScan {
        WaitingForScan(self.waiting.clone())
    }

    /// Begins a scan. `stall` bounds the time for which it waits for slow readers while the spool is full. After it the
    /// slowest one leaves if it may, of this scan or an earlier one.
    pub(crate) fn begin(self: &Arc<Spool>, stall: Duration, readers_may_leave: bool) -> SpooledScan {
        SpooledScan {
            spool: self.clone(),
            file: None,
            end: 0,
            stall,
            readers_may_leave,
            begun: Instant::now(),
            waited: Duration::ZERO,
            has_failed: false,
        }
    }

    /// The queues from which something is still to be taken.
    fn open(&self) -> Vec<(Arc<Queue>, Backlog)> {
        let mut queues = lock(&self.queues);
        queues.retain(|queue| queue.strong_count() > 0);
        let backlog = |queue: Arc<Queue>| queue.backlog().map(|backlog| (queue, backlog));
        queues.iter().filter_map(Weak::upgrade).filter_map(backlog).collect()
    }
}

/// The writing side of one scan.
pub(crate) struct SpooledScan {
    spool: Arc<Spool>,
    /// Created when memory no longer has room.
    file: Option<Arc<SpoolFile>>,
    /// The end of the last extent.
    end: u64,
    /// How long a reader may take nothing while the scan waits for room.
    stall: Duration,
    readers_may_leave: bool,
    begun: Instant,
    /// How long this scan has waited for room.
    waited: Duration,
    /// A write to the file has failed. Logged once.
    has_failed: bool,
}

impl SpooledScan {
    /// A queue for one reader.
    pub(crate) fn queue(&self) -> (RowSender, RowReceiver) {
        let (sender, receiver) = queue(self.readers_may_leave);
        lock(&self.spool.queues).push(Arc::downgrade(&sender.queue));
        (sender, receiver)
    }

    /// The size of chunks for `readers` that are filled at the same time: together at most an eighth of `limits.memory`.
    pub(crate) fn chunk_bytes(&self, readers: usize) -> usize {
        (self.spool.budget.memory_size() / 8 / readers.max(1)).clamp(MIN_CHUNK_BYTES, MAX_CHUNK_BYTES)
    }

    /// Hands users to a reader. If the spool is full, waits for room, or interrupts the slowest reader.
    pub(crate) async fn send(&mut self, to: &RowSender, mut users: Vec<User>) {
        let spool = self.spool.clone();
        while to.is_open() && !users.is_empty() {
            // Before the attempt, so that nothing that is freed after it is missed.
            let mut freed = pin!(spool.budget.freed().notified());
            freed.as_mut().enable();
            match self.store(users).await {
                Ok(chunk) => return to.put(chunk),
                Err(back) => users = back,
            }
            let queues = spool.open();
            let slowness = |(_, backlog): &&(Arc<Queue>, Backlog)| (backlog.idle >= self.stall, backlog.bytes);
            let may_leave = |(queue, backlog): &&(Arc<Queue>, Backlog)| queue.may_leave && backlog.bytes > 0;
            let Some((slowest, backlog)) = queues.iter().filter(may_leave).max_by_key(slowness) else {
                // The others take what they can.
                let _ = timeout(self.stall, freed).await;
                continue;
            };
            let until_idle = self.stall.saturating_sub(backlog.idle);
            // A reader that is alone delays no other: it may take its time, as long as it takes something.
            let is_alone = queues.len() == 1 && Arc::strong_count(&spool.waiting) == 1;
            let left = if is_alone { until_idle } else { until_idle.min(self.patience(slowest)) };
            if left.is_zero() {
                tracing::warn!("the spool is full: the slowest tenant leaves the snapshot");
                slowest.interrupt(Interruption::SpoolFull);
                continue;
            }
            let begun = Instant::now();
            // Without anything freed, the next attempt fails and the slowest reader is judged again.
            let _ = timeout(left, freed).await;
            self.waited += begun.elapsed();
            let total: u64 = queues.iter().map(|(_, backlog)| backlog.bytes).sum();
            for (queue, backlog) in &queues {
                queue.add_delay(begun.elapsed().mul_f64(backlog.bytes as f64 / total as f64));
            }
        }
    }

    /// How long the scan may still wait for this reader, if there are others.
    fn patience(&self, slowest: &Queue) -> Duration {
        if self.file.is_some() {
            return self.stall.saturating_sub(self.waited);
        }
        let delay = slowest.delay();
        if delay > self.begun.elapsed().mul_f64(DELAY_RATIO) {
            (self.stall * PATIENCE_WITHOUT_DIRECTORY).saturating_sub(delay)
        } else {
            self.stall
        }
    }

    /// Stores users in memory or in the file. Returns them if neither has room.
    async fn store(&mut self, users: Vec<User>) -> Result<Chunk, Vec<User>> {
        let budget = self.spool.budget.clone();
        let bytes = users.iter().map(size_in_memory).sum();
        if budget.take_memory(bytes) {
            return Ok(Chunk::Memory { users, bytes, budget });
        }
        let Some(file) = self.file() else { return Err(users) };
        let at = self.end;
        let write = spawn_blocking(move || {
            let compressed = compress(&users);
            let size = size_on_disk(compressed.len());
            if !budget.take_disk(size) {
                return (users, None);
            }
            let written = file.write(at, &compressed).map(|extent| Chunk::File { file, extent });
            if written.is_err() {
                budget.return_disk(size);
            }
            (users, Some(written))
        });
        match write.await {
            Ok((_, Some(Ok(chunk)))) => {
                self.end = at + chunk.size();
                Ok(chunk)
            }
            Ok((users, Some(Err(error)))) => {
                self.failed(&error);
                Err(users)
            }
            Ok((users, None)) => Err(users),
            // The runtime stops, and with it the scan.
            Err(_) => Err(Vec::new()),
        }
    }

    fn file(&mut self) -> Option<Arc<SpoolFile>> {
        if self.file.is_none() {
            let directory = self.spool.directory.as_ref()?;
            match SpoolFile::create(directory, self.spool.budget.clone()) {
                Ok(file) => self.file = Some(Arc::new(file)),
                Err(error) => self.failed(&error),
            }
        }
        self.file.clone()
    }

    fn failed(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.has_failed, true) {
            let directory = self.spool.directory.as_deref().unwrap_or(Path::new("")).display();
            tracing::error!(
                %directory, %error, remedy = WRITE_REMEDY,
                "cannot write to the spool: slow tenants hold up the snapshot or leave it"
            );
        }
    }
}

/// An estimate of what a user takes in memory.
pub(crate) fn size_in_memory(user: &User) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    size_of::<User>() + user.id.len() + user.raw_json.len() + text(&user.name) + text(&user.email)
}
