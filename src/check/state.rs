//! Assesses the facts of the state's database. Pure.

use super::finding::{Finding, Subject};
use super::state_facts::StateFacts;
use crate::model::CheckFinding;
use crate::pg::quote_ident;

/// All findings that prevent `run` from writing its state.
pub(super) fn findings(facts: &StateFacts) -> Vec<Finding> {
    let (role, database) = (quote_ident(&facts.role), quote_ident(&facts.database));
    let error = |message: String, remedy: String| {
        vec![Finding::error(Subject::State, CheckFinding::StateRights, message, remedy)]
    };
    if facts.is_read_only {
        return error(
            format!("database {} is read-only, but the state must be written to it", facts.database),
            "point the URL at the primary, or set state.url to a writable database".to_owned(),
        );
    }
    match (facts.tables, facts.schema, facts.may_create) {
        (Some(true), ..) => Vec::new(),
        (Some(false), ..) => error(
            format!("role {} cannot write the tables of schema users_sync", facts.role),
            format!(
                "GRANT USAGE ON SCHEMA users_sync TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA users_sync TO {role};"
            ),
        ),
        (None, Some(false), _) => error(
            format!("role {} cannot create tables in schema users_sync", facts.role),
            format!("GRANT USAGE, CREATE ON SCHEMA users_sync TO {role};"),
        ),
        (None, None, false) => error(
            format!("role {} cannot create the schema users_sync for the state", facts.role),
            format!("GRANT CREATE ON DATABASE {database} TO {role}; or set state.url to a database where it can"),
        ),
        (None, ..) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_needs_its_tables_or_the_privilege_to_create_them() {
        let check = |tables, schema, may_create, is_read_only, expected: Option<&str>| {
            let (role, database) = ("u".to_owned(), "d".to_owned());
            let found = findings(&StateFacts { role, database, may_create, schema, tables, is_read_only });
            assert_eq!(found.len(), usize::from(expected.is_some()), "{found:?}");
            if let (Some(finding), Some(expected)) = (found.first(), expected) {
                assert!(finding.remedy.contains(expected), "{finding}");
            }
        };
        check(Some(true), Some(false), false, false, None);
        check(None, None, true, false, None);
        check(None, Some(true), true, false, None);
        check(Some(false), Some(true), true, false, Some("GRANT ALL ON ALL TABLES IN SCHEMA users_sync TO \"u\""));
        check(None, Some(false), true, false, Some("GRANT USAGE, CREATE ON SCHEMA users_sync"));
        check(None, None, false, false, Some("GRANT CREATE ON DATABASE \"d\" TO \"u\""));
        check(None, Some(true), false, false, None);
        check(Some(true), Some(true), true, true, Some("primary"));
    }
}
