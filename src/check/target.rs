//! Assesses a target's facts. Pure.

use super::finding::{Finding, Subject};
use super::target_facts::CheckedTarget;
use crate::apply::{
    ObservedTarget, Obstacle, RecordedTarget, Session, TargetAssessment, assess_target, obstacles, required_columns,
};
use crate::config::Tenant;
use crate::model::{CheckFinding, Epoch, Generation, Lsn, ParkCause};
use crate::state::{Snapshot, TenantState};
use std::collections::BTreeMap;

/// All findings for which `run` would park the tenant, and what could be better.
pub(super) fn findings(
    tenant: &Tenant,
    deletes_rows: bool,
    facts: &CheckedTarget,
    state: Option<&Snapshot>,
) -> Vec<Finding> {
    let subject = || Subject::Tenant(tenant.id.clone());
    let found = obstacles(&facts.target, deletes_rows).into_iter().chain(required_columns(&facts.target));
    let mut findings: Vec<Finding> =
        found.map(|Obstacle { cause, message, remedy }| Finding::error(subject(), cause, message, remedy)).collect();
    if facts.checkpoint_known
        && let (Some(has_rows), Some(state)) = (facts.has_rows, state)
    {
        let observed =
            ObservedTarget { checkpoint: facts.checkpoint.clone(), created: false, has_rows, relation: None };
        let recorded = state.tenants.get(&tenant.id).map(|row| RecordedTarget {
            following: row.state == TenantState::Following,
            target_id: row.target_id.clone(),
            position: row.position,
            generation: row.generation,
            relation: None,
            signed: row.signed,
        });
        // Only a verdict to park matters here, not whether the tenant would resume or take a snapshot.
        let asking = Session {
            generation: Generation(0),
            epoch: Epoch(i64::MAX),
            mapping: "",
            epochs: &BTreeMap::new(),
            may_have_fenced: true,
            received: Lsn(u64::MAX),
            key: state.key.as_ref(),
        };
        if let TargetAssessment::Park(reason) = assess_target(&tenant.id, recorded.as_ref(), &observed, &asking) {
            findings.push(Finding::error(subject(), ParkCause::Foreign, reason.to_string(), reason.remedy(&tenant.id)));
        }
    }
    if facts.has_default_fillfactor {
        findings.push(Finding::note(
            subject(),
            CheckFinding::FillFactor,
            "neon_auth.users_sync has the default fillfactor, so fewer updates are HOT than with: \
             ALTER TABLE neon_auth.users_sync SET (fillfactor = 85);",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Checkpoint;
    use crate::apply::tests::{fresh, place};
    use crate::model::{TargetId, TenantId};
    use crate::pg::PgUrl;

    const ID: &str = "6a1c4f6e-0000-4000-8000-000000000001";

    fn with_users(has_rows: bool) -> CheckedTarget {
        let target = crate::apply::TargetFacts { users: place("users_sync"), ..fresh() };
        CheckedTarget {
            target,
            has_rows: Some(has_rows),
            has_default_fillfactor: false,
            checkpoint: None,
            checkpoint_known: true,
        }
    }

    fn with_checkpoint(tenant: &str) -> CheckedTarget {
        let checkpoint = Checkpoint {
            tenant: TenantId::new(tenant),
            target_id: TargetId::new(ID),
            generation: Generation(1),
            position: Lsn(1),
            epoch: Epoch(1),
            mapping: String::new(),
            mac: None,
        };
        CheckedTarget { checkpoint: Some(checkpoint), ..with_users(true) }
    }

    #[track_caller]
    fn check(facts: CheckedTarget, expected: &[(&str, &str)]) {
        let target = PgUrl::parse("postgres://u@h/d").unwrap();
        let tenant = Tenant::new(TenantId::new("acme"), target);
        let found = findings(&tenant, true, &facts, Some(&Snapshot::default()));
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (finding, (message, remedy)) in found.iter().zip(expected) {
            assert!(finding.message.contains(message), "{finding}");
            assert!(finding.remedy.contains(remedy), "{finding}");
        }
    }

    #[test]
    fn a_foreign_target_is_found_before_run_parks_it() {
        check(with_users(false), &[]);
        check(with_users(true), &[("rows that users-sync did not write", "users-sync adopt -c FILE acme")]);
        check(with_checkpoint("globex"), &[("belongs to tenant globex", "point tenant acme at its own")]);
        check(with_checkpoint("acme"), &[("another installation", "users-sync adopt -c FILE acme")]);
        let default = CheckedTarget { has_default_fillfactor: true, ..with_users(false) };
        check(default, &[("SET (fillfactor = 85)", "")]);
        check(CheckedTarget { checkpoint_known: false, checkpoint: None, ..with_checkpoint("acme") }, &[]);
    }
}
