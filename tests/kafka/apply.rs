//! `users-sync apply`: targets are filled from the users' topic and follow it, by processes of one consumer group.

use crate::broker::Broker;
use crate::oversized::{ASIDE, UNMAPPABLE, noise, set_limit};
use crate::support::process::{Log, Process, command, said};
use crate::support::{Bed, DEADLINE, pause};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::Write;
use std::time::Instant;
use tempfile::NamedTempFile;

const TENANTS: [&str; 5] = ["ant", "bee", "cat", "dog", "eel"];

/// Tenants whose users are published in one topic of three partitions.
struct ApplyBed {
    bed: Bed,
    /// The configuration of the publisher and of the workers.
    file: NamedTempFile,
}

impl ApplyBed {
    async fn start(broker: &Broker, name: &str) -> ApplyBed {
        let bed = Bed::start(&TENANTS).await;
        let file = bed.config_file(&section(broker, name, &format!("group: {name}")));
        ApplyBed { bed, file }
    }

    /// Inserts, updates and deletes users of every tenant, in one transaction.
    async fn change(&self, round: usize) {
        let sql = format!(
            "INSERT INTO auth.users (id, org, first_name, email, profile) \
               SELECT '{round}-' || n, org, 'Ada', n || '@' || org, jsonb_build_object('round', {round}, 'n', n) \
               FROM generate_series(1, 5) n, unnest(ARRAY['{}']) org; \
             UPDATE auth.users SET first_name = 'round {round}', updated_at = now() WHERE id LIKE '%-2'; \
             DELETE FROM auth.users WHERE id LIKE '%-3'",
            TENANTS.join("','")
        );
        self.bed.auth(&sql).await;
    }

    /// The tenants that follow, as the state says.
    async fn following(&self) -> i64 {
        let sql = "SELECT count(*) FROM users_sync.tenant WHERE state = 'following'";
        self.bed.query("auth", sql).await[0][0].as_deref().unwrap().parse().unwrap()
    }

    /// Waits until `users-sync status` says this. Returns its output.
    async fn status_says(&self, words: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let (shown, _) = said(&command(&["status", "-c", self.file.path().to_str().unwrap()]).await);
            if shown.contains(words) {
                return shown;
            }
            assert!(Instant::now() < deadline, "status does not say {words}: {shown}");
            pause().await;
        }
    }

    /// Waits until `users-sync status --json` is as `expected`.
    async fn status_becomes(&self, what: &str, expected: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let output = command(&["status", "--json", "-c", self.file.path().to_str().unwrap()]).await;
            let status: Value = serde_json::from_slice(&output.stdout).unwrap();
            if expected(&status) {
                return;
            }
            assert!(Instant::now() < deadline, "not so in time: {what}: {status:#}");
            pause().await;
        }
    }

    /// Waits until `status` names the processes of all partitions, this many, and nothing lacks.
    async fn workers_are_shown(&self, count: usize) {
        let are_shown = |status: &Value| {
            let partitions = status["partitions"].as_array().map(Vec::as_slice).unwrap_or_default();
            let workers: HashSet<&str> = partitions.iter().filter_map(|shown| shown["worker"].as_str()).collect();
            let is_whole = |shown: &Value| {
                (&shown["is_held"], &shown["lag_records"], &shown["lag_seconds"])
                    == (&json!(true), &json!(0), &json!(0.0))
                    || shown["tenants"] == json!(0)
            };
            let tenants: u64 = partitions.iter().filter_map(|shown| shown["tenants"].as_u64()).sum();
            let in_one = |tenant: &Value| partitions.iter().any(|shown| shown["partition"] == tenant["partition"]);
            partitions.len() == 3
                && workers.len() == count
                && partitions.iter().all(is_whole)
                && tenants == TENANTS.len() as u64
                && status["tenants"].as_array().unwrap().iter().all(in_one)
        };
        self.status_becomes(&format!("{count} workers have applied everything"), are_shown).await;
        let (shown, _) = said(&command(&["status", "-c", self.file.path().to_str().unwrap()]).await);
        assert!(shown.contains("RECORDS BEHIND") && shown.contains("TENANT  PARTITION"), "{shown}");
    }

    async fn all_follow(&self) {
        let deadline = Instant::now() + DEADLINE;
        while self.following().await < TENANTS.len() as i64 {
            assert!(Instant::now() < deadline, "{} follow", self.following().await);
            pause().await;
        }
    }
}

