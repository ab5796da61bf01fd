//! What keeps a role from using a target, each with a remedy that runs as printed. `check` shows all of it, and the state of
//! a parked tenant the first one. Pure.

use super::inspect::{Place, ReadOnly, TargetFacts};
use super::shape::{Shape, ShapeError, TableColumn};
use crate::model::ParkCause;
use crate::pg::quote_ident;

/// Something that keeps a role from using a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Obstacle {
    pub(crate) cause: ParkCause,
    pub(crate) message: String,
    /// Statements for the owner of what they change, or an instruction.
    pub(crate) remedy: String,
}

impl Obstacle {
    fn new(cause: ParkCause, message: impl Into<String>, remedy: impl Into<String>) -> Obstacle {
        Obstacle { cause, message: message.into(), remedy: remedy.into() }
    }
}

/// All of them, the one that hides the others first. `deletes_rows`: users-sync deletes rows there.
pub(crate) fn obstacles(facts: &TargetFacts, deletes_rows: bool) -> Vec<Obstacle> {
    let (role, database) = (quote_ident(&facts.role), quote_ident(&facts.database));
    let mut found = Vec::new();
    if let Some(why) = &facts.read_only {
        found.push(read_only(facts, why));
    }
    if !facts.may_make_temporary {
        found.push(Obstacle::new(
            ParkCause::Rights,
            format!("role {} cannot create temporary tables", facts.role),
            format!("GRANT TEMPORARY ON DATABASE {database} TO {role};"),
        ));
    }
    // A missing table of rejected users says no more than a missing checkpoint.
    let rejected = facts.rejected.kind.is_some().then_some((&facts.rejected, true));
    for (place, deletes) in [(&facts.users, deletes_rows), (&facts.checkpoint, false)].into_iter().chain(rejected) {
        found.extend(wrong_kind(place).or_else(|| lacking_rights(place, deletes, facts)));
    }
    if facts.row_security {
        found.push(Obstacle::new(
            ParkCause::Rights,
            format!("row security would hide rows of neon_auth.users_sync from role {}", facts.role),
            format!("ALTER ROLE {role} BYPASSRLS;"),
        ));
    }
    if let Some(Err(error)) = facts.columns.as_deref().map(Shape::from_columns) {
        found.push(Obstacle::new(
            ParkCause::Altered,
            error.to_string(),
            remedy_of_shape(&error, &facts.users.free_name),
        ));
    }
    found
}

/// Columns of the application's own that refuse every new user. The tenant follows all the same, without these users.
pub(crate) fn required_columns(facts: &TargetFacts) -> Vec<Obstacle> {
    // A column that is one of ours under another name is reported as missing.
    let fits = facts.columns.as_deref().filter(|columns| Shape::from_columns(columns).is_ok());
    let columns = fits.into_iter().flatten().filter(|column| column.is_required && !column.is_ours());
    let obstacle = |column: &TableColumn| {
        Obstacle::new(
            ParkCause::Refuses,
            format!(
                "column {} of neon_auth.users_sync must have a value, and has no default: new users are refused",
                column.name
            ),
            format!("ALTER TABLE neon_auth.users_sync ALTER COLUMN {} DROP NOT NULL;", quote_ident(&column.name)),
        )
    };
    columns.map(obstacle).collect()
}

/// How to fix a column. A tenant that was parked is resynced, so what a new column lacks is written then.
pub(crate) fn remedy_of_shape(error: &ShapeError, free_name: &str) -> String {
    let away = || format!("ALTER TABLE neon_auth.users_sync RENAME TO {};", quote_ident(free_name));
    match error {
        // A primary key cannot be added to rows.
        ShapeError::Missing("id") => away(),
        ShapeError::Missing(column) => {
            format!("ALTER TABLE neon_auth.users_sync ADD COLUMN {column} {};", Shape::type_name(column))
        }
        ShapeError::Generated(column) => {
            format!("ALTER TABLE neon_auth.users_sync ALTER COLUMN {column} DROP EXPRESSION;")
        }
        ShapeError::Type { column, expected: "text", .. } => {
            format!("ALTER TABLE neon_auth.users_sync ALTER COLUMN {column} TYPE text;")
        }
        ShapeError::Type { column, expected, .. } => format!(
            "ALTER TABLE neon_auth.users_sync ALTER COLUMN {column} TYPE {expected} USING {column}::text::{expected};"
        ),
    }
}

