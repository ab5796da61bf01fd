//! Topics that brokers make by themselves, that somebody deletes, and that hold users who went unseen.

use crate::bed::TeeBed;
use crate::broker::{Broker, Settings, until};
use crate::consumer::{arrive, read};
use crate::support::process::Process;

async fn delete(broker: &Broker, topic: &str) {
    let settings = ["--bootstrap-server", &broker.address(), "--delete", "--topic", topic];
    broker.tool("org.apache.kafka.tools.TopicCommand", &settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_compacted_also_where_brokers_make_their_own_and_one_that_is_deleted_is_filled_again() {
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
    until("the topic has everybody", async || {
        let there = bed.expected("acme").await;
        let held = tokio::task::block_in_place(|| read(&broker, "deleted.acme"));
        crate::bed::rebuild(&held) == there
    })
    .await;
    let described = broker.tool("org.apache.kafka.tools.TopicCommand", &settings).await;
    assert_eq!(described.matches("cleanup.policy=compact").count(), 2, "{described}");
    assert!(process.stop().await.success());
}
