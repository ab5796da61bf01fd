//! The section `limits`. Pure.

use super::key_types::{DurationText, MemorySize, Percent, Size};
use super::section::{KeyType, Reader, section};
use super::yaml::Node;
use crate::model::Deletes;
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
        /// Share of a target's live users that a resync may delete. At least 100 users are allowed, or 3 with `deletes: hard`,
        /// unless that is more than half of 10 or more users. Never all users of a target, except with `100%` and a snapshot that
        /// is not empty. Past it the tenant is parked until
        /// `users-sync resync --allow-deletes` confirms the deletes.
        pub max_deletes: MaxDeletes as MaxDeletes = "10%",
        /// How long a snapshot may read the source, and how long a target or Kafka may take for it. While it is read, the
        /// source cannot vacuum newer dead rows.
        pub snapshot_age: Duration as DurationText = "1h",
        /// WAL that the slot of the Kafka output may retain at the source. Past it the Kafka output is parked.
        pub kafka_wal: u64 as Size = "1GB",
    }
}

/// `limits.max_deletes`: a share of the live users of a target, but at least a few.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxDeletes {
    /// Between 0 and 100.
    pub percent: f64,
}

impl MaxDeletes {
    /// A resync may mark this many users as deleted, whatever the share.
    const FLOOR_SOFT: u64 = 100;
    /// Rows that are really deleted take the application's rows with them.
    const FLOOR_HARD: u64 = 3;
    /// Targets with as many users keep at least half of them, unless the share allows more.
    const HALF_FROM: u64 = 10;

    /// The most deletes that a merge of a snapshot of `read` users into a target of `live` users may make. Never all of them
    /// if the snapshot is empty, which is more often a wrong key than a tenant without users; otherwise only with 100 %.
    pub fn allowed(self, live: u64, read: u64, deletes: Deletes) -> u64 {
        // Exact for any table: a float has 52 bits.
        let share = (live as f64 * self.percent / 100.0).floor() as u64;
        let floor = match deletes {
            Deletes::Soft => Self::FLOOR_SOFT,
            Deletes::Hard => Self::FLOOR_HARD,
        };
        let floor = if live >= Self::HALF_FROM { floor.min(live / 2) } else { floor };
        if share >= live && read > 0 { live } else { share.max(floor).min(live.saturating_sub(1)) }
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
    fn max_deletes_allows_a_percentage_and_a_minimum_but_never_all() {
        for (percent, live, soft, hard) in [
            (10.0, 0, 0, 0),
            (10.0, 1, 0, 0),
            (10.0, 2, 1, 1),
            (10.0, 4, 3, 3),
            (10.0, 9, 8, 3),
            (10.0, 10, 5, 3),
            (10.0, 50, 25, 5),
            (10.0, 199, 99, 19),
            (10.0, 201, 100, 20),
            (10.0, 1000, 100, 100),
            (10.0, 1019, 101, 101),
            (0.0, 1_000_000, 100, 3),
            (60.0, 100, 60, 60),
            (100.0, 12_345, 12_344, 12_344),
        ] {
            let limit = MaxDeletes { percent };
            let allowed = [limit.allowed(live, 0, Deletes::Soft), limit.allowed(live, 0, Deletes::Hard)];
            assert_eq!(allowed, [soft, hard], "{percent} % of {live}");
        }
        let all = MaxDeletes { percent: 100.0 };
        assert_eq!(all.allowed(50, 1, Deletes::Hard), 50);
        assert_eq!(MaxDeletes { percent: 99.9 }.allowed(50, 1, Deletes::Hard), 49);
    }
}
