//! The rate at which changes that wait in the tee's slot reach Kafka, and the time from a commit to its consumer.
//!
//! The reference is librdkafka alone, which produces the same keys, values and headers with the same settings, while a
//! walsender sends the same transactions to a client that discards them.

use super::bed::{Bed, Process};
use super::size::{grouped, sized};
use super::table::{Goal, Table};
use crate::broker::{Broker, Settings};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use users_sync::capture::{Frame, ReplicationConnection};
use users_sync::model::Lsn;
use users_sync::pg::PgUrl;

/// Bytes in one Kafka transaction, as in users-sync.
const TRANSACTION_BYTES: usize = 8 << 20;
/// Commits before the measured ones: a new broker first compiles its code.
const WARM_UP_COMMITS: u32 = 1_000;
const COMMIT_INTERVAL: Duration = Duration::from_millis(10);
const TIMEOUT: Duration = Duration::from_secs(60);

/// A configuration of the tee that is measured.
struct Variant {
    /// In the printed table.
    title: &'static str,
    /// Of database, slot and topic.
    name: &'static str,
    keys: &'static str,
    transactional: bool,
}

const VARIANTS: [Variant; 4] = [
    Variant { title: "debezium", name: "tee_debezium", keys: "format: debezium", transactional: true },
    Variant { title: "upsert", name: "tee_upsert", keys: "format: upsert", transactional: true },
    Variant {
        title: "debezium, at least once",
        name: "tee_debezium_once",
        keys: "format: debezium, exactly_once: false",
        transactional: false,
    },
    Variant {
        title: "upsert, at least once",
        name: "tee_upsert_once",
        keys: "format: upsert, exactly_once: false",
        transactional: false,
    },
];

fn transactions() -> u32 {
    sized(200_000)
}

pub async fn drained(bed: &Bed, table: &mut Table) {
    let broker = Broker::start(&Settings::default());
    for variant in &VARIANTS {
        let (ours, bytes) = ours(bed, &broker, variant).await;
        let reference = reference(bed, &broker, variant).await;
        println!("  {}: {:.0} MB", variant.name, bytes as f64 / 1e6);
        let rate = |seconds: f64| f64::from(transactions()) / seconds;
        let what = format!("{} transactions to Kafka, {}, librdkafka alone", grouped(transactions()), variant.title);
        table.add(what, "1/s", rate(ours), rate(reference), Goal::TimesAtLeast(0.9));
        bed.clear(variant.name).await;
    }
}

fn configuration(bed: &Bed, name: &str, brokers: &str, keys: &str) -> String {
    format!(
        "{}kafka: {{brokers: '{brokers}', topic: {name}, positions_topic: {name}.positions, snapshot: false, slot: {name}, \
         {keys}}}\n",
        bed.configuration(name, &bed.one_tenant(name), false)
    )
}

