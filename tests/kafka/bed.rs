//! A bed with a tee, and checks of what its topics hold.

use crate::broker::Broker;
use crate::consumer::Message;
use crate::support::{Bed, DEADLINE, pause};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::time::Instant;
use tempfile::NamedTempFile;

/// Tenants acme and globex on one server, with topics of their own on a shared broker.
pub struct TeeBed {
    pub bed: Bed,
    pub file: NamedTempFile,
    pub brokers: String,
    pub name: String,
}

impl TeeBed {
    /// `kafka`: more keys of the `kafka` section. `top`: more top-level lines of the file.
    pub async fn start(broker: &Broker, name: &str, kafka: &str, top: &str) -> TeeBed {
        TeeBed::start_with(&broker.address(), name, kafka, top).await
    }

    pub async fn start_with(brokers: &str, name: &str, kafka: &str, top: &str) -> TeeBed {
        let bed = Bed::start(&["acme", "globex"]).await;
        let file = bed.config_file(&TeeBed::section(brokers, name, kafka, top));
        TeeBed { bed, file, brokers: brokers.to_owned(), name: name.to_owned() }
    }

    pub fn section(brokers: &str, name: &str, kafka: &str, top: &str) -> String {
        let topic = if kafka.contains("topic: ") { String::new() } else { format!("topic: '{name}.{{tenant}}', ") };
        let own = format!("positions_topic: {name}.positions, snapshots_topic: {name}.snapshots");
        format!("kafka: {{brokers: '{brokers}', {topic}{own}, {kafka}}}\n{top}")
    }

    pub fn topic(&self, tenant: &str) -> String {
        format!("{}.{tenant}", self.name)
    }

    pub async fn auth(&self, sql: &str) {
        self.bed.auth(sql).await;
    }

    /// [`TeeBed::users`] without `updated_at`, which may be derived.
    pub async fn expected(&self, tenant: &str) -> BTreeMap<String, Value> {
        let mut users = self.users(tenant).await;
        users.values_mut().for_each(|user| drop(user["updated_at"].take()));
        users
    }

    /// The users of a tenant in the form of format `upsert`, computed by the source itself.
    pub async fn users(&self, tenant: &str) -> BTreeMap<String, Value> {
        let time = |column: &str| {
            let form = r#"'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"#;
            format!("'{column}', to_char({column} AT TIME ZONE 'UTC', {form})")
        };
        let sql = format!(
            "SELECT id, jsonb_build_object('id', id, 'raw_json', to_jsonb(u) - 'encrypted_password' || \
               jsonb_build_object('id', id, 'display_name', n, 'primary_email', nullif(email, ''), \
                 'signed_up_at_millis', floor(extract(epoch FROM created_at) * 1000)::bigint), \
               'name', n, 'email', nullif(email, ''), {}, {}, {})::text \
             FROM auth.users u, LATERAL (SELECT nullif(concat_ws(' ', nullif(first_name, ''), nullif(last_name, '')), '')) \
               AS l(n) WHERE org = '{tenant}'",
            time("created_at"),
            time("deleted_at"),
            time("updated_at")
        );
        // Leave out the lateral column, which the table does not have.
        let sql = sql.replace("to_jsonb(u)", "to_jsonb(u.*)");
        let rows = self.bed.query("auth", &sql).await;
        let user = |row: Vec<Option<String>>| {
            let [id, user] = [0, 1].map(|n| row[n].clone().unwrap());
            (id, serde_json::from_str::<Value>(&user).unwrap())
        };
        rows.into_iter().map(user).collect()
    }

    /// Waits until a topic rebuilds exactly the users of the source. Returns its messages.
    #[track_caller]
    pub fn equal<'a>(&'a self, tenant: &'a str) -> impl Future<Output = Vec<Message>> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let topic = self.topic(tenant);
            let deadline = Instant::now() + DEADLINE;
            loop {
                let expected = self.expected(tenant).await;
                let brokers = self.brokers.clone();
                let name = topic.clone();
                let messages = tokio::task::spawn_blocking(move || crate::consumer::read_with(&brokers, &name, &[]))
                    .await
                    .unwrap();
                let held = rebuild(&messages);
                if held == expected {
                    return messages;
                }
                let shown = |message: &Message| format!("{} {}\n", message.op(), message.key);
                assert!(
                    Instant::now() < deadline,
                    "{caller}: {topic} holds {held:#?}\nthe source has {expected:#?}\n{}",
                    messages.iter().rev().take(30).map(shown).collect::<String>()
                );
                pause().await;
            }
        }
    }

    /// Waits until the tee is in this state.
    #[track_caller]
    pub fn tee_is<'a>(&'a self, state: &'a str) -> impl Future<Output = ()> + 'a {
        self.bed.becomes("auth", TEE_STATE, state)
    }

    /// The state of the tee; empty if it has none.
    pub async fn tee_state(&self) -> String {
        self.bed.query("auth", TEE_STATE).await[0][0].clone().unwrap_or_default()
    }
}

/// The state of the tee; empty while the table does not exist.
const TEE_STATE: &str = "SELECT CASE WHEN to_regclass('users_sync.tee') IS NULL THEN '' ELSE (xpath('//state/text()',
    query_to_xml('SELECT state FROM users_sync.tee', true, false, '')))[1]::text END";

/// The users that are live after these messages, in the form of format `upsert`.
pub fn rebuild(messages: &[Message]) -> BTreeMap<String, Value> {
    let mut users = BTreeMap::new();
    for message in messages {
        match message.value.as_ref().and_then(row) {
            Some(user) if user["deleted_at"].is_null() => drop(users.insert(message.id().to_owned(), user)),
            Some(_) | None => drop(users.remove(message.id())),
        }
    }
    users
}

/// The row after the change. `updated_at` is left out: it may be derived, and other tests check it.
fn row(value: &Value) -> Option<Value> {
    let value = value.get("payload").unwrap_or(value);
    let mut row = match value.get("op") {
        Some(_) => value["after"].clone(),
        None => value.clone(),
    };
    if row.is_null() {
        return None;
    }
    if let Value::String(text) = &row["raw_json"] {
        row["raw_json"] = serde_json::from_str(text).unwrap();
    }
    row["updated_at"] = json!(null);
    Some(row)
}

/// Asserts that every message was published once.
pub fn once(messages: &[Message]) {
    let mut seen = HashSet::new();
    for message in messages {
        assert!(seen.insert(&message.headers["ce_id"]), "twice: {message:#?}");
    }
}

pub fn of<'a>(messages: &'a [Message], id: &str) -> Vec<&'a Message> {
    messages.iter().filter(|message| message.id() == id).collect()
}

pub fn ops(messages: &[&Message]) -> String {
    messages.iter().map(|message| message.op()).collect()
}
