//! The statements of one connection, each with the plan that the server keeps for it. Pure.

use super::batch::Parts;
use crate::pg::Repeated;
use std::collections::HashMap;

/// Rows after which statements are planned again. The plan for an empty table reads all of it for each batch, and the server
/// keeps that plan until autovacuum analyzes the table.
const FIRST_REPLAN: usize = 1000;
/// How many times as many rows are sent until the next time.
const REPLAN_FACTOR: usize = 8;

/// The statements by their parts.
#[derive(Debug)]
pub(super) struct BatchStatements {
    by_parts: HashMap<Parts, Repeated>,
    /// Rows sent since they were planned.
    sent: usize,
    replan_after: usize,
}

impl BatchStatements {
    pub(super) fn new() -> BatchStatements {
        BatchStatements { by_parts: HashMap::new(), sent: 0, replan_after: FIRST_REPLAN }
    }

    /// The statement that sends `rows` rows. `text` writes it.
    pub(super) fn next(&mut self, parts: Parts, rows: usize, text: impl FnOnce() -> String) -> &mut Repeated {
        if self.sent > self.replan_after {
            self.forget();
            self.replan_after = self.replan_after.saturating_mul(REPLAN_FACTOR);
        }
        self.sent += rows;
        self.by_parts.entry(parts).or_insert_with(|| Repeated::new(text()))
    }

    /// Plans them again: the table may have another size.
    pub(super) fn forget(&mut self) {
        self.by_parts.clear();
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::notify::Notify;

    #[test]
    fn statements_are_planned_again_while_the_table_grows_from_nothing() {
        let mut statements = BatchStatements::new();
        let parts = Parts {
            upserts: true,
            patches: false,
            deletes: false,
            single: false,
            chunk: false,
            signs: false,
            notify: Notify::Off,
        };
        let mut planned = Vec::new();
        for sent in (0..10_000_000).step_by(500) {
            statements.next(parts, 500, || {
                planned.push(sent);
                String::new()
            });
        }
        assert_eq!(planned, [0, 1500, 10_000, 74_500, 587_000, 4_683_500]);
    }
}
