//! Rows that a target refuses: recognises the error, and finds the rows in a batch. Pure.

use super::reject_reason::{RejectReason, is_of_escape};
use crate::model::UserId;
use crate::model::clip;
use crate::pg::{SqlStateClass, is_full_notify_queue, is_raised};
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
    /// The refusal in an error that a row can cause; `None` for any other error.
    pub(crate) fn of(error: &tokio_postgres::Error) -> Option<Refusal> {
        let error = error.as_db_error()?;
        let code = error.code().code();
        is_refusal(code, error.routine(), error.where_().is_some())
            .then(|| Refusal { sqlstate: clip(code).into_owned(), reason: RejectReason::of(error) })
    }

    /// A BEFORE trigger returned NULL. The code is `no_data`, as there is no error.
    pub(crate) fn skipped() -> Refusal {
        Refusal { sqlstate: "02000".to_owned(), reason: RejectReason::Skipped }
    }

    /// A BEFORE trigger changed the id. The code is that of a trigger whose rows are not those of its statement.
    pub(crate) fn strayed() -> Refusal {
        Refusal { sqlstate: "27000".to_owned(), reason: RejectReason::Strayed }
    }

    /// The source has several rows with this id. The code is `cardinality_violation`.
    pub(crate) fn duplicate() -> Refusal {
        Refusal { sqlstate: "21000".to_owned(), reason: RejectReason::Duplicate }
    }

    /// The row cannot be mapped. The code is `data_exception`.
    pub(crate) fn unmappable(why: &str) -> Refusal {
        Refusal { sqlstate: "22000".to_owned(), reason: RejectReason::Unmappable(why.to_owned()) }
    }

    /// The user is marked as deleted, and its row gave a unique value to a live one.
    pub(super) fn gave_way() -> Refusal {
        Refusal { sqlstate: UNIQUE.to_owned(), reason: RejectReason::GaveWay }
    }

    /// Whether another user's row stands in the way: a unique or an exclusion constraint.
    pub(crate) fn is_conflict(&self) -> bool {
        is_conflict(&self.sqlstate)
    }

    /// The index that found the conflict, if the server itself named it.
    pub(super) fn violated_index(&self) -> Option<&str> {
        match &self.reason {
            RejectReason::Constraint { name, table: None } if self.is_conflict() => Some(name),
            _ => None,
        }
    }

    /// Whether the row alone decides: what else the table holds does not matter.
    pub(crate) fn is_of_row(&self) -> bool {
        use RejectReason::*;
        match &self.reason {
            NotNull { .. }
            | Encoding
            | Number
            | Time
            | Index { .. }
            | Depth
            | Limit
            | Value
            | Duplicate
            | Unmappable(_) => true,
            Constraint { .. } => self.sqlstate == CHECK,
            CheckOption | Code | Skipped | Strayed | GaveWay => false,
        }
    }
}

/// Whether the code is that of a unique or an exclusion constraint.
pub(super) fn is_conflict(sqlstate: &str) -> bool {
    matches!(sqlstate, UNIQUE | EXCLUSION)
}

const UNIQUE: &str = "23505";
const EXCLUSION: &str = "23P01";
const CHECK: &str = "23514";

/// Whether a row can cause the error. A limit or a code of the application's own is one of the row as long as bisection finds
/// it. A full queue of notifications is not: every row would be refused.
///
/// An error with a context is one of a trigger, a function or a value's conversion; the same code without a context is one of
/// our statement. RAISE with a code that passes on its own is a refusal too: refused rows are tried again.
fn is_refusal(sqlstate: &str, routine: Option<&str>, has_context: bool) -> bool {
    use SqlStateClass::*;
    match SqlStateClass::of(sqlstate) {
        ProgramLimit => !is_full_notify_queue(sqlstate, routine),
        RowRefused | RoutineFailure | ApplicationDefined => true,
        Privilege | MissingSchema | MissingTable | MissingColumn | Statement | Other => {
            has_context || is_of_escape(routine)
        }
        Transient | LockNotAvailable => is_raised(routine),
        InsufficientResources
        | TooManyConnections
        | ConfigurationLimit
        | ReadOnly
        | InvalidPassword
        | Login
        | MissingDatabase => false,
    }
}

/// Rows that are tried on their own before a batch that may exceed the limit is bisected.
const SAMPLES: usize = 64;

/// If at least one of six items was refused lately, items are tried one by one: parts of them would cost more statements.
const DENSE: usize = 6;
/// Items that have to be decided before that is known.
const DENSE_AFTER: usize = 8;
/// Older decisions count less.
const LATELY: usize = 256;

