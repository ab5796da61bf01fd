//! Time from a commit at the source until a query of the target sees the user.

use super::bed::Bed;
use super::side::{Native, Side};
use super::size::sized;
use super::table::{Goal, Table};
use crate::support::proxy::TcpProxy;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use users_sync::throwaway::PostgresServer;

const COMMIT_INTERVAL: Duration = Duration::from_millis(10);

pub async fn commit_to_visible(bed: &Bed, table: &mut Table) {
    bed.database("latency", 1000).await;
    let native = Side::Native(Native::DURABLE);
    native.prepare(bed, "latency").await;
    let reference = follow(bed, native).await;
    let ours = follow(bed, Side::Ours).await;
    distant(bed, table).await;
    let p50 = "latency p50 at 100 commits/s, native, synchronous_commit on";
    let p99 = "latency p99 at 100 commits/s, native, synchronous_commit on";
    table.add(p50, "ms", ours.p50, reference.p50, Goal::TimesAtMost(1.2));
    table.add(p99, "ms", ours.p99, reference.p99, Goal::TimesAtMost(1.2));
    bed.clear("latency").await;
}

async fn follow(bed: &Bed, side: Side) -> Latency {
    let running = side.start(bed, "latency").await;
    side.caught_up(bed, "latency").await;
    let latency =
        measure(bed, "latency", &bed.target, &side.target("latency"), side.users(), (side.title(), INSERT)).await;
    running.stop(bed, "latency").await;
    latency
}

/// The target is 20 ms of round trip away from users-sync, but not from the reader.
async fn distant(bed: &Bed, table: &mut Table) {
    let proxy = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.target.port()))).await.unwrap();
    proxy.set_delay(Duration::from_millis(10));
    let near = bed.target.url("latency_ours");
    let url = near.replace(&bed.target.port().to_string(), &proxy.port().to_string());
    let process = bed.ours("latency", &[("only".to_owned(), url)], false);
    bed.following("latency", 1).await;
    let users = "neon_auth.users_sync";
    let Latency { p50, .. } = measure(bed, "latency", &bed.target, "latency_ours", users, ("distant", INSERT)).await;
    process.stop();
    table.add("latency p50 with 20 ms round trip to the target", "ms", p50, None, Goal::AtMost(24.0));
}

/// Percentiles in milliseconds.
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

const INSERT: &str = "INSERT INTO users (id, name, email, created_at) VALUES ($1, 'New', 'new@example.com', now())";

/// A reader queries for the next user until it is there. The ids begin with `tag`, and `insert` is for one of them.
pub async fn measure(
    bed: &Bed,
    source: &str,
    server: &PostgresServer,
    database: &str,
    table: &str,
    (tag, insert): (&str, &str),
) -> Latency {
    let writer = bed.source.connect(source).await.unwrap();
    let reader = server.connect(database).await.unwrap();
    let seen = reader.prepare(&format!("SELECT 1 FROM {table} WHERE id = $1")).await.unwrap();
    let insert = writer.prepare(insert).await.unwrap();
    let mut latencies = Vec::new();
    for n in 0..sized(1_000) {
        let next = Instant::now() + COMMIT_INTERVAL;
        let id = format!("{tag}-{n}");
        writer.execute(&insert, &[&id]).await.unwrap();
        let committed = Instant::now();
        while reader.query_opt(&seen, &[&id]).await.unwrap().is_none() {
            assert!(committed.elapsed() < Duration::from_secs(30), "{id} did not arrive");
        }
        latencies.push(committed.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep_until(next.into()).await;
    }
    latencies.sort_by(f64::total_cmp);
    Latency { p50: latencies[latencies.len() / 2], p99: latencies[latencies.len() * 99 / 100] }
}
