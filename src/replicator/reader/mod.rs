//! Reads a slot: one task decodes the frames, maps the changes and passes them to a sink. Reading stops while the sink has
//! no capacity; status updates to the source continue in a task of their own (`session/positions.rs`).

mod backpressure;
mod output;
mod query_changes;
pub(crate) mod sink;
pub(crate) mod tenant_sink;

use crate::capture::pgoutput::{Message, OldTuple, Tuple, parse_message};
use crate::capture::{CaptureError, Frame, ReplicationReader};
use crate::map::{CommitInfo, TenantRef, Unmappable};
use crate::model::{Change, Oid, Relation, RestartSignal, Timestamp, UNATTRIBUTABLE};
use crate::pg::PgClient;
use crate::replicator::error::ServiceError;
use crate::replicator::session::alteration::{reassess, shape_reader};
use crate::replicator::session::context::SessionContext;
use crate::replicator::source::mapping::{
    MappedRelation, WatchedTable, compile, compile_current, compile_watched, fingerprint,
};
use crate::replicator::source::point_read::{ReadRequest, ReadUser};
use crate::snapshot::Reading;
use output::ChangeOutput;
use query_changes::{AffectedUsers, RowEvent};
use sink::{IsCreate, Sink, Transaction};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// This many frames in one read mean that the source sends faster than the reader waits for it.
const BUSY_FRAMES: usize = 32;
/// Pause after a busy read. The source sends each message separately, and waking a sleeping reader for each costs both
/// sides.
const BUSY_PAUSE: Duration = Duration::from_millis(1);
/// The source answers every status update, once a second. After this time without a frame the connection is dead.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// Resyncs because of changes without a user, after which a session ends.
const MAX_UNATTRIBUTED: u32 = 3;

pub(crate) struct Stream<S> {
    context: Arc<SessionContext>,
    /// Cancelled to stop reading.
    drain: CancellationToken,
    reader: ReplicationReader,
    /// For the catalog.
    client: PgClient,
    /// By oid. A relation version lives as long as a session.
    relations: HashMap<Oid, RelationRole>,
    /// The received versions of the tables in `relations` that are mapped or watched.
    versions: HashMap<Oid, Relation>,
    /// The context's mapping when `relations` was compiled. No new version is sent for a type that is altered.
    compiled_for: Arc<str>,
    /// Whether the source was altered since, as of the transaction's start.
    is_outdated: bool,
    transaction: Option<Transaction>,
    /// Users that the query mapping has to read.
    affected: AffectedUsers,
    output: ChangeOutput<S>,
    /// A relation version that was received and is not yet compiled.
    announced: Option<Relation>,
    /// The resyncs that changes without a user have caused.
    unattributed: u32,
}

/// How a relation takes part in replication.
enum RelationRole {
    /// Its rows are users.
    Users(Box<MappedRelation>),
    /// Its rows affect users that the query reads.
    Watched(Vec<WatchedTable>),
    /// It is published, but not mapped.
    Ignored,
}

impl<S: Sink> Stream<S> {
    pub(crate) fn new(
        context: Arc<SessionContext>,
        sink: S,
        drain: CancellationToken,
        reader: ReplicationReader,
        client: PgClient,
    ) -> Stream<S> {
        Stream {
            compiled_for: context.mapping(),
            is_outdated: false,
            versions: HashMap::new(),
            output: ChangeOutput::new(sink),
            drain,
            context,
            reader,
            client,
            relations: HashMap::new(),
            transaction: None,
            affected: AffectedUsers::default(),
            announced: None,
            unattributed: 0,
        }
    }

    /// Reads until `drain` is cancelled.
    ///
    /// # Errors
    /// If the source ends the stream or sends nothing for too long, and if a read, a catalog query or the sink fails.
    pub(crate) async fn run(mut self) -> Result<(), ServiceError> {
        let drain = self.drain.clone();
        let mut is_partial = false;
        loop {
            let max_wait = if is_partial { BUSY_PAUSE } else { SILENCE_TIMEOUT };
            let mut next = tokio::select! {
                biased;
                () = drain.cancelled() => return Ok(()),
                () = self.output.sink.ready() => {
                    self.output.sink.on_ready().await?;
                    continue;
                }
                frame = timeout(max_wait, self.reader.next()) => match frame {
                    Ok(frame) => Some(frame?),
                    Err(_) if is_partial => None,
                    Err(_) => return Err(CaptureError::Closed.into()),
                },
            };
            let mut frames = 0;
            while let Some(frame) = next {
                frames += 1;
                if self.take_frame(frame)? {
                    tokio::select! {
                        biased;
                        () = drain.cancelled() => return Ok(()),
                        processed = self.process_pending() => processed?,
                    }
                }
                next = self.reader.try_next()?;
            }
            // The rest of the transaction follows. Its users are read once, not for each part of it.
            is_partial = frames > 0 && self.transaction.is_some() && !self.affected.is_empty();
            if is_partial {
                continue;
            }
            if !self.affected.is_empty() {
                tokio::select! {
                    biased;
                    () = drain.cancelled() => return Ok(()),
                    resolved = self.resolve_affected() => resolved?,
                }
            }
            self.count_stripped_escapes();
            tokio::select! {
                biased;
                () = drain.cancelled() => return Ok(()),
                flushed = self.output.sink.flush_if_due() => flushed?,
            }
            if frames >= BUSY_FRAMES {
                sleep(BUSY_PAUSE).await;
            } else {
                self.output.sink.on_caught_up();
            }
        }
    }

