//! Transactions of Kafka's that stay open for a while: ours of a large transaction, and those of others.

use crate::bed::{TeeBed, once};
use crate::broker::{Broker, until};
use crate::consumer::{arrive, end, read};
use crate::support::process::Process;

const ROWS: usize = 12_000;

/// A transaction that takes a while to publish.
async fn sign_up_many(bed: &TeeBed) {
    let sql = "INSERT INTO auth.users (id, org, first_name) SELECT 'u' || n, 'acme', repeat('x', 2000) FROM generate_series(1, {}) n";
    bed.auth(&sql.replace("{}", &ROWS.to_string())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_split_goes_on_where_it_was() {
    let broker = Broker::shared();
    // A third of that, and what is there becomes visible.
    let bed = TeeBed::start(broker, "split", "properties: {transaction.timeout.ms: 1000}", "").await;
    let mut process = Process::start(&bed.file);
    bed.tee_is("following").await;
    sign_up_many(&bed).await;
    for _ in 0..2 {
        let before = end(broker, "split.acme", "read_committed");
        until("a part is visible", async || end(broker, "split.acme", "read_committed") > before).await;
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
async fn who_is_stopped_in_the_middle_of_a_transaction_holds_no_consumer_up() {
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
