//! `adopt --kafka` takes over topics of an installation that no longer runs, and never those of a running one.

use crate::bed::{TeeBed, of, ops};
use crate::broker::{Broker, until};
use crate::consumer::{arrive, read};
use crate::support::process::{Log, Process, command, said};
use std::path::Path;

async fn run(arguments: &[&str], file: &Path) -> (String, Option<i32>) {
    said(&command(&[arguments, &["-c", file.to_str().unwrap()]].concat()).await)
}

async fn adopt(file: &Path) -> (String, Option<i32>) {
    run(&["adopt", "--kafka", "--yes"], file).await
}

/// Waits until the light of the command no longer shows that the topics are foreign.
async fn is_clear(log: &Log, file: &Path) {
    log.says("Kafka output up to date, streaming").await;
    for command in ["status", "check"] {
        until("no light shows the topics as foreign", async || !run(&[command], file).await.0.contains("tee_foreign"))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_lost_its_state_adopts_its_topics_and_deletes_no_live_user() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "adopted", "", "").await;
    let file = bed.file.path();
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme'), ('bob', 'acme'), ('eve', 'globex')").await;
    let process = Process::start(&bed.file);
    arrive(broker, "adopted.acme", 2);
    arrive(broker, "adopted.globex", 1);
    bed.tee_is("following").await;
    let (text, code) = run(&["adopt", "--kafka"], file).await;
    assert!(code == Some(0) && text.contains("nothing to adopt"), "{text}");
    assert!(process.stop().await.success());

    // The state is lost, the slots are left.
    bed.auth("DROP SCHEMA users_sync CASCADE").await;
    bed.auth("DELETE FROM auth.users WHERE id = 'bob'; INSERT INTO auth.users (id, org) VALUES ('cid', 'acme')").await;
    let (text, code) = adopt(file).await;
    assert!(code == Some(1) && text.contains("the state has no installation yet"), "{text}");
    let (process, log) = Process::start_logged(&bed.file);
    log.says("belong to another installation").await;
    log.says("users-sync adopt -c FILE --kafka").await;
    let before = read(broker, "adopted.positions").len();
    let (text, code) = run(&["adopt", "--kafka"], file).await;
    assert!(code == Some(1) && text.contains("pass --yes"), "{text}");
    for part in
        ["slot users_sync_kafka, installation ", "published up to ", "2 tenants, last record ", "topic adopted.acme"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(read(broker, "adopted.positions").len(), before);
    let (text, code) = adopt(file).await;
    assert!(code == Some(0) && text.contains("adopted: "), "{text}");
    let messages = bed.equal("acme").await;
    assert_eq!(ops(&of(&messages, "ann")), "rr");
    assert_eq!(ops(&of(&messages, "cid")), "r");
    bed.equal("globex").await;
    is_clear(&log, file).await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('dan', 'acme')").await;
    assert_eq!(ops(&of(&bed.equal("acme").await, "dan")), "c");
    assert!(process.stop().await.success());

    // After `teardown`, which leaves Kafka as it is.
    let (text, code) = run(&["teardown", "--yes"], file).await;
    assert!(code == Some(0) && text.contains("stays: topics and positions in Kafka"), "{text}");
    bed.auth("DELETE FROM auth.users WHERE id = 'dan'").await;
    let (process, log) = Process::start_logged(&bed.file);
    log.says("belong to another installation").await;
    let (text, code) = adopt(file).await;
    assert!(code == Some(0), "{text}");
    let messages = bed.equal("acme").await;
    assert_eq!(ops(&of(&messages, "ann")), "rrr");
    is_clear(&log, file).await;
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_installation_keeps_its_topics_and_a_stopped_one_does_not_return() {
    let broker = Broker::shared();
    // On another server, and with positions of its own.
    for (name, topic, positions) in [("alive", "", "alive"), ("alive2", "topic: 'alive2.{tenant}'", "alive2b")] {
        let first = TeeBed::start(broker, name, topic, "").await;
        first.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme')").await;
        let (process, log) = Process::start_logged(&first.file);
        arrive(broker, &first.topic("acme"), 1);
        first.tee_is("following").await;
        let second = TeeBed::start(broker, name, topic, "").await;
        let text = std::fs::read_to_string(second.file.path()).unwrap();
        let text = text.replace(&format!("{name}.positions"), &format!("{positions}.positions"));
        std::fs::write(second.file.path(), text).unwrap();
        second.auth("INSERT INTO auth.users (id, org) VALUES ('bob', 'acme'), ('eve', 'globex')").await;
        let (other, other_log) = Process::start_logged(&second.file);
        other_log.says("another installation").await;
        let (text, code) = adopt(second.file.path()).await;
        assert!(code == Some(1) && text.contains("another installation may still publish"), "{text}");
        first.auth("INSERT INTO auth.users (id, org) VALUES ('dan', 'acme')").await;
        assert_eq!(first.equal("acme").await.len(), 2);
        assert!(!log.text().contains("Kafka output failed") && !log.text().contains("stopped until"), "{}", log.text());
        assert!(process.stop().await.success());
        if name == positions {
            let (text, code) = adopt(second.file.path()).await;
            assert!(code == Some(0), "{text}");
            let messages = second.equal("acme").await;
            assert_eq!(ops(&of(&messages, "bob")), "r");
            is_clear(&other_log, second.file.path()).await;
            let (process, log) = Process::start_logged(&first.file);
            log.says("another installation").await;
            assert_eq!(read(broker, &first.topic("acme")).len(), messages.len());
            assert!(process.stop().await.success());
        }
        assert!(other.stop().await.success());
    }
}
