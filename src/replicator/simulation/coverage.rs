//! Counts what happens in the simulation, so that it cannot pass without showing anything.

/// How often what the simulation is for has happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Coverage {
    pub(crate) merges: u64,
    pub(crate) batches: u64,
    pub(crate) chunked: u64,
    /// Statements that were executed without an answer to their sender.
    pub(crate) unanswered: u64,
    /// Statements that the guard refused.
    pub(crate) refused: u64,
    /// Statements of a process whose source went back.
    pub(crate) outdated: u64,
    /// Targets that were opened.
    pub(crate) opened: u64,
    /// Tenants that were parked.
    pub(crate) parked: u64,
    /// Workers of paused tenants that have stopped.
    pub(crate) paused: u64,
    /// Workers that began again for a tenant without a task.
    pub(crate) roused: u64,
    /// Sessions that ended in an error.
    pub(crate) failed_sessions: u64,
    /// Panics of a tenant's worker.
    pub(crate) panics: u64,
    /// Checkpoints that the owner of a target has changed.
    pub(crate) tampered: u64,
}

impl Coverage {
    pub(crate) fn add(&mut self, mut more: Coverage) {
        for (count, more) in self.counts().into_iter().zip(more.counts()) {
            *count += *more;
        }
    }

    /// The count of what has happened least.
    pub(crate) fn smallest(mut self) -> u64 {
        self.counts().into_iter().map(|count| *count).min().unwrap_or(0)
    }

    fn counts(&mut self) -> [&mut u64; 13] {
        let Coverage {
            merges,
            batches,
            chunked,
            unanswered,
            refused,
            outdated,
            opened,
            parked,
            paused,
            roused,
            failed_sessions,
            panics,
            tampered,
        } = self;
        [
            merges,
            batches,
            chunked,
            unanswered,
            refused,
            outdated,
            opened,
            parked,
            paused,
            roused,
            failed_sessions,
            panics,
            tampered,
        ]
    }
}
