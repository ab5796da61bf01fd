//! A relation version with its mapping, and the fingerprint by which a target knows how its rows were made.

use crate::capture::publication::Published;
use crate::config::{Config, Publish};
use crate::map::{self, RowPlan, Rules, WatchPlan};
use crate::model::{Oid, Relation, ReplicaIdentity, TableName, TypeCatalog};
use crate::pg::{load_types, quote_table};
use crate::replicator::error::ServiceError;
use crate::snapshot::{describe_query, generated_columns, query_item, read_relation};
use tokio_postgres::Client;

pub(crate) struct MappedRelation {
    pub(crate) relation: Relation,
    pub(crate) plan: RowPlan,
    /// Where rows of this shape are read from, as an item of SQL's FROM.
    pub(crate) from: String,
}

/// Holds the mapping against a relation version; its types are looked up in the catalog. A version need not have what
/// is excluded: another one may, and a column list leaves it out. Generated columns, which a publication may send since
/// PostgreSQL 18, stay out as they do where it does not.
pub(crate) async fn compile(
    client: &Client,
    rules: &Rules,
    relation: Relation,
) -> Result<MappedRelation, ServiceError> {
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
    Ok(MappedRelation { relation, plan, from })
}

/// The same for the table as it is now, or for what the query gives now.
pub(crate) async fn compile_current(client: &Client, rules: &Rules) -> Result<MappedRelation, ServiceError> {
    let relation = current(client, &rules.table).await?;
    let Some(query) = &rules.query else { return compile_strictly(client, rules, relation).await };
    let relation = describe_query(client, &query.sql, &relation).await.map_err(ServiceError::Query)?;
    Ok(MappedRelation { from: query_item(&query.sql), ..compile_strictly(client, rules, relation).await? })
}

/// Holds what is watched of a table against a relation version of it.
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

/// A table whose changes touch users.
pub(crate) struct WatchedTable {
    pub(crate) plan: WatchPlan,
    /// The table that says whether a user is there at all.
    pub(crate) is_users_own: bool,
}

/// What the replica identities of all tables lack, with the SQL that mends it.
pub(crate) async fn identity_gaps(client: &Client, rules: &Rules) -> Result<(), ServiceError> {
    let check = |table: &TableName, gap: &[String], remedy: &str| match gap {
        [] => Ok(()),
        gap => Err(ServiceError::Identity { table: table.clone(), columns: gap.join(", "), remedy: remedy.to_owned() }),
    };
    let plan = compile_current(client, rules).await?.plan;
    check(&rules.table, plan.identity_gap(), plan.identity_remedy())?;
    if rules.query.is_some() {
        for table in rules.tables() {
            for WatchedTable { plan, .. } in compile_watched(client, rules, &current(client, table).await?).await? {
                check(table, plan.identity_gap(), plan.identity_remedy())?;
            }
        }
    }
    Ok(())
}

/// The tables as they are to be published: whole, or only what is wanted of them and what identifies their rows.
pub(crate) async fn published(client: &Client, config: &Config) -> Result<Vec<Published>, ServiceError> {
    let rules = &config.users;
    let mut tables = Vec::new();
    for table in rules.tables() {
        let columns = match config.source.publish {
            Publish::Rows => Vec::new(),
            Publish::Columns => wanted(client, rules, current(client, table).await?).await?,
        };
        tables.push(Published { table: table.clone(), columns });
    }
    Ok(tables)
}

async fn wanted(client: &Client, rules: &Rules, relation: Relation) -> Result<Vec<String>, ServiceError> {
    if relation.replica_identity == ReplicaIdentity::Full {
        return Err(ServiceError::Unready {
            what: format!(
                "{} has REPLICA IDENTITY FULL: with a column list the store's own UPDATEs and DELETEs would fail",
                relation.table
            ),
            remedy: "use an index as replica identity, or source.publish: rows".to_owned(),
        });
    }
    let mut wanted: Vec<bool> = relation.columns.iter().map(|column| column.in_identity).collect();
    let mut add = |decoded: &[bool]| wanted.iter_mut().zip(decoded).for_each(|(wanted, decoded)| *wanted |= decoded);
    let relation = match rules.query {
        Some(_) => {
            compile_watched(client, rules, &relation).await?.iter().for_each(|watched| add(watched.plan.decoded()));
            relation
        }
        None => {
            let mapped = compile(client, rules, relation).await?;
            add(mapped.plan.decoded());
            mapped.relation
        }
    };
    let wanted = relation.columns.into_iter().zip(wanted).filter(|(_, wanted)| *wanted);
    Ok(wanted.map(|(column, _)| column.name).collect())
}

async fn current(client: &Client, table: &TableName) -> Result<Relation, ServiceError> {
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
