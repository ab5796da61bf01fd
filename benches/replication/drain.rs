//! The rate at which changes that wait in a slot reach the target.

use super::bed::Bed;
use super::limit;
use super::side::{Native, Side, drain};
use super::size::{grouped, sized};
use super::table::{Goal, Table};

const NAME: &str = "drain";

/// The same changes wait in each slot. Each slot is drained on its own, timed from the start to the last user.
pub async fn single_row_transactions(bed: &Bed, table: &mut Table) {
    let transactions = sized(200_000);
    let natives = [Native::DEFAULT, Native::LOOSE];
    bed.database(NAME, transactions).await;
    Side::Ours.prepare(bed, NAME).await;
    for native in natives {
        Side::Native(native).prepare(bed, NAME).await;
    }
    limit::prepare(bed, NAME).await;
    bed.renames(NAME, 1, transactions).await;
    let done = format!("id = 'user-{transactions}' AND name = 'Changed'");
    let rate = |seconds: f64| f64::from(transactions) / seconds;
    let work = format!("{} single-row transactions", grouped(transactions));

    let mut rates = Vec::new();
    for native in natives {
        let drained = drain(bed, NAME, Side::Native(native), &done).await;
        assert_eq!(changed(bed, Side::Native(native)).await, transactions);
        drained.usage.print(native.title, transactions);
        rates.push((native, rate(drained.seconds)));
    }
    let discarded = limit::discard(bed, NAME).await;
    let drained = drain(bed, NAME, Side::Ours, &done).await;
    assert_eq!(changed(bed, Side::Ours).await, transactions);
    drained.usage.print("users-sync", transactions);
    let ours = rate(drained.seconds);
    for (native, reference) in rates {
        table.add(format!("{work}, {}", native.title), "1/s", ours, reference, Goal::TimesAtLeast(1.5));
    }
    if let Some((seconds, usage)) = discarded {
        usage.print("pg_recvlogical to /dev/null", transactions);
        table.add(format!("{work}, pg_recvlogical to /dev/null"), "1/s", ours, rate(seconds), Goal::None);
    }
    bed.clear(NAME).await;
}

async fn changed(bed: &Bed, side: Side) -> u32 {
    let client = bed.target.connect(&side.target(NAME)).await.unwrap();
    let count = format!("SELECT count(*) FROM {} WHERE name = 'Changed'", side.users());
    let count: i64 = client.query_one(&count, &[]).await.unwrap().get(0);
    u32::try_from(count).unwrap()
}
