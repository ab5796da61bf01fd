//! The source's shape in relation to the mapping: which columns matter, what has to be refused, and what is recorded.

use crate::capture::CaptureError;
use crate::capture::shape::{Fault, LeafShape, ShapeChange, SourceShape, compare, faults, outdates_slot};
use crate::config::{Config, Tenant};
use crate::map::{Rules, TenantRef};
use crate::model::{TableName, TenantId};
use crate::pg::{PgClient, PgUrl, connect, quote_table};
use crate::replicator::error::ServiceError;
use crate::replicator::source::lock_watch::LockWatch;
use crate::replicator::source::mapping::{MappedRelation, compile_current, compile_watched, current};
use crate::snapshot::source_session;
use crate::state::{SourceRow, StateStore};
use std::collections::{BTreeMap, BTreeSet};

/// The shape that the rows of the targets were read with.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownShape {
    pub(crate) shape: SourceShape,
    /// Grows with each change that changes rows.
    pub(crate) version: i64,
}

impl KnownShape {
    /// The mapping's fingerprint, as tenants record it: another version of the shape means other rows.
    pub(crate) fn fingerprint(&self, mapping: &str) -> String {
        versioned(mapping, self.version)
    }
}

/// A mapping's fingerprint together with the version of the shape. The first version has no number, so that those that an
/// earlier release recorded stay valid.
pub(crate) fn versioned(mapping: &str, version: i64) -> String {
    if version == 0 { mapping.to_owned() } else { format!("{mapping}/{version}") }
}

/// The columns that users are made of.
pub(crate) struct ReadColumns {
    /// Those that the stream has to carry, by table.
    streamed: BTreeMap<TableName, BTreeSet<String>>,
    /// A query may read any column of its tables.
    by_query: bool,
}

impl ReadColumns {
    pub(crate) async fn of(client: &PgClient, rules: &Rules) -> Result<ReadColumns, ServiceError> {
        let mut streamed: BTreeMap<TableName, BTreeSet<String>> = BTreeMap::new();
        let mut add = |table: &TableName, names: Vec<&String>, decoded: &[bool]| {
            let read = names.into_iter().zip(decoded).filter(|(_, decoded)| **decoded).map(|(name, _)| name.clone());
            streamed.entry(table.clone()).or_default().extend(read);
        };
        if rules.query.is_none() {
            let MappedRelation { relation, plan, .. } = compile_current(client, rules).await?;
            add(&rules.table, relation.columns.iter().map(|column| &column.name).collect(), plan.decoded());
        } else {
            for table in rules.tables() {
                let relation = current(client, table).await?;
                for watched in compile_watched(client, rules, &relation).await? {
                    let names = relation.columns.iter().map(|column| &column.name).collect();
                    add(table, names, watched.plan.decoded());
                }
            }
        }
        Ok(ReadColumns { streamed, by_query: rules.query.is_some() })
    }

    fn is_streamed(&self, table: &TableName, column: &str) -> bool {
        self.streamed.get(table).is_some_and(|columns| columns.contains(column))
    }

    fn is_read(&self, table: &TableName, column: &str) -> bool {
        self.by_query || self.is_streamed(table, column)
    }

    /// What would make changes be missed.
    pub(crate) fn faults(&self, shape: &SourceShape, publication: &str) -> Vec<Fault> {
        faults(shape, publication, &|table, column| self.is_streamed(table, column))
    }

    /// An error if changes would be missed.
    pub(crate) fn refuse_faults(&self, shape: &SourceShape, publication: &str) -> Result<(), ServiceError> {
        let mut faults = self.faults(shape, publication).into_iter();
        let Some(first) = faults.next() else { return Ok(()) };
        for other in faults {
            tracing::error!(reason = other.what, remedy = other.remedy, "source is not ready");
        }
        Err(ServiceError::Unready { what: first.what, remedy: first.remedy })
    }

    pub(crate) fn compare(&self, known: &SourceShape, now: &SourceShape) -> ShapeChange {
        compare(known, now, &|table, column| self.is_read(table, column))
    }
}

