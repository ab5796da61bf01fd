//! Kafka transactions that stay open for a while: our own large ones, and those of other producers.

use crate::bed::{TeeBed, of, once, ops};
use crate::broker::{Broker, until};
use crate::consumer::{arrive, end, read};
use crate::support::process::Process;
use crate::support::{DEADLINE, let_pass};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::time::Duration;
use tokio::time::timeout;

const ROWS: usize = 12_000;

/// Writes a transaction that takes a while to publish.
async fn sign_up_many(bed: &TeeBed) {
    let sql = "INSERT INTO auth.users (id, org, first_name) SELECT 'u' || n, 'acme', repeat('x', 2000) FROM generate_series(1, {}) n";
    bed.auth(&sql.replace("{}", &ROWS.to_string())).await;
}

/// Another producer, whose transaction has a record in the topic.
fn open_transaction(bed: &TeeBed, topic: &str, key: &str) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &bed.brokers).set("transactional.id", format!("{topic}.another"));
    let another: BaseProducer = config.set("transaction.timeout.ms", "600000").create().unwrap();
    another.init_transactions(Duration::from_secs(30)).unwrap();
    another.begin_transaction().unwrap();
    another.send(BaseRecord::<str, str>::to(topic).key(key).payload("{}")).unwrap();
    another.flush(Duration::from_secs(30)).unwrap();
    another
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_transaction_continues_where_it_stopped() {
    let broker = Broker::shared();
    // After a third of this timeout the transaction is split, and its first part becomes visible.
    let bed = TeeBed::start(broker, "split", "properties: {transaction.timeout.ms: 1000}", "").await;
    let mut process = Process::start(&bed.file);
    bed.tee_is("following").await;
    sign_up_many(&bed).await;
    for _ in 0..2 {
        let before = end(broker, "split.acme", "read_committed");
        // A fast process has published all of them by now.
        let has_more = async || {
            let visible = end(broker, "split.acme", "read_committed");
            visible > before || visible >= i64::try_from(ROWS).unwrap()
        };
        until("a part is visible", has_more).await;
        process.kill();
        process = Process::start(&bed.file);
    }
    let messages = arrive(broker, "split.acme", ROWS);
    let visible = read(broker, "split.positions").len();
    assert!(visible > 0 && messages.len() == ROWS, "{} messages", messages.len());
    once(&messages);
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_inside_a_transaction_blocks_no_consumer() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "stopped", "", "").await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    sign_up_many(&bed).await;
    until("a part is on its way", async || end(broker, "stopped.acme", "read_uncommitted") > 0).await;
    assert!(process.stop().await.success());
    let both = ["read_committed", "read_uncommitted"].map(|isolation| end(broker, "stopped.acme", isolation));
    assert_eq!(both[0], both[1], "a transaction is open still");
    let process = Process::start(&bed.file);
    let messages = arrive(broker, "stopped.acme", ROWS);
    assert_eq!(messages.len(), ROWS);
    once(&messages);
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_producers_open_transaction_hides_no_position() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "hidden", "", "").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('u', 'acme')").await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    let another = open_transaction(&bed, "hidden.positions", "{\"slot\":\"another\"}");
    for n in 0..3 {
        bed.auth(&format!("UPDATE auth.users SET first_name = '{n}', updated_at = now() WHERE id = 'u'")).await;
        arrive(broker, "hidden.acme", 2 + n);
    }
    process.kill();
    let process = Process::start(&bed.file);
    // The positions lie behind the open transaction. It ends while the process starts, or the process would wait.
    let_pass(Duration::from_secs(2)).await;
    another.abort_transaction(Duration::from_secs(30)).unwrap();
    bed.auth("UPDATE auth.users SET first_name = 'last', updated_at = now() WHERE id = 'u'").await;
    let messages = bed.equal("acme").await;
    assert_eq!(ops(&of(&messages, "u")), "ruuuu");
    once(&messages);
    assert!(process.stop().await.success());
}

/// Topics are read while the source's snapshot is held.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_waits_for_a_snapshot_does_not_wait_for_a_topic() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "awaited", "", "").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('u', 'acme')").await;
    let (process, log) = Process::start_logged(&bed.file);
    bed.tee_is("following").await;
    let another = open_transaction(&bed, "awaited.acme", "another");
    let holding = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'users-sync%'
        AND state = 'idle in transaction' AND backend_xmin IS NOT NULL";
    // The first snapshot may not have ended.
    bed.bed.becomes("auth", holding, "0").await;
    bed.auth("UPDATE users_sync.tee SET requested = true").await;
    // Another session of the process may hold a snapshot for a moment.
    log.says_times("publishing a snapshot", 2).await;
    bed.bed.becomes("auth", holding, "1").await;
    let indexing = bed.auth("CREATE INDEX CONCURRENTLY email ON auth.users (email)");
    timeout(DEADLINE, indexing).await.expect("the migration waits for a topic");
    log.says("the scan of the source was aborted").await;
    another.abort_transaction(Duration::from_secs(30)).unwrap();
    bed.tee_is("following").await;
    bed.equal("acme").await;
    assert!(process.stop().await.success());
}
