//! Publishes the source's users as `r` events, and deletes for users that a topic holds but the source does not.

use crate::clock::now;
use crate::config::{Config, Kafka, Tenant};
use crate::model::{ByConfigured, ConfiguredIdx, Lsn, TenantId, User};
use crate::pg::{PgClient, connect};
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::replicator::snapshotter::partition::{Partitioner, ScanMember};
use crate::replicator::source::lock_watch::LockWatch;
use crate::replicator::source::mapping::compile_current;
use crate::replicator::tee::batcher::KafkaBatcher;
use crate::replicator::tee::error::TeeError;
use crate::replicator::tee::kafka_sink::millis;
use crate::snapshot::{Export, RowReceiver, SpooledScan};
use crate::tee::kafka::blocking;
use crate::tee::kafka::{CommitKind, Reader};
use crate::tee::{
    Event, EventPosition, MessageKey, Op, PositionRecord, SnapshotRecord, StreamPosition, TenantPosition,
};
use futures_util::StreamExt;
use futures_util::future::try_join;
use futures_util::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use tokio::time::timeout;
use tokio_postgres::Client;

/// Ids of users, by tenant.
type Ids = HashMap<ConfiguredIdx, HashSet<Box<str>>>;

/// A tenant that takes part in the snapshot.
pub(crate) struct Member {
    pub(crate) index: ConfiguredIdx,
    /// Fingerprint of the tenant's mapping.
    pub(crate) mapping: String,
    /// Nothing was ever published for it.
    pub(crate) is_new: bool,
    /// Its topic existed before this session.
    pub(crate) had_topic: bool,
}

/// The numbers of events.
struct Numbers {
    position: Lsn,
    last: u64,
}

/// One scan of the table.
pub(crate) struct Pass<'a> {
    pub(crate) context: &'a SessionContext,
    pub(crate) config: &'a Config,
    pub(crate) tenants: &'a ByConfigured<&'a Tenant>,
    pub(crate) kafka: &'a Kafka,
    /// The position at which the stream resumes.
    pub(crate) from: &'a StreamPosition,
    /// Tenants that were removed from the configuration.
    pub(crate) removed: &'a [TenantId],
    /// With `partition_by: tenant`.
    pub(crate) partitions: Option<&'a ByConfigured<i32>>,
}

