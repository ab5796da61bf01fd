//! Resident memory with a hundred tenants.

use super::bed::Bed;
use super::table::{Goal, Table};

const TENANTS: u32 = 100;

pub async fn many_tenants(bed: &Bed, table: &mut Table) {
    bed.database("many", 10).await;
    let mut tenants = Vec::new();
    for n in 1..=TENANTS {
        let database = format!("many_{n}");
        bed.target.create_database(&database).await.unwrap();
        tenants.push((format!("Name {n}"), bed.target.url(&database)));
    }
    bed.source.sql("many", "ALTER TABLE users REPLICA IDENTITY FULL").await.unwrap();
    let process = bed.ours("many", &tenants, true);
    bed.following("many", tenants.len()).await;
    let now = process.resident().now;
    process.stop();
    bed.end("many").await;
    table.add("resident memory with 100 tenants following", "MB", now, None, Goal::AtMost(20.0));
}
