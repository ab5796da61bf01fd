//! The main job before one's eyes: an auth database, two tenants, and people who sign up, rename themselves and
//! leave, on two throwaway servers that are gone afterwards.

mod compare;
mod error;
mod life;
mod stage;
#[cfg(feature = "kafka")]
mod tee;

pub use error::DemoError;

use crate::config::Kafka;
use crate::replicator;
use life::Latencies;
use stage::Stage;
use std::io::Write;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// A first snapshot of a few hundred users takes a second at most; past this something is wrong.
const FOLLOWING_WITHIN: Duration = Duration::from_secs(30);

/// Shows changes for `length`, or until `stop`; then compares source and targets row by row. With `brokers` the changes go
/// to Kafka, too.
pub async fn run(
    length: Duration,
    brokers: Option<&str>,
    stop: CancellationToken,
    out: &mut impl Write,
) -> Result<(), DemoError> {
    writeln!(out, "Starting two throwaway PostgreSQL servers ...")?;
    let stage = tokio::select! {
        stage = Stage::build() => stage?,
        () = stop.cancelled() => return Ok(()),
    };
    writeln!(out, "  auth database   {}", stage.source_url())?;
    for tenant in stage::TENANTS {
        writeln!(out, "  tenant {tenant:<9}{}", stage.target_url(tenant))?;
    }
    let stop_replication = CancellationToken::new();
    let config = stage.config(brokers)?;
    let kafka = config.kafka.clone();
    let mut replication = tokio::spawn(replicator::run(config, stop_replication.clone()));
    let shown = tokio::select! {
        shown = show(&stage, length, kafka.as_ref(), &stop, out) => shown,
        ended = &mut replication => match ended {
            Ok(result) => result.map_err(DemoError::from).and(Err(DemoError::Stalled("replication ended by itself"))),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        },
    };
    stop_replication.cancel();
    if !replication.is_finished() {
        replication.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    }
    shown
}

async fn show(
    stage: &Stage,
    length: Duration,
    kafka: Option<&Kafka>,
    stop: &CancellationToken,
    out: &mut impl Write,
) -> Result<(), DemoError> {
    let following = timeout(FOLLOWING_WITHIN, stage.wait_until_all_follow()).await;
    following.map_err(|_| DemoError::Stalled("no snapshot was taken within 30 s"))??;
    stage.create_todos().await?;
    writeln!(out, "Both tenants have the {} users who were there before, and follow.\n", stage::USERS_AT_FIRST)?;
    writeln!(out, "{:>9}  {:<8} {:<9} user", "visible", "tenant", "change")?;
    let mut latencies = Latencies::default();
    let until = Instant::now() + length;
    let lived = life::live(stage, until, &mut latencies, out);
    tokio::select! {
        lived = lived => lived?,
        () = stop.cancelled() => writeln!(out, "stopped before its time")?,
    }
    writeln!(out, "\n{latencies}")?;
    let compared = compare::until_equal(stage, out).await?;
    writeln!(out, "{compared} users compared row by row, all seven columns: source and targets are equal.")?;
    #[cfg(feature = "kafka")]
    if let Some(kafka) = kafka {
        let users = tee::until_equal(stage, kafka).await?;
        let [acme, globex] = stage::TENANTS.map(|tenant| kafka.topic.replace("{tenant}", tenant));
        writeln!(out, "Kafka at {} holds the same {users} users in topics {acme} and {globex}.", kafka.brokers)?;
    }
    #[cfg(not(feature = "kafka"))]
    let _ = kafka;
    Ok(())
}
