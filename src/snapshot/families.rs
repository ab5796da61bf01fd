//! Detects which of a preset's table layouts (families) the source has, and fills in the mapping's
//! placeholders.

use super::catalog::read_relation;
use crate::config::Family;
use crate::map::{Query, Rules, Value, Watch};
use crate::model::TableName;
use crate::pg::{quote_ident, quote_literal};
use tokio_postgres::{Client, Error};

/// In a table's name: the highest number among such tables, for stores that create a table per version.
const NUMBER_PLACEHOLDER: &str = "{N}";
/// As a schema: every schema that has the table, for stores with a schema per tenant.
const ANY_SCHEMA: &str = "*";
/// In rows read from several schemas: the column with the schema's name.
const SCHEMA_COLUMN: &str = "users_sync_schema";

/// A mapping that fits the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvedFamily {
    /// The mapping without placeholders.
    pub(crate) rules: Rules,
    /// What was detected, for the log; empty if there was nothing to detect.
    pub(crate) found: String,
}

/// Chooses the first family whose table has the required columns; `None` if there is none.
pub(crate) async fn resolve_family(client: &Client, families: &[Family]) -> Result<Option<ResolvedFamily>, Error> {
    for family in families {
        let (rules, mut found) = fill_in(client, &family.rules).await?;
        if families.len() > 1 {
            let Some(relation) = read_relation(client, &rules.table).await? else { continue };
            if !family.has.iter().all(|name| relation.columns.iter().any(|column| column.name == *name)) {
                continue;
            }
            found = [&*found, &format!("detected table layout: {}", family.name)].join(" ").trim().to_owned();
        }
        return Ok(Some(ResolvedFamily { rules, found }));
    }
    Ok(None)
}

/// Fills in the placeholders of one mapping.
async fn fill_in(client: &Client, rules: &Rules) -> Result<(Rules, String), Error> {
    let TableName { schema, name } = &rules.table;
    if let Some((before, after)) = name.split_once(NUMBER_PLACEHOLDER) {
        let sql = "SELECT max((regexp_match(c.relname, '^' || $2 || '([0-9]+)' || $3 || '$'))[1]::int)::text \
                   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                   WHERE n.nspname = $1 AND c.relkind IN ('r', 'p')";
        let [before, after] = [before, after].map(escape_regex);
        let highest: Option<String> = client.query_one(sql, &[schema, &before, &after]).await?.try_get(0)?;
        let Some(highest) = highest else { return Ok((rules.clone(), String::new())) };
        return Ok((
            numbered(rules, &highest),
            format!("the newest table is {schema}.{}", name.replace(NUMBER_PLACEHOLDER, &highest)),
        ));
    }
    if schema == ANY_SCHEMA {
        let sql = "SELECT n.nspname::text \
                   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                   WHERE c.relname = $1 AND c.relkind IN ('r', 'p') ORDER BY 1";
        let rows = client.query(sql, &[name]).await?;
        let schemas: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let found =
            format!("{name} is in {}", if schemas.is_empty() { "no schema".into() } else { schemas.join(", ") });
        return Ok((in_schemas(rules, &schemas), found));
    }
    Ok((rules.clone(), String::new()))
}

fn numbered(rules: &Rules, number: &str) -> Rules {
    let table = |table: &TableName| TableName {
        schema: table.schema.clone(),
        name: table.name.replace(NUMBER_PLACEHOLDER, number),
    };
    let watch = |watch: &Watch| Watch { table: table(&watch.table), ..watch.clone() };
    let query = rules.query.as_ref().map(|query| Query {
        sql: query.sql.replace(NUMBER_PLACEHOLDER, number),
        key: query.key.clone(),
        watch: query.watch.iter().map(watch).collect(),
        distinct: query.distinct.clone(),
    });
    Rules { table: table(&rules.table), query, ..rules.clone() }
}

/// Maps one schema as an ordinary table, and several as one query whose rows name their schema.
fn in_schemas(rules: &Rules, schemas: &[String]) -> Rules {
    let table = |schema: &String| TableName { schema: schema.clone(), name: rules.table.name.clone() };
    let (first, Value::Column(id)) = (schemas.first(), &rules.id) else { return rules.clone() };
    let Some(first) = first else { return rules.clone() };
    if schemas.len() == 1 {
        return Rules { table: table(first), ..rules.clone() };
    }
    let part = |schema: &String| {
        let (schema_name, from) = (quote_literal(schema), quote_ident(schema));
        format!("SELECT {schema_name}::text AS {SCHEMA_COLUMN}, t.* FROM {from}.{} t", quote_ident(&rules.table.name))
    };
    let watch = |schema| Watch {
        table: table(schema),
        key: vec![id.clone()],
        tenant: rules.tenant.clone(),
        is_users_own: true,
        via: None,
    };
    let query = Query {
        sql: schemas.iter().map(part).collect::<Vec<_>>().join(" UNION ALL "),
        key: vec![id.clone()],
        watch: schemas.iter().map(watch).collect(),
        distinct: Vec::new(),
    };
    let of_row = |tenant: &Value| match tenant {
        Value::Schema => Value::Column(SCHEMA_COLUMN.to_owned()),
        other => other.clone(),
    };
    let mut exclude = rules.exclude.clone();
    exclude.push(SCHEMA_COLUMN.to_owned());
    Rules {
        table: table(first),
        tenant: rules.tenant.as_ref().map(of_row),
        exclude,
        query: Some(query),
        ..rules.clone()
    }
}

fn escape_regex(text: &str) -> String {
    text.chars().flat_map(|c| (!c.is_alphanumeric()).then_some('\\').into_iter().chain([c])).collect()
}
