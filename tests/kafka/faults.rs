//! Kafka's refusals are reported in one clear message with the fix. A mock cluster produces faults on demand.

use crate::bed::TeeBed;
use crate::broker::Broker;
use crate::consumer::read_with;
use crate::support::process::{Process, command, said};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

#[tokio::test(flavor = "multi_thread")]
async fn with_create_topics_off_a_missing_topic_is_reported() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "absent", "create_topics: false", "").await;
    let (process, log) = Process::start_logged(&bed.file);
    log.says("Kafka has no topic absent.acme, absent.globex, absent.positions").await;
    log.says("kafka.create_topics: true").await;
    let path = bed.file.path().to_str().unwrap();
    let (text, code) = said(&command(&["check", "-c", path]).await);
    assert!(code == Some(1) && text.contains("error: kafka: Kafka has no topic absent.acme"), "{text}");
    for topic in ["absent.acme", "absent.globex", "absent.positions"] {
        let settings = ["--bootstrap-server", &broker.address(), "--create", "--topic", topic];
        broker.tool("org.apache.kafka.tools.TopicCommand", &settings).await;
    }
    bed.tee_is("following").await;
    log.says("the topic is not compacted").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('u', 'acme')").await;
    bed.equal("acme").await;
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_broker_is_reported_once() {
    let bed = TeeBed::start_with("127.0.0.1:1", "unlisted", "", "").await;
    let (process, log) = Process::start_logged(&bed.file);
    log.says("reaching Kafka at 127.0.0.1:1 failed").await;
    bed.bed.equal().await;
    let path = bed.file.path().to_str().unwrap();
    let (text, code) = said(&command(&["check", "-c", path]).await);
    assert!(code == Some(1) && text.contains("error: kafka: reaching Kafka at 127.0.0.1:1 failed"), "{text}");
    let (text, code) = said(&command(&["status", "-c", path]).await);
    assert!(
        code == Some(1) && text.contains("the Kafka output does not publish: reaching Kafka at 127.0.0.1:1 failed"),
        "{text}"
    );
    assert_eq!(log.text().matches("reaching Kafka").count(), 1, "{}", log.text());
    assert!(process.stop().await.success());
}

/// An in-process mock cluster of librdkafka.
fn mock(name: &str) -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    for topic in ["acme", "globex", "positions"] {
        cluster.create_topic(&format!("{name}.{topic}"), 1, 1).unwrap();
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_broker_faults_lose_and_duplicate_nothing() {
    let cluster = mock("mock");
    let bed = TeeBed::start_with(&cluster.bootstrap_servers(), "mock", "create_topics: false", "").await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    let not_enough = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND;
    let moved = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
    let coordinator = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR;
    cluster.request_errors(RDKafkaApiKey::Produce, &[moved, not_enough, moved]);
    cluster.request_errors(RDKafkaApiKey::EndTxn, &[coordinator, coordinator]);
    cluster.request_errors(RDKafkaApiKey::AddPartitionsToTxn, &[coordinator]);
    for n in 0..5 {
        bed.auth(&format!("INSERT INTO auth.users (id, org) VALUES ('u{n}', 'acme')")).await;
    }
    let acme = bed.equal("acme").await;
    crate::bed::once(&acme);
    assert_eq!(acme.len(), 5);
    assert!(process.stop().await.success());
    drop(read_with(&cluster.bootstrap_servers(), "mock.positions", &[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_write_privilege_is_reported_with_its_remedy() {
    let cluster = mock("denied");
    let bed = TeeBed::start_with(&cluster.bootstrap_servers(), "denied", "create_topics: false", "").await;
    let (process, log) = Process::start_logged(&bed.file);
    bed.tee_is("following").await;
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::AddPartitionsToTxn, &[denied; 3]);
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('u', 'acme')").await;
    log.says("allow it Describe, Read and Write on the topic").await;
    bed.equal("acme").await;
    assert!(process.stop().await.success());
}
