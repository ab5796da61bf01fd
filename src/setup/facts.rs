//! What the source has already, for a script that adds only what is missing: reads of its catalogs.

use crate::capture::publication::{Published, read_publication, table_in_publication};
use crate::config::{Config, Publish};
use crate::map::{RowPlan, WatchPlan};
use crate::model::{Relation, ReplicaIdentity, TableName};
use crate::pg::{PgClient, load_types};
use crate::replicator::error::ServiceError;
use crate::replicator::source::publication::require_column_lists;
use crate::snapshot::{query_item, read_relation};
use std::collections::BTreeMap;

/// The source as `setup` sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SetupFacts {
    pub(super) database: String,
    /// The role of source.url, where there is one of that name: whether it may replicate, and whether it sees all rows.
    pub(super) role: Option<Role>,
    pub(super) has_publication: bool,
    pub(super) has_state_schema: bool,
    pub(super) tables: Vec<TableNeeds>,
    /// What the mapping reads, by table: its columns.
    pub(super) reads: BTreeMap<TableName, Vec<String>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Role {
    pub(super) replicates: bool,
    pub(super) bypasses: bool,
}

/// A table that is published.
#[derive(Clone, Debug)]
pub(super) struct TableNeeds {
    pub(super) published: Published,
    pub(super) is_published: bool,
    pub(super) row_security: bool,
    pub(super) identity: Identity,
}

/// How old rows come to say whose they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// They do.
    Enough,
    /// This index has all that is needed.
    Index(String),
    /// An index over these columns can be made: none of them can be null.
    NewIndex(Vec<String>),
    /// Only whole rows will do.
    Full,
}

const SERVER: &str = "
    SELECT current_database()::text, r.rolname IS NOT NULL, coalesce(r.rolreplication OR r.rolsuper, false),
           coalesce(r.rolbypassrls OR r.rolsuper, false),
           EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'users_sync')
    FROM (SELECT) one LEFT JOIN pg_catalog.pg_roles r ON r.rolname = $1";

/// Unique indexes that may be a replica identity (manual: ALTER TABLE, REPLICA IDENTITY), the narrowest first.
const INDEXES: &str = "
    SELECT c.relname::text, array(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                                  WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey))
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                      WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey) AND NOT a.attnotnull)
    ORDER BY i.indnatts, 1";

const COLUMNS: &str = "
    SELECT c.relrowsecurity, array(SELECT attname::text FROM pg_catalog.pg_attribute a
                                   WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attnotnull)
    FROM pg_catalog.pg_class c WHERE c.oid = $1";

/// What a view depends on (`pg_depend` of its rule) is what its query reads.
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

/// Looks at the source, as a role that may read its catalogs. `config.users` is settled.
pub(crate) async fn gather(client: &mut PgClient, config: &Config) -> Result<SetupFacts, ServiceError> {
    require_column_lists(client, config.source.publish).await?;
    let row = client.query_one(SERVER, &[&config.source.url.user]).await?;
    let role = row.get::<_, bool>(1).then(|| Role { replicates: row.get(2), bypasses: row.get(3) });
    let publication = &config.source.publication;
    let mut facts = SetupFacts {
        database: row.get(0),
        role,
        has_publication: read_publication(client, publication).await?.is_some(),
        has_state_schema: row.get(4),
        ..SetupFacts::default()
    };
    for table in config.users.tables() {
        let relation = read_relation(client, table).await?.ok_or_else(|| ServiceError::NoTable(table.clone()))?;
        let row = client.query_one(COLUMNS, &[&relation.oid]).await?;
        let (row_security, not_null): (bool, Vec<String>) = (row.get(0), row.get(1));
        let (wanted, gap) = wanted(client, config, &relation).await?;
        let identity = identity(client, &relation, &wanted, &gap, &not_null).await?;
        let mut columns = wanted.read.clone();
        let in_identity = |name: &String| match &identity {
            Identity::Enough => relation.columns.iter().any(|column| column.name == *name && column.in_identity),
            Identity::Index(_) | Identity::NewIndex(_) | Identity::Full => false,
        };
        let others = relation.columns.iter().map(|column| &column.name).filter(|name| !wanted.read.contains(name));
        columns.extend(others.filter(|name| in_identity(name)).cloned());
        facts.reads.insert(table.clone(), columns.clone());
        facts.tables.push(TableNeeds {
            is_published: table_in_publication(client, publication, table).await?,
            published: Published {
                table: table.clone(),
                columns: if config.source.publish == Publish::Columns { columns } else { Vec::new() },
            },
            row_security,
            identity,
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
        let view = format!("CREATE TEMPORARY VIEW users_sync_setup AS SELECT * FROM {}", query_item(&query.sql));
        transaction.batch_execute(&view).await.map_err(ServiceError::Query)?;
        for row in transaction.query(READS, &[]).await? {
            let table = TableName { schema: row.get(0), name: row.get(1) };
            let columns = facts.reads.entry(table).or_default();
            columns.extend(row.get::<_, Vec<String>>(2));
            columns.sort();
            columns.dedup();
        }
        transaction.rollback().await?;
    }
    Ok(facts)
}

/// Columns of a table that are read from its changes.
struct Wanted {
    read: Vec<String>,
    /// Those that say whose row it is.
    identity: Vec<String>,
}

async fn wanted(
    client: &PgClient,
    config: &Config,
    relation: &Relation,
) -> Result<(Wanted, Vec<String>), ServiceError> {
    let rules = &config.users;
    let oids: Vec<_> = relation.columns.iter().map(|column| column.type_oid).collect();
    let types = load_types(client, &oids).await?;
    // With an identity of nothing at all, the gap is all that is wanted in it.
    let bare = Relation { replica_identity: ReplicaIdentity::Nothing, ..relation.clone() };
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
    Ok((Wanted { read, identity }, gap))
}

async fn identity(
    client: &PgClient,
    relation: &Relation,
    wanted: &Wanted,
    gap: &[String],
    not_null: &[String],
) -> Result<Identity, ServiceError> {
    if gap.is_empty() {
        return Ok(Identity::Enough);
    }
    for row in client.query(INDEXES, &[&relation.oid]).await? {
        let (name, columns): (String, Vec<String>) = (row.get(0), row.get(1));
        if wanted.identity.iter().all(|column| columns.contains(column)) {
            return Ok(Identity::Index(name));
        }
    }
    // Unique only together with the primary key, which may have more columns than are wanted.
    let keys = relation.columns.iter().filter(|column| column.in_identity).map(|column| column.name.clone());
    let mut columns: Vec<String> = keys.collect();
    columns.extend(
        wanted
            .identity
            .iter()
            .filter(|name| !relation.columns.iter().any(|c| c.name == **name && c.in_identity))
            .cloned(),
    );
    let json = |name: &String| relation.columns.iter().any(|c| c.name == *name && matches!(c.type_oid, 114 | 3802));
    match columns.iter().all(|name| not_null.contains(name) && !json(name))
        && relation.replica_identity == ReplicaIdentity::Default
    {
        true => Ok(Identity::NewIndex(columns)),
        false => Ok(Identity::Full),
    }
}
