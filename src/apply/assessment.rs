//! Assesses a target: compares its checkpoint with the state's record and decides what happens to the tenant.
//! Pure.

use super::checkpoint::{Checkpoint, NIL_TARGET_ID};
use crate::model::{Epoch, Generation, Lsn, Oid, ResyncReason, TargetId, TenantId};
use std::collections::BTreeMap;

/// The state's record of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordedTarget {
    /// Whether the tenant was following when this was recorded; otherwise it was joining or parked.
    pub(crate) following: bool,
    /// The target's id, once it has one.
    pub(crate) target_id: Option<TargetId>,
    /// The target's position when the slot was last confirmed.
    pub(crate) position: Lsn,
    /// The history of that position.
    pub(crate) generation: Generation,
    /// The file of `users_sync` in the target at the last write.
    pub(crate) relation: Option<Oid>,
}

/// What the target itself shows.
#[derive(Clone, Debug)]
pub struct ObservedTarget {
    /// Its checkpoint, if it has one.
    pub checkpoint: Option<Checkpoint>,
    /// `users_sync` did not exist and has just been created.
    pub created: bool,
    /// `users_sync` has rows.
    pub has_rows: bool,
    /// The table's file (pg_relation_filenode). TRUNCATE, VACUUM FULL and creating the table again change it.
    pub relation: Option<Oid>,
}

/// The session that assesses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session<'a> {
    /// The current history.
    pub(crate) generation: Generation,
    /// The epoch of this process.
    pub(crate) epoch: Epoch,
    /// Fingerprint of the current mapping.
    pub(crate) mapping: &'a str,
    /// The epochs that the state knows, each with the end of the source's log at its start.
    pub(crate) epochs: &'a BTreeMap<Epoch, Lsn>,
    /// Whether this process may have written its epoch to the target: a commit whose answer was lost counts.
    pub(crate) may_have_fenced: bool,
}

/// What is done with a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TargetAssessment {
    /// Stream on from this position: the target has everything before it.
    Resume(Lsn),
    /// Load a snapshot, for this reason.
    Snapshot(ResyncReason),
    /// Leave the target alone until an operator has fixed the cause.
    Park(ParkReason),
    /// A later process writes to this target, or the state was restored to an older point: this process must
    /// stop.
    Superseded(Epoch),
    /// The source was restored to an older point: the target has more than the source's log, or its writer is
    /// unknown to the state.
    SourceRewound(Epoch),
}

/// Why a target is left alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParkReason {
    /// The checkpoint belongs to another tenant.
    #[error("the target's checkpoint belongs to tenant {0}")]
    OtherTenant(TenantId),
    /// The target's id is not the recorded one.
    #[error("the target was written by another installation: its id differs from the recorded one")]
    OtherTarget,
    /// The checkpoint's epoch is later than any running process can have.
    #[error("checkpoint epoch {0} is in the future (clock skew or manual edit)")]
    FutureEpoch(Epoch),
    /// The table has rows, but there is no checkpoint.
    #[error("neon_auth.users_sync has rows that users-sync did not write")]
    ForeignRows,
}

impl ParkReason {
    /// How to fix the cause.
    pub(crate) fn remedy(&self, tenant: &TenantId) -> String {
        match self {
            ParkReason::OtherTenant(other) => {
                format!("point tenant {tenant} at its own database, or remove tenant {other} from this one permanently")
            }
            ParkReason::OtherTarget | ParkReason::FutureEpoch(_) => format!(
                "if its rows may be merged with tenant {tenant}'s users, run in the target: \
                 UPDATE users_sync.checkpoint SET target_id = '{NIL_TARGET_ID}', epoch = 0"
            ),
            ParkReason::ForeignRows => format!(
                "empty the table, or, if its rows may be merged with tenant {tenant}'s users, run in the target: \
                 INSERT INTO users_sync.checkpoint (tenant, target_id, generation, position, epoch, mapping) \
                 VALUES ('{}', '{NIL_TARGET_ID}', 0, '0/0', 0, '')",
                tenant.as_str().replace('\'', "''")
            ),
        }
    }
}

