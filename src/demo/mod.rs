//! Shows replication on two throwaway servers, which are removed at the end: users of two tenants sign up, rename
//! themselves and leave. With a page on which visitors do the same, if wanted.

mod compare;
mod error;
mod life;
mod page;
mod people;
mod site;
mod stage;
#[cfg(feature = "kafka")]
mod tee;
mod visible;

pub(crate) use error::DemoError;

use crate::config::Kafka;
use crate::replicator;
use crate::status::process::ProcessStatus;
use life::Latencies;
use site::Site;
use stage::Stage;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Time limit for the first snapshots, which take less than a second.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(30);

/// `--stay`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stay {
    /// Where the page and the console listen. By default they use a port that is free.
    pub(crate) listen: Option<SocketAddr>,
}

/// Makes changes for `length`, or until `stop`, then compares source and targets row by row. With `brokers` the changes are
/// also published to Kafka. With `stay` visitors can make changes too, until `stop`.
pub(crate) async fn run(
    length: Duration,
    brokers: Option<&str>,
    stay: Option<Stay>,
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
    let (config, status) = (watch::Sender::new(config), Arc::<ProcessStatus>::default());
    let site = match stay {
        Some(Stay { listen }) => Some(Site::open(&stage, listen, &config, &status).await?),
        None => None,
    };
    let replicating = replicator::run_reloading(config.subscribe(), status, stop_replication.clone());
    let mut replication = tokio::spawn(replicating);
    let shown = tokio::select! {
        shown = show(&stage, length, kafka.as_ref(), site.as_ref(), &stop, out) => shown,
        ended = &mut replication => match ended {
            Ok(result) => result.map_err(DemoError::from).and(Err(DemoError::Stalled("replication stopped unexpectedly"))),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        },
    };
    stop_replication.cancel();
    if !replication.is_finished() {
        replication.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    }
    if let Some(site) = site {
        site.close().await;
    }
    shown
}

async fn show(
    stage: &Stage,
    length: Duration,
    kafka: Option<&Kafka>,
    site: Option<&Site>,
    stop: &CancellationToken,
    out: &mut impl Write,
) -> Result<(), DemoError> {
    let following = timeout(SNAPSHOT_TIMEOUT, stage.wait_until_all_follow()).await;
    following.map_err(|_| DemoError::Stalled("the first snapshots did not finish within 30 s"))??;
    stage.create_todos().await?;
    writeln!(out, "Snapshots of the {} existing users are done; both tenants are up to date.\n", stage::INITIAL_USERS)?;
    if let Some(site) = site {
        writeln!(out, "Sign up, rename and delete people yourself, and see both sides:\n  {}", site.page())?;
        writeln!(out, "The console of this process:\n  {}\n", site.console())?;
    }
    writeln!(out, "{:>9}  {:<8} {:<9} user", "visible", "tenant", "change")?;
    let mut latencies = Latencies::default();
    let until = Instant::now() + length;
    let changes = life::live(stage, until, site.is_some(), &mut latencies, out);
    tokio::select! {
        done = changes => done?,
        () = stop.cancelled() => writeln!(out, "stopped early")?,
    }
    writeln!(out, "\n{latencies}")?;
    let compared = compare(stage, kafka, out).await;
    if let Some(site) = site
        && !stop.is_cancelled()
    {
        // A visitor who has paused a tenant in the console causes this.
        if let Err(error) = &compared {
            writeln!(out, "{error}")?;
        }
        writeln!(out, "\nThe servers, the page {} and the console stay until Ctrl+C.", site.page())?;
        stop.cancelled().await;
    }
    compared
}

/// Compares the targets, and Kafka's topics, with the source.
async fn compare(stage: &Stage, kafka: Option<&Kafka>, out: &mut impl Write) -> Result<(), DemoError> {
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
