//! Changes that the stream did not carry whole: their users are read from the source.
//!
//! A point read is ahead of the stream. Written alone, it would give the target what its checkpoint does not cover, and after
//! a crash older changes would turn the user back for a moment. So the changes up to the position of the read join the same
//! batch, within the limits of memory and [`CATCH_UP_TIMEOUT`].

use crate::clock::{self, now};
use crate::model::{Change, Lsn, RetryCause, UserId, Xid};
use crate::replicator::error::ServiceError;
use crate::replicator::source::point_read::{ReadRequest, ReadUser};
use crate::replicator::tenant::outcome::StopReason;
use crate::replicator::tenant::phase::ApplyState;
use crate::replicator::tenant::target::Connector;
use crate::replicator::tenant::worker::Worker;
use crate::route::{Batch, Entry};
use crate::state::StateAccess;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Point reads are forgotten past this many users, to bound their memory.
const MAX_SEEN_USERS: usize = 10_000;
/// Changes that join the batch may need a point read, too. Later rounds do not extend the batch any more.
const MAX_ROUNDS: usize = 4;
/// Maximum time that a batch waits for the stream to reach a point read.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval at which the received position is compared with that of the read.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// Replaces point reads in the batch by the users as they were read.
    pub(super) async fn resolve(&self, apply: &mut ApplyState, batch: &mut Batch) -> Result<(), StopReason> {
        for _ in 0..MAX_ROUNDS {
            let Some(position) = self.read_users(apply, batch).await? else { return Ok(()) };
            if batch.end.is_some() {
                self.catch_up(apply, batch, position).await;
            }
        }
        self.read_users(apply, batch).await.map(drop)
    }

    /// Reads the users of the batch that need it. Returns the position of the read, if there was one.
    async fn read_users(&self, apply: &mut ApplyState, batch: &mut Batch) -> Result<Option<Lsn>, StopReason> {
        let requests: Vec<ReadRequest> =
            batch.entries.values().filter_map(|entry| read_request(&entry.change)).collect();
        if requests.is_empty() {
            return Ok(None);
        }
        let read = self.context.rereader.read(&self.context.config, &requests).await;
        let mut read = read.map_err(|error| StopReason::retry(RetryCause::SourceReadFailed, error.to_string()))?;
        self.context.status.metrics.rereads.inc_by(requests.len() as u64);
        let users = std::mem::take(&mut read.users);
        let read = Arc::new(read);
        if apply.seen.len() + requests.len() > MAX_SEEN_USERS {
            apply.seen.clear();
        }
        let key = self.handle.tenant.key.as_str();
        for ReadUser { tenant, user, .. } in users {
            let is_ours = tenant.is_none_or(|tenant| tenant == key);
            if let Some(entry) = batch.entries.get_mut(&user.id).filter(|_| is_ours) {
                entry.change = Change::Upsert(user);
            }
        }
        for request in requests {
            let Some(entry) = batch.entries.get_mut(&request.id) else { continue };
            let Change::Reread { deleted_if_absent, .. } = entry.change else {
                apply.seen.insert(request.id, read.clone());
                continue;
            };
            apply.seen.remove(&request.id);
            if deleted_if_absent || self.context.config.users.filter.is_some() {
                // The row may exist without matching the filter, and then no later change deletes the user.
                entry.change = Change::Delete { id: request.id, at: request.at };
            } else {
                // The row was deleted, or moved to another tenant: a later change does the same here.
                batch.entries.remove(&request.id);
            }
        }
        Ok(Some(read.position))
    }

    /// A batch of these users as the source has them now, with what the stream brings up to there. Those of the absent users
    /// for whom `is_deleted` holds are deleted. Users whom the purge has removed, or will, are not brought back.
    pub(super) async fn read_again(
        &self,
        apply: &mut ApplyState,
        ids: &[String],
        is_deleted: impl Fn(&str) -> bool,
    ) -> Result<Batch, ServiceError> {
        let mut read = self.context.rereader.read_ids(&self.context.config, ids).await?;
        self.context.status.metrics.rereads.inc_by(ids.len() as u64);
        let users = std::mem::take(&mut read.users);
        let read = Arc::new(read);
        if apply.seen.len() + ids.len() > MAX_SEEN_USERS {
            apply.seen.clear();
        }
        let key = self.handle.tenant.key.as_str();
        let purged_before = self.context.config.purge_after.and_then(clock::ago);
        let mut batch = Batch { end: Some(apply.position), ..Batch::default() };
        let mut add = |change: Change| {
            let id: UserId = change.id().into();
            // Without bytes: it never waited in the mailbox.
            batch.entries.insert(id, Entry { change, commit_lsn: apply.position, xid: Xid(0) });
        };
        for id in ids {
            if is_deleted(id) {
                add(Change::Delete { id: id.as_str().into(), at: now() });
            }
            apply.seen.insert(id.as_str().into(), read.clone());
        }
        for ReadUser { tenant, mut user, .. } in users {
            let is_purged = user.deleted_at.is_some_and(|at| Some(at) < purged_before);
            if tenant.is_none_or(|tenant| tenant == key) && !is_purged {
                if user.updated_at_derived {
                    user.updated_at = Some(now());
                }
                add(Change::Upsert(user));
            }
        }
        self.catch_up(apply, &mut batch, read.position).await;
        Ok(batch)
    }

    /// Adds what the stream brings up to `position` to the batch.
    async fn catch_up(&self, apply: &ApplyState, batch: &mut Batch, position: Lsn) {
        let (context, mailbox) = (&self.context, &self.handle.mailbox);
        let deadline = Instant::now() + CATCH_UP_TIMEOUT;
        // The source answers with its position, even if it has nothing to send.
        context.report.notify_one();
        while context.progress().received() < position
            && !mailbox.over_budget()
            && Instant::now() < deadline
            && !context.drain.is_cancelled()
        {
            sleep(POLL_INTERVAL).await;
        }
        while let Some(mut next) = mailbox.try_next_whole() {
            apply.drop_seen(&mut next);
            let bytes = batch.bytes + next.bytes;
            for entry in next.entries.into_values() {
                batch.add(entry);
            }
            (batch.end, batch.bytes) = (next.end, bytes);
            batch.transactions += next.transactions;
        }
    }
}

fn read_request(change: &Change) -> Option<ReadRequest> {
    match change {
        Change::Reread { id, xid, at, .. } => Some(ReadRequest { id: id.clone(), xid: *xid, at: *at }),
        Change::Upsert(_) | Change::Patch(_) | Change::Delete { .. } => None,
    }
}
