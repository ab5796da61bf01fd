//! Tenants that may soon ask for a snapshot.

use std::sync::Arc;

/// Tenants that may soon ask for a snapshot: each holds a clone until it has asked, or knows that it need not.
#[derive(Clone, Default)]
pub(crate) struct OnTheirWay(Arc<()>);

impl OnTheirWay {
    pub(crate) fn is_anybody(&self) -> bool {
        // One is the session's own.
        Arc::strong_count(&self.0) > 1
    }
}
