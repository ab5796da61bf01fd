//! Counts the tenants that may soon request a snapshot, so that they share one scan.

use std::sync::Arc;

/// Each tenant that may request a snapshot holds a clone until it has requested one, or knows that it needs none.
#[derive(Clone, Default)]
pub(crate) struct ExpectedJoins(Arc<()>);

impl ExpectedJoins {
    pub(crate) fn is_any(&self) -> bool {
        // One clone is the session's own.
        Arc::strong_count(&self.0) > 1
    }
}
