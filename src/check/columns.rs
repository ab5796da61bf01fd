//! What becomes of each column of the source: a section of `check`, and what `explain` prints.

use super::source_facts::{PublicationFacts, SourceFacts, TableFacts, gather, gather_watched};
use crate::config::Config;
use crate::map::{ColumnAccount, CompileError, RowPlan};
use crate::model::{Relation, TableName, TypeCatalog};
use crate::pg::connect;
use crate::replicator::source::mapping::resolve_layout;
use crate::snapshot::source_session;
use serde::Serialize;

/// A table of the source, or the result of `users.query`.
#[derive(Debug, Serialize)]
pub(crate) struct Columns {
    /// `schema.name`, or `users.query`.
    pub(crate) of: String,
    pub(crate) columns: Vec<ColumnAccount>,
}

impl Columns {
    /// One line for each column.
    pub(crate) fn lines(&self) -> Vec<String> {
        let width = self.columns.iter().map(|account| account.column.chars().count()).max().unwrap_or_default();
        self.columns.iter().map(|account| format!("{:width$}  {}", account.column, account.describe())).collect()
    }
}

/// Every table that the mapping reads, and the result of its query.
///
/// # Errors
/// The source cannot be read, or the mapping does not fit it. As a message.
pub(crate) async fn columns(config: &Config) -> Result<Vec<Columns>, String> {
    let client = connect(&config.source.url).await.map_err(|error| error.to_string())?;
    source_session(&client).await.map_err(|error| crate::pg::describe(&error))?;
    let config = resolve_layout(&client, config).await.map_err(|error| error.to_string())?;
    let facts = gather(&client, &config, None).await.map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    match &facts.query {
        None => found.push(of_users(&config, &facts)?),
        Some(Err(error)) => return Err(format!("users.query cannot be run: {error}")),
        Some(Ok((result, types))) => {
            found.push(of_query(&config, result, types).map_err(|error| misfit(&config.users.table, &error))?);
            for table in config.users.tables() {
                let facts = gather_watched(&client, &config, table, &facts).await.map_err(|error| error.to_string())?;
                let known = facts.table.as_ref().ok_or_else(|| format!("there is no table {table}"))?;
                found.push(of_watched(table, known));
            }
        }
    }
    client.close().await;
    Ok(found)
}

fn of_users(config: &Config, facts: &SourceFacts) -> Result<Columns, String> {
    let name = &config.users.table;
    let known = facts.table.as_ref().ok_or_else(|| format!("there is no table {name}"))?;
    let relation = known.relation.as_ref().ok_or_else(|| format!("{name} is not a table"))?;
    let plan = RowPlan::compile(&config.users, relation, &known.types).map_err(|error| misfit(name, &error))?;
    Ok(of_table(name, known, facts.publication.as_ref(), relation, &plan))
}

fn misfit(table: &TableName, error: &CompileError) -> String {
    let problems: Vec<String> = error.problems.iter().map(|problem| format!("{table}: users.{problem}")).collect();
    problems.join("\n")
}

/// A table whose rows are the users.
pub(super) fn of_table(
    name: &TableName,
    known: &TableFacts,
    publication: Option<&PublicationFacts>,
    relation: &Relation,
    plan: &RowPlan,
) -> Columns {
    let published = publication.and_then(|publication| publication.columns.as_ref());
    let mut columns = plan.account(relation);
    for account in &mut columns {
        let is_published = published.is_none_or(|published| published.contains(&account.column));
        if let (Some(stays), false) = (&mut account.stays, is_published) {
            stays.push_str("; it is not published");
        }
    }
    let generated = known.generated.iter().map(|name| ColumnAccount::staying(name, "it is generated"));
    columns.extend(generated);
    Columns { of: name.to_string(), columns }
}

/// The result of `users.query`.
///
/// # Errors
/// The mapping does not fit it.
pub(super) fn of_query(config: &Config, result: &Relation, types: &TypeCatalog) -> Result<Columns, CompileError> {
    let plan = RowPlan::compile(&config.users, result, types)?;
    Ok(Columns { of: "users.query".to_owned(), columns: plan.account(result) })
}

/// A table that `users.query` reads.
fn of_watched(name: &TableName, known: &TableFacts) -> Columns {
    let account = |column: &String| {
        let is_readable = known.may_select || known.readable.contains(column);
        let why =
            if is_readable { "unless users.query returns it: see its columns" } else { "the role may not read it" };
        ColumnAccount::staying(column, why)
    };
    let named = known.relation.iter().flat_map(|relation| relation.columns.iter().map(|column| &column.name));
    Columns { of: name.to_string(), columns: named.chain(&known.generated).map(account).collect() }
}
