//! The section `limits`. Pure.

use super::key_types::{DurationText, MemorySize, Percent, Size};
use super::section::{KeyType, Reader, section};
use super::yaml::Node;
use std::time::Duration;

section! {
    /// Limits of memory, time and retained WAL.
    ///
    /// A tenant that exceeds a limit is parked: it delays no other tenant, and later starts again with a snapshot.
    ///
    /// ```yaml
    /// limits: {source_wal: 10GB, tenant_memory: 32MB, park_after: 1h}
    /// ```
    pub struct Limits {
        /// WAL that the replication slot may retain at the source for a tenant that is behind. Past it that tenant is parked.
        pub source_wal: u64 as Size = "1GB",
        /// Memory for the pending changes of all tenants together, and for the users of snapshots that wait for them.
        pub memory: usize as MemorySize = "256MB",
        /// Memory for the pending changes of one tenant. A row of the source with more bytes than this is set aside and logged,
        /// before it is copied.
        pub tenant_memory: usize as MemorySize = "16MB",
        /// How long a target may be unreachable, or answer nothing and take no rows, before its tenant is parked.
        pub park_after: Duration as DurationText = "10m",
        /// How long the other tenants wait for a tenant that is over its memory, in one wait or in many short ones, before it
        /// is parked.
        pub stall: Duration as DurationText = "5s",
        /// Share of a target's live users that a resync may mark deleted; 100 users are always allowed. Past it the tenant is
        /// parked until `users-sync resync --allow-deletes` confirms the deletes.
        pub max_deletes: MaxDeletes as MaxDeletes = "10%",
        /// How long a snapshot may read the source, and how long a target or Kafka may take for it. While it is read, the
        /// source cannot vacuum newer dead rows.
        pub snapshot_age: Duration as DurationText = "1h",
        /// WAL that the slot of the Kafka output may retain at the source. Past it the Kafka output is parked.
        pub kafka_wal: u64 as Size = "1GB",
    }
}

/// `limits.max_deletes`: a share of the live users of a target, but at least [`MaxDeletes::FLOOR`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxDeletes {
    /// Between 0 and 100.
    pub percent: f64,
}

impl MaxDeletes {
    /// No limit, for a resync whose deletes have been confirmed.
    pub const ALL: MaxDeletes = MaxDeletes { percent: 100.0 };

    /// A resync may always delete this many users.
    pub const FLOOR: u64 = 100;

    /// The most deletes that a merge into a target of `live` users may make.
    pub fn allowed(self, live: u64) -> u64 {
        // Exact for any table: a float has 52 bits.
        let share = (live as f64 * self.percent / 100.0).floor() as u64;
        share.max(Self::FLOOR)
    }
}

impl KeyType for MaxDeletes {
    type Value = MaxDeletes;
    type Schema = String;

    fn expected() -> String {
        Percent::expected()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<MaxDeletes> {
        Percent::read(node, path, reader).map(|percent| MaxDeletes { percent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_deletes_allows_a_percentage_and_a_minimum() {
        for (percent, live, expected) in
            [(10.0, 0, 100), (10.0, 1000, 100), (10.0, 1019, 101), (0.0, 1_000_000, 100), (100.0, 12_345, 12_345)]
        {
            assert_eq!(MaxDeletes { percent }.allowed(live), expected, "{percent} % of {live}");
        }
    }
}
