//! Publishes batches, each in one Kafka transaction together with the position that it reaches. Runs in its own thread,
//! because librdkafka blocks.

use super::client::{Producer, transaction_timeout};
use super::ends::Ends;
use super::failure::Failure;
use super::headers::{COMMIT_HEADER, GENERATION_HEADER, ID_HEADER, INSTALLATION_HEADER, LAST_HEADER, POSITION_HEADER};
use super::job::{Addresses, CommitKind, Counts, Job, Ownership, Sizes};
use super::left_out::{LeftOutUsers, Outcomes, TenantUser};
use super::oversized::{Limits, Refusals, Verdict, content, record_bytes};
use super::takeover::topic_for;
use crate::config::Kafka;
use crate::model::WhyLeftOut;
use crate::tee::{
    Batch, Encoder, HEADERS, Message, Owner, PRESENCE_INTERVAL, PartEnd, PartEnds, PositionRecord, Presence, TOMBSTONE,
    ends_of_parts,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::timeout_at;

/// Time limit for a commit. After it, the session ends and the next one publishes the batch again.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// A transaction is committed in part once it has been open for this fraction of `transaction.timeout.ms`. At the full
/// timeout the brokers would abort it, and the messages in flight need the rest of the time.
const SPLIT_AFTER_FRACTION: u32 = 3;
/// Time limit for an abort. After it, the next producer fences the transaction.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);
/// Wait before a message is offered to a full queue again.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(5);
/// Wait between a commit and the next begin. The coordinator writes the commit markers after it answers the commit; a transaction
/// that begins earlier is refused, and librdkafka retries it only after 20 ms.
const COMMIT_MARKERS_WAIT: Duration = Duration::from_millis(3);
/// Interval at which acknowledgements are polled. The crate's own flush polls every 100 ms.
const FLUSH_POLL_INTERVAL: Duration = Duration::from_micros(200);

/// The ends of the topics are recorded by themselves once no batch has followed for this long.
const IDLE: Duration = Duration::from_secs(1);
/// Time limit for the last records of a session.
const LAST_RECORDS_TIMEOUT: Duration = Duration::from_secs(2);

/// Held by the running publisher. Messages in flight of an older publisher would otherwise arrive behind those of a newer
/// one.
static ACTIVE_PUBLISHER: Mutex<()> = Mutex::const_new(());

/// Waits until the last publisher has ended.
pub(crate) async fn ended() {
    drop(ACTIVE_PUBLISHER.lock().await);
}

/// Number of jobs that the brokers acknowledged.
pub(crate) type Done = u64;

/// Handle of the publisher thread.
pub(crate) struct Publisher {
    /// Takes the next job while the one before is in flight.
    pub jobs: mpsc::Sender<Job>,
    /// Number of acknowledged jobs.
    pub done: watch::Receiver<Done>,
    /// The failure that ended the thread.
    pub failed: oneshot::Receiver<Failure>,
}

impl Publisher {
    /// Starts the thread. It ends after the last job once all senders are dropped.
    pub(crate) fn start(
        producer: Producer,
        kafka: &Kafka,
        encoder: Arc<Encoder>,
        addresses: Addresses,
        counts: Counts,
        Sizes { limits, refusals, held, left_out }: Sizes,
        Ownership { owner, ends }: Ownership,
    ) -> std::io::Result<Publisher> {
        let (jobs, mut queue) = mpsc::channel::<Job>(1);
        let (say_done, done) = watch::channel(0);
        let (say_failed, failed) = oneshot::channel();
        producer.context().ends(|known| known.begin(ends));
        let work = Work {
            producer,
            owner,
            commit_timeout: COMMIT_TIMEOUT,
            kafka: kafka.clone(),
            transactional: kafka.exactly_once,
            encoder,
            addresses,
            limits,
            refusals,
            patience: transaction_timeout(kafka) / SPLIT_AFTER_FRACTION,
            has_refusal: false,
            open: None,
            left_out: LeftOutUsers::new(held, left_out),
            committed: None,
        };
        let runtime = Handle::current();
        std::thread::Builder::new().name("publisher".to_owned()).spawn(move || {
            let _only = ACTIVE_PUBLISHER.blocking_lock();
            // Dropped before the lock is released.
            let mut work = work;
            loop {
                let ended = match runtime.block_on(work.next(&mut queue)) {
                    Next::Job(job) => work.publish(&job).map(|published| {
                        counts.messages.inc_by(published);
                        counts.transactions.inc_by(u64::from(matches!(job.close, CommitKind::Transaction(_))));
                        say_done.send_modify(|done| *done += 1);
                    }),
                    Next::Split(split) => work.close(&[split]),
                    Next::Ends => work.record(&[]),
                    Next::Presence => work.record(&[Presence::record(&work.owner, true)]),
                    Next::Nothing => return work.end(),
                };
                if let Err(failure) = ended {
                    let failure = Failure { is_repeated: failure.is_repeated || work.has_refusal, ..failure };
                    // The receiver may be gone if the session has ended.
                    let _ = say_failed.send(failure);
                    return work.abort_open();
                }
            }
        })?;
        Ok(Publisher { jobs, done, failed })
    }
}

/// The thread's next step.
enum Next {
    Job(Job),
    /// The transaction has been open for too long: commit it in part.
    Split(PositionRecord),
    /// No batch has followed: record the ends of the topics.
    Ends,
    /// Nothing was written for a while: record that the process still publishes.
    Presence,
    Nothing,
}

/// An open Kafka transaction.
struct Open {
    since: Instant,
    /// The record that commits it in part.
    split: Option<PositionRecord>,
}

struct Work {
    producer: Producer,
    owner: Owner,
    commit_timeout: Duration,
    kafka: Kafka,
    transactional: bool,
    encoder: Arc<Encoder>,
    addresses: Addresses,
    limits: Limits,
    refusals: Refusals,
    /// The longest time that a transaction may stay open.
    patience: Duration,
    /// The brokers have refused a message for its size. From then on librdkafka may give up any transaction: its sequence numbers
    /// have a gap, which the next message of the same partition shows. The next session has a new producer, and knows
    /// what is refused.
    has_refusal: bool,
    open: Option<Open>,
    left_out: LeftOutUsers,
    /// Time of the last commit.
    committed: Option<Instant>,
}

impl Work {
    async fn next(&mut self, queue: &mut mpsc::Receiver<Job>) -> Next {
        let now = Instant::now();
        let patience = self.patience;
        let (until, then) = match &mut self.open {
            None if self.producer.context().ends(|ends| ends.has_new()) => (now + IDLE, Next::Ends),
            None => (self.committed.map_or(now, |last| last + PRESENCE_INTERVAL), Next::Presence),
            Some(open) => match open.split.take_if(|_| self.transactional) {
                Some(split) => (open.since + patience, Next::Split(split)),
                None => return queue.recv().await.map_or(Next::Nothing, Next::Job),
            },
        };
        let job = match timeout_at(until.into(), queue.recv()).await {
            Ok(job) => job,
            Err(_) => return then,
        };
        job.map_or(Next::Nothing, Next::Job)
    }

    /// Publishes a job, without the messages that are too large. Returns the number of published messages.
    fn publish(&mut self, job: &Job) -> Result<u64, Failure> {
        // The abort after a refusal may leave a gap in the sequence numbers, and one more abort closes it.
        let mut has_gap = false;
        loop {
            let begins = self.open.is_none();
            let error = match self.attempt(job) {
                Ok(published) => return Ok(published),
                Err(error) => error,
            };
            let too_large = self.producer.context().too_large();
            if too_large.is_empty() && !std::mem::take(&mut has_gap) {
                return Err(error);
            }
            has_gap |= !too_large.is_empty();
            self.has_refusal |= has_gap;
            self.refusals.add(&too_large);
            if !begins {
                // Earlier jobs of the transaction are not in memory any more: the next session publishes them again.
                return Err(error);
            }
            if self.transactional {
                let aborted = self.producer.abort_transaction(ABORT_TIMEOUT);
                aborted.map_err(|error| self.failure("aborting a transaction", &error))?;
            }
            self.open = None;
            self.left_out.aborted();
        }
    }

    fn attempt(&mut self, job: &Job) -> Result<u64, Failure> {
        if self.open.is_none() && self.transactional {
            self.begin()?;
        }
        let since = self.open.get_or_insert(Open { since: Instant::now(), split: None }).since;
        let mut outcomes = Outcomes::default();
        let PartEnds { ends, left_out } =
            self.addresses.by_tenant.as_ref().map_or_else(PartEnds::default, |by_tenant| {
                let is_left_out = |message: &Message, end| self.is_left_out(job, message, end);
                ends_of_parts(&job.batch.messages, &by_tenant.partitions, is_left_out)
            });
        let mut published = 0;
        for (place, message) in job.batch.messages.iter().enumerate() {
            match self.send_message(job, message, ends.get(&place).copied())? {
                // Another session has changed what counts as too large. A consumer would skip this message.
                None if left_out.contains(&place) => {
                    return Err(Failure::plain(
                        "a message fits now that did not fit when its transaction was begun".to_owned(),
                    ));
                }
                Some(why) => outcomes.leave_out(self.user(&job.batch, message)?, why),
                None => {
                    published += 1;
                    if self.left_out.has_any() || !outcomes.is_empty() {
                        let is_tombstone = message.kind == TOMBSTONE;
                        self.left_out.publish(&mut outcomes, self.user(&job.batch, message)?, is_tombstone);
                    }
                }
            }
        }
        self.left_out.record(outcomes)?;
        match &job.close {
            CommitKind::Transaction(records) => self.close(records)?,
            CommitKind::Partial(split) if since.elapsed() > self.patience => self.close(std::slice::from_ref(split))?,
            CommitKind::Partial(split) => {
                self.open = Some(Open { since, split: Some(split.clone()) });
                // Without transactions the messages are visible at once.
                if !self.transactional {
                    self.flush()?;
                }
            }
        }
        Ok(published)
    }

    fn is_left_out(&self, job: &Job, message: &Message, end: Option<PartEnd>) -> bool {
        if message.unmappable.is_some() {
            return true;
        }
        let topic = job.topics.of(message.tenant);
        let key = job.batch.data(&message.key);
        let value = message.value.as_ref().map(|value| job.batch.data(value));
        let Work { limits, refusals, .. } = self;
        let is_too_large = |bytes| matches!(limits.judge(topic, bytes), Verdict::TooLarge(_));
        let is_refused = || refusals.is_refused(&content(topic, Some(key), value));
        // Nearly every message is far from the limit.
        is_too_large(record_bytes(key, value, []) + HEADERS as u64)
            && is_too_large(record_bytes(key, value, texts(&self.headers(&job.batch, message, end))))
            || !refusals.is_empty() && is_refused()
    }

    /// Sends a message, or returns why it is left out. `end`: it is the last one of its part of the transaction.
    fn send_message(&self, job: &Job, message: &Message, end: Option<PartEnd>) -> Result<Option<WhyLeftOut>, Failure> {
        if let Some(reason) = &message.unmappable {
            return Ok(Some(WhyLeftOut::Unmappable(job.batch.part(reason).to_owned())));
        }
        let topic = job.topics.of(message.tenant);
        let key = job.batch.data(&message.key);
        let value = message.value.as_ref().map(|value| job.batch.data(value));
        let headers = self.headers(&job.batch, message, end);
        let bytes = record_bytes(key, value, texts(&headers));
        let Work { limits, refusals, .. } = self;
        let mut verdict = limits.judge(topic, bytes);
        if let Verdict::Fits(limit) | Verdict::Alone(limit) = verdict
            && (!refusals.is_empty() || matches!(verdict, Verdict::Alone(_)))
        {
            let content = content(topic, Some(key), value);
            if refusals.is_refused(&content) {
                verdict = Verdict::TooLarge(limit);
            } else if matches!(verdict, Verdict::Alone(_)) {
                refusals.suspect(content);
            } else if refusals.is_suspect(&content) {
                verdict = Verdict::Alone(limit);
            }
        }
        let is_alone = matches!(verdict, Verdict::Alone(_));
        if let Verdict::TooLarge(limit) = verdict {
            return Ok(Some(WhyLeftOut::TooLarge { bytes, limit }));
        }
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).key(key).headers(headers).timestamp(message.millis);
        if let Some(value) = value {
            record = record.payload(value);
        }
        if let Some(by_tenant) = &self.addresses.by_tenant {
            record = record.partition(by_tenant.partitions[message.tenant]);
        }
        if is_alone {
            self.flush()?;
        }
        self.send(record)?;
        if is_alone {
            self.flush()?;
        }
        Ok(None)
    }

    fn user(&self, batch: &Batch, message: &Message) -> Result<TenantUser, Failure> {
        let key = self.encoder.read_key(batch.data(&message.key));
        let key = key.ok_or_else(|| Failure::plain("a message has a key that cannot be read".to_owned()))?;
        Ok((message.tenant, key.user))
    }

    /// Writes these records and the ends of the topics, without a batch.
    fn record(&mut self, records: &[PositionRecord]) -> Result<(), Failure> {
        if self.transactional {
            self.begin()?;
        }
        self.open = Some(Open { since: Instant::now(), split: None });
        self.close(records)
    }

    /// Ends after the last job.
    fn end(&mut self) {
        if self.open.is_none() && self.committed.is_some() {
            self.commit_timeout = LAST_RECORDS_TIMEOUT;
            // If it fails, the ends recorded last still hold.
            let _ = self.record(&[Presence::record(&self.owner, false)]);
        }
        self.abort_open();
    }

    /// Aborts the open transaction, so that consumers do not wait for its end.
    fn abort_open(&self) {
        if self.transactional && self.open.is_some() {
            // If the abort fails, the next producer or the transaction timeout ends it.
            let _ = self.producer.abort_transaction(ABORT_TIMEOUT);
        }
    }

    /// Commits the published messages together with these records.
    fn close(&mut self, records: &[PositionRecord]) -> Result<(), Failure> {
        if !self.transactional {
            // A position must not be readable before the messages that it covers.
            self.flush()?;
        }
        let ends = self.producer.context().ends(Ends::take_new);
        let ends: Vec<PositionRecord> = ends.iter().map(|(topic, ends)| ends.record(&self.owner, topic)).collect();
        for record in ends.iter().chain(records) {
            let mut held = BaseRecord::<[u8], [u8]>::to(topic_for(&self.kafka, record)).key(record.key.as_bytes());
            if let Some(value) = &record.value {
                held = held.payload(value.as_bytes());
            }
            self.send(held)?;
        }
        self.flush()?;
        if self.transactional {
            self.commit()?;
        }
        self.committed = Some(Instant::now());
        self.open = None;
        self.left_out.committed()
    }

    fn begin(&self) -> Result<(), Failure> {
        if let Some(committed) = self.committed {
            std::thread::sleep(COMMIT_MARKERS_WAIT.saturating_sub(committed.elapsed()));
        }
        self.producer.begin_transaction().map_err(|error| self.failure("beginning a transaction", &error))
    }

    fn headers(&self, batch: &Batch, message: &Message, end: Option<PartEnd>) -> OwnedHeaders {
        fn header<'a>(key: &'a str, value: &'a str) -> Header<'a, &'a str> {
            Header { key, value: Some(value) }
        }
        let headers = OwnedHeaders::new_with_capacity(12)
            .insert(header("ce_specversion", "1.0"))
            .insert(header(ID_HEADER, batch.part(&message.id)))
            .insert(header("ce_source", self.encoder.source()))
            .insert(header("ce_type", message.kind))
            .insert(header("ce_time", batch.part(&message.time)))
            .insert(header("ce_tenant", &self.addresses.tenants[message.tenant]))
            .insert(header(INSTALLATION_HEADER, &self.owner.installation))
            .insert(header("content-type", self.encoder.content_type()));
        let Some(by_tenant) = &self.addresses.by_tenant else { return headers };
        let headers = headers.insert(header(GENERATION_HEADER, &by_tenant.generation));
        let Some(commit) = message.commit else { return headers };
        let headers = headers.insert(header(POSITION_HEADER, &commit.to_string()));
        let Some(PartEnd { position, is_last_in_partition }) = end else { return headers };
        let position = position.to_string();
        let headers = headers.insert(header(LAST_HEADER, &position));
        if is_last_in_partition { headers.insert(header(COMMIT_HEADER, &position)) } else { headers }
    }

    fn send(&self, record: BaseRecord<'_, [u8], [u8]>) -> Result<(), Failure> {
        let mut record = record;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(QUEUE_FULL_WAIT);
                }
                Err((error, back)) => return Err(self.failure(&format!("publishing to {}", back.topic), &error)),
            }
        }
    }

    fn flush(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.commit_timeout;
        // After an error, the messages of a transaction stay in the queue until it is aborted.
        let may_arrive = || !self.transactional || !self.producer.context().is_undelivered();
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline && may_arrive() {
            std::thread::sleep(FLUSH_POLL_INTERVAL);
        }
        let flushed = self.producer.flush(Duration::ZERO);
        match self.producer.context().undelivered() {
            Some(failure) => Err(failure),
            None if let Some(topic) = self.producer.context().ends(|ends| ends.recreated().map(str::to_owned)) => {
                // The next session looks at the topics, and fills this one again.
                Err(Failure::repeated(&format!("topic {topic} was created again")))
            }
            None => flushed.map_err(|error| self.failure("publishing", &error)),
        }
    }

    fn commit(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.commit_timeout;
        loop {
            match self.producer.commit_transaction(deadline.saturating_duration_since(Instant::now())) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {}
                Err(error) => return Err(self.failure("committing a transaction", &error)),
            }
        }
    }

    /// The error of an undelivered message is more specific than that of its transaction.
    fn failure(&self, operation: &str, error: &KafkaError) -> Failure {
        self.producer.context().undelivered().unwrap_or_else(|| self.producer.context().failure(operation, error))
    }
}

/// The names and values of headers.
fn texts(headers: &OwnedHeaders) -> impl Iterator<Item = &str> {
    (0..headers.count()).flat_map(|index| {
        let header = headers.get_as::<str>(index);
        let value = header.ok().and_then(|header| header.value).unwrap_or_default();
        [headers.get(index).key, value]
    })
}