fn read_only(facts: &TargetFacts, why: &ReadOnly) -> Obstacle {
    let (role, database) = (quote_ident(&facts.role), quote_ident(&facts.database));
    let set = "SET default_transaction_read_only = off;";
    let (why, remedy) = match why {
        ReadOnly::Standby => {
            ("its server is a standby".to_owned(), "point the target at the primary, or promote the standby".to_owned())
        }
        ReadOnly::Setting { source } => {
            let remedy = match &**source {
                // A new session in the database is read-only, too.
                "database" => format!("{set} ALTER DATABASE {database} {set}"),
                "database user" => format!("ALTER ROLE {role} IN DATABASE {database} {set}"),
                "user" => format!("ALTER ROLE {role} {set}"),
                _ => format!("ALTER SYSTEM {set} SELECT pg_reload_conf();"),
            };
            (format!("default_transaction_read_only is on, set by: {source}"), remedy)
        }
    };
    let message = format!("database {} is read-only for role {}: {why}", facts.database, facts.role);
    Obstacle::new(ParkCause::Rights, message, remedy)
}

/// Something else has the name of a table.
fn wrong_kind(place: &Place) -> Option<Obstacle> {
    let (what, keyword) = match place.kind.as_deref()? {
        "r" => return None,
        "v" => ("a view", "VIEW"),
        "m" => ("a materialized view", "MATERIALIZED VIEW"),
        "f" => ("a foreign table", "FOREIGN TABLE"),
        "p" => ("a partitioned table", "TABLE"),
        "S" => ("a sequence", "SEQUENCE"),
        "i" | "I" => ("an index", "INDEX"),
        "type d" => ("a domain", "DOMAIN"),
        kind if kind == "c" || kind.starts_with("type") => ("a type", "TYPE"),
        _ => ("another object", "TABLE"),
    };
    let Place { schema_name, name, free_name, .. } = place;
    Some(Obstacle::new(
        ParkCause::Altered,
        format!("{schema_name}.{name} is {what}, and users-sync needs a plain table there"),
        // It is kept under another name, and users-sync creates its table.
        format!("ALTER {keyword} {schema_name}.{name} RENAME TO {};", quote_ident(free_name)),
    ))
}

