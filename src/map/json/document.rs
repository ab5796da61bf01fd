//! Values of json and jsonb columns: removal of escapes that jsonb rejects, and paths into documents. Pure.

use crate::model::push_string;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Removes escapes that json accepts but jsonb rejects: code point zero, and halves of surrogate pairs. A backslash that
/// is itself escaped begins no escape. Borrows if there is nothing to remove.
pub(in crate::map) fn clean<'a>(text: &'a str, stripped: &mut u64) -> Cow<'a, str> {
    if !text.contains("\\u") {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut cleaned = Cow::Borrowed("");
    let (mut done, mut at) = (0, 0);
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        let length = match code_unit(bytes, at) {
            // Any other escape: skip the backslash and one character, which may be a backslash.
            None => 2,
            Some(0xD800..=0xDBFF) if matches!(code_unit(bytes, at + 6), Some(0xDC00..=0xDFFF)) => 12,
            Some(0 | 0xD800..=0xDFFF) => {
                cleaned += &text[done..at];
                done = at + 6;
                *stripped += 1;
                6
            }
            Some(_) => 6,
        };
        at += length;
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    cleaned += &text[done..];
    cleaned
}

/// The four hex digits of a `\uXXXX` that begins at `at`.
fn code_unit(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, &digit| Some(unit * 16 + char::from(digit).to_digit(16)?))
}

/// The value at a path of keys; `None` if a key does not exist or its value is not an object. Of a duplicate key the
/// last value counts, as in jsonb.
pub(in crate::map) fn find<'a>(document: &'a str, path: &[String]) -> Result<Option<&'a str>, serde_json::Error> {
    let mut value = document.trim_ascii();
    for key in path {
        if !value.starts_with('{') {
            return Ok(None);
        }
        let mut deserializer = serde_json::Deserializer::from_str(value);
        match deserializer.deserialize_map(LastOf(key))? {
            Some(found) => value = found.get().trim_ascii(),
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

/// The text of a scalar: a string without quotes and escapes, a number or boolean as written.
/// `None` for null, objects and arrays.
pub(in crate::map) fn scalar_text(value: &str) -> Result<Option<Cow<'_, str>>, serde_json::Error> {
    let value = value.trim_ascii();
    match value.as_bytes() {
        [b'"', ..] => match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(plain) if !plain.contains(['\\', '"']) => Ok(Some(Cow::Borrowed(plain))),
            _ => serde_json::from_str(value).map(|text: String| Some(Cow::Owned(text))),
        },
        [] | [b'{' | b'[' | b'n', ..] => Ok(None),
        _ => Ok(Some(Cow::Borrowed(value))),
    }
}

/// Appends the document without the values at the paths. A path also applies to the elements of arrays.
pub(in crate::map) fn without(
    document: &str,
    paths: &[Vec<String>],
    out: &mut String,
) -> Result<(), serde_json::Error> {
    let mut rest: Vec<&[String]> = paths.iter().map(Vec::as_slice).collect();
    rest.retain(|path| !path.is_empty());
    cut(document.trim_ascii(), &rest, out)
}

fn cut(value: &str, paths: &[&[String]], out: &mut String) -> Result<(), serde_json::Error> {
    let mut first = true;
    let mut comma = |out: &mut String| {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
    };
    match value.as_bytes().first() {
        Some(b'{') if !paths.is_empty() => {
            let mut deserializer = serde_json::Deserializer::from_str(value);
            out.push('{');
            for (key, value) in deserializer.deserialize_map(Entries)? {
                let below: Vec<&[String]> =
                    paths.iter().filter(|path| path[0] == *key).map(|path| &path[1..]).collect();
                if below.iter().any(|path| path.is_empty()) {
                    continue;
                }
                comma(out);
                push_string(&key, out);
                out.push(':');
                cut(value.get().trim_ascii(), &below, out)?;
            }
            out.push('}');
        }
        Some(b'[') if !paths.is_empty() => {
            out.push('[');
            for element in serde_json::from_str::<Vec<&RawValue>>(value)? {
                comma(out);
                cut(element.get().trim_ascii(), paths, out)?;
            }
            out.push(']');
        }
        _ => out.push_str(value),
    }
    Ok(())
}

/// Visits an object and keeps every key with its value as written.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// Visits an object and borrows the last value of one key.
struct LastOf<'k>(&'k str);

impl<'de> Visitor<'de> for LastOf<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(IsKey(self.0))? {
            if is_it {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Compares a key without allocating it.
struct IsKey<'k>(&'k str);

impl<'de> DeserializeSeed<'de> for IsKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}
