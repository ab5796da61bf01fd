//! Reads from the source's catalogs what exists already, so that the script adds only what is missing.

use crate::capture::publication::{Published, read_publication, table_in_publication};
use crate::capture::shape::{GeneratedColumns, LeafShape, ShapeReader, SourceShape, generated_columns};
use crate::config::{Config, Publish};
use crate::map::{RowPlan, WatchPlan, query_item};
use crate::model::{Relation, ReplicaIdentity, TableName};
use crate::pg::{PgClient, load_types};
use crate::replicator::error::ServiceError;
use crate::replicator::source::publication::require_column_lists;
use crate::snapshot::read_relation;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default)]
pub(crate) struct SetupFacts {
    pub(super) database: String,
    /// The role of `source.url`; `None` if it does not exist.
    pub(super) role: Option<Role>,
    pub(super) has_publication: bool,
    /// The publication has stored generated columns.
    pub(super) publishes_generated: bool,
    pub(super) has_state_schema: bool,
    /// The server is one of Amazon RDS, where membership in `rds_replication` replaces the attribute REPLICATION.
    pub(super) has_rds_role: bool,
    /// Tables that would refuse UPDATE and DELETE if they were published: they have no replica identity.
    pub(super) unidentified: Vec<TableName>,
    pub(super) tables: Vec<TableNeeds>,
    /// The columns that the mapping reads, by table.
    pub(super) reads: BTreeMap<TableName, Vec<String>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Role {
    pub(super) replicates: bool,
    /// BYPASSRLS or superuser.
    pub(super) bypasses_rls: bool,
}

/// A table to publish.
#[derive(Clone, Debug)]
pub(super) struct TableNeeds {
    pub(super) published: Published,
    pub(super) is_published: bool,
    pub(super) row_security: bool,
    /// Of the table, or of each of its partitions.
    pub(super) identities: Vec<(TableName, Identity)>,
    /// The identity that each of them has now, as in [`Made::previous`].
    pub(super) previous: BTreeMap<TableName, String>,
    /// With these identities.
    pub(super) generated: GeneratedColumns,
}

/// What the replica identity of a table needs so that a DELETE can be attributed to its user and tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// Nothing.
    Sufficient,
    /// An existing index covers the columns.
    Index(String),
    /// An index on these columns can be created: none of them is nullable.
    NewIndex(Vec<String>),
    /// Only REPLICA IDENTITY FULL covers the columns.
    Full,
}

const SERVER: &str = "
    SELECT current_database()::text, r.rolname IS NOT NULL, coalesce(r.rolreplication OR r.rolsuper
             OR (SELECT pg_has_role(r.oid, rds.oid, 'MEMBER') FROM pg_catalog.pg_roles rds WHERE rds.rolname = 'rds_replication'), false),
           coalesce(r.rolbypassrls OR r.rolsuper, false),
           EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'users_sync'),
           EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'rds_replication')
    FROM (SELECT) one LEFT JOIN pg_catalog.pg_roles r ON r.rolname = $1";

/// Unique indexes that may be a replica identity (manual: ALTER TABLE, REPLICA IDENTITY), the narrowest first.
const INDEXES: &str = "
    SELECT c.relname::text, array(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                                  WHERE a.attrelid = i.indrelid AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1]))
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                      WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
                        AND (NOT a.attnotnull OR a.attgenerated <> ''))
    ORDER BY i.indnatts, 1";

const PREVIOUS_IDENTITY: &str = "
    SELECT CASE c.relreplident WHEN 'n' THEN 'nothing' WHEN 'f' THEN 'full'
      WHEN 'i' THEN coalesce('index ' || (SELECT x.relname::text FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisreplident), 'nothing')
      ELSE 'default' END
    FROM pg_catalog.pg_class c WHERE c.oid = $1";

/// Permanent tables outside the system's schemas without a replica identity.
const UNIDENTIFIED: &str = "
    SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND (c.relreplident = 'n' OR c.relreplident = 'd' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
        OR c.relreplident = 'i' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisreplident))
    ORDER BY 1, 2";

const ROW_SECURITY: &str = "SELECT relrowsecurity FROM pg_catalog.pg_class WHERE oid = $1";

const NOT_NULL_COLUMNS: &str = "
    SELECT array(SELECT attname::text FROM pg_catalog.pg_attribute
                 WHERE attrelid = $1 AND attnum > 0 AND attnotnull)";

