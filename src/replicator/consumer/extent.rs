//! What a rebuild reads: the last message of each user, up to a point at which no transaction is open. Pure.

use crate::model::{Generation, IdHash, Lsn, TenantIdx};
use crate::tee::{RecordOrigin, RecordPlace};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// The part of a partition from which tenants are rebuilt.
pub(crate) struct Extent {
    generation: Generation,
    /// The end of the partition when the rebuild began.
    wanted_end: i64,
    /// The offset after the last message that belongs to it.
    end: i64,
    /// The transaction that is being read: the start of its commit record, and its end once a message is marked.
    open: Option<(Lsn, Option<Lsn>)>,
    /// The position that the rows are the state of: every transaction up to here was read whole.
    position: Lsn,
    tenants: HashMap<TenantIdx, TenantExtent>,
}

struct TenantExtent {
    /// The tenant's snapshot begins here or later.
    from: i64,
    last: HashMap<IdHash, Last>,
    /// The number of users whose last message has a value.
    rows: usize,
}

/// The last message of a user.
#[derive(Clone, Copy)]
struct Last {
    offset: i64,
    has_value: bool,
}

/// A message of a tenant that is being rebuilt.
pub(crate) struct OwnMessage<'a> {
    pub(crate) tenant: TenantIdx,
    pub(crate) user: &'a str,
    pub(crate) has_value: bool,
}

impl Extent {
    /// `end` is that of the partition, and what is before it covers `position` at least; each tenant comes with the offset from which its
    /// snapshot is complete.
    pub(crate) fn new(
        generation: Generation,
        end: i64,
        position: Lsn,
        tenants: impl IntoIterator<Item = (TenantIdx, i64)>,
    ) -> Extent {
        let tenant = |(tenant, from)| (tenant, TenantExtent { from, last: HashMap::new(), rows: 0 });
        let tenants = tenants.into_iter().map(tenant).collect();
        Extent { generation, wanted_end: end, end: 0, open: None, position, tenants }
    }

    /// The offset of the first message that is needed.
    pub(crate) fn from(&self) -> i64 {
        self.tenants.values().map(|tenant| tenant.from).min().unwrap_or_default()
    }

    /// Whether nothing has to be read.
    pub(crate) fn is_empty(&self) -> bool {
        self.from() >= self.wanted_end
    }

    /// Takes the next message. Breaks if it lies after the end.
    pub(crate) fn add(&mut self, offset: i64, place: &RecordPlace, own: Option<OwnMessage<'_>>) -> ControlFlow<()> {
        if place.generation > self.generation {
            return ControlFlow::Break(());
        }
        let transaction = match place.origin {
            RecordOrigin::Transaction(transaction) if place.generation == self.generation => Some(transaction),
            RecordOrigin::Transaction(_) | RecordOrigin::Snapshot(_) | RecordOrigin::Single => None,
        };
        // A snapshot can come between the parts of a transaction that was published in several.
        let continues = self.open.is_some_and(|(commit, end)| match transaction {
            Some(found) => found.commit == commit,
            None => end.is_none(),
        });
        if !continues {
            self.finish();
            if offset >= self.wanted_end {
                return ControlFlow::Break(());
            }
        }
        if let Some(transaction) = transaction {
            let (_, end) = self.open.get_or_insert((transaction.commit, None));
            *end = end.or(transaction.end);
        }
        self.end = offset + 1;
        if let Some(OwnMessage { tenant, user, has_value }) = own
            && let Some(extent) = self.tenants.get_mut(&tenant).filter(|extent| offset >= extent.from)
        {
            let before = extent.last.insert(IdHash::of(user), Last { offset, has_value });
            extent.rows -= usize::from(before.is_some_and(|before| before.has_value));
            extent.rows += usize::from(has_value);
        }
        ControlFlow::Continue(())
    }

    /// The transaction whose rest is missing: the start of its commit record.
    pub(crate) fn open(&self) -> Option<Lsn> {
        self.open.map(|(commit, _)| commit)
    }

    /// Everything that is committed has been read. Breaks if no transaction is open: one with a mark has no further parts.
    pub(crate) fn end_reached(&mut self) -> ControlFlow<()> {
        if self.open.is_some_and(|(_, end)| end.is_none()) {
            return ControlFlow::Continue(());
        }
        self.finish();
        ControlFlow::Break(())
    }

    /// No further messages of the open transaction will come.
    pub(crate) fn finish(&mut self) {
        if let Some((commit, end)) = self.open.take() {
            // Without a mark, what was committed before the commit record is known to be there.
            self.position = self.position.max(end.unwrap_or(commit));
        }
    }

    /// The position that the rows are the state of; zero if no transaction was read.
    pub(crate) fn position(&self) -> Lsn {
        self.position
    }

    /// The offset after the last message that belongs to it.
    pub(crate) fn end(&self) -> i64 {
        self.end
    }

    /// The number of users that are there.
    pub(crate) fn rows(&self) -> usize {
        self.tenants.values().map(|tenant| tenant.rows).sum()
    }

    /// Whether it has a message of the user.
    pub(crate) fn has(&self, tenant: TenantIdx, user: &str) -> bool {
        self.tenants.get(&tenant).is_some_and(|extent| extent.last.contains_key(&IdHash::of(user)))
    }

