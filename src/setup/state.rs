//! The script for a state in a database of its own.

use super::script::{CREATES_ROLES, OWNS_DATABASE, Script};
use crate::config::Config;
use crate::pg::quote_ident;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

/// The state's database. The default is one without anything.
#[derive(Clone, Debug, Default)]
pub(crate) struct StateFacts {
    /// Whether the role of `state.url` exists.
    role_exists: bool,
    has_schema: bool,
}

/// Reads the facts.
pub(crate) async fn gather_state(client: &Client, role: &str) -> Result<StateFacts, Error> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1::text::name), \
                              EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'users_sync')";
    let row = client.query_typed_one(SQL, &[(&role, Type::TEXT)]).await?;
    Ok(StateFacts { role_exists: row.try_get(0)?, has_schema: row.try_get(1)? })
}

/// The statements for everything that the state's database lacks; `None` if the state is in the source's.
pub(crate) fn state_script(config: &Config, facts: &StateFacts) -> Option<Script> {
    let url = &config.state_url;
    if *url == config.source.url {
        return None;
    }
    let role = quote_ident(&url.user);
    let mut script = Script {
        heading: format!("run for the state, in database {}, as its owner or a superuser", url.database),
        ..Script::default()
    };
    if !facts.role_exists {
        script.add_role("state", url, "", CREATES_ROLES);
        script.add(format!("GRANT {role} TO CURRENT_USER"), "needed to create the schema that the role is to own");
    }
    script.add_for(format!("GRANT CONNECT ON DATABASE {} TO {role}", quote_ident(&url.database)), "", OWNS_DATABASE);
    if !facts.has_schema {
        let create = format!("CREATE SCHEMA users_sync AUTHORIZATION {role}");
        script.add_for(create, "the state: the progress of every tenant", OWNS_DATABASE);
    }
    Some(script)
}
