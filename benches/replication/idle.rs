//! One process of `users-sync apply` with many tenants of which none changes: the time until it serves them, and its memory.
//!
//! Only one target exists. The state says of the others what it says of that one, so that they are as after a restart: a target is not
//! opened before something waits for it.

use super::apply::{PARTITIONS, distributed, published};
use super::bed::{Bed, Process};
use super::scale::settled;
use super::size::{grouped, sized};
use super::table::{Goal, Table};
use crate::broker::{Broker, Settings};
use std::time::Instant;
use tokio_postgres::Client;

const NAME: &str = "sleepers";

pub async fn many_tenants(table: &mut Table) {
    let bed = Bed::start().await;
    let broker = Broker::start(&Settings::default());
    let tenants = sized(10_000);
    bed.source.create_database(NAME).await.unwrap();
    let users = format!(
        "{users}; ALTER TABLE users ALTER name SET NOT NULL;
         INSERT INTO users (id, name, created_at) SELECT 'u' || n, 't' || n, now() FROM generate_series(0, {tenants} - 1) n;
         CREATE UNIQUE INDEX by_tenant ON users (name, id); ALTER TABLE users REPLICA IDENTITY USING INDEX by_tenant",
        users = super::bed::USERS
    );
    bed.source.sql(NAME, &users).await.unwrap();
    bed.target.create_database(&target(0)).await.unwrap();
    let all: Vec<(String, String)> = (0..tenants).map(|n| (format!("t{n}"), bed.target.url(&target(n)))).collect();
    let configuration =
        |tenants: &[(String, String)]| distributed(&bed.configuration(NAME, tenants, true), NAME, &broker);
    let publisher = published(&bed, NAME, &configuration(&all)).await;
    let worker = Process::apply(&configuration(&all[..1]));
    bed.following(NAME, 1).await;
    serves(&bed, 0).await;
    worker.stop();
    let client = bed.source.connect(NAME).await.unwrap();
    // As the process with all tenants: it reads nothing again, and opens no target.
    let before = newest_epoch(&client).await;
    let worker = Process::apply(&configuration(&all[..1]));
    serves(&bed, before).await;
    let alone = settled(&worker).await;
    worker.stop();
    let copy = format!(
        "INSERT INTO users_sync.tenant (slot, tenant, state, since, target, target_id, generation, position, position_at, signed, opened_as)
         SELECT slot, 't' || n, state, since, replace(target, '{first}', '{NAME}_' || n), gen_random_uuid(), generation, position,
           position_at, signed, replace(replace(opened_as, '{first}', '{NAME}_' || n), ' t0,', ' t' || n || ',')
         FROM users_sync.tenant, generate_series(1, {tenants} - 1) n",
        first = target(0)
    );
    bed.source.sql(NAME, &copy).await.unwrap();
    let before = newest_epoch(&client).await;
    let started = Instant::now();
    let worker = Process::apply(&configuration(&all));
    serves(&bed, before).await;
    let seconds = started.elapsed().as_secs_f64();
    let now = settled(&worker).await;
    let others = "SELECT count(*) FROM users_sync.tenant WHERE state <> 'following' OR reason IS NOT NULL";
    let others: i64 = client.query_one(others, &[]).await.unwrap().get(0);
    assert_eq!(others, 0, "tenants that the process has tried to open");
    worker.stop();
    publisher.stop();
    let what = format!("{} idle tenants of one `apply`", grouped(tenants));
    table.add(format!("{what}: start to all partitions served"), "s", seconds, None, Goal::AtMost(60.0));
    let kilobytes = (now - alone) * 1024.0 / f64::from(tenants - 1);
    table.add(format!("{what}: memory of one"), "kB", kilobytes, None, Goal::AtMost(4.0));
    table.add(format!("{what}: resident memory"), "MB", now, None, Goal::AtMost(60.0));
}

async fn newest_epoch(client: &Client) -> i64 {
    let epoch = "SELECT max(epoch) FROM users_sync.source WHERE slot LIKE '%/%'";
    client.query_one(epoch, &[]).await.unwrap().get(0)
}

/// Waits until a process that is newer than this epoch runs the tasks of every partition: one of them records how far it is.
async fn serves(bed: &Bed, epoch: i64) {
    let sql = format!(
        "SELECT count(*) = {PARTITIONS} FROM users_sync.partition JOIN users_sync.source USING (slot)
         WHERE epoch > {epoch} AND at >= held_since"
    );
    bed.wait(&bed.source, NAME, &sql).await;
}

fn target(tenant: u32) -> String {
    format!("{NAME}_{tenant}")
}
