//! Users whose messages are too large for their topic: they are recorded, and published once they fit.

use crate::clock::now;
use crate::config::{Config, Kafka, Tenant, Topics};
use crate::model::{ByConfigured, ConfiguredIdx, TenantId, hex};
use crate::replicator::session::context::SessionContext;
use crate::replicator::tee::batcher::KafkaBatcher;
use crate::replicator::tee::error::TeeError;
use crate::replicator::tee::kafka_sink::millis;
use crate::state::TeeRejected;
use crate::tee::kafka::{CommitKind, Failure, Limits, Oversized, Refusals, SetAside, max_message_bytes};
use crate::tee::{Event, EventPosition, Op};
use ring::digest::{SHA256, digest};
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Users that are read from the source and published together.
const RETRIED_AT_ONCE: usize = 100;

/// How often the topics' limits are read while users are set aside.
const LIMITS_INTERVAL: Duration = Duration::from_secs(30);

const REMEDY: &str = "raise max.message.bytes of the topic (message.max.bytes of the broker), and message.max.bytes below \
                      kafka.properties if it is set there; or keep large columns out with users.exclude";

/// The users that were set aside, as the publisher looks them up.
pub(crate) fn held(rejected: &[TeeRejected], tenants: &ByConfigured<&Tenant>) -> HashSet<(ConfiguredIdx, String)> {
    rejected.iter().filter_map(|row| Some((index_of(tenants, &row.tenant)?, row.user.clone()))).collect()
}

fn index_of(tenants: &ByConfigured<&Tenant>, id: &TenantId) -> Option<ConfiguredIdx> {
    tenants.iter().find(|(_, tenant)| tenant.id == *id).map(|(index, _)| index)
}

/// Records what the publisher sets aside, until it ends.
pub(crate) async fn record(
    context: &SessionContext,
    tenants: &ByConfigured<&Tenant>,
    mut oversized: mpsc::Receiver<Oversized>,
) -> Result<(), TeeError> {
    while let Some(Oversized { aside, accepted, recorded }) = oversized.recv().await {
        let row = |aside: &SetAside| TeeRejected {
            tenant: tenants[aside.tenant].id.clone(),
            user: aside.user.clone(),
            bytes: aside.bytes,
            limit: aside.limit,
        };
        let rows: Vec<TeeRejected> = aside.iter().map(row).collect();
        let accepted: Vec<(TenantId, String)> =
            accepted.into_iter().map(|(tenant, user)| (tenants[tenant].id.clone(), user)).collect();
        let rejected = context.state.put_tee_rejected(&rows, &accepted).await?;
        context.status.set_tee_rejected(rejected);
        context.status.metrics.tee_oversized.inc_by(rows.len() as u64);
        for TeeRejected { tenant, user, bytes, limit } in rows {
            tracing::error!(
                %tenant,
                user_hash = hash(&user),
                bytes,
                limit,
                remedy = REMEDY,
                "a message is too large for Kafka: it is left out, see users_sync.tee_rejected in the state"
            );
        }
        // The publisher may have ended.
        let _ = recorded.send(());
    }
    // The publisher reports why it ended.
    std::future::pending().await
}

/// Ends the session once a topic takes more than before and users were set aside, so that the next one publishes them.
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

/// Publishes the users that were set aside and whose topic takes more now, as they are at the source.
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
        .filter(|(index, row)| limits.of(batcher.topics.of(*index)) > row.limit)
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
            if after.is_some_and(|user| user.why_unmappable().is_some()) {
                continue;
            }
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
