//! Rows that are hard to publish affect no other: sizes, encodings, depths, numbers, times, duplicates and rows that cannot be
//! mapped, in both formats, in a snapshot, in the stream and in one large transaction.

use crate::bed::{TeeBed, rebuild};
use crate::broker::{Broker, until};
use crate::consumer::{Message, read};
use crate::oversized::{ASIDE, UNMAPPABLE, noise, set_limit};
use crate::support::process::Process;
use std::collections::{BTreeMap, BTreeSet};

/// Users that nothing is wrong with.
const INNOCENT: usize = 1000;
/// The topic's limit in bytes. Brokers compare compressed sizes.
const LIMIT: u64 = 200_000;

/// What becomes of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrives,
    /// Its message is too large.
    Aside,
    /// It cannot be mapped.
    Unpublished,
}

/// Each with its id, and assignments to the columns.
fn kinds() -> Vec<(&'static str, String, Fate)> {
    use Fate::{Arrives, Aside, Unpublished};
    let kinds = [
        ("euro", r#"first_name = U&'Sesame \20ac', extra = U&'{"\20ac": "Sesame \20ac"}'"#, Arrives),
        ("escape", r#"extra = '{"Sesame \u20ac": "\u20ac"}'"#, Arrives),
        ("nul", r#"extra = '{"Sesame\u0000": "\u0000"}'"#, Arrives),
        ("surrogate", r#"extra = '["Sesame \ud800", "\udc00\ud800"]'"#, Arrives),
        ("control", r"first_name = U&'Sesame \0001\000a\007f\2028'", Arrives),
        ("deep", "extra = (repeat('[', 10000) || '\"Sesame\"' || repeat(']', 10000))::json", Arrives),
        ("deep_keys", r#"extra = (repeat('{"Sesame":', 3000) || '1' || repeat('}', 3000))::json"#, Arrives),
        ("exponent", r#"extra = '{"Sesame": 1e400000}'"#, Arrives),
        ("small", r#"extra = '["Sesame", 1e-20000]'"#, Arrives),
        ("digits", "extra = repeat('9', 100000)::json", Arrives),
        ("not_a_number", "number = 'NaN', float = 'NaN'", Arrives),
        ("infinite", "float = '-Infinity'", Arrives),
        ("infinity", "created_at = 'infinity'", Arrives),
        ("minus_infinity", "created_at = '-infinity'", Arrives),
        ("before_christ", "created_at = '4713-01-01 00:00:00+00 BC'", Arrives),
        ("last_year", "created_at = '294276-12-31 23:59:59+00'", Arrives),
        ("packs", "first_name = repeat('x', 900000)", Arrives),
        ("unmappable", "gone = 'yesterday'", Unpublished),
        ("twin", "first_name = 'Sesame 1'", Arrives),
        ("twin", "first_name = 'Sesame 2'", Arrives),
    ];
    let mut kinds: Vec<_> = kinds.into_iter().map(|(id, set, fate)| (id, set.to_owned(), fate)).collect();
    kinds.push(("noise_document", format!("extra = {}::json", noise(900_000)), Aside));
    kinds.push(("noise_name", format!("first_name = {}::text", noise(400_000)), Aside));
    kinds
}

fn ids(fate: Fate) -> BTreeSet<&'static str> {
    kinds().into_iter().filter(|(_, _, its)| *its == fate).map(|(id, _, _)| id).collect()
}

/// What is set aside.
fn aside() -> String {
    ids(Fate::Aside).into_iter().map(|id| format!("acme:{id}")).collect::<Vec<_>>().join(" ")
}

/// The last message of each user.
fn last(messages: &[Message]) -> BTreeMap<&str, &Message> {
    messages.iter().map(|message| (message.id(), message)).collect()
}

/// Waits until the topic has every innocent user under this name, and behind the first `since` messages those of exactly
/// these other users.
async fn arrives(broker: &Broker, topic: &str, name: &str, since: usize, expected: &BTreeSet<&str>) -> usize {
    let mut total = 0;
    until("every user who fits is published", async || {
        let messages = tokio::task::block_in_place(|| read(broker, topic));
        total = messages.len();
        let is_innocent = |message: &&Message| message.id().starts_with('u') && message.id() != "unmappable";
        let innocent: Vec<Message> = messages.iter().filter(is_innocent).cloned().collect();
        let users = rebuild(&innocent);
        let new = last(messages.get(since..).unwrap_or_default());
        let poison: BTreeSet<&str> = new.keys().copied().filter(|id| !is_innocent(&new[id])).collect();
        users.len() == INNOCENT && users.values().all(|user| user["name"] == name) && poison == *expected
    })
    .await;
    total
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_hard_to_publish_affect_no_other() {
    let broker = Broker::shared();
    for format in ["debezium", "upsert"] {
        let name = format!("poison_{format}");
        let more = format!("format: {format}, properties: {{compression.type: zstd}}");
        let bed = TeeBed::start(broker, &name, &more, "").await;
        let text = std::fs::read_to_string(bed.file.path()).unwrap();
        let gone = "deleted_at: {column: gone, unit: rfc3339}";
        std::fs::write(bed.file.path(), text.replace("deleted_at: deleted_at", gone)).unwrap();
        let topic = bed.topic("acme");
        let create = ["--bootstrap-server", &broker.address(), "--create", "--topic", &topic, "--config"];
        let compact = ["cleanup.policy=compact", "--config", &format!("max.message.bytes={LIMIT}")];
        broker.tool("org.apache.kafka.tools.TopicCommand", &[&create[..], &compact[..]].concat()).await;
        // Without a key, so that a row can be there twice.
        bed.auth(
            "ALTER TABLE auth.users DROP CONSTRAINT users_pkey; ALTER TABLE auth.users REPLICA IDENTITY FULL; \
             ALTER TABLE auth.users ADD extra json, ADD number numeric, ADD float float8, ADD gone text; \
             CREATE TABLE auth.poison AS SELECT * FROM auth.users",
        )
        .await;
        for (id, set, _) in kinds() {
            bed.auth(&format!(
                "INSERT INTO auth.poison (id, org, created_at, updated_at) VALUES ('{id}', 'acme', now(), now()); \
                 UPDATE auth.poison SET {set} WHERE ctid = (SELECT max(ctid) FROM auth.poison)"
            ))
            .await;
        }
        bed.auth(&format!(
            "INSERT INTO auth.users (id, org, first_name, updated_at) \
             SELECT 'u' || n, 'acme', 'Ann', now() FROM generate_series(1, {INNOCENT}) n"
        ))
        .await;
        let all = ids(Fate::Arrives);
        let rename = |name: &str| {
            format!("UPDATE auth.users SET first_name = '{name}', updated_at = now() WHERE id ~ '^u[0-9]+$'")
        };
        let remove = "DELETE FROM auth.users WHERE id !~ '^u[0-9]+$'";

        bed.auth("INSERT INTO auth.users SELECT * FROM auth.poison").await;
        let (process, log) = Process::start_logged(&bed.file);
        bed.tee_is("following").await;
        let seen = arrives(broker, &topic, "Ann", 0, &all).await;
        bed.bed.becomes("auth", ASIDE, &aside()).await;
        bed.bed.becomes("auth", UNMAPPABLE, "acme:unmappable").await;

        bed.auth(remove).await;
        bed.bed.becomes("auth", ASIDE, "").await;
        bed.bed.becomes("auth", UNMAPPABLE, "").await;
        let gone: BTreeSet<&str> = kinds().into_iter().map(|(id, _, _)| id).collect();
        let seen = arrives(broker, &topic, "Ann", seen, &gone).await;
        // A transaction for each row.
        bed.auth(
            "DO $$ DECLARE place tid; BEGIN FOR place IN SELECT ctid FROM auth.poison LOOP \
             INSERT INTO auth.users SELECT * FROM auth.poison WHERE ctid = place; COMMIT; END LOOP; END $$",
        )
        .await;
        bed.auth(&rename("Bea")).await;
        let seen = arrives(broker, &topic, "Bea", seen, &all).await;
        bed.bed.becomes("auth", ASIDE, &aside()).await;
        bed.bed.becomes("auth", UNMAPPABLE, "acme:unmappable").await;

        bed.auth(remove).await;
        bed.bed.becomes("auth", ASIDE, "").await;
        bed.bed.becomes("auth", UNMAPPABLE, "").await;
        let seen = arrives(broker, &topic, "Bea", seen, &gone).await;
        let insert = "INSERT INTO auth.users SELECT * FROM auth.poison";
        bed.auth(&format!("BEGIN; {}; {insert}; {}; COMMIT", rename("Cid"), rename("Dan"))).await;
        let seen = arrives(broker, &topic, "Dan", seen, &all).await;
        bed.bed.becomes("auth", ASIDE, &aside()).await;
        bed.bed.becomes("auth", UNMAPPABLE, "acme:unmappable").await;

        // They fit from now on.
        set_limit(broker, &topic, 10_000_000).await;
        bed.bed.becomes("auth", ASIDE, "").await;
        arrives(broker, &topic, "Dan", seen, &ids(Fate::Aside)).await;
        let log = log.text();
        let is_trouble =
            |line: &&str| ["Kafka output failed", "Kafka output stopped"].iter().any(|text| line.contains(text));
        let trouble: Vec<&str> = log.lines().filter(is_trouble).collect();
        assert!(trouble.is_empty(), "{trouble:#?}");
        assert!(!log.contains("Sesame"), "{log}");
        assert!(process.stop().await.success());
    }
}
