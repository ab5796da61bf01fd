//! The keys of the section `users`. Pure.

use super::filter::Condition;
use super::key_types::{Merged, OneOrMore, Table};
use super::presets::PRESETS;
use super::section::{KeyType, Reader, section};
use super::yaml::Node;
use crate::map::{Filter, Value};
use crate::model::TableName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

section! {
    /// How a row of the auth database becomes a user.
    ///
    /// ```yaml
    /// users:
    ///   table: auth.users
    ///   id: id
    ///   name: [raw_user_meta_data.full_name, {join: [first_name, last_name]}, username]
    ///   email: email
    ///   created_at: {column: created_timestamp, unit: ms}
    ///   tenant: tenant_id
    ///   where: type in ('internal', 'external') and not is_service = true
    ///   exclude: [internal_notes]
    /// ```
    ///
    /// A value (`id`, `name`, `email`, the times and `tenant`) is one of these forms:
    ///
    /// - `email`: a column. `middle_name?` is null if the table has no such column.
    /// - `profile.full_name`: a path into a JSON column. A column of exactly that name takes precedence.
    /// - `[a, b]`: the first value that is not null and not empty.
    /// - `{join: [a, b], with: " "}`: the values that are not null and not empty, joined. `with` defaults to a space.
    /// - `{column: a, unit: ms}`: a number that is a time in `s` or `ms` since the Unix epoch, or a text in `rfc3339`. 0 and ''
    ///   are null.
    /// - `{column: a, unless: b}`: null in rows in which `b` is not null.
    /// - `{constant: x}`: the same value for every row.
    /// - `{schema: true}`: the schema of the row's table, for stores that give each tenant a schema.
    ///
    /// The target's `raw_json` contains every column that may leave as `to_jsonb` returns it, and `id`, `display_name`,
    /// `primary_email` and `signed_up_at_millis` from the mapping. The latter take precedence.
    pub(super) struct Users {
        /// Name of a preset: the ready mapping of an auth store. `users-sync presets` lists them. Every other key overrides
        /// the preset's.
        pub(super) preset: Option<String> as Option<PresetName>,
        /// Table of the users as `schema.name`, such as `auth.users`. The name is taken literally: no quotes, and case
        /// matters. Required unless a preset has it.
        pub(super) table: TableName as Merged<Table>,
        /// Id of the user; with `users.query`, a plain column of its result. Required unless a preset has it.
        pub(super) id: Value as Merged<Value>,
        /// Display name of the user.
        pub(super) name: Option<Value>,
        /// Primary e-mail address of the user.
        pub(super) email: Option<Value>,
        /// Time of the sign-up: a column of a time type, or `{column: c, unit: ms}`.
        pub(super) created_at: Option<Value>,
        /// Time of the last update, as in `created_at`. By default it is the commit time of the update.
        pub(super) updated_at: Option<Value>,
        /// Time of a soft delete at the source, as in `created_at`.
        pub(super) deleted_at: Option<Value>,
        /// Tenant of the user: the value is compared with `tenants[].key`. Leave it out if there is exactly one tenant.
        pub(super) tenant: Option<Value>,
        /// Condition on the rows that are users, over columns and JSON paths, with SQL's three truth values. It may use `=`,
        /// `<>`, `in`, `is null`, `and`, `or` and `not`: `type in ('internal', 'external') and deleted is null`.
        pub(super) r#where: Option<Filter> as Option<Condition>,
        /// The only columns that may appear in `raw_json`. `name?` is a column that the table may lack. By default all columns
        /// appear except those whose names look like secrets (password, hash, token, `..._key`, `..._code` and others; `check` lists
        /// them).
        pub(super) allow: Option<Vec<String>>,
        /// Columns, and paths into JSON columns, that never appear in `raw_json`: `[internal_notes, meta.provider_token]`.
        pub(super) exclude: Vec<String> = "[]",
        /// One SELECT over any tables that returns one row per user, or per user and tenant. The values above are then columns
        /// of its result, of which `id`, `key` and `tenant` are also columns of `users.table`.
        ///
        /// A change of `users.table` or of a table in `users.watch` causes its users to be read again: users-sync adds
        /// `WHERE id = ANY(...)` to the query. A user that the query does not return any more is deleted in the target.
        ///
        /// ```yaml
        /// users:
        ///   table: public.user_entity           # its deletes are the users' deletes
        ///   id: id
        ///   tenant: realm_id
        ///   email: address
        ///   query: |
        ///     SELECT u.id, u.realm_id, u.username, e.address
        ///     FROM public.user_entity u LEFT JOIN public.email e ON e.user_id = u.id AND e.is_primary
        ///   watch:
        ///     - {table: public.email, key: user_id}
        /// ```
        pub(super) query: Option<String>,
        /// Columns of the query's result by which users are looked up. `id` must be one of them, and is the default.
        pub(super) key: Option<Vec<String>> as Option<OneOrMore>,
        /// The other tables of the query.
        pub(super) watch: Option<Vec<Watch>>,
        /// One user in several tenants: the table of the memberships. Excludes `users.query` and `users.tenant`.
        pub(super) fan_out: Option<FanOut>,
    }
}

section! {
    /// A table whose changes affect users of `users.query`.
    ///
    /// The replica identity of a watched table must contain its `key`, and that of `users.table` also the tenant.
    /// `users-sync check` and `users-sync setup` print the SQL.
    pub(super) struct Watch {
        /// Table as `schema.name`.
        pub(super) table: TableName as Table,
        /// Columns of the table that contain `users.key`, in the same order.
        pub(super) key: Vec<String> as OneOrMore,
        /// Tenant of the user, if a row of the table contains it.
        pub(super) tenant: Option<Value>,
        /// Another table that leads from the watched table to `users.key`, if the watched table does not contain it.
        pub(super) via: Option<Via>,
    }
}

section! {
    /// A table that leads from the key of a watched table to `users.key`.
    pub(super) struct Via {
        /// Table as `schema.name`.
        pub(super) table: TableName as Table,
        /// Columns of this table that contain the key of the watched table, in the same order.
        pub(super) from: Vec<String> as OneOrMore,
        /// Columns of this table that contain `users.key`, in the same order.
        pub(super) to: Vec<String> as OneOrMore,
    }
}

section! {
    /// The table of the memberships.
    ///
    /// ```yaml
    /// users:
    ///   table: public.user
    ///   id: id
    ///   fan_out: {table: public.member, id: userId, tenant: organizationId}
    /// ```
    pub(super) struct FanOut {
        /// Table as `schema.name`, with one row per user and tenant.
        pub(super) table: TableName as Table,
        /// Column that contains the id of the user.
        pub(super) id: String,
        /// Column that contains the key of the tenant.
        pub(super) tenant: String,
    }
}

/// Name of a preset. The mapping reports an unknown one.
struct PresetName;

impl KeyType for PresetName {
    type Value = String;
    type Schema = PresetName;

    fn expected() -> String {
        "the name of a preset".to_owned()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<String> {
        reader.text(node, path)
    }
}

impl JsonSchema for PresetName {
    fn schema_name() -> Cow<'static, str> {
        "Preset".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
        json_schema!({ "type": "string", "enum": names })
    }
}
