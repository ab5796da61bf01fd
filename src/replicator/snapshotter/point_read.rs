//! Users that the stream did not carry whole, read from the source and mapped.

use crate::config::Config;
use crate::map::{TenantRef, Via};
use crate::model::{Cell, Lsn, Timestamp, User, UserId, Xid};
use crate::pg::{PgClient, PgUrl, connect, quote_table};
use crate::replicator::error::ServiceError;
use crate::replicator::source::mapping::{Mapped, compile_current};
use crate::snapshot::{By, Reading, Rows, Seen, read_relation, source_session};
use std::borrow::Cow;
use tokio::sync::Mutex;

/// A user to be read, once this transaction is visible.
pub(crate) struct Wanted {
    pub(crate) id: UserId,
    pub(crate) xid: Xid,
    pub(crate) at: Timestamp,
}

/// What was found of them.
pub(crate) struct Found {
    /// Each with its tenant's key; `None` where there is exactly one tenant.
    pub(crate) users: Vec<(Option<String>, User)>,
    /// What the reading saw: older changes of these users are in it.
    pub(crate) seen: Seen,
    /// All of that was committed before this.
    pub(crate) position: Lsn,
}

/// One connection to the source for all tenants: re-reads are rare.
pub(crate) struct Rereader {
    url: PgUrl,
    client: Mutex<Option<PgClient>>,
}

impl Rereader {
    pub(crate) fn new(url: PgUrl) -> Self {
        Rereader { url, client: Mutex::new(None) }
    }

    /// The users with these ids.
    pub(crate) async fn read(&self, config: &Config, wanted: &[Wanted]) -> Result<Found, ServiceError> {
        let xids: Vec<Xid> = wanted.iter().map(|user| user.xid).collect();
        let keys: Vec<Vec<&str>> = wanted.iter().map(|user| vec![&*user.id]).collect();
        let (read, seen, position) = self.read_keys(config, &xids, &keys).await?;
        let users = read.into_iter().map(|Row { tenant, mut user, .. }| {
            if user.updated_at_derived {
                user.updated_at = wanted.iter().find(|wanted| wanted.id == user.id).map(|wanted| wanted.at);
            }
            (tenant, user)
        });
        Ok(Found { users: users.collect(), seen, position })
    }

    /// The users with these ids as they are now, each with its tenant's key; all of that was committed before the position.
    pub(crate) async fn read_ids(
        &self,
        config: &Config,
        ids: &[String],
    ) -> Result<(Vec<(Option<String>, User)>, Lsn), ServiceError> {
        let mut kept = self.client.lock().await;
        let client = self.client(kept.take()).await?;
        let ids: Vec<Vec<&str>> = ids.iter().map(|id| vec![id.as_str()]).collect();
        let (rows, _, position) = read(&client, config, &[], &ids, Key::Id).await?;
        *kept = Some(client);
        Ok((rows.into_iter().map(|row| (row.tenant, row.user)).collect(), position))
    }

    /// The rows with these keys, once these transactions are visible.
    pub(crate) async fn read_keys(
        &self,
        config: &Config,
        xids: &[Xid],
        keys: &[Vec<&str>],
    ) -> Result<(Vec<Row>, Seen, Lsn), ServiceError> {
        let mut kept = self.client.lock().await;
        let client = self.client(kept.take()).await?;
        // After an error the connection may be inside a transaction: it is kept only when all went well.
        let found = read(&client, config, xids, keys, Key::Mapping).await?;
        *kept = Some(client);
        Ok(found)
    }

    /// Which of the query's keys these keys lead to, once these transactions are visible.
    pub(crate) async fn lead(
        &self,
        via: &Via,
        xids: &[Xid],
        keys: &[Vec<&str>],
    ) -> Result<Vec<(Vec<String>, Vec<String>)>, ServiceError> {
        let mut kept = self.client.lock().await;
        let client = self.client(kept.take()).await?;
        let led = lead(&client, via, xids, keys).await?;
        *kept = Some(client);
        Ok(led)
    }

    async fn client(&self, kept: Option<PgClient>) -> Result<PgClient, ServiceError> {
        match kept.filter(|client| !client.is_closed()) {
            Some(client) => Ok(client),
            None => {
                let client = connect(&self.url).await?;
                source_session(&client).await?;
                Ok(client)
            }
        }
    }
}

/// A user as it was read.
pub(crate) struct Row {
    /// The query's key; empty without a query.
    pub(crate) key: Vec<String>,
    /// The tenant's key; `None` where there is exactly one tenant.
    pub(crate) tenant: Option<String>,
    pub(crate) user: User,
}

/// What users are looked up by.
enum Key {
    /// The mapping's own key.
    Mapping,
    /// The id alone.
    Id,
}

async fn read(
    client: &PgClient,
    config: &Config,
    xids: &[Xid],
    keys: &[Vec<&str>],
    by: Key,
) -> Result<(Vec<Row>, Seen, Lsn), ServiceError> {
    let reading = Reading::begin(client, xids).await?;
    let Mapped { relation, plan, from } = compile_current(client, &config.users).await?;
    let position = reading.position();
    let mut rows = Vec::new();
    let by = match by {
        Key::Mapping => By::mapping(&config.users, &relation),
        Key::Id => By::ids(&config.users, &relation),
    };
    let wanted = Rows { from: &from, relation: &relation, decoded: plan.decoded(), by };
    reading
        .read(&wanted, keys, |cells| {
            // A row that cannot be mapped is reported where the stream or a snapshot brings it.
            let (Ok(Some((tenant, user))), Ok(Some(key))) = (plan.insert(cells), plan.key_of(cells)) else { return };
            let key = key.into_iter().map(Cow::into_owned).collect();
            match tenant {
                TenantRef::Only => rows.push(Row { key, tenant: None, user }),
                TenantRef::Key(tenant) => rows.push(Row { key, tenant: Some(tenant.into_owned()), user }),
                TenantRef::Nobody | TenantRef::Unsent => {}
            }
        })
        .await?;
    Ok((rows, reading.end().await?, position))
}

async fn lead(
    client: &PgClient,
    via: &Via,
    xids: &[Xid],
    keys: &[Vec<&str>],
) -> Result<Vec<(Vec<String>, Vec<String>)>, ServiceError> {
    let reading = Reading::begin(client, xids).await?;
    let relation = read_relation(client, &via.table).await?.ok_or_else(|| ServiceError::NoTable(via.table.clone()))?;
    let places = |names: &[String]| -> Vec<usize> {
        names.iter().filter_map(|name| relation.columns.iter().position(|column| column.name == *name)).collect()
    };
    let (from, to) = (places(&via.from), places(&via.to));
    let decoded: Vec<bool> = (0..relation.columns.len()).map(|n| from.contains(&n) || to.contains(&n)).collect();
    let by = By::Columns(via.from.iter().map(String::as_str).collect());
    let rows = Rows { from: &quote_table(&via.table), relation: &relation, decoded: &decoded, by };
    let mut led = Vec::new();
    reading
        .read(&rows, keys, |cells| {
            let text = |at: &usize| match cells.get(*at) {
                Some(Cell::Text(text)) => std::str::from_utf8(text).ok().map(|text| text.trim_end().to_owned()),
                _ => None,
            };
            let key = |places: &[usize]| places.iter().map(text).collect::<Option<Vec<_>>>();
            led.extend(key(&from).zip(key(&to)));
        })
        .await?;
    reading.end().await?;
    Ok(led)
}
