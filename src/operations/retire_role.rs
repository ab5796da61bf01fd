//! The roles that `setup` made: `teardown` takes their rights in the databases of the configuration, hands over what they own
//! there, and drops them. A role that anything else uses stays as it is.

use crate::apply::{NIL_TARGET_ID, observe};
use crate::config::ServerName;
use crate::model::{Made, MadeKind};
use crate::pg::{PgUrl, Statements, TargetClient, connect_target, quote_ident};
use std::collections::BTreeSet;
use tokio_postgres::types::Type;

/// Time limit for the locks of tables that change their owner.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '5s'";

/// The databases in which a role has rights or owns something. `$1`: the role.
const DATABASES: &str = "
    SELECT DISTINCT coalesce(d.datname::text, shared.datname::text, '')
    FROM pg_catalog.pg_shdepend s LEFT JOIN pg_catalog.pg_database d ON d.oid = s.dbid
    LEFT JOIN pg_catalog.pg_database shared
      ON s.dbid = 0 AND s.classid = 'pg_catalog.pg_database'::regclass AND shared.oid = s.objid
    WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass
      AND s.refobjid = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1::text::name) ORDER BY 1";

/// Whether a role exists and is one that `setup` can have made, and not the session's own.
const IS_PLAIN: &str = "
    SELECT FROM pg_catalog.pg_roles
    WHERE rolname = $1::text::name AND NOT rolsuper AND NOT rolcreaterole AND NOT rolcreatedb AND rolname <> current_user";

/// The slots of this database, each of which may be of another installation with the same role.
const SLOTS: &str = "
    SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE database = current_database() ORDER BY 1 LIMIT 1";

/// What a role owns in this database, with the statement that hands it over; null for what users-sync does not make.
const OWNED: &str = "
    SELECT pg_describe_object(s.classid, s.objid, 0),
      CASE s.classid
        WHEN 'pg_catalog.pg_namespace'::regclass THEN (
          SELECT format('ALTER SCHEMA %I OWNER TO CURRENT_USER', nspname) FROM pg_catalog.pg_namespace n
          WHERE n.oid = s.objid AND nspname IN ('users_sync', 'neon_auth'))
        WHEN 'pg_catalog.pg_class'::regclass THEN (
          SELECT format('ALTER TABLE %I.%I OWNER TO CURRENT_USER', nspname, relname)
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE c.oid = s.objid AND relkind = 'r' AND (nspname = 'neon_auth' AND relname = 'users_sync'
            OR nspname = 'users_sync' AND relname IN ('checkpoint', 'rejected', 'kept')))
        WHEN 'pg_catalog.pg_proc'::regclass THEN (
          SELECT 'ALTER FUNCTION users_sync.wait_for(text, interval) OWNER TO CURRENT_USER'
          FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
          WHERE p.oid = s.objid AND nspname = 'users_sync' AND proname = 'wait_for' AND NOT prosecdef)
      END
    FROM pg_catalog.pg_shdepend s
    WHERE s.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) AND s.deptype = 'o'
      AND s.refclassid = 'pg_catalog.pg_authid'::regclass
      AND s.refobjid = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1::text::name)
    ORDER BY s.classid, s.objid";

/// The statements that take a role's rights in this database.
const REVOKES: &str = "
    SELECT DISTINCT CASE s.classid
        WHEN 'pg_catalog.pg_database'::regclass THEN (
          SELECT format('REVOKE ALL ON DATABASE %I FROM %I', datname, $1::text) FROM pg_catalog.pg_database d
          WHERE d.oid = s.objid AND datname = current_database())
        WHEN 'pg_catalog.pg_namespace'::regclass THEN (
          SELECT format('REVOKE ALL ON SCHEMA %I FROM %I', nspname, $1::text) FROM pg_catalog.pg_namespace n
          WHERE n.oid = s.objid)
        WHEN 'pg_catalog.pg_class'::regclass THEN (
          SELECT format('REVOKE ALL ON %I.%I FROM %I', nspname, relname, $1::text)
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE c.oid = s.objid AND relkind IN ('r', 'p', 'v', 'm', 'f'))
      END
    FROM pg_catalog.pg_shdepend s
    WHERE s.dbid IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
      AND s.deptype = 'a' AND s.refclassid = 'pg_catalog.pg_authid'::regclass
      AND s.refobjid = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1::text::name)";

/// A database of the configuration, its role and its administrator.
pub(crate) struct Site {
    /// `source`, `state`, or `target ` and the tenant: where `setup` recorded the role.
    pub(crate) place: String,
    pub(crate) url: PgUrl,
    pub(crate) admin: Option<PgUrl>,
    /// The option that names an administrator.
    pub(crate) option: String,
}

/// A role that `setup` made, with the databases of its server in which the configuration uses it.
pub(crate) struct MadeRole<'a> {
    pub(crate) name: String,
    /// The first is the one where it was made.
    sites: Vec<&'a Site>,
    /// What `setup` recorded of it: a row for each place where it found the role missing.
    pub(crate) records: Vec<Made>,
}

