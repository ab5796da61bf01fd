//! Records in the state what is published, so that the positions topic can be compared with it.

use crate::model::Lsn;
use crate::replicator::session::context::SessionContext;
use crate::replicator::tee::batcher::PublishProgress;
use crate::replicator::tee::error::TeeError;
use crate::state::{StateError, TeePublished};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::sleep;

/// Interval of the records. A crash in between does no harm: a later position of this installation is believed.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a session publishes, and what of it is recorded.
pub(crate) struct Recorder {
    pub(crate) progress: Arc<PublishProgress>,
    pub(crate) published: TeePublished,
    /// The position at which the session's stream began.
    pub(crate) begun: Lsn,
    /// Once everything before this position is published, the failure of the last session is overcome. `None` if there is none.
    pub(crate) confirm_at: Option<Lsn>,
}

impl Recorder {
    /// Records until an error.
    pub(crate) async fn run(&mut self, context: &SessionContext) -> Result<(), TeeError> {
        loop {
            sleep(INTERVAL).await;
            self.record(context).await?;
        }
    }

    pub(crate) fn say_streaming(position: Lsn) {
        tracing::info!(%position, "Kafka output up to date, streaming");
    }

    /// Whether the session published a part of the stream.
    pub(crate) fn has_progressed(&self) -> bool {
        self.progress.positions().confirmed > self.begun
    }

    /// Records what is published by now, and clears a failure that is overcome.
    pub(crate) async fn record(&mut self, context: &SessionContext) -> Result<(), StateError> {
        let position = self.progress.positions().confirmed;
        if position > self.published.position {
            self.published.position = position;
            context.state.put_published(&self.published).await?;
        }
        if self.confirm_at.take_if(|at| position >= *at).is_some() {
            self.progress.is_failing.store(false, Ordering::Relaxed);
            context.note_tee(None).await?;
            Recorder::say_streaming(position);
        }
        Ok(())
    }
}