/// The section `kafka` of a test with topics of its own.
pub fn section(broker: &Broker, name: &str, more: &str) -> String {
    format!(
        "kafka: {{brokers: '{}', topic: {name}.users, positions_topic: {name}.positions, snapshots_topic: {name}.snapshots, \
         partition_by: tenant, partitions: 3, properties: {{session.timeout.ms: 6000}}, {more}}}",
        broker.address()
    )
}

fn rebuilds(log: &Log) -> usize {
    log.text().matches("rebuilding from the topic").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_are_filled_from_the_topic_and_follow_it() {
    let bed = ApplyBed::start(Broker::shared(), "filled").await;
    bed.change(0).await;
    let publisher = Process::start(&bed.file);
    // `status` reports that nothing writes to the targets.
    let shown = bed.status_says("no_worker").await;
    assert!(shown.contains("has applied a partition yet"), "{shown}");
    let (first, first_log) = Process::apply(&bed.file);
    let (second, second_log) = Process::apply(&bed.file);
    bed.bed.equal().await;
    bed.all_follow().await;
    bed.status_says("ok").await;
    bed.change(1).await;
    bed.bed.equal().await;
    bed.workers_are_shown(2).await;
    // What a killed process had is applied by the others.
    first.kill();
    bed.change(2).await;
    bed.bed.equal().await;
    bed.workers_are_shown(1).await;
    assert!(second.stop().await.success());
    bed.change(3).await;
    // Nothing writes it: it is behind, although the publisher has it.
    let behind = |status: &Value| {
        let partitions = status["partitions"].as_array().unwrap();
        let is_free = |partition: &Value| partition["is_held"] == json!(false);
        let lacks =
            |tenant: &Value| tenant["lag_bytes"].as_u64() > Some(0) && tenant["lag_seconds"].as_f64() > Some(0.0);
        partitions.iter().all(is_free) && status["tenants"].as_array().unwrap().iter().all(lacks)
    };
    bed.status_becomes("every tenant is behind", behind).await;
    let rebuilt = rebuilds(&first_log) + rebuilds(&second_log);
    let (third, third_log) = Process::apply(&bed.file);
    bed.bed.equal().await;
    bed.change(4).await;
    bed.bed.equal().await;
    assert!(rebuilt >= 1 && rebuilds(&third_log) == 0, "{rebuilt}");
    assert!(third.stop().await.success() && publisher.stop().await.success());
    let rows = bed.bed.query("auth", "SELECT count(*) FROM users_sync.source WHERE slot LIKE 'users_sync/%'").await;
    assert_eq!(rows[0][0].as_deref(), Some("3"), "a row fences each partition");
}

/// Nothing says which process of an installation starts first.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_start_before_the_publisher() {
    let broker = Broker::shared();
    let server = broker.address();
    let create = ["--bootstrap-server", &server, "--create", "--topic", "early.users", "--partitions", "3"];
    broker
        .tool("org.apache.kafka.tools.TopicCommand", &[&create[..], &["--config", "cleanup.policy=compact"]].concat())
        .await;
    let bed = ApplyBed::start(broker, "early").await;
    bed.change(0).await;
    let (worker, _log) = Process::apply(&bed.file);
    bed.bed.becomes("auth", "SELECT to_regclass('users_sync.source') IS NOT NULL", "t").await;
    bed.bed.becomes("auth", "SELECT count(*) FROM users_sync.source", "1").await;
    let (publisher, publisher_log) = Process::start_logged(&bed.file);
    bed.bed.equal().await;
    assert!(worker.stop().await.success() && publisher.stop().await.success());
    assert!(!publisher_log.text().contains("session on the source ended"), "{}", publisher_log.text());
}