impl Pass<'_> {
    /// Publishes all users, then the positions.
    pub(crate) async fn run(
        &self,
        export: Export,
        members: &[Member],
        batcher: &mut KafkaBatcher,
    ) -> Result<(), TeeError> {
        let position = export.position;
        let reading: HashSet<ConfiguredIdx> =
            members.iter().filter(|member| self.kafka.snapshot || !member.is_new).map(|member| member.index).collect();
        // Before the first message.
        let begins = self.begins(&reading, batcher).await?;
        if reading.is_empty() {
            drop(export);
        } else {
            let known = members.iter().filter(|member| member.had_topic && reading.contains(&member.index));
            let limit = self.context.config.limits.snapshot_age;
            let held = self.held(known.map(|member| member.index).collect(), batcher);
            let mut held = self.watched(&[export.holder()], held).await?;
            let mut numbers = Numbers { position, last: 0 };
            let spool = self.context.spool.begin(self.context.config.limits.stall, false);
            let (members, receivers): (Vec<_>, Vec<_>) = reading
                .iter()
                .map(|&tenant| {
                    let (rows, receiver) = spool.queue();
                    (ScanMember { tenant, rows }, (tenant, receiver))
                })
                .unzip();
            let publish = self.publish(receivers, &mut held, &mut numbers, batcher);
            let copied = timeout(limit, try_join(self.read(export, members, spool), publish)).await;
            copied.map_err(|_| TeeError::SnapshotAge(limit))??;
            self.publish_deletes(&held, &mut numbers, batcher).await?;
        }
        let owner = &batcher.owner;
        let mut records: Vec<PositionRecord> =
            self.removed.iter().map(|id| TenantPosition::record(owner, id, None)).collect();
        for member in members {
            let topic = batcher.topics.of(member.index).to_owned();
            let id = &self.tenants[member.index].id;
            if let Some((partition, offset)) = begins.get(&member.index) {
                let snapshot = SnapshotRecord {
                    generation: self.context.generation,
                    position,
                    topic: topic.clone(),
                    partition: *partition,
                    offset: *offset,
                    mapping: member.mapping.clone(),
                };
                records.push(SnapshotRecord::record(owner, id, Some(&snapshot)));
            }
            let partial = !reading.contains(&member.index);
            let known = TenantPosition { position, topic, mapping: member.mapping.clone(), partial };
            records.push(TenantPosition::record(owner, id, Some(&known)));
        }
        records.push(self.from.record(owner));
        batcher.send(CommitKind::Transaction(records), None).await?;
        Ok(batcher.progress.all_done().await?)
    }

    /// The partition of each tenant, and the offset that its next message has at least.
    async fn begins(
        &self,
        tenants: &HashSet<ConfiguredIdx>,
        batcher: &KafkaBatcher,
    ) -> Result<HashMap<ConfiguredIdx, (i32, i64)>, TeeError> {
        let Some(partitions) = self.partitions.filter(|_| !tenants.is_empty()) else { return Ok(HashMap::new()) };
        let place = |tenant: &ConfiguredIdx| (batcher.topics.of(*tenant).to_owned(), partitions[*tenant]);
        let places: BTreeSet<(String, i32)> = tenants.iter().map(place).collect();
        let kafka = self.kafka.clone();
        let ends = blocking(move || {
            let names: Vec<(&str, i32)> = places.iter().map(|(topic, partition)| (&**topic, *partition)).collect();
            let ends = Reader::new(&kafka)?.written(&names)?;
            Ok(places.into_iter().zip(ends).collect::<BTreeMap<_, _>>())
        });
        let ends = ends.await?;
        let begin = |tenant: &ConfiguredIdx| Some((*tenant, (partitions[*tenant], *ends.get(&place(tenant))?)));
        Ok(tenants.iter().filter_map(begin).collect())
    }

    /// The users that the topics hold, by tenant. All their ids stay in memory until the scan has ended.
    async fn held(&self, tenants: Vec<ConfiguredIdx>, batcher: &KafkaBatcher) -> Result<Ids, TeeError> {
        let mut topics: BTreeMap<String, HashMap<String, ConfiguredIdx>> = BTreeMap::new();
        for index in tenants {
            let theirs = topics.entry(batcher.topics.of(index).to_owned()).or_default();
            theirs.insert(self.tenants[index].id.to_string(), index);
        }
        if topics.is_empty() {
            return Ok(Ids::new());
        }
        let (kafka, deletes, encoder) = (self.kafka.clone(), self.config.deletes, batcher.encoder.clone());
        let read = blocking(move || {
            let reader = Reader::new(&kafka)?;
            let mut held = Ids::new();
            for (topic, theirs) in &topics {
                reader.users(topic, deletes, |key, is_there| {
                    let Some(MessageKey { tenant, user }) = encoder.read_key(key) else { return };
                    // A key without a tenant is that of a topic with one tenant.
                    let index = match tenant {
                        Some(id) => theirs.get(&id),
                        None => theirs.values().next(),
                    };
                    let Some(index) = index else { return };
                    let ids = held.entry(*index).or_default();
                    if is_there {
                        ids.insert(user.into());
                    } else {
                        ids.remove(&*user);
                    }
                })?;
            }
            Ok(held)
        });
        Ok(read.await?)
    }

    /// Reads the source's users into the spool, at the source's own pace.
    async fn read(
        &self,
        export: Export,
        members: Vec<ScanMember<ConfiguredIdx>>,
        spool: SpooledScan,
    ) -> Result<(), TeeError> {
        let client = connect(&self.context.config.source.url).await?;
        let tenants = self.tenants.iter().map(|(index, tenant)| (index, *tenant));
        let mut partitioner = Partitioner::new(tenants, members, spool);
        let copy = self.copy(&client, &export, &mut partitioner);
        let read = self.watched(&[&client, export.holder()], copy).await;
        // Kafka may take its time now: nothing is held at the source any more.
        drop((client, export));
        read?;
        partitioner.finish().await;
        Ok(())
    }

    /// Runs what needs these sessions. They are ended if another session waits for one of them.
    async fn watched<T>(
        &self,
        sessions: &[&Client],
        work: impl Future<Output = Result<T, TeeError>>,
    ) -> Result<T, TeeError> {
        let watch = LockWatch::begin(&self.context.config.source.url, sessions).await?;
        let done = watch.run(work).await;
        if matches!(done, Err(TeeError::Service(ServiceError::LockAwaited))) {
            self.context.status.metrics.aborted_scans.inc();
        }
        done
    }

    async fn copy(
        &self,
        client: &PgClient,
        export: &Export,
        partitioner: &mut Partitioner<ConfiguredIdx>,
    ) -> Result<(), TeeError> {
        export.import(client).await?;
        let config = &self.context.config;
        let mapped = compile_current(client, &config.users).await?.within(config.limits.tenant_memory);
        let mut rows = mapped.rows(client, "").await.map_err(ServiceError::from)?;
        while rows.advance().await? {
            let full = {
                let mut cells = Vec::with_capacity(mapped.relation.columns.len());
                rows.cells(&mut cells)?;
                // Rows that cannot be mapped are reported by the tenants' snapshot. Their users are not gone.
                let row = mapped.plan.insert(&cells).unwrap_or_else(|why| mapped.plan.identify(None, &cells, &why));
                let Some((tenant, user)) = row else { continue };
                partitioner.find(&tenant).filter(|member| partitioner.add(*member, user))
            };
            if let Some(member) = full {
                partitioner.send(member).await;
            }
        }
        Ok(())
    }

    /// Publishes the users as they arrive, and removes them from `held`.
    async fn publish(
        &self,
        receivers: Vec<(ConfiguredIdx, RowReceiver)>,
        held: &mut Ids,
        numbers: &mut Numbers,
        batcher: &mut KafkaBatcher,
    ) -> Result<(), TeeError> {
        let next = |index: ConfiguredIdx, mut rows: RowReceiver| async move { (index, rows.next().await, rows) };
        let mut arriving: FuturesUnordered<_> = receivers.into_iter().map(|(index, rows)| next(index, rows)).collect();
        while let Some((index, users, rows)) = arriving.next().await {
            let Some(users) = users? else { continue };
            arriving.push(next(index, rows));
            for user in users {
                if let Some(held) = held.get_mut(&index) {
                    held.remove(&*user.id);
                }
                let tombstones = self.kafka.tombstone_on_delete && user.deleted_at.is_some();
                self.put(Op::Read, index, &user.id, Some(&user), tombstones, numbers, batcher);
                self.send_if_full(batcher).await?;
            }
        }
        Ok(())
    }

    /// Ids left in `held` no longer exist at the source: publishes their deletes.
    async fn publish_deletes(
        &self,
        held: &Ids,
        numbers: &mut Numbers,
        batcher: &mut KafkaBatcher,
    ) -> Result<(), TeeError> {
        for (index, ids) in held {
            for id in ids {
                let with_tombstone = !batcher.encoder.deletes_by_tombstone();
                self.put(Op::Delete, *index, id, None, with_tombstone, numbers, batcher);
                self.send_if_full(batcher).await?;
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn put(
        &self,
        op: Op,
        tenant: ConfiguredIdx,
        id: &str,
        after: Option<&User>,
        with_tombstone: bool,
        numbers: &mut Numbers,
        batcher: &mut KafkaBatcher,
    ) {
        numbers.last += 1;
        let at = now();
        let place = EventPosition {
            position: numbers.position,
            ordinal: numbers.last,
            xid: None,
            at,
            is_single: false,
            now: millis(at),
        };
        let tenant_id = self.tenants[tenant].id.as_str();
        let event = Event { op, tenant, tenant_id, id, before: None, after, place };
        let KafkaBatcher { encoder, batch, .. } = batcher;
        if let Some(reason) = after.and_then(User::why_unmappable) {
            return encoder.put_unmappable(&event, reason, batch);
        }
        encoder.put(&event, batch);
        if with_tombstone {
            encoder.put_tombstone(&event, batch);
        }
    }

    async fn send_if_full(&self, batcher: &mut KafkaBatcher) -> Result<(), TeeError> {
        if batcher.is_full() {
            batcher.send(CommitKind::Transaction(Vec::new()), None).await?;
        }
        Ok(())
    }
}
