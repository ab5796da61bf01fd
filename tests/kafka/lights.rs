//! Every light names a fault of the Kafka output by one code, `check` too, and is clear once it is fixed.

use crate::bed::TeeBed;
use crate::broker::{Broker, Settings};
use crate::support::lights::{Lights, free_address};

#[tokio::test(flavor = "multi_thread")]
async fn every_light_names_a_fault_of_kafka_and_is_clear_once_it_is_fixed() {
    let broker = Broker::start(&Settings::default());
    let topics = async |names: &[&str], verb: &str| {
        let tool = "org.apache.kafka.tools.TopicCommand";
        let pattern = names.join("|");
        if verb == "--delete" {
            broker.tool(tool, &["--bootstrap-server", &broker.address(), verb, "--topic", &pattern]).await;
            return;
        }
        for name in names {
            let more = ["--topic", name, "--config", "cleanup.policy=compact"];
            broker.tool(tool, &[&["--bootstrap-server", &broker.address(), verb], &more[..]].concat()).await;
        }
    };
    topics(&["lit.acme", "lit.globex"], "--create").await;
    let at = free_address();
    let TeeBed { bed, file, .. } =
        TeeBed::start(&broker, "lit", "create_topics: false", &format!("admin: {{listen: '{at}'}}")).await;
    for tenant in ["acme", "globex"] {
        bed.auth(&format!("INSERT INTO auth.users (id, org) VALUES ('{tenant}', '{tenant}')")).await;
    }
    let mut lights = Lights::new(file, at);
    let process = lights.run().await;
    let shows = async |code: &str| {
        lights.show("degraded", code).await;
        let found = lights.check().await;
        assert!(found.iter().any(|found| found == code), "{code}, but check finds {found:?}");
    };
    let changes = async || bed.auth("UPDATE auth.users SET updated_at = clock_timestamp()").await;

    // A topic was never created.
    shows("kafka_topic").await;
    topics(&["lit.positions"], "--create").await;
    lights.show("ok", "").await;

    // A topic is deleted beside a running process.
    topics(&["lit.acme"], "--delete").await;
    changes().await;
    shows("kafka_topic").await;
    topics(&["lit.acme"], "--create").await;
    lights.show("ok", "").await;

    // The broker is down.
    broker.kill();
    changes().await;
    shows("kafka_output").await;
    broker.restart();
    lights.show("ok", "").await;
    assert!(process.stop().await.success(), "{}", lights.log());
}
