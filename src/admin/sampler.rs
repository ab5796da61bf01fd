//! Samples once a second: the source's WAL position, the lag history and, while this process does not replicate, the state
//! database. HTTP requests are served from these samples and wait for no database.

use super::app::{App, StateReading};
use super::history;
use crate::capture::read_log;
use crate::config::Config;
use crate::pg::{PgClient, PgUrl, connect};
use crate::state::StateStore;
use crate::status::process::Role;
use crate::status::report::Report;
use crate::status::verdict::Level;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// A database that takes longer counts as unreachable.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Samples until `stop`.
pub(super) async fn run(app: App, stop: CancellationToken) {
    let mut timer = interval(SAMPLE_INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut source, mut state) = (Connection::default(), Connection::default());
    let mut last_history_sample = Instant::now();
    // A process says nothing until something needs attention.
    let mut logged = (Level::Ok, BTreeSet::new());
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = stop.cancelled() => return,
        }
        let config = app.configs.borrow().clone();
        app.targets.close_idle();
        let sampled = timeout(TIMEOUT, sample(&app, &config, &mut source, &mut state)).await;
        if sampled.is_err() {
            (source, state) = Default::default();
        }
        let verdict = app.verdict();
        // At its start a process has no verdict of its own yet.
        let is_starting = app.status.role().role == Role::Starting && app.status.trouble().is_none();
        if !is_starting && (verdict.level != logged.0 || verdict.codes() != logged.1) {
            logged = (verdict.level, verdict.codes());
            let codes = logged.1.iter().copied().collect::<Vec<_>>().join(" ");
            tracing::info!(level = %verdict.level, codes, "verdict");
        }
        if last_history_sample.elapsed() >= history::SAMPLE_INTERVAL {
            last_history_sample = Instant::now();
            let configured = config.tenant_ids();
            app.status.metrics.retain(|id| configured.contains(id));
            let samples = app.status.samples().unwrap_or_default();
            app.history.take(&samples);
            app.activity.take(&samples);
        }
    }
}

async fn sample(app: &App, config: &Config, source: &mut Connection, state: &mut Connection) {
    let tee = config.kafka.as_ref().map(|kafka| &*kafka.slot);
    let slots: Vec<&str> = std::iter::once(&*config.source.slot).chain(tee).collect();
    if !app.status.lacks_source() {
        let log = match source.to(&config.source.url).await {
            Some(client) => read_log(client, &slots).await.ok(),
            None => None,
        };
        app.status.set_source_log(log.unwrap_or_default());
    }
    if app.status.is_streaming() {
        *state = Connection::default();
        app.set_state_report(StateReading::Unread);
        return;
    }
    let known = match state.to(&config.state_url).await {
        Some(client) => StateStore::read(client, &config.source.slot).await.ok(),
        None => None,
    };
    app.set_state_report(known.map_or(StateReading::Failed, |known| {
        StateReading::Report(Arc::new(Report::of_state(config, &known, &app.status.source_log())))
    }));
}

/// A connection that is kept open between samples.
#[derive(Default)]
struct Connection(Option<(PgUrl, PgClient)>);

impl Connection {
    async fn to(&mut self, url: &PgUrl) -> Option<&PgClient> {
        if !self.0.as_ref().is_some_and(|(to, client)| to == url && !client.is_closed()) {
            // The replication session reports errors of the source.
            let client = connect(url).await.ok()?;
            self.0 = Some((url.clone(), client));
        }
        self.0.as_ref().map(|(_, client)| client)
    }
}
