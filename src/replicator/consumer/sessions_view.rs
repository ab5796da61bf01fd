//! The sessions of all partitions of this process, as the status reads them.

use crate::model::{Generation, Lsn, TenantId};
use crate::replicator::prepare::holder;
use crate::replicator::session::context::SessionContext;
use crate::state::TroubleRow;
use crate::status::view::{SessionIdentity, SessionView, TenantReading};
use crate::sync::lock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The sessions that run, by partition.
pub(super) struct PartitionSessions {
    slot: String,
    source_wal: u64,
    running: Mutex<BTreeMap<i32, Arc<SessionContext>>>,
}

/// Removes the session when it is dropped.
pub(super) struct Shown {
    sessions: Arc<PartitionSessions>,
    partition: i32,
}

impl PartitionSessions {
    pub(super) fn new(slot: String, source_wal: u64) -> PartitionSessions {
        PartitionSessions { slot, source_wal, running: Mutex::default() }
    }

    pub(super) fn add(self: &Arc<Self>, partition: i32, context: Arc<SessionContext>) -> Shown {
        lock(&self.running).insert(partition, context);
        Shown { sessions: self.clone(), partition }
    }

    fn all(&self) -> Vec<Arc<SessionContext>> {
        lock(&self.running).values().cloned().collect()
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        lock(&self.sessions.running).remove(&self.partition);
    }
}

impl SessionView for PartitionSessions {
    fn identity(&self) -> SessionIdentity {
        let generation = self.all().iter().map(|session| session.generation).max();
        SessionIdentity {
            slot: self.slot.clone(),
            generation: generation.unwrap_or(Generation(0)),
            holder: holder(),
            source_wal: self.source_wal,
        }
    }

    fn findings(&self) -> Vec<TroubleRow> {
        let mut findings = Vec::new();
        for session in self.all() {
            for finding in session.all_findings() {
                if !findings.contains(&finding) {
                    findings.push(finding);
                }
            }
        }
        findings
    }

    fn lease_has_lapsed(&self) -> bool {
        self.all().iter().any(|session| session.lease_has_lapsed())
    }

    fn received(&self) -> Lsn {
        self.all().iter().map(|session| session.progress().received()).max().unwrap_or_default()
    }

    fn confirmed(&self) -> Lsn {
        self.all().iter().map(|session| session.progress().confirmed()).min().unwrap_or_default()
    }

    fn queued_bytes(&self) -> usize {
        // All sessions share it.
        self.all().first().map_or(0, |session| session.memory.waiting())
    }

    fn spool_bytes(&self) -> (usize, u64) {
        let held = self.all().into_iter().map(|session| session.spool.held_bytes());
        held.fold((0, 0), |(memory, disk), (more, further)| (memory + more, disk + further))
    }

    fn visit_tenants(&self, visit: &mut dyn FnMut(TenantReading)) {
        self.all().iter().for_each(|session| session.visit_tenants(visit));
    }

    fn snapshot_share(&self, tenant: &TenantId) -> Option<f64> {
        self.all().iter().find_map(|session| session.snapshot_share(tenant))
    }
}
