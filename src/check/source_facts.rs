//! Reads the facts about the source from its catalogs.

use crate::capture::CaptureError;
use crate::capture::publication::{Publication, has_column_lists, read_publication, table_in_publication};
use crate::capture::shape::{Fault, ShapeReader};
use crate::capture::slot::{SlotRow, read_slot};
use crate::config::Config;
use crate::map::query_item;
use crate::model::{Relation, TableName, TypeCatalog};
use crate::pg::{PgClient, describe, load_types};
use crate::replicator::source::shape::ReadColumns;
use crate::setup::identity_statements;
use crate::snapshot::{describe_query, generated_columns, read_relation};
use crate::state::Snapshot;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row};

#[derive(Clone, Debug)]
pub(super) struct SourceFacts {
    pub(super) role: String,
    pub(super) database: String,
    pub(super) wal_level: String,
    pub(super) is_standby: bool,
    pub(super) may_replicate: bool,
    /// On Amazon RDS, membership in `rds_replication` replaces the REPLICATION attribute.
    pub(super) has_rds_role: bool,
    pub(super) may_create: bool,
    pub(super) slots: Usage,
    pub(super) senders: Usage,
    /// `max_slot_wal_keep_size` in MB; `None` before PostgreSQL 13.
    pub(super) keep_size_mb: Option<i64>,
    /// Publications can have column lists (PostgreSQL 15).
    pub(super) has_column_lists: bool,
    pub(super) table: Option<TableFacts>,
    /// Names of other tables, if the mapped one does not exist.
    pub(super) others: Vec<String>,
    pub(super) publication: Option<PublicationFacts>,
    pub(super) slot: Option<SlotRow>,
    /// Whether the state knows of a session on the slot.
    pub(super) was_replicated: bool,
    /// Result columns of `users.query`, or why it cannot be run.
    pub(super) query: Option<Result<(Relation, TypeCatalog), String>>,
    /// What would make changes be missed. Empty if the mapping does not fit.
    pub(super) faults: Vec<Fault>,
}

/// Use of a limited resource of the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) used: i64,
    pub(super) max: i64,
}

#[derive(Clone, Debug)]
pub(super) struct TableFacts {
    /// `pg_class.relkind`: `r` and `p` are tables.
    pub(super) kind: String,
    pub(super) owner: String,
    pub(super) is_owner: bool,
    pub(super) schema_usage: bool,
    pub(super) row_security: bool,
    pub(super) may_select: bool,
    /// Columns with a SELECT privilege of their own.
    pub(super) readable: Vec<String>,
    pub(super) relation: Option<Relation>,
    pub(super) types: TypeCatalog,
    /// Columns that the stream does not have.
    pub(super) generated: Vec<String>,
    /// The statements that complete its replica identity, as `setup` prints them; `None` if nothing is missing.
    pub(super) identity_statements: Option<String>,
    /// The valid ones.
    pub(super) unique_indexes: Vec<UniqueIndex>,
}

/// A unique index of the users' table.
#[derive(Clone, Debug)]
pub(super) struct UniqueIndex {
    pub(super) name: String,
    /// The columns that have to be unique together; an empty name stands for an expression.
    pub(super) columns: Vec<String>,
    /// Its WHERE clause.
    pub(super) predicate: Option<String>,
}

/// The publication, and what it publishes of the table.
#[derive(Clone, Debug)]
pub(super) struct PublicationFacts {
    pub(super) row: Publication,
    pub(super) has_table: bool,
    /// Published columns; `None` before PostgreSQL 15.
    pub(super) columns: Option<Vec<String>>,
}

