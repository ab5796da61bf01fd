//! Assesses a target: compares its checkpoint with the state's record and decides what happens to the tenant.
//! Pure.

use super::checkpoint::{Authenticity, Checkpoint, NIL_TARGET_ID};
use crate::model::{CheckpointKey, Epoch, Generation, Lsn, Oid, ResyncReason, TargetId, TenantId, shell_word};
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
    /// Whether the target's checkpoint has been signed.
    pub(crate) signed: bool,
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
    /// The position up to which the source's log was received.
    pub(crate) received: Lsn,
    /// Verifies checkpoints; `None` if the state has no key yet.
    pub(crate) key: Option<&'a CheckpointKey>,
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
    /// The signature is wrong, or one that was there has been removed.
    #[error("the checkpoint was changed by something other than users-sync")]
    Forged,
    /// Without a signature the checkpoint proves nothing about the source or about other processes.
    #[error(
        "the checkpoint has no signature, and its epoch {0} or its position is not one that users-sync has recorded"
    )]
    Unproven(Epoch),
    /// The table has rows, but there is no checkpoint.
    #[error("neon_auth.users_sync has rows that users-sync did not write")]
    ForeignRows,
}

impl ParkReason {
    /// How to fix the cause.
    pub(crate) fn remedy(&self, tenant: &TenantId) -> String {
        let word = shell_word(tenant.as_str());
        match self {
            ParkReason::OtherTenant(other) => format!(
                "point tenant {tenant} at its own database; or, once tenant {other} is not in the configuration any more: \
                 users-sync adopt -c FILE {word}"
            ),
            ParkReason::OtherTarget
            | ParkReason::FutureEpoch(_)
            | ParkReason::Forged
            | ParkReason::Unproven(_)
            | ParkReason::ForeignRows => format!("users-sync adopt -c FILE {word}"),
        }
    }

