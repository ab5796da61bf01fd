//! The sign-up race is closed: an application waits in its own database for the user it has just signed up, or listens.

use crate::support::process::Process;
use crate::support::{Bed, DEADLINE, Service};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls};
use users_sync::model::Deletes;
use users_sync::throwaway::Options;

const TODOS: &str = "CREATE TABLE todos (id serial PRIMARY KEY, task text NOT NULL,
                       user_id text NOT NULL REFERENCES neon_auth.users_sync(id))";
/// The number of sessions that sleep in the function.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%wait_for(%'";

async fn following(notify: bool) -> (Bed, Service) {
    following_on(Bed::start(&["acme"]).await, notify).await
}

async fn following_on(bed: Bed, notify: bool) -> (Bed, Service) {
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme')").await;
    let mut config = bed.config();
    config.notify = notify;
    let service = Service::start(config);
    bed.equal().await;
    (bed, service)
}

async fn waits(client: &Client, id: &str, how_long: &str) -> Result<bool, tokio_postgres::Error> {
    let sql = "SELECT users_sync.wait_for($1, $2::text::interval)";
    client.query_one(sql, &[&id, &how_long]).await.map(|row| row.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_for_returns_once_the_user_has_arrived() {
    let (bed, service) = following(false).await;
    bed.server.sql("acme", TODOS).await.unwrap();
    let client = bed.server.connect("acme").await.unwrap();
    let waiting = tokio::spawn(async move {
        // In one transaction: the user is committed after the transaction's start.
        client.batch_execute("BEGIN; SELECT count(*) FROM neon_auth.users_sync").await.unwrap();
        let came = waits(&client, "bob", "60s").await.unwrap();
        client.batch_execute("INSERT INTO todos (task, user_id) VALUES ('say hello', 'bob'); COMMIT").await.unwrap();
        came
    });
    bed.becomes("acme", WAITING, "1").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('bob', 'acme')").await;
    assert!(waiting.await.unwrap());
    // One statement is enough: the reference is checked at its end.
    let client = bed.server.connect("acme").await.unwrap();
    let at_once = "INSERT INTO todos (task, user_id) SELECT 'eat', 'cem' WHERE users_sync.wait_for('cem')";
    let inserting = tokio::spawn(async move { client.execute(at_once, &[]).await.unwrap() });
    bed.becomes("acme", WAITING, "1").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('cem', 'acme')").await;
    assert_eq!(inserting.await.unwrap(), 1);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_for_returns_false_after_its_timeout() {
    let (bed, service) = following(false).await;
    let client = bed.server.connect("acme").await.unwrap();
    let begun = Instant::now();
    assert!(!waits(&client, "unlisted", "200ms").await.unwrap());
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(200), "it ended before its timeout: {took:?}");
    // A null or negative timeout checks once; the default is five seconds.
    let looks = "SELECT users_sync.wait_for('unlisted', NULL), users_sync.wait_for('unlisted', '-1 day'),
                        users_sync.wait_for('unlisted', '0'), users_sync.wait_for(NULL),
                        users_sync.wait_for('ann', NULL), users_sync.wait_for('ann', '-1 day'),
                        pg_get_function_arguments('users_sync.wait_for(text, interval)'::regprocedure)";
    let answers = &bed.query("acme", looks).await[0];
    let answers: Vec<_> = answers.iter().map(|answer| answer.as_deref().unwrap()).collect();
    assert_eq!(answers[..6], ["f", "f", "f", "f", "t", "t"]);
    assert!(answers[6].contains("timeout interval DEFAULT '00:00:05'"), "{}", answers[6]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_deleted_user_ends_with_false() {
    for deletes in [Deletes::Soft, Deletes::Hard] {
        let bed = Bed::start(&["acme"]).await;
        bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme'), ('bob', 'acme')").await;
        let service = Service::start(users_sync::config::Config { deletes, ..bed.config() });
        bed.equal().await;
        bed.auth("DELETE FROM auth.users WHERE id = 'ann'").await;
        bed.equal().await;
        let client = bed.server.connect("acme").await.unwrap();
        assert!(!waits(&client, "ann", "50ms").await.unwrap(), "{deletes:?}");
        // A user who signs up again is present again.
        bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme')").await;
        assert!(waits(&client, "ann", "60s").await.unwrap(), "{deletes:?}");
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_under_repeatable_read_is_an_error() {
    let (bed, service) = following(false).await;
    let client = bed.server.connect("acme").await.unwrap();
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}")).await.unwrap();
        assert!(waits(&client, "ann", "60s").await.unwrap(), "who is there is there");
        assert!(!waits(&client, "bob", "0").await.unwrap(), "one look is no waiting");
        let error = waits(&client, "bob", "60s").await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "25000");
        assert!(error.message().contains(&level.to_lowercase()), "{error:?}");
        assert!(error.hint().unwrap().contains("READ COMMITTED"), "{error:?}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_wait_each_for_its_own_user() {
    const MANY: usize = 60;
    let (bed, service) = following(false).await;
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..MANY {
        let client = bed.server.connect("acme").await.unwrap();
        waiting.spawn(async move { waits(&client, &format!("w{n}"), "60s").await.unwrap() });
    }
    bed.becomes("acme", WAITING, &MANY.to_string()).await;
    let auth = bed.server.connect("auth").await.unwrap();
    for n in 0..MANY {
        let sign_up = format!("INSERT INTO auth.users (id, org) VALUES ('w{n}', 'acme')");
        auth.batch_execute(&sign_up).await.unwrap();
    }
    assert!(waiting.join_all().await.into_iter().all(|came| came));
    service.stop().await;
}

/// Prints the latencies with `cargo test --test postgres how_long -- --nocapture`; docs/USING.md quotes them.
#[tokio::test(flavor = "multi_thread")]
async fn how_long_after_the_commit_a_waiting_application_continues() {
    const SIGN_UPS: usize = 300;
    let bed = Bed::start_with(&["acme"], Options::new().measured()).await;
    let (bed, service) = following_on(bed, false).await;
    let auth = bed.server.connect("auth").await.unwrap();
    let target = bed.server.connect("acme").await.unwrap();
    let insert = auth.prepare("INSERT INTO auth.users (id, org) VALUES ($1, 'acme')").await.unwrap();
    let wait = target.prepare("SELECT users_sync.wait_for($1)").await.unwrap();
    let mut late = Vec::new();
    for n in 0..SIGN_UPS {
        let id = format!("s{n}");
        auth.execute(&insert, &[&id]).await.unwrap();
        let committed = Instant::now();
        assert!(target.query_one(&wait, &[&id]).await.unwrap().get::<_, bool>(0), "{id} did not come");
        late.push(committed.elapsed());
    }
    late.sort();
    let [p50, p99] = [50, 99].map(|percent| late[SIGN_UPS * percent / 100]);
    println!("wait_for returned p50 {p50:?}, p99 {p99:?} after the source's commit, in {SIGN_UPS} sign-ups");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_for_is_created_if_missing_and_replaced_if_altered() {
    let (bed, service) = following(false).await;
    service.stop().await;
    let made = "SELECT xmin || ' ' || left(prosrc, 9) FROM pg_proc WHERE proname = 'wait_for'";
    let before = bed.query("acme", made).await;
    let service = Service::start(bed.config());
    bed.auth("UPDATE auth.users SET first_name = 'Ann', updated_at = now()").await;
    bed.equal().await;
    service.stop().await;
    assert_eq!(bed.query("acme", made).await, before, "one look, no write");
    let old = "CREATE OR REPLACE FUNCTION users_sync.wait_for(user_id text, timeout interval DEFAULT '5s')
               RETURNS boolean LANGUAGE sql AS 'SELECT false'";
    for spoilt in [old, "DROP FUNCTION users_sync.wait_for"] {
        bed.server.sql("acme", spoilt).await.unwrap();
        let service = Service::start(bed.config());
        bed.auth("UPDATE auth.users SET first_name = first_name || '!', updated_at = now()").await;
        bed.equal().await;
        assert_eq!(bed.query("acme", "SELECT users_sync.wait_for('ann')").await[0][0].as_deref(), Some("t"));
        service.stop().await;
    }
}

/// The role may write rows but not create the function. Users arrive, and the log has the remedy.
#[tokio::test(flavor = "multi_thread")]
async fn users_arrive_although_wait_for_cannot_be_created() {
    let (bed, service) = following(false).await;
    service.stop().await;
    bed.server
        .sql(
            "acme",
            "DROP FUNCTION users_sync.wait_for; CREATE ROLE writer LOGIN;
             GRANT USAGE ON SCHEMA users_sync, neon_auth TO writer;
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA users_sync, neon_auth TO writer",
        )
        .await
        .unwrap();
    let targets = [("acme".to_owned(), bed.server.url_for("writer", "acme"))];
    let config = crate::support::process::config_file(&bed.server.url("auth"), &targets, "");
    let (process, log) = Process::start_logged(&config);
    bed.auth("UPDATE auth.users SET first_name = 'Ann', updated_at = now()").await;
    bed.equal().await;
    log.says("could not create users_sync.wait_for in the target").await;
    log.says("GRANT CREATE ON SCHEMA users_sync").await;
    bed.server.sql("acme", "GRANT CREATE ON SCHEMA users_sync TO writer").await.unwrap();
    assert!(process.stop().await.success());
    // The target is opened for a change.
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now()").await;
    let process = Process::start(&config);
    bed.becomes("acme", "SELECT count(*) FROM pg_proc WHERE proname = 'wait_for'", "1").await;
    assert!(process.stop().await.success());
}

/// A session that listens, as an application's does.
struct Listener {
    client: Client,
    heard: mpsc::UnboundedReceiver<String>,
}

impl Listener {
    async fn start(bed: &Bed) -> Listener {
        let (client, mut connection) = tokio_postgres::connect(&bed.server.url("acme"), NoTls).await.unwrap();
        let (sender, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message {
                    drop(sender.send(notification.payload().to_owned()));
                }
            }
        });
        client.batch_execute("LISTEN users_sync").await.unwrap();
        Listener { client, heard }
    }

    /// All notifications so far: the queue is in commit order.
    async fn heard(&mut self) -> Vec<String> {
        self.client.batch_execute("NOTIFY users_sync, 'until now'").await.unwrap();
        let mut heard = Vec::new();
        loop {
            let next = tokio::time::timeout(DEADLINE, self.heard.recv()).await.unwrap().unwrap();
            if next == "until now" {
                return heard;
            }
            heard.push(next);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_receive_exactly_the_written_ids() {
    let (bed, service) = following(true).await;
    let mut listener = Listener::start(&bed).await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('bob', 'acme'), ('cem', 'acme'), ('far', 'away')").await;
    bed.equal().await;
    assert_eq!(listener.heard().await.into_iter().collect::<BTreeSet<_>>(), ["bob", "cem"].map(String::from).into());
    bed.auth("UPDATE auth.users SET first_name = 'Bob', updated_at = now() WHERE id = 'bob'").await;
    bed.equal().await;
    assert_eq!(listener.heard().await, ["bob"]);
    // No notification for a change that writes nothing: a secret changes, and then another user is written.
    bed.auth("UPDATE auth.users SET encrypted_password = 'x' WHERE id = 'bob'").await;
    bed.auth("DELETE FROM auth.users WHERE id = 'cem'").await;
    bed.equal().await;
    assert_eq!(listener.heard().await, ["cem"]);
    // Only a part of the row: the large profile is not sent again.
    bed.auth("ALTER TABLE auth.users ALTER profile SET STORAGE EXTERNAL; UPDATE auth.users SET updated_at = now(), profile = jsonb_build_object('text', repeat('x', 9000)) WHERE id = 'ann'").await;
    bed.equal().await;
    assert!(listener.heard().await.iter().all(|id| id == "ann" || id.is_empty()));
    bed.auth("UPDATE auth.users SET first_name = 'Anna', updated_at = now() WHERE id = 'ann'").await;
    bed.equal().await;
    assert_eq!(listener.heard().await, ["ann"]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_very_large_batch_sends_one_empty_notification() {
    let (bed, service) = following(true).await;
    let mut listener = Listener::start(&bed).await;
    bed.auth(
        "INSERT INTO auth.users (id, org, updated_at) SELECT 'm' || n, 'acme', now() FROM generate_series(1, 30000) n",
    )
    .await;
    bed.equal().await;
    let heard = listener.heard().await;
    assert!(heard.contains(&String::new()) && heard.len() <= 10_001, "{} notifications", heard.len());
    const NIL: &str = "00000000-0000-0000-0000-000000000000";
    // A resync names no user, and is silent if it changes nothing.
    service.stop().await;
    for (spoilt, expected) in [("", vec![]), ("UPDATE neon_auth.users_sync SET name = 'x' WHERE id = 'm7'", vec![""])] {
        bed.server
            .sql("acme", &format!("UPDATE users_sync.checkpoint SET target_id = '{NIL}', epoch = 0; {spoilt}"))
            .await
            .unwrap();
        // A sleeping target is opened for a request.
        bed.auth("INSERT INTO users_sync.request (slot, tenant, allow_deletes) VALUES ('users_sync', 'acme', false)")
            .await;
        let service = Service::start(users_sync::config::Config { notify: true, ..bed.config() });
        bed.becomes("acme", &format!("SELECT target_id <> '{NIL}' FROM users_sync.checkpoint"), "t").await;
        bed.equal().await;
        assert_eq!(listener.heard().await, expected, "{spoilt}");
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_is_not_announced_but_the_others_are() {
    let (bed, service) = following(true).await;
    bed.server
        .sql("acme", "ALTER TABLE neon_auth.users_sync ADD CHECK (raw_json ->> 'first_name' <> 'Eve')")
        .await
        .unwrap();
    let mut listener = Listener::start(&bed).await;
    bed.auth("INSERT INTO auth.users (id, org, first_name) VALUES ('eve', 'acme', 'Eve'), ('fay', 'acme', 'Fay')")
        .await;
    bed.becomes("acme", "SELECT count(*) FROM users_sync.rejected", "1").await;
    assert_eq!(listener.heard().await, ["fay"]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_notify_nothing_is_announced() {
    let (bed, service) = following(false).await;
    let mut listener = Listener::start(&bed).await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('bob', 'acme')").await;
    bed.equal().await;
    assert_eq!(listener.heard().await, Vec::<String>::new());
    service.stop().await;
}
