//! The configuration as a JSON Schema, for editors. The file itself is read by `resolve`; a test holds the two together.

// Only the shapes matter here: nothing is ever made of these types.
#![allow(dead_code)]

use schemars::JsonSchema;

/// The schema's text.
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(Configuration);
    serde_json::to_string_pretty(&schema).unwrap_or_default()
}

/// The text of the schema of a preset's file.
pub fn preset_schema() -> String {
    let schema = schemars::schema_for!(PresetFile);
    serde_json::to_string_pretty(&schema).unwrap_or_default()
}

/// A preset: the mapping of one auth store.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, title = "users-sync preset")]
struct PresetFile {
    /// What it is for, in a line.
    about: String,
    /// The software whose own tables it was tested on; or "no: " and why not.
    verified: String,
    /// The mapping.
    users: Users,
    /// The shapes that the store's tables have; the first that is there is taken.
    families: Option<Vec<Family>>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Family {
    /// What people call it.
    name: String,
    /// The columns of the table by which it is recognised.
    has: Vec<String>,
    /// What is different in this shape.
    users: Users,
}

/// The configuration of users-sync. Anywhere in a value ${NAME} is an environment variable and ${file:PATH} a file.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, title = "users-sync")]
struct Configuration {
    /// The auth database.
    source: Source,
    /// Where the state lives; left out: schema users_sync of the source.
    state: Option<State>,
    /// How a row becomes a user.
    users: Users,
    /// Who gets users, and where.
    tenants: Option<Vec<Tenant>>,
    /// Patterns of further files with `tenants:`, looked for beside this one: tenants.d/*.yaml
    include: Option<Vec<String>>,
    /// How long a mere update may wait for a target that sleeps: 5m. Sign-ups and deletes wake it at once.
    wake_after: Option<String>,
    /// What a delete at the source means in a target: soft (the default) keeps the row and sets deleted_at.
    deletes: Option<DeletesOrSection>,
    /// Whether sessions at a target that LISTEN users_sync are told who was written. Default: false.
    notify: Option<bool>,
    /// Budgets.
    limits: Option<Limits>,
    /// What happens when the slot is lost. Default: resync.
    on_slot_loss: Option<OnSlotLoss>,
    /// How log lines look: text (the default) or json, one object a line. --log on the command line wins.
    log: Option<LogFormat>,
    /// The tee: the same changes for consumers of Kafka.
    kafka: Option<Kafka>,
    /// The process over HTTP: health, metrics, an API and a console. Left out: it listens nowhere.
    admin: Option<Admin>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Source {
    /// A libpq URL: postgres://user:password@host:5432/database?sslmode=verify-full
    url: String,
    /// The replication slot's name. Default: users_sync.
    slot: Option<String>,
    /// The publication's name. Default: users_sync.
    publication: Option<String>,
    /// rows (the default): whole rows, secrets are dropped in users-sync. columns: only what is allowed leaves the
    /// database, and migrations of the store need care.
    publish: Option<Publish>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct State {
    /// A libpq URL.
    url: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Users {
    /// A store's ready mapping; every key beside it overrides the preset's.
    preset: Option<PresetName>,
    /// schema.name, taken literally: no quotes, case matters.
    table: Option<String>,
    /// The user's id; with a query a plain column.
    id: Option<Value>,
    /// Display name.
    name: Option<Value>,
    /// Primary e-mail.
    email: Option<Value>,
    /// When the user signed up.
    created_at: Option<Value>,
    /// Last update; left out: the time of the change.
    updated_at: Option<Value>,
    /// A soft delete at the source.
    deleted_at: Option<Value>,
    /// To which tenant a user belongs; left out: there is exactly one.
    tenant: Option<Value>,
    /// Which rows are users: type in ('internal', 'external') and deleted is null
    #[schemars(rename = "where")]
    condition: Option<String>,
    /// The columns that may appear in raw_json; left out: all but those that look like secrets. name? may be missing.
    allow: Option<Vec<String>>,
    /// Columns, and paths into json columns, that never appear in raw_json.
    exclude: Option<Vec<String>>,
    /// One SELECT that gives one row per user (or per user and tenant), over any tables.
    query: Option<String>,
    /// The columns of the query's result by which users are looked up; id is one of them. Default: id.
    key: Option<OneOrMore>,
    /// The other tables whose changes touch users.
    watch: Option<Vec<Watch>>,
    /// One user in several tenants: the table that says in which.
    fan_out: Option<FanOut>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Watch {
    /// schema.name.
    table: String,
    /// Its columns that hold users.key, in the same order.
    key: OneOrMore,
    /// Whose user it is, where the row tells.
    tenant: Option<Value>,
    /// Where the key is another one: the table that leads to users.key.
    via: Option<Via>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Via {
    /// schema.name.
    table: String,
    /// Its columns that hold the watched table's key.
    from: OneOrMore,
    /// Its columns that hold users.key.
    to: OneOrMore,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct FanOut {
    /// schema.name of the table with one row per user and tenant.
    table: String,
    /// Its column that holds the user's id.
    id: String,
    /// Its column that holds the tenant's key.
    tenant: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Tenant {
    /// The name by which people know it.
    id: Scalar,
    /// What the tenant column holds for it, where that is not the id.
    key: Option<Scalar>,
    /// A libpq URL.
    target: String,
    /// As the key at the top, for this tenant.
    wake_after: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct DeletesSection {
    mode: Deletes,
    /// After this time a soft delete is for good: 30d. Only with mode: soft.
    purge_after: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Kafka {
    /// host:port, separated by commas.
    brokers: String,
    /// {tenant} and {table} are put in; without {tenant} all tenants share a topic. Default: users_sync.{tenant}
    topic: Option<String>,
    /// debezium (the default): its envelope. upsert: the seven columns, null where a user is gone.
    format: Option<KafkaFormat>,
    /// Whether keys and values carry the schema that Kafka Connect's JsonConverter wants. Default: false.
    schemas: Option<Scalar>,
    /// Whether a soft delete is followed by a tombstone. Default: false.
    tombstone_on_delete: Option<Scalar>,
    /// Whether messages and position are written in Kafka's transactions. Default: true.
    exactly_once: Option<Scalar>,
    /// Whether the users that are there at the first start are published. Default: true.
    snapshot: Option<Scalar>,
    /// Whether missing topics are created; otherwise they have to be there. Default: true.
    create_topics: Option<Scalar>,
    /// Of a topic that is created. Default: 1.
    partitions: Option<Scalar>,
    /// Of a topic that is created. Default: the broker's.
    replication: Option<Scalar>,
    /// Where positions are kept. Default: users_sync.positions
    positions_topic: Option<String>,
    /// The tee's own replication slot. Default: that of the source, with _kafka behind it.
    slot: Option<String>,
    /// Properties of librdkafka: security.protocol, ssl.ca.location, sasl.mechanism, sasl.username, sasl.password ...
    properties: Option<std::collections::BTreeMap<String, Scalar>>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Admin {
    /// Address and port; elsewhere than on loopback only with a token. Default: 127.0.0.1:9187.
    listen: Option<String>,
    /// What whoever asks sends as `Authorization: Bearer TOKEN`: ${ADMIN_TOKEN}
    token: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum KafkaFormat {
    Debezium,
    Upsert,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Limits {
    /// The WAL that the slot may hold back before a tenant that waits is parked: 1GB.
    source_wal: Option<Scalar>,
    /// Waiting changes of all tenants: 256MB.
    memory: Option<Scalar>,
    /// Waiting changes of one tenant: 16MB.
    tenant_memory: Option<Scalar>,
    /// How long a target may be away: 10m.
    park_after: Option<String>,
    /// How long the others may wait for a slow tenant: 5s.
    stall: Option<String>,
    /// The most that a resync may delete without being asked to: 10%.
    max_deletes: Option<String>,
    /// How long a snapshot is kept open for slow targets: 1h.
    snapshot_age: Option<String>,
    /// The WAL that the tee's slot may hold back before the tee is parked: 1GB.
    kafka_wal: Option<Scalar>,
}

/// Where a value comes from. A name may end in ?: null where the table lacks the column.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Value {
    /// A column, or column.key.key into a json column.
    Column(String),
    /// The first that is not null and not empty.
    First(Vec<Value>),
    /// Those that are not null and not empty, joined.
    Join(Join),
    /// A number or text that is a time.
    Time(Time),
    /// Null in rows in which another column is set.
    Unless(Unless),
    /// The same for every row.
    Constant(Constant),
    /// The schema of the row's table.
    Schema(Schema),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Join {
    join: Vec<Value>,
    /// Default: a space.
    with: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Time {
    column: String,
    unit: Unit,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Unless {
    column: Box<Value>,
    unless: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Constant {
    constant: Scalar,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Schema {
    /// true.
    schema: bool,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Scalar {
    Text(String),
    Number(f64),
    Flag(bool),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum DeletesOrSection {
    Word(Deletes),
    Section(DeletesSection),
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Deletes {
    Soft,
    Hard,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Publish {
    Rows,
    Columns,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum OnSlotLoss {
    Resync,
    Stop,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum LogFormat {
    Text,
    Json,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Unit {
    S,
    Ms,
    Rfc3339,
}

/// One of the presets that are part of the program.
struct PresetName;

impl JsonSchema for PresetName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Preset".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names: Vec<_> = super::presets::PRESETS.iter().map(|preset| preset.name).collect();
        schemars::json_schema!({ "type": "string", "enum": names })
    }
}

#[cfg(test)]
mod tests {
    use super::super::section::{self, Known};
    use super::*;

    fn schema() -> serde_json::Value {
        serde_json::from_str(&json_schema()).unwrap()
    }

    #[test]
    fn the_schema_has_the_keys_that_the_parser_takes() {
        let schema = schema();
        let keys = |name: &str| {
            let of = if name.is_empty() { &schema } else { &schema["$defs"][name] };
            let mut keys: Vec<String> = of["properties"].as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys
        };
        let sections: [(&str, &Known); 10] = [
            ("", &section::TOP),
            ("Source", &section::SOURCE),
            ("State", &section::STATE),
            ("Users", &section::USERS),
            ("Watch", &section::WATCH),
            ("Via", &section::VIA),
            ("FanOut", &section::FAN_OUT),
            ("Tenant", &section::TENANT),
            ("Limits", &section::LIMITS),
            ("Admin", &section::ADMIN),
        ];
        for (name, known) in sections {
            let mut wanted: Vec<String> = known.keys.iter().map(|key| (*key).to_owned()).collect();
            wanted.sort();
            assert_eq!(keys(name), wanted, "{name}");
        }
    }

    #[test]
    fn the_published_schema_is_this_one() {
        let published = include_str!("../../config/users-sync.schema.json");
        assert!(published.trim_end() == json_schema(), "run: cargo run -- schema > config/users-sync.schema.json");
    }
}
