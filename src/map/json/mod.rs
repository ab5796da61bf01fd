//! A value's text output, converted to the JSON that `to_jsonb` makes of it. Pure.
//!
//! The session's output must use UTC, ISO dates, `extra_float_digits` 3 and hex bytea. [`JsonKind::compile`] decides once
//! per column; [`JsonKind::append`] then writes into one string.

mod array;
mod composite;
mod document;
mod hstore;
mod malformed;

pub(super) use document::{clean, find, scalar_text, without};
pub(super) use malformed::Malformed;

use crate::model::{CompositeField, Oid, TypeCatalog, TypeKind, push_string};
use std::borrow::Cow;

/// Type oids of `pg_type.dat`, for which `to_jsonb` does more than quote or which the mapping reads itself.
pub(super) mod oid {
    pub(crate) const BOOL: u32 = 16;
    pub(crate) const INT8: u32 = 20;
    pub(crate) const INT2: u32 = 21;
    pub(crate) const INT2VECTOR: u32 = 22;
    pub(crate) const INT4: u32 = 23;
    pub(crate) const TEXT: u32 = 25;
    pub(crate) const OIDVECTOR: u32 = 30;
    pub(crate) const JSON: u32 = 114;
    pub(crate) const FLOAT4: u32 = 700;
    pub(crate) const FLOAT8: u32 = 701;
    pub(crate) const BPCHAR: u32 = 1042;
    pub(crate) const VARCHAR: u32 = 1043;
    pub(crate) const NAME: u32 = 19;
    pub(crate) const DATE: u32 = 1082;
    pub(crate) const TIMESTAMP: u32 = 1114;
    pub(crate) const TIMESTAMPTZ: u32 = 1184;
    pub(crate) const NUMERIC: u32 = 1700;
    pub(crate) const UUID: u32 = 2950;
    pub(crate) const JSONB: u32 = 3802;
}

/// Types nested more deeply are not converted: each level takes stack.
const MAX_TYPE_DEPTH: usize = 128;

/// Parts of a column's type. Types that use one another several times multiply at each level.
const MAX_TYPE_PARTS: usize = 10_000;

/// How the text of one type becomes JSON. A domain is replaced by its base type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JsonKind {
    /// `t` and `f`.
    Bool,
    /// A bare number; NaN and the infinities are quoted.
    Number,
    /// Embedded, without the escapes that jsonb rejects.
    Json,
    /// Embedded unchanged.
    Jsonb,
    /// `2024-01-01 00:00:00` with a `T`; a time zone also gets its minutes.
    Timestamp,
    /// Any other type: a string.
    Text,
    /// `int2vector` (numbers) and `oidvector` (strings): arrays to `to_jsonb`, but written as `1 2`.
    Vector(Box<JsonKind>),
    /// `{a,b}`.
    Array { element: Box<JsonKind>, delimiter: u8 },
    /// `(a,b)`.
    Composite(Vec<JsonField>),
    /// `"key"=>"value"`.
    Hstore,
    /// A type with a cast to json, which only the source can apply.
    Cast,
    /// A type past [`MAX_TYPE_DEPTH`] or [`MAX_TYPE_PARTS`]. A row with such a value is set aside.
    TooComplex,
}

const TOO_COMPLEX: Malformed =
    Malformed("JSON value: its type has more than 128 levels or 10000 parts; list the column in users.exclude");

/// A field of a composite type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JsonField {
    /// `"name":`, ready to be appended.
    key: String,
    kind: JsonKind,
}

/// The type below any number of domains; `oid` itself if it is not a domain.
pub(super) fn base_type(mut oid: Oid, types: &TypeCatalog) -> Oid {
    // A server has no cycle of domains. The bound protects against any other catalog.
    for _ in 0..types.len() {
        match types.get(&oid) {
            Some(TypeKind::Domain(base)) => oid = *base,
            _ => break,
        }
    }
    oid
}