const SERVER: &str = "
    SELECT current_user::text, current_database()::text, current_setting('wal_level'), pg_is_in_recovery(),
           coalesce((SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user), false)
             OR coalesce((SELECT pg_has_role(oid, 'MEMBER') FROM pg_catalog.pg_roles WHERE rolname = 'rds_replication'), false),
           EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'rds_replication'),
           has_database_privilege(current_database(), 'CREATE'),
           (SELECT count(*) FROM pg_catalog.pg_replication_slots), current_setting('max_replication_slots')::bigint,
           (SELECT count(*) FROM pg_catalog.pg_stat_get_wal_senders()), current_setting('max_wal_senders')::bigint,
           (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size')";

const TABLE: &str = "
    SELECT c.relkind::text, pg_get_userbyid(c.relowner)::text,
           pg_has_role(c.relowner, 'USAGE'), has_schema_privilege(n.oid, 'USAGE'), row_security_active(c.oid),
           has_table_privilege(c.oid, 'SELECT'),
           array(SELECT attname::text FROM pg_catalog.pg_attribute a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                   AND has_column_privilege(c.oid, a.attnum, 'SELECT'))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1::text::name AND c.relname = $2::text::name";

const UNIQUE_INDEXES: &str = "
    SELECT c.relname::text,
           array(SELECT coalesce(a.attname::text, '') FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS k(attnum)
                 LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum > 0),
           pg_get_expr(i.indpred, i.indrelid)
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid
    ORDER BY 1";

const OTHERS: &str = "
    SELECT n.nspname || '.' || c.relname
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
    LIMIT 10000";

/// `attnames` exists since PostgreSQL 15. Through jsonb, its absence is not an error.
const PUBLISHED: &str = "
    SELECT CASE WHEN jsonb_typeof(to_jsonb(t) -> 'attnames') = 'array'
                THEN array(SELECT jsonb_array_elements_text(to_jsonb(t) -> 'attnames')) END
    FROM pg_catalog.pg_publication_tables t
    WHERE t.pubname = $1::text::name AND t.schemaname = $2::text::name AND t.tablename = $3::text::name";

/// Reads the facts about everything that the configuration names.
pub(super) async fn gather(
    client: &PgClient,
    config: &Config,
    state: Option<&Snapshot>,
) -> Result<SourceFacts, CaptureError> {
    let row = client.query_typed_one(SERVER, &[]).await?;
    let table = table_facts(client, config, &config.users.table).await?;
    let others = match table {
        Some(_) => Vec::new(),
        None => client.query_typed(OTHERS, &[]).await?.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?,
    };
    Ok(SourceFacts {
        role: row.try_get(0)?,
        database: row.try_get(1)?,
        wal_level: row.try_get(2)?,
        is_standby: row.try_get(3)?,
        may_replicate: row.try_get(4)?,
        has_rds_role: row.try_get(5)?,
        may_create: row.try_get(6)?,
        slots: Usage { used: row.try_get(7)?, max: row.try_get(8)? },
        senders: Usage { used: row.try_get(9)?, max: row.try_get(10)? },
        keep_size_mb: row.try_get(11)?,
        has_column_lists: has_column_lists(client).await?,
        table,
        others,
        publication: publication_facts(client, &config.source.publication, &config.users.table).await?,
        slot: read_slot(client, &config.source.slot).await?,
        was_replicated: state.is_some_and(Snapshot::was_replicated),
        query: query_facts(client, config).await?,
        faults: faults(client, config).await?,
    })
}

async fn faults(client: &PgClient, config: &Config) -> Result<Vec<Fault>, CaptureError> {
    // `run` reports why, and so do the other findings.
    let Ok(columns) = ReadColumns::of(client, &config.users).await else { return Ok(Vec::new()) };
    let (name, tables) = (&config.source.publication, config.users.tables());
    let shape = ShapeReader::new(client, name, &tables).await?.read(client).await?;
    Ok(columns.faults(&shape, name))
}

/// Facts about another watched table.
pub(super) async fn gather_watched(
    client: &PgClient,
    config: &Config,
    table: &TableName,
    of_users: &SourceFacts,
) -> Result<SourceFacts, CaptureError> {
    Ok(SourceFacts {
        table: table_facts(client, config, table).await?,
        publication: publication_facts(client, &config.source.publication, table).await?,
        ..of_users.clone()
    })
}

async fn query_facts(
    client: &Client,
    config: &Config,
) -> Result<Option<Result<(Relation, TypeCatalog), String>>, CaptureError> {
    let Some(query) = &config.users.query else { return Ok(None) };
    let nameless = Relation {
        oid: 0,
        table: config.users.table.clone(),
        replica_identity: crate::model::ReplicaIdentity::Full,
        columns: Vec::new(),
        leaves: Vec::new(),
    };
    // EXPLAIN checks the privileges and runs nothing.
    let explain = format!("EXPLAIN SELECT * FROM {}", query_item(query));
    let described = match client.batch_execute(&explain).await {
        Ok(()) => describe_query(client, query, &nameless).await,
        Err(error) => Err(error),
    };
    Ok(Some(match described {
        Ok(relation) => {
            let oids: Vec<_> = relation.columns.iter().map(|column| column.type_oid).collect();
            Ok((relation, load_types(client, &oids).await?))
        }
        Err(error) => Err(describe(&error)),
    }))
}

async fn table_facts(
    client: &PgClient,
    config: &Config,
    table: &TableName,
) -> Result<Option<TableFacts>, CaptureError> {
    let names = [(&table.schema as _, Type::TEXT), (&table.name as _, Type::TEXT)];
    let Some(row) = client.query_typed_opt(TABLE, &names).await? else { return Ok(None) };
    let relation = read_relation(client, table).await?;
    let types = match &relation {
        Some(relation) => {
            let oids: Vec<_> = relation.columns.iter().map(|column| column.type_oid).collect();
            load_types(client, &oids).await?
        }
        None => TypeCatalog::new(),
    };
    let identity_statements = match &relation {
        // A mapping that does not fit is another finding.
        Some(relation) => identity_statements(client, config, relation).await.ok().flatten(),
        None => None,
    };
    let unique_indexes = match &relation {
        Some(relation) => client.query_typed(UNIQUE_INDEXES, &[(&relation.oid, Type::OID)]).await?,
        None => Vec::new(),
    };
    let generated = match &relation {
        Some(relation) => generated_columns(client, relation.oid).await?,
        None => Vec::new(),
    };
    let unique_index =
        |row: &Row| Ok(UniqueIndex { name: row.try_get(0)?, columns: row.try_get(1)?, predicate: row.try_get(2)? });
    Ok(Some(TableFacts {
        unique_indexes: unique_indexes.iter().map(unique_index).collect::<Result<_, Error>>()?,
        generated,
        identity_statements,
        kind: row.try_get(0)?,
        owner: row.try_get(1)?,
        is_owner: row.try_get(2)?,
        schema_usage: row.try_get(3)?,
        row_security: row.try_get(4)?,
        may_select: row.try_get(5)?,
        readable: row.try_get(6)?,
        relation,
        types,
    }))
}

async fn publication_facts(
    client: &Client,
    name: &str,
    table: &TableName,
) -> Result<Option<PublicationFacts>, CaptureError> {
    let Some(row) = read_publication(client, name).await? else { return Ok(None) };
    let has_table = table_in_publication(client, name, table).await?;
    let names = [(&name as _, Type::TEXT), (&table.schema as _, Type::TEXT), (&table.name as _, Type::TEXT)];
    let shown = client.query_typed_opt(PUBLISHED, &names).await?;
    Ok(Some(PublicationFacts {
        row,
        has_table,
        columns: shown.as_ref().map(|row| row.try_get(0)).transpose()?.flatten(),
    }))
}
