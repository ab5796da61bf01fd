//! The `raw_json` document of a row: the mapped keys and the exposed columns, each if its value is known. Pure.
//!
//! The keys are written in jsonb's own order: shorter ones first, then by their bytes. The target's conversion to jsonb sorts
//! them, and is faster when they are sorted already.

use super::json::{JsonKind, Malformed, key, without};
use super::redaction::{MASKED_COLUMN, Redaction, Shown};
use super::unmappable::Unmappable;
use super::value::{MappedValues, RowImage, Sent};
use crate::model::{ColumnIdx, Set, Timestamp, push_string};
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct RawColumn {
    pub column: ColumnIdx,
    pub name: String,
    /// `"name":`
    pub key: String,
    pub kind: JsonKind,
    /// Paths that are cut out of a document.
    pub without: Vec<Vec<String>>,
}

/// The keys that `raw_json` always has: Neon's generated columns read them.
const MAPPED_KEYS: [(&str, Mapped); 4] = [
    ("id", Mapped::Id),
    ("display_name", Mapped::Name),
    ("primary_email", Mapped::Email),
    ("signed_up_at_millis", Mapped::SignedUp),
];

/// Whether a mapped value takes this key, instead of the column of this name.
pub(super) fn is_mapped_key(name: &str) -> bool {
    MAPPED_KEYS.iter().any(|(key, _)| *key == name)
}

#[derive(Clone, Copy, Debug)]
enum Mapped {
    Id,
    Name,
    Email,
    SignedUp,
}

/// A key of the document and where its value comes from.
#[derive(Debug)]
enum Part {
    /// With its key as it is written: `"name":`.
    Mapped(Mapped, String),
    Column(RawColumn),
}

/// What goes into `raw_json`, in jsonb's order.
#[derive(Debug)]
pub(super) struct RawJson {
    parts: Vec<Part>,
    stripped: AtomicU64,
}

impl RawJson {
    pub(super) fn new(columns: Vec<RawColumn>) -> RawJson {
        let mapped = MAPPED_KEYS.map(|(name, value)| (name.to_owned(), Part::Mapped(value, key(name))));
        let columns = columns.into_iter().map(|raw| (raw.name.clone(), Part::Column(raw)));
        let mut named: Vec<(String, Part)> = mapped.into_iter().chain(columns).collect();
        named.sort_by(|(a, _), (b, _)| (a.len(), a.as_bytes()).cmp(&(b.len(), b.as_bytes())));
        RawJson { parts: named.into_iter().map(|(_, part)| part).collect(), stripped: AtomicU64::new(0) }
    }

    fn columns(&self) -> impl Iterator<Item = &RawColumn> {
        self.parts.iter().filter_map(|part| match part {
            Part::Column(raw) => Some(raw),
            Part::Mapped(..) => None,
        })
    }

    /// The part of the document that has this column's name.
    pub(super) fn column_named(&self, name: &str) -> Option<&RawColumn> {
        self.columns().find(|raw| raw.name == name)
    }

    /// Takes the value of a column from another one, in which the source has converted it to jsonb.
    pub(super) fn read_converted(&mut self, from: ColumnIdx, to: ColumnIdx) {
        for part in &mut self.parts {
            if let Part::Column(raw) = part
                && raw.column == from
            {
                (raw.column, raw.kind) = (to, JsonKind::Jsonb);
            }
        }
    }

    pub(super) fn take_stripped_escapes(&self) -> u64 {
        self.stripped.swap(0, Ordering::Relaxed)
    }

    /// About how long a document is without its values.
    pub(super) fn base_size(&self) -> usize {
        /// The braces, and keys and number of the four mapped values.
        const MAPPED_SIZE: usize = 96;
        /// A column's comma and quotes, and the growth of a time.
        const COLUMN_SIZE: usize = 7;
        MAPPED_SIZE + self.columns().map(|column| column.key.len() + COLUMN_SIZE).sum::<usize>()
    }