    /// Whether `adopt` may take over the rows of the tenant. Those of another tenant of the configuration are never merged.
    pub(crate) fn may_be_adopted<'a>(&self, mut configured: impl Iterator<Item = &'a TenantId>) -> bool {
        match self {
            ParkReason::OtherTenant(other) => configured.all(|id| id != other),
            ParkReason::OtherTarget
            | ParkReason::FutureEpoch(_)
            | ParkReason::Forged
            | ParkReason::Unproven(_)
            | ParkReason::ForeignRows => true,
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
    let Session { generation, epoch, mapping, epochs, may_have_fenced, received, key } = *session;
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
        // The operator also resets the epoch. Otherwise this process could not write.
        return if checkpoint.epoch > epoch {
            TargetAssessment::Park(ParkReason::Forged)
        } else {
            TargetAssessment::Snapshot(ResyncReason::HandedOver)
        };
    }
    let Some(recorded) = recorded.filter(|recorded| recorded.target_id.as_ref() == Some(&checkpoint.target_id)) else {
        return TargetAssessment::Park(ParkReason::OtherTarget);
    };
    let authenticity = checkpoint.authenticity(key);
    if authenticity == Authenticity::Forged || authenticity == Authenticity::Unsigned && recorded.signed {
        return TargetAssessment::Park(ParkReason::Forged);
    }
    let is_of_unknown_writer = checkpoint.epoch > epoch || checkpoint.epoch == epoch && !may_have_fenced;
    let is_ahead = checkpoint.generation == generation && !fits(checkpoint, epochs);
    // Only a signature proves that a process of this slot was there, which concerns every tenant.
    if authenticity != Authenticity::Verified {
        let is_beyond_own = checkpoint.epoch == epoch && checkpoint.position > received;
        if is_of_unknown_writer || is_ahead || is_beyond_own {
            return TargetAssessment::Park(ParkReason::Unproven(checkpoint.epoch));
        }
    }
    if is_of_unknown_writer {
        return TargetAssessment::Superseded(checkpoint.epoch);
    }
    if is_ahead {
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
            mac: None,
        }
    }

    fn key() -> CheckpointKey {
        CheckpointKey::new(&[7; 32]).unwrap()
    }

    fn signed(checkpoint: Checkpoint) -> Checkpoint {
        Checkpoint { mac: Some(checkpoint.sign(&key())), ..checkpoint }
    }

    fn recorded() -> RecordedTarget {
        RecordedTarget {
            following: true,
            target_id: Some(TargetId::new(ID)),
            position: Lsn(90),
            generation: Generation(2),
            relation: Some(7),
            signed: true,
        }
    }

    fn session<'a>(epochs: &'a BTreeMap<Epoch, Lsn>, may_have_fenced: bool, key: &'a CheckpointKey) -> Session<'a> {
        let (generation, epoch, received) = (Generation(2), Epoch(5), Lsn(200));
        Session { generation, epoch, mapping: "m", epochs, may_have_fenced, received, key: Some(key) }
    }

    #[track_caller]
    fn check(recorded: Option<RecordedTarget>, checkpoint: Option<Checkpoint>, expected: TargetAssessment) {
        let checkpoint = checkpoint.map(signed);
        check_observed(
            recorded,
            ObservedTarget { checkpoint, created: false, has_rows: true, relation: Some(7) },
            expected,
        );
    }

    /// Assesses a checkpoint as it is, for a process that has not written to its target.
    fn first(recorded: &RecordedTarget, checkpoint: Checkpoint, epochs: &[(i64, u64)]) -> TargetAssessment {
        let epochs = epochs.iter().map(|(epoch, flushed)| (Epoch(*epoch), Lsn(*flushed))).collect();
        let observed =
            ObservedTarget { checkpoint: Some(checkpoint), created: false, has_rows: true, relation: Some(7) };
        let key = key();
        let session = session(&epochs, false, &key);
        assess_target(&TenantId::new("acme"), Some(recorded), &observed, &session)
    }

    #[track_caller]
    fn check_observed(recorded: Option<RecordedTarget>, observed: ObservedTarget, expected: TargetAssessment) {
        let tenant = TenantId::new("acme");
        let epochs = BTreeMap::from([(Epoch(5), Lsn(200))]);
        let key = key();
        let session = session(&epochs, true, &key);
        assert_eq!(assess_target(&tenant, recorded.as_ref(), &observed, &session), expected);
    }

    #[test]
    fn a_rewound_source_or_state_is_noticed_at_the_first_look() {
        let first = |checkpoint, epochs: &[(i64, u64)]| first(&recorded(), signed(checkpoint), epochs);
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
    fn a_checkpoint_that_does_not_verify_parks_its_own_tenant_only() {
        let forged = TargetAssessment::Park(ParkReason::Forged);
        let epochs = [(4, 50), (5, 150)];
        let older = Checkpoint { epoch: Epoch(4), ..checkpoint() };
        let garbage = Checkpoint { mac: Some(vec![0; 32]), ..older.clone() };
        let never_signed = RecordedTarget { signed: false, ..recorded() };
        for recorded in [recorded(), never_signed.clone()] {
            assert_eq!(first(&recorded, garbage.clone(), &epochs), forged);
            for changed in [
                Checkpoint { epoch: Epoch(6), ..signed(older.clone()) },
                Checkpoint { position: Lsn(u64::MAX), ..signed(older.clone()) },
                Checkpoint { generation: Generation(3), ..signed(older.clone()) },
                Checkpoint { mapping: "other".into(), ..signed(older.clone()) },
            ] {
                assert_eq!(first(&recorded, changed, &epochs), forged);
            }
        }
        // A signature that was there once cannot be removed.
        assert_eq!(first(&recorded(), older.clone(), &epochs), forged);
        // The previous version wrote no signature.
        let unproven = |epoch| TargetAssessment::Park(ParkReason::Unproven(Epoch(epoch)));
        assert_eq!(first(&never_signed, older.clone(), &epochs), TargetAssessment::Resume(Lsn(100)));
        let remapped = Checkpoint { mapping: "other".into(), ..older.clone() };
        assert_eq!(first(&never_signed, remapped, &epochs), TargetAssessment::Snapshot(ResyncReason::MappingChanged));
        for epoch in [5, 6] {
            assert_eq!(
                first(&never_signed, Checkpoint { epoch: Epoch(epoch), ..checkpoint() }, &epochs),
                unproven(epoch)
            );
        }
        let ahead = Checkpoint { position: Lsn(151), ..older.clone() };
        assert_eq!(first(&never_signed, ahead, &epochs), unproven(4));
        assert_eq!(first(&never_signed, older, &[(3, 10), (5, 150)]), unproven(4));
        let handed_over = Checkpoint { target_id: TargetId::new(NIL_TARGET_ID), epoch: Epoch(0), ..checkpoint() };
        let resync = TargetAssessment::Snapshot(ResyncReason::HandedOver);
        assert_eq!(first(&recorded(), handed_over.clone(), &epochs), resync);
        assert_eq!(first(&recorded(), Checkpoint { epoch: Epoch(6), ..handed_over }, &epochs), forged);
    }

    #[test]
    fn without_a_signature_a_position_beyond_the_received_one_is_not_believed() {
        let epochs = BTreeMap::from([(Epoch(5), Lsn(50))]);
        let recorded = RecordedTarget { signed: false, ..recorded() };
        for (position, expected) in [
            (Lsn(200), TargetAssessment::Resume(Lsn(200))),
            (Lsn(201), TargetAssessment::Park(ParkReason::Unproven(Epoch(5)))),
        ] {
            let checkpoint = Some(Checkpoint { position, ..checkpoint() });
            let observed = ObservedTarget { checkpoint, created: false, has_rows: true, relation: Some(7) };
            let key = key();
            let session = session(&epochs, true, &key);
            assert_eq!(assess_target(&TenantId::new("acme"), Some(&recorded), &observed, &session), expected);
        }
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
        let ours = || Some(signed(checkpoint()));
        let gone = ObservedTarget { checkpoint: ours(), created: true, has_rows: false, relation: None };
        check_observed(Some(recorded()), gone, join(ResyncReason::TableMissing));
        let history = join(ResyncReason::NewGeneration);
        check(Some(recorded()), Some(Checkpoint { generation: Generation(1), ..checkpoint() }), history.clone());
        check(Some(RecordedTarget { generation: Generation(1), ..recorded() }), Some(checkpoint()), history);
        let mapping = Checkpoint { mapping: "older".into(), ..checkpoint() };
        check(Some(recorded()), Some(mapping), join(ResyncReason::MappingChanged));
        let truncated = ObservedTarget { checkpoint: ours(), created: false, has_rows: true, relation: Some(8) };
        check_observed(Some(recorded()), truncated.clone(), join(ResyncReason::TableReplaced));
        // A state without a record of the file accepts the target's.
        let not_known = RecordedTarget { relation: None, ..recorded() };
        check_observed(Some(not_known), truncated, TargetAssessment::Resume(Lsn(100)));
        let restored = Checkpoint { position: Lsn(89), ..checkpoint() };
        check(Some(recorded()), Some(restored), join(ResyncReason::TargetRestored));
    }

    #[test]
    fn every_park_reason_has_a_remedy_with_a_complete_command() {
        let (tenant, other) = (TenantId::new("o'neil"), TenantId::new("globex"));
        let moved = ParkReason::OtherTenant(other.clone()).remedy(&tenant);
        assert!(moved.contains("point tenant o'neil") && moved.contains("once tenant globex"), "{moved}");
        for reason in [ParkReason::OtherTarget, ParkReason::Forged, ParkReason::ForeignRows] {
            assert_eq!(reason.remedy(&tenant), r"users-sync adopt -c FILE 'o'\''neil'");
            assert!(reason.may_be_adopted([&tenant, &other].into_iter()));
        }
        assert!(!ParkReason::OtherTenant(other.clone()).may_be_adopted([&tenant, &other].into_iter()));
        assert!(ParkReason::OtherTenant(other).may_be_adopted([&tenant].into_iter()));
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
