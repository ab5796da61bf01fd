//! CPU of all processes for each change: at 100 commits a second and while draining, with synchronous_commit on at both
//! sides.

use super::bed::Bed;
use super::side::{Native, Side, drain};
use super::size::{grouped, sized};
use super::table::{Goal, Table};
use super::usage::{Meter, Usage};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const NAME: &str = "cpu";
const COMMIT_INTERVAL: Duration = Duration::from_millis(10);
const NATIVES: [Native; 2] = [Native::DURABLE, Native::DURABLE_LOOSE];

pub async fn per_change(bed: &Bed, table: &mut Table) {
    let backlog = sized(200_000);
    let commits = sized(2_000);
    bed.database(NAME, backlog).await;
    Side::Ours.prepare(bed, NAME).await;
    for native in NATIVES {
        Side::Native(native).prepare(bed, NAME).await;
    }

    let ours = live(bed, Side::Ours, commits).await;
    for native in NATIVES {
        let reference = live(bed, Side::Native(native), commits).await;
        let what = format!("CPU per change at 100 commits/s, {}", native.title);
        let goal = Goal::TimesAtMost(1.5);
        table.add(what, "us", ours.per_change(commits), reference.per_change(commits), goal);
    }

    // The live changes that a side has not applied yet must not count.
    for side in sides() {
        let running = side.start(bed, NAME).await;
        side.caught_up(bed, NAME).await;
        running.stop(bed, NAME).await;
    }
    bed.renames(NAME, 1, backlog).await;
    let done = format!("id = 'user-{backlog}' AND name = 'Changed'");
    let mut costs = Vec::new();
    for side in sides() {
        let drained = drain(bed, NAME, side, &done).await;
        drained.usage.print(side.title(), backlog);
        costs.push((side, drained.usage.per_change(backlog)));
    }
    let (_, ours) = costs[0];
    for (side, reference) in &costs[1..] {
        let what = format!("CPU per change, {} drained, {}", grouped(backlog), side.title());
        table.add(what, "us", ours, *reference, Goal::TimesAtMost(1.0));
    }
    bed.clear(NAME).await;
}

/// users-sync first.
fn sides() -> impl Iterator<Item = Side> {
    [Side::Ours].into_iter().chain(NATIVES.map(Side::Native))
}

/// Each commit changes one user, and waits for the source's disk.
async fn live(bed: &Bed, side: Side, commits: u32) -> Usage {
    let running = side.start(bed, NAME).await;
    // Its session ends after the measurement, so that its CPU is known not to count.
    let writer = bed.source.connect(NAME).await.unwrap();
    // Opens connections and prepares plans.
    commit(&writer, commits / 10, "Warm").await;
    side.caught_up(bed, NAME).await;
    bed.checkpoint().await;
    let seen = format!("SELECT true FROM {} WHERE id = 'user-{commits}' AND name = 'Live'", side.users());
    let reset = format!("UPDATE users SET name = 'Before' WHERE id = 'user-{commits}'");
    bed.source.sql(NAME, &reset).await.unwrap();
    side.caught_up(bed, NAME).await;
    let watch = bed.watch(&bed.target, &side.target(NAME), &seen).await;
    let meter = Meter::start(bed, running.process.as_ref()).await;
    commit(&writer, commits, "Live").await;
    watch.until_true().await;
    let usage = meter.stop(bed, running.process.as_ref()).await;
    usage.print(&format!("{} at 100 commits/s", side.title()), commits);
    running.stop(bed, NAME).await;
    usage
}

async fn commit(client: &Client, commits: u32, name: &str) {
    let update = client.prepare("UPDATE users SET name = $1, updated_at = now() WHERE id = $2").await.unwrap();
    for n in 1..=commits {
        let next = Instant::now() + COMMIT_INTERVAL;
        assert_eq!(client.execute(&update, &[&name, &format!("user-{n}")]).await.unwrap(), 1);
        tokio::time::sleep_until(next.into()).await;
    }
}
