//! Every light names a fault of the Kafka output by one code, `check` too, and is clear once it is fixed.

use crate::bed::TeeBed;
use crate::broker::{Broker, Settings, until};
use crate::security::guarded;
use crate::support::http::get;
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
    let changes = async || bed.auth("UPDATE auth.users SET updated_at = clock_timestamp()").await;

    // A topic was never created.
    lights.show("degraded", "kafka_topic").await;
    topics(&["lit.positions"], "--create").await;
    lights.show("ok", "").await;

    // A topic is deleted beside a running process.
    topics(&["lit.acme"], "--delete").await;
    changes().await;
    lights.show("degraded", "kafka_topic").await;
    topics(&["lit.acme"], "--create").await;
    lights.show("ok", "").await;

    // The broker is down.
    broker.kill();
    changes().await;
    lights.show("degraded", "kafka_output").await;
    broker.restart();
    lights.show("ok", "").await;
    assert!(process.stop().await.success(), "{}", lights.log());
}

/// How often a session of the Kafka output has failed.
fn failures(metrics: &str) -> f64 {
    let value = metrics.lines().find_map(|line| line.strip_prefix("users_sync_tee_reconnects_total "));
    value.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_light_names_a_privilege_that_is_taken_away_and_is_clear_once_it_is_back() {
    let guarded = guarded();
    let rights: [(&[&str], &[&str]); 3] = [
        (&["Read", "Write", "Create"], &["--topic", "taken", "--resource-pattern-type", "prefixed"]),
        (&["Describe", "Write"], &["--transactional-id", "taken.positions.users_sync_kafka"]),
        (&["Read"], &["--group", "taken.positions.users_sync_kafka"]),
    ];
    for (operations, resource) in rights {
        guarded.broker.allow("weak", operations, resource).await;
    }
    let at = free_address();
    let login = guarded.properties("ca.pem", "sasl.mechanism: PLAIN, sasl.username: weak, sasl.password: hunter3");
    let TeeBed { bed, file, .. } =
        TeeBed::start(&guarded.broker, "taken", &login, &format!("admin: {{listen: '{at}'}}")).await;
    for tenant in ["acme", "globex"] {
        bed.auth(&format!("INSERT INTO auth.users (id, org) VALUES ('{tenant}', '{tenant}')")).await;
    }
    let mut lights = Lights::new(file, at);
    let process = lights.run().await;
    lights.show("ok", "").await;
    let (topics, code) = (rights[0].1, "kafka_output");
    // The privilege to write, which `check` does not use; then every one, so that the topics are hidden from it.
    let every: &[&str] = &["Read", "Write", "Create"];
    for taken in [&["Write"], every] {
        guarded.broker.revoke("weak", taken, topics).await;
        bed.auth("UPDATE auth.users SET updated_at = clock_timestamp()").await;
        lights.show("degraded", code).await;
        // No retry clears a light before it has published what was refused.
        let failures = async || failures(&get(at, "/metrics").await.body);
        let before = failures().await;
        until("sessions have failed again", async || {
            let status = get(at, "/api/status").await.json();
            assert_eq!(status["tee"]["reason_code"], code, "{}", lights.log());
            assert_eq!(status["verdict"]["level"], "degraded", "{status}");
            failures().await >= before + 3.0
        })
        .await;
        guarded.broker.allow("weak", taken, topics).await;
        lights.show("ok", "").await;
        assert!(get(at, "/api/status").await.json()["tee"]["reason_code"].is_null());
    }
    assert!(process.stop().await.success(), "{}", lights.log());
}
