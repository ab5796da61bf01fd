//! Topics and positions of another installation are left alone. Topics and positions that another program changed, deleted or
//! restored are noticed, and filled again.

use crate::bed::{TeeBed, of, ops};
use crate::broker::{Broker, Settings, until};
use crate::consumer::{Message, arrive, read};
use crate::support::process::{Process, command, said};
use crate::topics::{create, delete};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::path::Path;
use std::time::Duration;

/// Another program writes these records: keys and values.
fn forge(broker: &Broker, topic: &str, records: &[(&str, Option<&str>)]) {
    let mut config = ClientConfig::new();
    let producer: BaseProducer = config.set("bootstrap.servers", broker.address()).create().unwrap();
    for (key, value) in records {
        let record = BaseRecord::<str, str>::to(topic).key(key);
        let record = match value {
            Some(value) => record.payload(value),
            None => record,
        };
        producer.send(record).unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

async fn says(command_name: &str, file: &Path) -> (String, Option<i32>) {
    said(&command(&[command_name, "-c", file.to_str().unwrap()]).await)
}

/// Every light of the second installation names the cause and the three keys.
async fn is_refused(file: &Path, cause: &str) {
    for command in ["check", "status"] {
        let (text, code) = says(command, file).await;
        assert!(text.contains(cause) && code == Some(1), "{command}: {text}");
        for key in ["kafka.topic", "kafka.positions_topic", "source.slot"] {
            assert!(text.contains(key), "{command}: {text}");
        }
    }
    let (text, _) = said(&command(&["status", "-c", file.to_str().unwrap(), "--json"]).await);
    assert!(text.contains("tee_foreign"), "{text}");
    let (text, _) = says("check", file).await;
    assert!(text.contains("tee_foreign"), "{text}");
}

fn replace(file: &Path, changes: &[(&str, &str)]) {
    let mut text = std::fs::read_to_string(file).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{text}");
        text = text.replace(from, to);
    }
    std::fs::write(file, text).unwrap();
}

/// With default names, on another server and in another slot of the same server.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_installation_publishes_nothing_and_the_first_one_does_not_notice() {
    let broker = Broker::shared();
    let first = TeeBed::start(broker, "owned", "", "").await;
    first.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme')").await;
    let (process, log) = Process::start_logged(&first.file);
    arrive(broker, "owned.acme", 1);
    first.tee_is("following").await;
    // globex has no user, so that only the positions topic says whose topic it is.
    let second = TeeBed::start(broker, "owned", "", "").await;
    second.auth("INSERT INTO auth.users (id, org) VALUES ('bob', 'acme'), ('cora', 'globex')").await;
    let (text, code) = says("check", second.file.path()).await;
    assert!(text.contains("tee_foreign") && code == Some(1), "{text}");
    let (other, other_log) = Process::start_logged(&second.file);
    other_log.says("belong to another installation").await;
    second.bed.equal().await;
    is_refused(second.file.path(), "the positions of slot users_sync_kafka in Kafka belong to another installation")
        .await;

    // Another slot of the first server, whose targets are other databases.
    for database in ["acme2", "globex2"] {
        first.bed.server.create_database(database).await.unwrap();
    }
    let third = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(first.file.path(), third.path()).unwrap();
    let url = |database: &str| format!("'{}'", first.bed.server.url(database));
    let changes = [
        (url("acme"), url("acme2")),
        (url("globex"), url("globex2")),
        (url("auth"), format!("{}, slot: second", url("auth"))),
    ];
    let changes: Vec<(&str, &str)> = changes.iter().map(|(from, to)| (&**from, &**to)).collect();
    replace(third.path(), &changes);
    let (text, code) = says("check", third.path()).await;
    assert!(text.contains("tee_foreign") && code == Some(1), "{text}");
    let (again, again_log) = Process::start_logged(&third);
    again_log.says("belongs to another installation").await;
    let held = "SELECT count(*) FROM neon_auth.users_sync WHERE id = 'ann'";
    first.bed.becomes("acme2", held, "1").await;
    is_refused(third.path(), "topic owned.").await;
    let slots = "SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots";
    assert_eq!(first.bed.query("auth", slots).await[0][0].as_deref(), Some("second users_sync users_sync_kafka"));

    first.auth("INSERT INTO auth.users (id, org) VALUES ('dan', 'acme')").await;
    let messages = first.equal("acme").await;
    assert_eq!(["ann", "dan"].map(|id| ops(&of(&messages, id))), ["r", "c"]);
    assert_eq!(messages.len(), 2);
    assert!(read(broker, "owned.globex").is_empty());
    assert!(!log.text().contains("Kafka output failed") && !log.text().contains("stopped until"), "{}", log.text());

    // The remedy: names of its own.
    for (process, file, slot) in [(other, second.file.path(), ""), (again, third.path(), "second")] {
        assert!(process.stop().await.success());
        let name = format!("owned.of{slot}");
        replace(
            file,
            &[("'owned.{tenant}'", &format!("'{name}.{{tenant}}'")), ("owned.positions", &format!("{name}.positions"))],
        );
        let process = Process::start_at(file);
        arrive(broker, &format!("{name}.acme"), 1);
        assert!(process.stop().await.success());
    }
    assert!(process.stop().await.success());
}

