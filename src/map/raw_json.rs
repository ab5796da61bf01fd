//! The `raw_json` document of a row: the mapped keys, then the exposed columns, each if its value is known. Pure.

use super::json::{JsonKind, Malformed, without};
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

/// What goes into `raw_json` beside the mapped keys, in the relation's order.
#[derive(Debug)]
pub(super) struct RawJson {
    columns: Vec<RawColumn>,
    stripped: AtomicU64,
}

impl RawJson {
    pub(super) fn new(columns: Vec<RawColumn>) -> RawJson {
        RawJson { columns, stripped: AtomicU64::new(0) }
    }

    /// The part of the document that has this column's name.
    pub(super) fn column_named(&self, name: &str) -> Option<&RawColumn> {
        self.columns.iter().find(|raw| raw.name == name)
    }

    /// Takes the value of a column from another one, in which the source has converted it to jsonb.
    pub(super) fn read_converted(&mut self, from: ColumnIdx, to: ColumnIdx) {
        for raw in self.columns.iter_mut().filter(|raw| raw.column == from) {
            (raw.column, raw.kind) = (to, JsonKind::Jsonb);
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
        MAPPED_SIZE + self.columns.iter().map(|column| column.key.len() + COLUMN_SIZE).sum::<usize>()
    }

    /// `size` is the expected length in bytes.
    pub(super) fn build(
        &self,
        id: &str,
        mapped: &MappedValues<'_>,
        row: RowImage<'_>,
        size: usize,
    ) -> Result<String, Unmappable> {
        let length = |set: &Set<Option<Cow<'_, str>>>| match set {
            Set::To(Some(text)) => text.len(),
            Set::To(None) | Set::Keep => 0,
        };
        let mut json = String::with_capacity(size + id.len() + length(&mapped.name) + length(&mapped.email));
        json.push_str("{\"id\":");
        push_string(id, &mut json);
        for (key, value) in [(",\"display_name\":", &mapped.name), (",\"primary_email\":", &mapped.email)] {
            if let Set::To(value) = value {
                json.push_str(key);
                match value {
                    Some(text) => push_string(text, &mut json),
                    None => json.push_str("null"),
                }
            }
        }
        if let Set::To(created_at) = mapped.created_at {
            json.push_str(",\"signed_up_at_millis\":");
            match created_at.and_then(Timestamp::unix_millis_floor) {
                Some(millis) => json.push_str(itoa::Buffer::new().format(millis)),
                None => json.push_str("null"),
            }
        }
        let mut stripped = 0;
        for raw in &self.columns {
            match row.get(raw.column) {
                Sent::Unsent => {}
                Sent::Null => {
                    json.push(',');
                    json.push_str(&raw.key);
                    json.push_str("null");
                }
                Sent::Text(bytes) => {
                    json.push(',');
                    json.push_str(&raw.key);
                    raw.append(bytes, &mut json, &mut stripped)?;
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
