//! Assesses a target's facts. Pure.

use super::finding::{Finding, Subject};
use super::target_facts::{TableRights, TargetFacts};
use crate::apply::{ObservedTarget, RecordedTarget, Session, Shape, TargetAssessment, assess_target, statement};
use crate::config::Tenant;
use crate::model::{Epoch, Generation, Lsn, ParkCause};
use crate::pg::quote_ident;
use crate::state::{Snapshot, TenantState};
use std::collections::BTreeMap;

/// All findings for which `run` would park the tenant.
pub(super) fn findings(
    tenant: &Tenant,
    deletes_rows: bool,
    facts: &TargetFacts,
    state: Option<&Snapshot>,
) -> Vec<Finding> {
    let (role, database) = (quote_ident(&facts.role), quote_ident(&facts.database));
    let mut findings = Vec::new();
    let mut error = |code: ParkCause, message: String, remedy: String| {
        findings.push(Finding::error(Subject::Tenant(tenant.id.clone()), code, message, remedy));
    };
    if facts.is_read_only {
        error(
            ParkCause::Rights,
            format!("database {} is read-only for role {}", facts.database, facts.role),
            format!(
                "point the target at the primary, or run: ALTER ROLE {role} SET default_transaction_read_only = off;"
            ),
        );
    }
    if !facts.may_make_temporary {
        error(
            ParkCause::Rights,
            format!("role {} cannot create temporary tables", facts.role),
            format!("GRANT TEMPORARY ON DATABASE {database} TO {role};"),
        );
    }
    let tables = [("neon_auth", "users_sync", &facts.users), ("users_sync", "checkpoint", &facts.checkpoint_table)];
    for (schema, table, rights) in tables {
        let deletes = table == "users_sync" && deletes_rows;
        if let Some(MissingRights { message, remedy }) = judge_rights(schema, table, rights, deletes, facts) {
            error(ParkCause::Rights, message, remedy);
        }
    }
    if facts.row_security {
        error(
            ParkCause::Rights,
            format!("row security would hide rows of neon_auth.users_sync from role {}", facts.role),
            format!("ALTER ROLE {role} BYPASSRLS;"),
        );
    }
    if let Some(Err(shape)) = facts.columns.as_deref().map(Shape::from_columns) {
        error(
            ParkCause::Altered,
            shape.to_string(),
            format!("rename that table; `run` creates its own: {}", statement::CREATE_TABLE.replace('\n', "\n       ")),
        );
    }
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
            error(ParkCause::Foreign, reason.to_string(), reason.remedy(&tenant.id));
        }
    }
    findings
}

/// What the role lacks for a table.
#[derive(Debug, PartialEq)]
struct MissingRights {
    message: String,
    remedy: String,
}

