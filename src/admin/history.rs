//! The last minutes of every tenant's lag, in memory: a few hundred bytes for each.

use crate::model::TenantId;
use crate::status::live::TenantSample;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A sample is kept so often.
pub(super) const EVERY: Duration = Duration::from_secs(5);
/// So many are kept: five minutes.
const KEPT: usize = 60;

/// A tenant's lag at one moment.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = LagSample))]
pub(super) struct Moment {
    /// Milliseconds since the Unix epoch.
    at: u64,
    /// Source WAL not yet applied to the target.
    lag_bytes: Option<u64>,
    /// Time since the target was last up to date.
    lag_seconds: Option<f32>,
}

#[derive(Default)]
pub(super) struct History(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// Counts the samples that were ever taken, and when the kept ones were.
    taken: usize,
    at: VecDeque<u64>,
    tenants: HashMap<TenantId, Ring>,
}

/// A tenant's samples by their number modulo [`KEPT`]; not a number where there is none.
struct Ring {
    since: usize,
    last: usize,
    bytes: Box<[f32; KEPT]>,
    seconds: Box<[f32; KEPT]>,
}

impl History {
    pub(super) fn take(&self, samples: &[TenantSample]) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.lock()
            .take(at as u64, samples.iter().map(|sample| (&sample.tenant, sample.lag_bytes, sample.lag_seconds)));
    }

    pub(super) fn of(&self, tenant: &TenantId) -> Vec<Moment> {
        self.lock().of(tenant)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics inside that could leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn take<'a>(&mut self, at: u64, samples: impl Iterator<Item = (&'a TenantId, Option<u64>, Option<f64>)>) {
        let (number, place) = (self.taken, self.taken % KEPT);
        self.taken += 1;
        self.at.push_back(at);
        if self.at.len() > KEPT {
            self.at.pop_front();
        }
        for ring in self.tenants.values_mut() {
            (ring.bytes[place], ring.seconds[place]) = (f32::NAN, f32::NAN);
        }
        for (tenant, bytes, seconds) in samples {
            let new = || Ring {
                since: number,
                last: number,
                bytes: Box::new([f32::NAN; KEPT]),
                seconds: Box::new([f32::NAN; KEPT]),
            };
            let ring = self.tenants.entry(tenant.clone()).or_insert_with(new);
            ring.bytes[place] = bytes.map_or(f32::NAN, |bytes| bytes as f32);
            ring.seconds[place] = seconds.map_or(f32::NAN, |seconds| seconds as f32);
            ring.last = number;
        }
        // Who has not been sampled for so long has gone.
        self.tenants.retain(|_, ring| ring.last + KEPT > number);
    }

    fn of(&self, tenant: &TenantId) -> Vec<Moment> {
        let Some(ring) = self.tenants.get(tenant) else { return Vec::new() };
        let first = self.taken - self.at.len();
        let numbered = (first..).zip(&self.at).filter(|(number, _)| *number >= ring.since);
        let moment = |(number, at): (usize, &u64)| {
            let (bytes, seconds) = (ring.bytes[number % KEPT], ring.seconds[number % KEPT]);
            let is_there = |value: &f32| !value.is_nan();
            Moment {
                at: *at,
                lag_bytes: Some(bytes).filter(is_there).map(|bytes| bytes as u64),
                lag_seconds: Some(seconds).filter(is_there),
            }
        };
        numbered.map(moment).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(at: u64, lag_bytes: Option<u64>, lag_seconds: Option<f32>) -> Moment {
        Moment { at, lag_bytes, lag_seconds }
    }

    #[test]
    fn the_last_samples_of_current_tenants_are_kept() {
        let (acme, late) = (TenantId::new("acme"), TenantId::new("late"));
        let mut kept = Kept::default();
        kept.take(1, [(&acme, Some(7), Some(0.5))].into_iter());
        kept.take(2, [(&acme, None, None), (&late, Some(0), Some(0.0))].into_iter());
        assert_eq!(kept.of(&acme), [moment(1, Some(7), Some(0.5)), moment(2, None, None)]);
        assert_eq!(kept.of(&late), [moment(2, Some(0), Some(0.0))]);
        assert_eq!(kept.of(&TenantId::new("nobody")), []);
        for at in 3..=KEPT as u64 {
            kept.take(at, [(&acme, Some(at), Some(0.0))].into_iter());
        }
        assert_eq!((kept.of(&acme).len(), kept.of(&late).len()), (KEPT, KEPT - 1));
        assert_eq!(kept.of(&late)[1], moment(3, None, None));
        for at in 61..=64 {
            kept.take(at, [(&acme, Some(at), Some(0.0))].into_iter());
        }
        let moments = kept.of(&acme);
        assert_eq!(
            (moments.len(), &moments[0], &moments[KEPT - 1]),
            (KEPT, &moment(5, Some(5), Some(0.0)), &moment(64, Some(64), Some(0.0)))
        );
        assert_eq!(kept.of(&late), []);
        assert_eq!(kept.tenants.len(), 1);
    }
}
