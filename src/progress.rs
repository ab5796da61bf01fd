//! Decides which position of the source is safe to confirm: one that no following or joining tenant still needs changes
//! from before. Pure: one entry per tenant that is behind.

use crate::model::{Anchor, Lsn, TenantId};
use std::collections::BTreeMap;

/// The received position, and how far each tenant is behind it.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    received: Lsn,
    confirmed: Lsn,
    /// The last transaction that was received.
    anchor: Anchor,
    lags: BTreeMap<TenantId, Lag>,
}

/// How far one tenant is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lag {
    /// The target has everything up to here; the source has to retain later changes for it.
    applied: Lsn,
    /// The end of the last transaction that was dispatched to it.
    dispatched: Lsn,
    /// The tenant is behind until its snapshot is in, whatever it acknowledges.
    joining: bool,
}

impl Progress {
    /// Starts at the slot's confirmed position.
    pub(crate) fn new(confirmed: Lsn) -> Self {
        Progress { received: confirmed, confirmed, anchor: Anchor::default(), lags: BTreeMap::new() }
    }

    /// The end of the last complete transaction, or a later position without changes in between.
    pub(crate) fn received(&self) -> Lsn {
        self.received
    }

    /// A transaction that ends at `end` is complete, and `tenants` have changes of it. In a replay `end` does not grow;
    /// then only the tenants' entries change.
    pub(crate) fn commit<'a>(&mut self, end: Lsn, tenants: impl IntoIterator<Item = &'a TenantId>) {
        let before = self.received;
        for tenant in tenants {
            let fresh = Lag { applied: before, dispatched: end, joining: false };
            let lag = self.lags.entry(tenant.clone()).or_insert(fresh);
            lag.dispatched = lag.dispatched.max(end);
        }
        self.received = before.max(end);
    }

    /// The last transaction that was received.
    pub(crate) fn anchor(&self) -> Anchor {
        self.anchor
    }

    /// A transaction was received. One that comes again is older than the last one.
    pub(crate) fn remember(&mut self, transaction: Anchor) {
        if transaction.end > self.anchor.end {
            self.anchor = transaction;
        }
    }

    /// The source has sent everything before `wal_end`. To be called between transactions only.
    pub(crate) fn idle(&mut self, wal_end: Lsn) {
        self.received = self.received.max(wal_end);
    }

    /// The tenant begins to join: from now on the stream is gathered for it. Returns the position to retain.
    pub(crate) fn join(&mut self, tenant: &TenantId) -> Lsn {
        let wanted = self.received;
        let lag = Lag { applied: wanted, dispatched: wanted, joining: true };
        self.lags.insert(tenant.clone(), lag);
        wanted
    }

    /// The tenant has to start over because of the stream. Nothing more is confirmed, whatever it acknowledges, until it
    /// joins or is released.
    pub(crate) fn retain(&mut self, tenant: &TenantId) {
        let here = Lag { applied: self.received, dispatched: self.received, joining: true };
        self.lags.entry(tenant.clone()).or_insert(here).joining = true;
    }

    /// The tenant's target has durably stored everything up to `position`.
    pub(crate) fn acknowledge(&mut self, tenant: &TenantId, position: Lsn) {
        if let Some(lag) = self.lags.get_mut(tenant) {
            lag.applied = lag.applied.max(position);
            if !lag.joining && lag.applied >= lag.dispatched {
                self.lags.remove(tenant);
            }
        }
    }

    /// The tenant's snapshot at `position` is in its target: from now on it follows.
    pub(crate) fn joined(&mut self, tenant: &TenantId, position: Lsn) {
        if let Some(lag) = self.lags.get_mut(tenant) {
            lag.joining = false;
        }
        self.acknowledge(tenant, position);
    }

    /// The tenant needs no more changes: it was removed, or is recorded as parked.
    pub(crate) fn release(&mut self, tenant: &TenantId) {
        self.lags.remove(tenant);
    }

    /// The position up to which a following tenant's target has everything.
    pub(crate) fn applied_by(&self, tenant: &TenantId) -> Lsn {
        self.lags.get(tenant).map_or(self.received, |lag| lag.applied)
    }

    /// The tenants that have not applied everything received.
    pub(crate) fn behind(&self) -> impl Iterator<Item = &TenantId> {
        self.lags.keys()
    }

    /// The tenants that retain more than `limit` bytes of the log. A joining tenant retains it from the position at
    /// which it began to gather.
    pub(crate) fn retaining_over(&self, limit: u64) -> impl Iterator<Item = &TenantId> {
        // A snapshot's position may be ahead of what was received.
        let behind = move |lag: &Lag| self.received.0.saturating_sub(lag.applied.0) > limit;
        self.lags.iter().filter(move |(_, lag)| behind(lag)).map(|(tenant, _)| tenant)
    }

    /// The position that may be confirmed now. It never decreases.
    pub(crate) fn safe(&self) -> Lsn {
        self.lags.values().map(|lag| lag.applied).fold(self.received, Lsn::min).max(self.confirmed)
    }

    /// `position` is about to be confirmed to the source.
    ///
    /// # Panics
    /// If it is before the confirmed position or after the safe one: either would lose changes.
    pub(crate) fn confirm(&mut self, position: Lsn) {
        assert!(
            position >= self.confirmed && position <= self.safe(),
            "position {position} is not between the confirmed {} and the safe {}",
            self.confirmed,
            self.safe()
        );
        self.confirmed = position;
    }

    /// The last confirmed position.
    pub(crate) fn confirmed(&self) -> Lsn {
        self.confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name)
    }

    #[test]
    fn received_but_unapplied_changes_are_not_confirmed() {
        let (a, b) = (tenant("a"), tenant("b"));
        let mut progress = Progress::new(Lsn(10));
        progress.commit(Lsn(20), [&a]);
        progress.commit(Lsn(30), [&b]);
        assert_eq!(progress.safe(), Lsn(10));
        progress.acknowledge(&b, Lsn(30));
        assert_eq!(progress.safe(), Lsn(10));
        progress.acknowledge(&a, Lsn(20));
        assert_eq!(progress.safe(), Lsn(30));
    }

    #[test]
    fn an_idle_source_moves_on_and_a_waiting_tenant_holds_it() {
        let a = tenant("a");
        let mut progress = Progress::new(Lsn(10));
        progress.idle(Lsn(500));
        assert_eq!(progress.safe(), Lsn(500));
        progress.commit(Lsn(600), [&a]);
        progress.idle(Lsn(900));
        assert_eq!(progress.safe(), Lsn(500));
        progress.acknowledge(&a, Lsn(600));
        assert_eq!(progress.safe(), Lsn(900));
    }

    #[test]
    fn a_joining_tenant_holds_its_wanted_position_until_its_snapshot_is_in() {
        let a = tenant("a");
        let mut progress = Progress::new(Lsn(10));
        assert_eq!(progress.join(&a), Lsn(10));
        progress.idle(Lsn(50));
        assert_eq!(progress.safe(), Lsn(10));
        progress.commit(Lsn(60), [&a]);
        progress.joined(&a, Lsn(55));
        assert_eq!(progress.safe(), Lsn(55));
        progress.acknowledge(&a, Lsn(60));
        assert_eq!(progress.safe(), Lsn(60));
    }

    #[test]
    fn a_tenant_that_has_to_join_holds_its_position_despite_acknowledgements() {
        let (a, b) = (tenant("a"), tenant("b"));
        let mut progress = Progress::new(Lsn(10));
        progress.commit(Lsn(20), [&a]);
        progress.idle(Lsn(30));
        progress.retain(&a);
        progress.retain(&b);
        progress.acknowledge(&a, Lsn(20));
        progress.idle(Lsn(40));
        assert_eq!(progress.safe(), Lsn(20));
        progress.release(&a);
        assert_eq!(progress.safe(), Lsn(30));
        progress.acknowledge(&b, Lsn(40));
        assert_eq!(progress.safe(), Lsn(40));
        progress.idle(Lsn(50));
        assert_eq!(progress.safe(), Lsn(40));
        progress.joined(&b, Lsn(45));
        assert_eq!(progress.safe(), Lsn(50));
    }

    #[test]
    fn every_tenant_over_the_limit_is_named() {
        let (a, b, c) = (tenant("a"), tenant("b"), tenant("c"));
        let mut progress = Progress::new(Lsn(10));
        progress.commit(Lsn(20), [&a]);
        progress.join(&b);
        progress.idle(Lsn(110));
        progress.commit(Lsn(120), [&c]);
        let names = |limit| progress.retaining_over(limit).map(TenantId::as_str).collect::<Vec<_>>();
        assert_eq!(names(109), ["a"]);
        assert_eq!(names(99), ["a", "b"]);
        assert_eq!(names(110), [""; 0]);
        assert_eq!(names(9), ["a", "b", "c"]);
    }

    #[test]
    fn a_parked_tenant_holds_nothing() {
        let a = tenant("a");
        let mut progress = Progress::new(Lsn(10));
        progress.commit(Lsn(20), [&a]);
        progress.release(&a);
        assert_eq!(progress.safe(), Lsn(20));
    }

    #[test]
    fn the_confirmed_position_never_goes_back() {
        let a = tenant("a");
        let mut progress = Progress::new(Lsn(10));
        assert_eq!(progress.confirmed(), Lsn(10));
        progress.idle(Lsn(20));
        progress.confirm(Lsn(15));
        assert_eq!((progress.confirmed(), progress.safe()), (Lsn(15), Lsn(20)));
        // A replayed transaction wants an older position than what is confirmed.
        progress.confirm(Lsn(20));
        progress.commit(Lsn(18), [&a]);
        assert_eq!((progress.safe(), progress.received()), (Lsn(20), Lsn(20)));
    }

    #[test]
    #[should_panic(expected = "position 0/E is not between the confirmed 0/F and the safe 0/F")]
    fn confirming_backwards_panics() {
        let mut progress = Progress::new(Lsn(15));
        progress.confirm(Lsn(14));
    }

    #[test]
    #[should_panic(expected = "position 0/14 is not between the confirmed 0/A and the safe 0/A")]
    fn confirming_beyond_the_safe_position_panics() {
        let mut progress = Progress::new(Lsn(10));
        progress.commit(Lsn(20), [&tenant("a")]);
        progress.confirm(Lsn(20));
    }

    proptest! {
        /// Compared with a model that remembers every transaction of every tenant.
        #[test]
        fn the_safe_position_never_passes_what_a_tenant_lacks(steps in prop::collection::vec((0u8..4, 0usize..3), 1..60)) {
            let names = ["a", "b", "c"].map(tenant);
            let mut lacking = BTreeSet::new();
            let mut progress = Progress::new(Lsn(1));
            let mut now = 1;
            for (step, which) in steps {
                now += 1;
                match step {
                    0 => {
                        progress.commit(Lsn(now), [&names[which]]);
                        lacking.insert((which, now));
                    }
                    1 => {
                        let first = lacking.iter().find(|(t, _)| *t == which).copied();
                        if let Some((t, end)) = first {
                            progress.acknowledge(&names[t], Lsn(end));
                            lacking.remove(&(t, end));
                        }
                    }
                    2 => progress.idle(Lsn(now)),
                    _ => {
                        let safe = progress.safe();
                        progress.confirm(safe);
                    }
                }
                let safe = progress.safe();
                prop_assert!(lacking.iter().all(|(_, end)| Lsn(*end) > safe), "{safe} with {lacking:?}");
                if lacking.is_empty() {
                    prop_assert_eq!(safe, progress.received());
                }
            }
        }
    }
}
