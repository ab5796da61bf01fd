//! One transaction that changes every user: a backlog that is committed before a side starts, and live.

use super::bed::Bed;
use super::side::{Native, Side, drain};
use super::size::{grouped, sized};
use super::table::{Goal, Table};
use std::time::Instant;

const NAME: &str = "large";

pub async fn one_transaction(bed: &Bed, table: &mut Table) {
    let rows = sized(1_000_000);
    bed.database(NAME, rows).await;
    let natives = natives(bed).await;
    Side::Ours.prepare(bed, NAME).await;
    for native in &natives {
        Side::Native(*native).prepare(bed, NAME).await;
    }
    backlog(bed, table, rows, &natives).await;
    live(bed, table, rows, &natives).await;
    bed.clear(NAME).await;
}

/// `streaming = parallel` exists from PostgreSQL 16 on, and is the default from 18 on.
async fn natives(bed: &Bed) -> Vec<Native> {
    let client = bed.target.connect("postgres").await.unwrap();
    let version = "SELECT current_setting('server_version_num')::int4";
    let version: i32 = client.query_one(version, &[]).await.unwrap().get(0);
    let mut natives = vec![Native::DEFAULT, Native::LOOSE];
    match version / 10_000 {
        ..16 => println!("  streaming = parallel needs PostgreSQL 16: not measured"),
        16 | 17 => natives.extend([Native::PARALLEL, Native::PARALLEL_LOOSE]),
        _ => {}
    }
    natives
}

async fn backlog(bed: &Bed, table: &mut Table, rows: u32, natives: &[Native]) {
    bed.writer(NAME).await.change_all("name = 'Changed'").await;
    let done = format!("id = 'user-{rows}' AND name = 'Changed'");
    let rate = |seconds: f64| f64::from(rows) / seconds;
    let mut rates = Vec::new();
    for native in natives {
        let drained = drain(bed, NAME, Side::Native(*native), &done).await;
        drained.usage.print(native.title, rows);
        rates.push((native, rate(drained.seconds)));
    }
    let drained = drain(bed, NAME, Side::Ours, &done).await;
    drained.usage.print("users-sync", rows);
    for (native, reference) in rates {
        let what = format!("one transaction of {} updates, {}", grouped(rows), native.title);
        table.add(what, "rows/s", rate(drained.seconds), reference, Goal::TimesAtLeast(1.3));
    }
}

/// Seconds from the commit of such a transaction until it is visible, while only one side follows.
async fn live(bed: &Bed, table: &mut Table, rows: u32, natives: &[Native]) {
    // First: its slot cannot skip the transactions of the others.
    let ours = commit_to_visible(bed, Side::Ours, rows).await;
    for native in natives {
        skip_to_now(bed, *native).await;
        let reference = commit_to_visible(bed, Side::Native(*native), rows).await;
        let what = format!("the same live, commit to visible, {}", native.title);
        table.add(what, "s", ours, reference, Goal::None);
    }
}

async fn commit_to_visible(bed: &Bed, side: Side, rows: u32) -> f64 {
    let running = side.start(bed, NAME).await;
    side.caught_up(bed, NAME).await;
    bed.checkpoint().await;
    let name = format!("Live {}", bed.next());
    let seen = format!("SELECT true FROM {} WHERE id = 'user-{rows}' AND name = '{name}'", side.users());
    let watch = bed.watch(&bed.target, &side.target(NAME), &seen).await;
    bed.writer(NAME).await.change_all(&format!("name = '{name}'")).await;
    let committed = Instant::now();
    watch.until_true().await;
    let seconds = committed.elapsed().as_secs_f64();
    running.stop(bed, NAME).await;
    seconds
}

/// Native's subscription starts at the position of its slot.
async fn skip_to_now(bed: &Bed, native: Native) {
    let slot = native.subscription(NAME);
    let advance = format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_insert_lsn())");
    bed.source.sql(NAME, &advance).await.unwrap();
}
