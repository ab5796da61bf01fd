//! Publishes batches, each in a transaction of Kafka's with the position that it leads to. A thread of its own, since
//! librdkafka blocks.

use super::client::{Producer, transaction_timeout};
use super::failure::Failure;
use crate::config::Kafka;
use crate::config::Topics;
use crate::tee::{Batch, Held};
use prometheus_client::metrics::counter::Counter;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::timeout_at;

/// Kafka has to commit within this; then the batch is begun anew, by whoever begins anew.
const COMMIT: Duration = Duration::from_secs(30);
/// A transaction that has been open for this part of `transaction.timeout.ms` is committed where it is: after the whole
/// of it the brokers would abort it, and what is on its way has to get there before.
const OPEN: u32 = 3;
/// A transaction that is given up has to be so within this; then whoever comes next ends it.
const ABORT: Duration = Duration::from_secs(2);
/// So often a full queue is tried again.
const FULL: Duration = Duration::from_millis(5);
/// The coordinator marks a transaction's partitions after it has answered the commit. A transaction that begins before
/// that is done is refused, and begun anew by librdkafka 20 ms later.
const MARKED: Duration = Duration::from_millis(3);
/// So often it is looked whether the brokers have acknowledged everything. The crate's own flush looks every 100 ms.
const LOOK: Duration = Duration::from_micros(200);

/// One publisher at a time: what an older one still has on its way would arrive behind what a newer one has said.
static WRITING: Mutex<()> = Mutex::const_new(());

/// Waits until the last publisher has ended.
pub async fn ended() {
    drop(WRITING.lock().await);
}

/// A batch, and what follows it.
pub struct Job {
    /// The messages.
    pub batch: Batch,
    /// Where they go.
    pub topics: Arc<Topics>,
    /// What is written behind them.
    pub close: CommitKind,
}

/// What follows a batch.
pub enum CommitKind {
    /// The position that is reached by it: committed with these records.
    Transaction(Vec<Held>),
    /// More of the same source transaction. It stays invisible until that is complete; what is open for too long is split
    /// with this record.
    Partial(Held),
}

/// What is counted of it.
pub struct Counts {
    /// Messages that the brokers have acknowledged.
    pub messages: Counter,
    /// Batches that lead to a position.
    pub transactions: Counter,
}

/// How many jobs are done.
pub type Done = u64;

/// The thread's other end.
pub struct Publisher {
    /// Takes a job while the one before is on its way.
    pub jobs: mpsc::Sender<Job>,
    /// How many of them the brokers have acknowledged.
    pub done: watch::Receiver<Done>,
    /// What ended it.
    pub failed: oneshot::Receiver<Failure>,
}

impl Publisher {
    /// Starts the thread. It ends with the last job once nobody can send another one.
    pub fn start(
        producer: Producer,
        kafka: &Kafka,
        source: &str,
        tenants: Vec<String>,
        counts: Counts,
    ) -> std::io::Result<Publisher> {
        let (jobs, mut queue) = mpsc::channel::<Job>(1);
        let (say_done, done) = watch::channel(0);
        let (say_failed, failed) = oneshot::channel();
        let work = Work {
            producer,
            positions_topic: kafka.positions_topic.clone(),
            transactional: kafka.exactly_once,
            source: source.to_owned(),
            tenants,
            patience: transaction_timeout(kafka) / OPEN,
            open: None,
            committed: None,
        };
        let runtime = Handle::current();
        std::thread::Builder::new().name("publisher".to_owned()).spawn(move || {
            let _only = WRITING.blocking_lock();
            // What it holds is let go of before the lock is.
            let mut work = work;
            loop {
                let ended = match runtime.block_on(work.next(&mut queue)) {
                    Next::Job(job) => work.publish(&job).map(|()| {
                        counts.messages.inc_by(job.batch.messages.len() as u64);
                        counts.transactions.inc_by(u64::from(matches!(job.close, CommitKind::Transaction(_))));
                        say_done.send_modify(|done| *done += 1);
                    }),
                    Next::Split(split) => work.close(&[split]),
                    Next::Nothing => return work.give_up(),
                };
                if let Err(failure) = ended {
                    // Nobody hears it where the tee has ended already.
                    let _ = say_failed.send(failure);
                    return work.give_up();
                }
            }
        })?;
        Ok(Publisher { jobs, done, failed })
    }
}

/// What there is to do for the thread.
enum Next {
    Job(Job),
    /// The transaction is open for too long, and the rest of it is not in sight.
    Split(Held),
    Nothing,
}

/// A transaction that more is to come of.
struct Open {
    since: Instant,
    /// What makes it whole as it is.
    split: Option<Held>,
}