/// Two installations with positions of their own, but the same topic.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_another_installation_is_refused_whatever_its_positions_topic() {
    let broker = Broker::shared();
    let first = TeeBed::start(broker, "alone", "topic: 'common.{tenant}'", "").await;
    first.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme')").await;
    let process = Process::start(&first.file);
    arrive(broker, "common.acme", 1);
    let second = TeeBed::start(broker, "beside", "topic: 'common.{tenant}'", "").await;
    let (other, log) = Process::start_logged(&second.file);
    log.says("topic common.acme has records of another installation").await;
    second.bed.equal().await;
    is_refused(second.file.path(), "topic common.acme has records of another installation").await;
    assert_eq!(ops(&read(broker, "common.acme").iter().collect::<Vec<_>>()), "r");
    assert!(read(broker, "beside.positions").is_empty());
    assert!(other.stop().await.success() && process.stop().await.success());
}

/// Waits until the topic holds exactly the source's users, and the last operation on each user is this one.
async fn refilled(bed: &TeeBed, tenant: &str, last: &[(&str, &str)]) -> Vec<Message> {
    let broker = Broker::shared();
    until("the topic is filled again", async || {
        let messages = tokio::task::block_in_place(|| read(broker, &bed.topic(tenant)));
        last.iter().all(|(id, wanted)| ops(&of(&messages, id)).ends_with(wanted))
    })
    .await;
    bed.equal(tenant).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_created_again_is_filled_again_without_the_other_tenants() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "again", "snapshot: false", "").await;
    let (process, log) = Process::start_logged(&bed.file);
    bed.tee_is("following").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme'), ('bob', 'acme'), ('eve', 'globex')").await;
    arrive(broker, "again.acme", 2);
    arrive(broker, "again.globex", 1);
    // While it is stopped: empty, and with more records of another program than before.
    assert!(process.stop().await.success(), "{}", log.text());
    let mut refills = 0;
    for records in [0, 50] {
        delete(broker, "again.acme").await;
        create(broker, "again.acme").await;
        forge(broker, "again.acme", &vec![("{\"id\":\"x\"}", Some("{}")); records]);
        let (text, code) = says("check", bed.file.path()).await;
        assert!(text.contains("topic again.acme was deleted, created again") && code == Some(0), "{text}");
        let (process, log) = Process::start_logged(&bed.file);
        refilled(&bed, "acme", &[("ann", "r"), ("bob", "r")]).await;
        log.says("tee_topic_lost").await;
        bed.tee_is("following").await;
        assert!(process.stop().await.success(), "{}", log.text());
        refills += 1;
    }
    // A stopped installation whose topics are as it left them does nothing.
    let (process, log) = Process::start_logged(&bed.file);
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('dan', 'acme')").await;
    refilled(&bed, "acme", &[("ann", "r"), ("dan", "c")]).await;
    assert!(!log.text().contains("tee_topic_lost"), "{}", log.text());
    // While it runs.
    delete(broker, "again.acme").await;
    create(broker, "again.acme").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('fay', 'acme')").await;
    refilled(&bed, "acme", &[("ann", "r"), ("dan", "r"), ("fay", "r")]).await;
    log.says("tee_topic_lost").await;
    bed.tee_is("following").await;
    assert_eq!(ops(&read(broker, "again.globex").iter().collect::<Vec<_>>()), "c", "{refills}");
    assert!(process.stop().await.success());
}

