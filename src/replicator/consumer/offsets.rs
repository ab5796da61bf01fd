//! Which offset of a partition can be committed: one before which every tenant holds everything. Pure.

use crate::model::Lsn;
use std::collections::VecDeque;

/// Past this many boundaries, a new one replaces the last: an offset is then committed later, and never too early.
const MAX_BOUNDARIES: usize = 100_000;

/// The ends of transactions that were read, in the order of the partition.
#[derive(Debug, Default)]
pub(crate) struct Boundaries {
    ends: VecDeque<Boundary>,
    /// Everything before this offset has been handed to the tenants.
    read_to: i64,
    /// It belongs to transactions that end at or before this position.
    position: Lsn,
    /// The offset that was taken last.
    taken: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Boundary {
    /// Everything before `offset` belongs to transactions that end at or before this position.
    position: Lsn,
    offset: i64,
}

impl Boundaries {
    /// For a partition that is read from `start` on.
    pub(crate) fn new(start: i64) -> Boundaries {
        Boundaries { ends: VecDeque::new(), read_to: start, position: Lsn::ZERO, taken: start }
    }

    /// Everything before this offset has been handed to the tenants.
    pub(crate) fn read_to(&self) -> i64 {
        self.read_to
    }

    /// The offset that can be committed, as it was taken last.
    pub(crate) fn taken(&self) -> i64 {
        self.taken
    }

    /// Everything before `offset` has been handed to the tenants, and ends at or before `position`.
    pub(crate) fn add(&mut self, position: Lsn, offset: i64) {
        let offset = offset.max(self.read_to);
        if self.ends.back().is_some_and(|last| last.position == position) || self.ends.len() >= MAX_BOUNDARIES {
            self.ends.pop_back();
        }
        self.ends.push_back(Boundary { position, offset });
        (self.read_to, self.position) = (offset, position);
    }

    /// The partition has nothing to read from [`Boundaries::read_to`], which was `from`, up to `to`: records that end transactions, or
    /// those of aborted transactions.
    pub(crate) fn skip(&mut self, from: i64, to: i64) {
        if self.read_to == from {
            self.add(self.position, to);
        }
    }

    /// Takes the offset that can be committed, if there is a new one: every tenant holds everything up to `confirmed`, or needs
    /// none of it.
    pub(crate) fn take(&mut self, confirmed: Lsn) -> Option<i64> {
        let count = self.ends.iter().take_while(|end| end.position <= confirmed).count();
        let offset = self.ends.drain(..count).next_back()?.offset;
        self.taken = offset;
        Some(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_ends_a_transaction_in_the_topic_is_passed() {
        let mut ends = Boundaries::new(3);
        ends.add(Lsn(10), 5);
        ends.skip(3, 6);
        assert_eq!(ends.read_to(), 5, "a message was read meanwhile");
        ends.skip(5, 6);
        assert_eq!((ends.read_to(), ends.take(Lsn(9)), ends.take(Lsn(10)), ends.taken()), (6, None, Some(6), 6));
        ends.add(Lsn(10), 5);
        assert_eq!((ends.read_to(), ends.take(Lsn(10))), (6, Some(6)), "an offset never goes back");
    }

    #[test]
    fn the_offset_follows_the_confirmed_position() {
        let mut ends = Boundaries::default();
        ends.add(Lsn(0), 3);
        assert_eq!((ends.take(Lsn(0)), ends.take(Lsn(0))), (Some(3), None));
        for (position, offset) in [(10, 5), (20, 9), (20, 10), (30, 12)] {
            ends.add(Lsn(position), offset);
        }
        assert_eq!(ends.take(Lsn(9)), None);
        assert_eq!(ends.take(Lsn(25)), Some(10));
        assert_eq!(ends.take(Lsn(30)), Some(12));
    }

    proptest! {
        #[test]
        fn no_offset_is_taken_before_what_precedes_it_is_confirmed(
            steps in proptest::collection::vec((0_u64..3, 1_i64..3), 1..50),
            confirmed in 0_u64..150,
        ) {
            let mut ends = Boundaries::default();
            let (mut position, mut offset, mut expected) = (0, 0, None);
            for (by, messages) in steps {
                position += by;
                offset += messages;
                ends.add(Lsn(position), offset);
                if position <= confirmed {
                    expected = Some(offset);
                }
            }
            prop_assert_eq!(ends.take(Lsn(confirmed)), expected);
        }
    }
}