/// The columns that a query reads: those that a view of it depends on (`pg_depend` of its rule).
const READS: &str = "
    SELECT n.nspname::text, c.relname::text, array_agg(a.attname::text ORDER BY a.attnum)
    FROM pg_catalog.pg_rewrite r
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
      AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
    JOIN pg_catalog.pg_class c ON c.oid = d.refobjid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE r.ev_class = 'pg_temp.users_sync_setup'::regclass AND c.oid <> r.ev_class
    GROUP BY 1, 2";

/// Reads the facts about the source. `config.users` must be resolved.
///
/// # Errors
/// A table is missing, the mapping does not fit, or the connection broke.
pub(crate) async fn gather(client: &mut PgClient, config: &Config) -> Result<SetupFacts, ServiceError> {
    require_column_lists(client, config.source.publish).await?;
    let row = client.query_one(SERVER, &[&config.source.url.user]).await?;
    let has_role: bool = row.try_get(1)?;
    let role = if has_role { Some(Role { replicates: row.try_get(2)?, bypasses_rls: row.try_get(3)? }) } else { None };
    let publication = &config.source.publication;
    let mut facts = SetupFacts {
        database: row.try_get(0)?,
        role,
        has_publication: read_publication(client, publication).await?.is_some(),
        has_state_schema: row.try_get(4)?,
        has_rds_role: row.try_get(5)?,
        ..SetupFacts::default()
    };
    for row in client.query(UNIDENTIFIED, &[]).await? {
        facts.unidentified.push(TableName { schema: row.try_get(0)?, name: row.try_get(1)? });
    }
    let tables = config.users.tables();
    let shape = ShapeReader::new(client, publication, &tables).await?.read(client).await?;
    facts.publishes_generated = shape.publication.as_ref().is_some_and(|row| row.generated == "s");
    for table in tables {
        let relation = read_relation(client, table).await?.ok_or_else(|| ServiceError::NoTable(table.clone()))?;
        let row_security: bool = client.query_one(ROW_SECURITY, &[&relation.oid]).await?.try_get(0)?;
        let needed = needed_columns(client, config, &relation).await?;
        let (mut identities, mut previous) = (Vec::new(), BTreeMap::new());
        let mut carried = BTreeSet::new();
        for holder in relation.row_holders() {
            let needed = needed_columns(client, config, &holder).await?;
            let identity = identity(client, &holder, &needed).await?;
            let found = client.query_opt(PREVIOUS_IDENTITY, &[&holder.oid]).await?;
            previous.extend(found.map(|row| row.try_get(0)).transpose()?.map(|found| (holder.table.clone(), found)));
            if identity == Identity::Sufficient {
                carried
                    .extend(holder.columns.into_iter().filter(|column| column.in_identity).map(|column| column.name));
            }
            identities.push((holder.table, identity));
        }
        let mut columns = needed.read.clone();
        let in_identity = |name: &String| carried.contains(name);
        let others = relation.columns.iter().map(|column| &column.name).filter(|name| !needed.read.contains(name));
        columns.extend(others.filter(|name| in_identity(name)).cloned());
        facts.reads.insert(table.clone(), columns.clone());
        facts.tables.push(TableNeeds {
            is_published: table_in_publication(client, publication, table).await?,
            published: Published {
                table: table.clone(),
                columns: if config.source.publish == Publish::Columns { columns } else { Vec::new() },
            },
            row_security,
            generated: generated(&shape, table, &identities),
            identities,
            previous,
        });
    }
    for via in config.users.query.iter().flat_map(|query| &query.watch).filter_map(|watch| watch.via.as_ref()) {
        let columns = facts.reads.entry(via.table.clone()).or_default();
        columns.extend(via.from.iter().chain(&via.to).cloned());
        columns.sort();
        columns.dedup();
    }
    if let Some(query) = &config.users.query {
        let transaction = client.transaction().await?;
        let view = format!("CREATE TEMPORARY VIEW users_sync_setup AS SELECT * FROM {}", query_item(query));
        transaction.batch_execute(&view).await.map_err(ServiceError::Query)?;
        for row in transaction.query(READS, &[]).await? {
            let table = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
            let columns = facts.reads.entry(table).or_default();
            columns.extend(row.try_get::<_, Vec<String>>(2)?);
            columns.sort();
            columns.dedup();
        }
        transaction.rollback().await?;
    }
    Ok(facts)
}