/// The brokers are restored from a backup: every topic goes back, or only those of the tenants do.
#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_restored_from_a_backup_get_what_they_lost() {
    let broker = Broker::start(&Settings::default());
    let bed = TeeBed::start(&broker, "restored", "", "").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme'), ('bob', 'acme')").await;
    let mut process = Process::start(&bed.file);
    arrive(&broker, "restored.acme", 2);
    bed.tee_is("following").await;
    for (round, only) in [(1, ""), (2, "restored.acme-")] {
        assert!(process.stop().await.success());
        broker.kill();
        broker.back_up();
        broker.restart();
        process = Process::start(&bed.file);
        bed.auth(&format!("INSERT INTO auth.users (id, org) VALUES ('late{round}', 'acme')")).await;
        bed.auth("UPDATE auth.users SET first_name = first_name || 'x', updated_at = now() WHERE id = 'ann'").await;
        bed.equal("acme").await;
        assert!(process.stop().await.success());
        broker.kill();
        broker.restore(only);
        broker.restart();
        let (again, log) = Process::start_logged(&bed.file);
        process = again;
        bed.equal("acme").await;
        let code = if only.is_empty() { "tee_position_older" } else { "tee_topic_lost" };
        until("the log says why", async || log.text().contains(code)).await;
        bed.tee_is("following").await;
    }
    assert!(process.stop().await.success());
}

/// Each is compared with the state, also while the slot could resume from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_position_neither_skips_a_change_nor_goes_back_silently() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "forged", "snapshot: false", "").await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme')").await;
    arrive(broker, "forged.acme", 1);
    assert!(process.stop().await.success());
    let stream = "{\"slot\":\"users_sync_kafka\"}";
    let tenant = "{\"slot\":\"users_sync_kafka\",\"tenant\":\"acme\"}";
    let value = |key: &str| {
        let records = read(broker, "forged.positions");
        let key: serde_json::Value = serde_json::from_str(key).unwrap();
        records.iter().rev().find(|record| record.key == key).unwrap().value.clone().unwrap()
    };
    let old = value(stream).to_string();
    let with = |key: &str, field: &str, to: &str| {
        let mut value = value(key);
        value[field] = to.into();
        value.to_string()
    };
    let huge = format!("\"{}\"", "x".repeat(900_000));
    let mut users = vec![("ann".to_owned(), "cr".to_owned())];
    let forgeries: Vec<(&str, Option<String>, &str)> = vec![
        (stream, Some(with(stream, "position", "0/1")), "tee_position_altered"),
        (stream, Some(with(stream, "position", "7F/1")), "tee_position_altered"),
        (stream, Some("no JSON".to_owned()), "tee_position_altered"),
        (stream, Some(huge), "tee_position_altered"),
        (stream, None, "tee_no_position"),
        (stream, Some(old), "tee_position_older"),
        (tenant, Some(with(tenant, "position", "7F/1")), "tee_position_altered"),
        (tenant, None, "publishing a snapshot"),
    ];
    for (round, (key, forged, code)) in forgeries.into_iter().enumerate() {
        // Not published yet when the record is forged.
        let id = format!("u{round}");
        bed.auth(&format!("INSERT INTO auth.users (id, org) VALUES ('{id}', 'acme')")).await;
        forge(broker, "forged.positions", &[(key, forged.as_deref())]);
        let (text, exit) = says("check", bed.file.path()).await;
        assert!(code.contains(' ') || text.contains(code) && exit == Some(0), "{round}: {text}");
        let (process, log) = Process::start_logged(&bed.file);
        users.push((id, "r".to_owned()));
        let wanted: Vec<(&str, &str)> = users.iter().map(|(id, _)| (&**id, "r")).collect();
        refilled(&bed, "acme", &wanted).await;
        log.says(code).await;
        bed.tee_is("following").await;
        assert!(process.stop().await.success(), "{}", log.text());
    }
}
