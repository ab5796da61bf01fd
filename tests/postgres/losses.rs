//! Every fault of the source: the log says what happened, tenants are resynced if needed, and the process
//! continues without a restart.

use crate::support::process::{Log, Process, config_file};
use crate::support::{Bed, DEADLINE, pause};
use rustix::process::Signal;
use std::process::Command;
use std::time::Instant;
use tempfile::{NamedTempFile, TempDir};
use users_sync::throwaway::Options;

/// A source and its targets on separate servers, with a process between them.
struct Scene {
    source: Bed,
    targets: Bed,
    process: Option<Process>,
    log: Log,
    _config: NamedTempFile,
}

const SOME: &str = "INSERT INTO auth.users (id, org, first_name, updated_at)
                    SELECT 'u' || n, 'acme', 'Ann', now() FROM generate_series(1, 20) n";

impl Scene {
    async fn start(options: Options, more: &str) -> Scene {
        let (source, targets) = (Bed::start_with(&[], options).await, Bed::start(&["acme", "state"]).await);
        source.auth(SOME).await;
        let more = more.replace("STATE", &targets.server.url("state"));
        let config = config_file(&source.server.url("auth"), &[("acme".into(), targets.server.url("acme"))], &more);
        let (process, log) = Process::start_logged(&config);
        let scene = Scene { source, targets, process: Some(process), log, _config: config };
        scene.equal().await;
        scene
    }

