//! Publishing users that a query combines from several tables.

use crate::bed::{TeeBed, of, once, ops};
use crate::broker::{Broker, until};
use crate::consumer::{Message, end, read};
use crate::support::process::Process;
use crate::support::{DEADLINE, let_pass};
use std::collections::BTreeMap;
use std::time::Duration;

const EMAILS: &str = "CREATE TABLE auth.emails (user_id text PRIMARY KEY, address text)";

/// A bed with this `users:` line and hard deletes.
async fn mapped(broker: &Broker, name: &str, kafka: &str, users: &str) -> TeeBed {
    let bed = TeeBed::start(broker, name, kafka, "deletes: hard").await;
    let text = std::fs::read_to_string(bed.file.path()).unwrap();
    let before = text.lines().find(|line| line.starts_with("users:")).unwrap();
    std::fs::write(bed.file.path(), text.replace(before, users)).unwrap();
    bed
}

/// The e-mail address comes from another table.
async fn start(broker: &Broker, name: &str, kafka: &str) -> TeeBed {
    let users = "users: {table: auth.users, id: id, name: first_name, email: address, created_at: created_at, tenant: org, \
        exclude: [address, encrypted_password], key: id, watch: [{table: auth.emails, key: user_id}], \
        query: 'SELECT u.*, e.address FROM auth.users u LEFT JOIN auth.emails e ON e.user_id = u.id'}";
    let bed = mapped(broker, name, kafka, users).await;
    bed.auth(EMAILS).await;
    bed
}

/// Name and e-mail address of each live user after these messages.
fn held(messages: &[Message]) -> BTreeMap<String, [Option<String>; 2]> {
    let mut users = BTreeMap::new();
    for message in messages {
        let after = message.value.as_ref().map(|value| &value["after"]).filter(|after| !after.is_null());
        match after {
            Some(user) => {
                let text = |column: &str| user[column].as_str().map(str::to_owned);
                users.insert(message.id().to_owned(), ["name", "email"].map(text));
            }
            None => drop(users.remove(message.id())),
        }
    }
    users
}

