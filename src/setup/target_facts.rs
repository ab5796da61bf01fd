//! Reads from a target's catalogs what exists already, and who owns it.

use crate::pg::Statements;
use tokio_postgres::Error;
use tokio_postgres::types::Type;

/// A target as an administrator sees it. The default is one without anything.
#[derive(Clone, Debug, Default)]
pub(crate) struct TargetFacts {
    /// The role of the administrator's session.
    pub(super) administrator: String,
    /// Whether the role of the target's URL exists.
    pub(super) role_exists: bool,
    pub(super) objects: Vec<Object>,
}

/// Something of ours, or in the place of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) schema: String,
    /// Empty for the schema itself.
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) owner: String,
    /// The administrator may act as the owner.
    pub(super) may_be_handed_over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Schema,
    Table,
    Index,
    Function,
    /// A view, a foreign table, a sequence, ...
    Other,
}

const ROLES: &str =
    "SELECT current_user::text, EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1::text::name)";

/// `wait_for(text, interval)` has these types.
const OBJECTS: &str = "
    SELECT n.nspname::text, ''::text, 'schema'::text, pg_get_userbyid(n.nspowner)::text, pg_has_role(n.nspowner, 'USAGE')
    FROM pg_catalog.pg_namespace n WHERE n.nspname = 'users_sync'
    UNION ALL
    SELECT n.nspname::text, c.relname::text, c.relkind::text, pg_get_userbyid(c.relowner)::text,
           pg_has_role(c.relowner, 'USAGE')
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'users_sync' AND c.relname IN ('checkpoint', 'rejected')
       OR n.nspname = 'neon_auth' AND c.relname IN ('users_sync', 'users_sync_deleted_at_idx')
    UNION ALL
    SELECT n.nspname::text, p.proname::text, 'function', pg_get_userbyid(p.proowner)::text, pg_has_role(p.proowner, 'USAGE')
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = 'users_sync' AND p.proname = 'wait_for'
      AND p.proargtypes = array_to_string(ARRAY['text'::regtype::oid, 'interval'::regtype::oid], ' ')::oidvector
    ORDER BY 1, 2";

/// Reads the facts; `role` is the one of the target's URL.
pub(crate) async fn gather_target(client: &impl Statements, role: &str) -> Result<TargetFacts, Error> {
    let row = client.query_typed_one(ROLES, &[(&role, Type::TEXT)]).await?;
    let mut objects = Vec::new();
    for row in client.query_typed(OBJECTS, &[]).await? {
        let kind = match row.try_get(2)? {
            "schema" => Kind::Schema,
            "r" | "p" => Kind::Table,
            "i" | "I" => Kind::Index,
            "function" => Kind::Function,
            _ => Kind::Other,
        };
        objects.push(Object {
            schema: row.try_get(0)?,
            name: row.try_get(1)?,
            kind,
            owner: row.try_get(3)?,
            may_be_handed_over: row.try_get(4)?,
        });
    }
    Ok(TargetFacts { administrator: row.try_get(0)?, role_exists: row.try_get(1)?, objects })
}

impl TargetFacts {
    pub(super) fn find(&self, schema: &str, name: &str) -> Option<&Object> {
        self.objects.iter().find(|object| object.schema == schema && object.name == name)
    }
}
