//! The script for a target. Pure.

use super::script::{CREATES_ROLES, Script};
use super::target_facts::{Kind, Object, TargetFacts};
use crate::apply::create_wait_for;
use crate::apply::statement::{CREATE_INDEX, CREATE_TABLE};
use crate::config::Tenant;
use crate::pg::quote_ident;

/// The statements for a tenant's target, and for the application roles that reference its users.
///
/// None of them reads or writes a relation that exists and that the administrator does not own: its owner's triggers, rules and
/// functions would run with the administrator's rights. `deletes_rows`: users-sync deletes rows there, immediately or after a
/// retention time.
///
/// # Errors
/// The name of the table is taken by something else.
pub(crate) fn target_script(
    tenant: &Tenant,
    facts: &TargetFacts,
    deletes_rows: bool,
    application_roles: &[String],
) -> Result<Script, String> {
    let role = quote_ident(&tenant.target.user);
    let mut script = Script {
        heading: format!(
            "run at the target of tenant {}, in database {}, as its owner or a superuser",
            tenant.id, tenant.target.database
        ),
        ..Script::default()
    };
    if !facts.role_exists {
        script.add_role(&format!("target {}", tenant.id), &tenant.target, "", CREATES_ROLES);
        script.add(format!("GRANT {role} TO CURRENT_USER"), "needed to create objects that the role is to own");
    }
    script.add(
        format!("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {role}", quote_ident(&tenant.target.database)),
        "a resync stages its rows in a temporary table",
    );
    script.add(format!("CREATE SCHEMA IF NOT EXISTS users_sync AUTHORIZATION {role}"), "the checkpoint");
    hand_over(&mut script, facts, &tenant.target.user);
    script.add("CREATE SCHEMA IF NOT EXISTS neon_auth", "");
    add_table(&mut script, facts)?;
    script.add(format!("GRANT USAGE ON SCHEMA neon_auth TO {role}"), "");
    let rights = if deletes_rows { "SELECT, INSERT, UPDATE, DELETE" } else { "SELECT, INSERT, UPDATE" };
    script.add(format!("GRANT {rights} ON neon_auth.users_sync TO {role}"), "");
    let is_foreign = |object: &Object| object.owner != tenant.target.user && object.may_be_handed_over;
    if !application_roles.is_empty() || facts.find("users_sync", "wait_for").is_some_and(is_foreign) {
        // One message, and thus one transaction: a former owner cannot replace the function in between.
        script.add(
            format!("{};\nALTER FUNCTION users_sync.wait_for(text, interval) OWNER TO {role}", create_wait_for()),
            "an application can wait for the row of a user who has just signed up",
        );
    }
    for application in application_roles {
        let application = quote_ident(application);
        script.add(format!("GRANT USAGE ON SCHEMA neon_auth TO {application}"), "");
        script.add(
            format!("GRANT SELECT, REFERENCES ON neon_auth.users_sync TO {application}"),
            "user_id TEXT REFERENCES neon_auth.users_sync(id)",
        );
        script.add(
            format!("GRANT USAGE ON SCHEMA users_sync TO {application}"),
            "to call wait_for; the tables stay inaccessible",
        );
        script.add(format!("GRANT EXECUTE ON FUNCTION users_sync.wait_for(text, interval) TO {application}"), "");
    }
    Ok(script)
}

/// Gives what another role has created in schema `users_sync` to the role of the URL, as after a change of the role.
fn hand_over(script: &mut Script, facts: &TargetFacts, role: &str) {
    for object in &facts.objects {
        let kind = match object.kind {
            Kind::Schema => "SCHEMA users_sync".to_owned(),
            Kind::Table if object.schema == "users_sync" => format!("TABLE users_sync.{}", object.name),
            // It is replaced first: the role must not own what another one wrote.
            Kind::Table | Kind::Function | Kind::Index | Kind::Other => continue,
        };
        if object.owner != role && object.may_be_handed_over {
            script.add(format!("ALTER {kind} OWNER TO {}", quote_ident(role)), format!("belongs to {}", object.owner));
        }
    }
}

/// Creates the table and its index. An index of an existing table would read its rows.
fn add_table(script: &mut Script, facts: &TargetFacts) -> Result<(), String> {
    let index = facts.find("neon_auth", "users_sync_deleted_at_idx");
    match facts.find("neon_auth", "users_sync") {
        None => {
            script.add(CREATE_TABLE, "");
            script.add(CREATE_INDEX, "");
        }
        Some(table) if table.kind != Kind::Table => {
            return Err(format!(
                "neon_auth.users_sync belongs to role {} and is not a table: rename or drop it first",
                table.owner
            ));
        }
        Some(table) if table.owner == facts.administrator && index.is_none() => script.add(CREATE_INDEX, ""),
        Some(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TenantId;
    use crate::pg::PgUrl;

    fn object(schema: &str, name: &str, kind: Kind, owner: &str) -> Object {
        let (schema, name, owner) = (schema.to_owned(), name.to_owned(), owner.to_owned());
        Object { schema, name, kind, owner, may_be_handed_over: true }
    }

    fn script(objects: Vec<Object>) -> Result<String, String> {
        let target = PgUrl::parse("postgres://writer@h/d").unwrap();
        let tenant = Tenant::new(TenantId::new("acme"), target);
        let facts = TargetFacts { administrator: "admin".to_owned(), role_exists: true, objects };
        target_script(&tenant, &facts, false, &[]).map(|script| script.to_string())
    }

    #[test]
    fn an_index_is_built_only_on_a_table_of_the_administrator() {
        let has_index = |owner: Option<&str>, index: bool| {
            let table = owner.map(|owner| object("neon_auth", "users_sync", Kind::Table, owner));
            let index = index.then(|| object("neon_auth", "users_sync_deleted_at_idx", Kind::Index, "admin"));
            script(table.into_iter().chain(index).collect()).unwrap().contains("CREATE INDEX")
        };
        assert!(has_index(None, false));
        assert!(has_index(Some("admin"), false));
        assert!(!has_index(Some("admin"), true));
        assert!(!has_index(Some("tenant"), false));
        let view = script(vec![object("neon_auth", "users_sync", Kind::Other, "tenant")]);
        assert!(view.unwrap_err().contains("belongs to role tenant and is not a table"));
    }

    #[test]
    fn what_a_former_role_owns_is_handed_over() {
        let script = script(vec![
            object("users_sync", "", Kind::Schema, "shared"),
            object("users_sync", "checkpoint", Kind::Table, "shared"),
            object("users_sync", "rejected", Kind::Other, "shared"),
            object("users_sync", "wait_for", Kind::Function, "shared"),
            object("neon_auth", "users_sync", Kind::Table, "shared"),
        ])
        .unwrap();
        let lines: Vec<_> = script.lines().filter(|line| line.starts_with("ALTER")).collect();
        assert_eq!(
            lines,
            [
                "ALTER SCHEMA users_sync OWNER TO \"writer\";  -- belongs to shared",
                "ALTER TABLE users_sync.checkpoint OWNER TO \"writer\";  -- belongs to shared",
                "ALTER FUNCTION users_sync.wait_for(text, interval) OWNER TO \"writer\";  -- an application can wait for the \
                 row of a user who has just signed up",
            ]
        );
        let create = script.find("CREATE OR REPLACE FUNCTION users_sync.wait_for").unwrap();
        assert!(create < script.find("ALTER FUNCTION").unwrap(), "the role does not get what another one wrote");
    }
}
