//! Changes and sign-ups per minute of the last hour, in memory: a kilobyte per tenant with changes.

use crate::clock;
use crate::model::TenantId;
use crate::status::metrics::TenantTotals;
use crate::status::process::TenantSample;
use crate::sync::lock;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

/// Number of minutes that are kept.
const MINUTES: usize = 60;
const MILLIS: u64 = 60_000;

#[derive(Default)]
pub(super) struct Activity(Mutex<HashMap<TenantId, Ring>>);

/// A tenant's last hour.
struct Ring {
    /// The counters as they were read last.
    rows: u64,
    sign_ups: u64,
    /// By their number modulo [`MINUTES`]; none before the first change.
    minutes: Vec<Minute>,
}

/// The changes of one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Minute {
    /// Minutes since the Unix epoch.
    number: u64,
    changes: u64,
    sign_ups: u64,
}

/// What was written in a minute.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct MinuteReport {
    /// Its start, in milliseconds since the Unix epoch.
    at: u64,
    /// Users written to the targets, excluding snapshots.
    changes: u64,
    /// Those of them who had just signed up: created within an hour, and not changed since.
    sign_ups: u64,
}

impl Activity {
    pub(super) fn take(&self, samples: &[TenantSample]) {
        let mut rings = lock(&self.0);
        let minute = now();
        for sample in samples {
            note(&mut rings, minute, &sample.tenant, &sample.counts.read());
        }
        // Without a session there are no samples.
        if !samples.is_empty() {
            let known: HashSet<&TenantId> = samples.iter().map(|sample| &sample.tenant).collect();
            rings.retain(|tenant, _| known.contains(tenant));
        }
    }

    pub(super) fn of(&self, tenant: Option<&TenantId>) -> Vec<MinuteReport> {
        let rings = lock(&self.0);
        let wanted = rings.iter().filter(|(of, _)| tenant.is_none_or(|tenant| tenant == *of)).map(|(_, ring)| ring);
        last_hour(wanted, now())
    }
}

/// Minutes since the Unix epoch.
fn now() -> u64 {
    clock::now().unix_micros().map_or(0, |micros| micros.max(0) as u64 / 1_000 / MILLIS)
}

fn note(rings: &mut HashMap<TenantId, Ring>, number: u64, tenant: &TenantId, totals: &TenantTotals) {
    let ring = match rings.get_mut(tenant) {
        Some(ring) => ring,
        // Most tenants of a large installation are idle.
        None if totals.rows == 0 && totals.sign_ups == 0 => return,
        None => rings.entry(tenant.clone()).or_insert(Ring { rows: 0, sign_ups: 0, minutes: Vec::new() }),
    };
    // A tenant that was removed and added again counts from zero.
    let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
    let (changes, sign_ups) = (since(totals.rows, ring.rows), since(totals.sign_ups, ring.sign_ups));
    (ring.rows, ring.sign_ups) = (totals.rows, totals.sign_ups);
    if changes == 0 && sign_ups == 0 {
        return;
    }
    ring.minutes.resize(MINUTES, Minute::default());
    let place = &mut ring.minutes[number as usize % MINUTES];
    if place.number != number {
        *place = Minute { number, ..Minute::default() };
    }
    (place.changes, place.sign_ups) = (place.changes + changes, place.sign_ups + sign_ups);
}

/// The sums of the last hour, the oldest minute first.
fn last_hour<'a>(rings: impl Iterator<Item = &'a Ring>, now: u64) -> Vec<MinuteReport> {
    let first = now.saturating_sub(MINUTES as u64 - 1);
    let mut sums: Vec<MinuteReport> =
        (first..=now).map(|number| MinuteReport { at: number * MILLIS, changes: 0, sign_ups: 0 }).collect();
    for minute in rings.flat_map(|ring| &ring.minutes) {
        let place = minute.number.checked_sub(first).and_then(|place| sums.get_mut(usize::try_from(place).ok()?));
        if let Some(sum) = place {
            (sum.changes, sum.sign_ups) = (sum.changes + minute.changes, sum.sign_ups + minute.sign_ups);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_become_changes_per_minute_of_the_last_hour() {
        let (acme, globex) = (TenantId::new("acme"), TenantId::new("globex"));
        let totals = |rows, sign_ups| TenantTotals { rows, sign_ups, transactions: 0, resyncs: 0, reconnects: 0 };
        let mut rings = HashMap::new();
        for (number, rows, sign_ups) in [(100, 3, 1), (100, 5, 1), (101, 5, 1), (102, 9, 2), (103, 1, 0)] {
            note(&mut rings, number, &acme, &totals(rows, sign_ups));
        }
        note(&mut rings, 102, &globex, &totals(10, 10));
        let shown = |rings: &HashMap<TenantId, Ring>, now| {
            let minutes = last_hour(rings.values(), now);
            assert_eq!(minutes.len(), MINUTES);
            let busy = minutes.into_iter().filter(|minute| minute.changes > 0);
            busy.map(|minute| (minute.at / MILLIS, minute.changes, minute.sign_ups)).collect::<Vec<_>>()
        };
        assert_eq!(shown(&rings, 103), [(100, 5, 1), (102, 14, 11), (103, 1, 0)]);
        assert_eq!(shown(&rings, 160), [(102, 14, 11), (103, 1, 0)]);
        assert_eq!(last_hour(rings.get(&globex).into_iter(), 103).iter().map(|minute| minute.changes).sum::<u64>(), 10);
        note(&mut rings, 160, &acme, &totals(2, 0));
        assert_eq!(shown(&rings, 161), [(102, 14, 11), (103, 1, 0), (160, 1, 0)]);
        assert_eq!(shown(&rings, 300), []);
    }
}
