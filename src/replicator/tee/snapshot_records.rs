//! What the snapshots topic has to say of the tenants that take no snapshot. Pure.

use crate::config::Tenant;
use crate::model::{ByConfigured, ConfiguredIdx, Generation, TenantId};
use crate::tee::{Known, SnapshotRecord};
use std::collections::HashMap;

/// The tenants whose users are in their topic, with the first offset of the topic. `stays`: the tenant takes no snapshot.
pub(super) fn held_snapshots(
    tenants: &ByConfigured<&Tenant>,
    generation: Generation,
    partitions: &ByConfigured<i32>,
    positions: &Known,
    stays: impl Fn(&TenantId) -> bool,
) -> HashMap<TenantId, SnapshotRecord> {
    let record = |(index, tenant): (ConfiguredIdx, &&Tenant)| {
        let known = positions.tenants.get(&tenant.id).filter(|known| stays(&tenant.id) && !known.partial)?;
        let snapshot = SnapshotRecord {
            generation,
            position: known.position,
            topic: known.topic.clone(),
            partition: partitions[index],
            offset: 0,
            mapping: known.mapping.clone(),
        };
        Some((tenant.id.clone(), snapshot))
    };
    tenants.iter().filter_map(record).collect()
}
