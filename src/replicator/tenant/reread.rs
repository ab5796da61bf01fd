//! Changes that the stream did not carry whole: the users are read from the source, and the stream catches up.
//!
//! A reading is ahead of the stream. Were it written alone, a target would hold what its checkpoint does not know, and
//! after a crash older changes would turn the user back for a moment. So the changes up to the reading's position go
//! into the same batch, as far as memory and a second allow.

use crate::model::{Change, Lsn, RetryCause};
use crate::replicator::source::point_read::{PointReadResult, ReadRequest, ReadUser};
use crate::replicator::tenant::Worker;
use crate::replicator::tenant::outcome::StopReason;
use crate::route::Batch;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Past this many re-read users the memory of them is given up.
const SEEN_AT_MOST: usize = 10_000;
/// What the stream brings meanwhile may have to be read, too; so often at most.
const ROUNDS: usize = 4;
const CATCH_UP: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(1);

impl Worker {
    /// Drops changes that a newer reading of the user has seen. For batches that come from the mailbox: what a
    /// reading has brought into a batch must not be taken for older than that reading.
    pub(crate) fn drop_what_was_seen(&self, batch: &mut Batch) {
        if !self.seen.is_empty() {
            let is_seen = |found: &Arc<PointReadResult>, xid| found.seen.contains(xid);
            batch.entries.retain(|id, entry| !self.seen.get(id).is_some_and(|found| is_seen(found, entry.xid)));
        }
    }

    /// The stream is past these readings: none of what they saw is still to come.
    pub(crate) fn forget_readings_before(&mut self, position: Lsn) {
        self.seen.retain(|_, found| found.position > position);
    }

    /// Replaces what has to be read from the source by what was read.
    pub(crate) async fn resolve(&mut self, batch: &mut Batch) -> Result<(), StopReason> {
        for _ in 0..ROUNDS {
            let Some(position) = self.read_wanted(batch).await? else { return Ok(()) };
            if batch.end.is_some() {
                self.catch_up(batch, position).await;
            }
        }
        self.read_wanted(batch).await.map(drop)
    }

    /// Reads the users that have to be read; gives the position of the reading, where there was one.
    async fn read_wanted(&mut self, batch: &mut Batch) -> Result<Option<Lsn>, StopReason> {
        let wanted: Vec<ReadRequest> = batch.entries.values().filter_map(|entry| read_request(&entry.change)).collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let found = self.context.rereader.read(&self.context.config, &wanted).await;
        let mut found = found
            .map_err(|error| StopReason::Retry { cause: RetryCause::SourceReadFailed, reason: error.to_string() })?;
        self.context.live.metrics.rereads.inc_by(wanted.len() as u64);
        let users = std::mem::take(&mut found.users);
        let found = Arc::new(found);
        if self.seen.len() + wanted.len() > SEEN_AT_MOST {
            self.seen.clear();
        }
        let key = self.lane().tenant.key.clone();
        for ReadUser { tenant, user, .. } in users {
            let ours = tenant.is_none_or(|tenant| tenant == key.as_str());
            if let Some(entry) = batch.entries.get_mut(&user.id).filter(|_| ours) {
                entry.change = Change::Upsert(user);
            }
        }
        for user in wanted {
            let Some(entry) = batch.entries.get(&user.id) else { continue };
            if matches!(entry.change, Change::Reread { .. }) {
                self.seen.remove(&user.id);
                if self.context.config.users.filter.is_some() {
                    // It may be there and no user any more; nothing else will say so.
                    let gone = Change::Delete { id: user.id.clone(), at: user.at };
                    batch.entries.entry(user.id).and_modify(|entry| entry.change = gone);
                } else {
                    // Not there any more, or another tenant's: the change that says so is still to come.
                    batch.entries.remove(&user.id);
                }
            } else {
                self.seen.insert(user.id, found.clone());
            }
        }
        Ok(Some(found.position))
    }

    /// Takes what the stream brings up to `position` into the batch.
    async fn catch_up(&self, batch: &mut Batch, position: Lsn) {
        let (context, mailbox) = (&self.context, &self.lane().mailbox);
        let deadline = Instant::now() + CATCH_UP;
        // The answer tells how far the source has sent, also where there is nothing for us.
        context.report.notify_one();
        while context.progress().received() < position
            && !mailbox.over_budget()
            && Instant::now() < deadline
            && !context.drain.is_cancelled()
        {
            sleep(LOOK_EVERY).await;
        }
        while let Some(mut next) = mailbox.try_next_whole() {
            self.drop_what_was_seen(&mut next);
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
        Change::Reread { id, xid, at } => Some(ReadRequest { id: id.clone(), xid: *xid, at: *at }),
        Change::Upsert(_) | Change::Patch(_) | Change::Delete { .. } => None,
    }
}
