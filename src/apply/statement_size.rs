//! How many rows one statement may write into a target, so that it ends within the target's time limits.
//!
//! Our sessions override the timeouts of the role and of the database. A pooler, a proxy or an administrator may still end a
//! statement: then the next ones have fewer rows. After some of them a larger one is tried. If it fits, the fault is over,
//! and each statement doubles the size; if not, the next attempt comes after twice as many statements.

use crate::model::Change;
use crate::sync::lock;
use std::sync::Mutex;

/// A statement of this size needs no limit: a batch has no more users.
const FULL: usize = 2_048;
/// Statements that fit before a larger one is tried, which may end the connection.
const FIRST_PATIENCE: u32 = 8;
/// The same after a larger one that fitted.
const GROWING: u32 = 1;
const MAX_PATIENCE: u32 = 1_024;

/// The size of a tenant's statements. It outlasts the connection, which a time limit may end.
#[derive(Default)]
pub(crate) struct StatementSize(Mutex<Size>);

struct Size {
    /// `usize::MAX` without a limit.
    rows: usize,
    /// Statements of this size that fitted.
    fitted: u32,
    patience: u32,
    /// The size was doubled, and no statement of it has ended yet.
    is_new: bool,
    /// Statements since the last one that fitted whose connection broke.
    lost: u32,
    /// The row that alone took too long.
    stuck: Option<Change>,
}

impl Default for Size {
    fn default() -> Size {
        Size { rows: usize::MAX, fitted: 0, patience: FIRST_PATIENCE, is_new: false, lost: 0, stuck: None }
    }
}

impl StatementSize {
    /// The largest number of rows; `usize::MAX` without a limit.
    pub(crate) fn rows(&self) -> usize {
        lock(&self.0).rows
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.rows() < usize::MAX
    }

    /// A statement with `rows` rows ended in time.
    pub(crate) fn fitted(&self, rows: usize) {
        let mut size = lock(&self.0);
        size.lost = 0;
        if rows < size.rows {
            return;
        }
        if std::mem::take(&mut size.is_new) {
            size.patience = GROWING;
        }
        size.fitted += 1;
        if size.fitted >= size.patience {
            (size.fitted, size.is_new) = (0, true);
            size.rows = if size.rows * 2 < FULL { size.rows * 2 } else { usize::MAX };
        }
    }

    /// Statements without a limit ended in time, so their size did not break the connections before.
    pub(crate) fn answered(&self) {
        lock(&self.0).lost = 0;
    }

    /// A statement with `rows` rows was cancelled: the next ones have half of them.
    pub(crate) fn too_slow(&self, rows: usize) {
        lock(&self.0).limit(rows / 2);
    }

    /// The connection broke while a statement with `rows` rows ran. Once may be chance, unless the size is new.
    pub(crate) fn lost(&self, rows: usize) {
        let mut size = lock(&self.0);
        size.lost += 1;
        if size.is_new && size.rows < usize::MAX {
            size.limit(rows / 2);
        } else if size.lost > 1 {
            size.limit(rows / 4);
        }
    }

    /// A statement got no answer. How many rows it had is not known.
    pub(crate) fn unanswered(&self) {
        let mut size = lock(&self.0);
        let rows = size.rows.min(FULL) / 4;
        size.limit(rows);
    }

    /// This row alone takes too long.
    pub(crate) fn stuck_at(&self, change: &Change) {
        lock(&self.0).stuck = Some(change.clone());
    }

    /// Takes the row that alone took too long.
    pub(crate) fn take_stuck(&self) -> Option<Change> {
        lock(&self.0).stuck.take()
    }
}

impl Size {
    fn limit(&mut self, rows: usize) {
        self.rows = self.rows.min(rows).max(1);
        self.fitted = 0;
        self.patience = match std::mem::take(&mut self.is_new) {
            true => (self.patience * 2).clamp(2 * FIRST_PATIENCE, MAX_PATIENCE),
            false => self.patience.max(FIRST_PATIENCE),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes rows into a target that takes at most `limit` of them at once. Returns how many statements were too slow.
    fn write(size: &StatementSize, rows: usize, limit: usize) -> usize {
        let (mut left, mut slow) = (rows, 0);
        while left > 0 {
            let part = size.rows().min(left).min(FULL);
            if part > limit {
                size.too_slow(part);
                slow += 1;
            } else {
                size.fitted(part);
                left -= part;
            }
        }
        slow
    }

    #[test]
    fn statements_shrink_until_they_fit_and_rarely_try_more() {
        for limit in [1, 2, 5, 100, 2_000] {
            let size = StatementSize::default();
            assert!(write(&size, FULL, limit) <= 11 + FULL / limit / 16 + 1, "{limit}");
            assert!(size.is_limited());
            let slow = write(&size, 100_000 * limit, limit);
            assert!(slow <= 210, "{slow} for {limit}");
        }
    }

    #[test]
    fn the_limit_ends_once_full_statements_fit_again() {
        let size = StatementSize::default();
        write(&size, FULL, 3);
        write(&size, 100_000, usize::MAX);
        assert!(!size.is_limited());
    }

    #[test]
    fn after_a_short_fault_each_statement_but_the_first_ones_doubles_the_size() {
        let size = StatementSize::default();
        let statements = |size: &StatementSize| {
            let sizes = (0..100).map_while(|_| size.is_limited().then(|| size.fitted(size.rows())));
            sizes.count()
        };
        // Down to one row, and connections that broke.
        (0..11).for_each(|n| size.too_slow(FULL >> n));
        assert_eq!((size.rows(), statements(&size)), (1, 8 + 10));
        let size = StatementSize::default();
        (0..3).for_each(|_| size.lost(FULL));
        assert_eq!((size.rows(), statements(&size)), (512, 8 + 1));
    }

    #[test]
    fn one_lost_connection_changes_nothing_and_more_of_them_do() {
        let size = StatementSize::default();
        size.lost(1_000);
        assert!(!size.is_limited());
        size.fitted(1_000);
        size.lost(1_000);
        assert!(!size.is_limited());
        size.lost(1_000);
        assert_eq!(size.rows(), 250);
        size.unanswered();
        assert_eq!(size.rows(), 62);
    }
}
