//! The statements that give a table the replica identity that the mapping needs, for `check`: the same as in the script.

use super::facts::{identity, needed_columns};
use super::script::Script;
use super::source::add_identity;
use crate::config::Config;
use crate::model::Relation;
use crate::pg::PgClient;
use crate::replicator::error::ServiceError;

/// The statements, each with its semicolon; `None` if nothing is missing.
///
/// # Errors
/// The mapping does not fit, or the connection broke.
pub(crate) async fn identity_statements(
    client: &PgClient,
    config: &Config,
    relation: &Relation,
) -> Result<Option<String>, ServiceError> {
    let mut script = Script::default();
    for holder in relation.row_holders() {
        let needed = needed_columns(client, config, &holder).await?;
        add_identity(&mut script, &holder.table, &identity(client, &holder, &needed).await?, "default");
    }
    let statements: Vec<String> = script.statements.iter().map(|statement| format!("{};", statement.sql)).collect();
    Ok((!statements.is_empty()).then(|| statements.join(" ")))
}
