//! The types of keys: which text they accept, and their JSON Schema. Pure.

use super::error::Fault;
use super::section::{AllowedValue, KeyType, Nested, Reader};
use super::units::{parse_duration, parse_percent, parse_size};
use super::yaml::{Kind, Node};
use crate::model::{TableName, TenantId, TenantKey};
use crate::pg::{PasswordCommand, PgUrl, Secret};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, IntoDeserializer, value};
use std::borrow::Cow;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::Duration;

/// The longest name of a PostgreSQL object, in bytes (NAMEDATALEN - 1).
const MAX_NAME_LEN: usize = 63;

/// A key type whose values are single texts.
pub(super) trait TextType {
    type Value;
    type Schema: JsonSchema;
    /// Completes "expected ...".
    const EXPECTED: &'static str;
    fn parse(text: &str) -> Option<Self::Value>;
}

impl<T: TextType> KeyType for T {
    type Value = T::Value;
    type Schema = T::Schema;

    fn expected() -> String {
        T::EXPECTED.to_owned()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<T::Value> {
        let value = T::parse(&reader.text(node, path)?);
        if value.is_none() {
            reader.invalid(node, path, T::EXPECTED);
        }
        value
    }
}

/// Declares a [`TextType`]: `Name(schema) -> Value: "expected", parse;`.
macro_rules! text_types {
    ($($(#[$meta:meta])* $name:ident($schema:ty) -> $value:ty: $expected:literal, $parse:expr;)*) => {$(
        $(#[$meta])*
        pub(super) struct $name;

        impl TextType for $name {
            type Value = $value;
            type Schema = $schema;
            const EXPECTED: &'static str = $expected;

            fn parse(text: &str) -> Option<$value> {
                let parse: fn(&str) -> Option<$value> = $parse;
                parse(text)
            }
        }
    )*};
}

text_types! {
    Size(AnyScalar) -> u64: "a size such as 16MB or 1GB, or a number of bytes",
        |text| parse_size(text).filter(|size| *size > 0);
    /// A [`Size`] of memory.
    MemorySize(AnyScalar) -> usize: "a size such as 16MB or 1GB, or a number of bytes",
        |text| Size::parse(text)?.try_into().ok();
    DurationText(String) -> Duration: "a duration such as 500ms, 5s, 10m, 2h or 30d", parse_duration;
    Percent(String) -> f64: "a percentage from 0% to 100%, such as 10%", parse_percent;
    /// A boolean that may also be a variable.
    Switch(AnyScalar) -> bool: "true or false", |text| text.parse().ok();
    Count(AnyScalar) -> i32: "a number from 1", |text| text.parse().ok().filter(|count| *count > 0);
    /// A text that YAML may read as a number or a boolean.
    Scalar(AnyScalar) -> String: "a text", |text| Some(text.to_owned());
    TenantName(AnyScalar) -> TenantId: "a text that is not empty and has no control character such as a line break",
        |text| (!text.is_empty() && is_printable(text)).then(|| TenantId::new(text));
    /// A name that other programs show.
    Label(AnyScalar) -> String: "a text that is not empty and has no control character such as a line break",
        |text| (!text.is_empty() && is_printable(text)).then(|| text.to_owned());
    TenantKeyText(AnyScalar) -> TenantKey: "a text without a control character such as a line break",
        |text| is_printable(text).then(|| TenantKey::new(text));
    SlotName(String) -> String: "lower-case letters, digits and underscores, at most 63",
        |text| is_slot(text).then(|| text.to_owned());
    Name(String) -> String: "a name of at most 63 bytes", |text| is_name(text).then(|| text.to_owned());
    Table(String) -> TableName: "a table as schema.name such as public.users, without quotes", parse_table;
    Address(String) -> SocketAddr: "an address and a port such as 127.0.0.1:9187 or [::1]:9187",
        |text| text.parse().ok();
    SecretText(String) -> Secret: "a text", |text| Some(Secret(text.to_owned()));
}

impl TextType for String {
    type Value = String;
    type Schema = String;
    const EXPECTED: &'static str = "a text";

    fn parse(text: &str) -> Option<String> {
        Some(text.to_owned())
    }
}

impl TextType for bool {
    type Value = bool;
    type Schema = bool;
    const EXPECTED: &'static str = "true or false";

    fn parse(text: &str) -> Option<bool> {
        text.parse().ok()
    }
}

/// The schema of a text that YAML may read as a number or a boolean.
pub(super) struct AnyScalar;

impl JsonSchema for AnyScalar {
    fn schema_name() -> Cow<'static, str> {
        "Scalar".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "number" }, { "type": "boolean" }] })
    }
}

/// An enum, whose values have serde's names. Every variant needs a doc comment.
pub(super) struct Choice<E>(PhantomData<E>);

impl<E: DeserializeOwned + JsonSchema> KeyType for Choice<E> {
    type Value = E;
    type Schema = E;

    fn expected() -> String {
        let values: Vec<String> = Self::allowed_values().into_iter().map(|allowed| allowed.value).collect();
        match values.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => values.concat(),
        }
    }

    /// The schema lists documented values as `oneOf`.
    fn allowed_values() -> Vec<AllowedValue> {
        let schema = E::json_schema(&mut SchemaGenerator::default()).to_value();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let words = schema["oneOf"].as_array().into_iter().flatten();
        words.map(|word| AllowedValue { value: text(&word["const"]), doc: text(&word["description"]) }).collect()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<E> {
        let text = reader.text(node, path)?;
        let word: value::StrDeserializer<'_, value::Error> = text.as_str().into_deserializer();
        let choice = E::deserialize(word).ok();
        if choice.is_none() {
            reader.invalid(node, path, &Self::expected());
        }
        choice
    }
}

