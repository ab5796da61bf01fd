//! The snapshots topic: where the last complete snapshot of each tenant begins.

use crate::bed::{TeeBed, rebuild};
use crate::broker::{Broker, until};
use crate::consumer::{Message, arrive, read};
use crate::support::process::{Process, command, said};
use crate::topics::delete;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The last record of each tenant.
fn records(broker: &Broker, topic: &str) -> BTreeMap<String, Value> {
    let mut records = BTreeMap::new();
    for Message { key, value, .. } in read(broker, topic) {
        assert_eq!(key["slot"], "users_sync_kafka");
        let tenant = key["tenant"].as_str().unwrap().to_owned();
        match value {
            Some(value) => drop(records.insert(tenant, value)),
            None => drop(records.remove(&tenant)),
        }
    }
    records
}

/// Waits until these tenants and no others have a record.
async fn recorded(broker: &Broker, topic: &str, tenants: &[&str]) -> BTreeMap<String, Value> {
    let found = || tokio::task::block_in_place(|| records(broker, topic));
    until("the tenants have records", async || found().keys().eq(tenants)).await;
    found()
}

/// The users of a tenant are in its partition from the recorded offset on, and its first message there is read from the source.
async fn check(bed: &TeeBed, broker: &Broker, topic: &str, tenant: &str, record: &Value) {
    assert_eq!((&record["topic"], &record["generation"]), (&json!(topic), &json!(1)), "{record}");
    let [position, mapping] = ["position", "mapping"].map(|field| record[field].as_str().unwrap());
    assert!(position.contains('/') && !mapping.is_empty(), "{record}");
    let messages = tokio::task::block_in_place(|| read(broker, topic));
    let its = |message: &&Message| {
        message.headers["ce_tenant"] == tenant
            && Some(i64::from(message.partition)) == record["partition"].as_i64()
            && Some(message.offset) >= record["offset"].as_i64()
    };
    let since: Vec<Message> = messages.iter().filter(its).cloned().collect();
    assert_eq!(since[0].op(), "r", "{tenant}: {record} {messages:#?}");
    assert_eq!(rebuild(&since), bed.expected(tenant).await, "{tenant}: {record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_snapshot_of_each_tenant_is_recorded() {
    let broker = Broker::shared();
    let (users, topic) = ("snaps.users", "snaps.snapshots");
    let kafka = "topic: snaps.users, partition_by: tenant, partitions: 3";
    let mut bed = TeeBed::start(broker, "snaps", kafka, "").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme'), ('bob', 'acme'), ('eve', 'globex')").await;
    let process = Process::start(&bed.file);
    let first = recorded(broker, topic, &["acme", "globex"]).await;
    for (tenant, record) in &first {
        check(&bed, broker, users, tenant, record).await;
    }
    let settings = ["--bootstrap-server", &broker.address(), "--describe", "--topic", "snaps.users,snaps.snapshots"];
    let described = broker.tool("org.apache.kafka.tools.TopicCommand", &settings).await;
    for (part, times) in
        [("cleanup.policy=compact", 2), ("min.compaction.lag.ms=86400000", 1), ("delete.retention.ms=604800000", 1)]
    {
        assert_eq!(described.matches(part).count(), times, "{part}: {described}");
    }

    // A resync supersedes what was published before.
    bed.tee_is("following").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('cid', 'acme')").await;
    bed.auth("DELETE FROM auth.users WHERE id = 'ann'").await;
    arrive(broker, users, 5);
    let (text, code) = said(&command(&["resync", "--kafka", "-c", bed.file.path().to_str().unwrap()]).await);
    assert!(code == Some(0) && text.contains("resynced"), "{text}");
    let second = recorded(broker, topic, &["acme", "globex"]).await;
    for (tenant, record) in &second {
        let offset = |records: &BTreeMap<String, Value>| records[tenant]["offset"].as_i64();
        assert!(offset(&first) < offset(&second), "{first:?} {second:?}");
        check(&bed, broker, users, tenant, record).await;
    }
    assert!(process.stop().await.success());

    // One tenant is removed, and another one added.
    bed.bed.server.create_database("initech").await.unwrap();
    bed.bed.tenants = vec!["acme".to_owned(), "initech".to_owned()];
    let file = bed.bed.config_file(&TeeBed::section(&bed.brokers, "snaps", kafka, ""));
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('peter', 'initech')").await;
    let process = Process::start(&file);
    let third = recorded(broker, topic, &["acme", "initech"]).await;
    assert_eq!(third["acme"], second["acme"]);
    check(&bed, broker, users, "initech", &third["initech"]).await;
    assert!(process.stop().await.success());

    // Without records nothing tells what is superseded, so that all of the partition counts.
    delete(broker, topic).await;
    let process = Process::start(&file);
    let fourth = recorded(broker, topic, &["acme", "initech"]).await;
    for (tenant, record) in &fourth {
        let unsigned = |record: &Value| {
            let mut record = record.clone();
            record.as_object_mut().unwrap().remove("signature");
            record["offset"] = json!(0);
            record
        };
        assert_eq!((&record["offset"], unsigned(record)), (&json!(0), unsigned(&third[tenant])), "{tenant}");
    }
    assert!(process.stop().await.success());
}

/// A target that is rebuilt from a topic without the users from before would lose them.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_without_the_users_from_before_is_no_snapshot() {
    let broker = Broker::shared();
    let (users, topic) = ("partial.users", "partial.snapshots");
    let kafka = "topic: partial.users, partition_by: tenant";
    let bed = TeeBed::start(broker, "partial", &format!("{kafka}, snapshot: false"), "").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme')").await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('bob', 'acme'), ('eve', 'globex')").await;
    arrive(broker, users, 2);
    assert!(process.stop().await.success());
    let process = Process::start(&bed.file);
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('cid', 'acme')").await;
    arrive(broker, users, 3);
    assert!(tokio::task::block_in_place(|| records(broker, topic)).is_empty());
    assert!(process.stop().await.success());

    let file = bed.bed.config_file(&TeeBed::section(&bed.brokers, "partial", &format!("{kafka}, group: apply"), ""));
    let process = Process::start(&file);
    for (tenant, record) in recorded(broker, topic, &["acme", "globex"]).await {
        check(&bed, broker, users, &tenant, &record).await;
    }
    assert!(process.stop().await.success());
}