    /// Whether the message at `offset` is the last one of the user, and has a value.
    pub(crate) fn is_row(&self, tenant: TenantIdx, user: &str, offset: i64) -> bool {
        let last = self.tenants.get(&tenant).and_then(|extent| extent.last.get(&IdHash::of(user)));
        last.is_some_and(|last| last.offset == offset && last.has_value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ByTenant, Timestamp};
    use crate::tee::RecordTransaction;

    const SNAPSHOT: RecordOrigin = RecordOrigin::Snapshot(Lsn(5));

    fn change(commit: u64, end: Option<u64>) -> RecordOrigin {
        RecordOrigin::Transaction(RecordTransaction { commit: Lsn(commit), end: end.map(Lsn), is_last: false })
    }

    fn place(origin: RecordOrigin) -> RecordPlace {
        RecordPlace { generation: Generation(1), origin, at: Timestamp(0) }
    }

    /// Feeds messages (offset, origin, user) of one tenant; `!` before a user marks a message without a value. Returns the extent
    /// and the offset of the message that it ended at.
    fn extent(from: i64, end: i64, messages: &[(i64, RecordOrigin, &str)]) -> (TenantIdx, Extent, Option<i64>) {
        let tenant = ByTenant::<()>::default().push(());
        let mut extent = Extent::new(Generation(1), end, Lsn::ZERO, [(tenant, from)]);
        for (offset, origin, user) in messages {
            let own = OwnMessage { tenant, user: user.trim_start_matches('!'), has_value: !user.starts_with('!') };
            if extent.add(*offset, &place(*origin), Some(own)).is_break() {
                return (tenant, extent, Some(*offset));
            }
        }
        (tenant, extent, None)
    }

    #[test]
    fn the_last_message_of_a_user_counts() {
        let messages = [
            (2, change(1, Some(2)), "old"),
            (3, SNAPSHOT, "a"),
            (4, SNAPSHOT, "b"),
            (5, change(10, Some(11)), "a"),
            (6, change(20, Some(21)), "!b"),
        ];
        let (tenant, mut extent, ended) = extent(3, 7, &messages);
        assert_eq!((ended, extent.end_reached()), (None, ControlFlow::Break(())));
        assert_eq!((extent.rows(), extent.position(), extent.end()), (1, Lsn(21), 7));
        assert!(extent.is_row(tenant, "a", 5) && !extent.is_row(tenant, "a", 3));
        assert!(!extent.is_row(tenant, "b", 6) && !extent.is_row(tenant, "old", 2));
    }

    #[test]
    fn a_transaction_that_is_open_at_the_end_is_read_whole() {
        // Two parts of a split transaction. The end of the partition was between them.
        let parts = [(0, change(10, Some(11)), "a"), (1, change(20, None), "b"), (3, change(20, Some(21)), "c")];
        let (tenant, mut found, ended) = extent(0, 2, &parts);
        assert_eq!(ended, None);
        assert_eq!(found.end_reached(), ControlFlow::Break(()));
        assert_eq!((found.rows(), found.position()), (3, Lsn(21)));
        assert!(found.is_row(tenant, "c", 3));
        let (_, mut open, _) = extent(0, 2, &parts[..2]);
        assert_eq!(open.end_reached(), ControlFlow::Continue(()), "its last part is still to come");
        // Compaction has removed the message with the mark.
        let (_, found, ended) = extent(0, 2, &[parts[0], parts[1], (4, change(30, Some(31)), "d")]);
        assert_eq!((ended, found.position(), found.rows()), (Some(4), Lsn(20), 2));
    }

    #[test]
    fn a_snapshot_between_the_parts_of_a_transaction_does_not_end_it() {
        let parts = [(0, change(20, None), "a"), (1, SNAPSHOT, "b"), (2, change(20, Some(21)), "c")];
        let (_, mut found, _) = extent(0, 3, &parts);
        assert_eq!(found.end_reached(), ControlFlow::Break(()));
        assert_eq!(found.position(), Lsn(21));
        let (_, mut open, _) = extent(0, 2, &parts[..2]);
        assert_eq!(open.end_reached(), ControlFlow::Continue(()));
        assert_eq!(open.open(), Some(Lsn(20)));
        open.finish();
        assert_eq!((open.open(), open.position()), (None, Lsn(20)));
    }

    #[test]
    fn messages_after_the_end_belong_to_the_stream() {
        let (tenant, found, ended) = extent(0, 2, &[(0, change(10, Some(11)), "a"), (5, change(20, Some(21)), "a")]);
        assert_eq!((ended, found.position(), found.end()), (Some(5), Lsn(11), 1));
        assert!(found.is_row(tenant, "a", 0));
    }

    #[test]
    fn another_generation_ends_it() {
        let tenant = ByTenant::<()>::default().push(());
        let mut extent = Extent::new(Generation(1), 9, Lsn::ZERO, [(tenant, 0)]);
        let newer = RecordPlace { generation: Generation(2), ..place(SNAPSHOT) };
        assert!(extent.add(0, &newer, None).is_break());
        assert!(!extent.is_empty() && Extent::new(Generation(1), 9, Lsn::ZERO, [(tenant, 9)]).is_empty());
    }
}