/// Finds the refused items of a batch by bisection: try each [`Bisection::next_part`], and report it with
/// [`Bisection::refused`] if it was refused.
#[derive(Debug)]
pub(crate) struct Bisection {
    to_try: Vec<Range<usize>>,
    /// The number of items that may be refused.
    allowed: usize,
    /// There are more items.
    is_large: bool,
    refused: usize,
    /// Samples that have not been tried.
    samples: usize,
    all_refused: bool,
    /// The part that is being tried.
    tried: Option<Range<usize>>,
    /// Items that were decided lately, and those of them that were refused.
    lately: (usize, usize),
}

impl Bisection {
    /// Starts with a batch of this many items that was refused as a whole, of which at most `allowed` may be left out.
    ///
    /// A batch of more items begins with a sample: if nothing of it is accepted, the cause is not in single rows, and they
    /// are not all tried.
    pub(crate) fn new(items: usize, allowed: usize) -> Bisection {
        let is_large = items > allowed;
        let samples = if is_large { items.min(SAMPLES) } else { 0 };
        let to_try = Vec::new();
        let mut bisection = Bisection {
            to_try,
            allowed,
            is_large,
            refused: 0,
            samples,
            all_refused: true,
            tried: None,
            lately: (0, 0),
        };
        if !is_large {
            bisection.halve(0..items);
            return bisection;
        }
        let starts: Vec<usize> = (0..=samples).map(|n| n * items / samples).collect();
        let rests = starts.windows(2).rev().map(|chunk| chunk[0] + 1..chunk[1]).filter(|rest| !rest.is_empty());
        bisection.to_try.extend(rests);
        bisection.to_try.extend(starts[..samples].iter().rev().map(|at| *at..*at + 1));
        bisection
    }

    /// The next part to try, of at most `rows` items.
    pub(crate) fn next_part(&mut self, rows: usize) -> Option<Range<usize>> {
        if let Some(accepted) = self.tried.take() {
            self.all_refused = false;
            self.samples = self.samples.saturating_sub(1);
            self.decided(accepted.len(), 0);
        }
        self.tried = self.to_try.pop().map(|part| {
            let end = part.end.min(part.start.saturating_add(rows));
            if end < part.end {
                self.to_try.push(end..part.end);
            }
            part.start..end
        });
        self.tried.clone()
    }

    /// Items to try one by one, while most parts of them would be refused.
    pub(crate) fn next_singles(&mut self, most: usize) -> Option<Range<usize>> {
        let (decided, refused) = self.lately;
        if most == 0 || decided < DENSE_AFTER || refused * DENSE < decided {
            return None;
        }
        let single = self.next_part(most)?;
        self.tried = None;
        Some(single)
    }

    /// Reports an item of [`Bisection::next_singles`].
    pub(crate) fn tried_single(&mut self, is_refused: bool) {
        self.refused += usize::from(is_refused);
        self.all_refused &= is_refused;
        self.samples = self.samples.saturating_sub(1);
        self.decided(1, usize::from(is_refused));
    }

    /// These items were not tried after all.
    pub(crate) fn again(&mut self, range: Range<usize>) {
        self.to_try.push(range);
    }

    fn decided(&mut self, items: usize, refused: usize) {
        self.lately.0 += items;
        self.lately.1 += refused;
        if self.lately.0 > LATELY {
            self.lately = (self.lately.0 / 2, self.lately.1 / 2);
        }
    }

    /// The part that is being tried takes too long, and is not known to be refused. It comes again, in smaller parts.
    pub(crate) fn too_slow(&mut self) {
        self.to_try.extend(self.tried.take());
    }

    /// Reports a refused part. Returns the refused item if the part has only one; otherwise its halves are
    /// tried.
    pub(crate) fn refused(&mut self, range: Range<usize>) -> Option<usize> {
        self.tried = None;
        match range.len() {
            1 => {
                self.refused += 1;
                self.samples = self.samples.saturating_sub(1);
                self.decided(1, 1);
                Some(range.start)
            }
            _ => {
                self.halve(range);
                None
            }
        }
    }

