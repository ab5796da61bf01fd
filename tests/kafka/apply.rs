//! `users-sync apply`: targets are filled from the users' topic and follow it, by processes of one consumer group.

use crate::broker::Broker;
use crate::support::process::{Log, Process, command, said};
use crate::support::{Bed, DEADLINE, pause};
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
    // What a killed process had is applied by the others.
    first.kill();
    bed.change(2).await;
    bed.bed.equal().await;
    assert!(second.stop().await.success());
    bed.change(3).await;
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
