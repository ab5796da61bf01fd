//! Which offset of a partition can be committed: one before which every tenant holds everything. Pure.

use crate::model::Lsn;
use std::collections::VecDeque;

/// Past this many boundaries, a new one replaces the last: an offset is then committed later, and never too early.
const MAX_BOUNDARIES: usize = 100_000;

/// The ends of transactions that were read, in the order of the partition.
#[derive(Debug, Default)]
pub(crate) struct Boundaries {
    ends: VecDeque<Boundary>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Boundary {
    /// Everything before `offset` belongs to transactions that end at or before this position.
    position: Lsn,
    offset: i64,
}

impl Boundaries {
    /// Everything before `offset` has been handed to the tenants, and ends at or before `position`.
    pub(crate) fn add(&mut self, position: Lsn, offset: i64) {
        if self.ends.back().is_some_and(|last| last.position == position) || self.ends.len() >= MAX_BOUNDARIES {
            self.ends.pop_back();
        }
        self.ends.push_back(Boundary { position, offset });
    }

    /// Takes the offset that can be committed, if there is a new one: every tenant holds everything up to `confirmed`, or needs
    /// none of it.
    pub(crate) fn take(&mut self, confirmed: Lsn) -> Option<i64> {
        let count = self.ends.iter().take_while(|end| end.position <= confirmed).count();
        self.ends.drain(..count).next_back().map(|end| end.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
