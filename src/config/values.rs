//! The values of `users`: a column, a list, `{join: [...]}`, `{column: ..., unit: ...}`. Pure.

use super::error::Fault;
use super::key_types::{Choice, Scalar, TextType};
use super::section::{KeyType, Reader, section};
use super::yaml::{Kind, Node};
use crate::map::{TimeUnit, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

const FORMS: &str = "a value is a column (column? if the table may lack it), a list of values (the first that is not \
                     empty), {join: [a, b], with: \" \"}, {column: a, unit: ms} for a time, {column: a, unless: b}, \
                     {constant: x} or {schema: true}";

section! {
    /// Those that are not null and not empty, joined.
    struct Join {
        /// The parts, in order.
        join: Vec<Value> as Parts,
        /// The text between the parts.
        with: String = "' '",
    }
}

section! {
    /// A number or text that is a time. 0 and '' are null.
    struct Time {
        /// Column, or path into a JSON column.
        column: String as Column,
        /// Unit of a number, or `rfc3339` for a text.
        unit: TimeUnit as Choice<TimeUnit>,
    }
}

section! {
    /// Null in rows in which another column is not null.
    struct Unless {
        /// The value otherwise.
        column: Value,
        /// The other column, or path into a JSON column.
        unless: String as Column,
    }
}

section! {
    /// The same value for every row.
    struct Constant {
        /// The value.
        constant: String as Scalar,
    }
}

section! {
    /// The schema of the row's table, for stores that give each tenant a schema.
    struct SchemaName {
        /// Always `true`.
        schema: bool,
    }
}

/// A column, or a path into a JSON column.
struct Column;

impl TextType for Column {
    type Value = String;
    type Schema = String;
    const EXPECTED: &'static str = "a column, or a path into a JSON column such as profile.name";

    fn parse(text: &str) -> Option<String> {
        (!text.is_empty()).then(|| text.to_owned())
    }
}

/// The values of a list, of which there is at least one.
struct Parts;

impl KeyType for Parts {
    type Value = Vec<Value>;
    type Schema = Vec<Value>;

    fn expected() -> String {
        "a list of values".to_owned()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Vec<Value>> {
        if matches!(&node.kind, Kind::List(items) if items.is_empty()) {
            reader.push(Fault::new(&node.span, format!("{path} is an empty list")).help(FORMS));
            return None;
        }
        Vec::<Value>::read(node, path, reader)
    }
}

impl JsonSchema for Value {
    fn schema_name() -> Cow<'static, str> {
        "Value".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let forms = [
            json_schema!({ "description": "A column, or column.key.key into a JSON column.", "type": "string" }),
            json_schema!({
                "description": "The first that is not null and not empty.",
                "type": "array",
                "items": generator.subschema_for::<Value>(),
            }),
            generator.subschema_for::<Join>(),
            generator.subschema_for::<Time>(),
            generator.subschema_for::<Unless>(),
            generator.subschema_for::<Constant>(),
            generator.subschema_for::<SchemaName>(),
        ];
        json_schema!({
            "description": "Source of a value. A column's name may end in ?: null if the table lacks the column.",
            "anyOf": forms,
        })
    }
}

impl KeyType for Value {
    type Value = Value;
    type Schema = Value;

    fn expected() -> String {
        "a [value](#users)".to_owned()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Value> {
        match &node.kind {
            Kind::Scalar(_) => Some(optional(Column::read(node, path, reader)?, Value::Column)),
            Kind::List(_) => Some(Value::First(Parts::read(node, path, reader)?)),
            Kind::Section(_) => read_form(node, path, reader),
            Kind::Null => {
                reader.push(Fault::new(&node.span, format!("{path} is empty")).help(FORMS));
                None
            }
        }
    }
}

/// Reads the form that the keys of a section name.
fn read_form(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Value> {
    let has = |name: &str| node.get(name).is_some();
    if has("join") {
        let Join { join, with } = Join::read(node, path, reader)?;
        Some(Value::Join { parts: join, with })
    } else if has("column") && has("unless") {
        let Unless { column, unless } = Unless::read(node, path, reader)?;
        let value = Box::new(column);
        Some(optional(unless, |set| Value::Unless { value, set }))
    } else if has("column") {
        let Time { column, unit } = Time::read(node, path, reader)?;
        Some(optional(column, |column| Value::Time { column, unit }))
    } else if has("constant") {
        Some(Value::Constant(Constant::read(node, path, reader)?.constant))
    } else if has("schema") {
        if !SchemaName::read(node, path, reader)?.schema {
            reader.push(Fault::new(node.span_of("schema"), format!("{path}.schema can only be true")).help(FORMS));
        }
        Some(Value::Schema)
    } else {
        reader.push(Fault::new(&node.span, format!("{path} is not a value")).help(FORMS));
        None
    }
}

/// `name?`: null if the table has no such column.
fn optional(name: String, value: impl FnOnce(String) -> Value) -> Value {
    match name.strip_suffix('?') {
        Some(name) => Value::Optional(Box::new(value(name.to_owned()))),
        None => value(name),
    }
}
