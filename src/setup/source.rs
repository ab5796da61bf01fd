//! The script for the source. Pure.

use super::facts::{Identity, Role, SetupFacts};
use super::script::Script;
use crate::capture::publication::{Published, create_statement};
use crate::capture::shape::GeneratedColumns;
use crate::config::{Config, Publish};
use crate::map::identity_index;
use crate::model::TableName;
use crate::pg::{quote_ident, quote_table};

/// The statements for everything that the source lacks.
///
/// # Errors
/// The configuration asks for a column list where REPLICA IDENTITY FULL is needed.
pub(crate) fn source_script(config: &Config, facts: &SetupFacts) -> Result<Script, String> {
    let role = quote_ident(&config.source.url.user);
    let mut script = Script {
        heading: format!("run at the source, in database {}, as the tables' owner or a superuser", facts.database),
        ..Script::default()
    };
    match facts.role {
        None => script.add_role(&config.source.url, " REPLICATION"),
        Some(Role { replicates: false, .. }) => script
            .add(format!("ALTER ROLE {role} REPLICATION"), format!("on Amazon RDS: GRANT rds_replication TO {role}")),
        Some(_) => {}
    }
    let hides_rows = facts.tables.iter().any(|table| table.row_security);
    if hides_rows && !facts.role.is_some_and(|role| role.bypasses_rls) {
        script.add(format!("ALTER ROLE {role} BYPASSRLS"), "row security would hide the users from the snapshot");
    }
    script.add(format!("GRANT CONNECT ON DATABASE {} TO {role}", quote_ident(&facts.database)), "");
    let mut schemas: Vec<_> = facts.reads.keys().map(|table| &table.schema).collect();
    schemas.dedup();
    for schema in schemas {
        script.add(format!("GRANT USAGE ON SCHEMA {} TO {role}", quote_ident(schema)), "");
    }
    for (table, columns) in &facts.reads {
        let columns: Vec<_> = columns.iter().map(|column| quote_ident(column)).collect();
        script.add(format!("GRANT SELECT ({}) ON {} TO {role}", columns.join(", "), quote_table(table)), "");
    }
    let mut missing = Vec::new();
    let generated = facts.tables.iter().any(|needs| needs.generated == GeneratedColumns::Published);
    if generated && facts.has_publication && !facts.publishes_generated {
        script.add(
            format!(
                "ALTER PUBLICATION {} SET (publish_generated_columns = 'stored')",
                quote_ident(&config.source.publication)
            ),
            "the replica identity has a generated column: without this the store's own UPDATEs and DELETEs fail",
        );
    }
    for needs in &facts.tables {
        let mut published = needs.published.clone();
        for (holder, identity) in &needs.identities {
            if *identity == Identity::Full && config.source.publish == Publish::Columns {
                return Err(format!(
                    "{holder} needs REPLICA IDENTITY FULL, because a column that identifies the user or tenant is nullable. \
                     With source.publish: columns the store's own UPDATEs and DELETEs would fail: use publish: rows"
                ));
            }
            if let Identity::NewIndex(columns) = identity {
                add_missing_columns(&mut published, columns);
            }
            add_identity(&mut script, holder, identity);
        }
        if !needs.is_published {
            missing.push(published);
        }
        if needs.generated == GeneratedColumns::Impossible {
            return Err(format!(
                "the replica identity of {} would have a virtual generated column, which cannot be published: the store's \
                 own UPDATEs and DELETEs would fail. Make the columns that identify the user and tenant NOT NULL, or make \
                 that column a stored one",
                needs.published.table
            ));
        }
    }
    add_publication(&mut script, config, facts, &missing, generated);
    if config.state_url == config.source.url && !facts.has_state_schema {
        script.add(format!("CREATE SCHEMA users_sync AUTHORIZATION {role}"), "the state: the progress of every tenant");
    }
    Ok(script)
}

fn add_identity(script: &mut Script, holder: &TableName, identity: &Identity) {
    const WHY: &str = "lets a DELETE be attributed to its user and tenant; dropping the index later makes the store's \
                       own UPDATEs and DELETEs fail";
    let table = quote_table(holder);
    match identity {
        Identity::Sufficient => {}
        Identity::Index(index) => {
            script.add(format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {}", quote_ident(index)), WHY);
        }
        Identity::NewIndex(columns) => {
            let index = quote_ident(&identity_index(holder));
            let columns: Vec<_> = columns.iter().map(|column| quote_ident(column)).collect();
            script.add(
                format!("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {table} ({})", columns.join(", ")),
                "does not block the store's writes",
            );
            script.add(format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {index}"), WHY);
        }
        Identity::Full => script.add(
            format!("ALTER TABLE {table} REPLICA IDENTITY FULL"),
            "no index fits: a column that identifies the user or tenant is nullable",
        ),
    }
}

fn add_missing_columns(published: &mut Published, columns: &[String]) {
    if !published.columns.is_empty() {
        let missing: Vec<_> = columns.iter().filter(|column| !published.columns.contains(column)).cloned().collect();
        published.columns.extend(missing);
    }
}

fn add_publication(script: &mut Script, config: &Config, facts: &SetupFacts, missing: &[Published], generated: bool) {
    if missing.is_empty() {
        return;
    }
    let create = create_statement(&config.source.publication, missing, generated);
    let why = match config.source.publish {
        Publish::Rows => "whole rows: the store can be migrated freely; users-sync drops the secret columns",
        Publish::Columns => {
            "these columns only; before a migration drops one or changes its type, run ALTER PUBLICATION ... DROP \
             TABLE; afterwards run `setup` again"
        }
    };
    if !facts.has_publication {
        return script.add(create, why);
    }
    let tables = create.split_once(" FOR TABLE ").map_or("", |(_, tables)| tables);
    let tables = tables.split(" WITH (").next().unwrap_or_default();
    script.add(format!("ALTER PUBLICATION {} ADD TABLE {tables}", quote_ident(&config.source.publication)), why);
}
