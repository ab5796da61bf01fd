//! The session as the status reads it.

use crate::model::{Lsn, TenantId};
use crate::replicator::session::context::SessionContext;
use crate::state::TroubleRow;
use crate::status::view::{SessionIdentity, SessionView, TenantReading};

impl SessionView for SessionContext {
    fn identity(&self) -> SessionIdentity {
        SessionIdentity {
            slot: self.config.source.slot.clone(),
            generation: self.generation,
            holder: self.holder.clone(),
            source_wal: self.config.limits.source_wal,
        }
    }

    fn findings(&self) -> Vec<TroubleRow> {
        self.all_findings()
    }

    fn lease_has_lapsed(&self) -> bool {
        SessionContext::lease_has_lapsed(self)
    }

    fn received(&self) -> Lsn {
        self.progress().received()
    }

    fn confirmed(&self) -> Lsn {
        self.progress().confirmed()
    }

    fn queued_bytes(&self) -> usize {
        self.memory.waiting()
    }

    fn spool_bytes(&self) -> (usize, u64) {
        self.spool.held_bytes()
    }

    fn visit_tenants(&self, visit: &mut dyn FnMut(TenantReading)) {
        let handles = self.tenants.all();
        for handle in handles.values().filter(|handle| !handle.is_retired()) {
            let waiting = handle.mailbox.waiting();
            let applied = self.progress().applied_by(&handle.tenant.id);
            visit(TenantReading {
                tenant: handle.configured(),
                view: handle.view(),
                pause: handle.pause(),
                applied,
                queue_bytes: waiting.bytes,
                queue_users: waiting.users,
                oldest_queued: waiting.oldest,
                counts: handle.counts.clone(),
                contacted: handle.is_contacted(),
            });
        }
    }

    fn snapshot_share(&self, tenant: &TenantId) -> Option<f64> {
        self.tenants.get(self.index_of(tenant)?).snapshot_share()
    }
}
