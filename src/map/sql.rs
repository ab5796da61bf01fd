//! A mapped text as the source's own SQL says it: for reading single users, or one tenant's, from the table.

use super::{Rules, Value};
use crate::model::{Relation, TenantKey};
use crate::pg::{quote_ident, quote_literal};

/// The column that holds the user's id as it is, where the id is a plain column: an index may serve it.
pub fn id_column<'a>(rules: &'a Rules, relation: &Relation) -> Option<&'a str> {
    plain_column(&rules.id, relation)
}

/// The user's id as text.
pub fn id_expression(rules: &Rules, relation: &Relation) -> String {
    expression(&rules.id, relation)
}

/// Admits the rows of these tenants, and perhaps more: the mapping decides. Empty where all rows have to be read.
pub fn tenants_condition<'a>(
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

fn plain_column<'a>(value: &'a Value, relation: &Relation) -> Option<&'a str> {
    match value {
        Value::Column(name) if has(relation, name) => Some(name),
        Value::Column(_) | Value::First(_) | Value::Join { .. } | Value::Time { .. } => None,
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
    use crate::model::{Column, ReplicaIdentity, TableName};

    fn relation() -> Relation {
        let column = |name: &str| Column { name: name.into(), type_oid: 25, in_identity: false };
        Relation {
            oid: 1,
            table: TableName { schema: "auth".into(), name: "users".into() },
            replica_identity: ReplicaIdentity::Default,
            columns: ["id", "meta", "a.b", "org"].map(column).into(),
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
    fn sql_says_what_the_mapping_says() {
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
    fn a_plain_tenant_column_narrows_what_is_read() {
        let rules = |tenant: Option<Value>| Rules {
            table: relation().table,
            id: column("id"),
            name: None,
            email: None,
            created_at: None,
            updated_at: None,
            deleted_at: None,
            tenant,
            exclude: Vec::new(),
        };
        let keys = [TenantKey::new("a"), TenantKey::new("b'c")];
        let condition = |tenant| tenants_condition(&rules(tenant), &relation(), &keys);
        assert_eq!(condition(Some(column("org"))), r#"WHERE "org"::text IN ('a', 'b''c')"#);
        assert_eq!(condition(Some(column("meta.org"))), "");
        assert_eq!(condition(None), "");
        assert_eq!(id_column(&rules(None), &relation()), Some("id"));
    }
}
