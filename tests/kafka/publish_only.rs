//! `kafka.group`: `users-sync run` publishes, and leaves the targets, their rows in the state and their requests to
//! `users-sync apply`.

use crate::bed::{TeeBed, rebuild};
use crate::broker::{Broker, until};
use crate::consumer::{arrive, read};
use crate::support::Bed;
use crate::support::http::get;
use crate::support::lights::free_address;
use crate::support::process::{Process, config_file};
use rustix::process::Signal;
use std::io::ErrorKind;
use std::net::TcpListener;

/// What `users-sync apply` keeps in the state.
const STATE: &str = "SELECT string_agg(t::text, ';' ORDER BY tenant), (SELECT count(*) FROM users_sync.request) \
                     FROM users_sync.tenant t";

/// Waits until the slot of the targets has moved past everything that is written now.
async fn confirms(bed: &Bed) {
    let written = bed.query("auth", "SELECT pg_current_wal_insert_lsn()").await[0][0].clone().unwrap();
    // So that there is something behind it.
    bed.auth("INSERT INTO auth.users (id, org) VALUES (gen_random_uuid()::text, 'acme')").await;
    let sql =
        format!("SELECT confirmed_flush_lsn > '{written}' FROM pg_replication_slots WHERE slot_name = 'users_sync'");
    bed.becomes("auth", &sql, "t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_publishes_every_change_and_touches_no_target() {
    let broker = Broker::shared();
    let (at, users) = (free_address(), "only.users");
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    target.set_nonblocking(true).unwrap();
    let address = target.local_addr().unwrap();
    let targets = |names: &[&str]| -> Vec<(String, String)> {
        names.iter().map(|name| ((*name).to_owned(), format!("postgres://u@{address}/{name}"))).collect()
    };
    let kafka = "topic: only.users, partition_by: tenant, partitions: 3, group: apply";
    let bed = TeeBed::start(broker, "only", kafka, "").await;
    let section = TeeBed::section(&bed.brokers, "only", kafka, &format!("admin: {{listen: '{at}'}}"));
    let source = bed.bed.server.url("auth");
    let file = config_file(&source, &targets(&["acme", "globex"]), &section);
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme'), ('eve', 'globex'), ('odd', 'nowhere')").await;
    let (process, log) = Process::start_logged(&file);
    arrive(broker, users, 2);
    bed.tee_is("following").await;

    // What `apply` has recorded, also of a tenant that was removed, and a request that it has yet to serve.
    bed.auth(
        "INSERT INTO users_sync.tenant (slot, tenant, state, since, target, generation, position, position_at) \
         SELECT 'users_sync', t, 'following', now(), 'h:5432/d', 1, '0/1', now() FROM unnest('{acme,former}'::text[]) t; \
         INSERT INTO users_sync.request (slot, tenant, allow_deletes, kind) VALUES ('users_sync', 'acme', false, 'resync')",
    )
    .await;
    let before = bed.bed.query("auth", STATE).await;
    let equal = async |tenant: &str| {
        until("the topic has the users of the tenant", async || {
            let mut messages = tokio::task::block_in_place(|| read(broker, users));
            messages.retain(|message| message.headers["ce_tenant"] == tenant);
            rebuild(&messages) == bed.expected(tenant).await
        })
        .await;
    };
    bed.auth("UPDATE auth.users SET email = 'a@b.c' WHERE id = 'ann'").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('bob', 'acme'); DELETE FROM auth.users WHERE id = 'eve'").await;
    confirms(&bed.bed).await;
    equal("acme").await;
    equal("globex").await;
    assert_eq!(get(at, "/readyz").await.status, 200);
    // No process applies what is published.
    until("the status has the code no_worker", async || {
        get(at, "/api/status").await.json()["verdict"].to_string().contains("no_worker")
    })
    .await;
    let status = get(at, "/api/status").await.json();
    let shown = (&status["verdict"]["level"], &status["tee"]["state"]);
    assert_eq!(shown, (&"degraded".into(), &"following".into()), "{status}");
    assert_eq!(get(at, "/api/tenants").await.json()["total"], 0);

    // Another tenant, beside the running process.
    let more = config_file(&source, &targets(&["acme", "globex", "nowhere"]), &section);
    std::fs::copy(more.path(), file.path()).unwrap();
    process.signal(Signal::HUP);
    equal("nowhere").await;
    confirms(&bed.bed).await;
    assert!(process.stop().await.success());

    // And another process.
    let (process, second) = Process::start_logged(&file);
    confirms(&bed.bed).await;
    equal("acme").await;
    assert!(process.stop().await.success());
    assert_eq!(bed.bed.query("auth", STATE).await, before);
    assert_eq!(target.accept().map(drop).unwrap_err().kind(), ErrorKind::WouldBlock);
    for log in [log.text(), second.text()] {
        assert!(!log.contains("skipping users") && !log.contains("not in the configuration"), "{log}");
    }
}
