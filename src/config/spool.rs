//! The section `spool`. Pure.

use super::key_types::Size;
use super::section::section;

section! {
    /// Where the users of a snapshot wait for slow targets.
    ///
    /// A snapshot reads the source at its own pace, so that its transaction ends whatever targets do. What targets have not
    /// taken yet waits in memory, up to an eighth of `limits.memory`, and then compressed in files.
    ///
    /// ```yaml
    /// spool: {directory: /var/lib/users-sync/spool, size: 4GB}
    /// ```
    pub struct Spool {
        /// An existing directory that users-sync may write to. Its files have no name and are readable by this user only: they
        /// are gone after a crash, too. Without a directory, a snapshot that does not fit into memory is read at the pace of
        /// its targets.
        pub directory: Option<String>,
        /// Disk space that the files may take. If it is used up, the slowest tenants leave the snapshot and join later. A
        /// comparison (`verify`) may take as much again.
        pub size: u64 as Size = "4GB",
    }
}