/// The roles among what was recorded. A record may come from anyone with the state's role, so it only chooses among the
/// roles of the configuration.
pub(crate) fn made_roles<'a>(made: &[Made], sites: &'a [Site]) -> Vec<MadeRole<'a>> {
    let mut roles: Vec<MadeRole<'a>> = Vec::new();
    for made in made.iter().filter(|made| made.kind == MadeKind::Role) {
        let Some(home) = sites.iter().find(|site| site.place == made.schema && site.url.user == made.name) else {
            continue;
        };
        let server = ServerName::of(&home.url);
        let is_same = |site: &&Site| site.url.user == made.name && ServerName::of(&site.url) == server;
        let others = sites.iter().filter(|site| is_same(site) && site.place != home.place);
        let is_known = |role: &&mut MadeRole<'_>| role.name == made.name && role.sites.iter().any(is_same);
        match roles.iter_mut().find(is_known) {
            Some(role) => role.records.push(made.clone()),
            None => roles.push(MadeRole {
                name: made.name.clone(),
                sites: std::iter::once(home).chain(others).collect(),
                records: vec![made.clone()],
            }),
        }
    }
    roles
}

impl MadeRole<'_> {
    /// The role and its server, for people.
    pub(crate) fn describe(&self) -> String {
        let server = self.sites.first().map_or_else(String::new, |home| format!("{}:{}", home.url.host, home.url.port));
        format!("role {} of {server}, with its rights", self.name)
    }

    /// Whether sessions with this URL use the role.
    pub(crate) fn is_of(&self, url: &PgUrl) -> bool {
        let server = ServerName::of(url);
        self.name == url.user && self.sites.iter().any(|site| ServerName::of(&site.url) == server)
    }

    /// The option of an administrator that is needed and was not given.
    pub(crate) fn lacks_admin(&self) -> Option<&str> {
        self.sites.iter().find(|site| site.admin.is_none()).map(|site| &*site.option)
    }

    /// Drops the role. Call it when slots, claims and state are gone.
    ///
    /// # Errors
    /// Why the role stays.
    pub(crate) async fn retire(&self) -> Result<(), String> {
        let mut sessions = Vec::new();
        for site in &self.sites {
            let Some(admin) = &site.admin else { return Err(format!("no administrator was given: {}", site.option)) };
            sessions
                .push((*site, connect_target(admin).await.map_err(|error| format!("the {}: {error}", site.place))?));
        }
        let Some((_, home)) = sessions.first() else { return Ok(()) };
        let failed = |error: tokio_postgres::Error| home.describe(&error);
        let role: &str = &self.name;
        if home.query_typed_opt(IS_PLAIN, &[(&role, Type::TEXT)]).await.map_err(failed)?.is_none() {
            return Err("it does not exist any more, or is an administrator".to_owned());
        }
        // All of it is looked at before anything is changed.
        let known: BTreeSet<&str> = self.sites.iter().map(|site| &*site.url.database).collect();
        for row in home.query_typed(DATABASES, &[(&role, Type::TEXT)]).await.map_err(failed)? {
            let database: &str = row.try_get(0).map_err(failed)?;
            if !known.contains(database) {
                return Err(format!("it has rights in database {database}, which is not of this configuration"));
            }
        }
        let mut handed_over = Vec::new();
        for (site, session) in &sessions {
            handed_over.push(site.hand_over(session, role).await?);
        }
        for ((_, session), statements) in sessions.iter().zip(handed_over) {
            take_rights(session, role, &statements).await.map_err(|error| session.describe(&error))?;
        }
        home.batch_execute(&format!("DROP ROLE {}", quote_ident(role))).await.map_err(failed)
    }
}

impl Site {
    /// The statements that hand over what the role owns. An error if another installation may use the role here.
    async fn hand_over(&self, session: &TargetClient, role: &str) -> Result<Vec<String>, String> {
        let failed = |error: tokio_postgres::Error| session.describe(&error);
        let is_target = self.place.starts_with("target ");
        if is_target {
            // As the role itself: an administrator reads no table of another role.
            let own = connect_target(&self.url).await.map_err(|error| error.to_string())?;
            let found = observe(&own).await.map_err(|error| error.to_string())?;
            if found.checkpoint.is_some_and(|found| found.target_id.as_str() != NIL_TARGET_ID) {
                return Err(format!("an installation writes to the {}", self.place));
            }
            own.close().await;
        } else if let Some(row) = session.query_typed_opt(SLOTS, &[]).await.map_err(failed)? {
            let slot: &str = row.try_get(0).map_err(failed)?;
            return Err(format!("slot {slot} of database {} may be read with it", self.url.database));
        }
        let mut statements = Vec::new();
        for row in session.query_typed(OWNED, &[(&role, Type::TEXT)]).await.map_err(failed)? {
            match row.try_get::<_, Option<String>>(1).map_err(failed)?.filter(|_| is_target) {
                Some(statement) => statements.push(statement),
                None => {
                    let what: &str = row.try_get(0).map_err(failed)?;
                    return Err(format!("it owns {what} in database {}", self.url.database));
                }
            }
        }
        Ok(statements)
    }
}

/// Hands over what the role owns in the session's database, and then takes its rights there.
async fn take_rights(session: &TargetClient, role: &str, handed_over: &[String]) -> Result<(), tokio_postgres::Error> {
    session.batch_execute(LOCK_TIMEOUT).await?;
    for statement in handed_over {
        session.batch_execute(statement).await?;
    }
    for row in session.query_typed(REVOKES, &[(&role, Type::TEXT)]).await? {
        if let Some(revoke) = row.try_get::<_, Option<&str>>(0)? {
            session.batch_execute(revoke).await?;
        }
    }
    Ok(())
}
