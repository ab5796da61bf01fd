//! Reads a slot: frames are decoded, mapped and handed to a sink, one task for all tenants. Reading stops for a while
//! where the sink has no room; status updates do not (`confirm`).

mod backpressure;
mod query_changes;
pub(crate) mod sink;
pub(crate) mod tenant_sink;

use crate::capture::pgoutput::{Message, OldTuple, Tuple, parse_message};
use crate::capture::{CaptureError, Frame, ReplicationReader};
use crate::map::{CommitInfo, TenantRef, Unmappable};
use crate::model::{Change, Oid, Relation, RestartSignal};
use crate::pg::PgClient;
use crate::replicator::error::ServiceError;
use crate::replicator::reader::query_changes::{AffectedUsers, Event};
use crate::replicator::session::context::SessionContext;
use crate::replicator::snapshotter::point_read::{ReadRequest, ReadUser};
use crate::replicator::source::mapping::{
    MappedRelation, WatchedTable, compile, compile_current, compile_watched, fingerprint,
};
use crate::snapshot::Reading;
use sink::{IsCreate, Sink, Transaction};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// So many frames in one read say that the source has more to send than we are waiting for.
const BUSY: usize = 32;
/// Then it is left alone for a moment: it sends every message on its own, and each one that meets a sleeping reader
/// costs both sides a wake-up.
const GATHER: Duration = Duration::from_millis(1);

/// The source answers every status update, once a second; a source that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);

pub(crate) struct Stream<S> {
    context: Arc<SessionContext>,
    /// Stop reading.
    drain: CancellationToken,
    reader: ReplicationReader,
    /// For the catalog: what types are.
    client: PgClient,
    /// By id. A relation version lives as long as a session.
    relations: HashMap<Oid, Source>,
    transaction: Option<Transaction>,
    /// Users that the query mapping has to read.
    affected: AffectedUsers,
    out: Out<S>,
    /// A relation version that was announced and not yet compiled.
    announced: Option<Relation>,
}

/// Where changes go, and those that do not say whose they are.
pub(crate) struct Out<S> {
    pub(crate) sink: S,
    unsent: Vec<Change>,
}

/// What the changes of a table are to us.
enum Source {
    /// Users.
    Users(Box<MappedRelation>),
    /// They touch users that are read by the query.
    Watched(Relation, Vec<WatchedTable>),
    /// Published, but not mapped.
    Passed,
}

