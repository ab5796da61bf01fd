//! Checks at the source whether a user can be brought again, before the process that replicates is asked to.

use crate::config::Config;
use crate::model::IdHash;
use crate::pg::{PgUrl, Statements, connect, connect_target, describe};
use crate::replicator::error::ServiceError;
use crate::replicator::source::mapping::resolve_layout;
use crate::replicator::source::point_read::Rereader;
use tokio_postgres::types::Type;

/// What the source has of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtSource {
    /// A row of this tenant.
    Found,
    /// None, or one of another tenant: the user is deleted in the target.
    Absent,
}

/// Reads a user with this id. `key` is the tenant's.
///
/// # Errors
/// The source cannot be read, or it cannot convert the id.
pub(crate) async fn look_up(config: &Config, key: &str, id: &str) -> Result<AtSource, ServiceError> {
    let client = connect(&config.source.url).await?;
    let config = resolve_layout(&client, config).await?;
    let reader = Rereader::new(Some(config.source.url.clone()), Default::default());
    let read = reader.read_ids(&config, &[id.to_owned()]).await?;
    let is_found = read.users.iter().any(|found| found.tenant.as_deref().is_none_or(|tenant| tenant == key));
    Ok(if is_found { AtSource::Found } else { AtSource::Absent })
}

/// What a target has of a user.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AtTarget {
    Live,
    /// Marked as deleted.
    Deleted,
    Absent,
    /// Its row is not as the source has it, for this reason.
    Rejected(String),
}

/// Reads a user from a target. The error is a message.
pub(crate) async fn at_target(target: &PgUrl, id: &str) -> Result<AtTarget, String> {
    let client = connect_target(target).await.map_err(|error| format!("cannot connect to the target: {error}"))?;
    let failed = |error: tokio_postgres::Error| format!("cannot read the target: {}", describe(&error));
    let sql = "SELECT reason::text FROM users_sync.rejected WHERE id_hash = $1";
    let key = IdHash::of(id);
    let rejected = client.query_typed_opt(sql, &[(&key.as_bytes(), Type::BYTEA)]).await.map_err(failed)?;
    if let Some(row) = rejected {
        return Ok(AtTarget::Rejected(row.try_get::<_, Option<String>>(0).map_err(failed)?.unwrap_or_default()));
    }
    let sql = "SELECT deleted_at IS NOT NULL FROM neon_auth.users_sync WHERE id = $1";
    let found = client.query_typed_opt(sql, &[(&id, Type::TEXT)]).await.map_err(failed)?;
    match found.map(|row| row.try_get(0)).transpose().map_err(failed)? {
        None => Ok(AtTarget::Absent),
        Some(true) => Ok(AtTarget::Deleted),
        Some(false) => Ok(AtTarget::Live),
    }
}