/// Seconds from the start of the slot until Kafka has acknowledged everything that waits in it, and the number of bytes.
async fn ours(bed: &Bed, broker: &Broker, variant: &Variant) -> (f64, usize) {
    let name = variant.name;
    bed.database(name, transactions()).await;
    let real = configuration(bed, name, &broker.address(), variant.keys);
    let process = Process::start(&real);
    bed.following(name, 1).await;
    bed.wait(&bed.source, name, "SELECT state = 'following' FROM users_sync.tee").await;
    process.stop();
    let discarded = format!("SELECT pg_create_logical_replication_slot('{name}_discarded', 'pgoutput')");
    bed.source.sql(name, &discarded).await.unwrap();
    bed.renames(name, 2, transactions()).await;
    bed.source.sql(name, "CREATE TABLE last AS SELECT pg_current_wal_insert_lsn() AS lsn").await.unwrap();
    bed.source.sql(name, "UPDATE users SET name = 'Changed' WHERE id = 'user-1'").await.unwrap();
    // Without Kafka first: the target catches up, and only the tee has work left.
    let process = Process::start(&configuration(bed, name, "127.0.0.1:1", variant.keys));
    let changed = "SELECT true FROM neon_auth.users_sync WHERE id = 'user-1' AND name = 'Changed'";
    bed.wait(&bed.target, &format!("{name}_ours"), changed).await;
    process.stop();

    let process = Process::start(&real);
    bed.wait(&bed.source, name, &format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{name}'")).await;
    let started = Instant::now();
    let done = "SELECT confirmed_flush_lsn > lsn FROM pg_replication_slots, last WHERE slot_name = ";
    bed.wait(&bed.source, name, &format!("{done}'{name}'")).await;
    let seconds = started.elapsed().as_secs_f64();
    process.stop();
    let bytes = read(broker, name).iter().map(|record| record.key.len() + record.value.len()).sum();
    (seconds, bytes)
}

async fn reference(bed: &Bed, broker: &Broker, variant: &Variant) -> f64 {
    let records = read(broker, variant.name);
    assert_eq!(records.len(), transactions() as usize);
    let url = PgUrl::parse(&bed.source.url(variant.name)).unwrap();
    let connection = ReplicationConnection::connect(&url).await.unwrap();
    let (slot, publication) = (format!("{}_discarded", variant.name), format!("ours_{}", variant.name));
    let topic = format!("{}.again", variant.name);
    let (brokers, transactional) = (broker.address(), variant.transactional);
    let create = ["--bootstrap-server", &brokers, "--create", "--topic", &topic, "--config", "cleanup.policy=compact"];
    broker.tool("org.apache.kafka.tools.TopicCommand", &create).await;
    let producer = producer(&brokers, transactional, &topic);
    let started = Instant::now();
    let (mut reader, _writer) = connection.start_replication(&slot, Lsn::ZERO, &[&*publication]).await.unwrap();
    let discarding = tokio::spawn(async move {
        let mut commits = 0;
        while commits < transactions() {
            if let Frame::XLogData { data, .. } = reader.next().await.unwrap() {
                commits += u32::from(data.first() == Some(&b'C'));
            }
        }
    });
    let producing = tokio::task::spawn_blocking(move || produce(&producer, &records, &topic, transactional));
    producing.await.unwrap();
    discarding.await.unwrap();
    started.elapsed().as_secs_f64()
}

fn producer(
    brokers: &str,
    transactional: bool,
    topic: &str,
) -> ThreadedProducer<rdkafka::producer::DefaultProducerContext> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("acks", "all").set("enable.idempotence", "true");
    config.set("linger.ms", "1").set("batch.num.messages", "10000").set("queue.buffering.max.messages", "1000000");
    config.set("partitioner", "murmur2_random").set("delivery.report.only.error", "true");
    if transactional {
        config.set("transactional.id", topic);
    }
    let producer: ThreadedProducer<_> = config.create().unwrap();
    if transactional {
        producer.init_transactions(TIMEOUT).unwrap();
    }
    producer
}

/// Sends all records, in transactions as large as those of users-sync.
fn produce(
    producer: &ThreadedProducer<rdkafka::producer::DefaultProducerContext>,
    records: &[Record],
    topic: &str,
    transactional: bool,
) {
    let mut open = 0;
    for record in records {
        if transactional && open == 0 {
            producer.begin_transaction().unwrap();
        }
        let headers = record.headers.iter().fold(OwnedHeaders::new_with_capacity(8), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        let mut sent = BaseRecord::to(topic).key(&record.key).payload(&record.value).headers(headers);
        while let Err((error, back)) = producer.send(sent) {
            assert!(matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "{error}");
            std::thread::sleep(Duration::from_millis(5));
            sent = back;
        }
        open += record.key.len() + record.value.len();
        if transactional && open > TRANSACTION_BYTES {
            flush(producer);
            producer.commit_transaction(TIMEOUT).unwrap();
            open = 0;
        }
    }
    flush(producer);
    if transactional && open > 0 {
        producer.commit_transaction(TIMEOUT).unwrap();
    }
}

/// Waits for all acknowledgements. rdkafka's own flush polls every 100 ms, which would slow the reference.
fn flush(producer: &ThreadedProducer<rdkafka::producer::DefaultProducerContext>) {
    while producer.in_flight_count() > 0 {
        std::thread::sleep(Duration::from_micros(200));
    }
}

struct Record {
    key: Vec<u8>,
    value: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
}

/// A consumer of committed messages from the start of the topic, which has one partition.
fn consumer(broker: &Broker, topic: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.address()).set("group.id", "bench").set("enable.auto.commit", "false");
    config.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
    config.set("fetch.wait.max.ms", "5");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&assignment).unwrap();
    consumer
}