impl<S: Sink> Out<S> {
    /// Takes a change.
    pub(crate) fn add(&mut self, transaction: Transaction, tenant: TenantRef<'_>, change: Change, is_create: IsCreate) {
        match tenant {
            TenantRef::NoTenant => {}
            TenantRef::Unsent => self.unsent.push(change),
            TenantRef::Only => self.sink.add(transaction, None, change, is_create),
            TenantRef::Key(key) => self.sink.add(transaction, Some(&key), change, is_create),
        }
    }
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
            out: Out { sink, unsent: Vec::new() },
            drain,
            context,
            reader,
            client,
            relations: HashMap::new(),
            transaction: None,
            affected: AffectedUsers::default(),
            announced: None,
        }
    }

    /// Reads until it is told to drain, or the source ends the stream.
    pub(crate) async fn run(mut self) -> Result<(), ServiceError> {
        let drain = self.drain.clone();
        let mut in_pieces = false;
        loop {
            let patience = if in_pieces { GATHER } else { SILENCE };
            let mut next = tokio::select! {
                biased;
                () = drain.cancelled() => return Ok(()),
                () = self.out.sink.ready() => {
                    self.out.sink.on_ready().await?;
                    continue;
                }
                frame = timeout(patience, self.reader.next()) => match frame {
                    Ok(frame) => Some(frame?),
                    Err(_) if in_pieces => None,
                    Err(_) => return Err(CaptureError::Closed.into()),
                },
            };
            let mut frames = 0;
            while let Some(frame) = next {
                frames += 1;
                if self.take(frame)? {
                    tokio::select! {
                        biased;
                        () = drain.cancelled() => return Ok(()),
                        processed = self.process_pending() => processed?,
                    }
                }
                next = self.reader.try_next()?;
            }
            // The rest of a transaction is on its way: users are read with all that it does to them, not for each piece of it.
            in_pieces = frames > 0 && self.transaction.is_some() && !self.affected.is_empty();
            if in_pieces {
                continue;
            }
            if !self.affected.is_empty() {
                tokio::select! {
                    biased;
                    () = drain.cancelled() => return Ok(()),
                    resolved = self.resolve_affected() => resolved?,
                }
            }
            tokio::select! {
                biased;
                () = drain.cancelled() => return Ok(()),
                rested = self.out.sink.flush_if_due() => rested?,
            }
            match frames >= BUSY {
                true => sleep(GATHER).await,
                false => self.out.sink.on_caught_up(),
            }
        }
    }

    /// Takes one frame; whether something is pending that has to be processed before the next one.
    fn take(&mut self, frame: Frame) -> Result<bool, ServiceError> {
        match frame {
            Frame::XLogData { data, .. } => self.message(parse_message(&data)?)?,
            Frame::Keepalive { wal_end, reply_requested, .. } => {
                if self.transaction.is_none() && self.affected.is_empty() {
                    self.out.sink.idle(wal_end);
                }
                if reply_requested {
                    self.out.sink.reply_requested();
                }
            }
            Frame::Ended => return Err(CaptureError::Closed.into()),
        }
        let is_pending = self.announced.is_some() || !self.out.unsent.is_empty() || self.out.sink.needs_capacity();
        Ok(is_pending || self.affected.is_full())
    }

    fn message(&mut self, message: Message<'_>) -> Result<(), ServiceError> {
        match message {
            Message::Begin { commit_lsn, commit_time, xid } => {
                self.transaction = Some(Transaction { commit_lsn, commit: CommitInfo { commit_time, xid } });
            }
            Message::Commit { end_lsn, .. } => {
                if let Some(transaction) = self.transaction.take() {
                    self.affected.commit(&mut self.out.sink, transaction, end_lsn);
                }
            }
            Message::Insert { relation, new } => match self.relations.get(&relation) {
                Some(Source::Users(mapped)) => {
                    let mut cells = Vec::new();
                    new.read_into(mapped.plan.decoded(), &mut cells)?;
                    if S::WANTS_ROWS {
                        self.out.sink.begin_row(None);
                    }
                    let inserted = mapped.plan.insert(&cells).map(|user| {
                        if let (Some((tenant, user)), Some(transaction)) = (user, self.transaction) {
                            self.out.add(transaction, tenant, Change::Upsert(user), IsCreate::Yes);
                        }
                    });
                    self.mapped(inserted);
                }
                Some(Source::Watched(..)) => self.touch(relation, None, Some(new), Event::Insert)?,
                Some(Source::Passed) | None => {}
            },
            Message::Update { relation, old, new } => match self.relations.get(&relation) {
                Some(Source::Users(mapped)) => {
                    let (mut old_cells, mut new_cells) = (Vec::new(), Vec::new());
                    if let Some(old) = old {
                        old.read_into(mapped.plan.decoded(), &mapped.relation.columns, &mut old_cells)?;
                    }
                    new.read_into(mapped.plan.decoded(), &mut new_cells)?;
                    let old_cells = old.map(|_| &old_cells[..]);
                    let Some(transaction) = self.transaction else { return Ok(()) };
                    let out = &mut self.out;
                    // What follows a delete within one update is the user's coming to another tenant.
                    let mut is_create = false;
                    if S::WANTS_ROWS {
                        let before = old_cells.map(|old| mapped.plan.insert(old));
                        // And so is what was no user before.
                        is_create = matches!(before, Some(Ok(None)));
                        let before = before.and_then(|before| before.ok().flatten());
                        out.sink.begin_row(before.map(|(_, user)| user));
                    }
                    let mut emit = |tenant: TenantRef<'_>, change: Change| {
                        is_create |= matches!(change, Change::Delete { .. });
                        out.add(transaction, tenant, change, IsCreate::known(is_create));
                    };
                    let updated = mapped.plan.update(old_cells, &new_cells, transaction.commit, &mut emit);
                    self.mapped(updated);
                }
                Some(Source::Watched(..)) => self.touch(relation, old, Some(new), Event::Update)?,
                Some(Source::Passed) | None => {}
            },
            Message::Delete { relation, old } => match self.relations.get(&relation) {
                Some(Source::Users(mapped)) => {
                    let mut cells = Vec::new();
                    old.read_into(mapped.plan.decoded(), &mapped.relation.columns, &mut cells)?;
                    let Some(transaction) = self.transaction else { return Ok(()) };
                    let out = &mut self.out;
                    if S::WANTS_ROWS {
                        out.sink.begin_row(mapped.plan.insert(&cells).ok().flatten().map(|(_, user)| user));
                    }
                    let mut emit = |tenant: TenantRef<'_>, change| out.add(transaction, tenant, change, IsCreate::No);
                    let deleted = mapped.plan.delete(&cells, transaction.commit, &mut emit);
                    self.mapped(deleted);
                }
                Some(Source::Watched(..)) => self.touch(relation, Some(old), None, Event::Delete)?,
                Some(Source::Passed) | None => {}
            },
            Message::Truncate { relations } => {
                let is_ours = |source: &Source| !matches!(source, Source::Passed);
                if relations.iter().filter_map(|relation| self.relations.get(relation)).any(is_ours) {
                    tracing::warn!("the table was truncated at the source: every tenant is resynced");
                    self.out.sink.interrupt(RestartSignal::Truncated);
                }
            }
            Message::Relation(relation) => self.announced = Some(relation),
            Message::Origin | Message::Type | Message::Logical => {}
        }
        Ok(())
    }

    /// Takes a change of a watched table: whom the old row touched, and whom the new one does.
    fn touch(
        &mut self,
        relation: Oid,
        old: Option<OldTuple<'_>>,
        new: Option<Tuple<'_>>,
        event: Event,
    ) -> Result<(), ServiceError> {
        let (Some(Source::Watched(relation, watched)), Some(transaction)) =
            (self.relations.get(&relation), self.transaction)
        else {
            return Ok(());
        };
        let mut affected = Ok(());
        for watched in watched {
            let mut cells = Vec::new();
            if let Some(old) = old {
                old.read_into(watched.plan.decoded(), &relation.columns, &mut cells)?;
                affected = affected.and(self.affected.touch(watched, &cells, event, transaction));
            }
            if let Some(new) = new {
                cells.clear();
                new.read_into(watched.plan.decoded(), &mut cells)?;
                affected = affected.and(self.affected.touch(watched, &cells, event, transaction));
            }
        }
        self.mapped(affected);
        Ok(())
    }

    /// Says what could not be mapped. A change that cannot be attributed costs everybody a resync.
    fn mapped(&mut self, result: Result<(), Unmappable>) {
        let position = self.transaction.map(|transaction| transaction.commit_lsn);
        match result {
            Ok(()) => {}
            Err(Unmappable::Identity { columns, remedy }) => {
                tracing::error!(
                    columns,
                    remedy,
                    "a delete could not be attributed, the replica identity lacks columns: every tenant is resynced"
                );
                self.out.sink.interrupt(RestartSignal::Unattributed);
            }
            Err(unmappable) => {
                if let Some(so_far) = self.context.count_unmappable() {
                    let position = position.map(tracing::field::display);
                    tracing::error!(so_far, reason = %unmappable, position, "a row is left out");
                }
            }
        }
    }

    /// What takes I/O or time, before the next frame is taken.
    async fn process_pending(&mut self) -> Result<(), ServiceError> {
        if let Some(relation) = self.announced.take() {
            self.compile(relation).await?;
        }
        if !self.out.unsent.is_empty() {
            self.learn_tenants().await?;
        }
        if self.affected.is_full() {
            self.affected.resolve(&mut self.out, &self.context).await?;
        }
        self.out.sink.wait_for_capacity().await
    }

    async fn resolve_affected(&mut self) -> Result<(), ServiceError> {
        self.affected.resolve(&mut self.out, &self.context).await?;
        self.out.sink.wait_for_capacity().await
    }

    async fn compile(&mut self, relation: Relation) -> Result<(), ServiceError> {
        let context = self.context.clone();
        let rules = &context.config.users;
        let oid = relation.oid;
        if !rules.tables().contains(&&relation.table) {
            self.relations.insert(oid, Source::Passed);
            return Ok(());
        }
        if let Some(transaction) = self.transaction {
            // A transaction can be streamed before it is visible: the catalog would be the one before it.
            Reading::begin(&self.client, &[transaction.commit.xid]).await?.end().await?;
        }
        if rules.query.is_some() {
            // What was gathered was gathered under the version before.
            self.affected.resolve(&mut self.out, &context).await?;
            let watched = compile_watched(&self.client, rules, &relation).await?;
            watched
                .iter()
                .for_each(|watched| complain(&watched.plan.identity_gap().join(", "), watched.plan.identity_remedy()));
            self.relations.insert(oid, Source::Watched(relation, watched));
            return self.look_for_alteration(None).await;
        }
        let mapped = match compile(&self.client, rules, relation).await {
            Ok(mapped) => mapped,
            Err(ServiceError::Mapping(error)) => {
                // What the slot still has to send may be older than the configuration. What the table is now decides.
                let now = fingerprint(rules, &compile_current(&self.client, rules).await?);
                tracing::warn!(%error, "an older version of the table is passed over: every tenant is resynced");
                self.out.sink.altered(&now);
                self.relations.insert(oid, Source::Passed);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.look_for_alteration(Some(fingerprint(rules, &mapped))).await?;
        complain(&mapped.plan.identity_gap().join(", "), mapped.plan.identity_remedy());
        self.relations.insert(oid, Source::Users(Box::new(mapped)));
        Ok(())
    }

    /// Whether rows are made in another way than so far. `announced` may be that of an older version that the slot still
    /// has to send: what the table is now decides.
    async fn look_for_alteration(&mut self, announced: Option<String>) -> Result<(), ServiceError> {
        let rules = &self.context.config.users;
        let mapping = self.out.sink.mapping();
        if announced.is_some_and(|announced| announced == *mapping) {
            return Ok(());
        }
        let now = fingerprint(rules, &compile_current(&self.client, rules).await?);
        if now != *mapping {
            tracing::warn!(table = %rules.table, "the table was altered: every tenant is resynced");
            self.out.sink.altered(&now);
        }
        Ok(())
    }

    /// Changes that do not say whose they are: the rows are read, and take the changes' place.
    async fn learn_tenants(&mut self) -> Result<(), ServiceError> {
        let unsent = std::mem::take(&mut self.out.unsent);
        let Some(transaction) = self.transaction else { return Ok(()) };
        let CommitInfo { commit_time, xid } = transaction.commit;
        let request = |change: &Change| ReadRequest { id: change.id().into(), xid, at: commit_time };
        let requests: Vec<ReadRequest> = unsent.iter().map(request).collect();
        let read = self.context.rereader.read(&self.context.config, &requests).await?;
        self.context.live.metrics.rereads.inc_by(requests.len() as u64);
        for ReadUser { tenant, user, .. } in read.users {
            let tenant = tenant.map_or(TenantRef::Only, |key| TenantRef::Key(key.into()));
            self.out.add(transaction, tenant, Change::Upsert(user), IsCreate::No);
        }
        Ok(())
    }
}

/// Says once per relation version what its replica identity lacks.
fn complain(columns: &str, remedy: &str) {
    if !columns.is_empty() {
        tracing::error!(columns, remedy, "the replica identity lacks columns: a delete will cost a resync");
    }
}
