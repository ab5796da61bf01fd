//! Reads the slot: frames are decoded, mapped and dispatched, one task for all tenants. Reading stops for a while
//! where a tenant has no room; status updates do not (`confirm`).

use super::ServiceError;
use super::dispatch::{Dispatch, Transaction};
use super::plans::{Mapped, compile, compile_current, fingerprint};
use super::reread::Wanted;
use super::shared::Shared;
use crate::capture::pgoutput::{DecodeError, Message, parse_message};
use crate::capture::{CaptureError, Frame, ReplicationReader};
use crate::map::{Moment, TenantRef, Unmappable};
use crate::model::{Change, Oid, Relation};
use crate::pg::PgClient;
use crate::route::Interrupt;
use crate::state::TenantState;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// So many frames in one read say that the source has more to send than we are waiting for.
const BUSY: usize = 32;
/// Then it is left alone for a moment: it sends every message on its own, and each one that meets a sleeping reader
/// costs both sides a wake-up.
const GATHER: Duration = Duration::from_millis(1);

/// While one tenant alone is waited for: others may have begun to follow.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The source answers every status update, once a second; a source that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);

pub(super) struct Stream {
    shared: Arc<Shared>,
    reader: ReplicationReader,
    /// For the catalog: what types are.
    client: PgClient,
    /// By id; `None` for tables that are published but not mapped. A relation version lives as long as a session.
    relations: HashMap<Oid, Option<Mapped>>,
    transaction: Option<Transaction>,
    dispatch: Dispatch,
    /// A relation version that was announced and not yet compiled.
    announced: Option<Relation>,
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, reader: ReplicationReader, client: PgClient) -> Stream {
        Stream {
            dispatch: Dispatch::new(&shared),
            shared,
            reader,
            client,
            relations: HashMap::new(),
            transaction: None,
            announced: None,
        }
    }

    /// Reads until it is told to drain, or the source ends the stream.
    pub(super) async fn run(mut self) -> Result<(), ServiceError> {
        let drain = self.shared.drain.clone();
        loop {
            let frame = tokio::select! {
                biased;
                () = drain.cancelled() => return Ok(()),
                frame = timeout(SILENCE, self.reader.next()) => frame.map_err(|_| CaptureError::Closed)??,
            };
            let mut next = Some(frame);
            let mut frames = 0;
            while let Some(frame) = next {
                frames += 1;
                if self.take(frame)? {
                    tokio::select! {
                        biased;
                        () = drain.cancelled() => return Ok(()),
                        settled = self.settle() => settled?,
                    }
                }
                next = self.reader.try_next()?;
            }
            if frames >= BUSY {
                sleep(GATHER).await;
            }
        }
    }

    /// Takes one frame; whether there is something to be settled before the next one.
    fn take(&mut self, frame: Frame) -> Result<bool, ServiceError> {
        match frame {
            Frame::XLogData { data, .. } => self.message(parse_message(&data)?)?,
            Frame::Keepalive { wal_end, reply_requested, .. } => {
                if self.transaction.is_none() {
                    self.shared.progress().idle(wal_end);
                }
                if reply_requested {
                    self.shared.report.notify_one();
                }
            }
            Frame::Ended => return Err(CaptureError::Closed.into()),
        }
        Ok(self.announced.is_some() || !self.dispatch.unsent.is_empty() || !self.dispatch.crowded.is_empty())
    }

    fn message(&mut self, message: Message<'_>) -> Result<(), ServiceError> {
        match message {
            Message::Begin { commit_lsn, commit_time, xid } => {
                self.transaction = Some(Transaction { commit_lsn, moment: Moment { commit_time, xid } });
            }
            Message::Commit { end_lsn, .. } => {
                if let Some(transaction) = self.transaction.take() {
                    self.dispatch.commit(&self.shared, transaction, end_lsn);
                }
            }
            Message::Insert { relation, new } => self.change(relation, |mapped, _, emit| {
                let mut cells = Vec::new();
                new.read_into(mapped.plan.decoded(), &mut cells)?;
                Ok(mapped.plan.insert(&cells).map(|(tenant, change)| emit(tenant, change)))
            })?,
            Message::Update { relation, old, new } => self.change(relation, |mapped, moment, emit| {
                let (mut old_cells, mut new_cells) = (Vec::new(), Vec::new());
                if let Some(old) = old {
                    old.read_into(mapped.plan.decoded(), &mapped.relation.columns, &mut old_cells)?;
                }
                new.read_into(mapped.plan.decoded(), &mut new_cells)?;
                let old_cells = old.map(|_| &old_cells[..]);
                Ok(mapped.plan.update(old_cells, &new_cells, moment, &mut |tenant, change| emit(tenant, change)))
            })?,
            Message::Delete { relation, old } => self.change(relation, |mapped, moment, emit| {
                let mut cells = Vec::new();
                old.read_into(mapped.plan.decoded(), &mapped.relation.columns, &mut cells)?;
                Ok(mapped.plan.delete(&cells, moment, &mut |tenant, change| emit(tenant, change)))
            })?,
            Message::Truncate { relations } => {
                if relations.iter().any(|relation| matches!(self.relations.get(relation), Some(Some(_)))) {
                    tracing::warn!("the table was truncated at the source: every tenant is resynced");
                    self.shared.interrupt_all(Interrupt::Truncated);
                }
            }
            Message::Relation(relation) => self.announced = Some(relation),
            Message::Origin | Message::Type | Message::Logical => {}
        }
        Ok(())
    }

    /// Maps one change of the mapped table with `map`; tables that are only published pass by.
    fn change(
        &mut self,
        relation: Oid,
        map: impl FnOnce(
            &Mapped,
            Moment,
            &mut dyn FnMut(TenantRef<'_>, Change),
        ) -> Result<Result<(), Unmappable>, DecodeError>,
    ) -> Result<(), ServiceError> {
        let (Some(Some(mapped)), Some(transaction)) = (self.relations.get(&relation), self.transaction) else {
            return Ok(());
        };
        let (dispatch, shared) = (&mut self.dispatch, &self.shared);
        let mut emit = |tenant: TenantRef<'_>, change: Change| dispatch.add(shared, transaction, tenant, change);
        match map(mapped, transaction.moment, &mut emit)? {
            Ok(()) => {}
            Err(Unmappable::Identity { columns, remedy }) => {
                tracing::error!(
                    columns,
                    remedy,
                    "a delete could not be attributed, the replica identity lacks columns: every tenant is resynced"
                );
                shared.interrupt_all(Interrupt::Unattributed);
            }
            Err(unmappable) => {
                if let Some(so_far) = shared.count_unmappable() {
                    tracing::error!(so_far, reason = %unmappable, position = %transaction.commit_lsn, "a row is left out");
                }
            }
        }
        Ok(())
    }

    /// What takes I/O or time, before the next frame is taken.
    async fn settle(&mut self) -> Result<(), ServiceError> {
        if let Some(relation) = self.announced.take() {
            self.compile(relation).await?;
        }
        if !self.dispatch.unsent.is_empty() {
            self.learn_tenants().await?;
        }
        for index in std::mem::take(&mut self.dispatch.crowded) {
            wait_for_room(&self.shared, index).await;
        }
        Ok(())
    }

    async fn compile(&mut self, relation: Relation) -> Result<(), ServiceError> {
        let rules = &self.shared.config.users;
        if relation.table != rules.table {
            self.relations.insert(relation.oid, None);
            return Ok(());
        }
        let oid = relation.oid;
        let mapped = match compile(&self.client, rules, relation).await {
            Ok(mapped) => mapped,
            Err(ServiceError::Mapping(error)) => {
                // What the slot still has to send may be older than the configuration. What the table is now decides.
                let now = fingerprint(rules, &compile_current(&self.client, rules).await?);
                tracing::warn!(%error, "an older version of the table is passed over: every tenant is resynced");
                self.shared.set_mapping(&now);
                self.shared.interrupt_all(Interrupt::Altered);
                self.relations.insert(oid, None);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if fingerprint(rules, &mapped) != *self.shared.mapping() {
            // It may be an older version that the slot still has to send: what the table is now decides.
            let now = fingerprint(rules, &compile_current(&self.client, rules).await?);
            if now != *self.shared.mapping() {
                tracing::warn!(table = %rules.table, "the table was altered: every tenant is resynced");
                self.shared.set_mapping(&now);
                self.shared.interrupt_all(Interrupt::Altered);
            }
        }
        if let [_, ..] = mapped.plan.identity_gap() {
            let (columns, remedy) = (mapped.plan.identity_gap().join(", "), mapped.plan.identity_remedy());
            tracing::error!(columns, remedy, "the replica identity lacks columns: a delete will cost a resync");
        }
        self.relations.insert(mapped.relation.oid, Some(mapped));
        Ok(())
    }

    /// Changes that do not say whose they are: the rows are read, and take the changes' place.
    async fn learn_tenants(&mut self) -> Result<(), ServiceError> {
        let unsent = std::mem::take(&mut self.dispatch.unsent);
        let Some(transaction) = self.transaction else { return Ok(()) };
        let wanted = unsent.iter().map(|change| Wanted {
            id: change.id().into(),
            xid: transaction.moment.xid,
            at: transaction.moment.commit_time,
        });
        let found = self.shared.rereader.read(&self.shared.config, &wanted.collect::<Vec<_>>()).await?;
        for (key, user) in found.users {
            let tenant = key.map_or(TenantRef::Only, |key| TenantRef::Key(key.into()));
            self.dispatch.add(&self.shared, transaction, tenant, Change::Upsert(user));
        }
        Ok(())
    }
}

/// Waits while the tenant is over its budget. Where others follow, they wait for `limits.stall` at most: past that
/// the tenant has to start over.
async fn wait_for_room(shared: &Shared, index: usize) {
    let lane = &shared.tenants[index];
    let deadline = Instant::now() + shared.config.limits.stall;
    while lane.mailbox.over_budget() {
        let others = shared.tenants.iter().enumerate().filter(|(other, _)| *other != index);
        if !others.map(|(_, lane)| lane.state()).any(|state| state == TenantState::Following) {
            // It holds up nobody; its own task parks it once its target has been away for too long.
            let _ = timeout(LOOK_AGAIN, lane.mailbox.drained()).await;
        } else if timeout_at(deadline, lane.mailbox.drained()).await.is_err() && lane.mailbox.over_budget() {
            shared.interrupt(index, Interrupt::OverBudget);
        }
    }
}
