//! The configuration, ready to use: every value resolved, every rule between keys checked.

use super::users::Family;
use crate::map::Rules;
use crate::model::{Deletes, TenantId, TenantKey};
use crate::pg::{PgUrl, Secret};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// All that a process is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The auth database.
    pub source: Source,
    /// Where the state lives; the source itself unless `state.url` says otherwise.
    pub state_url: PgUrl,
    /// How a row becomes a user; of several families the first, until the source has been looked at.
    pub users: Rules,
    /// The shapes that the store's tables may have, the likeliest first.
    pub families: Vec<Family>,
    /// The tenants, in the file's order; ids, keys and targets are unique.
    pub tenants: Vec<Tenant>,
    /// Patterns of further files with tenants.
    pub include: Vec<String>,
    /// How long a mere update may wait for a target that sleeps, where the tenant does not say otherwise.
    pub wake_after: Option<Duration>,
    /// What a delete at the source means in a target.
    pub deletes: Deletes,
    /// After how long a soft delete is for good.
    pub purge_after: Option<Duration>,
    /// Whether a target's listeners are told who was written.
    pub notify: bool,
    /// Budgets.
    pub limits: Limits,
    /// What to do when the slot is gone.
    pub on_slot_loss: OnSlotLoss,
    /// How log lines look, unless the command line says so; of the configuration that a process begins with.
    pub log: LogFormat,
    /// The tee, where there is one.
    pub kafka: Option<Kafka>,
    /// Where the process shows itself over HTTP, if it does.
    pub admin: Option<Admin>,
}

impl Config {
    /// Whether rows are deleted in a target, at once or after a time.
    pub fn deletes_rows(&self) -> bool {
        self.deletes == Deletes::Hard || self.purge_after.is_some()
    }

    /// Whether a running session can go on with the other configuration, once its tenants have come and gone. Where the
    /// process shows itself is none of the session's business.
    pub fn differs_only_in_tenants(&self, other: &Config) -> bool {
        let without = |config: &Config| Config {
            tenants: Vec::new(),
            include: Vec::new(),
            wake_after: None,
            admin: None,
            log: LogFormat::Text,
            ..config.clone()
        };
        without(self) == without(other)
    }
}

/// The auth database and how it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Where it is.
    pub url: PgUrl,
    /// The replication slot's name.
    pub slot: String,
    /// The publication's name.
    pub publication: String,
    /// Whether whole rows or only the allowed columns are published.
    pub publish: Publish,
}

/// `source.publish`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// Whole rows; secrets are dropped in the decoder.
    Rows,
    /// Only the allowed columns leave the database.
    Columns,
}

/// One tenant and its target.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    /// The name by which people know it.
    pub id: TenantId,
    /// What the tenant column holds for it.
    pub key: TenantKey,
    /// Its database.
    pub target: PgUrl,
    /// How long a mere update may wait for the target while it sleeps; it wakes for anything at once where this is absent.
    pub wake_after: Option<Duration>,
}

/// `limits`.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// The WAL that the slot may hold back, in bytes.
    pub source_wal: u64,
    /// Waiting changes of all tenants, in bytes.
    pub memory: usize,
    /// Waiting changes of one tenant, in bytes.
    pub tenant_memory: usize,
    /// How long a target may be away before its tenant is parked.
    pub park_after: Duration,
    /// How long the others may wait for a tenant that is over its budget.
    pub stall: Duration,
    /// The most users that a merge may mark deleted.
    pub max_deletes: MaxDeletes,
    /// How long a snapshot may be kept open for slow targets: the source cannot clean up behind it.
    pub snapshot_age: Duration,
    /// The WAL that the tee's slot may hold back, in bytes.
    pub kafka_wal: u64,
}

/// `kafka`: the tee.
#[derive(Clone, Debug, PartialEq)]
pub struct Kafka {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// With `{tenant}` and `{table}`; without `{tenant}` all tenants share a topic.
    pub topic: String,
    /// How messages are written.
    pub format: KafkaFormat,
    /// Whether keys and values carry the schema that Kafka Connect's JsonConverter wants.
    pub schemas: bool,
    /// Whether a soft delete is followed by a tombstone.
    pub tombstone_on_delete: bool,
    /// Whether messages and position are written in transactions.
    pub exactly_once: bool,
    /// Whether the users that are there at the first start are published.
    pub snapshot: bool,
    /// Whether missing topics are created.
    pub create_topics: bool,
    /// Of a topic that is created.
    pub partitions: i32,
    /// Of a topic that is created; -1 for the broker's default.
    pub replication: i32,
    /// Where positions are kept.
    pub positions_topic: String,
    /// The tee's own replication slot.
    pub slot: String,
    /// Of librdkafka, as they are. Values may be secrets.
    pub properties: BTreeMap<String, Secret>,
}

/// `admin`: the process over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Elsewhere than on loopback only with a token.
    pub listen: SocketAddr,
    /// What whoever asks has to bring along.
    pub token: Option<Secret>,
}

/// `kafka.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KafkaFormat {
    /// Debezium's envelope.
    Debezium,
    /// The row itself, and null where it is gone.
    Upsert,
}

/// `limits.max_deletes`: a share of the live users of a target, but at least [`MaxDeletes::FLOOR`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxDeletes {
    /// Between 0 and 100.
    pub percent: f64,
}

impl MaxDeletes {
    /// However many there are: somebody has said so.
    pub const ALL: MaxDeletes = MaxDeletes { percent: 100.0 };

    /// This many may always be deleted.
    pub const FLOOR: u64 = 100;

    /// The most deletes that a merge into a target of `live` users may make.
    pub fn allowed(self, live: u64) -> u64 {
        // A share of a count: the float's 52 bits are exact for any table that there is.
        let share = (live as f64 * self.percent / 100.0).floor() as u64;
        share.max(Self::FLOOR)
    }
}

/// `on_slot_loss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnSlotLoss {
    /// Make a new slot and resync every tenant.
    Resync,
    /// Stop with a message.
    Stop,
}

/// `log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_may_be_deleted_and_a_few_in_any_case() {
        for (percent, live, expected) in
            [(10.0, 0, 100), (10.0, 1000, 100), (10.0, 1019, 101), (0.0, 1_000_000, 100), (100.0, 12_345, 12_345)]
        {
            assert_eq!(MaxDeletes { percent }.allowed(live), expected, "{percent} % of {live}");
        }
    }
}
