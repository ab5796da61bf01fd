//! The tasks of the tenants' workers. A tenant for which nothing waits has none: tens of thousands of idle tenants cost no more than
//! what is remembered of them.

use crate::model::TenantIdx;
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::replicator::snapshotter::coordinator::JoinRequest;
use crate::replicator::tenant::phase::Phase;
use crate::replicator::tenant::target::Postgres;
use crate::replicator::tenant::{Sleeper, Worker};
use crate::state::TenantRow;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, Span, info_span};

/// The workers of a session's tenants.
pub(super) struct Workers {
    context: Arc<SessionContext>,
    joins: mpsc::Sender<JoinRequest>,
    /// The parent of every task's span.
    span: Span,
    running: JoinSet<Result<Option<Sleeper>, ServiceError>>,
    starts: mpsc::UnboundedSender<Start>,
    received: mpsc::UnboundedReceiver<Start>,
    /// When users are to be removed from the targets of tenants without a task. May still name tenants that have a task again: rousing
    /// those does nothing.
    due: BTreeSet<(Instant, TenantIdx)>,
}

/// A worker that is to run.
enum Start {
    /// The worker of a tenant that was added while the session runs.
    Added(TenantIdx, Option<TenantRow>),
    /// Something waits for the target of a tenant without a task.
    Roused(Sleeper),
}

/// Starts the workers of added tenants.
#[derive(Clone)]
pub(super) struct WorkerStarter(mpsc::UnboundedSender<Start>);

impl WorkerStarter {
    /// `row`: the tenant's row in the state. Without effect once the session drains.
    pub(super) fn add(&self, index: TenantIdx, row: Option<TenantRow>) {
        let _ = self.0.send(Start::Added(index, row));
    }
}

impl Workers {
    pub(super) fn new(context: Arc<SessionContext>, joins: mpsc::Sender<JoinRequest>, span: Span) -> Workers {
        let (starts, received) = mpsc::unbounded_channel();
        Workers { context, joins, span, running: JoinSet::new(), starts, received, due: BTreeSet::new() }
    }

    pub(super) fn starter(&self) -> WorkerStarter {
        WorkerStarter(self.starts.clone())
    }

    /// Starts a tenant's worker. `row` is the tenant's row in the state; `since_creation` as in [`Phase::Starting`].
    pub(super) fn add(&mut self, index: TenantIdx, row: Option<TenantRow>, since_creation: bool) {
        let mut worker = Worker::new(self.context.clone(), Postgres, index, self.joins.clone(), row);
        let phase = worker.first_phase(since_creation);
        match worker.sleep_position(&phase) {
            Some(position) => self.put_to_sleep(worker.into_sleeper(position)),
            None => self.spawn(worker, phase),
        }
    }

    /// Runs the workers until the session drains and they have ended.
    ///
    /// # Errors
    /// The session has to end.
    pub(super) async fn run(mut self) -> Result<(), ServiceError> {
        let context = self.context.clone();
        loop {
            let due = self.due.first().map(|(at, _)| *at);
            tokio::select! {
                Some(start) = self.received.recv() => self.start(start),
                Some(done) = self.running.join_next() => {
                    if let Some(sleeper) = finished(done)? {
                        self.put_to_sleep(sleeper);
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.rouse_due(),
                () = context.drain.cancelled() => break,
            }
        }
        // What has reached a mailbox before is applied.
        loop {
            while let Ok(start) = self.received.try_recv() {
                self.start(start);
            }
            let Some(done) = self.running.join_next().await else { return Ok(()) };
            if let Some(sleeper) = finished(done)? {
                self.put_to_sleep(sleeper);
            }
        }
    }

    fn start(&mut self, start: Start) {
        match start {
            Start::Added(index, row) => self.add(index, row, false),
            Start::Roused(sleeper) => {
                let (worker, phase) = Worker::roused(self.context.clone(), Postgres, self.joins.clone(), sleeper);
                self.spawn(worker, phase);
            }
        }
    }

    fn spawn(&mut self, worker: Box<Worker>, phase: Phase) {
        let span = info_span!(parent: &self.span, "tenant", id = %worker.id());
        self.running.spawn(worker.run(phase).instrument(span));
    }

    /// Leaves a tenant without a task until something waits for it.
    fn put_to_sleep(&mut self, sleeper: Sleeper) {
        if let Some(due) = sleeper.due() {
            self.due.insert((due, sleeper.index));
        }
        let (handle, starts) = (self.context.tenants.get(sleeper.index), self.starts.clone());
        handle.sleep(sleeper.config_version, move || {
            // A session that has drained needs no worker.
            let _ = starts.send(Start::Roused(sleeper));
        });
    }

    fn rouse_due(&mut self) {
        let now = Instant::now();
        while let Some((at, index)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, index));
            self.context.tenants.get(index).mailbox.rouse();
        }
    }
}

/// The result of a task. Resumes its panic.
pub(super) fn finished<T: Default>(done: Result<Result<T, ServiceError>, JoinError>) -> Result<T, ServiceError> {
    match done {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // Tasks are aborted only with their session.
        Err(_) => Ok(T::default()),
    }
}