    /// Whether more items are refused than may be, as far as has been tried.
    pub(crate) fn exceeds(&self) -> bool {
        self.refused > self.allowed || self.is_large && self.samples == 0 && self.all_refused
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
            assert!(is_refusal(code, None, false), "{code}");
        }
        for code in ["54000", "54001", "54011", "54023", "45000", "ZZ999", "38000"] {
            assert!(is_refusal(code, None, false), "{code}");
        }
        for code in ["42501", "42P01", "0A000"] {
            assert!(!is_refusal(code, None, false), "{code}");
            assert!(is_refusal(code, None, true), "{code}");
        }
        assert!(is_refusal("0A000", Some("pg_unicode_to_server"), false));
        for code in ["40001", "40P01", "57014", "08006", "55P03", "XX000"] {
            assert!(!is_refusal(code, None, true), "{code}");
            assert!(is_refusal(code, Some("exec_stmt_raise"), true), "{code}");
        }
        for code in ["53100", "25006", "28000"] {
            assert!(!is_refusal(code, Some("exec_stmt_raise"), true), "{code}");
        }
        assert!(!is_refusal("54000", Some("PreCommit_Notify"), false), "no row is at fault");
    }

    /// Bisects items of which some are refused: the refused ones, the accepted ones, and the number of tries. At most `singles`
    /// items are tried one by one at once.
    fn bisect(items: usize, bad: &BTreeSet<usize>, singles: usize) -> (Vec<usize>, Vec<usize>, usize) {
        let (mut found, mut taken, mut tries) = (Vec::new(), Vec::new(), 0);
        let mut bisection = Bisection::new(items, usize::MAX);
        loop {
            if let Some(range) = bisection.next_singles(singles) {
                for at in range {
                    tries += 1;
                    bisection.tried_single(bad.contains(&at));
                    if bad.contains(&at) { found.push(at) } else { taken.push(at) }
                }
                continue;
            }
            let Some(range) = bisection.next_part(usize::MAX) else { break };
            tries += 1;
            match bad.range(range.clone()).next() {
                None => taken.extend(range),
                Some(_) => found.extend(bisection.refused(range)),
            }
        }
        (found, taken, tries)
    }

    proptest! {
        #[test]
        fn bisection_finds_exactly_the_refused_rows_in_order_and_logarithmic_time(
            items in 1usize..3000,
            picks in prop::collection::btree_set(0usize..3000, 0..12),
        ) {
            let bad: BTreeSet<usize> = picks.into_iter().filter(|at| *at < items).collect();
            let (found, taken, tries) = bisect(items, &bad, 0);
            prop_assert_eq!(found, bad.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(taken, (0..items).filter(|at| !bad.contains(at)).collect::<Vec<_>>());
            let depth = items.next_power_of_two().ilog2() as usize;
            prop_assert!(tries <= 2 + 2 * bad.len() * depth, "{tries} tries for {} of {items}", bad.len());
        }

        #[test]
        fn many_refused_rows_cost_one_statement_each(
            items in 1usize..3000,
            refused_of_ten in 3u8..=10,
            seed in any::<u64>(),
        ) {
            let mut random = fastrand::Rng::with_seed(seed);
            let bad: BTreeSet<usize> = (0..items).filter(|_| random.u8(..10) < refused_of_ten).collect();
            let (found, taken, tries) = bisect(items, &bad, 30);
            prop_assert_eq!(found, bad.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(taken, (0..items).filter(|at| !bad.contains(at)).collect::<Vec<_>>());
            prop_assert!(tries <= items + items / 8 + 64, "{tries} tries for {} of {items}", bad.len());
        }

        #[test]
        fn parts_that_take_too_long_come_again_in_smaller_ones(
            items in 1usize..3000,
            fitting in 1usize..50,
            picks in prop::collection::btree_set(0usize..3000, 0..12),
        ) {
            let bad: BTreeSet<usize> = picks.into_iter().filter(|at| *at < items).collect();
            let (mut found, mut taken, mut rows) = (Vec::new(), Vec::new(), usize::MAX);
            let mut bisection = Bisection::new(items, usize::MAX);
            while let Some(range) = bisection.next_part(rows) {
                prop_assert!(range.len() <= rows);
                if range.len() > fitting {
                    rows = range.len() / 2;
                    bisection.too_slow();
                } else if bad.range(range.clone()).next().is_none() {
                    taken.extend(range);
                } else {
                    found.extend(bisection.refused(range));
                }
            }
            prop_assert_eq!(found, bad.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(taken, (0..items).filter(|at| !bad.contains(at)).collect::<Vec<_>>());
        }

        #[test]
        fn a_batch_that_is_refused_as_a_whole_is_given_up_after_a_sample(
            items in 1usize..3000,
            allowed in 0usize..1000,
            accepted in prop::collection::btree_set(0usize..3000, 0..3000),
        ) {
            let accepted: BTreeSet<usize> = accepted.into_iter().filter(|at| *at < items).collect();
            let bad = items - accepted.len();
            let (mut found, mut tries) = (0, 0);
            let mut bisection = Bisection::new(items, allowed);
            while !bisection.exceeds() && let Some(range) = bisection.next_part(usize::MAX) {
                tries += 1;
                if range.clone().any(|at| !accepted.contains(&at)) {
                    found += usize::from(bisection.refused(range).is_some());
                }
            }
            if bad == items && items > allowed {
                prop_assert!(bisection.exceeds() && tries <= SAMPLES, "{tries} tries");
            }
            if bad <= allowed && accepted.len() * SAMPLES >= items * SAMPLES.ilog2() as usize {
                prop_assert!(!bisection.exceeds() && found == bad, "{found} of {bad}");
            }
            prop_assert!(found <= allowed + 1, "{found} of {allowed}");
        }
    }
}
