//! Rows that a target refuses: recognises the error, and finds the rows in a batch. Pure.

use super::reject_reason::RejectReason;
use crate::model::UserId;
use crate::model::clip;
use crate::pg::SqlStateClass;
use std::ops::Range;

/// Why a target refuses a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The error's SQLSTATE.
    pub(crate) sqlstate: String,
    pub(crate) reason: RejectReason,
}

/// A user whose row a target refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedUser {
    pub(crate) id: UserId,
    pub(crate) refusal: Refusal,
}

impl Refusal {
    /// The refusal in an error of [`SqlStateClass::RowRefused`]; `None` for any other error.
    pub(crate) fn of(error: &tokio_postgres::Error) -> Option<Refusal> {
        let error = error.as_db_error()?;
        let code = error.code().code();
        is_refusal(code).then(|| Refusal { sqlstate: clip(code).into_owned(), reason: RejectReason::of(error) })
    }

    /// A BEFORE trigger returned NULL. The code is `no_data`, as there is no error.
    pub(crate) fn skipped() -> Refusal {
        Refusal { sqlstate: "02000".to_owned(), reason: RejectReason::Skipped }
    }

    /// The user is marked as deleted, and its row gave a unique value to a live one.
    pub(super) fn gave_way() -> Refusal {
        Refusal { sqlstate: UNIQUE.to_owned(), reason: RejectReason::GaveWay }
    }

    /// Whether another user's row stands in the way: a unique or an exclusion constraint.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(&*self.sqlstate, UNIQUE | EXCLUSION)
    }

    /// The index that found the conflict, if the server itself named it.
    pub(super) fn violated_index(&self) -> Option<&str> {
        match &self.reason {
            RejectReason::Constraint { name, table: None } if self.is_conflict() => Some(name),
            _ => None,
        }
    }

    /// Whether the row alone decides: what else the table holds does not matter.
    pub(super) fn is_of_row(&self) -> bool {
        use RejectReason::*;
        match &self.reason {
            NotNull { .. } | Encoding | Number | Time | Index { .. } | Depth | Limit | Value => true,
            Constraint { .. } => self.sqlstate == CHECK,
            CheckOption | Code | Skipped | GaveWay => false,
        }
    }
}

const UNIQUE: &str = "23505";
const EXCLUSION: &str = "23P01";
const CHECK: &str = "23514";

fn is_refusal(sqlstate: &str) -> bool {
    SqlStateClass::of(sqlstate) == SqlStateClass::RowRefused
}

/// Finds the refused items of a batch by bisection: try each [`Bisection::next_part`], and report it with
/// [`Bisection::refused`] if it was refused.
#[derive(Debug)]
pub(crate) struct Bisection {
    to_try: Vec<Range<usize>>,
}

impl Bisection {
    /// Starts with a batch of this many items that was refused as a whole.
    pub(crate) fn new(items: usize) -> Bisection {
        let mut bisection = Bisection { to_try: Vec::new() };
        bisection.halve(0..items);
        bisection
    }

    /// The next part to try, from left to right.
    pub(crate) fn next_part(&mut self) -> Option<Range<usize>> {
        self.to_try.pop()
    }

    /// Reports a refused part. Returns the refused item if the part has only one; otherwise its halves are
    /// tried.
    pub(crate) fn refused(&mut self, range: Range<usize>) -> Option<usize> {
        match range.len() {
            1 => Some(range.start),
            _ => {
                self.halve(range);
                None
            }
        }
    }

    fn halve(&mut self, range: Range<usize>) {
        let middle = range.start + range.len() / 2;
        let halves = [middle..range.end, range.start..middle];
        self.to_try.extend(halves.into_iter().filter(|half| !half.is_empty()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn only_row_errors_are_refusals() {
        for code in ["23505", "23514", "23503", "22P02", "P0001", "44000", "27000"] {
            assert!(is_refusal(code), "{code}");
        }
        for code in ["42501", "42P01", "40001", "53100", "57014", "25006", "08006", "XX000", ""] {
            assert!(!is_refusal(code), "{code}");
        }
    }

    proptest! {
        #[test]
        fn bisection_finds_exactly_the_refused_rows_in_order_and_logarithmic_time(
            items in 1usize..3000,
            picks in prop::collection::btree_set(0usize..3000, 0..12),
        ) {
            let bad: BTreeSet<usize> = picks.into_iter().filter(|at| *at < items).collect();
            let (mut found, mut taken, mut tries) = (Vec::new(), Vec::new(), 0);
            let mut bisection = Bisection::new(items);
            while let Some(range) = bisection.next_part() {
                tries += 1;
                match bad.range(range.clone()).next() {
                    None => taken.extend(range),
                    Some(_) => found.extend(bisection.refused(range)),
                }
            }
            prop_assert_eq!(found, bad.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(taken, (0..items).filter(|at| !bad.contains(at)).collect::<Vec<_>>());
            let depth = items.next_power_of_two().ilog2() as usize;
            prop_assert!(tries <= 2 + 2 * bad.len() * depth, "{tries} tries for {} of {items}", bad.len());
        }
    }
}
