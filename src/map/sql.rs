//! SQL conditions that select single users, or the users of some tenants, from the source. Pure.

use super::json::oid;
use super::{Filter, Query, Rules, Value};
use crate::model::{Relation, TableName, TenantKey};
use crate::pg::{quote_ident, quote_literal, quote_table};

/// The columns by which rows are looked up; `None` if the id is not a plain column, which no index serves.
pub(crate) fn key_columns<'a>(rules: &'a Rules, relation: &Relation) -> Option<Vec<&'a str>> {
    match &rules.query {
        Some(query) => Some(query.key.iter().map(String::as_str).collect()),
        None => plain_column(&rules.id, relation).map(|column| vec![column]),
    }
}

/// Selects the rows of these tenants, and possibly more: the mapping decides. Empty if every row has to be read.
pub(crate) fn tenants_condition<'a>(
    rules: &Rules,
    relation: &Relation,
    keys: impl IntoIterator<Item = &'a TenantKey>,
) -> String {
    let Some(column) = rules.tenant.as_ref().and_then(|tenant| plain_column(tenant, relation)) else {
        return String::new();
    };
    let keys: Vec<String> = keys.into_iter().map(|key| quote_literal(key.as_str())).collect();
    format!("WHERE {}::text IN ({})", quote_ident(column), keys.join(", "))
}

/// The tenant's key of a row, as text; `None` if the mapping has no tenant.
pub(crate) fn tenant_expression(rules: &Rules, relation: &Relation) -> Option<String> {
    rules.tenant.as_ref().map(|tenant| expression(tenant, relation))
}

/// Selects the rows that `where` admits. Empty if every row is a user.
pub(crate) fn users_condition(rules: &Rules, relation: &Relation) -> String {
    rules.filter.as_ref().map_or_else(String::new, |filter| format!("WHERE {}", condition(filter, relation)))
}

fn condition(filter: &Filter, relation: &Relation) -> String {
    let all = |parts: &[Filter], with: &str, none: &str| {
        let parts: Vec<String> = parts.iter().map(|part| condition(part, relation)).collect();
        if parts.is_empty() { none.to_owned() } else { format!("({})", parts.join(with)) }
    };
    match filter {
        Filter::In(name, values) => {
            let values: Vec<String> = values.iter().map(|value| quote_literal(value)).collect();
            format!(
                "({} COLLATE \"C\" = ANY (ARRAY[{}]::text[]))",
                column_expression(name, relation),
                values.join(", ")
            )
        }
        Filter::IsNull(name) => format!("({} IS NULL)", column_expression(name, relation)),
        Filter::And(parts) => all(parts, " AND ", "true"),
        Filter::Or(parts) => all(parts, " OR ", "false"),
        Filter::Not(part) => format!("(NOT {})", condition(part, relation)),
    }
}

/// Column of the query behind `users.fan_out` that contains the tenant.
pub(crate) const FAN_OUT_TENANT: &str = "users_sync_tenant";

/// The table of the memberships, as `users.fan_out` names it.
pub(crate) struct Memberships<'a> {
    pub(crate) table: &'a TableName,
    /// Its column with the user's id.
    pub(crate) user: &'a str,
    /// Its column with the tenant's key.
    pub(crate) tenant: &'a str,
}

/// The query behind `users.fan_out`: the users' table joined with the memberships. `join` is `JOIN`, or `LEFT JOIN` to
/// include the users without a membership.
pub(crate) fn fan_out_query(users: &TableName, id: &str, members: &Memberships<'_>, join: &str) -> String {
    format!(
        "SELECT u.*, m.{tenant}::text AS {FAN_OUT_TENANT} FROM {users} u {join} {members} m ON m.{user} = u.{id}",
        tenant = quote_ident(members.tenant),
        users = quote_table(users),
        members = quote_table(members.table),
        user = quote_ident(members.user),
        id = quote_ident(id),
    )
}

