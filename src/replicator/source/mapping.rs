//! Compiles the mapping for a relation version, and takes the fingerprint that tells a target how its rows were made.

use crate::capture::publication::Published;
use crate::config::{Config, Family, Publish};
use crate::map::{self, RowPlan, Rules, WatchPlan, query_item};
use crate::model::{Column, Oid, Relation, ReplicaIdentity, TableName, TypeCatalog};
use crate::pg::{load_types, quote_ident, quote_table};
use crate::replicator::error::ServiceError;
use crate::snapshot::{
    ResolvedFamily, RowStream, SourceReadError, describe_query, generated_columns, read_leaves, read_relation,
    resolve_family,
};
use std::borrow::Cow;
use tokio_postgres::Client;

pub(crate) struct MappedRelation {
    pub(crate) relation: Relation,
    pub(crate) plan: RowPlan,
    /// The table or query that the rows are read from, as an item of FROM.
    pub(crate) from: String,
    /// The columns whose values the source converts to JSON. The relation has one more column for each.
    converted: Vec<String>,
}

/// `pg_type.oid` of jsonb, the type of the columns that [`MappedRelation::item`] adds.
const JSONB: Oid = 3802;

impl MappedRelation {
    /// Sets aside rows that exceed `limits.tenant_memory` (bytes) before they are copied.
    pub(crate) fn within(mut self, tenant_memory: usize) -> MappedRelation {
        self.plan.limit_rows(tenant_memory);
        self
    }

    /// Starts to read the rows that `condition` (SQL; empty for all rows) admits.
    pub(crate) async fn rows<'a>(&self, client: &'a Client, condition: &str) -> Result<RowStream<'a>, SourceReadError> {
        let MappedRelation { relation, plan, .. } = self;
        RowStream::open(client, &self.item(), relation, plan.decoded(), plan.max_row(), condition).await
    }

    /// An item of FROM that returns rows of this shape.
    pub(crate) fn item(&self) -> Cow<'_, str> {
        let MappedRelation { relation, plan, from, converted } = self;
        if converted.is_empty() {
            return Cow::Borrowed(from);
        }
        let decoded = relation.columns.iter().zip(plan.decoded()).filter(|(_, decoded)| **decoded);
        let mut values: Vec<String> = decoded.map(|(column, _)| quote_ident(&column.name)).collect();
        let results = values.len() - converted.len();
        for (result, column) in values[results..].iter_mut().zip(converted) {
            *result = format!("pg_catalog.to_jsonb({}) AS {result}", quote_ident(column));
        }
        Cow::Owned(format!("(SELECT {} FROM {from}) AS users_sync_rows", values.join(", ")))
    }

    /// For reads: the source converts the values that only it can convert.
    fn converted(mut self) -> MappedRelation {
        self.converted = self.plan.cast_columns().map(str::to_owned).collect();
        let result = |n| Column { name: format!("users_sync_json_{n}"), type_oid: JSONB, in_identity: false };
        self.relation.columns.extend((0..self.converted.len()).map(result));
        self.plan = self.plan.read_converted(&self.relation);
        self
    }
}

/// The configuration with the mapping that fits the tables of the source: the first family whose table exists.
pub(crate) async fn resolve_layout(client: &Client, config: &Config) -> Result<Config, ServiceError> {
    if config.families.is_empty() {
        return Ok(config.clone());
    }
    let Some(ResolvedFamily { rules, found }) = resolve_family(client, &config.families).await? else {
        return Err(ServiceError::NoFamily(config.families.iter().map(Family::describe).collect()));
    };
    if !found.is_empty() {
        tracing::info!("{found}");
    }
    Ok(Config { users: rules, ..config.clone() })
}

/// Compiles the mapping for a received relation version. Excluded columns may be missing, because another version or a
/// column list may lack them. Generated columns, which PostgreSQL 18 can publish, are always excluded.
pub(crate) async fn compile(
    client: &Client,
    rules: &Rules,
    mut relation: Relation,
) -> Result<MappedRelation, ServiceError> {
    relation.leaves = read_leaves(client, relation.oid).await?;
    let generated = generated_columns(client, relation.oid).await?;
    let exclude =
        rules.exclude.iter().map(|name| name.trim_end_matches('?')).chain(generated.iter().map(String::as_str));
    let exclude = exclude.map(|name| format!("{name}?")).collect();
    compile_strictly(client, &Rules { exclude, ..rules.clone() }, relation).await
}

async fn compile_strictly(client: &Client, rules: &Rules, relation: Relation) -> Result<MappedRelation, ServiceError> {
    let types = types_of(client, &relation).await?;
    let plan = RowPlan::compile(rules, &relation, &types)?;
    let from = quote_table(&relation.table);
    Ok(MappedRelation { relation, plan, from, converted: Vec::new() })
}

