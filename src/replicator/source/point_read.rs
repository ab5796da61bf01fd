//! Point reads: users that the stream did not carry whole are read from the source and mapped.

use crate::config::Config;
use crate::map::{TenantRef, Via, is_padded};
use crate::model::{Cell, ColumnIdx, Lsn, Oid, Timestamp, User, UserId, Xid};
use crate::pg::{PgClient, PgUrl, connect, load_types, quote_table};
use crate::replicator::error::ServiceError;
use crate::replicator::source::mapping::{MappedRelation, compile_current};
use crate::snapshot::{FindBy, Reading, RowQuery, SeenXids, read_relation, source_session};
use prometheus_client::metrics::counter::Counter;
use std::borrow::Cow;
use tokio::sync::Mutex;

/// A user to read, once the transaction that changed it is visible.
pub(crate) struct ReadRequest {
    pub(crate) id: UserId,
    pub(crate) xid: Xid,
    /// When that transaction was committed.
    pub(crate) at: Timestamp,
}

/// The users of one read.
pub(crate) struct PointReadResult {
    pub(crate) users: Vec<ReadUser>,
    /// The transactions that the read saw: their changes of these users are older than what was read.
    pub(crate) seen: SeenXids,
    /// All that the read saw was committed before this.
    pub(crate) position: Lsn,
}

/// A user as it was read.
pub(crate) struct ReadUser {
    /// The query's key; empty without a query.
    pub(crate) key: Vec<String>,
    /// The tenant's key; `None` if there is exactly one tenant.
    pub(crate) tenant: Option<String>,
    pub(crate) user: User,
}

/// A key of another table, and the query's key that its row leads to.
pub(crate) struct FollowedKey {
    pub(crate) from: Vec<String>,
    pub(crate) to: Vec<String>,
}

/// One connection to the source for all tenants: point reads are rare.
pub(crate) struct Rereader {
    /// `None`: this process has no access to the source.
    url: Option<PgUrl>,
    client: Mutex<Option<PgClient>>,
    /// Counts the escapes removed from json values.
    stripped_escapes: Counter,
}

impl Rereader {
    /// Without a `url`, every read fails.
    pub(crate) fn new(url: Option<PgUrl>, stripped_escapes: Counter) -> Self {
        Rereader { url, client: Mutex::new(None), stripped_escapes }
    }

    pub(crate) fn has_source(&self) -> bool {
        self.url.is_some()
    }

    /// Reads the requested users. A derived `updated_at` is the commit time of the request.
    pub(crate) async fn read(
        &self,
        config: &Config,
        requests: &[ReadRequest],
    ) -> Result<PointReadResult, ServiceError> {
        let xids: Vec<Xid> = requests.iter().map(|request| request.xid).collect();
        let keys: Vec<Vec<&str>> = requests.iter().map(|request| vec![&*request.id]).collect();
        let mut result = self.read_keys(config, &xids, &keys).await?;
        for ReadUser { user, .. } in &mut result.users {
            if user.updated_at_derived {
                user.updated_at = requests.iter().find(|request| request.id == user.id).map(|request| request.at);
            }
        }
        Ok(result)
    }

    /// Reads the current rows of the users with these ids.
    pub(crate) async fn read_ids(&self, config: &Config, ids: &[String]) -> Result<PointReadResult, ServiceError> {
        let mut kept = self.client.lock().await;
        let client = self.client(kept.take()).await?;
        let ids: Vec<Vec<&str>> = ids.iter().map(|id| vec![id.as_str()]).collect();
        let result = self.read_with(&client, config, &[], &ids, LookupBy::Id).await?;
        *kept = Some(client);
        Ok(result)
    }

    /// Reads the users with these keys, once the transactions are visible.
    pub(crate) async fn read_keys(
        &self,
        config: &Config,
        xids: &[Xid],
        keys: &[Vec<&str>],
    ) -> Result<PointReadResult, ServiceError> {
        let mut kept = self.client.lock().await;
        let client = self.client(kept.take()).await?;
        // After an error the connection may be inside a transaction: it is kept only after a success.
        let result = self.read_with(&client, config, xids, keys, LookupBy::MappingKey).await?;
        *kept = Some(client);
        Ok(result)
    }

    /// The query's keys that these keys of another table lead to, once the transactions are visible.
    pub(crate) async fn follow_keys(
        &self,
        via: &Via,
        xids: &[Xid],
        keys: &[Vec<&str>],
    ) -> Result<Vec<FollowedKey>, ServiceError> {
        let mut kept = self.client.lock().await;
        let client = self.client(kept.take()).await?;
        let followed = follow_keys(&client, via, xids, keys).await?;
        *kept = Some(client);
        Ok(followed)
    }

