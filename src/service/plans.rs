//! A relation version with its mapping, and the fingerprint by which a target knows how its rows were made.

use super::ServiceError;
use crate::map::{RowPlan, Rules};
use crate::model::{Oid, Relation};
use crate::pg::load_types;
use crate::snapshot::read_relation;
use ring::digest;
use tokio_postgres::Client;

pub(super) struct Mapped {
    pub(super) relation: Relation,
    pub(super) plan: RowPlan,
}

/// Holds the mapping against a relation version; its types are looked up in the catalog.
pub(super) async fn compile(client: &Client, rules: &Rules, relation: Relation) -> Result<Mapped, ServiceError> {
    let types: Vec<Oid> = relation.columns.iter().map(|column| column.type_oid).collect();
    let types = load_types(client, &types).await?;
    let plan = RowPlan::compile(rules, &relation, &types)?;
    Ok(Mapped { relation, plan })
}

/// The same for the table as it is now.
pub(super) async fn compile_current(client: &Client, rules: &Rules) -> Result<Mapped, ServiceError> {
    let relation = read_relation(client, &rules.table).await?;
    compile(client, rules, relation.ok_or_else(|| ServiceError::NoTable(rules.table.clone()))?).await
}

/// Changes whenever a row that did not change would be mapped to something else.
pub(super) fn fingerprint(rules: &Rules, mapped: &Mapped) -> String {
    // The id, because another table may have been given the same name.
    let mut text = format!("{rules:?} {}", mapped.relation.oid);
    for name in mapped.plan.leaving() {
        let kind = mapped.relation.columns.iter().find(|column| column.name == name).map(|column| column.type_oid);
        text.push_str(&format!("\n{name:?} {kind:?}"));
    }
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
