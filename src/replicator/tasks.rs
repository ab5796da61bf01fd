//! The tasks of a session: starts them, watches them, applies changes of the tenant list, and drains them.

use crate::config::Config;
use crate::model::{TenantId, TenantIdx};
use crate::replicator::error::ServiceError;
use crate::replicator::prepare::PreparedSession;
use crate::replicator::reader::Stream;
use crate::replicator::reader::tenant_sink::TenantSink;
use crate::replicator::session::config_changes::replaced;
use crate::replicator::session::context::SessionContext;
use crate::replicator::session::positions::{self, ReportedPositions};
use crate::replicator::session::source_watch::watch_source;
use crate::replicator::session::tenant_diff::TenantDiff;
use crate::replicator::session::tenants::TenantHandle;
use crate::replicator::session::user_count::count_changes;
use crate::replicator::session::worker_watch::watch_workers;
use crate::replicator::snapshotter::coordinator;
use crate::replicator::snapshotter::coordinator::JoinRequest;
use crate::replicator::workers::{WorkerStarter, Workers, finished};
use crate::state::{Pauses, TenantRow, TenantState};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

/// Why a session ended without an error.
pub(crate) enum SessionExit {
    /// The process stops.
    Stopped,
    /// The configuration changed in more than its tenants.
    Reconfigured,
}

/// Capacity of the channel of snapshot requests. Further tenants wait until it has room.
const JOIN_CHANNEL_CAPACITY: usize = 1024;
/// Time limit for applying queued changes during shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(7);
/// Time limit for recording and confirming positions during shutdown.
const FINAL_CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct SessionTasks {
    context: Arc<SessionContext>,
    /// The parent of every task's span.
    span: Span,
    /// Reader, snapshotter and source watch. An error of any of these ends the session, as in the other sets.
    source: JoinSet<Result<(), ServiceError>>,
    tenants: JoinSet<Result<(), ServiceError>>,
    /// Starts the workers of added tenants.
    workers: WorkerStarter,
    /// Recorder and reporter. They end last, after a final confirmation.
    confirming: JoinSet<Result<(), ServiceError>>,
    stop_recording: CancellationToken,
    stop_reporting: CancellationToken,
}

impl SessionTasks {
    /// Starts the tasks. With `only`, the other tenants do not take part, and keep their positions unconfirmed. With `kafka.group` there
    /// are no tenants, and nothing but the Kafka output has to be done.
    pub(crate) fn start(prepared: PreparedSession, only: Option<&[TenantId]>) -> SessionTasks {
        let PreparedSession { context, known, client, reader, writer, created } = prepared;
        let (mut running, workers, requests) = SessionTasks::without_tasks(context.clone());
        let span = running.span.clone();
        running.start_workers(workers, known.tenants, &known.pauses, only, created.is_some());
        let dispatch = TenantSink::new(context.clone());
        let stream = Stream::new(context.clone(), dispatch, context.drain.clone(), reader, client);
        running.source.spawn(stream.run().instrument(span.clone()));
        if context.config.publishes_only() {
            // No tenant joins here: nothing may hold the exported snapshot.
            drop(created);
            let watched = context.clone();
            let watch = async move { watch_workers(&watched).await };
            running.source.spawn(watch.instrument(span.clone()));
        } else {
            running.source.spawn(coordinator::serve(context.clone(), requests, created).instrument(span.clone()));
        }
        let watched = context.clone();
        let watch = async move { watch_source(&watched).await };
        running.source.spawn(watch.instrument(span.clone()));
        if only.is_none() {
            let counting = context.clone();
            let count = async move { count_changes(&counting).await };
            running.source.spawn(count.instrument(span.clone()));
        }
        running.start_recorder();
        let reporting = running.stop_reporting.clone();
        let reporter = async move {
            let positions = || {
                let progress = context.progress();
                ReportedPositions { received: progress.received(), confirmed: progress.confirmed() }
            };
            positions::report(positions, &context.report, writer, reporting).await
        };
        running.confirming.spawn(reporter.instrument(span));
        running
    }

    /// Starts the tasks of a session that applies one partition of a topic: the workers and the recorder. The others follow by
    /// [`SessionTasks::spawn_source`] and [`SessionTasks::spawn_confirming`]. Returns the requests of the workers for snapshots.
    #[cfg(feature = "kafka")]
    pub(crate) fn of_partition(
        context: Arc<SessionContext>,
        rows: BTreeMap<TenantId, TenantRow>,
        pauses: &Pauses,
    ) -> (SessionTasks, mpsc::Receiver<JoinRequest>) {
        let (mut running, workers, requests) = SessionTasks::without_tasks(context);
        running.start_workers(workers, rows, pauses, None, false);
        running.start_recorder();
        (running, requests)
    }

