//! Looks for a table of users by the names of its columns, for sources that are no known auth store.

use super::file::{Users, yaml_literal};
use crate::model::TableName;
use tokio_postgres::{Client, Error};

/// A table that probably contains users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UsersTable {
    pub(crate) table: TableName,
    /// The column with the user's id.
    id: String,
    columns: Vec<TableColumn>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct TableColumn {
    name: String,
    is_time: bool,
}

/// Tables with a primary key of one column, or of two: the tenant may be one. Not those of the system.
const CANDIDATES: &str = "
    SELECT n.nspname::text, c.relname::text,
           array(SELECT k.attname::text FROM pg_catalog.pg_attribute k
                 WHERE k.attrelid = c.oid AND k.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])),
           array_agg(a.attname::text ORDER BY a.attnum),
           array_agg(t.typcategory = 'D' ORDER BY a.attnum)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts <= 2
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^pg_'
      AND n.nspname NOT IN ('information_schema', 'users_sync', 'neon_auth')
    GROUP BY c.oid, n.nspname, c.relname, i.indkey, i.indnkeyatts
    HAVING bool_or(lower(replace(a.attname, '_', '')) = ANY ($1))
    ORDER BY n.nspname, c.relname";

/// Names are compared in lower case and without underscores.
const EMAILS: &[&str] = &["email", "emailaddress", "primaryemail", "mail"];
const NAMES: &[&str] = &["name", "fullname", "displayname", "username", "nickname"];
const FIRST_NAMES: &[&str] = &["firstname", "givenname"];
const LAST_NAMES: &[&str] = &["lastname", "familyname", "surname"];
const CREATED: &[&str] = &["createdat", "created", "insertedat", "datejoined", "createdon", "signedupat"];
const UPDATED: &[&str] = &["updatedat", "updated", "modifiedat", "modified", "updatedon", "lastupdated"];
const DELETED: &[&str] = &["deletedat", "discardedat", "archivedat"];
const TENANTS: &[&str] = &[
    "tenantid",
    "tenant",
    "organizationid",
    "organisationid",
    "orgid",
    "org",
    "workspaceid",
    "companyid",
    "accountid",
    "realmid",
    "teamid",
];
/// Names of tables of users, the most likely first.
const TABLES: &[&str] = &["users", "user", "accounts", "account", "members", "people", "identities", "profiles"];

/// The tables that probably contain users, the most likely first.
pub(crate) async fn find_tables(client: &Client) -> Result<Vec<UsersTable>, Error> {
    let mut found = Vec::new();
    for row in client.query(CANDIDATES, &[&EMAILS]).await? {
        let (key, names, times): (Vec<String>, Vec<String>, Vec<bool>) =
            (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
        let Some(id) = id_of(key) else { continue };
        let columns = names.into_iter().zip(times).map(|(name, is_time)| TableColumn { name, is_time });
        let table = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
        found.push(UsersTable { table, id, columns: columns.collect() });
    }
    found.sort_by_key(|candidate| {
        let name = plain(&candidate.table.name);
        TABLES.iter().position(|known| *known == name).unwrap_or(TABLES.len())
    });
    Ok(found)
}

/// The user's id among the columns of a primary key: the only one that is not the tenant.
fn id_of(key: Vec<String>) -> Option<String> {
    let is_alone = key.len() == 1;
    let mut ids = key.into_iter().filter(|name| is_alone || !TENANTS.contains(&plain(name).as_str()));
    ids.next().filter(|_| ids.next().is_none())
}

impl UsersTable {
    /// The section `users` that maps it.
    pub(crate) fn users(&self) -> Users {
        Users::Table { table: self.table.to_string(), keys: self.keys() }
    }

    /// The keys of the section `users` that follow `table`, each with its value in YAML's form.
    fn keys(&self) -> Vec<(&'static str, String)> {
        let text = |names| self.first(names, false).map(yaml_literal);
        let time = |names| self.first(names, true).map(yaml_literal);
        let joined = || Some(format!("{{join: [{}, {}]}}", text(FIRST_NAMES)?, text(LAST_NAMES)?));
        let keys = [
            ("id", Some(yaml_literal(&self.id))),
            ("tenant", text(TENANTS)),
            ("name", joined().or_else(|| text(NAMES))),
            ("email", text(EMAILS)),
            ("created_at", time(CREATED)),
            ("updated_at", time(UPDATED)),
            ("deleted_at", time(DELETED)),
        ];
        keys.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    /// The column with the first of these names that the table has.
    fn first(&self, names: &[&str], is_time: bool) -> Option<&str> {
        let of_kind = || self.columns.iter().filter(|column| column.is_time == is_time);
        let named = |name: &&str| of_kind().find(|column| plain(&column.name) == **name);
        names.iter().find_map(named).map(|column| column.name.as_str())
    }
}

fn plain(name: &str) -> String {
    name.to_lowercase().replace('_', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_part_of_the_key_that_is_not_the_tenant() {
        let id = |key: &[&str]| id_of(key.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(id(&["org_id", "userId"]).as_deref(), Some("userId"));
        assert_eq!(id(&["account_id"]).as_deref(), Some("account_id"));
        assert_eq!((id(&["a", "b"]), id(&["org_id", "tenant"]), id(&[])), (None, None, None));
    }

    #[test]
    fn columns_are_recognised_in_any_spelling_and_by_their_type() {
        let column = |name: &str, is_time| TableColumn { name: name.to_owned(), is_time };
        let table = UsersTable {
            table: TableName { schema: "app".to_owned(), name: "Users".to_owned() },
            id: "userId".to_owned(),
            columns: vec![
                column("userId", false),
                column("OrganizationId", false),
                column("first_name", false),
                column("last_name", false),
                column("name", false),
                column("emailAddress", false),
                // A number of milliseconds is not mapped without its unit.
                column("created_at", false),
                column("updatedAt", true),
            ],
        };
        let expected = [
            ("id", "userId"),
            ("tenant", "OrganizationId"),
            ("name", "{join: [first_name, last_name]}"),
            ("email", "emailAddress"),
            ("updated_at", "updatedAt"),
        ];
        assert_eq!(table.keys(), expected.map(|(key, value)| (key, value.to_owned())));
    }
}