/// Whether values of the type are padded with blanks, which do not count: `char(n)` and domains over it.
pub(crate) fn is_padded(oid: Oid, types: &TypeCatalog) -> bool {
    base_type(oid, types) == oid::BPCHAR
}

impl JsonKind {
    /// Resolves domains, arrays and composites down to their scalars.
    pub(super) fn compile(oid: Oid, types: &TypeCatalog) -> JsonKind {
        Self::compile_below(oid, types, &mut Vec::new(), &mut 0)
    }

    fn compile_below(oid: Oid, types: &TypeCatalog, above: &mut Vec<Oid>, parts: &mut usize) -> JsonKind {
        let oid = base_type(oid, types);
        // PostgreSQL does not allow a type to contain itself.
        if above.contains(&oid) {
            return JsonKind::Text;
        }
        *parts += 1;
        if above.len() >= MAX_TYPE_DEPTH || *parts > MAX_TYPE_PARTS {
            return JsonKind::TooComplex;
        }
        above.push(oid);
        let mut below = |oid| Self::compile_below(oid, types, above, parts);
        let kind = match types.get(&oid) {
            _ if oid == oid::INT2VECTOR => JsonKind::Vector(Box::new(JsonKind::Number)),
            _ if oid == oid::OIDVECTOR => JsonKind::Vector(Box::new(JsonKind::Text)),
            Some(TypeKind::Array { element, delimiter }) => {
                JsonKind::Array { element: Box::new(below(*element)), delimiter: *delimiter }
            }
            Some(TypeKind::Composite(fields)) => {
                let field = |field: &CompositeField| JsonField { key: key(&field.name), kind: below(field.type_oid) };
                JsonKind::Composite(fields.iter().map(field).collect())
            }
            Some(TypeKind::Hstore) => JsonKind::Hstore,
            Some(TypeKind::Cast) => JsonKind::Cast,
            Some(TypeKind::Scalar(_) | TypeKind::Domain(_)) | None => Self::scalar(oid),
        };
        above.pop();
        kind
    }

    fn scalar(oid: Oid) -> JsonKind {
        match oid {
            oid::BOOL => JsonKind::Bool,
            oid::INT2 | oid::INT4 | oid::INT8 | oid::FLOAT4 | oid::FLOAT8 | oid::NUMERIC => JsonKind::Number,
            oid::JSON => JsonKind::Json,
            oid::JSONB => JsonKind::Jsonb,
            oid::TIMESTAMP | oid::TIMESTAMPTZ => JsonKind::Timestamp,
            _ => JsonKind::Text,
        }
    }

    /// Whether the type, or a part of it, has a cast that only the source can apply.
    pub(super) fn has_cast(&self) -> bool {
        match self {
            JsonKind::Cast => true,
            JsonKind::Array { element, .. } | JsonKind::Vector(element) => element.has_cast(),
            JsonKind::Composite(fields) => fields.iter().any(|field| field.kind.has_cast()),
            JsonKind::Bool
            | JsonKind::Number
            | JsonKind::Json
            | JsonKind::Jsonb
            | JsonKind::Timestamp
            | JsonKind::Text
            | JsonKind::Hstore
            | JsonKind::TooComplex => false,
        }
    }

