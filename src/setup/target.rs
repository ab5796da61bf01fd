//! The script for a target. Pure.

use super::script::Script;
use crate::apply::create_wait_for;
use crate::apply::statement::{CREATE_INDEX, CREATE_TABLE};
use crate::config::Tenant;
use crate::pg::quote_ident;

/// The statements for a tenant's target, and for the application roles that reference its users.
///
/// `deletes_rows`: users-sync deletes rows there, immediately or after a retention time.
pub(crate) fn target_script(
    tenant: &Tenant,
    role_exists: bool,
    deletes_rows: bool,
    application_roles: &[String],
) -> Script {
    let role = quote_ident(&tenant.target.user);
    let mut script = Script {
        heading: format!(
            "run at the target of tenant {}, in database {}, as its owner or a superuser",
            tenant.id, tenant.target.database
        ),
        ..Script::default()
    };
    if !role_exists {
        script.add_role(&tenant.target, "");
        script.add(format!("GRANT {role} TO CURRENT_USER"), "needed to create objects that the role is to own");
    }
    script.add(
        format!("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {role}", quote_ident(&tenant.target.database)),
        "a resync stages its rows in a temporary table",
    );
    script.add(format!("CREATE SCHEMA IF NOT EXISTS users_sync AUTHORIZATION {role}"), "the checkpoint");
    script.add("CREATE SCHEMA IF NOT EXISTS neon_auth", "");
    script.add(CREATE_TABLE, "");
    script.add(CREATE_INDEX, "");
    script.add(format!("GRANT USAGE ON SCHEMA neon_auth TO {role}"), "");
    let rights = if deletes_rows { "SELECT, INSERT, UPDATE, DELETE" } else { "SELECT, INSERT, UPDATE" };
    script.add(format!("GRANT {rights} ON neon_auth.users_sync TO {role}"), "");
    if !application_roles.is_empty() {
        script.add(create_wait_for(), "an application can wait for the row of a user who has just signed up");
        script.add(format!("ALTER FUNCTION users_sync.wait_for(text, interval) OWNER TO {role}"), "");
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
    script
}