/// A target that went back to an older point, one that is new, and one whose tenant was away while others went on.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_cannot_continue_is_rebuilt_from_the_topic() {
    let bed = ApplyBed::start(Broker::shared(), "rebuilt").await;
    bed.change(0).await;
    let (publisher, _publisher_log) = Process::start_logged(&bed.file);
    let (worker, log) = Process::apply(&bed.file);
    bed.bed.equal().await;
    bed.all_follow().await;
    bed.change(1).await;
    bed.bed.equal().await;
    assert!(worker.stop().await.success());
    bed.bed.server.sql("postgres", "CREATE DATABASE bee_before TEMPLATE bee").await.unwrap();
    let before = rebuilds(&log);
    let (worker, log) = Process::apply(&bed.file);
    bed.change(2).await;
    bed.bed.equal().await;
    assert!(worker.stop().await.success());
    assert!(before >= 1 && rebuilds(&log) == 0);
    let sql =
        ["DROP DATABASE bee", "ALTER DATABASE bee_before RENAME TO bee", "DROP DATABASE cat", "CREATE DATABASE cat"];
    for sql in sql {
        bed.bed.server.sql("postgres", sql).await.unwrap();
    }
    bed.change(3).await;
    let (worker, log) = Process::apply(&bed.file);
    bed.bed.equal().await;
    bed.change(4).await;
    bed.bed.equal().await;
    assert!(worker.stop().await.success() && publisher.stop().await.success());
    for reason in ["target_restored", "new_target"] {
        assert!(log.text().contains(&format!("reason_code=\"{reason}\"")), "{reason}");
    }
}

/// The same targets are written by `run` itself, then by `apply`, and by `run` again. Neither takes a snapshot: the state and the
/// checkpoints mean the same to both.
#[tokio::test(flavor = "multi_thread")]
async fn run_and_apply_take_targets_over_from_each_other() {
    let bed = ApplyBed::start(Broker::shared(), "takeover").await;
    let alone = bed.bed.config_file(&section(Broker::shared(), "takeover", ""));
    bed.change(0).await;
    let (run, _log) = Process::start_logged(&alone);
    bed.bed.equal().await;
    bed.all_follow().await;
    let sql = "SELECT coalesce((SELECT state FROM users_sync.tee), '')";
    bed.bed.becomes("auth", sql, "following").await;
    bed.change(1).await;
    bed.bed.equal().await;
    assert!(run.stop().await.success());
    bed.change(2).await;
    let (publisher, _publisher_log) = Process::start_logged(&bed.file);
    let (worker, log) = Process::apply(&bed.file);
    bed.bed.equal().await;
    bed.change(3).await;
    bed.bed.equal().await;
    assert!(worker.stop().await.success() && publisher.stop().await.success());
    assert_eq!(rebuilds(&log), 0);
    bed.change(4).await;
    let (run, log) = Process::start_logged(&alone);
    bed.bed.equal().await;
    bed.change(5).await;
    bed.bed.equal().await;
    assert!(run.stop().await.success());
    assert!(!log.text().contains("snapshot requested"));
}

/// The publisher publishes all users again, and the worker's offsets mean nothing in the new topic.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_deleted_is_published_and_applied_again() {
    let broker = Broker::shared();
    let bed = ApplyBed::start(broker, "deleted").await;
    bed.change(0).await;
    let (publisher, _publisher_log) = Process::start_logged(&bed.file);
    let (worker, log) = Process::apply(&bed.file);
    bed.bed.equal().await;
    bed.all_follow().await;
    for round in 1..20 {
        bed.change(round).await;
    }
    bed.bed.equal().await;
    let before = rebuilds(&log);
    let delete = ["--bootstrap-server", &broker.address(), "--delete", "--topic", "deleted.users"];
    broker.tool("org.apache.kafka.tools.TopicCommand", &delete).await;
    bed.change(20).await;
    bed.bed.equal().await;
    bed.change(21).await;
    bed.bed.equal().await;
    assert!(rebuilds(&log) > before, "{}", log.text());
    assert!(worker.stop().await.success() && publisher.stop().await.success());
}

