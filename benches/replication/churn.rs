//! What ten updates of every row leave at the target: WAL, the size of the table, and how many updates were HOT.

use super::bed::Bed;
use super::settings;
use super::side::{Native, Side, drain};
use super::size::{grouped, sized};
use super::table::{Goal, Table};
use std::time::Duration;

const NAME: &str = "churn";
const ROUNDS: u32 = 10;
/// Until PostgreSQL 14 a collector process receives the statistics, at the latest half a second later.
const STATISTICS_DELAY: Duration = Duration::from_secs(1);

/// Autovacuum has its default settings here.
pub async fn ten_updates_of_every_row(table: &mut Table) {
    let bed = Bed::with(|options| options.set("autovacuum", "on")).await;
    settings::print(&bed).await;
    let users = sized(50_000);
    let natives = [Native::DEFAULT, Native::LOOSE];
    bed.database(NAME, users).await;
    Side::Ours.prepare(&bed, NAME).await;
    for native in natives {
        Side::Native(native).prepare(&bed, NAME).await;
    }
    for round in 1..=ROUNDS {
        bed.changes(NAME, &format!("name = 'Round {round}'"), 1, users).await;
    }
    let ours = left_by(&bed, Side::Ours, users).await;
    for native in natives {
        let reference = left_by(&bed, Side::Native(native), users).await;
        let mut add = |figure: &str, unit, value: fn(&Left) -> f64| {
            let what = format!("{ROUNDS} updates of {} rows: {figure}, {}", grouped(users), native.title);
            table.add(what, unit, value(&ours), value(&reference), Goal::None);
        };
        add("WAL per change", "B", |left| left.wal);
        add("table per row", "B", |left| left.table);
        add("table with indexes per row", "B", |left| left.relation);
        add("HOT", "%", |left| left.hot * 100.0);
    }
}

/// Per change, per row, and as a share.
struct Left {
    wal: f64,
    table: f64,
    relation: f64,
    hot: f64,
}

/// Drains the changes, so that no other side writes WAL meanwhile.
async fn left_by(bed: &Bed, side: Side, users: u32) -> Left {
    let changes = f64::from(users * ROUNDS);
    let before = Counts::of(bed, side).await;
    let last = format!("id = 'user-{users}' AND name = 'Round {ROUNDS}'");
    drain(bed, NAME, side, &last).await;
    tokio::time::sleep(STATISTICS_DELAY).await;
    let after = Counts::of(bed, side).await;
    let (updated, hot) = (after.updated - before.updated, after.hot - before.hot);
    println!(
        "  {}: {updated:.0} updates of {:.0} changes, {hot:.0} of them HOT; table {:.1} MB before, {:.1} MB after, with \
         indexes {:.1} MB; WAL {:.0} MB",
        side.title(),
        changes,
        before.table / 1e6,
        after.table / 1e6,
        after.relation / 1e6,
        (after.wal - before.wal) / 1e6
    );
    Left {
        wal: (after.wal - before.wal) / changes,
        table: after.table / f64::from(users),
        relation: after.relation / f64::from(users),
        hot: hot / updated,
    }
}

struct Counts {
    /// A position, in bytes.
    wal: f64,
    table: f64,
    relation: f64,
    updated: f64,
    hot: f64,
}

impl Counts {
    async fn of(bed: &Bed, side: Side) -> Counts {
        let client = bed.target.connect(&side.target(NAME)).await.unwrap();
        let sql = format!(
            "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8, pg_table_size(relid)::float8, \
             pg_total_relation_size(relid)::float8, n_tup_upd::float8, n_tup_hot_upd::float8 \
             FROM pg_stat_user_tables WHERE relid = '{}'::regclass",
            side.users()
        );
        let row = client.query_one(&sql, &[]).await.unwrap();
        Counts { wal: row.get(0), table: row.get(1), relation: row.get(2), updated: row.get(3), hot: row.get(4) }
    }
}