impl<K: KeyType> KeyType for Option<K> {
    type Value = Option<K::Value>;
    type Schema = Option<K::Schema>;
    const IS_OPTIONAL: bool = true;

    fn expected() -> String {
        K::expected()
    }

    fn absent() -> Option<Option<K::Value>> {
        Some(None)
    }

    fn nested() -> Option<Nested> {
        K::nested()
    }

    fn allowed_values() -> Vec<AllowedValue> {
        K::allowed_values()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Option<K::Value>> {
        K::read(node, path, reader).map(Some)
    }
}

/// A list. Every item is read, so that one report has the faults of all.
impl<K: KeyType> KeyType for Vec<K> {
    type Value = Vec<K::Value>;
    type Schema = Vec<K::Schema>;

    fn expected() -> String {
        format!("a list, each item {}", K::expected())
    }

    fn nested() -> Option<Nested> {
        K::nested().map(|nested| Nested { is_list: true, ..nested })
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Vec<K::Value>> {
        let Kind::List(items) = &node.kind else {
            let name = path.rsplit('.').next().unwrap_or(path);
            let fault = Fault::new(&node.span, format!("{path} must be a list"));
            reader.push(fault.help(format!("write it as {name}: [a, b]")));
            return None;
        };
        let read: Vec<_> = items.iter().map(|item| K::read(item, path, reader)).collect();
        read.into_iter().collect()
    }
}

/// One text, or a list of them.
pub(super) struct OneOrMore;

impl JsonSchema for OneOrMore {
    fn schema_name() -> Cow<'static, str> {
        "OneOrMore".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
    }
}

impl KeyType for OneOrMore {
    type Value = Vec<String>;
    type Schema = OneOrMore;

    fn expected() -> String {
        "a text, or a list of texts".to_owned()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Vec<String>> {
        match &node.kind {
            Kind::Scalar(_) => Some(vec![reader.text(node, path)?]),
            _ => Vec::<String>::read(node, path, reader),
        }
    }
}

/// A key whose default depends on other keys. It is empty until they are resolved.
pub(super) struct Derived<K>(PhantomData<K>);

impl<K: KeyType<Value: Default>> KeyType for Derived<K> {
    type Value = K::Value;
    type Schema = Option<K::Schema>;
    const IS_OPTIONAL: bool = true;

    fn expected() -> String {
        K::expected()
    }

    fn absent() -> Option<K::Value> {
        Some(K::Value::default())
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<K::Value> {
        K::read(node, path, reader)
    }
}

/// A key that may be left out beside a preset that has it. It is optional in the schema and required once both are merged.
pub(super) struct Merged<K>(PhantomData<K>);

impl<K: KeyType> KeyType for Merged<K> {
    type Value = K::Value;
    type Schema = Option<K::Schema>;
    const IS_OPTIONAL: bool = true;

    fn expected() -> String {
        K::expected()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<K::Value> {
        K::read(node, path, reader)
    }
}

/// A program and its arguments.
pub(super) struct CommandWords;

impl KeyType for CommandWords {
    type Value = PasswordCommand;
    type Schema = Vec<String>;

    fn expected() -> String {
        "a list of the program and its arguments".to_owned()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<PasswordCommand> {
        let words = match &node.kind {
            Kind::List(_) => Vec::<String>::read(node, path, reader)?,
            _ => Vec::new(),
        };
        let command = PasswordCommand::new(words);
        if command.is_none() {
            let fault = Fault::new(&node.span, format!("{path} must be {}", CommandWords::expected()));
            reader.push(fault.help(
                "[aws, rds, generate-db-auth-token, --hostname, '{host}', --port, '{port}', --username, '{user}']",
            ));
        }
        command
    }
}

/// A PostgreSQL connection URL. It is never shown, since it may hold a password.
pub(super) struct Url;

impl KeyType for Url {
    type Value = PgUrl;
    type Schema = String;

    fn expected() -> String {
        "a connection URL such as postgres://user:password@host:5432/database?sslmode=verify-full".to_owned()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<PgUrl> {
        let text = reader.text(node, path)?;
        let message = if text.trim().is_empty() {
            format!("{path} is empty")
        } else {
            match PgUrl::parse(&text) {
                Ok(url) => return Some(url),
                Err(error) => format!("{path} is not a usable URL: {error}"),
            }
        };
        reader.push(Fault::new(&node.span, message).help(format!("expected {}", Url::expected())));
        None
    }
}

/// Tenants are named in comments of SQL, in log lines and on terminals.
fn is_printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

fn parse_table(text: &str) -> Option<TableName> {
    let (schema, name) = text.split_once('.')?;
    let is_valid = is_name(schema) && is_name(name);
    is_valid.then(|| TableName { schema: schema.to_owned(), name: name.to_owned() })
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_LEN).contains(&name.len()) && !name.contains('\0')
}

/// Whether PostgreSQL accepts it as a replication slot's name.
fn is_slot(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    is_name(name) && name.bytes().all(allowed)
}
