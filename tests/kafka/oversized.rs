//! A message that a topic does not take is set aside. Every other message arrives, and it follows once it fits.

use crate::bed::{TeeBed, of, ops, rebuild};
use crate::broker::{Broker, until};
use crate::consumer::{Message, read};
use crate::support::process::{Process, command, said};

pub const ASIDE: &str =
    "SELECT coalesce(string_agg(tenant || ':' || id, ' ' ORDER BY tenant, id), '') FROM users_sync.tee_rejected";

pub async fn set_limit(broker: &Broker, topic: &str, bytes: u64) {
    let limit = format!("max.message.bytes={bytes}");
    let address = broker.address();
    let alter = ["--bootstrap-server", &address, "--alter", "--entity-type", "topics", "--entity-name", topic];
    broker.tool("kafka.admin.ConfigCommand", &[&alter[..], &["--add-config", &limit]].concat()).await;
}

/// Users whose row cannot be mapped.
pub const UNMAPPABLE: &str =
    "SELECT coalesce(string_agg(tenant || ':' || id, ' ' ORDER BY tenant, id), '') FROM users_sync.tee_unmappable";

/// A profile of this many bytes that no compression makes much smaller.
pub fn noise(bytes: usize) -> String {
    format!(
        "(SELECT to_jsonb(left(string_agg(encode(sha256((n || random()::text)::bytea), 'base64'), ''), {bytes})) \
         FROM generate_series(1, {}) n)",
        bytes / 40
    )
}

/// Waits until the topic has these users with these last operations.
async fn arrives(broker: &Broker, topic: &str, users: &[(&str, &str)]) -> Vec<Message> {
    let messages = std::cell::RefCell::new(Vec::new());
    until("the topic has its messages", async || {
        let found = tokio::task::block_in_place(|| read(broker, topic));
        let all = users.iter().all(|(id, wanted)| ops(&of(&found, id)).ends_with(wanted));
        messages.replace(found);
        all
    })
    .await;
    messages.into_inner()
}

/// Debezium with `before`: the update is twice as large as the user.
#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_message_is_set_aside_in_the_stream_and_in_a_snapshot() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "toolarge", "", "").await;
    bed.auth("ALTER TABLE auth.users REPLICA IDENTITY FULL").await;
    bed.auth("INSERT INTO auth.users (id, org) SELECT 'u' || n, 'acme' FROM generate_series(1, 100) n").await;
    bed.auth(&format!("INSERT INTO auth.users (id, org, profile) VALUES ('big', 'acme', {})", noise(600_000))).await;
    let (process, log) = Process::start_logged(&bed.file);
    bed.tee_is("following").await;
    bed.equal("acme").await;
    let others =
        |name: &str| format!("UPDATE auth.users SET first_name = '{name}', updated_at = now() WHERE id LIKE 'u%'");
    bed.auth(&format!(
        "BEGIN; UPDATE auth.users SET email = 'b@x', updated_at = now() WHERE id = 'big'; {}; COMMIT",
        others("Ann")
    ))
    .await;
    log.says("a message is too large for Kafka: it is left out").await;
    bed.bed.becomes("auth", ASIDE, "acme:big").await;
    let messages = arrives(broker, "toolarge.acme", &[("u1", "u"), ("u100", "u"), ("big", "r")]).await;
    assert_eq!(rebuild(&messages)["u50"]["name"], "Ann");
    let path = bed.file.path().to_str().unwrap();
    let (text, _) = said(&command(&["status", "-c", path]).await);
    assert!(text.contains("messages of 1 user are too large"), "{text}");
    assert!(text.contains("verdict: degraded") && text.contains("kafka_left_out"), "{text}");
    // A snapshot publishes the user without `before`, which fits; a larger one is set aside there, too.
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, profile) VALUES ('bigger', 'globex', {}), ('small', 'globex', NULL)",
        noise(1_500_000)
    ))
    .await;
    bed.bed.becomes("auth", ASIDE, "acme:big globex:bigger").await;
    arrives(broker, "toolarge.globex", &[("small", "c")]).await;
    assert!(said(&command(&["resync", "-c", path, "--kafka"]).await).1 == Some(0));
    bed.bed.becomes("auth", ASIDE, "globex:bigger").await;
    arrives(broker, "toolarge.globex", &[("small", "r"), ("bigger", "")]).await;
    bed.equal("acme").await;
    // A delete always arrives, with the key alone.
    bed.auth("UPDATE auth.users SET email = 'c@x', updated_at = now() WHERE id = 'big'").await;
    bed.bed.becomes("auth", ASIDE, "acme:big globex:bigger").await;
    bed.auth("DELETE FROM auth.users WHERE id IN ('big', 'u1')").await;
    bed.bed.becomes("auth", ASIDE, "globex:bigger").await;
    bed.equal("acme").await;
    // Once the topic takes it, the user is published.
    set_limit(broker, "toolarge.globex", 10_000_000).await;
    assert!(process.stop().await.success());
    let process = Process::start(&bed.file);
    bed.equal("globex").await;
    bed.bed.becomes("auth", ASIDE, "").await;
    let (text, _) = said(&command(&["status", "-c", path]).await);
    assert!(!text.contains("kafka_left_out"), "{text}");
    assert!(process.stop().await.success());
    assert!(
        !log.text().contains("Kafka output failed") && !log.text().contains("Kafka output stopped"),
        "{}",
        log.text()
    );
}

/// Brokers compare the compressed size, and a role without DescribeConfigs does not know the limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_fits_compressed_is_published_and_another_is_set_aside() {
    let broker = Broker::shared();
    for (name, more) in [("packed", ""), ("packed2", ", exactly_once: false")] {
        let bed = TeeBed::start(broker, name, &format!("properties: {{compression.type: zstd}}{more}"), "").await;
        let topic = format!("{name}.acme");
        let process = Process::start(&bed.file);
        bed.tee_is("following").await;
        set_limit(broker, &topic, 200_000).await;
        assert!(process.stop().await.success());
        let (process, log) = Process::start_logged(&bed.file);
        bed.tee_is("following").await;
        let large = |id: &str, profile: String| {
            format!("INSERT INTO auth.users (id, org, profile) VALUES ('{id}', 'acme', {profile});")
        };
        let changes = [
            "BEGIN; INSERT INTO auth.users (id, org) SELECT 'u' || n, 'acme' FROM generate_series(1, 3000) n;"
                .to_owned(),
            large("packs", "to_jsonb(repeat('x', 900000))".to_owned()),
            large("noise", noise(900_000)),
            large("noise2", noise(400_000)),
            "INSERT INTO auth.users (id, org) SELECT 'v' || n, 'acme' FROM generate_series(1, 100) n; COMMIT"
                .to_owned(),
        ];
        bed.auth(&changes.concat()).await;
        bed.bed.becomes("auth", ASIDE, "acme:noise acme:noise2").await;
        let messages = arrives(broker, &topic, &[("u3000", "c"), ("v100", "c"), ("packs", "c"), ("noise", "")]).await;
        assert_eq!(rebuild(&messages).len(), 3101);
        if more.is_empty() {
            crate::bed::once(&messages);
        }
        bed.auth("DELETE FROM auth.users WHERE id = 'noise'").await;
        bed.auth("UPDATE auth.users SET profile = NULL WHERE id = 'noise2'").await;
        bed.bed.becomes("auth", ASIDE, "").await;
        bed.equal("acme").await;
        assert!(
            !log.text().contains("Kafka output failed") && !log.text().contains("Kafka output stopped"),
            "{}",
            log.text()
        );
        assert!(process.stop().await.success());
    }
}