    /// `size` is the expected length in bytes.
    pub(super) fn build(
        &self,
        id: &str,
        mapped: &MappedValues<'_>,
        row: RowImage<'_>,
        size: usize,
        redaction: Option<&Redaction>,
    ) -> Result<String, Unmappable> {
        let length = |set: &Set<Option<Cow<'_, str>>>| match set {
            Set::To(Some(text)) => text.len(),
            Set::To(None) | Set::Keep => 0,
        };
        let mut json = String::with_capacity(size + id.len() + length(&mapped.name) + length(&mapped.email));
        json.push('{');
        let mut stripped = 0;
        for part in &self.parts {
            // A part without a value leaves its key out.
            match part {
                Part::Mapped(Mapped::Id, key) => {
                    push_key(key, &mut json);
                    push_string(id, &mut json);
                }
                Part::Mapped(Mapped::Name, key) => push_text(key, &mapped.name, &mut json),
                Part::Mapped(Mapped::Email, key) => push_text(key, &mapped.email, &mut json),
                Part::Mapped(Mapped::SignedUp, key) => {
                    let Set::To(created_at) = mapped.created_at else { continue };
                    push_key(key, &mut json);
                    match created_at.and_then(Timestamp::unix_millis_floor) {
                        Some(millis) => json.push_str(itoa::Buffer::new().format(millis)),
                        None => json.push_str("null"),
                    }
                }
                Part::Column(raw) => {
                    let shown = redaction.map_or(Shown::AsIs, |redaction| redaction.column(&raw.name));
                    match (row.get(raw.column), shown) {
                        (Sent::Unsent, _) | (_, Shown::Hidden) => {}
                        (Sent::Null, _) => {
                            push_key(&raw.key, &mut json);
                            json.push_str("null");
                        }
                        (Sent::Text(_), Shown::Masked) => {
                            push_key(&raw.key, &mut json);
                            json.push_str(MASKED_COLUMN);
                        }
                        (Sent::Text(bytes), Shown::AsIs) => {
                            push_key(&raw.key, &mut json);
                            raw.append(bytes, &mut json, &mut stripped)?;
                        }
                    }
                }
            }
        }
        json.push('}');
        if stripped > 0 {
            self.stripped.fetch_add(stripped, Ordering::Relaxed);
        }
        Ok(json)
    }
}

/// Appends `"name":`, after a comma unless it is the first key.
fn push_key(key: &str, json: &mut String) {
    if json.len() > 1 {
        json.push(',');
    }
    json.push_str(key);
}

fn push_text(key: &str, value: &Set<Option<Cow<'_, str>>>, json: &mut String) {
    let Set::To(value) = value else { return };
    push_key(key, json);
    match value {
        Some(text) => push_string(text, json),
        None => json.push_str("null"),
    }
}

impl RawColumn {
    fn append(&self, bytes: &[u8], json: &mut String, stripped: &mut u64) -> Result<(), Unmappable> {
        let text = std::str::from_utf8(bytes).map_err(|_| Unmappable::NotUtf8 { column: self.name.clone() })?;
        let malformed = |Malformed(expected)| Unmappable::Malformed { column: self.name.clone(), expected };
        if self.without.is_empty() {
            return self.kind.append(text, json, stripped).map_err(malformed);
        }
        let whole = self.kind.document(text, stripped).map_err(malformed)?;
        without(&whole, &self.without, json).map_err(|_| malformed(Malformed("JSON document")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Column, Relation, ReplicaIdentity, TableName};

    #[test]
    fn keys_have_the_order_of_jsonb() {
        // Lengths count bytes: é has two.
        let names = ["zz", "b", "primary_emaim", "é", "B", "display_nam\u{e9}", "ab"];
        let described = |name: &str| Column { name: name.to_owned(), type_oid: 3802, in_identity: false };
        let relation = Relation {
            oid: 1,
            table: TableName { schema: "auth".to_owned(), name: "users".to_owned() },
            replica_identity: ReplicaIdentity::Full,
            columns: names.map(described).into(),
            leaves: Vec::new(),
        };
        let column = |(column, described): (ColumnIdx, &Column)| RawColumn {
            column,
            name: described.name.clone(),
            key: key(&described.name),
            kind: JsonKind::Jsonb,
            without: Vec::new(),
        };
        let raw = RawJson::new(relation.indexed_columns().map(column).collect());
        let order: Vec<&str> = raw
            .parts
            .iter()
            .map(|part| match part {
                Part::Mapped(_, key) => key.trim_matches(['"', ':']),
                Part::Column(raw) => &raw.name,
            })
            .collect();
        assert_eq!(
            order,
            [
                "B",
                "b",
                "ab",
                "id",
                "zz",
                "é",
                "display_name",
                "display_nam\u{e9}",
                "primary_email",
                "primary_emaim",
                "signed_up_at_millis"
            ]
        );
    }
}
