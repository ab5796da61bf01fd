//! Users that the stream did not carry whole, read from the source and mapped.

use super::ServiceError;
use super::plans::compile_current;
use crate::config::Config;
use crate::map::TenantRef;
use crate::model::{Change, Lsn, Timestamp, User, UserId, Xid};
use crate::pg::{PgClient, PgUrl, connect};
use crate::snapshot::{Reading, Seen, source_session};
use tokio::sync::Mutex;

/// A user to be read, once this transaction is visible.
pub(super) struct Wanted {
    pub(super) id: UserId,
    pub(super) xid: Xid,
    pub(super) at: Timestamp,
}

/// What was found of them.
pub(super) struct Found {
    /// Each with its tenant's key; `None` where there is exactly one tenant.
    pub(super) users: Vec<(Option<String>, User)>,
    /// What the reading saw: older changes of these users are in it.
    pub(super) seen: Seen,
    /// All of that was committed before this.
    pub(super) position: Lsn,
}

/// One connection to the source for all tenants: re-reads are rare.
pub(super) struct Rereader {
    url: PgUrl,
    client: Mutex<Option<PgClient>>,
}

impl Rereader {
    pub(super) fn new(url: PgUrl) -> Self {
        Rereader { url, client: Mutex::new(None) }
    }

    pub(super) async fn read(&self, config: &Config, wanted: &[Wanted]) -> Result<Found, ServiceError> {
        let mut kept = self.client.lock().await;
        let client = match kept.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => {
                let client = connect(&self.url).await?;
                source_session(&client).await?;
                client
            }
        };
        // After an error the connection may be inside a transaction: it is kept only when all went well.
        let found = read(&client, config, wanted).await?;
        *kept = Some(client);
        Ok(found)
    }
}

async fn read(client: &PgClient, config: &Config, wanted: &[Wanted]) -> Result<Found, ServiceError> {
    let xids: Vec<Xid> = wanted.iter().map(|user| user.xid).collect();
    let ids: Vec<&str> = wanted.iter().map(|user| &*user.id).collect();
    let reading = Reading::begin(client, &xids).await?;
    let mapped = compile_current(client, &config.users).await?;
    let position = reading.position();
    let mut users = Vec::new();
    let seen = reading
        .read(&config.users, &mapped.relation, mapped.plan.decoded(), &ids, |cells| {
            // A row that cannot be mapped was reported when the stream brought it.
            let Ok((tenant, Change::Upsert(mut user))) = mapped.plan.insert(cells) else { return };
            if user.updated_at_derived {
                user.updated_at = wanted.iter().find(|wanted| wanted.id == user.id).map(|wanted| wanted.at);
            }
            match tenant {
                TenantRef::Only => users.push((None, user)),
                TenantRef::Key(key) => users.push((Some(key.into_owned()), user)),
                TenantRef::Nobody | TenantRef::Unsent => {}
            }
        })
        .await?;
    Ok(Found { users, seen, position })
}