/// Messages that another program wrote, and one whose value was damaged, are left out and reported; what follows is applied.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_cannot_be_read_are_left_out() {
    let broker = Broker::shared();
    let bed = ApplyBed::start(broker, "alien").await;
    bed.change(0).await;
    let (publisher, _publisher_log) = Process::start_logged(&bed.file);
    let (worker, log) = Process::apply(&bed.file);
    bed.bed.equal().await;
    let mut lines = NamedTempFile::new().unwrap();
    lines.write_all(b"{\"id\":\"x\"}\t{\"id\":\"secret-value\"}\nno key\tno value\n").unwrap();
    broker.produce(lines.path(), "alien.users").await;
    log.says("skipped a message that cannot be read").await;
    bed.change(1).await;
    bed.bed.equal().await;
    assert!(worker.stop().await.success() && publisher.stop().await.success());
    assert!(!log.text().contains("secret-value"));
}

/// A transaction that is published in several parts, of which the last has nothing for one of the tenants: no message of that tenant
/// says that its part is complete. Nothing follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_without_a_mark_is_applied_once_the_publisher_is_past_it() {
    let bed = ApplyBed::start(Broker::shared(), "unmarked").await;
    bed.change(0).await;
    let (publisher, _publisher_log) = Process::start_logged(&bed.file);
    let (worker, _log) = Process::apply(&bed.file);
    bed.bed.equal().await;
    // Tenants of different partitions.
    let sql = "BEGIN; UPDATE auth.users SET first_name = 'first', updated_at = now() WHERE org = 'bee' AND id = '0-1'; \
               INSERT INTO auth.users (id, org, last_name) SELECT 'large-' || n, 'ant', repeat('x', 1000) \
               FROM generate_series(1, 20000) n; COMMIT";
    bed.bed.auth(sql).await;
    bed.bed.equal().await;
    assert!(worker.stop().await.success() && publisher.stop().await.success());
}

/// A worker whose file lacks a tenant reads past the tenant's changes: the tenant is rebuilt when a file has it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_a_worker_did_not_know_misses_nothing() {
    let bed = ApplyBed::start(Broker::shared(), "unknown").await;
    bed.change(0).await;
    let (publisher, _publisher_log) = Process::start_logged(&bed.file);
    let (worker, _log) = Process::apply(&bed.file);
    bed.bed.equal().await;
    bed.all_follow().await;
    assert!(worker.stop().await.success());
    let whole = std::fs::read_to_string(bed.file.path()).unwrap();
    let lines: Vec<&str> = whole.lines().filter(|line| !line.contains("id: cat,")).collect();
    let fewer = NamedTempFile::new().unwrap();
    std::fs::write(fewer.path(), lines.join("\n")).unwrap();
    let (worker, _log) = Process::apply(&fewer);
    bed.change(1).await;
    let sql = "SELECT string_agg(DISTINCT coalesce(reason_code, ''), ',') FROM users_sync.tenant WHERE tenant = 'cat'";
    bed.bed.becomes("auth", sql, "not_configured").await;
    let others = "SELECT count(DISTINCT state) || min(state) FROM users_sync.tenant WHERE tenant <> 'cat'";
    bed.bed.becomes("auth", others, "1following").await;
    let ant = bed.bed.expected("ant").await;
    let deadline = Instant::now() + DEADLINE;
    while bed.bed.held("ant").await != ant {
        assert!(Instant::now() < deadline, "ant does not get its changes");
        pause().await;
    }
    assert!(worker.stop().await.success());
    let (worker, log) = Process::apply(&bed.file);
    bed.bed.equal().await;
    assert!(worker.stop().await.success() && publisher.stop().await.success());
    assert_eq!(rebuilds(&log), 1);
}