    fn without_tasks(context: Arc<SessionContext>) -> (SessionTasks, Workers, mpsc::Receiver<JoinRequest>) {
        let (joins, requests) = mpsc::channel(JOIN_CHANNEL_CAPACITY);
        let span = info_span!("session", epoch = %context.epoch, generation = %context.generation);
        let workers = Workers::new(context.clone(), joins, span.clone());
        let running = SessionTasks {
            context,
            span,
            source: JoinSet::new(),
            tenants: JoinSet::new(),
            workers: workers.starter(),
            confirming: JoinSet::new(),
            stop_recording: CancellationToken::new(),
            stop_reporting: CancellationToken::new(),
        };
        (running, workers, requests)
    }

    /// Opens the mailboxes, and starts the tenants' workers. `since_creation`: the stream begins with the creation of the slot,
    /// so that every mailbox gathers it.
    fn start_workers(
        &mut self,
        mut workers: Workers,
        mut rows: BTreeMap<TenantId, TenantRow>,
        pauses: &Pauses,
        only: Option<&[TenantId]>,
        since_creation: bool,
    ) {
        let context = &self.context;
        for (index, handle) in context.tenants.all().iter() {
            let id: &TenantId = &handle.tenant.id;
            if only.is_some_and(|only| !only.contains(id)) {
                context.progress().retain(id);
                continue;
            }
            // Mailboxes of following tenants open before the first frame is read, and with a new slot those of all tenants.
            if since_creation {
                context.progress().join(id);
            }
            if since_creation || handle.state() == TenantState::Following {
                handle.mailbox.open();
            }
            handle.set_pause(pauses.get(id));
            workers.add(index, rows.remove(id), since_creation);
        }
        self.tenants.spawn(workers.run().instrument(self.span.clone()));
    }

    fn start_recorder(&mut self) {
        let (context, stop) = (self.context.clone(), self.stop_recording.clone());
        let recorder = async move { positions::record(&context, stop).await };
        self.confirming.spawn(recorder.instrument(self.span.clone()));
    }

    /// Starts a task that reads. It ends when the session drains, at the latest with the session.
    #[cfg(feature = "kafka")]
    pub(crate) fn spawn_source(&mut self, task: impl Future<Output = Result<(), ServiceError>> + Send + 'static) {
        self.source.spawn(task.instrument(self.span.clone()));
    }

    /// Starts the task that confirms what was recorded, until the token is cancelled, and then once more.
    #[cfg(feature = "kafka")]
    pub(crate) fn spawn_confirming<F>(&mut self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), ServiceError>> + Send + 'static,
    {
        self.confirming.spawn(task(self.stop_reporting.clone()).instrument(self.span.clone()));
    }

    /// Starts the Kafka output.
    #[cfg(feature = "kafka")]
    pub(crate) fn tee(&mut self, configs: watch::Receiver<Config>) {
        // Part of this set so that draining waits for it.
        let tee = crate::replicator::tee::run(self.context.clone(), configs);
        self.tenants.spawn(tee.instrument(info_span!(parent: &self.span, "tee")));
    }