fn read(broker: &Broker, topic: &str) -> Vec<Record> {
    let consumer = consumer(broker, topic);
    let mut records = Vec::new();
    loop {
        match consumer.poll(TIMEOUT).unwrap_or_else(|| panic!("no message from {topic}")) {
            Ok(message) => {
                let bytes = |part: Option<&[u8]>| part.unwrap_or_default().to_vec();
                let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
                let headers = headers.map(|header| (header.key.to_owned(), bytes(header.value))).collect();
                records.push(Record { key: bytes(message.key()), value: bytes(message.payload()), headers });
            }
            Err(KafkaError::PartitionEOF(_)) => return records,
            Err(error) => panic!("{topic}: {error}"),
        }
    }
}

/// Time from a commit at the source until a consumer of committed messages has it.
pub async fn commit_to_consumed(bed: &Bed, table: &mut Table) {
    let broker = Broker::start(&Settings::default());
    let commits = WARM_UP_COMMITS + sized(1_000);
    let name = "tee_latency";
    bed.database(name, 10).await;
    let process = Process::start(&configuration(bed, name, &broker.address(), "format: debezium"));
    bed.following(name, 1).await;
    bed.wait(&bed.source, name, "SELECT state = 'following' FROM users_sync.tee").await;
    let consumer = consumer(&broker, name);
    let (seen, arrived) = mpsc::channel();
    let consuming = std::thread::spawn(move || {
        for _ in 0..commits {
            let key = loop {
                match consumer.poll(TIMEOUT).expect("no message from the topic") {
                    Ok(message) => break message.key().unwrap_or_default().to_vec(),
                    Err(KafkaError::PartitionEOF(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            };
            seen.send((Instant::now(), key)).unwrap();
        }
    });
    let writer = bed.source.connect(name).await.unwrap();
    let insert = "INSERT INTO users (id, name, email, created_at) VALUES ($1, 'New', 'new@example.com', now())";
    let insert = writer.prepare(insert).await.unwrap();
    let mut committed = Vec::new();
    for n in 0..commits {
        let next = Instant::now() + COMMIT_INTERVAL;
        writer.execute(&insert, &[&format!("new-{n}")]).await.unwrap();
        committed.push(Instant::now());
        tokio::time::sleep_until(next.into()).await;
    }
    consuming.join().unwrap();
    let mut latencies: Vec<f64> = committed
        .iter()
        .zip(0..)
        .zip(arrived.iter())
        .skip(WARM_UP_COMMITS as usize)
        .map(|((committed, n), (seen, key))| {
            assert!(key.ends_with(format!("\"new-{n}\"}}").as_bytes()), "out of order");
            seen.saturating_duration_since(*committed).as_secs_f64() * 1000.0
        })
        .collect();
    process.stop();
    latencies.sort_by(f64::total_cmp);
    bed.clear(name).await;
    let percentile = |percent: usize| latencies[latencies.len() * percent / 100];
    let p50 = "commit to consumed p50 at 100 commits/s, transactions";
    let p99 = "commit to consumed p99 at 100 commits/s, transactions";
    table.add(p50, "ms", percentile(50), None, Goal::AtMost(5.0));
    table.add(p99, "ms", percentile(99), None, Goal::AtMost(25.0));
}
