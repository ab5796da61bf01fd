//! The lag of every tenant in the last five minutes, in memory: 480 bytes for each tenant of which a sample was not "no lag", about 100
//! for the others.

use crate::clock;
use crate::model::TenantId;
use crate::status::process::TenantSample;
use crate::sync::lock;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Interval between samples.
pub(super) const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);
/// Number of samples per tenant: five minutes.
const CAPACITY: usize = 60;

/// A tenant's lag at one moment.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct LagSample {
    /// Milliseconds since the Unix epoch.
    at: u64,
    /// Source WAL not yet applied to the target.
    lag_bytes: Option<u64>,
    /// Time since the target was last up to date.
    lag_seconds: Option<f32>,
}

#[derive(Default)]
pub(super) struct History(Mutex<Samples>);

#[derive(Default)]
struct Samples {
    /// Number of samples taken so far.
    taken: usize,
    /// Times of the retained samples, in ms since the Unix epoch.
    at: VecDeque<u64>,
    tenants: HashMap<TenantId, Ring>,
}

/// A tenant's samples.
struct Ring {
    /// Number of the tenant's first sample.
    since: usize,
    /// Number of its latest sample.
    last: usize,
    /// Number of the latest one that was not [`NO_LAG`].
    noted: Option<usize>,
    /// By their number modulo [`CAPACITY`]; `None` while all of them are [`NO_LAG`].
    values: Option<Box<[Value; CAPACITY]>>,
}

/// Bytes and seconds of one sample. NaN stands for an unknown value.
type Value = [f32; 2];

/// The sample of a tenant whose target has everything.
const NO_LAG: Value = [0.0; 2];
const UNKNOWN: Value = [f32::NAN; 2];

impl Ring {
    fn new(number: usize) -> Ring {
        Ring { since: number, last: number, noted: None, values: None }
    }

    fn put(&mut self, number: usize, value: Value) {
        if value != NO_LAG {
            self.noted = Some(number);
            self.values.get_or_insert_with(|| Box::new([NO_LAG; CAPACITY]));
        }
        if self.noted.is_some_and(|noted| noted + CAPACITY <= number) {
            (self.noted, self.values) = (None, None);
        }
        if let Some(values) = &mut self.values {
            values[number % CAPACITY] = value;
        }
    }

    fn get(&self, number: usize) -> Value {
        self.values.as_ref().map_or(NO_LAG, |values| values[number % CAPACITY])
    }
}

impl History {
    pub(super) fn take(&self, samples: &[TenantSample]) {
        let at = clock::now().unix_micros().map_or(0, |micros| micros.max(0) as u64 / 1_000);
        self.lock().take(at, samples.iter().map(|sample| (&sample.tenant, sample.lag_bytes, sample.lag_seconds)));
    }

    pub(super) fn of(&self, tenant: &TenantId) -> Vec<LagSample> {
        self.lock().of(tenant)
    }

    fn lock(&self) -> MutexGuard<'_, Samples> {
        // Code under the lock does not panic between related changes.
        lock(&self.0)
    }
}

