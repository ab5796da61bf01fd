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
use crate::tee::kafka::{CommitKind, Failure, LeftOut, LeftOutChange, Limits, Refusals, TenantUser, max_message_bytes};
use crate::tee::{Event, EventPosition, Op};
use ring::digest::{SHA256, digest};
use std::collections::{HashMap, HashSet};
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
    let indexes = indexes(tenants);
    rejected.iter().filter_map(|row| Some((*indexes.get(&row.tenant)?, row.user.clone()))).collect()
}

fn indexes<'a>(tenants: &ByConfigured<&'a Tenant>) -> HashMap<&'a TenantId, ConfiguredIdx> {
    tenants.iter().map(|(index, tenant)| (&tenant.id, index)).collect()
}

/// Records what the publisher leaves out, until it ends.
pub(crate) async fn record(
    context: &SessionContext,
    tenants: &ByConfigured<&Tenant>,
    mut changes: mpsc::Receiver<LeftOut>,
) -> Result<(), TeeError> {
    let named = |users: Vec<TenantUser>| -> Vec<(TenantId, String)> {
        users.into_iter().map(|(tenant, user)| (tenants[tenant].id.clone(), user)).collect()
    };
    while let Some(LeftOut { change, recorded }) = changes.recv().await {
        let left = match change {
            LeftOutChange::Committed(users) => context.state.remove_tee_rejected(&named(users)).await?,
            LeftOutChange::Decided { aside, accepted } => {
                let row = |((tenant, user), why): (TenantUser, WhyLeftOut)| TeeRejected {
                    tenant: tenants[tenant].id.clone(),
                    user,
                    why,
                    may_be_published: false,
                };
                let rows: Vec<TeeRejected> = aside.into_iter().map(row).collect();
                let left = context.state.put_tee_rejected(&rows, &named(accepted)).await?;
                report(context, &rows);
                left
            }
        };
        context.status.set_tee_rejected(left);
        // The publisher may have ended.
        let _ = recorded.send(());
    }
    // The publisher reports why it ended.
    std::future::pending().await
}

/// Logs users that a batch leaves out: each that is too large, and the first one that cannot be mapped, because a wrong mapping has one
/// for each row.
fn report(context: &SessionContext, rows: &[TeeRejected]) {
    for TeeRejected { tenant, user, why, .. } in rows {
        if let WhyLeftOut::TooLarge { bytes, limit } = why {
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
    }
    let unmappable = |row: &&TeeRejected| matches!(row.why, WhyLeftOut::Unmappable(_));
    if let Some(TeeRejected { tenant, user, why, .. }) = rows.iter().find(unmappable) {
        tracing::error!(
            %tenant,
            user_hash = hash(user),
            reason = %why,
            users = rows.iter().filter(unmappable).count(),
            "a row cannot be mapped: the Kafka output leaves its user out, see users_sync.tee_unmappable in the state"
        );
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

/// Publishes users that were left out, as they are at the source: those whose topic takes more now, those whose rows could not be
/// mapped, and those for which it is unknown whether a batch with them was committed.
pub(crate) async fn retry(
    context: &SessionContext,
    config: &Config,
    tenants: &ByConfigured<&Tenant>,
    rejected: &[TeeRejected],
    limits: &Limits,
    refusals: &Refusals,
    batcher: &mut KafkaBatcher,
) -> Result<(), TeeError> {
    let indexes = indexes(tenants);
    let fits_now = |index: ConfiguredIdx, row: &TeeRejected| match row.why {
        // The recorded limit is a guess if the topic's could not be read.
        WhyLeftOut::TooLarge { bytes, limit } => {
            let now = limits.of(batcher.topics.of(index));
            now > limit || now != limit && now >= bytes
        }
        WhyLeftOut::Unmappable(_) => false,
    };
    let known: Vec<(ConfiguredIdx, &TeeRejected)> =
        rejected.iter().filter_map(|row| Some((*indexes.get(&row.tenant)?, row))).collect();
    if known.iter().any(|(index, row)| fits_now(*index, row)) {
        refusals.clear();
    }
    let is_due = |index: ConfiguredIdx, row: &TeeRejected| {
        row.may_be_published || matches!(row.why, WhyLeftOut::Unmappable(_)) || fits_now(index, row)
    };
    let due: Vec<(ConfiguredIdx, &str)> =
        known.into_iter().filter(|(index, row)| is_due(*index, row)).map(|(index, row)| (index, &*row.user)).collect();
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
