//! Assesses whether ids are unique in the users' table: two rows with one id are one user in a target. Pure.

use super::finding::{Finding, Subject};
use super::source_facts::{TableFacts, UniqueIndex};
use crate::map::{Rules, Value, identity_index};
use crate::model::CheckFinding;
use crate::pg::{quote_ident, quote_table};

/// The finding for ids that no index keeps unique within a tenant. A partitioned table can have such an index only on the
/// columns that it is partitioned by, so nothing is required of it.
pub(super) fn finding(rules: &Rules, table: &TableFacts) -> Option<Finding> {
    let id = column(&rules.id)?;
    let relation = table.relation.as_ref()?;
    relation.position(id)?;
    if rules.query.is_some() || table.kind != "r" {
        return None;
    }
    let tenant = rules.tenant.as_ref().and_then(column).filter(|tenant| *tenant != id);
    let identifying: Vec<&str> = [id].into_iter().chain(tenant).collect();
    let fits = |index: &&UniqueIndex| index.columns.iter().all(|column| identifying.contains(&&**column));
    let fitting: Vec<&UniqueIndex> = table.unique_indexes.iter().filter(fits).collect();
    if fitting.iter().any(|index| index.predicate.is_none()) {
        return None;
    }
    let why = match fitting.iter().find_map(|index| Some((&index.name, index.predicate.as_ref()?))) {
        Some((name, predicate)) => format!("the unique index {name} leaves rows out (WHERE {predicate})"),
        None => "there is no unique index on it".to_owned(),
    };
    let columns: Vec<_> = identifying.iter().map(|column| quote_ident(column)).collect();
    Some(Finding::warning(
        Subject::Source,
        CheckFinding::IdsNotUnique,
        format!(
            "two rows of {} can have the same id ({}): {why}. A change or delete of one would overwrite the other's user",
            rules.table,
            identifying.join(", ")
        ),
        format!(
            "CREATE UNIQUE INDEX CONCURRENTLY {} ON {} ({}); -- if it fails, give the older rows other ids first",
            quote_ident(&identity_index(&rules.table)),
            quote_table(&rules.table),
            columns.join(", ")
        ),
    ))
}

/// The column that a value is, if it is nothing else.
fn column(value: &Value) -> Option<&str> {
    match value {
        Value::Column(name) => Some(name),
        Value::Optional(value) => column(value),
        Value::First(_)
        | Value::Join { .. }
        | Value::Time { .. }
        | Value::Unless { .. }
        | Value::Constant(_)
        | Value::Schema => None,
    }
}