    async fn read_with(
        &self,
        client: &PgClient,
        config: &Config,
        xids: &[Xid],
        keys: &[Vec<&str>],
        by: LookupBy,
    ) -> Result<PointReadResult, ServiceError> {
        let reading = Reading::begin(client, xids).await?;
        let mapped = compile_current(client, &config.users).await?.within(config.limits.tenant_memory);
        let MappedRelation { relation, plan, .. } = &mapped;
        let position = reading.position();
        let by = match by {
            LookupBy::MappingKey => FindBy::mapping(&config.users, relation),
            LookupBy::Id => FindBy::ids(&config.users, relation),
        };
        let from = mapped.item();
        let rows = RowQuery { from: &from, relation, decoded: plan.decoded(), max_row: plan.max_row(), by };
        let mut users = Vec::new();
        reading
            .read(&rows, keys, |cells| {
                // A row that cannot be mapped is not absent: it is set aside.
                let row = plan.insert(cells).unwrap_or_else(|why| plan.identify(None, cells, &why));
                let (Some((tenant, user)), Ok(Some(key))) = (row, plan.key_of(cells)) else { return };
                let key = key.into_iter().map(Cow::into_owned).collect();
                match tenant {
                    TenantRef::Only => users.push(ReadUser { key, tenant: None, user }),
                    TenantRef::Key(tenant) => users.push(ReadUser { key, tenant: Some(tenant.into_owned()), user }),
                    TenantRef::NoTenant | TenantRef::Unsent => {}
                }
            })
            .await?;
        self.stripped_escapes.inc_by(plan.take_stripped_escapes());
        Ok(PointReadResult { users, seen: reading.end().await?, position })
    }

    async fn client(&self, kept: Option<PgClient>) -> Result<PgClient, ServiceError> {
        if let Some(client) = kept.filter(|client| !client.is_closed()) {
            return Ok(client);
        }
        let client = connect(self.url.as_ref().ok_or(ServiceError::WithoutSource)?).await?;
        source_session(&client).await?;
        Ok(client)
    }
}

enum LookupBy {
    MappingKey,
    Id,
}

async fn follow_keys(
    client: &PgClient,
    via: &Via,
    xids: &[Xid],
    keys: &[Vec<&str>],
) -> Result<Vec<FollowedKey>, ServiceError> {
    let reading = Reading::begin(client, xids).await?;
    let relation = read_relation(client, &via.table).await?.ok_or_else(|| ServiceError::NoTable(via.table.clone()))?;
    let positions =
        |names: &[String]| -> Vec<ColumnIdx> { names.iter().filter_map(|name| relation.position(name)).collect() };
    let (from, to) = (positions(&via.from), positions(&via.to));
    let type_oids: Vec<Oid> = relation.columns.iter().map(|column| column.type_oid).collect();
    let types = load_types(client, &type_oids).await?;
    let padded: Vec<bool> = type_oids.iter().map(|oid| is_padded(*oid, &types)).collect();
    let is_read = |column| from.contains(&column) || to.contains(&column);
    let decoded: Vec<bool> = relation.indexed_columns().map(|(column, _)| is_read(column)).collect();
    let by = FindBy::Columns(via.from.iter().map(String::as_str).collect());
    let rows =
        RowQuery { from: &quote_table(&via.table), relation: &relation, decoded: &decoded, max_row: usize::MAX, by };
    let mut followed = Vec::new();
    reading
        .read(&rows, keys, |cells| {
            if let (Some(from), Some(to)) = (key_at(cells, &padded, &from), key_at(cells, &padded, &to)) {
                followed.push(FollowedKey { from, to });
            }
        })
        .await?;
    reading.end().await?;
    Ok(followed)
}

/// The texts of these columns, without the padding of `char(n)`; `None` if one of them is null.
fn key_at(cells: &[Cell<'_>], padded: &[bool], columns: &[ColumnIdx]) -> Option<Vec<String>> {
    let text = |column: &ColumnIdx| match column.of(cells) {
        Some(Cell::Text(text)) => {
            let text = std::str::from_utf8(text).ok()?;
            let is_padded = column.of(padded).is_some_and(|is_padded| *is_padded);
            Some(if is_padded { text.trim_end_matches(' ') } else { text }.to_owned())
        }
        _ => None,
    };
    columns.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_padding_is_removed_from_a_key() {
        let column = |name: &str| crate::model::Column { name: name.into(), type_oid: 25, in_identity: false };
        let relation = crate::model::Relation {
            oid: 1,
            table: crate::model::TableName { schema: "auth".into(), name: "members".into() },
            replica_identity: crate::model::ReplicaIdentity::Full,
            columns: vec![column("text"), column("char")],
            leaves: Vec::new(),
        };
        let columns: Vec<ColumnIdx> = relation.indexed_columns().map(|(index, _)| index).collect();
        let cells = [Cell::Text(b"u1 "), Cell::Text(b"u1\t  ")];
        let key = key_at(&cells, &[false, true], &columns);
        assert_eq!(key, Some(vec!["u1 ".to_owned(), "u1\t".to_owned()]));
    }
}