/// Compiles the mapping for the current table, or for the current result of the query.
pub(crate) async fn compile_current(client: &Client, rules: &Rules) -> Result<MappedRelation, ServiceError> {
    let relation = current(client, &rules.table).await?;
    let Some(query) = &rules.query else { return Ok(compile_strictly(client, rules, relation).await?.converted()) };
    let relation = describe_query(client, query, &relation).await.map_err(ServiceError::Query)?;
    let mapped = MappedRelation { from: query_item(query), ..compile_strictly(client, rules, relation).await? };
    Ok(mapped.converted())
}

/// Compiles the watches of a table for one of its relation versions.
pub(crate) async fn compile_watched(
    client: &Client,
    rules: &Rules,
    relation: &Relation,
) -> Result<Vec<WatchedTable>, ServiceError> {
    let types = types_of(client, relation).await?;
    let watches = rules.query.iter().flat_map(|query| &query.watch).filter(|watch| watch.table == relation.table);
    let compiled = watches.map(|watch| {
        let plan = WatchPlan::compile(rules, watch, relation, &types)?;
        Ok(WatchedTable { plan, is_users_own: watch.is_users_own })
    });
    compiled.collect()
}

/// A table whose changes affect users.
pub(crate) struct WatchedTable {
    pub(crate) plan: WatchPlan,
    /// A user exists as long as a row of this table does.
    pub(crate) is_users_own: bool,
}

/// An error if the replica identity of a table lacks columns, with the SQL that adds them.
pub(crate) async fn check_identities(client: &Client, rules: &Rules) -> Result<(), ServiceError> {
    let check = |relation: &Relation, gap: &[String], remedy: &str| match gap {
        [] => Ok(()),
        gap => Err(ServiceError::Identity {
            table: relation.table.clone(),
            columns: gap.join(", "),
            effect: relation.effect_of_gap(),
            remedy: remedy.to_owned(),
        }),
    };
    let MappedRelation { relation, plan, .. } = compile_current(client, rules).await?;
    check(&relation, plan.identity_gap(), plan.identity_remedy())?;
    if rules.query.is_some() {
        for table in rules.tables() {
            let relation = current(client, table).await?;
            for WatchedTable { plan, .. } in compile_watched(client, rules, &relation).await? {
                check(&relation, plan.identity_gap(), plan.identity_remedy())?;
            }
        }
    }
    Ok(())
}

/// The tables to publish: whole, or with the columns that the mapping and the replica identity need.
pub(crate) async fn tables_to_publish(client: &Client, config: &Config) -> Result<Vec<Published>, ServiceError> {
    let rules = &config.users;
    let mut tables = Vec::new();
    for table in rules.tables() {
        let columns = match config.source.publish {
            Publish::Rows => Vec::new(),
            Publish::Columns => needed_columns(client, rules, current(client, table).await?).await?,
        };
        tables.push(Published { table: table.clone(), columns });
    }
    Ok(tables)
}

async fn needed_columns(client: &Client, rules: &Rules, relation: Relation) -> Result<Vec<String>, ServiceError> {
    if relation.replica_identity == ReplicaIdentity::Full {
        return Err(ServiceError::Unready {
            what: format!(
                "{} has REPLICA IDENTITY FULL: with a column list the store's own UPDATEs and DELETEs would fail",
                relation.table
            ),
            remedy: "use an index as replica identity, or set source.publish: rows".to_owned(),
        });
    }
    let mut needed: Vec<bool> = relation.columns.iter().map(|column| column.in_identity).collect();
    let mut add = |decoded: &[bool]| {
        for (needed, decoded) in needed.iter_mut().zip(decoded) {
            *needed |= decoded;
        }
    };
    let relation = match rules.query {
        Some(_) => {
            for watched in compile_watched(client, rules, &relation).await? {
                add(watched.plan.decoded());
            }
            relation
        }
        None => {
            let mapped = compile(client, rules, relation).await?;
            add(mapped.plan.decoded());
            mapped.relation
        }
    };
    let needed = relation.columns.into_iter().zip(needed).filter(|(_, needed)| *needed);
    Ok(needed.map(|(column, _)| column.name).collect())
}

pub(crate) async fn current(client: &Client, table: &TableName) -> Result<Relation, ServiceError> {
    read_relation(client, table).await?.ok_or_else(|| ServiceError::NoTable(table.clone()))
}

async fn types_of(client: &Client, relation: &Relation) -> Result<TypeCatalog, ServiceError> {
    let types: Vec<Oid> = relation.columns.iter().map(|column| column.type_oid).collect();
    Ok(load_types(client, &types).await?)
}

/// Changes whenever an unchanged row would be mapped to something else.
pub(crate) fn fingerprint(rules: &Rules, mapped: &MappedRelation) -> String {
    let MappedRelation { relation, plan, .. } = mapped;
    let kind = |name| relation.columns.iter().find(|column| column.name == name).map(|column| column.type_oid);
    map::fingerprint(rules, relation.oid, plan.exposed_columns().map(|name| (name, kind(name))))
}

#[cfg(test)]
mod tests;