/// An installation that takes topics over also takes over what they say of snapshots.
#[tokio::test(flavor = "multi_thread")]
async fn the_records_of_another_installation_are_taken_over_with_its_topics() {
    let broker = Broker::shared();
    let (users, topic) = ("seized.users", "seized.snapshots");
    let bed = TeeBed::start(broker, "seized", "topic: seized.users, partition_by: tenant", "").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme'), ('eve', 'globex')").await;
    let process = Process::start(&bed.file);
    let before = recorded(broker, topic, &["acme", "globex"]).await;
    bed.tee_is("following").await;
    assert!(process.stop().await.success());
    // The state is lost, and with it the key of the signatures. Only the snapshots topic tells whose it is.
    bed.auth("DROP SCHEMA users_sync CASCADE").await;
    delete(broker, "seized.positions").await;
    delete(broker, users).await;
    let (process, log) = Process::start_logged(&bed.file);
    log.says("the snapshots of slot users_sync_kafka in Kafka belong to another installation").await;
    let file = bed.file.path().to_str().unwrap();
    let (text, code) = said(&command(&["adopt", "--kafka", "--yes", "-c", file]).await);
    assert!(code == Some(0) && text.contains("adopted: "), "{text}");
    log.says("Kafka output up to date, streaming").await;
    let after = recorded(broker, topic, &["acme", "globex"]).await;
    for (tenant, record) in &after {
        assert_ne!(record["installation"], before[tenant]["installation"]);
        check(&bed, broker, users, tenant, record).await;
    }
    assert!(process.stop().await.success());
}
