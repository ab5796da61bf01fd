//! What mends a refusal of Kafka's, done as it is said: the file is corrected while the process runs, and the tee follows.
//! What is refused by a role's rights is said by a mock cluster, on demand, and stops being said where they are given.

use crate::bed::TeeBed;
use crate::broker::Broker;
use crate::support::process::Process;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// One whose topics are there.
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

/// Kafka refuses this request so often; the remedy is said, and once the file is corrected the tee follows.
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

/// Brokers without transactions say so, and are replaced.
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

/// A name that nobody knows is corrected.
async fn unknown_name() {
    let cluster = mock("named");
    let bed = TeeBed::start_with("no-such-host.invalid:9092", "named", "create_topics: false", "").await;
    let (process, log) = Process::start_logged(&bed.file);
    log.says("correct the host names in kafka.brokers").await;
    corrects(&bed, "no-such-host.invalid:9092", &cluster.bootstrap_servers());
    bed.tee_is("following").await;
    assert!(process.stop().await.success());
}

/// All at once: a mock cluster does not answer everything, and each of them waits for that.
#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_refuses_is_mended_as_it_is_said() {
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
        // The role is given its rights: the file stays as it is.
        refused(
            "weakly",
            (request, no_right, 20),
            "allow it Create and IdempotentWrite on the cluster",
            ("weakly", "weakly"),
        ),
        refused(
            "fenced",
            (request, fenced, 20),
            "where it is another installation, give each a slot of its own",
            ("create_topics: false", "create_topics: false, slot: another_slot"),
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_the_cluster_cannot_hold_is_asked_for_in_its_size() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "toomany", "replication: 3", "").await;
    let (process, log) = Process::start_logged(&bed.file);
    log.says("set kafka.partitions and kafka.replication to what the cluster takes").await;
    corrects(&bed, "replication: 3", "replication: 1");
    bed.tee_is("following").await;
    assert!(process.stop().await.success());
}
