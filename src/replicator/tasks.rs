//! The tasks of a session: started, watched, rearranged when tenants come and go, and drained.

use crate::config::Config;
use crate::model::TenantId;
use crate::replicator::error::ServiceError;
use crate::replicator::prepare::PreparedSession;
use crate::replicator::reader::Stream;
use crate::replicator::reader::tenant_sink::TenantSink;
use crate::replicator::session::config_changes::replaced;
use crate::replicator::session::context::SessionContext;
use crate::replicator::session::positions;
use crate::replicator::session::tenant_diff::TenantDiff;
use crate::replicator::session::tenants::TenantHandle;
use crate::replicator::snapshotter::coordinator;
use crate::replicator::snapshotter::coordinator::JoinRequest;
use crate::replicator::source::watchdog::watch_publication;
use crate::replicator::tenant::Worker;
use crate::replicator::tenant::target::Postgres;
use crate::state::TenantState;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

/// Why a session ended well.
pub(crate) enum SessionExit {
    /// It was told to stop.
    Stopped,
    /// The configuration is another one, in more than its tenants.
    Reconfigured,
}

/// Tenants that ask for a snapshot at once; the others wait to ask.
const JOINS_WAITING: usize = 1024;
/// What waits is applied within this time when the process is told to stop.
const DRAIN: Duration = Duration::from_secs(7);

/// And positions are written down and confirmed within this time.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The tasks of a session.
pub(crate) struct SessionTasks {
    context: Arc<SessionContext>,
    /// The parent of every task's span.
    span: Span,
    /// Reading, and serving snapshots: what they end with ends the session.
    source: JoinSet<Result<(), ServiceError>>,
    tenants: JoinSet<Result<(), ServiceError>>,
    joins: mpsc::Sender<JoinRequest>,
    /// Writing down and confirming, which outlive the others by one last word.
    confirming: JoinSet<Result<(), ServiceError>>,
    stop_recording: CancellationToken,
    stop_reporting: CancellationToken,
}

impl SessionTasks {
    /// With `only`, nobody else takes part: what the others still want of the stream stays unconfirmed.
    pub(crate) fn start(prepared: PreparedSession, only: Option<&[TenantId]>) -> SessionTasks {
        let PreparedSession { context, mut known, client, reader, writer, created } = prepared;
        let (joins, requests) = mpsc::channel(JOINS_WAITING);
        let span = info_span!("session", epoch = %context.epoch, generation = %context.generation);
        let mut running = SessionTasks {
            context: context.clone(),
            span: span.clone(),
            source: JoinSet::new(),
            tenants: JoinSet::new(),
            joins: joins.clone(),
            confirming: JoinSet::new(),
            stop_recording: CancellationToken::new(),
            stop_reporting: CancellationToken::new(),
        };
        for (index, lane) in context.lanes.all().iter().enumerate() {
            let id: &TenantId = &lane.tenant.id;
            if only.is_some_and(|only| !only.contains(id)) {
                context.progress().retain(id);
                continue;
            }
            // Before the first frame is read: whoever follows gathers, and with a new slot whoever joins.
            let gathers = created.is_some();
            if gathers {
                context.progress().join(id);
            }
            if gathers || lane.state() == TenantState::Following {
                lane.mailbox.open();
            }
            let worker = Worker::new(context.clone(), Postgres, index, joins.clone(), known.tenants.remove(id));
            running.tenants.spawn(worker.run(gathers).instrument(info_span!(parent: &span, "tenant", %id)));
        }
        let dispatch = TenantSink::new(context.clone());
        let stream = Stream::new(context.clone(), dispatch, context.drain.clone(), reader, client);
        running.source.spawn(stream.run().instrument(span.clone()));
        running.source.spawn(coordinator::serve(context.clone(), requests, created).instrument(span.clone()));
        let watched = context.clone();
        let watchdog =
            async move { watch_publication(&watched.config, &watched.publication, watched.drain.clone()).await };
        running.source.spawn(watchdog.instrument(span.clone()));
        let (recording, reporting) = (running.stop_recording.clone(), running.stop_reporting.clone());
        let record = context.clone();
        let recorder = async move { positions::record(&record, recording).await };
        running.confirming.spawn(recorder.instrument(span.clone()));
        let reporter = async move {
            let positions = || {
                let progress = context.progress();
                (progress.received(), progress.confirmed())
            };
            positions::report(positions, &context.report, writer, reporting).await
        };
        running.confirming.spawn(reporter.instrument(span));
        running
    }

    /// Starts the tee beside the tenants.
    #[cfg(feature = "kafka")]
    pub(crate) fn tee(&mut self, configs: watch::Receiver<Config>) {
        // Among those whose end is waited for.
        let tee = crate::replicator::tee::run(self.context.clone(), configs);
        self.tenants.spawn(tee.instrument(info_span!(parent: &self.span, "tee")));
    }