/// Users whose message is too large or whose row cannot be mapped are not in the topic, or only with an older message. A rebuild does
/// not take them for deleted. They follow once they are published.
#[tokio::test(flavor = "multi_thread")]
async fn users_that_the_publisher_leaves_out_are_not_gone() {
    let broker = Broker::shared();
    let bed = ApplyBed::start(broker, "leftout").await;
    let text = std::fs::read_to_string(bed.file.path()).unwrap();
    let gone = "deleted_at: {column: gone, unit: rfc3339}";
    std::fs::write(bed.file.path(), text.replace("deleted_at: deleted_at", gone)).unwrap();
    bed.bed
        .auth(
            "ALTER TABLE auth.users ADD gone text; \
             INSERT INTO auth.users (id, org) VALUES ('big', 'ant'), ('odd', 'ant'), ('stays', 'ant')",
        )
        .await;
    let publisher = Process::start(&bed.file);
    let (worker, log) = Process::apply(&bed.file);
    let live = "SELECT string_agg(id || coalesce(name, ''), ' ' ORDER BY id) FROM neon_auth.users_sync WHERE deleted_at IS NULL";
    bed.bed.state_is("ant", "following").await;
    bed.bed.becomes("ant", live, "big odd stays").await;
    bed.bed
        .auth(&format!(
            "UPDATE auth.users SET first_name = 'B', profile = {}, updated_at = now() WHERE id = 'big'; \
             UPDATE auth.users SET first_name = 'O', gone = 'yesterday', updated_at = now() WHERE id = 'odd'; \
             INSERT INTO auth.users (id, org, gone) VALUES ('never', 'ant', '?')",
            noise(1_500_000)
        ))
        .await;
    bed.bed.becomes("auth", ASIDE, "ant:big").await;
    bed.bed.becomes("auth", UNMAPPABLE, "ant:never ant:odd").await;
    let shown = bed.status_says("kafka_left_out").await;
    assert!(shown.contains("leaves out 3 users"), "{shown}");
    let before = rebuilds(&log);
    let path = bed.file.path().to_str().unwrap();
    let (text, code) = said(&command(&["resync", "-c", path, "ant"]).await);
    assert!(code == Some(0) && rebuilds(&log) > before, "{text}");
    bed.bed.becomes("ant", live, "big odd stays").await;
    let rejected = "SELECT coalesce(string_agg(id, ' ' ORDER BY id), '') FROM users_sync.rejected";
    bed.bed.becomes("ant", rejected, "big never odd").await;
    let why = "SELECT reason FROM users_sync.rejected WHERE id = 'big'";
    let reason = bed.bed.query("ant", why).await[0][0].clone().unwrap();
    assert!(reason.contains("is larger than Kafka takes"), "{reason}");
    // The publisher has them again.
    set_limit(broker, "leftout.users", 10_000_000).await;
    bed.bed
        .auth(
            "UPDATE auth.users SET gone = NULL, updated_at = now() WHERE id = 'odd'; \
             DELETE FROM auth.users WHERE id = 'never'",
        )
        .await;
    bed.bed.becomes("ant", live, "bigB oddO stays").await;
    bed.bed.becomes("ant", rejected, "").await;
    bed.bed.becomes("auth", UNMAPPABLE, "").await;
    let deadline = Instant::now() + DEADLINE;
    while bed.status_says("verdict").await.contains("kafka_left_out") {
        assert!(Instant::now() < deadline, "users are still left out");
        pause().await;
    }
    assert!(worker.stop().await.success() && publisher.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_group_nothing_is_applied() {
    let broker = Broker::shared();
    let bed = Bed::start(&["ant"]).await;
    let file = bed.config_file(&section(broker, "ungrouped", ""));
    let (shown, code) = said(&command(&["apply", "-c", file.path().to_str().unwrap()]).await);
    assert!(
        code == Some(1) && shown.contains("kafka.group is not set") && shown.contains("set kafka.group;"),
        "{shown}"
    );
}