/// What the publication has to do about generated columns once the table has these identities.
fn generated(shape: &SourceShape, table: &TableName, identities: &[(TableName, Identity)]) -> GeneratedColumns {
    let Some(described) = shape.table(table) else { return GeneratedColumns::Ignored };
    let of_leaf = |leaf: &LeafShape| {
        let identity = identities.iter().find(|(holder, _)| *holder == leaf.table()).map(|(_, identity)| identity);
        match identity {
            // The columns of the new identity are NOT NULL and not generated.
            Some(Identity::Index(_) | Identity::NewIndex(_)) => GeneratedColumns::Ignored,
            identity => generated_columns(shape, described, leaf, identity == Some(&Identity::Full)),
        }
    };
    let of_leaves: Vec<_> = described.leaves.iter().map(of_leaf).collect();
    let worst = [GeneratedColumns::Impossible, GeneratedColumns::Published];
    worst.into_iter().find(|worst| of_leaves.contains(worst)).unwrap_or(GeneratedColumns::Ignored)
}

/// The columns of a table that its changes must carry.
pub(super) struct NeededColumns {
    read: Vec<String>,
    /// Those that identify the user and the tenant.
    identity: Vec<String>,
    /// Those of `identity` that the replica identity lacks.
    gap: Vec<String>,
}

pub(super) async fn needed_columns(
    client: &PgClient,
    config: &Config,
    relation: &Relation,
) -> Result<NeededColumns, ServiceError> {
    let rules = &config.users;
    let oids: Vec<_> = relation.columns.iter().map(|column| column.type_oid).collect();
    let types = load_types(client, &oids).await?;
    // With REPLICA IDENTITY NOTHING, the gap is every column that the identity needs.
    let bare = Relation { replica_identity: ReplicaIdentity::Nothing, leaves: Vec::new(), ..relation.clone() };
    let named = |decoded: &[bool]| -> Vec<String> {
        let wanted = relation.columns.iter().zip(decoded).filter(|(_, decoded)| **decoded);
        wanted.map(|(column, _)| column.name.clone()).collect()
    };
    let (mut read, mut identity, mut gap) = (Vec::new(), Vec::new(), Vec::new());
    match &rules.query {
        None => {
            let plan = RowPlan::compile(rules, relation, &types)?;
            read = named(plan.decoded());
            gap = plan.identity_gap().to_vec();
            identity = RowPlan::compile(rules, &bare, &types)?.identity_gap().to_vec();
        }
        Some(query) => {
            for watch in query.watch.iter().filter(|watch| watch.table == relation.table) {
                let plan = WatchPlan::compile(rules, watch, relation, &types)?;
                read.extend(named(plan.decoded()));
                gap.extend(plan.identity_gap().to_vec());
                identity.extend(WatchPlan::compile(rules, watch, &bare, &types)?.identity_gap().to_vec());
            }
            read.sort();
            read.dedup();
        }
    }
    Ok(NeededColumns { read, identity, gap })
}

pub(super) async fn identity(
    client: &PgClient,
    relation: &Relation,
    needed: &NeededColumns,
) -> Result<Identity, ServiceError> {
    if needed.gap.is_empty() {
        return Ok(Identity::Sufficient);
    }
    let not_null: Vec<String> = client.query_one(NOT_NULL_COLUMNS, &[&relation.oid]).await?.try_get(0)?;
    for row in client.query(INDEXES, &[&relation.oid]).await? {
        let (name, columns): (String, Vec<String>) = (row.try_get(0)?, row.try_get(1)?);
        if needed.identity.iter().all(|column| columns.contains(column)) {
            return Ok(Identity::Index(name));
        }
    }
    // The index needs the primary key's columns to be unique, also those that are not needed otherwise.
    let keys = relation.columns.iter().filter(|column| column.in_identity).map(|column| column.name.clone());
    let mut columns: Vec<String> = keys.collect();
    columns.extend(
        needed
            .identity
            .iter()
            .filter(|name| !relation.columns.iter().any(|c| c.name == **name && c.in_identity))
            .cloned(),
    );
    let json = |name: &String| relation.columns.iter().any(|c| c.name == *name && matches!(c.type_oid, 114 | 3802));
    let is_indexable = columns.iter().all(|name| not_null.contains(name) && !json(name));
    if is_indexable && relation.replica_identity == ReplicaIdentity::Default {
        return Ok(Identity::NewIndex(columns));
    }
    Ok(Identity::Full)
}