    /// Until something breaks, or is over: then what waits is applied and confirmed.
    pub(crate) async fn run(
        self,
        config: Config,
        configs: &mut watch::Receiver<Config>,
        stop: &CancellationToken,
    ) -> Result<SessionExit, ServiceError> {
        let span = self.span.clone();
        self.supervise(config, configs, stop).instrument(span).await
    }

    async fn supervise(
        mut self,
        mut config: Config,
        configs: &mut watch::Receiver<Config>,
        stop: &CancellationToken,
    ) -> Result<SessionExit, ServiceError> {
        let end = loop {
            tokio::select! {
                error = first_error(&mut self.source) => return Err(error),
                error = first_error(&mut self.tenants) => return Err(error),
                error = first_error(&mut self.confirming) => return Err(error),
                () = stop.cancelled() => break SessionExit::Stopped,
                () = replaced(configs) => {}
            }
            let new = configs.borrow_and_update().clone();
            if !config.differs_only_in_tenants(&new) {
                tracing::info!("the configuration is another one: a new session begins");
                break SessionExit::Reconfigured;
            }
            self.apply_tenant_diff(TenantDiff::between(&config.tenants, &new.tenants));
            config = new;
        };
        self.drain().await?;
        Ok(end)
    }

    /// Tenants go and come. One that is re-targeted comes once its task is done with the old target.
    fn apply_tenant_diff(&mut self, diff: TenantDiff) {
        let context = self.context.clone();
        let mut going = Vec::new();
        for tenant in &diff.removed {
            tracing::info!(%tenant, "goes: the configuration does not have it any more, or elsewhere");
            if let Some(index) = context.index_of(tenant) {
                going.push(context.lanes.get(index).ended.clone());
                context.lanes.retire(index);
            }
        }
        let budget = context.config.limits.tenant_memory;
        let coming: Vec<usize> = diff
            .added
            .into_iter()
            .map(|tenant| {
                tracing::info!(tenant = %tenant.id, "comes");
                let counts = context.live.metrics.tenant(&tenant.id);
                context.lanes.add(TenantHandle::new(tenant, budget, context.memory.clone(), counts, None))
            })
            .collect();
        if !coming.is_empty() {
            let start = start_added(context, going, coming, self.joins.clone());
            self.tenants.spawn(start.instrument(self.span.clone()));
        }
    }

    async fn drain(mut self) -> Result<(), ServiceError> {
        tracing::info!("stopping: what waits is applied first");
        self.context.drain.cancel();
        let drained = timeout(DRAIN, async {
            while let Some(done) = self.tenants.join_next().await {
                finished(done)?;
            }
            Ok::<(), ServiceError>(())
        });
        match drained.await {
            Ok(drained) => drained?,
            Err(_) => {
                tracing::warn!("some targets did not answer in time; what they lack is sent again at the next start")
            }
        }
        self.stop_recording.cancel();
        let last_words = timeout(LAST_WORDS, async {
            // The recorder ends first: nobody else adds to what is confirmed.
            if let Some(done) = self.confirming.join_next().await {
                finished(done)?;
            }
            self.stop_reporting.cancel();
            while let Some(done) = self.confirming.join_next().await {
                finished(done)?;
            }
            Ok::<(), ServiceError>(())
        });
        match last_words.await {
            Ok(said) => said?,
            Err(_) => tracing::warn!("the source does not answer: what was applied last is not confirmed"),
        }
        tracing::info!(position = %self.context.progress().confirmed(), "stopped");
        Ok(())
    }
}

/// Runs the tasks of new lanes, once those that went are done and the stream knows the new ones.
async fn start_added(
    context: Arc<SessionContext>,
    going: Vec<CancellationToken>,
    coming: Vec<usize>,
    joins: mpsc::Sender<JoinRequest>,
) -> Result<(), ServiceError> {
    let ready = async {
        for gone in going {
            gone.cancelled().await;
        }
        for index in &coming {
            context.lanes.get(*index).adopted.cancelled().await;
        }
    };
    tokio::select! {
        () = ready => {}
        () = context.drain.cancelled() => return Ok(()),
    }
    let mut known = context.state.load().await?;
    let mut workers = JoinSet::new();
    for index in coming {
        let id = context.lanes.get(index).tenant.id.clone();
        let worker = Worker::new(context.clone(), Postgres, index, joins.clone(), known.tenants.remove(&id));
        workers.spawn(worker.run(false).instrument(info_span!("tenant", %id)));
    }
    while let Some(done) = workers.join_next().await {
        finished(done)?;
    }
    Ok(())
}

/// Waits for a task to fail; tasks that end well are of no interest.
async fn first_error(tasks: &mut JoinSet<Result<(), ServiceError>>) -> ServiceError {
    while let Some(done) = tasks.join_next().await {
        if let Err(error) = finished(done) {
            return error;
        }
    }
    std::future::pending().await
}

/// A task's result; its panic is passed on.
fn finished(done: Result<Result<(), ServiceError>, tokio::task::JoinError>) -> Result<(), ServiceError> {
    match done {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // Nothing aborts these tasks but the end of their session.
        Err(_) => Ok(()),
    }
}
