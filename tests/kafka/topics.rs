//! Topics that brokers create automatically, topics that are deleted, and deletes that the stream did not carry.

use crate::bed::{TeeBed, of, ops};
use crate::broker::{Broker, Settings, until};
use crate::consumer::{arrive, read};
use crate::support::process::Process;

pub async fn delete(broker: &Broker, topic: &str) {
    let settings = ["--bootstrap-server", &broker.address(), "--delete", "--topic", topic];
    broker.tool("org.apache.kafka.tools.TopicCommand", &settings).await;
}

pub async fn create(broker: &Broker, topic: &str) {
    let settings = ["--bootstrap-server", &broker.address(), "--create", "--topic", topic];
    until("the topic is created", async || {
        broker.try_tool("org.apache.kafka.tools.TopicCommand", &settings).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_compacted_despite_auto_creation_and_a_deleted_one_is_refilled() {
    let broker =
        Broker::start(&Settings { lines: vec!["auto.create.topics.enable=true".to_owned()], ..Settings::default() });
    let bed = TeeBed::start(&broker, "deleted", "properties: {topic.metadata.propagation.max.ms: 1000}", "").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme')").await;
    let process = Process::start(&bed.file);
    arrive(&broker, "deleted.acme", 1);
    let settings = ["--bootstrap-server", &broker.address(), "--describe", "--topic", "deleted.acme,deleted.positions"];
    let described = broker.tool("org.apache.kafka.tools.TopicCommand", &settings).await;
    assert_eq!(described.matches("cleanup.policy=compact").count(), 2, "{described}");
    delete(&broker, "deleted.acme").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('bob', 'acme')").await;
    until("the topic has every user", async || {
        let there = bed.expected("acme").await;
        let held = tokio::task::block_in_place(|| read(&broker, "deleted.acme"));
        crate::bed::rebuild(&held) == there
    })
    .await;
    let described = broker.tool("org.apache.kafka.tools.TopicCommand", &settings).await;
    assert_eq!(described.matches("cleanup.policy=compact").count(), 2, "{described}");
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_positions_lead_to_a_snapshot_even_with_snapshot_false() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "forgotten", "snapshot: false", "").await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme'), ('bob', 'acme')").await;
    arrive(broker, "forgotten.acme", 2);
    assert!(process.stop().await.success());
    delete(broker, "forgotten.positions").await;
    bed.auth("UPDATE auth.users SET email = 'a@b', updated_at = now() WHERE id = 'ann'").await;
    bed.auth("DELETE FROM auth.users WHERE id = 'bob'").await;
    let process = Process::start(&bed.file);
    let messages = bed.equal("acme").await;
    assert_eq!(["ann", "bob"].map(|id| ops(&of(&messages, id))), ["cr", "cdt"]);
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_deletes_publish_a_tombstone_for_a_soft_deleted_user_that_disappeared() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "buried", "", "deletes: hard").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme'), ('bob', 'acme')").await;
    let process = Process::start(&bed.file);
    arrive(broker, "buried.acme", 2);
    bed.tee_is("following").await;
    bed.auth("UPDATE auth.users SET deleted_at = now(), updated_at = now() WHERE id = 'ann'").await;
    arrive(broker, "buried.acme", 3);
    assert!(process.stop().await.success());
    bed.auth("DELETE FROM auth.users WHERE id = 'ann'").await;
    bed.auth("SELECT pg_drop_replication_slot('users_sync_kafka')").await;
    let process = Process::start(&bed.file);
    until("the tee is back", async || {
        let messages = tokio::task::block_in_place(|| read(broker, "buried.acme"));
        ops(&of(&messages, "bob")) == "rr" && ops(&of(&messages, "ann")) == "rudt"
    })
    .await;
    assert!(process.stop().await.success());
}
