//! What `teardown` removes: slots, the publication, what `setup` recorded, the claims to the targets, and last the state, so
//! that it can be run again after a failure. What another installation uses stays.

use crate::apply::{NIL_TARGET_ID, observe};
use crate::capture::CaptureError;
use crate::capture::publication::drop_statement;
use crate::config::{Config, Tenant};
use crate::map::identity_index;
use crate::model::{Made, MadeKind, TableName, TargetId, TenantId};
use crate::pg::{PgClient, Statements, connect_target, describe, quote_ident, quote_literal, quote_table};
use crate::replicator::source::mapping::resolve_layout;
use crate::replicator::source::own_slot::read_own_slot;
use crate::state::{Snapshot, StateError, StateStore};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

/// Time limit for the lock of a table whose replica identity is restored: the store's writes wait behind it.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '5s'";

/// The owner of a publication, its oid, and whether the session may drop it.
const PUBLICATION: &str = "
    SELECT p.oid::text, pg_get_userbyid(p.pubowner)::text, pg_has_role(p.pubowner, 'USAGE')
    FROM pg_catalog.pg_publication p WHERE p.pubname = $1::text::name";

/// Sessions of other slots that name the publication in START_REPLICATION. `$1`: own slots, `$2`: the quoted name.
const STREAMS: &str = "
    SELECT s.slot_name::text FROM pg_catalog.pg_stat_activity a
    JOIN pg_catalog.pg_replication_slots s ON s.active_pid = a.pid
    WHERE s.slot_name <> ALL($1::text[]::name[]) AND s.database = current_database() AND position($2 IN a.query) > 0
    ORDER BY 1 LIMIT 1";

/// Slots of this database that no process reads now, so that their publications are unknown. `$1`: own slots.
const IDLE_SLOTS: &str = "
    SELECT slot_name::text FROM pg_catalog.pg_replication_slots
    WHERE slot_name <> ALL($1::text[]::name[]) AND database = current_database() AND plugin = 'pgoutput' AND NOT active
    ORDER BY 1 LIMIT 1";

/// A table's owner, its identity as in [`Made::previous`], another publication that has it, and the table that it is a
/// partition of, or itself. `$3`: the own publication.
const TABLE: &str = "
    SELECT pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE'),
           CASE c.relreplident WHEN 'n' THEN 'nothing' WHEN 'f' THEN 'full'
             WHEN 'i' THEN coalesce('index ' || (SELECT x.relname::text FROM pg_catalog.pg_index i
               JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisreplident), 'nothing')
             ELSE 'default' END,
           (SELECT t.pubname::text FROM pg_catalog.pg_publication_tables t
            WHERE t.schemaname = n.nspname AND t.tablename = c.relname AND t.pubname <> $3::text::name LIMIT 1),
           (SELECT array[rn.nspname::text, r.relname::text] FROM pg_catalog.pg_class r
            JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
            WHERE r.oid = coalesce(pg_partition_root(c.oid), c.oid))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1::text::name AND c.relname = $2::text::name AND c.relkind IN ('r', 'p')";

/// The table of an index.
const INDEX: &str = "
    SELECT t.relname::text, pg_get_userbyid(t.relowner)::text, pg_has_role(t.relowner, 'USAGE'), i.indisreplident
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_class t ON t.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1::text::name AND c.relname = $2::text::name";

/// Something to remove at the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Removal {
    /// What it is, for people.
    pub(crate) what: String,
    pub(crate) sql: String,
    /// The role that owns it, if the session may not act as that role.
    pub(crate) owner: Option<String>,
}

/// What is there to remove, and what stays.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) slots: Vec<String>,
    /// Tenants whose targets have a checkpoint of this installation.
    pub(crate) targets: Vec<(TenantId, TargetId)>,
    /// In this order.
    pub(crate) removals: Vec<Removal>,
    /// Whether the state has more than the record of the roles.
    pub(crate) has_state: bool,
    /// What `setup` recorded.
    pub(crate) made: Vec<Made>,
    /// What stays because others use it, with the reason.
    pub(crate) kept: Vec<String>,
}

impl Plan {
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.targets.is_empty() && self.removals.is_empty() && !self.has_state
    }
}

