//! Latency of seventy tenants while the targets of thirty others are down, slow or frozen.

use super::bed::Bed;
use super::size::sized;
use super::table::{Goal, Table};
use crate::support::proxy::TcpProxy;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const TENANTS: usize = 100;
const DOWN: usize = 30;
const COMMIT_INTERVAL: Duration = Duration::from_millis(10);

pub async fn with_others_down(bed: &Bed, table: &mut Table) {
    bed.database("apart", 1).await;
    bed.source.sql("apart", "ALTER TABLE users REPLICA IDENTITY FULL").await.unwrap();
    let proxy = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.target.port()))).await.unwrap();
    let mut tenants = Vec::new();
    for n in 0..TENANTS {
        let database = format!("apart_{n}");
        bed.target.create_database(&database).await.unwrap();
        let near = bed.target.url(&database);
        let far = near.replace(&bed.target.port().to_string(), &proxy.port().to_string());
        tenants.push((format!("t{n}"), if n < DOWN { far } else { near }));
    }
    let process = bed.ours("apart", &tenants, true);
    bed.following("apart", TENANTS).await;
    let mut readers = Vec::new();
    for n in DOWN..TENANTS {
        readers.push(bed.target.connect(&format!("apart_{n}")).await.unwrap());
    }
    // Warm-up: opens connections and prepares plans.
    measure(bed, &readers, "warm").await;
    let calm = measure(bed, &readers, "calm").await;
    proxy.set_delay(Duration::from_millis(50));
    let slow = measure(bed, &readers, "slow").await;
    proxy.set_delay(Duration::ZERO);
    proxy.freeze(true);
    let frozen = measure(bed, &readers, "frozen").await;
    proxy.freeze(false);
    proxy.refuse(true);
    proxy.cut();
    let refused = measure(bed, &readers, "refused").await;
    proxy.refuse(false);
    bed.following("apart", TENANTS).await;
    process.stop();
    bed.end("apart").await;
    let goal = Goal::TimesAtMost(2.0);
    table.add("p99 of 70 tenants, 30 others with 100 ms round trip", "ms", slow, calm, goal);
    table.add("p99 of 70 tenants, 30 others not responding", "ms", frozen, calm, goal);
    table.add("p99 of 70 tenants, 30 others unreachable", "ms", refused, calm, goal);
}

/// p99 in milliseconds of the tenants that are up. The others get as many changes.
async fn measure(bed: &Bed, readers: &[Client], tag: &str) -> f64 {
    let writer = bed.source.connect("apart").await.unwrap();
    let insert = "INSERT INTO users (id, name, email, created_at) SELECT $1 || t, t, 'new@example.com', now() \
                  FROM unnest($2::text[]) AS t";
    let insert = writer.prepare(insert).await.unwrap();
    let mut latencies = Vec::new();
    for n in 0..sized(1_500) as usize {
        let next = Instant::now() + COMMIT_INTERVAL;
        let up = n % readers.len();
        let (id, tenants) = (format!("{tag}-{n}-"), [format!("t{}", DOWN + up), format!("t{}", n % DOWN)]);
        writer.execute(&insert, &[&id, &&tenants[..]]).await.unwrap();
        let committed = Instant::now();
        let wanted = format!("{id}{}", tenants[0]);
        let seen = "SELECT 1 FROM neon_auth.users_sync WHERE id = $1";
        while readers[up].query_opt(seen, &[&wanted]).await.unwrap().is_none() {
            assert!(committed.elapsed() < Duration::from_secs(30), "{wanted} did not arrive");
        }
        latencies.push(committed.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep_until(next.into()).await;
    }
    latencies.sort_by(f64::total_cmp);
    println!("  {tag}: p50 {:.2} ms", latencies[latencies.len() / 2]);
    latencies[latencies.len() * 99 / 100]
}
