//! What is wrong while replication works, and needs a person: at the source, or with the table of tenants.

use crate::model::SourceTrouble;
use crate::state::TroubleRow;
use crate::sync::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;
use tokio::time::Instant;

/// The current findings of a session or of a process, each with its text and the time at which it was found first.
#[derive(Default)]
pub(crate) struct Findings(Mutex<BTreeMap<SourceTrouble, (String, Instant)>>);

impl Findings {
    /// Notes the finding. Returns whether it, or its text, is new: then it is to be logged.
    pub(crate) fn note(&self, trouble: SourceTrouble, text: String) -> bool {
        let mut findings = lock(&self.0);
        let (known, _) = findings.entry(trouble).or_insert_with(|| (String::new(), Instant::now()));
        let is_new = *known != text;
        *known = text;
        is_new
    }

    /// The finding no longer holds. Returns whether it did.
    pub(crate) fn clear(&self, trouble: SourceTrouble) -> bool {
        lock(&self.0).remove(&trouble).is_some()
    }

    /// The findings as the state holds them.
    pub(crate) fn rows(&self) -> Vec<TroubleRow> {
        let row = |(code, (text, since)): (&SourceTrouble, &(String, Instant))| TroubleRow {
            code: Some(*code),
            text: text.clone(),
            since_seconds: since.elapsed().as_secs_f64(),
        };
        lock(&self.0).iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_new_once_until_its_text_changes_or_it_is_cleared() {
        let findings = Findings::default();
        let note = |text: &str| findings.note(SourceTrouble::ReplicaIdentity, text.to_owned());
        assert!(note("lacks org"));
        assert!(!note("lacks org"));
        assert!(note("lacks id, org"));
        assert_eq!(findings.rows().len(), 1);
        assert_eq!(findings.rows()[0].text, "lacks id, org");
        assert!(!findings.clear(SourceTrouble::StoreUpgraded));
        assert!(findings.clear(SourceTrouble::ReplicaIdentity));
        assert!(!findings.clear(SourceTrouble::ReplicaIdentity) && findings.rows().is_empty());
        assert!(note("lacks org"));
    }
}