/// A query as an item of FROM, on lines of its own: a comment at its end must not continue.
pub(crate) fn query_item(query: &Query) -> String {
    let Query { sql, distinct, .. } = query;
    if distinct.is_empty() {
        return format!("(\n{sql}\n) AS users_sync_query");
    }
    // DISTINCT alone would compare every column, which those of type json do not allow. The second form of a column tells
    // apart what its own collation does not.
    let plain = distinct.iter().map(|column| quote_ident(column));
    let exact = distinct.iter().map(|column| format!("{}::text COLLATE \"C\"", quote_ident(column)));
    let columns: Vec<String> = plain.chain(exact).collect();
    format!("(SELECT DISTINCT ON ({}) * FROM (\n{sql}\n) r) AS users_sync_query", columns.join(", "))
}

/// As `users.query`, with the users that have no tenant where it leaves them out; `None` if it does not.
pub(crate) fn query_with_all_users(rules: &Rules) -> Option<Query> {
    let is_fan_out = rules.tenant == Some(Value::Column(FAN_OUT_TENANT.to_owned()));
    let query = rules.query.as_ref().filter(|_| is_fan_out)?;
    let ([id], Some(watch)) = (&query.key[..], query.watch.iter().find(|watch| !watch.is_users_own)) else {
        return None;
    };
    let (Some(Value::Column(tenant)), [user]) = (&watch.tenant, &watch.key[..]) else { return None };
    let members = Memberships { table: &watch.table, user, tenant };
    Some(Query { sql: fan_out_query(&rules.table, id, &members, "LEFT JOIN"), ..query.clone() })
}

/// Whether [`tenants_condition`] compares the tenant column in its own type, so that the planner's statistics apply.
pub(crate) fn is_tenant_a_text(rules: &Rules, relation: &Relation) -> bool {
    let column = rules.tenant.as_ref().and_then(|tenant| plain_column(tenant, relation));
    let column = column.and_then(|name| relation.columns.iter().find(|column| column.name == name));
    column.is_some_and(|column| matches!(column.type_oid, oid::TEXT | oid::VARCHAR))
}

/// The setting that passes keys to a COPY, which takes no parameters: a JSON array with one array of texts per key.
pub(crate) const KEYS_SETTING: &str = "users_sync.keys";

/// Selects the rows with one of the keys in [`KEYS_SETTING`]. `columns` are names and SQL types; values are compared in
/// these types, so that an index serves them.
pub(crate) fn keys_condition(columns: &[(&str, String)]) -> String {
    let one_of = |(n, (name, kind)): (usize, &(&str, String))| {
        format!("{} = ANY(ARRAY(SELECT DISTINCT (key ->> {n})::{kind} FROM {}))", quote_ident(name), keys())
    };
    // Conditions on single columns are pushed into subqueries and groups; one on a list of columns is not.
    let mut conditions: Vec<_> = columns.iter().enumerate().map(one_of).collect();
    if columns.len() > 1 {
        let names: Vec<_> = columns.iter().map(|(name, _)| quote_ident(name)).collect();
        let values = columns.iter().enumerate().map(|(n, (_, kind))| format!("(key ->> {n})::{kind}"));
        let values = values.collect::<Vec<_>>().join(", ");
        conditions.push(format!("({}) IN (SELECT {values} FROM {})", names.join(", "), keys()));
    }
    format!("WHERE {}", conditions.join(" AND "))
}

/// As [`keys_condition`], for an id that is not a plain column.
pub(crate) fn ids_condition(rules: &Rules, relation: &Relation) -> String {
    format!("WHERE {} = ANY(ARRAY(SELECT key ->> 0 FROM {}))", expression(&rules.id, relation), keys())
}

fn keys() -> String {
    format!("jsonb_array_elements(current_setting('{KEYS_SETTING}')::jsonb) AS key")
}

fn plain_column<'a>(value: &'a Value, relation: &Relation) -> Option<&'a str> {
    match value {
        Value::Column(name) if has(relation, name) => Some(name),
        Value::Optional(value) => plain_column(value, relation),
        Value::Column(_)
        | Value::First(_)
        | Value::Join { .. }
        | Value::Time { .. }
        | Value::Unless { .. }
        | Value::Constant(_)
        | Value::Schema => None,
    }
}