    /// Waits until the target equals the source.
    #[track_caller]
    fn equal(&self) -> impl Future<Output = ()> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + DEADLINE;
            loop {
                let (expected, held) = (self.source.expected("acme").await, self.targets.held("acme").await);
                if expected == held {
                    return;
                }
                let log = || self.log.text();
                assert!(Instant::now() < deadline, "{caller}: {expected:?}\nbut {held:?}\n{}", log());
                pause().await;
            }
        }
    }

    async fn change(&self, name: &str) {
        self.source.auth(&format!("UPDATE auth.users SET first_name = '{name}', updated_at = now()")).await;
    }

    async fn ends_well(mut self) {
        self.change("Zed").await;
        self.equal().await;
        let mut process = self.process.take().unwrap();
        assert!(process.is_running(), "{}", self.log.text());
        assert!(process.stop().await.success());
    }

    /// Stops the source, changes its files, and starts it again.
    async fn while_the_source_is_down(&mut self, at: impl FnOnce(&std::path::Path)) {
        self.source.server.stop().await.unwrap();
        at(&self.source.server.data_dir());
        self.source.server.restart().await.unwrap();
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Replaces the directory's content by the copy.
fn put_back(copied: &TempDir, data: &std::path::Path) {
    std::fs::remove_dir_all(data).unwrap();
    copy(&copied.path().join("data"), data);
}

/// Drops the slot as soon as it is free.
async fn drop_slot(bed: &Bed, then: &str) {
    bed.auth(&format!(
        "DO $$ BEGIN LOOP
           PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'users_sync';
           BEGIN
             PERFORM pg_drop_replication_slot('users_sync');
             EXIT;
           EXCEPTION WHEN object_in_use THEN NULL;
           END;
         END LOOP; END $$; UPDATE auth.users SET first_name = 'Unseen'; {then}"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_slot_is_recreated_with_a_resync() {
    let scene = Scene::start(Options::new(), "").await;
    drop_slot(&scene.source, "").await;
    scene.equal().await;
    scene.log.says("creating a new slot: resyncing every tenant").await;
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_recreated_by_another_session_leads_to_a_resync() {
    let scene = Scene::start(Options::new(), "").await;
    // In one session, so that no process can create one in between.
    let client = scene.source.server.connect("auth").await.unwrap();
    client
        .batch_execute(
            "CREATE PROCEDURE auth.swap() LANGUAGE plpgsql AS $$ BEGIN LOOP
               PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'users_sync';
               BEGIN
                 PERFORM pg_drop_replication_slot('users_sync');
                 EXIT;
               EXCEPTION WHEN object_in_use THEN NULL;
               END;
             END LOOP;
             PERFORM pg_create_logical_replication_slot('users_sync', 'pgoutput'); END $$",
        )
        .await
        .unwrap();
    client.batch_execute("CALL auth.swap()").await.unwrap();
    scene.log.says("another client moved the slot forward").await;
    scene.equal().await;
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_removed_from_the_publication_is_put_back_with_a_resync() {
    let scene = Scene::start(Options::new(), "").await;
    scene.source.auth("ALTER PUBLICATION users_sync DROP TABLE auth.users").await;
    scene.change("Unseen").await;
    scene.log.says("table was removed from the publication: added it again").await;
    scene.equal().await;
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_publication_is_recreated_with_a_resync() {
    let scene = Scene::start(Options::new(), "").await;
    scene.source.auth("DROP PUBLICATION users_sync").await;
    scene.change("Unseen").await;
    scene.log.says("is older than its publication").await;
    scene.equal().await;
    scene.ends_well().await;
}

/// A change between these two statements is not sent: once while the process runs, once while it does not. The log
/// contains these words each time.
async fn is_unpublished_for_a_moment([before, after]: [&str; 2], words: &str) {
    let mut scene = Scene::start(Options::new(), "").await;
    let source = scene.source.server.connect("auth").await.unwrap();
    let unseen = async |name: &str| {
        let change = format!("UPDATE auth.users SET first_name = '{name}', updated_at = now()");
        for statement in [before, &change, after] {
            source.batch_execute(statement).await.unwrap();
        }
    };
    unseen("Unseen").await;
    scene.log.says(words).await;
    scene.equal().await;
    scene.process.take().unwrap().kill();
    unseen("Unseen again").await;
    let (process, log) = Process::start_logged(&scene._config);
    (scene.process, scene.log) = (Some(process), log);
    scene.log.says(words).await;
    scene.equal().await;
    scene.ends_well().await;
}

/// Only the catalog's rows tell: the table is in the publication at every check.
#[tokio::test(flavor = "multi_thread")]
async fn an_altered_and_restored_publication_resyncs_every_tenant() {
    let statements =
        ["ALTER PUBLICATION users_sync DROP TABLE auth.users", "ALTER PUBLICATION users_sync ADD TABLE auth.users"];
    let words = "its publication was altered: changes made in the meantime may not have been sent";
    is_unpublished_for_a_moment(statements, words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_publication_resyncs_every_tenant() {
    let statements = [
        "DROP PUBLICATION users_sync",
        "CREATE PUBLICATION users_sync FOR TABLE auth.users WITH (publish_via_partition_root = true)",
    ];
    is_unpublished_for_a_moment(statements, "is older than its publication").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_replica_identity_is_reported_and_resynced() {
    let scene = Scene::start(Options::new(), "").await;
    scene
        .source
        .auth("CREATE UNIQUE INDEX by_id ON auth.users (id); ALTER TABLE auth.users REPLICA IDENTITY USING INDEX by_id")
        .await;
    scene.source.auth("DELETE FROM auth.users WHERE id = 'u1'").await;
    scene.log.says("cannot attribute a delete, the replica identity lacks columns: resyncing every tenant").await;
    scene.equal().await;
    scene.source.auth("ALTER TABLE auth.users REPLICA IDENTITY DEFAULT").await;
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_restored_to_an_older_point_leads_to_a_resync() {
    let mut scene = Scene::start(Options::new(), "limits: {max_deletes: 100%}").await;
    let copied = tempfile::tempdir().unwrap();
    scene.while_the_source_is_down(|data| copy(data, copied.path())).await;
    scene
        .source
        .auth("INSERT INTO auth.users (id, org) SELECT 'later' || n, 'acme' FROM generate_series(1, 50) n")
        .await;
    scene.change("Later").await;
    scene.equal().await;
    scene.while_the_source_is_down(|data| put_back(&copied, data)).await;
    scene.source.auth("INSERT INTO auth.users (id, org) VALUES ('instead', 'acme')").await;
    scene.equal().await;
    scene.log.says("went back to an older point").await;
    scene.ends_well().await;
}

/// Grown past the position that was recorded, the log looks like a continuation.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_restored_and_grew_past_the_recorded_position_leads_to_a_resync() {
    let mut scene = Scene::start(Options::new(), "state: {url: 'STATE'}").await;
    let copied = tempfile::tempdir().unwrap();
    scene.while_the_source_is_down(|data| copy(data, copied.path())).await;
    scene.change("Later").await;
    scene.source.auth("INSERT INTO auth.users (id, org) VALUES ('lost', 'acme')").await;
    scene.equal().await;
    assert!(scene.process.take().unwrap().stop().await.success());
    scene.while_the_source_is_down(|data| put_back(&copied, data)).await;
    scene.source.auth("CREATE TABLE auth.noise AS SELECT repeat('x', 500) FROM generate_series(1, 5000)").await;
    scene.source.auth("INSERT INTO auth.users (id, org, updated_at) VALUES ('instead', 'acme', now())").await;
    let (process, log) = Process::start_logged(&scene._config);
    (scene.process, scene.log) = (Some(process), log);
    scene.equal().await;
    scene.log.says("the source was restored to an older point").await;
    scene.ends_well().await;
}

/// The state went back with the source, so only the process knows better.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_remembers_the_history_that_its_state_has_lost() {
    let mut scene = Scene::start(Options::new(), "").await;
    let copied = tempfile::tempdir().unwrap();
    scene.while_the_source_is_down(|data| copy(data, copied.path())).await;
    scene.change("Later").await;
    scene.source.auth("INSERT INTO auth.users (id, org) VALUES ('lost', 'acme')").await;
    scene.equal().await;
    // Stopped before the process: the source waits for a walsender whose client does not read.
    scene.source.server.stop().await.unwrap();
    scene.process.as_ref().unwrap().signal(Signal::STOP);
    put_back(&copied, &scene.source.server.data_dir());
    scene.source.server.restart().await.unwrap();
    scene.source.auth("CREATE TABLE auth.noise AS SELECT repeat('x', 500) FROM generate_series(1, 5000)").await;
    scene.source.auth("INSERT INTO auth.users (id, org, updated_at) VALUES ('instead', 'acme', now())").await;
    scene.process.as_ref().unwrap().signal(Signal::CONT);
    scene.equal().await;
    scene.ends_well().await;
}

/// Each delete without a user would interrupt the resync that the one before caused.
#[tokio::test(flavor = "multi_thread")]
async fn deletes_without_a_user_end_the_session_until_the_identity_is_back() {
    let mut scene = Scene::start(Options::new(), "").await;
    let lose =
        "CREATE UNIQUE INDEX by_id ON auth.users (id); ALTER TABLE auth.users REPLICA IDENTITY USING INDEX by_id";
    scene.source.auth(lose).await;
    for n in 1..=5 {
        scene.source.auth(&format!("DELETE FROM auth.users WHERE id = 'u{n}'")).await;
        if n <= 3 {
            scene.equal().await;
        }
    }
    scene.log.says("the replica identity of auth.users lacks org, so deleted and moved users could not be found").await;
    assert!(scene.process.as_mut().unwrap().is_running());
    scene.source.auth("ALTER TABLE auth.users REPLICA IDENTITY DEFAULT").await;
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_restored_without_its_state_leads_to_a_resync() {
    let mut scene = Scene::start(Options::new(), "state: {url: 'STATE'}").await;
    let copied = tempfile::tempdir().unwrap();
    scene.while_the_source_is_down(|data| copy(data, copied.path())).await;
    scene.change("Later").await;
    scene.equal().await;
    scene.while_the_source_is_down(|data| put_back(&copied, data)).await;
    scene.equal().await;
    scene.log.says("starting over: full snapshot of every tenant").await;
    scene.ends_well().await;
}

/// A standby without the slot is promoted in place of the source.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_without_the_slot_leads_to_a_resync() {
    let mut scene = Scene::start(Options::new(), "").await;
    let copied = tempfile::tempdir().unwrap();
    scene.while_the_source_is_down(|data| copy(data, copied.path())).await;
    scene.equal().await;
    promote(&mut scene, &copied, true).await;
    scene.log.says("no longer exists").await;
    scene.ends_well().await;
}

/// A standby with the slot but without the last transactions is promoted.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_without_the_last_transactions_leads_to_a_resync() {
    let mut scene = Scene::start(Options::new(), "").await;
    let copied = tempfile::tempdir().unwrap();
    scene.while_the_source_is_down(|data| copy(data, copied.path())).await;
    scene.change("Lost").await;
    scene.equal().await;
    promote(&mut scene, &copied, false).await;
    scene.log.says("its timeline changed").await;
    scene.ends_well().await;
}

async fn promote(scene: &mut Scene, copied: &TempDir, without_slot: bool) {
    scene
        .while_the_source_is_down(|data| {
            put_back(copied, data);
            std::fs::write(data.join("standby.signal"), "").unwrap();
            if without_slot {
                std::fs::remove_dir_all(data.join("pg_replslot/users_sync")).unwrap();
            }
        })
        .await;
    scene.source.server.sql("postgres", "SELECT pg_promote()").await.unwrap();
    scene.source.becomes("postgres", "SELECT pg_is_in_recovery()", "f").await;
    scene.source.auth("INSERT INTO auth.users (id, org) VALUES ('promoted', 'acme')").await;
    scene.equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_source_server_resyncs_every_tenant() {
    let mut scene = Scene::start(Options::new(), "state: {url: 'STATE'}\nlimits: {max_deletes: 100%}").await;
    let port = scene.source.server.port();
    scene.source.server.stop().await.unwrap();
    scene.source = Bed::start_with(&[], Options::new().port(port)).await;
    scene.source.auth("INSERT INTO auth.users (id, org) SELECT 'n' || n, 'acme' FROM generate_series(1, 30) n").await;
    scene.equal().await;
    scene.log.says("starting over: full snapshot of every tenant").await;
    scene.ends_well().await;
}

/// As in a restore, where roles and databases arrive after the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_refuses_logins_for_a_while_is_retried() {
    let mut scene = Scene::start(Options::new(), "").await;
    let mut rules = String::new();
    scene
        .while_the_source_is_down(|data| {
            rules = std::fs::read_to_string(data.join("pg_hba.conf")).unwrap();
            std::fs::write(data.join("pg_hba.conf"), format!("host auth all all reject\n{rules}")).unwrap();
        })
        .await;
    scene.log.says("replication has stopped until this is fixed").await;
    scene.while_the_source_is_down(|data| std::fs::write(data.join("pg_hba.conf"), &rules).unwrap()).await;
    scene.ends_well().await;
}

/// While the process runs, `limits.source_wal` bounds what the slot holds back, whatever the targets do.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_process_holds_back_no_more_than_it_may() {
    use crate::support::proxy::TcpProxy;
    use std::net::{Ipv4Addr, SocketAddr};
    let bed = Bed::start(&["acme", "globex"]).await;
    let proxy = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()))).await.unwrap();
    let through = bed.server.url("acme").replace(&format!(":{}/", bed.server.port()), &format!(":{}/", proxy.port()));
    let targets = [("acme".into(), through), ("globex".into(), bed.server.url("globex"))];
    let config = config_file(&bed.server.url("auth"), &targets, "limits: {source_wal: 4MB, park_after: 1h}");
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('u1', 'acme'), ('g1', 'globex')").await;
    let (process, log) = Process::start_logged(&config);
    bed.equal().await;
    proxy.freeze(true);
    bed.auth("UPDATE auth.users SET email = 'waits', updated_at = now()").await;
    bed.auth("CREATE TABLE auth.noise AS SELECT repeat('x', 500) FROM generate_series(1, 60000)").await;
    // Some 30 MB later.
    let held_back = "SELECT pg_current_wal_lsn() - confirmed_flush_lsn < 4 << 20 FROM pg_replication_slots";
    bed.becomes("auth", held_back, "t").await;
    bed.state_is("acme", "parked").await;
    log.says("it retained more of the source's WAL than limits.source_wal").await;
    proxy.freeze(false);
    proxy.cut();
    bed.equal().await;
    bed.state_is("acme", "following").await;
    assert!(process.stop().await.success());
}

/// While the process does not run, `max_slot_wal_keep_size` is the bound; the loss leads to a resync.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_invalidated_while_unread_is_recreated_with_a_resync() {
    let options =
        Options::new().set("max_slot_wal_keep_size", "16MB").set("min_wal_size", "32MB").set("max_wal_size", "48MB");
    let mut scene = Scene::start(options, "").await;
    let process = scene.process.take().unwrap();
    process.kill();
    scene.change("Unseen").await;
    for _ in 0..4 {
        scene.source.auth("CREATE TABLE auth.noise AS SELECT repeat('x', 500) FROM generate_series(1, 60000)").await;
        scene.source.auth("DROP TABLE auth.noise; SELECT pg_switch_wal(); CHECKPOINT").await;
    }
    scene.source.becomes("auth", "SELECT wal_status FROM pg_replication_slots", "lost").await;
    let (process, log) = Process::start_logged(&scene._config);
    (scene.process, scene.log) = (Some(process), log);
    scene.equal().await;
    scene.log.says("was invalidated: the WAL it needs was removed").await;
    scene.ends_well().await;
}
