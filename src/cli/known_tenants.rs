//! The tenants of `tenants.from` as the state knows them, for what has to work while the table cannot be read.

use crate::config::{Config, Tenant};
use crate::model::{ParkCause, Reason, TenantId};
use crate::pg::{self, PgUrl};
use crate::state::{Snapshot, StateStore, TenantRow};
use std::collections::HashSet;
use std::sync::Arc;

/// The tenants that a process has replicated, and that neither the files name nor a process has found removed. Their URLs only
/// show where they are: the state has no roles and no passwords. `None` if the state cannot be read.
pub(super) async fn read_known(files: &Config) -> Option<Vec<Arc<Tenant>>> {
    let client = pg::connect_state(&files.state_url).await.ok()?;
    let state = StateStore::read(&client, &files.source.slot).await;
    client.close().await;
    Some(known(files, &state.ok()?))
}

fn known(files: &Config, state: &Snapshot) -> Vec<Arc<Tenant>> {
    let listed: HashSet<&TenantId> = files.tenants.iter().map(|tenant| &tenant.id).collect();
    let removed = Some(Reason::Park(ParkCause::NotConfigured));
    let tenant = |(id, row): (&TenantId, &TenantRow)| {
        let target = PgUrl::parse(&format!("postgres://unknown@{}", row.target)).ok()?;
        Some(Arc::new(Tenant::new(id.clone(), target)))
    };
    let rows = state.tenants.iter().filter(|(id, row)| row.reason_code != removed && !listed.contains(id));
    let mut known: Vec<Arc<Tenant>> = rows.filter_map(tenant).collect();
    known.sort_by(|a, b| a.id.cmp(&b.id));
    known
}
