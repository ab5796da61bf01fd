//! Why a reader of the spool does not get all users of a scan. Pure.

/// Why a reader does not get all users of a scan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Interruption {
    /// The scan ended early; its own error is logged.
    #[error("the snapshot was interrupted")]
    BrokenOff,
    /// Another session waited for a lock of the scan.
    #[error("its snapshot was aborted: another session waits for a lock that the scan of the source blocks")]
    LockAwaited,
    /// The reader was the slowest one.
    #[error("the spool is full, and its target takes users more slowly than the others; raise spool.size")]
    SpoolFull,
    /// A file of the spool cannot be read.
    #[error("its part of the spool cannot be read: {0}")]
    Unreadable(String),
}
