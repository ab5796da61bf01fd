//! The source's facts, judged. Pure.

use super::finding::{Finding, Subject};
use super::source_facts::{PublicationFacts, SourceFacts, TableFacts};
use crate::config::{Config, OnSlotLoss};
use crate::map::RowPlan;
use crate::model::{Relation, TableName};
use crate::pg::{quote_ident, quote_literal};

/// `max_slot_wal_keep_size` is counted in these.
const MB: u64 = 1 << 20;
/// The setting is the last resort: our own budget has to act well before it.
const KEEP_TIMES_BUDGET: u64 = 4;

/// Everything that is wrong with the source, or will be.
pub(super) fn findings(config: &Config, facts: &SourceFacts) -> Vec<Finding> {
    let mut found = Found { config, facts, findings: Vec::new() };
    found.server();
    let plan = found.table();
    found.publication(plan.as_ref());
    found.slot();
    found.findings
}

struct Found<'a> {
    config: &'a Config,
    facts: &'a SourceFacts,
    findings: Vec<Finding>,
}

impl Found<'_> {
    fn error(&mut self, message: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding::error(Subject::Source, message, remedy));
    }

    fn warning(&mut self, message: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding::warning(Subject::Source, message, remedy));
    }

    fn note(&mut self, message: impl Into<String>) {
        self.findings.push(Finding::note(Subject::Source, message));
    }

    fn server(&mut self) {
        let facts = self.facts;
        let role = quote_ident(&facts.role);
        if facts.wal_level != "logical" {
            self.error(
                format!("wal_level is {}, and logical replication needs logical", facts.wal_level),
                "ALTER SYSTEM SET wal_level = 'logical'; then restart the server (managed services: \
                 rds.logical_replication = 1, cloudsql.logical_decoding = on)",
            );
        }
        if facts.is_standby {
            self.error("the server is a standby, which cannot hold the publication", "point source.url at the primary");
        }
        if !facts.may_replicate {
            let remedy = match facts.has_rds_role {
                true => format!("GRANT rds_replication TO {role};"),
                false => format!("ALTER ROLE {role} REPLICATION; (on Amazon RDS: GRANT rds_replication TO {role};)"),
            };
            self.error(format!("role {} has no REPLICATION privilege", facts.role), remedy);
        }
        let budget = self.config.limits.source_wal;
        let advised = budget.saturating_mul(KEEP_TIMES_BUDGET).div_ceil(MB);
        let remedy = format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{advised}MB'; SELECT pg_reload_conf();");
        match facts.keep_size_mb.map(u64::try_from) {
            // Before PostgreSQL 13 there is no such bound.
            None => {}
            // -1
            Some(Err(_)) => self.warning(
                "max_slot_wal_keep_size is not set: a slot that nobody reads can fill the server's disk",
                remedy,
            ),
            Some(Ok(size)) if size.saturating_mul(MB) <= budget => self.warning(
                format!("max_slot_wal_keep_size ({size} MB) is not above limits.source_wal: the slot is lost first"),
                remedy,
            ),
            Some(Ok(_)) => {}
        }
    }

    /// Judges the mapped table; the plan, where the mapping fits.
    fn table(&mut self) -> Option<RowPlan> {
        let facts = self.facts;
        let name = &self.config.users.table;
        let role = quote_ident(&facts.role);
        let Some(table) = &facts.table else {
            let nearest = nearest(name, &facts.others);
            self.error(
                format!("there is no table {name} in database {}", facts.database),
                match nearest {
                    Some(nearest) => format!("users:\n         table: {nearest}    # did you mean this one?"),
                    None => "users.table names it as schema.name, taken literally: no quotes, case matters".to_owned(),
                },
            );
            return None;
        };
        let Some(relation) = &table.relation else {
            self.error(
                format!("{name} is no table (relkind {}): only tables are replicated", table.kind),
                "users.table has to name the table that the users are written to",
            );
            return None;
        };
        if table.persistence != "p" {
            self.error(
                format!("{name} is an unlogged table, whose changes are not replicated"),
                format!("ALTER TABLE {} SET LOGGED;", quoted(name)),
            );
        }
        if !table.schema_usage {
            self.error(
                format!("role {} may not use schema {}", facts.role, name.schema),
                format!("GRANT USAGE ON SCHEMA {} TO {role};", quote_ident(&name.schema)),
            );
        }
        if table.row_security {
            self.error(
                format!("row security would hide rows of {name} from role {}", facts.role),
                format!("ALTER ROLE {role} BYPASSRLS; (a policy that shows all rows is not enough: rows are read with row_security = off)"),
            );
        }
        match RowPlan::compile(&self.config.users, relation, &table.types) {
            Ok(plan) => {
                self.readable(table, relation, &plan);
                if !plan.identity_gap().is_empty() {
                    self.error(
                        format!(
                            "the replica identity of {name} does not carry {}: a DELETE would not say whose it is",
                            plan.identity_gap().join(", ")
                        ),
                        plan.identity_remedy(),
                    );
                }
                Some(plan)
            }
            Err(error) => {
                for problem in &error.problems {
                    self.error(format!("{name}: users.{problem}"), "mend that key of the configuration");
                }
                None
            }
        }
    }

    fn readable(&mut self, table: &TableFacts, relation: &Relation, plan: &RowPlan) {
        if table.may_select {
            return;
        }
        let wanted = relation.columns.iter().zip(plan.decoded()).filter(|(_, decoded)| **decoded);
        let hidden: Vec<_> =
            wanted.map(|(column, _)| column.name.clone()).filter(|name| !table.readable.contains(name)).collect();
        if !hidden.is_empty() {
            let (name, role) = (&self.config.users.table, quote_ident(&self.facts.role));
            self.error(
                format!("role {} may not read {name} ({})", self.facts.role, hidden.join(", ")),
                format!("GRANT SELECT ON {} TO {role};", quoted(name)),
            );
        }
    }

    fn publication(&mut self, plan: Option<&RowPlan>) {
        let Some(table) = &self.facts.table else { return };
        let (name, published) = (&self.config.source.publication, quote_ident(&self.config.source.publication));
        let users = &self.config.users.table;
        let Some(publication) = &self.facts.publication else {
            return self.new_publication(table, &published);
        };
        let row = &publication.row;
        if table.kind == "p" && !row.via_root {
            self.error(
                format!("{users} is partitioned, and publication {name} sends its changes under its partitions' names"),
                format!("ALTER PUBLICATION {published} SET (publish_via_partition_root = true);"),
            );
        } else if !publication.has_table {
            self.error(
                format!("publication {name} does not hold {users}"),
                format!("ALTER PUBLICATION {published} ADD TABLE {};", quoted(users)),
            );
        }
        let kinds =
            [("insert", row.inserts), ("update", row.updates), ("delete", row.deletes), ("truncate", row.truncates)];
        let missing: Vec<_> = kinds.iter().filter(|(_, published)| !published).map(|(kind, _)| *kind).collect();
        if !missing.is_empty() {
            self.error(
                format!("publication {name} leaves out {}", missing.join(", ")),
                format!("ALTER PUBLICATION {published} SET (publish = 'insert, update, delete, truncate');"),
            );
        }
        self.published_part(publication, plan);
    }

    fn new_publication(&mut self, table: &TableFacts, published: &str) {
        let users = &self.config.users.table;
        let create = format!("CREATE PUBLICATION {published} FOR TABLE {}", quoted(users));
        let name = &self.config.source.publication;
        if table.kind == "p" {
            self.error(
                format!("{users} is partitioned: its publication has to be made by hand"),
                format!("{create} WITH (publish_via_partition_root = true);"),
            );
        } else if table.is_owner && self.facts.may_create {
            self.note(format!("publication {name} is not there yet; `run` creates it"));
        } else {
            self.error(
                format!(
                    "publication {name} is not there, and role {} cannot create it: that takes the table's owner ({}) \
                     with CREATE on database {}",
                    self.facts.role, table.owner, self.facts.database
                ),
                format!("as the table's owner or a superuser: {create};"),
            );
        }
    }

    /// A column list or a row filter: what they take away is missing here.
    fn published_part(&mut self, publication: &PublicationFacts, plan: Option<&RowPlan>) {
        let (name, users) = (&self.config.source.publication, &self.config.users.table);
        let whole =
            format!("ALTER PUBLICATION {} SET TABLE {}; (with its other tables)", quote_ident(name), quoted(users));
        if publication.row_filter.is_some() {
            self.error(format!("publication {name} sends only some rows of {users}"), whole.clone());
        }
        let relation = self.facts.table.as_ref().and_then(|table| table.relation.as_ref());
        let (Some(columns), Some(relation), Some(plan)) = (&publication.columns, relation, plan) else { return };
        let wanted = relation.columns.iter().zip(plan.decoded()).filter(|(_, decoded)| **decoded);
        let hidden: Vec<_> =
            wanted.map(|(column, _)| column.name.as_str()).filter(|name| !columns.iter().any(|c| c == name)).collect();
        if !hidden.is_empty() {
            self.error(format!("publication {name} leaves out columns of {users}: {}", hidden.join(", ")), whole);
        }
    }

    fn slot(&mut self) {
        let facts = self.facts;
        let (name, literal) = (&self.config.source.slot, quote_literal(&self.config.source.slot));
        let drop = format!("SELECT pg_drop_replication_slot({literal});");
        let other = "or another source.slot in the configuration";
        let mut wanted = 1;
        match &facts.slot {
            None => {
                wanted = 2;
                self.note(format!("slot {name} is not there yet; `run` creates it, and every tenant takes a snapshot"));
            }
            Some(slot) if slot.plugin.as_deref() != Some("pgoutput") => {
                let plugin =
                    slot.plugin.as_deref().map_or("a physical slot".to_owned(), |plugin| format!("of plugin {plugin}"));
                self.error(format!("slot {name} is {plugin}, not of pgoutput"), format!("{drop} {other}"));
            }
            Some(slot) if slot.database.as_deref() != Some(&facts.database) => self.error(
                format!(
                    "slot {name} belongs to database {}, not {}",
                    slot.database.as_deref().unwrap_or("?"),
                    facts.database
                ),
                format!("{drop} {other}"),
            ),
            Some(slot) if slot.temporary => {
                self.error(format!("slot {name} is a temporary one of another session"), other)
            }
            Some(slot) if slot.invalid => match self.config.on_slot_loss {
                OnSlotLoss::Resync => self.warning(
                    format!("slot {name} is lost; `run` makes it anew, and every tenant takes a snapshot"),
                    "a larger max_slot_wal_keep_size keeps it longer",
                ),
                OnSlotLoss::Stop => self.error(format!("slot {name} is lost, and on_slot_loss is stop"), drop),
            },
            Some(slot) => {
                if let Some(pid) = slot.active_pid {
                    self.note(format!("slot {name} is in use by process {pid} of the server; `run` would wait for it"));
                }
            }
        }
        let in_use = i64::from(facts.slot.as_ref().is_some_and(|slot| slot.active_pid.is_some()));
        self.room("max_replication_slots", facts.slots, wanted);
        self.room("max_wal_senders", facts.senders, 2 - in_use);
    }

    /// One place for the stream, one more whenever tenants take a snapshot.
    fn room(&mut self, setting: &'static str, (used, most): (i64, i64), wanted: i64) {
        let free = (most - used).max(0);
        if free >= wanted {
            return;
        }
        let message = format!("{setting} is {most}, and {used} are in use: {wanted} free ones are wanted");
        let remedy = format!("ALTER SYSTEM SET {setting} = {}; then restart the server", most + wanted - free);
        self.error(message, remedy);
    }
}

fn quoted(table: &TableName) -> String {
    format!("{}.{}", quote_ident(&table.schema), quote_ident(&table.name))
}

/// The most similar table: its own name counts as much as the whole.
fn nearest<'a>(table: &TableName, others: &'a [String]) -> Option<&'a str> {
    /// Below this, names have little to do with each other.
    const SIMILAR: f64 = 0.8;
    let wanted = table.to_string().to_lowercase();
    let score = |other: &str| {
        let other = other.to_lowercase();
        let name = other.split_once('.').map_or(&*other, |(_, name)| name);
        strsim::jaro_winkler(&wanted, &other).max(strsim::jaro_winkler(&table.name.to_lowercase(), name))
    };
    let scored = others.iter().map(|other| (score(other), other.as_str()));
    scored.filter(|(score, _)| *score >= SIMILAR).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| other)
}

#[cfg(test)]
mod tests;
