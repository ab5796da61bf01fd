//! The text that a mapping's fingerprint is taken of, written by hand. Pure.
//!
//! State, checkpoints and Kafka positions store the fingerprint, and a different one costs every tenant a resync. The
//! names in the text are those of the first release: they stay when the code's own names change. A new field is
//! written only where the configuration sets it.

use super::rules::{Filter, Query, Rules, TimeUnit, Value, Via, Watch};
use crate::model::{Oid, TableName, hex};
use ring::digest;

/// Changes whenever an unchanged row would be mapped to something else. `table` is the table's oid, because another
/// table may have got the same name; `exposed` lists the columns that leave, with their types' oids.
pub(crate) fn fingerprint<'a>(
    rules: &Rules,
    table: Oid,
    exposed: impl IntoIterator<Item = (&'a str, Option<Oid>)>,
) -> String {
    let digest = digest::digest(&digest::SHA256, text(rules, table, exposed).as_bytes());
    hex(&digest.as_ref()[..16])
}

fn text<'a>(rules: &Rules, table: Oid, exposed: impl IntoIterator<Item = (&'a str, Option<Oid>)>) -> String {
    let mut out = String::new();
    rules.write(&mut out);
    out.push(' ');
    table.write(&mut out);
    for (name, kind) in exposed {
        out.push('\n');
        name.write(&mut out);
        out.push(' ');
        kind.write(&mut out);
    }
    out
}

/// Appends a value in its canonical form.
trait Canonical {
    fn write(&self, out: &mut String);
}

fn write_struct(out: &mut String, name: &str, fields: &[(&str, &dyn Canonical)]) {
    out.push_str(name);
    for (i, (field, value)) in fields.iter().enumerate() {
        out.push_str(if i == 0 { " { " } else { ", " });
        out.push_str(field);
        out.push_str(": ");
        value.write(out);
    }
    out.push_str(" }");
}

fn write_variant(out: &mut String, name: &str, values: &[&dyn Canonical]) {
    out.push_str(name);
    for (i, value) in values.iter().enumerate() {
        out.push_str(if i == 0 { "(" } else { ", " });
        value.write(out);
    }
    out.push(')');
}

impl Canonical for Rules {
    fn write(&self, out: &mut String) {
        // Each tenant's redaction is part of the tenant's own fingerprint.
        let Rules {
            table,
            id,
            name,
            email,
            created_at,
            updated_at,
            deleted_at,
            tenant,
            filter,
            allow,
            exclude,
            query,
            redactions: _,
        } = self;
        let fields: [(&str, &dyn Canonical); 12] = [
            ("table", table),
            ("id", id),
            ("name", name),
            ("email", email),
            ("created_at", created_at),
            ("updated_at", updated_at),
            ("deleted_at", deleted_at),
            ("tenant", tenant),
            ("filter", filter),
            ("allow", allow),
            ("exclude", exclude),
            ("query", query),
        ];
        write_struct(out, "Rules", &fields);
    }
}

impl Canonical for Value {
    fn write(&self, out: &mut String) {
        match self {
            Value::Column(name) => write_variant(out, "Column", &[name]),
            Value::First(parts) => write_variant(out, "First", &[parts]),
            Value::Join { parts, with } => write_struct(out, "Join", &[("parts", parts), ("with", with)]),
            Value::Time { column, unit } => write_struct(out, "Time", &[("column", column), ("unit", unit)]),
            Value::Optional(value) => write_variant(out, "Optional", &[&**value]),
            Value::Unless { value, set } => write_struct(out, "Unless", &[("value", &**value), ("set", set)]),
            Value::Constant(text) => write_variant(out, "Constant", &[text]),
            Value::Schema => out.push_str("Schema"),
        }
    }
}

impl Canonical for TimeUnit {
    fn write(&self, out: &mut String) {
        out.push_str(match self {
            TimeUnit::Seconds => "Seconds",
            TimeUnit::Millis => "Millis",
            TimeUnit::Rfc3339 => "Rfc3339",
        });
    }
}

impl Canonical for Filter {
    fn write(&self, out: &mut String) {
        match self {
            Filter::In(name, values) => write_variant(out, "In", &[name, values]),
            Filter::IsNull(name) => write_variant(out, "IsNull", &[name]),
            Filter::And(parts) => write_variant(out, "And", &[parts]),
            Filter::Or(parts) => write_variant(out, "Or", &[parts]),
            Filter::Not(part) => write_variant(out, "Not", &[&**part]),
        }
    }
}

impl Canonical for Query {
    fn write(&self, out: &mut String) {
        // Rows that repeat others change no user.
        let Query { sql, key, watch, distinct: _ } = self;
        write_struct(out, "Query", &[("sql", sql), ("key", key), ("watch", watch)]);
    }
}

impl Canonical for Watch {
    fn write(&self, out: &mut String) {
        let Watch { table, key, tenant, is_users_own, via } = self;
        let fields: [(&str, &dyn Canonical); 5] =
            [("table", table), ("key", key), ("tenant", tenant), ("is_users_own", is_users_own), ("via", via)];
        write_struct(out, "Watch", &fields);
    }
}

impl Canonical for Via {
    fn write(&self, out: &mut String) {
        let Via { table, from, to } = self;
        write_struct(out, "Via", &[("table", table), ("from", from), ("to", to)]);
    }
}

impl Canonical for TableName {
    fn write(&self, out: &mut String) {
        out.push_str(&self.schema);
        out.push('.');
        out.push_str(&self.name);
    }
}

impl<T: Canonical> Canonical for Option<T> {
    fn write(&self, out: &mut String) {
        match self {
            Some(value) => write_variant(out, "Some", &[value]),
            None => out.push_str("None"),
        }
    }
}

impl<T: Canonical> Canonical for Vec<T> {
    fn write(&self, out: &mut String) {
        out.push('[');
        for (i, item) in self.iter().enumerate() {
            if i > 0 {
                out.push_str(", ");
            }
            item.write(out);
        }
        out.push(']');
    }
}

impl Canonical for bool {
    fn write(&self, out: &mut String) {
        out.push_str(if *self { "true" } else { "false" });
    }
}

impl Canonical for Oid {
    fn write(&self, out: &mut String) {
        out.push_str(&self.to_string());
    }
}

impl Canonical for String {
    fn write(&self, out: &mut String) {
        self.as_str().write(out);
    }
}

impl Canonical for str {
    fn write(&self, out: &mut String) {
        out.push('"');
        for c in self.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\0' => out.push_str("\\0"),
                '\t' => out.push_str("\\t"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                c if is_escaped(c) => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// The first release wrote these as `\u{...}`, by the tables of Unicode 17: control and format characters, blanks,
/// combining marks and private use. Ranges of hexadecimal code points.
const ESCAPED: &str = include_str!("canonical/escaped.txt");

fn is_escaped(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    let code = |hex| u32::from_str_radix(hex, 16).unwrap_or(u32::MAX);
    ESCAPED.split_ascii_whitespace().any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        (code(first)..=code(last)).contains(&u32::from(c))
    })
}

#[cfg(test)]
mod tests;