/// The shape that the state has recorded, if it can be read.
pub(crate) fn recorded_shape(source: Option<&SourceRow>) -> Option<Result<SourceShape, serde_json::Error>> {
    source.and_then(|source| source.shape.as_deref()).map(serde_json::from_str)
}

/// Compares the shape with an earlier one.
///
/// # Errors
/// If the slot has to be made again.
pub(crate) fn compare_with_earlier(
    earlier: &Option<Result<SourceShape, serde_json::Error>>,
    columns: &ReadColumns,
    now: &SourceShape,
) -> Result<ShapeChange, ServiceError> {
    match earlier {
        Some(Ok(known)) if outdates_slot(known, now) => Err(ServiceError::SlotOutdated),
        Some(Ok(known)) => Ok(columns.compare(known, now)),
        Some(Err(_)) => Ok(ShapeChange::Rows("the recorded description of the source cannot be read".to_owned())),
        None => Ok(ShapeChange::Harmless),
    }
}

/// Records what the change requires, and then the new shape.
pub(crate) async fn record(
    config: &Config,
    state: &StateStore,
    tenants: &[&Tenant],
    version: i64,
    shape: SourceShape,
    change: &ShapeChange,
) -> Result<KnownShape, ServiceError> {
    let version = match change {
        ShapeChange::Harmless => version,
        ShapeChange::NewLeaves(leaves) => {
            let affected = Box::pin(tenants_in_leaves(&config.source.url, &config.users, tenants, leaves)).await?;
            tracing::info!(partitions = leaves.len(), tenants = affected.len(), "partitions added at the source");
            if config.publishes_only() {
                if !affected.is_empty() {
                    StateStore::request_tee(state.session(), &config.source.slot).await?;
                }
            } else {
                state.ask_resync(&affected).await?;
            }
            version
        }
        ShapeChange::Rows(_) => version + 1,
    };
    let text = serde_json::to_string(&shape).map_err(|error| CaptureError::Protocol(error.to_string()))?;
    state.saw_shape(&text, version).await?;
    Ok(KnownShape { shape, version })
}

/// The tenants that have users in these partitions. A query may read them in any way: then all tenants, if there is a row.
/// All of them, too, if another session waits for the scan.
async fn tenants_in_leaves(
    source: &PgUrl,
    rules: &Rules,
    tenants: &[&Tenant],
    leaves: &[LeafShape],
) -> Result<Vec<TenantId>, ServiceError> {
    let client = connect(source).await?;
    source_session(&client).await?;
    let watch = LockWatch::begin(source, &[&client]).await?;
    let keys = match watch.run(keys_in_leaves(&client, rules, leaves)).await {
        Ok(keys) => keys,
        Err(ServiceError::LockAwaited) => None,
        Err(error) => return Err(error),
    };
    let has_users = |tenant: &&&Tenant| keys.as_ref().is_none_or(|keys| keys.contains(tenant.key.as_str()));
    Ok(tenants.iter().filter(has_users).map(|tenant| tenant.id.clone()).collect())
}

/// The keys of the tenants that have users in these partitions. `None` if it may be any tenant.
async fn keys_in_leaves(
    client: &PgClient,
    rules: &Rules,
    leaves: &[LeafShape],
) -> Result<Option<BTreeSet<String>>, ServiceError> {
    let mut keys = BTreeSet::new();
    for leaf in leaves {
        let from = quote_table(&leaf.table());
        let row = client.query_one(&format!("SELECT EXISTS (SELECT FROM {from})"), &[]).await?;
        if !row.try_get::<_, bool>(0)? {
            continue;
        }
        if rules.query.is_some() || rules.tenant.is_none() {
            return Ok(None);
        }
        let mut mapped = compile_current(client, rules).await?;
        mapped.from = from;
        let mut rows = mapped.rows(client, "").await?;
        while rows.advance().await? {
            let mut cells = Vec::with_capacity(mapped.relation.columns.len());
            rows.cells(&mut cells)?;
            // A row that cannot be mapped is in no target.
            if let Ok(Some((TenantRef::Key(key), _))) = mapped.plan.insert(&cells)
                && !keys.contains(&*key)
            {
                keys.insert(key.into_owned());
            }
        }
    }
    Ok(Some(keys))
}
