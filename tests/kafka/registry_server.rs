//! A real schema registry: Apicurio Registry from Maven Central, with Confluent's API.

use crate::broker::{BRIEF, WATCHDOG, fetched, free_port, until};
use crate::consumer::{Message, Raw};
use crate::support::http::{Answer, ask};
use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use serde_json::{Value, json};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use tempfile::TempDir;

/// The last one that runs on Java 17.
const VERSION: &str = "3.0.9";
const API: &str = "/apis/ccompat/v7";

/// A registry and its address.
pub struct Registry {
    at: SocketAddr,
    directory: PathBuf,
    child: Mutex<Option<Child>>,
    /// The watching shell; it ends with this process.
    _watchdog: Child,
}

impl Registry {
    /// A registry that does not run yet.
    pub fn reserve() -> Registry {
        let directory = TempDir::with_prefix("users-sync-registry-").unwrap().keep();
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG, "sh"]).arg(directory.join("pid")).arg(&directory).stdin(Stdio::piped());
        Registry {
            at: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())),
            directory,
            child: Mutex::new(None),
            _watchdog: watchdog.stderr(Stdio::null()).spawn().unwrap(),
        }
    }

    pub async fn start() -> Registry {
        let registry = Registry::reserve();
        registry.run().await;
        registry
    }

    /// Starts it, and waits until it answers.
    pub async fn run(&self) {
        let program = program();
        let log = std::fs::File::create(self.directory.join("log")).unwrap();
        let mut command = Command::new("java");
        command.current_dir(&self.directory).args(BRIEF).args(["-Xmx384m", "-Dquarkus.http.host=127.0.0.1"]);
        command.arg(format!("-Dquarkus.http.port={}", self.at.port()));
        // In a file, so that ids outlast a restart.
        command.arg(format!("-Dapicurio.datasource.url=jdbc:h2:file:{}", self.directory.join("db").display()));
        command.args(["-cp", &format!("{0}/*:{0}/lib/*", program.display()), "io.quarkus.runner.GeneratedMain"]);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        std::fs::write(self.directory.join("pid"), child.id().to_string()).unwrap();
        *self.child.lock().unwrap() = Some(child);
        until("the registry answers", async || {
            let ended = self.child.lock().unwrap().as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "the registry ends:\n{}", self.log());
            tokio::net::TcpStream::connect(self.at).await.is_ok()
                && self.ask("GET", "/subjects", "").await.status == 200
        })
        .await;
    }

    /// kill -9.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// The keys of the section `kafka` for this encoding.
    pub fn section(&self, encoding: &str, more: &str) -> String {
        format!("encoding: {encoding}, registry: {{url: 'http://{}{API}'{more}}}", self.at)
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let headers = [("Content-Type", "application/vnd.schemaregistry.v1+json")];
        ask(self.at, method, &format!("{API}{path}"), &headers, body).await
    }

    pub async fn subjects(&self) -> BTreeSet<String> {
        let subjects = self.ask("GET", "/subjects", "").await.json();
        subjects.as_array().unwrap().iter().map(|subject| subject.as_str().unwrap().to_owned()).collect()
    }

    /// The id of a subject's last version.
    pub async fn id(&self, subject: &str) -> u32 {
        let version = self.ask("GET", &format!("/subjects/{subject}/versions/latest"), "").await.json();
        version["id"].as_u64().unwrap().try_into().unwrap()
    }

    /// Registers a schema, as another program does.
    pub async fn register(&self, subject: &str, kind: &str, schema: &str) {
        let body = json!({"schemaType": kind, "schema": schema}).to_string();
        let answer = self.ask("POST", &format!("/subjects/{subject}/versions"), &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    pub async fn set_compatibility(&self, subject: &str, level: &str) {
        let body = json!({"compatibility": level}).to_string();
        let answer = self.ask("PUT", &format!("/config/{subject}"), &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Decodes messages with the schemas that their ids name.
    pub async fn decode(&self, raw: Vec<Raw>) -> Vec<Message> {
        let mut schemas = HashMap::new();
        let mut messages = Vec::new();
        for raw in raw {
            let key = self.value(&raw.key, &mut schemas).await;
            let value = match &raw.value {
                Some(value) => Some(self.value(value, &mut schemas).await),
                None => None,
            };
            messages.push(raw.decoded(key, value));
        }
        messages
    }

    async fn value(&self, data: &[u8], schemas: &mut HashMap<u32, Decoder>) -> Value {
        let id = schema_id(data);
        if let Entry::Vacant(entry) = schemas.entry(id) {
            let found = self.ask("GET", &format!("/schemas/ids/{id}"), "").await.json();
            let schema = found["schema"].as_str().unwrap();
            // Avro is the default, and has no type.
            entry.insert(match found["schemaType"].as_str() {
                Some("PROTOBUF") => Decoder::Protobuf(messages(schema)),
                Some("JSON") => {
                    let schema: Value = serde_json::from_str(schema).unwrap();
                    Decoder::Json(Box::new(jsonschema::validator_for(&schema).unwrap()))
                }
                _ => Decoder::Avro(Box::new(Schema::parse_str(schema).unwrap())),
            });
        }
        let mut data = &data[5..];
        match &schemas[&id] {
            Decoder::Avro(schema) => {
                let value = GenericDatumReader::builder(schema).build().unwrap().read_value(&mut data).unwrap();
                assert!(data.is_empty(), "{} bytes follow {value:?}", data.len());
                value.try_into().unwrap()
            }
            Decoder::Protobuf(messages) => {
                let (place, data) = data.split_first().unwrap();
                assert_eq!(*place, 0, "the first message of the schema");
                message(data, &messages[0].1, messages)
            }
            Decoder::Json(validator) => {
                let value: Value = serde_json::from_slice(data).unwrap();
                assert!(validator.is_valid(&value), "{value} does not satisfy its schema");
                value
            }
        }
    }
}

/// What a schema of the registry reads.
enum Decoder {
    Avro(Box<Schema>),
    Json(Box<jsonschema::Validator>),
    Protobuf(Vec<(String, Vec<Field>)>),
}

/// A field of a message in Protocol Buffers.
struct Field {
    number: u64,
    name: String,
    kind: String,
    is_optional: bool,
}

/// The messages of a `.proto` file with their fields.
fn messages(schema: &str) -> Vec<(String, Vec<Field>)> {
    let mut messages: Vec<(String, Vec<Field>)> = Vec::new();
    for line in schema.lines().map(str::trim) {
        let words: Vec<&str> = line.trim_end_matches(';').split_whitespace().collect();
        let (is_optional, words) = match &words[..] {
            ["optional", rest @ ..] => (true, rest),
            words => (false, words),
        };
        match words {
            ["message", name, "{"] => messages.push(((*name).to_owned(), Vec::new())),
            [kind, name, "=", number] if !messages.is_empty() => {
                let (kind, name) = ((*kind).to_owned(), (*name).to_owned());
                messages.last_mut().unwrap().1.push(Field { number: number.parse().unwrap(), name, kind, is_optional });
            }
            _ => {}
        }
    }
    messages
}

/// Decodes a message as the Protocol Buffers' manual says ("Encoding"). A time becomes microseconds since the Unix epoch.
fn message(mut data: &[u8], fields: &[Field], messages: &[(String, Vec<Field>)]) -> Value {
    let default = |field: &Field| match &*field.kind {
        _ if field.is_optional => Value::Null,
        "string" => json!(""),
        "int64" => json!(0),
        _ => Value::Null,
    };
    let mut object: serde_json::Map<String, Value> =
        fields.iter().map(|field| (field.name.clone(), default(field))).collect();
    while !data.is_empty() {
        let tag = varint(&mut data);
        let field = fields.iter().find(|field| field.number == tag >> 3).unwrap();
        let value = match tag & 7 {
            0 => json!(varint(&mut data).cast_signed()),
            2 => {
                let length = usize::try_from(varint(&mut data)).unwrap();
                let (inner, rest) = data.split_at(length);
                data = rest;
                match &*field.kind {
                    "string" => json!(std::str::from_utf8(inner).unwrap()),
                    "google.protobuf.Timestamp" => json!(time(inner)),
                    kind => {
                        let (_, fields) = messages.iter().find(|(name, _)| kind.ends_with(name.as_str())).unwrap();
                        message(inner, fields, messages)
                    }
                }
            }
            other => panic!("wire type {other} of {}", field.name),
        };
        object.insert(field.name.clone(), value);
    }
    Value::Object(object)
}

fn time(mut data: &[u8]) -> i64 {
    let (mut seconds, mut nanos) = (0, 0);
    while !data.is_empty() {
        match varint(&mut data) {
            0x08 => seconds = varint(&mut data).cast_signed(),
            0x10 => nanos = varint(&mut data).cast_signed(),
            other => panic!("tag {other} of a time"),
        }
    }
    seconds * 1_000_000 + nanos / 1_000
}

fn varint(data: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (byte, rest) = data.split_first().unwrap();
        *data = rest;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return value;
        }
    }
}

/// The id in front of a key or a value.
pub fn schema_id(data: &[u8]) -> u32 {
    assert_eq!(data[0], 0, "{data:?}");
    u32::from_be_bytes(data[1..5].try_into().unwrap())
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the log of the registry:\n{}", self.log());
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The directory of the unpacked program.
fn program() -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let archives = fetched("apicurio", VERSION, "copy");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("apicurio-{VERSION}-unpacked"));
    if !directory.is_dir() {
        // A directory that is not complete must not appear under the final name.
        let half = directory.with_extension(std::process::id().to_string());
        std::fs::create_dir_all(&half).unwrap();
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(archives.join(format!("apicurio-registry-app-{VERSION}-all.tar.gz"))).arg("-C").arg(&half);
        assert!(tar.status().unwrap().success());
        std::fs::rename(&half, &directory).unwrap();
    }
    directory
}