struct Work {
    producer: Producer,
    positions_topic: String,
    transactional: bool,
    source: String,
    tenants: Vec<String>,
    /// How long a transaction may be open.
    patience: Duration,
    open: Option<Open>,
    /// When the last one was committed.
    committed: Option<Instant>,
}

impl Work {
    async fn next(&mut self, queue: &mut mpsc::Receiver<Job>) -> Next {
        let waiting = self.open.as_mut().filter(|open| self.transactional && open.split.is_some());
        let job = match waiting {
            None => queue.recv().await,
            Some(open) => match timeout_at((open.since + self.patience).into(), queue.recv()).await {
                Ok(job) => job,
                Err(_) => return open.split.take().map_or(Next::Nothing, Next::Split),
            },
        };
        job.map_or(Next::Nothing, Next::Job)
    }

    fn publish(&mut self, job: &Job) -> Result<(), Failure> {
        if self.open.is_none() && self.transactional {
            self.begin()?;
        }
        let since = self.open.get_or_insert(Open { since: Instant::now(), split: None }).since;
        for message in &job.batch.messages {
            let headers = self.headers(&job.batch, message);
            let topic = job.topics.of(message.tenant);
            let key = job.batch.part(&message.key);
            let mut record = BaseRecord::<str, str>::to(topic).key(key).headers(headers).timestamp(message.millis);
            if let Some(value) = &message.value {
                record = record.payload(job.batch.part(value));
            }
            self.send(record)?;
        }
        match &job.close {
            CommitKind::Transaction(records) => self.close(records),
            CommitKind::Partial(split) if since.elapsed() > self.patience => self.close(std::slice::from_ref(split)),
            CommitKind::Partial(split) => {
                self.open = Some(Open { since, split: Some(split.clone()) });
                // Without transactions nothing holds it back.
                if self.transactional { Ok(()) } else { self.flush() }
            }
        }
    }

    /// What is open will never be whole: consumers are not to wait for its end.
    fn give_up(&self) {
        if self.transactional && self.open.is_some() {
            // Where that fails, the next one that begins ends it, or time does.
            let _ = self.producer.abort_transaction(ABORT);
        }
    }

    /// Makes what was published so far visible, with these records.
    fn close(&mut self, records: &[Held]) -> Result<(), Failure> {
        if !self.transactional {
            // A position must not be there before what it stands for.
            self.flush()?;
        }
        for record in records {
            let mut held = BaseRecord::<str, str>::to(&self.positions_topic).key(&record.key);
            if let Some(value) = &record.value {
                held = held.payload(value);
            }
            self.send(held)?;
        }
        self.flush()?;
        if self.transactional {
            self.commit()?;
            self.committed = Some(Instant::now());
        }
        self.open = None;
        Ok(())
    }

    fn begin(&self) -> Result<(), Failure> {
        if let Some(committed) = self.committed {
            std::thread::sleep(MARKED.saturating_sub(committed.elapsed()));
        }
        self.producer.begin_transaction().map_err(|error| self.failure("beginning a transaction", &error))
    }

    fn headers(&self, batch: &Batch, message: &crate::tee::Message) -> OwnedHeaders {
        let header = |key, value| Header { key, value: Some(value) };
        OwnedHeaders::new_with_capacity(8)
            .insert(header("ce_specversion", "1.0"))
            .insert(header("ce_id", batch.part(&message.id)))
            .insert(header("ce_source", &self.source))
            .insert(header("ce_type", message.kind))
            .insert(header("ce_time", batch.part(&message.time)))
            .insert(header("ce_tenant", &self.tenants[message.tenant]))
            .insert(header("content-type", "application/json"))
    }

    fn send(&self, record: BaseRecord<'_, str, str>) -> Result<(), Failure> {
        let mut record = record;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(FULL);
                }
                Err((error, back)) => return Err(self.failure(&format!("publishing to {}", back.topic), &error)),
            }
        }
    }

    fn flush(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + COMMIT;
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        let flushed = self.producer.flush(Duration::ZERO);
        match self.producer.context().undelivered() {
            Some(failure) => Err(failure),
            None => flushed.map_err(|error| self.failure("publishing", &error)),
        }
    }

    fn commit(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + COMMIT;
        loop {
            match self.producer.commit_transaction(deadline.saturating_duration_since(Instant::now())) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {}
                Err(error) => return Err(self.failure("committing a transaction", &error)),
            }
        }
    }

    /// What happened to a message says more than what that did to its transaction.
    fn failure(&self, doing: &str, error: &KafkaError) -> Failure {
        self.producer.context().undelivered().unwrap_or_else(|| self.producer.context().failure(doing, error))
    }
}