/// Why it cannot be said what has to be removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("cannot read the source: {0}")]
    Source(#[from] CaptureError),
    #[error("cannot read the source: {}", describe(.0))]
    Sql(#[from] Error),
    #[error("cannot read the state: {0}")]
    State(#[from] StateError),
    #[error("slot {slot} is in use by process {pid} of the server")]
    InUse { slot: String, pid: i32 },
}

/// Why a slot is not removed.
enum NotOurs {
    Foreign(String),
    Failed(CaptureError),
}

impl From<CaptureError> for NotOurs {
    fn from(error: CaptureError) -> NotOurs {
        NotOurs::Failed(error)
    }
}

/// Reads what is there. `source` is the session that will remove it.
pub(crate) async fn plan(config: &Config, source: &PgClient, state: &PgClient) -> Result<Plan, PlanError> {
    let name = &config.source.slot;
    let known = StateStore::read(state, name).await?;
    let mut plan = Plan::default();
    let mut slots = vec![name.clone()];
    slots.extend(known.tee.iter().map(|tee| tee.slot.clone()));
    slots.extend(config.kafka.iter().map(|kafka| kafka.slot.clone()));
    slots.sort();
    slots.dedup();
    for slot in &slots {
        match read_own_slot(source, &config.source.url, slot, NotOurs::Foreign).await {
            Ok(None) => {}
            Ok(Some(row)) => match row.active_pid {
                Some(pid) => return Err(PlanError::InUse { slot: slot.clone(), pid }),
                None => plan.slots.push(slot.clone()),
            },
            Err(NotOurs::Foreign(why)) => {
                plan.kept.push(format!("slot {slot}: it is not of this installation ({why})"));
            }
            Err(NotOurs::Failed(error)) => return Err(error.into()),
        }
    }
    let configured = config.tenant_ids();
    for (tenant, row) in &known.tenants {
        let Some(target_id) = &row.target_id else { continue };
        if configured.contains(tenant) {
            plan.targets.push((tenant.clone(), target_id.clone()));
        } else {
            plan.kept.push(format!(
                "the checkpoint of tenant {tenant} in {}: the configuration does not have the tenant any more",
                row.target
            ));
        }
    }
    let user = user_of_publication(config, source, state, &slots).await?;
    let made = StateStore::read_made(state, name).await?;
    match user {
        None => {
            // Before the identities: a published table without one refuses the store's own UPDATEs.
            drop_publication(config, source, &mut plan).await?;
            restore_identities(config, source, &made, &mut plan).await?;
            drop_indexes(config, source, &made, &mut plan).await?;
        }
        Some(user) => plan.kept.push(format!(
            "publication {} and the replica identities: {user} uses or may use it; if not, run as its owner: {}",
            config.source.publication,
            drop_statement(&config.source.publication)
        )),
    }
    plan.has_state = has_state_tables(state, &known, &made).await?;
    plan.made = made;
    Ok(plan)
}

/// Another slot that uses the publication, or may use it.
async fn user_of_publication(
    config: &Config,
    source: &PgClient,
    state: &PgClient,
    own: &[String],
) -> Result<Option<String>, PlanError> {
    let name = &config.source.publication;
    let Some(row) = source.query_typed_opt(PUBLICATION, &[(name, Type::TEXT)]).await? else { return Ok(None) };
    let oid: &str = row.try_get(0)?;
    if let Some(slot) = StateStore::other_slot_of_publication(state, &config.source.slot, oid).await? {
        return Ok(Some(format!("slot {slot} of this state")));
    }
    let quoted = quote_ident(name);
    let found = source.query_typed_opt(STREAMS, &[(&own, Type::TEXT_ARRAY), (&quoted, Type::TEXT)]).await?;
    let found = match found {
        Some(row) => Some(row),
        None => source.query_typed_opt(IDLE_SLOTS, &[(&own, Type::TEXT_ARRAY)]).await?,
    };
    Ok(found.map(|row| Ok::<_, Error>(format!("slot {}", row.try_get::<_, &str>(0)?))).transpose()?)
}

async fn drop_publication(config: &Config, source: &PgClient, plan: &mut Plan) -> Result<(), PlanError> {
    let name = &config.source.publication;
    let Some(row) = source.query_typed_opt(PUBLICATION, &[(name, Type::TEXT)]).await? else { return Ok(()) };
    let (owner, may_drop): (String, bool) = (row.try_get(1)?, row.try_get(2)?);
    plan.removals.push(Removal {
        what: format!("publication {name} of {}", config.source.url),
        sql: drop_statement(name),
        owner: (!may_drop).then_some(owner),
    });
    Ok(())
}

/// Restores the replica identities that `setup` has changed. A record may come from anyone with the state's role, so it only
/// chooses among what `setup` can have done to the tables of the mapping.
async fn restore_identities(
    config: &Config,
    source: &PgClient,
    made: &[Made],
    plan: &mut Plan,
) -> Result<(), PlanError> {
    if made.is_empty() {
        return Ok(());
    }
    // Without the tables there is nothing to restore.
    let Ok(resolved) = resolve_layout(source, config).await else { return Ok(()) };
    let mapped = resolved.users.tables();
    for made in made.iter().filter(|made| made.kind == MadeKind::Identity) {
        let table = TableName { schema: made.schema.clone(), name: made.name.clone() };
        let parameters = [&table.schema, &table.name, &config.source.publication]
            .map(|text| (text as &(dyn ToSql + Sync), Type::TEXT));
        let Some(row) = source.query_typed_opt(TABLE, &parameters).await? else { continue };
        let (owner, may_alter, now): (String, bool, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let other: Option<String> = row.try_get(3)?;
        let root: Vec<String> = row.try_get(4)?;
        let is_mapped = mapped.iter().any(|table| [&table.schema, &table.name].into_iter().eq(&root));
        if now == made.previous || !is_mapped {
            continue;
        }
        let identity = match made.previous.split_once(' ') {
            Some(("index", index)) => format!("USING INDEX {}", quote_ident(index)),
            _ if made.previous == "nothing" => "NOTHING".to_owned(),
            _ if made.previous == "full" => "FULL".to_owned(),
            _ => "DEFAULT".to_owned(),
        };
        if let Some(other) = other {
            plan.kept.push(format!("the replica identity of {table}: publication {other} publishes the table"));
            continue;
        }
        plan.removals.push(Removal {
            what: format!("the replica identity of {table}, which becomes {} again", made.previous),
            sql: format!("ALTER TABLE {} REPLICA IDENTITY {identity}", quote_table(&table)),
            owner: (!may_alter).then_some(owner),
        });
    }
    Ok(())
}

/// Drops the indexes that `setup` has created, once no identity that stays uses them.
async fn drop_indexes(config: &Config, source: &PgClient, made: &[Made], plan: &mut Plan) -> Result<(), PlanError> {
    for made in made.iter().filter(|made| made.kind == MadeKind::Index) {
        let parameters = [(&made.schema as &(dyn ToSql + Sync), Type::TEXT), (&made.name, Type::TEXT)];
        let Some(row) = source.query_typed_opt(INDEX, &parameters).await? else { continue };
        let (table, owner): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let (may_drop, is_identity): (bool, bool) = (row.try_get(2)?, row.try_get(3)?);
        let table = TableName { schema: made.schema.clone(), name: table };
        let is_restored = plan.removals.iter().any(|removal| removal.sql.starts_with(&alter_prefix(&table)));
        if identity_index(&table) != made.name || is_identity && !is_restored {
            continue;
        }
        plan.removals.push(Removal {
            what: format!("index {}.{} of {}", made.schema, made.name, config.source.url),
            sql: format!("DROP INDEX IF EXISTS {}", quote_table(&TableName { name: made.name.clone(), ..table })),
            owner: (!may_drop).then_some(owner),
        });
    }
    Ok(())
}

fn alter_prefix(table: &TableName) -> String {
    format!("ALTER TABLE {} REPLICA IDENTITY ", quote_table(table))
}

async fn has_state_tables(state: &Client, known: &Snapshot, made: &[Made]) -> Result<bool, PlanError> {
    // Reads the catalog instead of casting to regclass, which fails without USAGE on the schema.
    const SQL: &str = "
        SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                       WHERE n.nspname = 'users_sync' AND c.relname = 'source' AND c.relkind = 'r')";
    let has_tables: bool = state.query_typed_one(SQL, &[]).await?.try_get(0)?;
    if known.source.is_some() || made.iter().any(|made| made.kind != MadeKind::Role) {
        return Ok(true);
    }
    // The last slot's tables go with it.
    Ok(has_tables && state.query_typed_opt("SELECT FROM users_sync.source LIMIT 1", &[]).await?.is_none())
}

/// Drops a slot. One that was dropped in the meantime is no error.
pub(crate) async fn drop_slot(source: &Client, slot: &str) -> Result<(), Error> {
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
               WHERE slot_name = $1::text::name";
    source.query_typed(sql, &[(&slot, Type::TEXT)]).await.map(drop)
}

/// Removes something at the source.
pub(crate) async fn remove(source: &Client, removal: &Removal) -> Result<(), Error> {
    source.batch_execute(LOCK_TIMEOUT).await?;
    source.batch_execute(&removal.sql).await
}

/// Gives up the claim to a target, as its own role: the tenant of a later installation joins without `adopt`. A checkpoint
/// that another installation wrote since stays.
///
/// # Errors
/// The target cannot be reached or written.
pub(crate) async fn release_target(tenant: &Tenant, target_id: &TargetId) -> Result<(), String> {
    let client = connect_target(&tenant.target).await.map_err(|error| error.to_string())?;
    let observed = observe(&client).await.map_err(|error| error.to_string())?;
    let is_ours = observed.checkpoint.is_some_and(|found| found.tenant == tenant.id && found.target_id == *target_id);
    if is_ours {
        let sql = format!(
            "UPDATE users_sync.checkpoint SET target_id = '{NIL_TARGET_ID}', epoch = 0 WHERE target_id::text = {}",
            quote_literal(target_id.as_str())
        );
        client.batch_execute(&sql).await.map_err(|error| client.describe(&error))?;
    }
    Ok(())
}