    /// Runs until the session fails, stops or is reconfigured. The last two drain it.
    pub(crate) async fn run(
        self,
        config: Config,
        configs: &mut watch::Receiver<Config>,
        stop: &CancellationToken,
    ) -> Result<SessionExit, ServiceError> {
        let (span, context) = (self.span.clone(), self.context.clone());
        let exit = self.supervise(config, configs, stop).instrument(span).await;
        context.end_trace();
        exit
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
            if config.publishes_only() && config.tenants != new.tenants {
                tracing::info!("tenants changed; restarting session");
                self.note_reload("the Kafka output has other tenants".to_owned());
                break SessionExit::Reconfigured;
            }
            if !config.differs_only_in_tenants(&new) {
                tracing::info!("configuration changed beyond tenants; restarting session");
                self.note_reload("more than its tenants changed".to_owned());
                break SessionExit::Reconfigured;
            }
            let diff = TenantDiff::between(&config.tenants, &new.tenants);
            let (added, removed, moved) = (diff.added.len(), diff.removed.len(), diff.moved.len());
            self.note_reload(format!(
                "tenants: {added} added, {removed} removed, {moved} with other connection settings"
            ));
            self.apply_tenant_diff(diff);
            config = new;
        };
        self.drain().await?;
        Ok(end)
    }

    /// Records the reload for the timeline, beside the other work.
    fn note_reload(&mut self, what: String) {
        let context = self.context.clone();
        self.tenants.spawn(async move { Ok(context.state.note_reload(&what).await?) });
    }

    /// Stops the workers of removed tenants and starts those of added ones. A tenant with another key is both: its new worker
    /// starts once the old one has ended. The worker of a moved tenant opens another connection.
    fn apply_tenant_diff(&mut self, diff: TenantDiff) {
        let context = self.context.clone();
        context.tenants_changed.notify_one();
        let mut removed = Vec::new();
        for tenant in &diff.removed {
            tracing::info!(%tenant, "tenant removed; stopping its worker");
            if let Some(index) = context.index_of(tenant) {
                removed.push(context.tenants.get(index));
                context.tenants.retire(index);
            }
        }
        for tenant in diff.moved {
            if let Some(index) = context.index_of(&tenant.id) {
                tracing::info!(tenant = %tenant.id, "the tenant's connection settings changed");
                context.tenants.get(index).reconnect_as(tenant);
            }
        }
        let budget = context.config.limits.tenant_memory;
        let added: Vec<TenantIdx> = diff
            .added
            .into_iter()
            .map(|tenant| {
                tracing::info!(tenant = %tenant.id, "tenant added");
                let counts = context.status.metrics.tenant(&tenant.id);
                context.tenants.add(TenantHandle::new(tenant, budget, context.memory.clone(), counts, None))
            })
            .collect();
        if !added.is_empty() {
            let start = start_added(context, removed, added, self.workers.clone());
            self.tenants.spawn(start.instrument(self.span.clone()));
        }
    }

    async fn drain(mut self) -> Result<(), ServiceError> {
        tracing::info!("stopping, applying queued changes first");
        self.context.drain.cancel();
        let drained = timeout(DRAIN_TIMEOUT, async {
            while let Some(done) = self.tenants.join_next().await {
                finished(done)?;
            }
            Ok::<(), ServiceError>(())
        });
        match drained.await {
            Ok(drained) => drained?,
            Err(_) => {
                tracing::warn!("some targets did not respond in time; the next start sends their missing changes again")
            }
        }
        self.stop_recording.cancel();
        let final_confirm = timeout(FINAL_CONFIRM_TIMEOUT, async {
            // The recorder ends first: only it advances what the reporter confirms.
            if let Some(done) = self.confirming.join_next().await {
                finished(done)?;
            }
            self.stop_reporting.cancel();
            while let Some(done) = self.confirming.join_next().await {
                finished(done)?;
            }
            Ok::<(), ServiceError>(())
        });
        match final_confirm.await {
            Ok(confirmed) => confirmed?,
            Err(_) => tracing::warn!("source does not respond; the last applied changes stay unconfirmed"),
        }
        tracing::info!(position = %self.context.progress().confirmed(), "stopped");
        Ok(())
    }
}

/// Starts the workers of added tenants, once the removed workers have ended and the reader gathers for the added ones.
async fn start_added(
    context: Arc<SessionContext>,
    removed: Vec<Arc<TenantHandle>>,
    added: Vec<TenantIdx>,
    workers: WorkerStarter,
) -> Result<(), ServiceError> {
    let ready = async {
        for gone in removed {
            gone.ended().await;
        }
        for index in &added {
            context.tenants.get(*index).adopted().await;
        }
    };
    tokio::select! {
        () = ready => {}
        () = context.drain.cancelled() => return Ok(()),
    }
    let names: Vec<TenantId> = added.iter().map(|index| context.tenants.get(*index).tenant.id.clone()).collect();
    let names: Vec<&str> = names.iter().map(TenantId::as_str).collect();
    let (mut rows, pauses) = context.state.load_tenants(&names).await?;
    for index in added {
        let handle = context.tenants.get(index);
        let id = &handle.tenant.id;
        handle.set_pause(pauses.get(id));
        workers.add(index, rows.remove(id));
    }
    Ok(())
}

/// Waits for a task to fail. Tasks that end without an error are ignored.
async fn first_error(tasks: &mut JoinSet<Result<(), ServiceError>>) -> ServiceError {
    while let Some(done) = tasks.join_next().await {
        if let Err(error) = finished(done) {
            return error;
        }
    }
    std::future::pending().await
}
