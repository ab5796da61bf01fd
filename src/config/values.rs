//! The values of `users`: a column, a list, `{join: [...]}`, `{column: ..., unit: ...}`. Pure.

use super::error::Fault;
use super::interpolate::Env;
use super::raw::{Key, Kind, Node};
use super::section::text;
use crate::map::{TimeUnit, Value};

const FORMS: &str = "a value is a column (column? where the table may lack it), a list of values (the first that is not \
                     empty), {join: [a, b], with: \" \"}, {column: a, unit: ms} for a time, {column: a, unless: b}, \
                     {constant: x} or {schema: true}";

/// Reads one value; `path` names its key.
pub(super) fn parse_value(node: &Node, path: &str, from: &Env<'_>) -> Result<Value, Fault> {
    match &node.kind {
        Kind::Scalar(_) => column(node, path, from).map(|name| optional(name, Value::Column)),
        Kind::List(items) => list(items, node, path, from).map(Value::First),
        Kind::Section(entries) => {
            let named = |name: &str| entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node);
            let (kind, allowed): (_, &[&str]) = if let Some(join) = named("join") {
                (Form::Join(join), &["join", "with"])
            } else if let (Some(name), Some(set)) = (named("column"), named("unless")) {
                (Form::Unless(name, set), &["column", "unless"])
            } else if let Some(name) = named("column") {
                (Form::Time(name), &["column", "unit"])
            } else if let Some(value) = named("constant") {
                (Form::Constant(value), &["constant"])
            } else if let Some(value) = named("schema") {
                (Form::Schema(value), &["schema"])
            } else {
                return Err(Fault::new(&node.span, format!("{path} is no value")).help(FORMS));
            };
            if let Some((Key { name, span }, _)) = entries.iter().find(|(key, _)| !allowed.contains(&&*key.name)) {
                let help = format!("known here: {}", allowed.join(", "));
                return Err(Fault::new(span, format!("unknown key {path}.{name}")).help(help));
            }
            match kind {
                Form::Join(parts) => {
                    let Kind::List(items) = &parts.kind else {
                        return Err(Fault::new(&parts.span, format!("{path}.join has to be a list")).help(FORMS));
                    };
                    let with = match named("with") {
                        Some(with) => text(with, &format!("{path}.with"), from)?,
                        None => " ".to_owned(),
                    };
                    Ok(Value::Join { parts: list(items, parts, path, from)?, with })
                }
                Form::Time(name) => {
                    let unit = named("unit").ok_or_else(|| {
                        Fault::new(&node.span, format!("{path}: a unit is missing")).help("unit is s, ms or rfc3339")
                    })?;
                    let unit = time_unit(unit, path, from)?;
                    Ok(optional(column(name, path, from)?, |column| Value::Time { column, unit }))
                }
                Form::Unless(name, set) => {
                    let value = Box::new(parse_value(name, path, from)?);
                    let set = column(set, path, from)?;
                    Ok(optional(set, |set| Value::Unless { value, set }))
                }
                Form::Constant(value) => text(value, path, from).map(Value::Constant),
                Form::Schema(value) => match &*text(value, path, from)? {
                    "true" => Ok(Value::Schema),
                    _ => Err(Fault::new(&value.span, format!("{path}.schema can only be true")).help(FORMS)),
                },
            }
        }
        Kind::Null => Err(Fault::new(&node.span, format!("{path} is empty")).help(FORMS)),
    }
}

enum Form<'a> {
    Join(&'a Node),
    Time(&'a Node),
    Unless(&'a Node, &'a Node),
    Constant(&'a Node),
    Schema(&'a Node),
}

/// `name?`: null where the table has no such column.
fn optional(name: String, value: impl FnOnce(String) -> Value) -> Value {
    match name.strip_suffix('?') {
        Some(name) => Value::Optional(Box::new(value(name.to_owned()))),
        None => value(name),
    }
}

fn column(node: &Node, path: &str, from: &Env<'_>) -> Result<String, Fault> {
    match text(node, path, from)? {
        column if column.is_empty() => Err(Fault::new(&node.span, format!("{path} is empty")).help(FORMS)),
        column => Ok(column),
    }
}

fn list(items: &[Node], node: &Node, path: &str, from: &Env<'_>) -> Result<Vec<Value>, Fault> {
    if items.is_empty() {
        return Err(Fault::new(&node.span, format!("{path} is an empty list")).help(FORMS));
    }
    items.iter().map(|item| parse_value(item, path, from)).collect()
}

fn time_unit(node: &Node, path: &str, from: &Env<'_>) -> Result<TimeUnit, Fault> {
    match &*text(node, path, from)? {
        "s" => Ok(TimeUnit::Seconds),
        "ms" => Ok(TimeUnit::Millis),
        "rfc3339" => Ok(TimeUnit::Rfc3339),
        _ => Err(Fault::new(&node.span, format!("{path}: no such unit")).help("unit is s, ms or rfc3339")),
    }
}
