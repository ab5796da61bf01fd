//! Assesses the source's facts. Pure.

use super::columns::{Columns, of_table};
use super::finding::{Finding, Subject};
use super::identifiers;
use super::source_facts::{SourceFacts, TableFacts, Usage};
use crate::capture::publication::{COLUMN_LISTS_REMEDY, NEEDS_COLUMN_LISTS};
use crate::capture::shape::Fault;
use crate::config::{Config, Family, OnSlotLoss, Publish};
use crate::map::{CompileError, RowPlan, WatchPlan};
use crate::model::{CheckFinding, Code, Relation, ReplicaIdentity, SlotLoss, SourceTrouble, TableName, TypeCatalog};
use crate::pg::{quote_ident, quote_literal, quote_table};

/// Unit of `max_slot_wal_keep_size`.
const MB: u64 = 1 << 20;
/// Recommended ratio of `max_slot_wal_keep_size` to `limits.source_wal`: tenants must be parked well before the server
/// invalidates the slot.
const KEEP_SIZE_RATIO: u64 = 4;

/// All findings about the source and the table of the users.
pub(super) fn findings(config: &Config, facts: &SourceFacts) -> Vec<Finding> {
    let mut check = SourceCheck { config, name: &config.users.table, facts, findings: Vec::new() };
    check.server();
    let columns = check.table();
    check.findings.extend(facts.table.as_ref().and_then(|table| identifiers::finding(&config.users, table)));
    check.query();
    for Fault { what, remedy } in &facts.faults {
        check.error(SourceTrouble::Unready, what, remedy);
    }
    check.publication(columns.as_deref());
    check.slot();
    check.findings
}

/// Findings about another watched table.
pub(super) fn findings_of_watched(config: &Config, name: &TableName, facts: &SourceFacts) -> Vec<Finding> {
    let mut check = SourceCheck { config, name, facts, findings: Vec::new() };
    let columns = check.table();
    if facts.publication.is_some() {
        check.publication(columns.as_deref());
    }
    check.findings
}

/// The finding for a source without any of the preset's tables.
pub(super) fn no_family(families: &[Family]) -> Finding {
    let looked: Vec<_> = families.iter().map(Family::describe).collect();
    Finding::error(
        Subject::Source,
        CheckFinding::TableUnknown,
        format!("none of the preset's tables exists: looked for {}", looked.join(", ")),
        "if the table has another name, set users.table to schema.name, without quotes; case matters",
    )
}

/// The columns that are read from a table.
#[derive(Default)]
struct ReadColumns {
    wanted: Vec<String>,
    /// Those that the replica identity lacks.
    gap: Vec<String>,
    /// How to add them to it.
    remedy: String,
}

struct SourceCheck<'a> {
    config: &'a Config,
    /// The assessed table.
    name: &'a TableName,
    facts: &'a SourceFacts,
    findings: Vec<Finding>,
}