impl Samples {
    fn take<'a>(&mut self, at: u64, samples: impl Iterator<Item = (&'a TenantId, Option<u64>, Option<f64>)>) {
        let number = self.taken;
        self.taken += 1;
        self.at.push_back(at);
        if self.at.len() > CAPACITY {
            self.at.pop_front();
        }
        for (tenant, bytes, seconds) in samples {
            let ring = match self.tenants.get_mut(tenant) {
                Some(ring) => ring,
                None => self.tenants.entry(tenant.clone()).or_insert_with(|| Ring::new(number)),
            };
            ring.last = number;
            let bytes = bytes.map_or(f32::NAN, |bytes| bytes as f32);
            ring.put(number, [bytes, seconds.map_or(f32::NAN, |seconds| seconds as f32)]);
        }
        for ring in self.tenants.values_mut().filter(|ring| ring.last != number) {
            ring.put(number, UNKNOWN);
        }
        // A tenant without a sample in the whole window was removed.
        self.tenants.retain(|_, ring| ring.last + CAPACITY > number);
    }

    fn of(&self, tenant: &TenantId) -> Vec<LagSample> {
        let Some(ring) = self.tenants.get(tenant) else { return Vec::new() };
        let first = self.taken - self.at.len();
        let numbered = (first..).zip(&self.at).filter(|(number, _)| *number >= ring.since);
        let sample = |(number, at): (usize, &u64)| {
            let [bytes, seconds] = ring.get(number);
            let is_known = |value: &f32| !value.is_nan();
            LagSample {
                at: *at,
                lag_bytes: Some(bytes).filter(is_known).map(|bytes| bytes as u64),
                lag_seconds: Some(seconds).filter(is_known),
            }
        };
        numbered.map(sample).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64, lag_bytes: Option<u64>, lag_seconds: Option<f32>) -> LagSample {
        LagSample { at, lag_bytes, lag_seconds }
    }

    #[test]
    fn the_last_samples_of_current_tenants_are_kept() {
        let (acme, late) = (TenantId::new("acme"), TenantId::new("late"));
        let mut samples = Samples::default();
        samples.take(1, [(&acme, Some(7), Some(0.5))].into_iter());
        samples.take(2, [(&acme, None, None), (&late, Some(0), Some(0.0))].into_iter());
        assert_eq!(samples.of(&acme), [sample(1, Some(7), Some(0.5)), sample(2, None, None)]);
        assert_eq!(samples.of(&late), [sample(2, Some(0), Some(0.0))]);
        assert_eq!(samples.of(&TenantId::new("absent")), []);
        for at in 3..=CAPACITY as u64 {
            samples.take(at, [(&acme, Some(at), Some(0.0))].into_iter());
        }
        assert_eq!((samples.of(&acme).len(), samples.of(&late).len()), (CAPACITY, CAPACITY - 1));
        assert_eq!(samples.of(&late)[1], sample(3, None, None));
        for at in 61..=64 {
            samples.take(at, [(&acme, Some(at), Some(0.0))].into_iter());
        }
        let history = samples.of(&acme);
        assert_eq!(
            (history.len(), &history[0], &history[CAPACITY - 1]),
            (CAPACITY, &sample(5, Some(5), Some(0.0)), &sample(64, Some(64), Some(0.0)))
        );
        assert_eq!(samples.of(&late), []);
        assert_eq!(samples.tenants.len(), 1);
    }

    #[test]
    fn a_tenant_without_lag_needs_no_memory_for_its_samples() {
        let acme = TenantId::new("acme");
        let mut samples = Samples::default();
        let has_values = |samples: &Samples| samples.tenants[&acme].values.is_some();
        samples.take(1, [(&acme, Some(0), Some(0.0))].into_iter());
        assert!(!has_values(&samples));
        samples.take(2, [(&acme, Some(5), Some(1.0))].into_iter());
        samples.take(3, [].into_iter());
        samples.take(4, [(&acme, Some(0), Some(0.0))].into_iter());
        let expected = [
            sample(1, Some(0), Some(0.0)),
            sample(2, Some(5), Some(1.0)),
            sample(3, None, None),
            sample(4, Some(0), Some(0.0)),
        ];
        assert_eq!(samples.of(&acme), expected);
        for at in 5..62 {
            samples.take(at, [(&acme, Some(0), Some(0.0))].into_iter());
            assert!(has_values(&samples));
        }
        samples.take(62, [(&acme, Some(0), Some(0.0))].into_iter());
        assert_eq!(samples.of(&acme)[0], sample(3, None, None));
        samples.take(63, [(&acme, Some(0), Some(0.0))].into_iter());
        assert_eq!(samples.of(&acme)[0], sample(4, Some(0), Some(0.0)));
        assert!(!has_values(&samples));
    }
}