    /// Takes one frame. Returns whether [`Stream::process_pending`] has to run before the next one.
    fn take_frame(&mut self, frame: Frame) -> Result<bool, ServiceError> {
        match frame {
            Frame::XLogData { data, sent_at, .. } => self.take_message(parse_message(&data)?, sent_at)?,
            Frame::Keepalive { wal_end, reply_requested, .. } => {
                if self.transaction.is_none() && self.affected.is_empty() {
                    self.output.sink.idle(wal_end);
                }
                if reply_requested {
                    self.output.sink.reply_requested();
                }
            }
            Frame::Ended => return Err(CaptureError::Closed.into()),
        }
        let is_pending = self.announced.is_some()
            || self.is_outdated
            || !self.output.unsent.is_empty()
            || self.output.sink.needs_capacity();
        Ok(is_pending || self.affected.is_full())
    }

    fn take_message(&mut self, message: Message<'_>, sent_at: Timestamp) -> Result<(), ServiceError> {
        match message {
            Message::Begin { commit_lsn, commit_time, xid } => {
                self.transaction = Some(Transaction { commit_lsn, commit: CommitInfo { commit_time, xid } });
                self.is_outdated = self.compiled_for != self.context.mapping();
            }
            Message::Commit { end_lsn, .. } => {
                if let Some(transaction) = self.transaction.take() {
                    self.output.sink.received(transaction.commit, sent_at);
                    self.affected.commit(&mut self.output.sink, transaction, end_lsn);
                }
            }
            Message::Insert { relation, new } => self.take_insert(relation, new)?,
            Message::Update { relation, old, new } => self.take_update(relation, old, new)?,
            Message::Delete { relation, old } => self.take_delete(relation, old)?,
            Message::Truncate { relations } => {
                let is_used = |role: &RelationRole| !matches!(role, RelationRole::Ignored);
                let is_of_users = relations.iter().filter_map(|relation| self.relations.get(relation)).any(is_used);
                if let (true, Some(transaction)) = (is_of_users, self.transaction) {
                    tracing::warn!("table truncated at the source: resyncing every tenant");
                    self.output.sink.interrupt(transaction.commit_lsn, RestartSignal::Truncated);
                }
            }
            Message::Relation(relation) => self.announced = Some(relation),
            Message::Origin | Message::Type | Message::Logical => {}
        }
        Ok(())
    }

    fn take_insert(&mut self, relation: Oid, new: Tuple<'_>) -> Result<(), ServiceError> {
        let mapped = match self.relations.get(&relation) {
            Some(RelationRole::Users(mapped)) => mapped,
            Some(RelationRole::Watched(_)) => return self.take_watched(relation, None, Some(new), RowEvent::Insert),
            Some(RelationRole::Ignored) | None => return Ok(()),
        };
        let mut cells = Vec::new();
        new.read_into(mapped.plan.decoded(), &mut cells)?;
        if S::WANTS_ROWS {
            self.output.sink.begin_row(None);
        }
        let Some(transaction) = self.transaction else { return Ok(()) };
        let (arrived, result) = match mapped.plan.inserted(&cells, transaction.commit) {
            Ok(arrived) => (arrived, Ok(())),
            Err(why) => {
                let known = mapped.plan.identify(None, &cells, &why);
                (known.map(|(tenant, user)| (tenant, Change::Upsert(user))), Err(why))
            }
        };
        if let Some((tenant, change)) = arrived {
            self.output.add_arrived(transaction, tenant, change, IsCreate::Yes);
        }
        self.report_unmappable(result)
    }