fn expression(value: &Value, relation: &Relation) -> String {
    let filled = |part: &Value| format!("nullif({}, '')", expression(part, relation));
    match value {
        Value::Column(name) | Value::Time { column: name, .. } => column_expression(name, relation),
        Value::First(parts) => format!("coalesce({})", parts.iter().map(filled).collect::<Vec<_>>().join(", ")),
        Value::Join { parts, with } => {
            let parts = parts.iter().map(filled).collect::<Vec<_>>().join(", ");
            format!("concat_ws({}, {parts})", quote_literal(with))
        }
        Value::Optional(value) if plain_column(value, relation).is_none() => "NULL::text".to_owned(),
        Value::Optional(value) => expression(value, relation),
        Value::Unless { value, set } => format!(
            "CASE WHEN nullif({}, '') IS NULL THEN {} END",
            column_expression(set, relation),
            expression(value, relation)
        ),
        Value::Constant(text) => quote_literal(text),
        Value::Schema => quote_literal(&relation.table.schema),
    }
}

fn column_expression(name: &str, relation: &Relation) -> String {
    match name.split_once('.') {
        Some((column, path)) if !has(relation, name) => {
            let keys: Vec<String> = path.split('.').map(quote_literal).collect();
            format!("({}::jsonb #>> ARRAY[{}])", quote_ident(column), keys.join(", "))
        }
        _ => format!("{}::text", quote_ident(name)),
    }
}

fn has(relation: &Relation, name: &str) -> bool {
    relation.columns.iter().any(|column| column.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Redactions;
    use crate::model::{Column, ReplicaIdentity, TableName};

    fn relation() -> Relation {
        let column = |name: &str| Column { name: name.into(), type_oid: 25, in_identity: false };
        Relation {
            oid: 1,
            table: TableName { schema: "auth".into(), name: "users".into() },
            replica_identity: ReplicaIdentity::Default,
            columns: ["id", "meta", "a.b", "org"].map(column).into(),
            leaves: Vec::new(),
        }
    }

    #[track_caller]
    fn check(value: Value, expected: &str) {
        assert_eq!(expression(&value, &relation()), expected);
    }

    fn column(name: &str) -> Value {
        Value::Column(name.into())
    }

    #[test]
    fn the_sql_condition_matches_the_mapping() {
        check(column("id"), r#""id"::text"#);
        check(column("a.b"), r#""a.b"::text"#);
        check(column("meta.o'k.n"), r#"("meta"::jsonb #>> ARRAY['o''k', 'n'])"#);
        check(
            Value::First(vec![column("id"), column("org")]),
            r#"coalesce(nullif("id"::text, ''), nullif("org"::text, ''))"#,
        );
        check(
            Value::Join { parts: vec![column("org"), column("id")], with: "/".into() },
            r#"concat_ws('/', nullif("org"::text, ''), nullif("id"::text, ''))"#,
        );
    }

    #[test]
    fn keys_are_compared_in_their_own_type() {
        let keys = "jsonb_array_elements(current_setting('users_sync.keys')::jsonb) AS key";
        let id = format!(r#""id" = ANY(ARRAY(SELECT DISTINCT (key ->> 0)::uuid FROM {keys}))"#);
        assert_eq!(keys_condition(&[("id", "uuid".into())]), format!("WHERE {id}"));
        assert_eq!(
            keys_condition(&[("id", "uuid".into()), ("B", "text".into())]),
            format!(
                r#"WHERE {id} AND "B" = ANY(ARRAY(SELECT DISTINCT (key ->> 1)::text FROM {keys})) AND ("id", "B") IN (SELECT (key ->> 0)::uuid, (key ->> 1)::text FROM {keys})"#
            )
        );
    }

    #[test]
    fn a_plain_tenant_column_restricts_the_read() {
        let rules = |tenant: Option<Value>| Rules {
            table: relation().table,
            id: column("id"),
            name: None,
            email: None,
            created_at: None,
            updated_at: None,
            deleted_at: None,
            tenant,
            filter: None,
            allow: None,
            exclude: Vec::new(),
            query: None,
            redactions: Redactions::default(),
        };
        let keys = [TenantKey::new("a"), TenantKey::new("b'c")];
        let condition = |tenant| tenants_condition(&rules(tenant), &relation(), &keys);
        assert_eq!(condition(Some(column("org"))), r#"WHERE "org"::text IN ('a', 'b''c')"#);
        assert_eq!(condition(Some(column("meta.org"))), "");
        assert_eq!(condition(None), "");
        assert_eq!(key_columns(&rules(None), &relation()), Some(vec!["id"]));
    }
}
