//! Every change is published once and in order, across kills of users-sync, the broker and the slot.

use crate::bed::{TeeBed, of, once, ops};
use crate::broker::{Broker, Settings, until};
use crate::consumer::{Message, arrive, read, read_with};
use crate::support::let_pass;
use crate::support::process::{Process, command, said};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Inserts users whose names count their changes.
async fn counting(bed: &TeeBed, users: u32) {
    let sql = "INSERT INTO auth.users (id, org, first_name) SELECT 'u' || n, 'acme', '0' FROM generate_series(1, {}) n";
    bed.auth(&sql.replace("{}", &users.to_string())).await;
}

/// Increments the counters of a few users per transaction while `meanwhile` runs. Returns the number of transactions.
async fn count_on(bed: &TeeBed, users: u32, meanwhile: impl Future<Output = ()>) -> u32 {
    let over = AtomicBool::new(false);
    let writing = async {
        let client = bed.bed.server.connect("auth").await.unwrap();
        let mut done = 0;
        while !over.load(Ordering::Relaxed) || done < 50 {
            let sql = format!(
                "UPDATE auth.users SET first_name = first_name::int + 1 WHERE substr(id, 2)::int % 3 = {} AND org = 'acme'",
                done % 3
            );
            assert!(client.execute(&sql, &[]).await.unwrap() >= u64::from(users / 3));
            done += 1;
        }
        done
    };
    let meanwhile = async {
        meanwhile.await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(writing, meanwhile).0
}

/// Asserts that each user's counter grows by one from message to message: none lost, repeated or out of order. A snapshot
/// may skip some.
fn counts(messages: &[Message]) {
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    let mut updates = 0;
    for message in messages {
        let name = message.value.as_ref().unwrap()["after"]["name"].as_str().unwrap();
        let (now, last) = (name.parse::<i64>().unwrap(), last.entry(message.id()).or_default());
        match message.op() {
            "u" => assert_eq!(now, *last + 1, "{}", message.id()),
            _ => assert!(now >= *last, "{}", message.id()),
        }
        updates += usize::from(message.op() == "u");
        *last = now;
    }
    assert!(updates > 0);
}

/// The number of users changed per transaction, as a consumer sees it.
fn changed_by_transaction(broker: &Broker, topic: &str) -> BTreeMap<String, usize> {
    let mut changed = BTreeMap::new();
    for message in read(broker, topic).iter().filter(|message| message.op() == "u") {
        let transaction = message.value.as_ref().unwrap()["transaction"]["id"].as_str().unwrap();
        *changed.entry(transaction.to_owned()).or_default() += 1;
    }
    changed
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_kills_publish_every_change_once_and_transactions_whole() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "killed", "partitions: 3", "").await;
    counting(&bed, 30).await;
    let mut process = Some(Process::start(&bed.file));
    arrive(broker, "killed.acme", 30);
    let done = count_on(&bed, 30, async {
        for n in 0..6_u64 {
            let_pass(Duration::from_millis(150 + 130 * n)).await;
            process.take().unwrap().kill();
            // Nothing is being published now, so a consumer must see whole transactions only, across all partitions.
            let seen = changed_by_transaction(broker, "killed.acme");
            until("every transaction that is seen is whole", async || {
                let now = changed_by_transaction(broker, "killed.acme");
                seen.keys().all(|transaction| now[transaction] == 10)
            })
            .await;
            process = Some(Process::start(&bed.file));
        }
    })
    .await;
    let messages = bed.equal("acme").await;
    counts(&messages);
    once(&messages);
    assert_eq!(messages.iter().filter(|message| message.op() == "u").count(), done as usize * 10);
    assert!(process.unwrap().stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_transaction_becomes_visible_as_a_whole() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "whole", "", "").await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    let (size, rounds) = (2_000, 10);
    let writing = async {
        for round in 0..rounds {
            bed.auth(&format!(
                "INSERT INTO auth.users (id, org) SELECT '{round}-' || n, 'acme' FROM generate_series(1, {size}) n"
            ))
            .await;
        }
    };
    let looking = async {
        loop {
            let (brokers, size) = (bed.brokers.clone(), size);
            let seen = tokio::task::spawn_blocking(move || read_with(&brokers, "whole.acme", &[]).len()).await.unwrap();
            assert_eq!(seen % size, 0, "a part of a transaction is visible");
            if seen == size * rounds {
                return;
            }
        }
    };
    tokio::join!(writing, looking);
    once(&read(broker, "whole.acme"));
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_restart_delays_no_target_and_loses_no_message() {
    let broker = Broker::start(&Settings::default());
    let bed = TeeBed::start(&broker, "restart", "", "").await;
    counting(&bed, 30).await;
    let (process, log) = Process::start_logged(&bed.file);
    arrive(&broker, "restart.acme", 30);
    count_on(&bed, 30, async {
        let_pass(Duration::from_millis(300)).await;
        broker.kill();
        // The targets continue.
        bed.auth("INSERT INTO auth.users (id, org) VALUES ('meanwhile', 'globex')").await;
        bed.bed.becomes("globex", "SELECT count(*) FROM neon_auth.users_sync WHERE id = 'meanwhile'", "1").await;
        broker.restart();
        let_pass(Duration::from_millis(300)).await;
        broker.kill();
        broker.restart();
    })
    .await;
    let messages = bed.equal("acme").await;
    counts(&messages);
    once(&messages);
    assert_eq!(bed.equal("globex").await.len(), 1);
    assert!(process.stop().await.success());
    let said = log.text().matches("Kafka output failed, retrying").count();
    assert!(said <= 6, "{}", log.text());
}

/// Writes a user, and kills the process and the broker. These partitions lack the markers of their last transactions then.
async fn lose_markers(broker: &Broker, bed: &TeeBed, name: &str, partitions: &[&str]) {
    let topic = &format!("{name}.acme");
    counting(bed, 3).await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    bed.auth("INSERT INTO auth.users (id, org, first_name) VALUES ('last', 'acme', '0')").await;
    arrive(broker, topic, 4);
    // A coordinator that stops earlier writes all markers again when it starts.
    broker.committed(&format!("{name}.positions.users_sync_kafka")).await;
    process.kill();
    broker.kill();
    broker.forget_last_markers(partitions);
    broker.restart();
    assert_eq!(read(broker, topic).len(), 3, "the last transaction is not open");
}

/// Every tenant takes a snapshot after these partitions have lost the markers of their last transactions.
async fn snapshot_follows(name: &str, partitions: &[&str]) {
    let broker = Broker::start(&Settings::default());
    let bed = TeeBed::start(&broker, name, "", "").await;
    lose_markers(&broker, &bed, name, partitions).await;
    let (process, log) = Process::start_logged(&bed.file);
    log.says("the brokers had left a transaction open").await;
    bed.equal("acme").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('next', 'acme')").await;
    let messages = bed.equal("acme").await;
    once(&messages);
    // What was open is aborted.
    assert_eq!(["u1", "last", "next"].map(|id| ops(&of(&messages, id))), ["rr", "r", "c"]);
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_without_markers_in_the_positions_is_ended_and_a_snapshot_follows() {
    snapshot_follows("hanging", &["hanging.acme-0", "hanging.positions-0"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_without_a_marker_in_a_users_topic_is_ended_and_a_snapshot_follows() {
    snapshot_follows("half", &["half.acme-0"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_transactions_no_change_is_lost_and_the_final_state_is_right() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "atleastonce", "exactly_once: false", "").await;
    counting(&bed, 30).await;
    let mut process = Some(Process::start(&bed.file));
    arrive(broker, "atleastonce.acme", 30);
    count_on(&bed, 30, async {
        for _ in 0..3 {
            let_pass(Duration::from_millis(250)).await;
            process.take().unwrap().kill();
            process = Some(Process::start(&bed.file));
        }
    })
    .await;
    let messages = bed.equal("acme").await;
    let mut seen: BTreeMap<&str, i64> = BTreeMap::new();
    for message in messages.iter().filter(|message| message.op() == "u") {
        let now: i64 = message.value.as_ref().unwrap()["after"]["name"].as_str().unwrap().parse().unwrap();
        let last = seen.entry(message.id()).or_default();
        assert!(now <= *last + 1, "{} jumps from {last} to {now}", message.id());
        *last = now;
    }
    assert!(process.unwrap().stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_budget_the_tee_is_parked_and_comes_back_with_what_changed_meanwhile() {
    let broker = Broker::start(&Settings::default());
    let bed = TeeBed::start(&broker, "parked", "", "limits: {kafka_wal: 2MB}").await;
    counting(&bed, 30).await;
    let (process, log) = Process::start_logged(&bed.file);
    arrive(&broker, "parked.acme", 30);
    bed.tee_is("following").await;
    broker.kill();
    bed.auth("DELETE FROM auth.users WHERE id = 'u7'").await;
    bed.auth("UPDATE auth.users SET email = 'x@y', updated_at = now() WHERE id = 'u8'").await;
    bed.auth("CREATE TABLE other AS SELECT repeat(md5(n::text), 100) AS text FROM generate_series(1, 20000) n").await;
    log.says("Kafka output parked").await;
    bed.tee_is("parked").await;
    bed.bed
        .becomes("auth", "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'users_sync_kafka'", "0")
        .await;
    let path = bed.file.path().to_str().unwrap();
    let (text, code) = said(&command(&["status", "-c", path]).await);
    let told = text.contains("Kafka output parked")
        && text.contains("users_sync_kafka does not exist")
        && text.contains("limits.kafka_wal");
    assert!(told && code == Some(1), "{text}");
    // The targets are not affected.
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('late', 'acme')").await;
    bed.bed.equal().await;
    broker.restart();
    let messages = bed.equal("acme").await;
    // The first two changes can reach Kafka in a commit that was under way when the broker stopped. The snapshot follows in any
    // case: it announces what is missing, and publishes the others again.
    let [gone, changed, late] = ["u7", "u8", "late"].map(|id| ops(&of(&messages, id)));
    assert!(["rdt", "ru"].contains(&&*gone) && ["rr", "rur"].contains(&&*changed), "{gone} {changed}");
    assert_eq!(late, "r");
    once(&messages);
    bed.tee_is("following").await;
    bed.auth("UPDATE auth.users SET email = 'z@y', updated_at = now() WHERE id = 'u8'").await;
    bed.equal("acme").await;
    let (text, _) = said(&command(&["status", "-c", path]).await);
    assert!(
        !text.contains(" tee_") && text.contains("Kafka output following") && text.contains("users_sync_kafka retains"),
        "{text}"
    );
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_republishes_all_users_and_deletes_the_missing_ones() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "resync", "", "").await;
    counting(&bed, 3).await;
    let process = Process::start(&bed.file);
    arrive(broker, "resync.acme", 3);
    bed.tee_is("following").await;
    let path = bed.file.path().to_str().unwrap();
    let (text, code) = said(&command(&["resync", "-c", path, "--kafka"]).await);
    assert!(code == Some(0) && text.contains("resynced"), "{text}");
    assert_eq!(ops(&arrive(broker, "resync.acme", 6).iter().collect::<Vec<_>>()), "rrrrrr");
    // The stream cannot express a TRUNCATE; a snapshot does.
    bed.auth("TRUNCATE auth.users").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('after', 'acme')").await;
    let messages = bed.equal("acme").await;
    assert!(ops(&of(&messages, "u1")).ends_with("dt"), "{messages:#?}");
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('last', 'acme')").await;
    let messages = bed.equal("acme").await;
    assert_eq!(ops(&of(&messages, "last")), "c", "it takes snapshot after snapshot");
    bed.auth("ALTER TABLE auth.users ADD nick text DEFAULT 'nick'").await;
    bed.auth("UPDATE auth.users SET first_name = 'x'").await;
    bed.equal("acme").await;
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_added_tenant_is_published_and_a_removed_tee_leaves_no_slot() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "comes", "", "").await;
    counting(&bed, 3).await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('g', 'globex')").await;
    let whole = std::fs::read_to_string(bed.file.path()).unwrap();
    let without: String =
        whole.lines().filter(|line| !line.contains("id: globex")).map(|line| format!("{line}\n")).collect();
    std::fs::write(bed.file.path(), &without).unwrap();
    let process = Process::start(&bed.file);
    arrive(broker, "comes.acme", 3);
    std::fs::write(bed.file.path(), &whole).unwrap();
    bed.equal("globex").await;
    bed.auth("UPDATE auth.users SET email = 'a@b'").await;
    assert_eq!(ops(&bed.equal("globex").await.iter().collect::<Vec<_>>()), "ru");
    assert_eq!(bed.equal("acme").await.len(), 6);
    let none: String =
        whole.lines().filter(|line| !line.starts_with("kafka:")).map(|line| format!("{line}\n")).collect();
    std::fs::write(bed.file.path(), &none).unwrap();
    bed.bed
        .becomes("auth", "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'users_sync_kafka'", "0")
        .await;
    assert!(process.stop().await.success());
    std::fs::write(bed.file.path(), &whole).unwrap();
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    assert!(process.stop().await.success());
    let path = bed.file.path().to_str().unwrap();
    let (text, code) = said(&command(&["teardown", "-c", path, "--yes"]).await);
    assert!(code == Some(0) && text.contains("replication slot users_sync_kafka"), "{text}");
    bed.bed.becomes("auth", "SELECT count(*) FROM pg_replication_slots", "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_still_rebuilds_all_live_users() {
    let broker = Broker::shared();
    let settings = [
        "--bootstrap-server",
        &broker.address(),
        "--create",
        "--topic",
        "compacted.acme",
        "--config",
        "cleanup.policy=compact",
        "--config",
        "segment.bytes=1048576",
        "--config",
        "min.cleanable.dirty.ratio=0.01",
        "--config",
        "delete.retention.ms=0",
        "--config",
        "max.compaction.lag.ms=1000",
        // A broker may have this default. It recompresses, so readers need the codec.
        "--config",
        "compression.type=zstd",
    ];
    broker.tool("org.apache.kafka.tools.TopicCommand", &settings).await;
    let bed = TeeBed::start(broker, "compacted", "", "deletes: hard").await;
    counting(&bed, 60).await;
    let process = Process::start(&bed.file);
    arrive(broker, "compacted.acme", 60);
    for _ in 0..60 {
        bed.auth("UPDATE auth.users SET first_name = first_name::int + 1").await;
    }
    bed.auth("DELETE FROM auth.users WHERE substr(id, 2)::int % 2 = 0").await;
    let before = 60 + 60 * 60 + 30 * 2;
    bed.equal("acme").await;
    until("the topic was compacted", async || {
        // Kafka never compacts the last segment, so more has to follow it.
        bed.auth("UPDATE auth.users SET email = email || 'x' WHERE id = 'u1'").await;
        read(broker, "compacted.acme").len() < before / 2
    })
    .await;
    let messages = bed.equal("acme").await;
    assert!(messages.len() < before);
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn kafkas_own_consumer_group_receives_every_message() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "group", "partitions: 3", "").await;
    counting(&bed, 40).await;
    let process = Process::start(&bed.file);
    arrive(broker, "group.acme", 40);
    let arguments = [
        "--bootstrap-server",
        &broker.address(),
        "--topic",
        "group.acme",
        "--group",
        "readers",
        "--from-beginning",
        "--max-messages",
        "40",
        "--isolation-level",
        "read_committed",
        "--formatter-property",
        "print.key=true",
        "--formatter-property",
        "print.headers=true",
    ];
    let text = broker.tool("org.apache.kafka.tools.consumer.ConsoleConsumer", &arguments).await;
    assert_eq!(
        text.lines().filter(|line| line.contains("ce_tenant:acme") && line.contains("\"op\":\"r\"")).count(),
        40,
        "{text}"
    );
    assert!(process.stop().await.success());
}