/// Assesses a target from what the state recorded and what the target shows.
pub(crate) fn assess_target(
    tenant: &TenantId,
    recorded: Option<&RecordedTarget>,
    observed: &ObservedTarget,
    session: &Session<'_>,
) -> TargetAssessment {
    let Session { generation, epoch, mapping, epochs, may_have_fenced } = *session;
    let Some(checkpoint) = &observed.checkpoint else {
        return if observed.has_rows {
            TargetAssessment::Park(ParkReason::ForeignRows)
        } else {
            TargetAssessment::Snapshot(ResyncReason::NewTarget)
        };
    };
    if checkpoint.tenant != *tenant {
        return TargetAssessment::Park(ParkReason::OtherTenant(checkpoint.tenant.clone()));
    }
    if checkpoint.target_id.as_str() == NIL_TARGET_ID {
        return TargetAssessment::Snapshot(ResyncReason::HandedOver);
    }
    let Some(recorded) = recorded.filter(|recorded| recorded.target_id.as_ref() == Some(&checkpoint.target_id)) else {
        return TargetAssessment::Park(ParkReason::OtherTarget);
    };
    if checkpoint.epoch > epoch || checkpoint.epoch == epoch && !may_have_fenced {
        return TargetAssessment::Superseded(checkpoint.epoch);
    }
    if checkpoint.generation == generation && !fits(checkpoint, epochs) {
        return TargetAssessment::SourceRewound(checkpoint.epoch);
    }
    let joins = [
        (observed.created, ResyncReason::TableMissing),
        (recorded.generation != generation || checkpoint.generation != generation, ResyncReason::NewGeneration),
        (checkpoint.mapping != mapping, ResyncReason::MappingChanged),
        (checkpoint.position < recorded.position, ResyncReason::TargetRestored),
        (
            recorded.relation.is_some_and(|file| observed.relation.is_some_and(|found| found != file)),
            ResyncReason::TableReplaced,
        ),
        (!recorded.following, ResyncReason::Unfinished),
    ];
    match joins.into_iter().find(|(applies, _)| *applies) {
        Some((_, reason)) => TargetAssessment::Snapshot(reason),
        None => TargetAssessment::Resume(checkpoint.position),
    }
}

