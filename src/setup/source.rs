//! The script for the source. Pure.

use super::facts::{Identity, Role, SetupFacts};
use super::script::{CREATES_REPLICATION, CREATES_ROLES, GIVES_BYPASSRLS, OWNS_DATABASE, Script};
use crate::capture::publication::{Published, create_statement};
use crate::capture::shape::GeneratedColumns;
use crate::config::{Config, Publish};
use crate::map::identity_index;
use crate::model::{Made, MadeKind, TableName};
use crate::pg::{quote_ident, quote_table};

/// The statements for everything that the source lacks. `all_tables`: the publication is one FOR ALL TABLES.
///
/// # Errors
/// The configuration asks for a column list where REPLICA IDENTITY FULL is needed.
pub(crate) fn source_script(config: &Config, facts: &SetupFacts, all_tables: bool) -> Result<Script, String> {
    let role = quote_ident(&config.source.url.user);
    let mut script = Script {
        heading: format!("run at the source, in database {}, as the tables' owner or a superuser", facts.database),
        ..Script::default()
    };
    match facts.role {
        None if facts.has_rds_role => script.add_role("source", &config.source.url, "", CREATES_ROLES),
        None => script.add_role("source", &config.source.url, " REPLICATION", CREATES_REPLICATION),
        Some(Role { replicates: false, .. }) if !facts.has_rds_role => {
            let why = format!("on Amazon RDS: GRANT rds_replication TO {role}");
            script.add_for(format!("ALTER ROLE {role} REPLICATION"), why, CREATES_REPLICATION);
        }
        Some(_) => {}
    }
    if facts.has_rds_role && !facts.role.is_some_and(|role| role.replicates) {
        script.add_for(format!("GRANT rds_replication TO {role}"), "replaces REPLICATION", "a member of rds_superuser");
    }
    if facts.role.is_none() && !facts.has_state_schema && config.state_url == config.source.url {
        script.add(format!("GRANT {role} TO CURRENT_USER"), "needed to create the schema that the role is to own");
    }
    let hides_rows = facts.tables.iter().any(|table| table.row_security);
    if hides_rows && !facts.role.is_some_and(|role| role.bypasses_rls) {
        let why = "row security would hide the users from the snapshot";
        script.add_for(format!("ALTER ROLE {role} BYPASSRLS"), why, GIVES_BYPASSRLS);
    }
    let connect = format!("GRANT CONNECT ON DATABASE {} TO {role}", quote_ident(&facts.database));
    script.add_for(connect, "", OWNS_DATABASE);
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
            let previous = needs.previous.get(holder).map_or("default", String::as_str);
            add_identity(&mut script, holder, identity, previous);
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
    if all_tables && !facts.has_publication {
        add_publication_of_all(&mut script, config, facts)?;
    } else {
        add_publication(&mut script, config, facts, &missing, generated);
    }
    if config.state_url == config.source.url && !facts.has_state_schema {
        let create = format!("CREATE SCHEMA users_sync AUTHORIZATION {role}");
        script.add_for(create, "the state: the progress of every tenant", OWNS_DATABASE);
    }
    Ok(script)
}

pub(super) fn add_identity(script: &mut Script, holder: &TableName, identity: &Identity, previous: &str) {
    const WHY: &str = "lets a DELETE be attributed to its user and tenant; dropping the index later makes the store's \
                       own UPDATEs and DELETEs fail";
    let table = quote_table(holder);
    let made = |kind, name: &str, previous: &str| {
        let (schema, name, previous) = (holder.schema.clone(), name.to_owned(), previous.to_owned());
        Made { kind, schema, name, previous }
    };
    let changed = made(MadeKind::Identity, &holder.name, previous);
    match identity {
        Identity::Sufficient => {}
        Identity::Index(index) => {
            let alter = format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {}", quote_ident(index));
            script.add_making(alter, WHY, changed);
        }
        Identity::NewIndex(columns) => {
            let name = identity_index(holder);
            let index = quote_ident(&name);
            let columns: Vec<_> = columns.iter().map(|column| quote_ident(column)).collect();
            script.add_making(
                format!("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {table} ({})", columns.join(", ")),
                "does not block the store's writes",
                made(MadeKind::Index, &name, ""),
            );
            script.add_making(format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {index}"), WHY, changed);
        }
        Identity::Full => script.add_making(
            format!("ALTER TABLE {table} REPLICA IDENTITY FULL"),
            "no index fits: a column that identifies the user or tenant is nullable",
            changed,
        ),
    }
}

fn publication(config: &Config) -> Made {
    let name = config.source.publication.clone();
    Made { kind: MadeKind::Publication, schema: String::new(), name, previous: String::new() }
}

/// A publication FOR ALL TABLES makes each table without a replica identity refuse UPDATE and DELETE.
fn add_publication_of_all(script: &mut Script, config: &Config, facts: &SetupFacts) -> Result<(), String> {
    if config.source.publish == Publish::Columns {
        return Err("--all-tables publishes whole rows: use source.publish: rows".to_owned());
    }
    let tables: Vec<String> = facts.unidentified.iter().map(ToString::to_string).collect();
    let why = match tables.len() {
        0 => "every table has a replica identity now; a later one without it refuses UPDATE and DELETE".to_owned(),
        _ => format!("these tables have no replica identity and will refuse UPDATE and DELETE: {}", tables.join(", ")),
    };
    let name = quote_ident(&config.source.publication);
    script.add_making(
        format!("CREATE PUBLICATION {name} FOR ALL TABLES WITH (publish_via_partition_root = true)"),
        why,
        publication(config),
    );
    script.note(|last| last.needs = Some("a superuser; on Supabase the role postgres".to_owned()));
    Ok(())
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
        return script.add_making(create, why, publication(config));
    }
    let tables = create.split_once(" FOR TABLE ").map_or("", |(_, tables)| tables);
    let tables = tables.split(" WITH (").next().unwrap_or_default();
    script.add(format!("ALTER PUBLICATION {} ADD TABLE {tables}", quote_ident(&config.source.publication)), why);
}