impl SourceCheck<'_> {
    fn error(&mut self, code: impl Into<Code>, message: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding::error(Subject::Source, code, message, remedy));
    }

    fn warning(&mut self, code: impl Into<Code>, message: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding::warning(Subject::Source, code, message, remedy));
    }

    fn note(&mut self, code: impl Into<Code>, message: impl Into<String>) {
        self.findings.push(Finding::note(Subject::Source, code, message));
    }

    fn server(&mut self) {
        let facts = self.facts;
        let role = quote_ident(&facts.role);
        if facts.wal_level != "logical" {
            self.error(
                CheckFinding::WalLevel,
                format!("wal_level is {}, but logical replication needs logical", facts.wal_level),
                "ALTER SYSTEM SET wal_level = 'logical'; then restart the server (managed services: \
                 rds.logical_replication = 1, cloudsql.logical_decoding = on)",
            );
        }
        if facts.is_standby {
            self.error(
                SourceTrouble::Standby,
                "the server is a standby and cannot hold the publication",
                "point source.url at the primary",
            );
        }
        if self.config.source.publish == Publish::Columns && !facts.has_column_lists {
            self.error(CheckFinding::ColumnLists, NEEDS_COLUMN_LISTS, COLUMN_LISTS_REMEDY);
        }
        if !facts.may_replicate {
            let remedy = if facts.has_rds_role {
                format!("GRANT rds_replication TO {role};")
            } else {
                format!("ALTER ROLE {role} REPLICATION; (on Amazon RDS: GRANT rds_replication TO {role};)")
            };
            self.error(
                CheckFinding::ReplicationRight,
                format!("role {} has no REPLICATION privilege", facts.role),
                remedy,
            );
        }
        let budget = self.config.limits.source_wal;
        let advised = budget.saturating_mul(KEEP_SIZE_RATIO).div_ceil(MB);
        let remedy = format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{advised}MB'; SELECT pg_reload_conf();");
        match facts.keep_size_mb.map(u64::try_from) {
            // PostgreSQL before 13 has no such setting.
            None => {}
            // -1 stands for no limit.
            Some(Err(_)) => self.warning(CheckFinding::WalUnbounded,
                "max_slot_wal_keep_size is not set: an unread slot can fill the server's disk",
                remedy,
            ),
            Some(Ok(size)) if size.saturating_mul(MB) <= budget => self.warning(CheckFinding::WalUnbounded,
                format!("max_slot_wal_keep_size ({size} MB) is not above limits.source_wal: the slot is lost before a tenant is parked"),
                remedy,
            ),
            Some(Ok(_)) => {}
        }
    }

    /// Assesses the table. Returns the columns that are read from it, unless the mapping does not fit.
    fn table(&mut self) -> Option<Vec<String>> {
        let facts = self.facts;
        let name = self.name;
        let role = quote_ident(&facts.role);
        let Some(table) = &facts.table else {
            let nearest = nearest(name, &facts.others);
            self.error(
                CheckFinding::TableUnknown,
                format!("there is no table {name} in database {}", facts.database),
                match nearest {
                    Some(nearest) => format!("users:\n         table: {nearest}    # did you mean this one?"),
                    None => "set users.table to schema.name, without quotes; case matters".to_owned(),
                },
            );
            return None;
        };
        let Some(relation) = &table.relation else {
            self.error(
                CheckFinding::TableUnknown,
                format!("{name} is not a table (relkind {}): only tables can be replicated", table.kind),
                "set users.table to the table that users are written to",
            );
            return None;
        };
        if !table.schema_usage {
            self.error(
                SourceTrouble::Rights,
                format!("role {} cannot use schema {}", facts.role, name.schema),
                format!("GRANT USAGE ON SCHEMA {} TO {role};", quote_ident(&name.schema)),
            );
        }
        if table.row_security {
            self.error(CheckFinding::RowSecurity,
                format!("row security would hide rows of {name} from role {}", facts.role),
                format!("ALTER ROLE {role} BYPASSRLS; (a policy that shows all rows is not enough: rows are read with row_security = off)"),
            );
        }
        let ReadColumns { wanted, gap, remedy } = match self.plan(relation, &table.types) {
            Ok(planned) => planned,
            Err(error) => {
                self.misfits(&error);
                return None;
            }
        };
        self.readable(table, &wanted);
        if !gap.is_empty() {
            let gap = gap.join(", ");
            let remedy = table.identity_statements.clone().unwrap_or(remedy);
            self.error(
                SourceTrouble::ReplicaIdentity,
                format!("the replica identity of {name} lacks {gap}: {}", relation.effect_of_gap()),
                remedy,
            );
        }
        Some(wanted)
    }

    fn plan(&mut self, relation: &Relation, types: &TypeCatalog) -> Result<ReadColumns, CompileError> {
        let rules = &self.config.users;
        let named = |decoded: &[bool]| -> Vec<String> {
            let wanted = relation.columns.iter().zip(decoded).filter(|(_, decoded)| **decoded);
            wanted.map(|(column, _)| column.name.clone()).collect()
        };
        let Some(query) = &rules.query else {
            let plan = RowPlan::compile(rules, relation, types)?;
            if let Some(table) = &self.facts.table {
                let columns = of_table(self.name, table, self.facts.publication.as_ref(), relation, &plan);
                self.note_columns(&columns, &plan);
            }
            return Ok(ReadColumns {
                wanted: named(plan.decoded()),
                gap: plan.identity_gap().to_vec(),
                remedy: plan.identity_remedy().to_owned(),
            });
        };
        let mut columns = ReadColumns::default();
        for watch in query.watch.iter().filter(|watch| watch.table == *self.name) {
            let plan = WatchPlan::compile(rules, watch, relation, types)?;
            columns.wanted.extend(named(plan.decoded()));
            columns.gap.extend(plan.identity_gap().to_vec());
            columns.remedy = plan.identity_remedy().to_owned();
        }
        Ok(columns)
    }

    /// Assesses the result columns of `users.query`.
    fn query(&mut self) {
        match &self.facts.query {
            None => {}
            Some(Err(error)) => self.error(
                SourceTrouble::QueryFailed,
                format!("users.query cannot be run: {error}"),
                "correct the query, or GRANT SELECT on its tables; test it with psql",
            ),
            Some(Ok((relation, types))) => match RowPlan::compile(&self.config.users, relation, types) {
                Ok(plan) => {
                    let columns = Columns { of: "users.query".to_owned(), columns: plan.account(relation) };
                    self.note_columns(&columns, &plan);
                }
                Err(error) => self.misfits(&error),
            },
        }
    }

    fn misfits(&mut self, error: &CompileError) {
        for problem in &error.problems {
            self.error(
                SourceTrouble::Mapping,
                format!("{}: users.{problem}", self.name),
                "correct this key in the configuration",
            );
        }
    }

    /// Notes what becomes of each column.
    fn note_columns(&mut self, columns: &Columns, plan: &RowPlan) {
        let lines: String = columns.lines().iter().map(|line| format!("\n    {line}")).collect();
        self.note(CheckFinding::Columns, format!("columns of {}:{lines}", columns.of));
        let cast: Vec<_> = plan.cast_columns().collect();
        if !cast.is_empty() {
            self.note(
                CheckFinding::CastColumns,
                format!(
                    "columns whose type has a cast to json, so that each changed row is read from the source: {}",
                    cast.join(", ")
                ),
            );
        }
    }

    fn readable(&mut self, table: &TableFacts, wanted: &[String]) {
        if table.may_select {
            return;
        }
        let hidden: Vec<_> = wanted.iter().filter(|name| !table.readable.contains(name)).cloned().collect();
        if !hidden.is_empty() {
            let (name, role) = (self.name, quote_ident(&self.facts.role));
            let columns: Vec<_> = wanted.iter().map(|column| quote_ident(column)).collect();
            self.error(
                SourceTrouble::Rights,
                format!("role {} cannot read {name} ({})", self.facts.role, hidden.join(", ")),
                format!("GRANT SELECT ({}) ON {} TO {role};", columns.join(", "), quote_table(name)),
            );
        }
    }

    fn publication(&mut self, wanted: Option<&[String]>) {
        let Some(table) = &self.facts.table else { return };
        let (name, published) = (&self.config.source.publication, quote_ident(&self.config.source.publication));
        let users = self.name;
        let Some(publication) = &self.facts.publication else {
            return self.new_publication(table, &published);
        };
        let row = &publication.row;
        // Under the partitions' names, the root is not listed.
        let is_by_partition = table.kind == "p" && !row.via_root;
        if !publication.has_table && !is_by_partition {
            self.error(
                SourceTrouble::Unready,
                format!("publication {name} does not include {users}"),
                format!("ALTER PUBLICATION {published} ADD TABLE {};", quote_table(users)),
            );
        }
        if let (Some(columns), Some(_)) = (&publication.columns, wanted) {
            self.published_list(columns);
        }
    }

    fn new_publication(&mut self, table: &TableFacts, published: &str) {
        let users = self.name;
        let all: Vec<_> = self.config.users.tables().into_iter().map(quote_table).collect();
        let create = format!("CREATE PUBLICATION {published} FOR TABLE {}", all.join(", "));
        let name = &self.config.source.publication;
        if table.kind == "p" {
            self.error(
                SourceTrouble::PublicationMissing,
                format!("{users} is partitioned: its publication must be created manually"),
                format!("{create} WITH (publish_via_partition_root = true);"),
            );
        } else if table.is_owner && self.facts.may_create {
            self.note(
                SourceTrouble::PublicationMissing,
                format!("publication {name} does not exist yet; `run` creates it"),
            );
        } else {
            self.error(SourceTrouble::PublicationMissing,
                format!(
                    "publication {name} does not exist, and role {} cannot create it: that requires the table's owner ({}) \
                     with CREATE on database {}",
                    self.facts.role, table.owner, self.facts.database
                ),
                format!("as the table's owner or a superuser: {create};"),
            );
        }
    }

    /// `publish: columns`: checks that a column list exists, and notes what it means for the store's migrations.
    fn published_list(&mut self, columns: &[String]) {
        let relation = self.facts.table.as_ref().and_then(|table| table.relation.as_ref());
        let (Publish::Columns, Some(relation)) = (self.config.source.publish, relation) else { return };
        let (publication, users) = (&self.config.source.publication, self.name);
        if columns.len() >= relation.columns.len() {
            self.error(
                CheckFinding::ColumnLists,
                format!("source.publish is columns, but publication {publication} publishes whole rows of {users}"),
                "drop the publication, then create it as `users-sync setup` prints it",
            );
        } else if relation.replica_identity == ReplicaIdentity::Full {
            self.error(
                CheckFinding::ColumnLists,
                format!(
                    "{users} has REPLICA IDENTITY FULL and a column list: the store's own UPDATEs and DELETEs fail"
                ),
                "use an index as replica identity, or set source.publish: rows",
            );
        } else {
            self.note(CheckFinding::ColumnLists, format!(
                "publication {publication} has a column list for {users}: before a migration drops one of these columns or \
                 changes its type, run ALTER PUBLICATION {} DROP TABLE {}; afterwards run `users-sync setup` again",
                quote_ident(publication),
                quote_table(users)
            ));
        }
    }

    fn slot(&mut self) {
        let facts = self.facts;
        let (name, literal) = (&self.config.source.slot, quote_literal(&self.config.source.slot));
        let drop = format!("SELECT pg_drop_replication_slot({literal});");
        let other = "set another source.slot in the configuration";
        let other_or_drop = format!("{other}, or drop the slot if nothing uses it: {drop}");
        let mut needed_slots = 1;
        match &facts.slot {
            None if facts.was_replicated => {
                needed_slots = 2;
                self.gone_slot();
            }
            None => {
                needed_slots = 2;
                self.note(
                    CheckFinding::SlotMissing,
                    format!("slot {name} does not exist yet; `run` creates it and takes a snapshot of every tenant"),
                );
            }
            Some(slot) if slot.plugin.as_deref() != Some("pgoutput") => {
                let what = match &slot.plugin {
                    Some(plugin) => format!("uses the plugin {plugin}"),
                    None => "is a physical slot".to_owned(),
                };
                self.error(
                    SourceTrouble::SlotForeign,
                    format!("slot {name} {what}, but pgoutput is required"),
                    other_or_drop,
                );
            }
            Some(slot) if slot.database.as_deref() != Some(&facts.database) => {
                let database = slot.database.as_deref().unwrap_or("?");
                self.error(
                    SourceTrouble::SlotForeign,
                    format!("slot {name} belongs to database {database}, not {}", facts.database),
                    other_or_drop,
                );
            }
            Some(slot) if slot.temporary => {
                self.error(
                    SourceTrouble::SlotForeign,
                    format!("slot {name} is a temporary slot of another session"),
                    other,
                );
            }
            Some(slot) if slot.invalid => {
                self.lost_slot(SlotLoss::Invalidated, "raise max_slot_wal_keep_size to keep the slot longer", &drop);
            }
            Some(slot) => {
                if let Some(pid) = slot.active_pid {
                    self.note(
                        CheckFinding::SlotInUse,
                        format!("slot {name} is in use by process {pid} of the server; `run` would wait for it"),
                    );
                }
            }
        }
        let in_use = i64::from(facts.slot.as_ref().is_some_and(|slot| slot.active_pid.is_some()));
        // An existing slot needs a second free one to be recreated after a loss.
        let tee = i64::from(self.config.kafka.is_some());
        self.free_capacity("max_replication_slots", facts.slots, needed_slots + tee);
        self.free_capacity("max_wal_senders", facts.senders, 2 - in_use + tee);
    }

    /// The state knows of a session on a slot that does not exist any more.
    fn gone_slot(&mut self) {
        let name = &self.config.source.slot;
        match self.config.on_slot_loss {
            OnSlotLoss::Resync => self.note(
                SlotLoss::Gone,
                format!(
                    "slot {name} does not exist any more; `run` creates it again and takes a snapshot of every tenant"
                ),
            ),
            OnSlotLoss::Stop => self.lost_slot(SlotLoss::Gone, "", ""),
        }
    }

    /// `drop`: drops the slot.
    fn lost_slot(&mut self, loss: SlotLoss, advice: &str, drop: &str) {
        let name = &self.config.source.slot;
        match self.config.on_slot_loss {
            OnSlotLoss::Resync => self.warning(
                loss,
                format!("slot {name} is lost ({loss}); `run` creates it again and takes a snapshot of every tenant"),
                advice,
            ),
            OnSlotLoss::Stop => {
                // Without the slot, `run` stops at what the state knows of it.
                let remedy = if self.facts.was_replicated { "set on_slot_loss: resync" } else { drop };
                self.error(SourceTrouble::SlotLost, format!("slot {name} is lost, and on_slot_loss is stop"), remedy);
            }
        }
    }

    /// One is needed for the stream, and one more while tenants take a snapshot.
    fn free_capacity(&mut self, setting: &'static str, usage: Usage, needed: i64) {
        let Usage { used, max } = usage;
        let free = (max - used).max(0);
        if free >= needed {
            return;
        }
        let message = format!("{setting} is {max} and {used} are in use, but {needed} must be free");
        let remedy = format!("ALTER SYSTEM SET {setting} = {}; then restart the server", max + needed - free);
        self.error(CheckFinding::SlotsUsedUp, message, remedy);
    }
}

/// The table with the most similar name, with or without its schema.
fn nearest<'a>(table: &TableName, others: &'a [String]) -> Option<&'a str> {
    /// Jaro-Winkler similarity below which names are unrelated.
    const MIN_SIMILARITY: f64 = 0.8;
    let wanted = table.to_string().to_lowercase();
    let score = |other: &str| {
        let other = other.to_lowercase();
        let name = other.split_once('.').map_or(&*other, |(_, name)| name);
        strsim::jaro_winkler(&wanted, &other).max(strsim::jaro_winkler(&table.name.to_lowercase(), name))
    };
    let scored = others.iter().map(|other| (score(other), other.as_str()));
    scored.filter(|(score, _)| *score >= MIN_SIMILARITY).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| other)
}

#[cfg(test)]
mod tests;