/// Whether the checkpoint fits the recorded past. No process can have written a position beyond the end of the
/// WAL that its successor found at its start.
fn fits(checkpoint: &Checkpoint, epochs: &BTreeMap<Epoch, Lsn>) -> bool {
    let is_remembered = epochs.first_key_value().is_none_or(|(oldest, _)| checkpoint.epoch < *oldest)
        || epochs.contains_key(&checkpoint.epoch);
    let mut later = epochs.range(Epoch(checkpoint.epoch.0 + 1)..);
    is_remembered && later.next().is_none_or(|(_, flushed)| checkpoint.position <= *flushed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6a1c4f6e-0000-4000-8000-000000000001";

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            tenant: TenantId::new("acme"),
            target_id: TargetId::new(ID),
            generation: Generation(2),
            position: Lsn(100),
            epoch: Epoch(5),
            mapping: "m".into(),
        }
    }

    fn recorded() -> RecordedTarget {
        RecordedTarget {
            following: true,
            target_id: Some(TargetId::new(ID)),
            position: Lsn(90),
            generation: Generation(2),
            relation: Some(7),
        }
    }

    #[track_caller]
    fn check(recorded: Option<RecordedTarget>, checkpoint: Option<Checkpoint>, expected: TargetAssessment) {
        check_observed(
            recorded,
            ObservedTarget { checkpoint, created: false, has_rows: true, relation: Some(7) },
            expected,
        );
    }

    #[track_caller]
    fn check_observed(recorded: Option<RecordedTarget>, observed: ObservedTarget, expected: TargetAssessment) {
        let tenant = TenantId::new("acme");
        let epochs = BTreeMap::from([(Epoch(5), Lsn(200))]);
        let session = Session {
            generation: Generation(2),
            epoch: Epoch(5),
            mapping: "m",
            epochs: &epochs,
            may_have_fenced: true,
        };
        assert_eq!(assess_target(&tenant, recorded.as_ref(), &observed, &session), expected);
    }

    #[test]
    fn a_rewound_source_or_state_is_noticed_at_the_first_look() {
        let first = |checkpoint, epochs: &[(i64, u64)]| {
            let epochs = epochs.iter().map(|(epoch, flushed)| (Epoch(*epoch), Lsn(*flushed))).collect();
            let observed =
                ObservedTarget { checkpoint: Some(checkpoint), created: false, has_rows: true, relation: Some(7) };
            let session = Session {
                generation: Generation(2),
                epoch: Epoch(5),
                mapping: "m",
                epochs: &epochs,
                may_have_fenced: false,
            };
            assess_target(&TenantId::new("acme"), Some(&recorded()), &observed, &session)
        };
        let older = Checkpoint { epoch: Epoch(4), ..checkpoint() };
        assert_eq!(first(older.clone(), &[(4, 50), (5, 100)]), TargetAssessment::Resume(Lsn(100)));
        assert_eq!(first(older.clone(), &[(5, 100)]), TargetAssessment::Resume(Lsn(100)));
        // The log was shorter when the next process replaced the writer.
        assert_eq!(first(older.clone(), &[(4, 50), (5, 99)]), TargetAssessment::SourceRewound(Epoch(4)));
        assert_eq!(first(older.clone(), &[(3, 10), (5, 200)]), TargetAssessment::SourceRewound(Epoch(4)));
        // No process can have written with an epoch that was only just assigned.
        assert_eq!(first(checkpoint(), &[(5, 100)]), TargetAssessment::Superseded(Epoch(5)));
        let another_history = Checkpoint { generation: Generation(1), ..older };
        assert_eq!(
            first(another_history, &[(4, 50), (5, 99)]),
            TargetAssessment::Snapshot(ResyncReason::NewGeneration)
        );
    }

    #[test]
    fn a_target_that_matches_the_state_resumes_from_its_checkpoint() {
        check(Some(recorded()), Some(checkpoint()), TargetAssessment::Resume(Lsn(100)));
        let even = RecordedTarget { position: Lsn(100), ..recorded() };
        check(Some(even), Some(checkpoint()), TargetAssessment::Resume(Lsn(100)));
        let older_process = Checkpoint { epoch: Epoch(4), ..checkpoint() };
        check(Some(recorded()), Some(older_process), TargetAssessment::Resume(Lsn(100)));
    }

    #[test]
    fn a_foreign_target_is_parked() {
        let other = Checkpoint { tenant: TenantId::new("globex"), ..checkpoint() };
        check(Some(recorded()), Some(other), TargetAssessment::Park(ParkReason::OtherTenant(TenantId::new("globex"))));
        let another_id = Checkpoint { target_id: TargetId::new("x"), ..checkpoint() };
        check(Some(recorded()), Some(another_id), TargetAssessment::Park(ParkReason::OtherTarget));
        check(None, Some(checkpoint()), TargetAssessment::Park(ParkReason::OtherTarget));
        let forgotten = RecordedTarget { target_id: None, ..recorded() };
        check(Some(forgotten), Some(checkpoint()), TargetAssessment::Park(ParkReason::OtherTarget));
        check(Some(recorded()), None, TargetAssessment::Park(ParkReason::ForeignRows));
        check(None, None, TargetAssessment::Park(ParkReason::ForeignRows));
    }

    #[test]
    fn an_empty_or_handed_over_target_takes_a_snapshot() {
        let empty = ObservedTarget { checkpoint: None, created: false, has_rows: false, relation: None };
        check_observed(None, empty, TargetAssessment::Snapshot(ResyncReason::NewTarget));
        let handed_over = Checkpoint { target_id: TargetId::new(NIL_TARGET_ID), ..checkpoint() };
        check(None, Some(handed_over), TargetAssessment::Snapshot(ResyncReason::HandedOver));
    }

    #[test]
    fn any_break_in_the_history_leads_to_a_snapshot() {
        let join = |reason| TargetAssessment::Snapshot(reason);
        let unfinished = RecordedTarget { following: false, ..recorded() };
        check(Some(unfinished), Some(checkpoint()), join(ResyncReason::Unfinished));
        let gone = ObservedTarget { checkpoint: Some(checkpoint()), created: true, has_rows: false, relation: None };
        check_observed(Some(recorded()), gone, join(ResyncReason::TableMissing));
        let history = join(ResyncReason::NewGeneration);
        check(Some(recorded()), Some(Checkpoint { generation: Generation(1), ..checkpoint() }), history.clone());
        check(Some(RecordedTarget { generation: Generation(1), ..recorded() }), Some(checkpoint()), history);
        let mapping = Checkpoint { mapping: "older".into(), ..checkpoint() };
        check(Some(recorded()), Some(mapping), join(ResyncReason::MappingChanged));
        let truncated =
            ObservedTarget { checkpoint: Some(checkpoint()), created: false, has_rows: true, relation: Some(8) };
        check_observed(Some(recorded()), truncated.clone(), join(ResyncReason::TableReplaced));
        // A state without a record of the file accepts the target's.
        let not_known = RecordedTarget { relation: None, ..recorded() };
        check_observed(Some(not_known), truncated, TargetAssessment::Resume(Lsn(100)));
        let restored = Checkpoint { position: Lsn(89), ..checkpoint() };
        check(Some(recorded()), Some(restored), join(ResyncReason::TargetRestored));
    }

    #[test]
    fn every_park_reason_has_a_remedy_with_exact_sql() {
        let (tenant, other) = (TenantId::new("o'neil"), TenantId::new("globex"));
        let remedy = |reason: ParkReason| reason.remedy(&tenant);
        let moved = remedy(ParkReason::OtherTenant(other));
        assert!(moved.contains("o'neil") && moved.contains("globex"), "{moved}");
        let handed_over = remedy(ParkReason::OtherTarget);
        assert!(handed_over.contains(&format!("UPDATE users_sync.checkpoint SET target_id = '{NIL_TARGET_ID}'")));
        let merged = remedy(ParkReason::ForeignRows);
        assert!(merged.contains(&format!("VALUES ('o''neil', '{NIL_TARGET_ID}', 0, '0/0', 0, '')")), "{merged}");
    }

    #[test]
    fn a_target_of_a_later_process_makes_this_one_step_down() {
        check(
            Some(recorded()),
            Some(Checkpoint { epoch: Epoch(6), ..checkpoint() }),
            TargetAssessment::Superseded(Epoch(6)),
        );
    }
}