    fn take_update(&mut self, relation: Oid, old: Option<OldTuple<'_>>, new: Tuple<'_>) -> Result<(), ServiceError> {
        let mapped = match self.relations.get(&relation) {
            Some(RelationRole::Users(mapped)) => mapped,
            Some(RelationRole::Watched(_)) => return self.take_watched(relation, old, Some(new), RowEvent::Update),
            Some(RelationRole::Ignored) | None => return Ok(()),
        };
        let (mut old_cells, mut new_cells) = (Vec::new(), Vec::new());
        if let Some(old) = old {
            old.read_into(mapped.plan.decoded(), &mut old_cells)?;
        }
        new.read_into(mapped.plan.decoded(), &mut new_cells)?;
        let old_cells = old.map(|_| &old_cells[..]);
        let Some(transaction) = self.transaction else { return Ok(()) };
        let output = &mut self.output;
        let (mut is_create, mut has_left) = (false, false);
        if S::WANTS_ROWS {
            let before = old_cells.map(|old| mapped.plan.insert(old));
            // The old row was not a user.
            is_create = matches!(before, Some(Ok(None)));
            let before = before.and_then(|before| before.ok().flatten());
            output.sink.begin_row(before.map(|(_, user)| user));
        }
        let mut emit = |tenant: TenantRef<'_>, change: Change| {
            if matches!(change, Change::Delete { .. }) {
                // What follows in this update is the user at a new id or tenant.
                has_left = true;
                output.add_delete(transaction, tenant, change);
            } else if has_left {
                output.add_arrived(transaction, tenant, change, IsCreate::Yes);
            } else {
                output.add(transaction, tenant, change, IsCreate::known(is_create));
            }
        };
        let updated = mapped.plan.update(old_cells, &new_cells, transaction.commit, &mut emit);
        self.report_unmappable(updated)
    }

    fn take_delete(&mut self, relation: Oid, old: OldTuple<'_>) -> Result<(), ServiceError> {
        let mapped = match self.relations.get(&relation) {
            Some(RelationRole::Users(mapped)) => mapped,
            Some(RelationRole::Watched(_)) => return self.take_watched(relation, Some(old), None, RowEvent::Delete),
            Some(RelationRole::Ignored) | None => return Ok(()),
        };
        let mut cells = Vec::new();
        old.read_into(mapped.plan.decoded(), &mut cells)?;
        let Some(transaction) = self.transaction else { return Ok(()) };
        let output = &mut self.output;
        if S::WANTS_ROWS {
            output.sink.begin_row(mapped.plan.insert(&cells).ok().flatten().map(|(_, user)| user));
        }
        let mut emit = |tenant: TenantRef<'_>, change| output.add_delete(transaction, tenant, change);
        let deleted = mapped.plan.delete(&cells, transaction.commit, &mut emit);
        self.report_unmappable(deleted)
    }

    /// Takes a change of a watched table. Both the old and the new row may affect users.
    fn take_watched(
        &mut self,
        relation: Oid,
        old: Option<OldTuple<'_>>,
        new: Option<Tuple<'_>>,
        event: RowEvent,
    ) -> Result<(), ServiceError> {
        let (Some(RelationRole::Watched(watched)), Some(transaction)) =
            (self.relations.get(&relation), self.transaction)
        else {
            return Ok(());
        };
        let mut affected = Ok(());
        for watched in watched {
            let mut cells = Vec::new();
            if let Some(old) = old {
                old.read_into(watched.plan.decoded(), &mut cells)?;
                affected = affected.and(self.affected.add_row(watched, &cells, event, transaction));
            }
            if let Some(new) = new {
                cells.clear();
                new.read_into(watched.plan.decoded(), &mut cells)?;
                affected = affected.and(self.affected.add_row(watched, &cells, event, transaction));
            }
        }
        self.report_unmappable(affected)
    }

    /// Logs and counts a row that cannot be mapped. A change that no user can be found for resyncs every tenant.
    ///
    /// # Errors
    /// After a few such changes: each resync would be interrupted by the next one.
    fn report_unmappable(&mut self, result: Result<(), Unmappable>) -> Result<(), ServiceError> {
        let position = self.transaction.map(|transaction| transaction.commit_lsn);
        match (result, position) {
            (Ok(()), _) => {}
            (Err(Unmappable::Identity { columns, remedy }), Some(position)) => {
                if !self.output.sink.interrupt(position, RestartSignal::Unattributed) {
                    return Ok(());
                }
                tracing::error!(
                    columns,
                    remedy,
                    "cannot attribute a delete, the replica identity lacks columns: resyncing every tenant"
                );
                self.unattributed += 1;
                if self.unattributed > MAX_UNATTRIBUTED {
                    let table = self.context.config.users.table.clone();
                    let effect = UNATTRIBUTABLE;
                    return Err(ServiceError::Identity { table, columns, effect, remedy });
                }
            }
            (Err(unmappable), position) => {
                if let Some(so_far) = self.context.count_unmappable() {
                    let position = position.map(tracing::field::display);
                    tracing::error!(so_far, reason = %unmappable, position, "row skipped, it cannot be mapped");
                }
            }
        }
        Ok(())
    }

    /// Processes what takes I/O or time before the next frame is taken.
    async fn process_pending(&mut self) -> Result<(), ServiceError> {
        if self.is_outdated {
            self.compile_again().await?;
        }
        if let Some(relation) = self.announced.take() {
            self.compile(relation).await?;
        }
        if !self.output.unsent.is_empty() {
            self.read_unsent().await?;
        }
        if self.affected.is_full() {
            self.affected.resolve(&mut self.output, &self.context).await?;
        }
        self.output.sink.wait_for_capacity().await
    }

    async fn resolve_affected(&mut self) -> Result<(), ServiceError> {
        self.affected.resolve(&mut self.output, &self.context).await?;
        self.output.sink.wait_for_capacity().await
    }

    /// Compiles the received relation versions with the types as they are now.
    async fn compile_again(&mut self) -> Result<(), ServiceError> {
        self.is_outdated = false;
        self.compiled_for = self.context.mapping();
        let versions: Vec<Relation> = self.versions.values().cloned().collect();
        for relation in versions {
            self.compile(relation).await?;
        }
        Ok(())
    }

    /// Compiles the mapping for a new relation version.
    async fn compile(&mut self, relation: Relation) -> Result<(), ServiceError> {
        let context = self.context.clone();
        let rules = &context.config.users;
        let oid = relation.oid;
        if !rules.tables().contains(&&relation.table) {
            self.relations.insert(oid, RelationRole::Ignored);
            return Ok(());
        }
        self.versions.insert(oid, relation.clone());
        if let Some(transaction) = self.transaction {
            // A transaction may be streamed before it is visible: the catalog would still be the one before it.
            Reading::begin(&self.client, &[transaction.commit.xid]).await?.end().await?;
        }
        if rules.query.is_some() {
            // The waiting changes belong to the previous version.
            self.affected.resolve(&mut self.output, &context).await?;
            let watched = compile_watched(&self.client, rules, &relation).await?;
            self.relations.insert(oid, RelationRole::Watched(watched));
            return self.check_for_alteration(None).await;
        }
        let mapped = match compile(&self.client, rules, relation).await {
            Ok(mapped) => mapped.within(context.config.limits.tenant_memory),
            Err(ServiceError::Mapping(error)) => {
                // The slot may send versions that are older than the configuration. The current table decides.
                let current = fingerprint(rules, &compile_current(&self.client, rules).await?);
                let current = context.shape.lock().await.fingerprint(&current);
                tracing::warn!(%error, "skipping changes of an older table version: resyncing every tenant");
                self.output.sink.altered(&current);
                self.relations.insert(oid, RelationRole::Ignored);
                // A version that fits is announced before its first row.
                self.versions.remove(&oid);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.check_for_alteration(Some(fingerprint(rules, &mapped))).await?;
        self.relations.insert(oid, RelationRole::Users(Box::new(mapped)));
        Ok(())
    }

    /// Restarts the tenants if the source's rows read differently now. `announced` may be the mapping of an older version that
    /// the slot still has to send, so the current table decides.
    async fn check_for_alteration(&mut self, announced: Option<String>) -> Result<(), ServiceError> {
        let context = self.context.clone();
        let mapping = self.output.sink.mapping();
        if let Some(announced) = announced
            && context.shape.lock().await.fingerprint(&announced) == *mapping
        {
            return Ok(());
        }
        reassess(&context, &self.client, &shape_reader(&context, &self.client).await?).await?;
        // The tenants are restarted by now. The Kafka output has a mapping of its own.
        let current = context.mapping();
        if current != self.output.sink.mapping() {
            self.output.sink.altered(&current);
        }
        Ok(())
    }

    /// Reads the rows of changes whose tenant is unknown. The rows replace the changes.
    async fn read_unsent(&mut self) -> Result<(), ServiceError> {
        let unsent = std::mem::take(&mut self.output.unsent);
        let Some(transaction) = self.transaction else { return Ok(()) };
        let CommitInfo { commit_time, xid } = transaction.commit;
        let request = |change: &Change| ReadRequest { id: change.id().into(), xid, at: commit_time };
        let requests: Vec<ReadRequest> = unsent.iter().map(request).collect();
        let read = self.context.rereader.read(&self.context.config, &requests).await?;
        self.context.status.metrics.rereads.inc_by(requests.len() as u64);
        for ReadUser { tenant, user, .. } in read.users {
            let tenant = tenant.map_or(TenantRef::Only, |key| TenantRef::Key(key.into()));
            self.output.add_arrived(transaction, tenant, Change::Upsert(user), IsCreate::No);
        }
        Ok(())
    }

    fn count_stripped_escapes(&self) {
        for role in self.relations.values() {
            if let RelationRole::Users(mapped) = role {
                self.context.status.metrics.stripped_escapes.inc_by(mapped.plan.take_stripped_escapes());
                self.context.status.metrics.unparsed_values.inc_by(mapped.plan.take_unparsed_values());
            }
        }
    }
}
