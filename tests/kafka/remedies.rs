//! Each remedy for a Kafka refusal works: the file is corrected while the process runs, and the tee recovers.
//! A mock cluster refuses for missing privileges on demand, and stops once they are granted.

use crate::bed::TeeBed;
use crate::broker::Broker;
use crate::support::process::Process;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// A mock cluster whose topics exist.
fn mock(name: &str) -> Cluster {
    let cluster = Cluster::new(1).unwrap();
    for topic in ["acme", "globex", "positions"] {
        cluster.create_topic(&format!("{name}.{topic}"), 1, 1).unwrap();
    }
    cluster
}

fn corrects(bed: &TeeBed, from: &str, to: &str) {
    let text = std::fs::read_to_string(bed.file.path()).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(bed.file.path(), text.replace(from, to)).unwrap();
}

/// Kafka refuses this request several times. The remedy is reported, and correcting the file lets the tee recover.
async fn refused(
    name: &str,
    (request, refusal, times): (RDKafkaApiKey, RDKafkaRespErr, usize),
    remedy: &str,
    (from, to): (&str, &str),
) {
    let cluster = mock(name);
    let bed = TeeBed::start_with(&cluster.bootstrap_servers(), name, "create_topics: false", "").await;
    cluster.request_errors(request, &vec![refusal; times]);
    let (process, log) = Process::start_logged(&bed.file);
    log.says(remedy).await;
    corrects(&bed, from, to);
    cluster.clear_request_errors(request);
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('u', 'acme')").await;
    bed.equal("acme").await;
    bed.tee_is("following").await;
    assert!(process.stop().await.success(), "{}", log.text());
}

/// Brokers without transactions are reported, and replaced.
async fn too_old() {
    let cluster = mock("old");
    cluster.apiversion(RDKafkaApiKey::InitProducerId, None, None).unwrap();
    let bed = TeeBed::start_with(&cluster.bootstrap_servers(), "old", "create_topics: false", "").await;
    let (process, log) = Process::start_logged(&bed.file);
    log.says("the brokers are too old: Kafka 0.11 or later is required").await;
    cluster.apiversion(RDKafkaApiKey::InitProducerId, Some(0), Some(4)).unwrap();
    bed.tee_is("following").await;
    assert!(process.stop().await.success());
}

/// An unresolvable host name is corrected.
async fn unknown_name() {
    let cluster = mock("named");
    let bed = TeeBed::start_with("no-such-host.invalid:9092", "named", "create_topics: false", "").await;
    let (process, log) = Process::start_logged(&bed.file);
    log.says("correct the host names in kafka.brokers").await;
    corrects(&bed, "no-such-host.invalid:9092", &cluster.bootstrap_servers());
    bed.tee_is("following").await;
    assert!(process.stop().await.success());
}

/// All of them in parallel: a mock cluster leaves some requests unanswered, and each test waits for that.
#[tokio::test(flavor = "multi_thread")]
async fn every_remedy_for_a_kafka_refusal_works() {
    let request = RDKafkaApiKey::InitProducerId;
    let no_id = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
    let no_right = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    let fenced = RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED;
    tokio::join!(
        too_old(),
        unknown_name(),
        refused(
            "noid",
            (request, no_id, 20),
            "on the transactional id <kafka.positions_topic>.<kafka.slot>, or set kafka.exactly_once: false",
            ("create_topics: false", "create_topics: false, exactly_once: false"),
        ),
        // The role is granted its privileges; the file stays unchanged.
        refused(
            "weakly",
            (request, no_right, 20),
            "allow it Create and IdempotentWrite on the cluster",
            ("weakly", "weakly"),
        ),
        refused(
            "fenced",
            (request, fenced, 20),
            "if it belongs to another installation, set kafka.topic, kafka.positions_topic and source.slot",
            ("create_topics: false", "create_topics: false, slot: another_slot"),
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_replication_factor_is_reported_and_corrected() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "toomany", "replication: 3", "").await;
    let (process, log) = Process::start_logged(&bed.file);
    log.says("set kafka.partitions and kafka.replication to values that the cluster accepts").await;
    corrects(&bed, "replication: 3", "replication: 1");
    bed.tee_is("following").await;
    assert!(process.stop().await.success());
}
