//! Users that the Kafka output leaves out: because a message is too large for its topic, or because a row cannot be mapped. They are
//! recorded, and published once that has changed.

use crate::clock::now;
use crate::config::{Config, Kafka, Tenant, Topics};
use crate::model::{ByConfigured, ConfiguredIdx, TenantId, User, WhyLeftOut, hex};
use crate::replicator::session::context::SessionContext;
use crate::replicator::tee::batcher::KafkaBatcher;
use crate::replicator::tee::error::TeeError;
use crate::replicator::tee::kafka_sink::millis;
use crate::state::TeeRejected;
use crate::tee::kafka::{CommitKind, Failure, LeftOut, Limits, Refusals, TenantUser, max_message_bytes};
use crate::tee::{Event, EventPosition, Op};
use ring::digest::{SHA256, digest};
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Users that are read from the source and published together.
const RETRIED_AT_ONCE: usize = 100;

/// Interval at which the topics' limits are read while users are left out.
const LIMITS_INTERVAL: Duration = Duration::from_secs(30);

const REMEDY: &str = "raise max.message.bytes of the topic (message.max.bytes of the broker), and message.max.bytes below \
                      kafka.properties if it is set there; or keep large columns out with users.exclude";

/// The users that are left out, as the publisher looks them up.
pub(crate) fn held(rejected: &[TeeRejected], tenants: &ByConfigured<&Tenant>) -> HashSet<TenantUser> {
    rejected.iter().filter_map(|row| Some((index_of(tenants, &row.tenant)?, row.user.clone()))).collect()
}

fn index_of(tenants: &ByConfigured<&Tenant>, id: &TenantId) -> Option<ConfiguredIdx> {
    tenants.iter().find(|(_, tenant)| tenant.id == *id).map(|(index, _)| index)
}

/// Records what the publisher leaves out, until it ends.
pub(crate) async fn record(
    context: &SessionContext,
    tenants: &ByConfigured<&Tenant>,
    mut batches: mpsc::Receiver<LeftOut>,
) -> Result<(), TeeError> {
    while let Some(LeftOut { aside, accepted, recorded }) = batches.recv().await {
        let id = |tenant: ConfiguredIdx| tenants[tenant].id.clone();
        let rows: Vec<TeeRejected> =
            aside.into_iter().map(|((tenant, user), why)| TeeRejected { tenant: id(tenant), user, why }).collect();
        let accepted: Vec<(TenantId, String)> = accepted.into_iter().map(|(tenant, user)| (id(tenant), user)).collect();
        let rejected = context.state.put_tee_rejected(&rows, &accepted).await?;
        context.status.set_tee_rejected(rejected);
        for row in &rows {
            report(context, row);
        }
        // The publisher may have ended.
        let _ = recorded.send(());
    }
    // The publisher reports why it ended.
    std::future::pending().await
}

fn report(context: &SessionContext, TeeRejected { tenant, user, why }: &TeeRejected) {
    match why {
        WhyLeftOut::TooLarge { bytes, limit } => {
            context.status.metrics.tee_oversized.inc();
            tracing::error!(
                %tenant,
                user_hash = hash(user),
                bytes,
                limit,
                remedy = REMEDY,
                "a message is too large for Kafka: it is left out, see users_sync.tee_rejected in the state"
            );
        }
        WhyLeftOut::Unmappable(reason) => tracing::error!(
            %tenant,
            user_hash = hash(user),
            reason,
            "a row cannot be mapped: the Kafka output leaves its user out, see users_sync.tee_unmappable in the state"
        ),
    }
}

/// Ends the session once a topic takes more than before and users are left out, so that the next one publishes them.
pub(crate) async fn watch_limits(
    context: &SessionContext,
    kafka: &Kafka,
    topics: &Topics,
    limits: &Limits,
) -> Result<(), TeeError> {
    loop {
        sleep(LIMITS_INTERVAL).await;
        if context.status.tee_rejected() == 0 {
            continue;
        }
        // The publisher reports brokers that cannot be reached.
        let Ok(found) = max_message_bytes(kafka, &topics.distinct()).await else { continue };
        let new = Limits::new(kafka, found);
        if topics.distinct().iter().any(|topic| new.of(topic) > limits.of(topic)) {
            return Err(Failure::repeated("a topic accepts larger messages now").into());
        }
    }
}

/// The beginning of the id's hash in `users_sync.tee_rejected`. An id may be an address.
fn hash(id: &str) -> String {
    hex(&digest(&SHA256, id.as_bytes()).as_ref()[..8])
}

/// Publishes the users whose messages were too large and whose topic takes more now, as they are at the source. A row that could not be
/// mapped is not read again: only a change of the row or of the mapping helps, and both publish it.
pub(crate) async fn retry(
    context: &SessionContext,
    config: &Config,
    tenants: &ByConfigured<&Tenant>,
    rejected: &[TeeRejected],
    limits: &Limits,
    refusals: &Refusals,
    batcher: &mut KafkaBatcher,
) -> Result<(), TeeError> {
    let due: Vec<(ConfiguredIdx, &str)> = rejected
        .iter()
        .filter_map(|row| Some((index_of(tenants, &row.tenant)?, row)))
        .filter(|(index, row)| match row.why {
            // The recorded limit is a guess if the topic's could not be read.
            WhyLeftOut::TooLarge { bytes, limit } => {
                let now = limits.of(batcher.topics.of(*index));
                now > limit || now >= bytes
            }
            WhyLeftOut::Unmappable(_) => false,
        })
        .map(|(index, row)| (index, &*row.user))
        .collect();
    if !due.is_empty() {
        refusals.clear();
    }
    for some in due.chunks(RETRIED_AT_ONCE) {
        let ids: Vec<String> = some.iter().map(|(_, user)| (*user).to_owned()).collect();
        let read = context.rereader.read_ids(&context.config, &ids).await?;
        for (ordinal, (index, id)) in some.iter().enumerate() {
            let tenant = tenants[*index];
            let is_it = |key: &Option<String>| key.as_ref().is_none_or(|key| key == tenant.key.as_str());
            let found = read.users.iter().find(|found| &*found.user.id == *id && is_it(&found.tenant));
            let after = found.map(|found| &found.user);
            let op = if after.is_some() { Op::Read } else { Op::Delete };
            let at = now();
            let place = EventPosition {
                position: read.position,
                ordinal: ordinal as u64 + 1,
                xid: None,
                at,
                is_single: true,
                now: millis(at),
            };
            let event = Event { op, tenant: *index, tenant_id: tenant.id.as_str(), id, before: None, after, place };
            if let Some(reason) = after.and_then(User::why_unmappable) {
                batcher.encoder.put_unmappable(&event, reason, &mut batcher.batch);
                continue;
            }
            batcher.encoder.put(&event, &mut batcher.batch);
            let is_deleted = after.is_none_or(|user| user.deleted_at.is_some());
            let tombstones = config.kafka.as_ref().is_some_and(|kafka| kafka.tombstone_on_delete);
            if after.is_none() && !batcher.encoder.deletes_by_tombstone() || is_deleted && tombstones {
                batcher.encoder.put_tombstone(&event, &mut batcher.batch);
            }
        }
        batcher.send(CommitKind::Transaction(Vec::new()), None).await?;
    }
    Ok(batcher.progress.all_done().await?)
}