fn judge_rights(
    schema: &str,
    table: &str,
    rights: &TableRights,
    deletes: bool,
    facts: &TargetFacts,
) -> Option<MissingRights> {
    let role = quote_ident(&facts.role);
    let usage = rights.schema.is_none_or(|schema| schema.usage);
    let missing: Vec<_> = rights.missing.iter().filter(|right| deletes || *right != "DELETE").cloned().collect();
    if rights.exists && (!usage || !missing.is_empty()) {
        let what = if usage { missing.join(", ") } else { format!("USAGE on schema {schema}") };
        let delete = if deletes { ", DELETE" } else { "" };
        return Some(MissingRights {
            message: format!("role {} lacks {what} for {schema}.{table}", facts.role),
            remedy: format!(
                "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT, INSERT, UPDATE{delete} ON {schema}.{table} TO {role};"
            ),
        });
    }
    let may_create = rights.schema.map_or(facts.may_create, |schema| schema.usage && schema.create);
    if rights.exists || may_create {
        return None;
    }
    let remedy = match rights.schema {
        None => format!("GRANT CREATE ON DATABASE {} TO {role};", quote_ident(&facts.database)),
        Some(_) => format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {role};"),
    };
    Some(MissingRights {
        message: format!("role {} cannot create {schema}.{table}", facts.role),
        remedy: format!("{remedy} or run `users-sync setup`"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::target_facts::SchemaRights;
    use super::*;
    use crate::apply::Checkpoint;
    use crate::apply::TableColumn;
    use crate::model::{TargetId, TenantId, TenantKey};
    use crate::pg::PgUrl;

    const ID: &str = "6a1c4f6e-0000-4000-8000-000000000001";

    fn rights(exists: bool) -> TableRights {
        TableRights {
            schema: exists.then_some(SchemaRights { usage: true, create: true }),
            exists,
            missing: Vec::new(),
        }
    }

    fn fresh() -> TargetFacts {
        TargetFacts {
            role: "u".into(),
            database: "d".into(),
            is_read_only: false,
            may_create: true,
            may_make_temporary: true,
            users: rights(false),
            checkpoint_table: rights(false),
            columns: None,
            row_security: false,
            has_rows: None,
            checkpoint: None,
            checkpoint_known: true,
        }
    }

    fn with_users(has_rows: bool) -> TargetFacts {
        TargetFacts { users: rights(true), has_rows: Some(has_rows), may_create: false, ..fresh() }
    }

    fn with_checkpoint(tenant: &str) -> TargetFacts {
        let checkpoint = Checkpoint {
            tenant: TenantId::new(tenant),
            target_id: TargetId::new(ID),
            generation: Generation(1),
            position: Lsn(1),
            epoch: Epoch(1),
            mapping: String::new(),
            mac: None,
        };
        TargetFacts { checkpoint: Some(checkpoint), checkpoint_table: rights(true), ..with_users(true) }
    }

    #[track_caller]
    fn check(facts: TargetFacts, expected: &[(&str, &str)]) {
        let target = PgUrl::parse("postgres://u@h/d").unwrap();
        let tenant = Tenant {
            id: TenantId::new("acme"),
            key: TenantKey::new("acme"),
            target,
            password_command: None,
            wake_after: None,
        };
        let found = findings(&tenant, true, &facts, Some(&Snapshot::default()));
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (finding, (message, remedy)) in found.iter().zip(expected) {
            assert!(finding.message.contains(message), "{finding}");
            assert!(finding.remedy.contains(remedy), "{finding}");
        }
    }

    #[test]
    fn a_fresh_target_needs_the_privilege_to_create() {
        check(fresh(), &[]);
        let create = "GRANT CREATE ON DATABASE \"d\" TO \"u\";";
        check(
            TargetFacts { may_create: false, ..fresh() },
            &[("cannot create neon_auth.users_sync", create), ("cannot create users_sync.checkpoint", create)],
        );
        let schema = TableRights { schema: Some(SchemaRights { usage: true, create: false }), ..rights(false) };
        check(TargetFacts { users: schema, ..fresh() }, &[("neon_auth", "GRANT USAGE, CREATE ON SCHEMA neon_auth")]);
    }

    #[test]
    fn a_read_only_target_is_an_error() {
        check(TargetFacts { is_read_only: true, ..fresh() }, &[("read-only", "default_transaction_read_only = off")]);
        check(TargetFacts { may_make_temporary: false, ..fresh() }, &[("temporary", "GRANT TEMPORARY")]);
        check(TargetFacts { row_security: true, ..fresh() }, &[("row security", "BYPASSRLS")]);
        let denied = TableRights { missing: vec!["UPDATE".into(), "DELETE".into()], ..rights(true) };
        check(TargetFacts { users: denied, ..fresh() }, &[("lacks UPDATE, DELETE", "GRANT SELECT, INSERT")]);
        let hidden = TableRights { schema: Some(SchemaRights { usage: false, create: false }), ..rights(true) };
        let soft = TableRights { missing: vec!["DELETE".into()], ..rights(true) };
        assert_eq!(judge_rights("neon_auth", "users_sync", &soft, false, &fresh()), None);
        check(TargetFacts { users: hidden, ..fresh() }, &[("lacks USAGE on schema neon_auth", "GRANT USAGE")]);
        let id = TableColumn {
            name: "id".to_owned(),
            type_oid: 2950,
            typmod: -1,
            type_name: "uuid".to_owned(),
            is_generated: false,
        };
        let columns = Some(vec![id]);
        check(TargetFacts { columns, ..fresh() }, &[("column id", "CREATE TABLE")]);
    }

    #[test]
    fn a_foreign_target_is_found_before_run_parks_it() {
        check(TargetFacts { checkpoint_table: rights(true), ..with_users(false) }, &[]);
        check(
            TargetFacts { may_create: true, ..with_users(true) },
            &[("rows that users-sync did not write", "users-sync adopt -c FILE acme")],
        );
        check(with_checkpoint("globex"), &[("belongs to tenant globex", "point tenant acme at its own")]);
        check(with_checkpoint("acme"), &[("another installation", "users-sync adopt -c FILE acme")]);
        check(TargetFacts { checkpoint_known: false, checkpoint: None, ..with_checkpoint("acme") }, &[]);
    }
}