/// Waits until a topic matches the source. Returns its messages.
async fn equal(bed: &TeeBed, broker: &Broker, tenant: &str) -> Vec<Message> {
    let sql = format!(
        "SELECT id, first_name, address FROM auth.users u LEFT JOIN auth.emails e ON e.user_id = u.id WHERE org = '{tenant}'"
    );
    until("the topic has whom the source has", async || {
        let rows = bed.bed.query("auth", &sql).await;
        let expected: BTreeMap<_, _> =
            rows.into_iter().map(|row| (row[0].clone().unwrap(), [row[1].clone(), row[2].clone()])).collect();
        held(&read(broker, &bed.topic(tenant))) == expected
    })
    .await;
    read(broker, &bed.topic(tenant))
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_a_query_arrive_despite_kills_and_never_go_back_in_time() {
    let broker = Broker::shared();
    let bed = start(broker, "queried", "partitions: 2").await;
    bed.auth(
        "INSERT INTO auth.users (id, org, first_name) SELECT 'u' || n, (ARRAY['acme', 'globex'])[1 + n % 2], '0'
         FROM generate_series(1, 60) n",
    )
    .await;
    let mut process = Process::start(&bed.file);
    equal(&bed, broker, "acme").await;
    for round in 1..=40 {
        bed.auth(&format!(
            "BEGIN; UPDATE auth.users SET first_name = first_name::int + 1 WHERE substr(id, 2)::int % 4 = {part};
             INSERT INTO auth.emails SELECT id, '{round}' FROM auth.users WHERE substr(id, 2)::int % 4 = {other}
               ON CONFLICT (user_id) DO UPDATE SET address = excluded.address; COMMIT;
             UPDATE auth.users SET org = CASE org WHEN 'acme' THEN 'globex' ELSE 'acme' END WHERE id = 'u{round}';
             DELETE FROM auth.emails WHERE user_id = 'u{other}';
             DELETE FROM auth.users WHERE id = 'u{last}'",
            part = round % 4,
            other = (round + 1) % 4,
            last = 61 - round / 2,
        ))
        .await;
        if round % 10 == 0 {
            let_pass(Duration::from_millis(40 * round)).await;
            process.kill();
            process = Process::start(&bed.file);
        }
    }
    for tenant in ["acme", "globex"] {
        let messages = equal(&bed, broker, tenant).await;
        once(&messages);
        let mut last: BTreeMap<&str, u32> = BTreeMap::new();
        for message in &messages {
            let Some(after) = message.value.as_ref().map(|value| &value["after"]).filter(|after| !after.is_null())
            else {
                continue;
            };
            let count: u32 = after["name"].as_str().unwrap().parse().unwrap();
            let before = last.insert(message.id(), count).unwrap_or_default();
            assert!(before <= count, "{} goes from {before} to {count}", message.id());
        }
        assert!(last.len() > 20 && last.values().any(|count| *count > 5), "{last:?}");
    }
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_republished_transaction_gets_new_change_numbers() {
    let broker = Broker::shared();
    let bed = start(broker, "renumbered", "properties: {transaction.timeout.ms: 1000}").await;
    let mut process = Process::start(&bed.file);
    bed.tee_is("following").await;
    bed.auth(
        "INSERT INTO auth.users (id, org, first_name) SELECT 'u' || n, 'acme', repeat('x', 2000) FROM generate_series(1, 12000) n",
    )
    .await;
    for _ in 0..2 {
        let before = end(broker, "renumbered.acme", "read_committed");
        until("a part is visible", async || end(broker, "renumbered.acme", "read_committed") > before).await;
        process.kill();
        process = Process::start(&bed.file);
    }
    let messages = equal(&bed, broker, "acme").await;
    assert!(messages.len() > 12_000, "nothing was published twice: {}", messages.len());
    once(&messages);
    assert!(process.stop().await.success());
}

/// A user may be in several tenants: each of them gets the message, which says whether the user is new there.
#[tokio::test(flavor = "multi_thread")]
async fn memberships_are_published_in_the_topics_of_their_own_tenants() {
    let broker = Broker::shared();
    let users = "users: {table: auth.users, id: id, name: first_name, exclude: [encrypted_password], \
        fan_out: {table: auth.members, id: user_id, tenant: org}}";
    let bed = mapped(broker, "members", "", users).await;
    bed.auth(
        "ALTER TABLE auth.users ADD UNIQUE (id);
         CREATE TABLE auth.members (user_id text REFERENCES auth.users (id) ON DELETE CASCADE, org text, PRIMARY KEY (user_id, org));
         INSERT INTO auth.users (id, org, first_name) SELECT id, 'none', id FROM unnest('{ann,bob,cy,unlisted}'::text[]) AS id;
         INSERT INTO auth.members VALUES ('ann', 'acme'), ('bob', 'acme'), ('bob', 'globex'), ('cy', 'globex')",
    )
    .await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    // A read may be ahead of the stream, so each change is published before the next one is made.
    let until_published = async |last: &str| {
        let sql = format!(
            "BEGIN; INSERT INTO auth.users (id, org) VALUES ('{last}', 'none');
             INSERT INTO auth.members VALUES ('{last}', 'acme'), ('{last}', 'globex'); COMMIT"
        );
        bed.auth(&sql).await;
        for tenant in ["acme", "globex"] {
            let topic = bed.topic(tenant);
            until("the last user is there", async || read(broker, &topic).iter().any(|m| m.id() == last)).await;
        }
    };
    let steps = [
        "UPDATE auth.users SET first_name = 'Anna' WHERE id = 'ann'",
        "INSERT INTO auth.members VALUES ('ann', 'globex')",
        "DELETE FROM auth.users WHERE id = 'bob'",
        "DELETE FROM auth.users WHERE id = 'cy'",
        "DELETE FROM auth.users WHERE id = 'unlisted'",
        "BEGIN; INSERT INTO auth.users (id, org) VALUES ('dan', 'none'); INSERT INTO auth.members VALUES ('dan', 'acme'); COMMIT",
        "DELETE FROM auth.members WHERE user_id = 'ann' AND org = 'acme'",
        // Only the remaining membership says which tenant had this user.
        "ALTER TABLE auth.members DROP CONSTRAINT members_user_id_fkey",
        "DELETE FROM auth.users WHERE id = 'dan'",
    ];
    for (n, statement) in steps.into_iter().enumerate() {
        bed.auth(statement).await;
        until_published(&format!("step{n}")).await;
    }
    let [acme, globex] = ["acme", "globex"].map(|tenant| read(broker, &bed.topic(tenant)));
    let says = |messages: &[Message]| ["ann", "bob", "cy", "dan", "unlisted"].map(|id| ops(&of(messages, id)));
    assert_eq!(says(&acme), ["ruudt", "rdt", "", "cdt", ""]);
    assert_eq!(says(&globex), ["cu", "rdt", "rdt", "", ""]);
    once(&acme);
    once(&globex);
    assert!(process.stop().await.success());
}

/// The scans of the tenants and of the tee hang, and a migration ends both.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_waits_for_a_snapshot_aborts_it_and_the_users_are_published_afterwards() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "gated", "", "").await;
    let text = std::fs::read_to_string(bed.file.path()).unwrap();
    let query = "users: {query: 'SELECT * FROM auth.users WHERE (SELECT auth.gate())', key: id, \
        watch: [{table: auth.users, key: id, tenant: org}], ";
    std::fs::write(bed.file.path(), text.replace("users: {", query)).unwrap();
    bed.auth(
        "CREATE FUNCTION auth.gate() RETURNS boolean LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(42); RETURN true; END $$",
    )
    .await;
    bed.auth("INSERT INTO auth.users (id, org) SELECT 'u' || n, 'acme' FROM generate_series(1, 100) n").await;
    let gate = bed.bed.server.connect("auth").await.unwrap();
    gate.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
    let (process, log) = Process::start_logged(&bed.file);
    let hanging = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    // The third one counts the users of each key.
    bed.bed.becomes("auth", hanging, "3").await;
    let migrating = bed.auth("BEGIN; LOCK TABLE auth.users IN ACCESS EXCLUSIVE MODE; COMMIT");
    tokio::time::timeout(DEADLINE, migrating).await.expect("a scan was not aborted");
    log.says("the scan of the source was aborted").await;
    gate.batch_execute("SELECT pg_advisory_unlock(42)").await.unwrap();
    bed.bed.equal().await;
    bed.equal("acme").await;
    assert!(process.stop().await.success());
}