fn lacking_rights(place: &Place, deletes: bool, facts: &TargetFacts) -> Option<Obstacle> {
    let role = quote_ident(&facts.role);
    let Place { schema_name: schema, name, .. } = place;
    let exists = place.kind.is_some();
    let usage = place.schema.is_none_or(|schema| schema.usage);
    let missing: Vec<_> = place.missing.iter().filter(|right| deletes || *right != "DELETE").cloned().collect();
    if exists && (!usage || !missing.is_empty()) {
        let what = if usage { missing.join(", ") } else { format!("USAGE on schema {schema}") };
        let delete = if deletes { ", DELETE" } else { "" };
        return Some(Obstacle::new(
            ParkCause::Rights,
            format!("role {} lacks {what} for {schema}.{name}", facts.role),
            format!(
                "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT, INSERT, UPDATE{delete} ON {schema}.{name} TO {role};"
            ),
        ));
    }
    let may_create = place.schema.map_or(facts.may_create, |schema| schema.usage && schema.create);
    if exists || may_create {
        return None;
    }
    let remedy = match place.schema {
        None => format!("GRANT CREATE ON DATABASE {} TO {role};", quote_ident(&facts.database)),
        Some(_) => format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {role};"),
    };
    // Without a checkpoint it was never there.
    let is_lost = *name == "users_sync" && facts.checkpoint.kind.is_some();
    let (cause, message) = if is_lost {
        let message = format!("{schema}.{name} was dropped or renamed, and role {} cannot create it again", facts.role);
        (ParkCause::Altered, message)
    } else {
        (ParkCause::Rights, format!("role {} cannot create {schema}.{name}", facts.role))
    };
    Some(Obstacle::new(cause, message, remedy))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::inspect::SchemaRights;
    use super::*;

    /// A database in which the role may create everything.
    pub(crate) fn fresh() -> TargetFacts {
        let absent = |schema_name, name| Place { schema_name, name, ..Place::default() };
        TargetFacts {
            role: "u".into(),
            database: "d".into(),
            read_only: None,
            may_create: true,
            may_make_temporary: true,
            users: absent("neon_auth", "users_sync"),
            checkpoint: absent("users_sync", "checkpoint"),
            rejected: absent("users_sync", "rejected"),
            columns: None,
            row_security: false,
        }
    }

    /// A table with all rights.
    pub(crate) fn place(name: &'static str) -> Place {
        Place {
            schema_name: if name == "users_sync" { "neon_auth" } else { "users_sync" },
            name,
            schema: Some(SchemaRights { usage: true, create: true }),
            kind: Some("r".into()),
            missing: Vec::new(),
            free_name: format!("{name}_old"),
        }
    }

    #[track_caller]
    fn check(facts: &TargetFacts, expected: &[(ParkCause, &str, &str)]) {
        let found = obstacles(facts, true);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, (cause, message, remedy)) in found.iter().zip(expected) {
            assert_eq!(found.cause, *cause, "{found:?}");
            assert!(found.message.contains(message) && found.remedy == *remedy, "{found:?}");
        }
    }

    #[test]
    fn a_fresh_target_needs_the_privilege_to_create() {
        use ParkCause::{Altered, Rights};
        check(&fresh(), &[]);
        let create = "GRANT CREATE ON DATABASE \"d\" TO \"u\";";
        let bound = TargetFacts { may_create: false, ..fresh() };
        check(
            &bound,
            &[
                (Rights, "cannot create neon_auth.users_sync", create),
                (Rights, "cannot create users_sync.checkpoint", create),
            ],
        );
        let schema = Some(SchemaRights { usage: true, create: false });
        let users = Place { kind: None, schema, ..place("users_sync") };
        let grant = "GRANT USAGE, CREATE ON SCHEMA neon_auth TO \"u\";";
        check(
            &TargetFacts { users: users.clone(), ..fresh() },
            &[(Rights, "cannot create neon_auth.users_sync", grant)],
        );
        let lost = TargetFacts { users, checkpoint: place("checkpoint"), ..fresh() };
        check(&lost, &[(Altered, "was dropped or renamed", grant)]);
    }

    #[test]
    fn a_database_that_takes_no_writes_names_the_setting_to_change() {
        for (source, remedy) in [
            (
                "database",
                "SET default_transaction_read_only = off; ALTER DATABASE \"d\" SET default_transaction_read_only = off;",
            ),
            ("user", "ALTER ROLE \"u\" SET default_transaction_read_only = off;"),
            ("database user", "ALTER ROLE \"u\" IN DATABASE \"d\" SET default_transaction_read_only = off;"),
            ("configuration file", "ALTER SYSTEM SET default_transaction_read_only = off; SELECT pg_reload_conf();"),
        ] {
            let read_only = Some(ReadOnly::Setting { source: source.into() });
            check(&TargetFacts { read_only, ..fresh() }, &[(ParkCause::Rights, source, remedy)]);
        }
        let standby = TargetFacts { read_only: Some(ReadOnly::Standby), ..fresh() };
        assert!(obstacles(&standby, true)[0].remedy.starts_with("point the target at the primary"));
    }

    #[test]
    fn missing_rights_are_granted_by_name() {
        use ParkCause::Rights;
        check(
            &TargetFacts { may_make_temporary: false, ..fresh() },
            &[(Rights, "temporary", "GRANT TEMPORARY ON DATABASE \"d\" TO \"u\";")],
        );
        check(
            &TargetFacts { row_security: true, ..fresh() },
            &[(Rights, "row security", "ALTER ROLE \"u\" BYPASSRLS;")],
        );
        let grant = "GRANT USAGE ON SCHEMA neon_auth TO \"u\"; GRANT SELECT, INSERT, UPDATE, DELETE ON \
                     neon_auth.users_sync TO \"u\";";
        let denied = Place { missing: vec!["UPDATE".into(), "DELETE".into()], ..place("users_sync") };
        check(&TargetFacts { users: denied, ..fresh() }, &[(Rights, "lacks UPDATE, DELETE", grant)]);
        let schema = Some(SchemaRights { usage: false, create: false });
        let hidden = Place { schema, ..place("users_sync") };
        check(&TargetFacts { users: hidden, ..fresh() }, &[(Rights, "lacks USAGE on schema neon_auth", grant)]);
        let soft = Place { missing: vec!["DELETE".into()], ..place("users_sync") };
        assert_eq!(obstacles(&TargetFacts { users: soft, ..fresh() }, false), []);
    }

    #[test]
    fn another_object_in_the_place_of_a_table_is_named_and_renamed() {
        for (kind, what, keyword) in [
            ("v", "a view", "VIEW"),
            ("m", "a materialized view", "MATERIALIZED VIEW"),
            ("f", "a foreign table", "FOREIGN TABLE"),
            ("p", "a partitioned table", "TABLE"),
            ("S", "a sequence", "SEQUENCE"),
            ("i", "an index", "INDEX"),
            ("c", "a type", "TYPE"),
            ("type e", "a type", "TYPE"),
            ("type d", "a domain", "DOMAIN"),
            ("?", "another object", "TABLE"),
        ] {
            let users = Place { kind: Some(kind.into()), ..place("users_sync") };
            let remedy = format!("ALTER {keyword} neon_auth.users_sync RENAME TO \"users_sync_old\";");
            check(
                &TargetFacts { users, ..fresh() },
                &[(ParkCause::Altered, &format!("neon_auth.users_sync is {what}, and"), &*remedy)],
            );
        }
    }

    #[test]
    fn a_column_that_does_not_fit_has_a_statement() {
        let remedy = |error: ShapeError| remedy_of_shape(&error, "users_sync_old");
        let table = "ALTER TABLE neon_auth.users_sync";
        assert_eq!(remedy(ShapeError::Missing("email")), format!("{table} ADD COLUMN email text;"));
        assert_eq!(remedy(ShapeError::Missing("id")), format!("{table} RENAME TO \"users_sync_old\";"));
        assert_eq!(
            remedy(ShapeError::Generated("deleted_at")),
            format!("{table} ALTER COLUMN deleted_at DROP EXPRESSION;")
        );
        let wrong = ShapeError::Type { column: "raw_json", expected: "jsonb", found: "text".into() };
        assert_eq!(remedy(wrong), format!("{table} ALTER COLUMN raw_json TYPE jsonb USING raw_json::text::jsonb;"));
        let column = |name: &str, is_required| TableColumn {
            name: name.into(),
            type_oid: 25,
            typmod: -1,
            type_name: "text".into(),
            is_generated: false,
            is_required,
        };
        let own = super::super::shape::tests::columns(&[]);
        let columns = Some(own.into_iter().chain([column("note", false), column("team", true)]).collect());
        let found = required_columns(&TargetFacts { columns, ..fresh() });
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].remedy, format!("{table} ALTER COLUMN \"team\" DROP NOT NULL;"));
    }
}