    /// `text` as JSON, borrowed where it needs no change.
    pub(super) fn document<'a>(&self, text: &'a str, stripped: &mut u64) -> Result<Cow<'a, str>, Malformed> {
        match self {
            JsonKind::Json if !text.is_empty() => Ok(clean(text, stripped)),
            JsonKind::Jsonb if !text.is_empty() => Ok(Cow::Borrowed(text)),
            kind => {
                let mut document = String::with_capacity(text.len());
                kind.append(text, &mut document, stripped)?;
                Ok(Cow::Owned(document))
            }
        }
    }

    /// Appends `text` as JSON and adds the number of removed escapes to `stripped`.
    /// After an error, `out` has a part of the value.
    pub(super) fn append(&self, text: &str, out: &mut String, stripped: &mut u64) -> Result<(), Malformed> {
        match self {
            JsonKind::Text => push_string(text, out),
            JsonKind::Number => return push_number(text, out),
            JsonKind::Bool => out.push_str(match text {
                "t" => "true",
                "f" => "false",
                _ => return Err(Malformed("boolean")),
            }),
            JsonKind::Timestamp => push_timestamp(text, out),
            JsonKind::TooComplex => return Err(TOO_COMPLEX),
            JsonKind::Hstore => return hstore::append(text, out),
            JsonKind::Cast => return Err(Malformed("value that the source has cast to json")),
            // The types guarantee JSON. An empty text is checked because it would break the enclosing object.
            JsonKind::Json | JsonKind::Jsonb if text.is_empty() => return Err(Malformed("JSON document")),
            JsonKind::Jsonb => out.push_str(text),
            JsonKind::Json => out.push_str(&clean(text, stripped)),
            JsonKind::Vector(element) => {
                out.push('[');
                for (i, item) in text.split_ascii_whitespace().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    element.append(item, out, stripped)?;
                }
                out.push(']');
            }
            JsonKind::Array { element, delimiter } => {
                return array::append(text, *delimiter, out, |item, out| element.append(item, out, stripped));
            }
            JsonKind::Composite(fields) => {
                let keys = fields.iter().map(|field| field.key.as_str());
                return composite::append(text, keys, out, |at, field, out| {
                    fields[at].kind.append(field, out, stripped)
                });
            }
        }
        Ok(())
    }
}

/// A name as a JSON key with its colon.
pub(super) fn key(name: &str) -> String {
    let mut key = String::with_capacity(name.len() + 3);
    push_string(name, &mut key);
    key.push(':');
    key
}

fn push_number(text: &str, out: &mut String) -> Result<(), Malformed> {
    match text {
        "NaN" | "Infinity" | "-Infinity" => push_string(text, out),
        _ if is_number(text.as_bytes()) => out.push_str(text),
        _ => return Err(Malformed("number")),
    }
    Ok(())
}

/// RFC 8259, section 6.
fn is_number(text: &[u8]) -> bool {
    fn digits(text: &[u8]) -> (usize, &[u8]) {
        let count = text.iter().take_while(|b| b.is_ascii_digit()).count();
        (count, &text[count..])
    }
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, mut rest) = digits(unsigned);
    if whole == 0 || (whole > 1 && unsigned[0] == b'0') {
        return false;
    }
    if let Some(fraction) = rest.strip_prefix(b".") {
        let (count, after) = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = after;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = match exponent {
            [b'+' | b'-', unsigned @ ..] => unsigned,
            unsigned => unsigned,
        };
        let (count, after) = digits(exponent);
        if count == 0 {
            return false;
        }
        rest = after;
    }
    rest.is_empty()
}

/// From ISO to XSD dates, like JsonEncodeDateTime (utils/adt/json.c): `T` for the blank, an offset with minutes.
/// ` BC` follows the time in both. The infinities have no blank and stay unchanged.
fn push_timestamp(text: &str, out: &mut String) {
    let Some((date, rest)) = text.split_once(' ') else {
        return push_string(text, out);
    };
    let (time, era) = match rest.split_once(' ') {
        Some((time, _)) => (time, &rest[time.len()..]),
        None => (rest, ""),
    };
    let hours_only = time.len().checked_sub(3).is_some_and(|at| matches!(time.as_bytes()[at], b'+' | b'-'));
    if [date, time, era].iter().any(|part| part.bytes().any(|b| b < b' ' || b == b'"' || b == b'\\')) {
        // No server writes this. As a string it cannot break the enclosing object.
        return push_string(text, out);
    }
    out.push('"');
    out.push_str(date);
    out.push('T');
    out.push_str(time);
    out.push_str(if hours_only { ":00" } else { "" });
    out.push_str(era);
    out.push('"');
}

#[cfg(test)]
mod tests;
