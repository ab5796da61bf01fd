//! Values of json and jsonb columns: removal of escapes that jsonb rejects, and paths into documents. Pure.

use crate::model::push_string;
use serde::Deserialize;
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
///
/// Reads the document once and keeps its place on the heap, so that any depth of nesting takes linear time and no stack.
pub(in crate::map) fn without(
    document: &str,
    paths: &[Vec<String>],
    out: &mut String,
) -> Result<(), serde_json::Error> {
    let mut paths: Vec<&[String]> = paths.iter().map(Vec::as_slice).collect();
    paths.retain(|path| !path.is_empty());
    Cutter { rest: document.trim_ascii(), below: vec![paths], open: Vec::new(), read: 0 }.cut(out)
}

/// One pass over a document.
struct Cutter<'d, 'p> {
    /// What was not read yet.
    rest: &'d str,
    /// The paths that begin at the document, then those that begin at each object's value on the way to this one. Only a
    /// key of a path adds an entry, so there are at most as many as the longest path has keys.
    below: Vec<Vec<&'p [String]>>,
    /// The objects and arrays around this place.
    open: Vec<Container>,
    /// Bytes that were read, for the tests.
    read: usize,
}

/// An object or array that is not closed yet.
struct Container {
    is_object: bool,
    /// Length of `below` in front of it.
    outside: usize,
    /// Whether a value was read, and whether one was written.
    has_read: bool,
    has_written: bool,
}

impl<'d> Cutter<'d, '_> {
    fn cut(&mut self, out: &mut String) -> Result<(), serde_json::Error> {
        self.value(1, out)?;
        while let Some(&Container { is_object, outside, has_read, .. }) = self.open.last() {
            let end = if is_object { '}' } else { ']' };
            self.skip_blanks();
            if self.take(end) {
                out.push(end);
                self.open.pop();
                self.below.truncate(outside);
                continue;
            }
            if has_read && !self.take(',') {
                return Err(malformed());
            }
            if let Some(container) = self.open.last_mut() {
                container.has_read = true;
            }
            if is_object {
                self.entry(out)?;
            } else {
                self.comma(out);
                self.value(self.below.len(), out)?;
            }
        }
        self.skip_blanks();
        if self.rest.is_empty() { Ok(()) } else { Err(malformed()) }
    }

    /// Copies a value that no path leads into. Opens any other, whose end then shortens `below` to `outside`.
    fn value(&mut self, outside: usize, out: &mut String) -> Result<(), serde_json::Error> {
        self.skip_blanks();
        let leads_into = self.below.last().is_some_and(|paths| !paths.is_empty());
        let is_object = self.rest.starts_with('{');
        if leads_into && (is_object || self.rest.starts_with('[')) {
            out.push_str(&self.rest[..1]);
            self.advance(1);
            self.open.push(Container { is_object, outside, has_read: false, has_written: false });
            return Ok(());
        }
        out.push_str(self.next::<&RawValue>()?.get());
        self.below.truncate(outside);
        Ok(())
    }

    /// Reads a key, and leaves its value out or copies or opens it.
    fn entry(&mut self, out: &mut String) -> Result<(), serde_json::Error> {
        let key: Cow<'d, str> = match self.next::<&str>() {
            Ok(plain) => Cow::Borrowed(plain),
            Err(_) => Cow::Owned(self.next::<String>()?),
        };
        self.skip_blanks();
        if !self.take(':') {
            return Err(malformed());
        }
        let paths = self.below.last().into_iter().flatten();
        let below: Vec<&[String]> = paths.filter(|path| path[0] == *key).map(|path| &path[1..]).collect();
        if below.iter().any(|path| path.is_empty()) {
            self.next::<&RawValue>()?;
            return Ok(());
        }
        self.comma(out);
        push_string(&key, out);
        out.push(':');
        let outside = self.below.len();
        self.below.push(below);
        self.value(outside, out)
    }

    fn comma(&mut self, out: &mut String) {
        if let Some(container) = self.open.last_mut()
            && std::mem::replace(&mut container.has_written, true)
        {
            out.push(',');
        }
    }

    /// Reads a value of this form. serde_json reads texts and raw values without recursion.
    fn next<T: Deserialize<'d>>(&mut self) -> Result<T, serde_json::Error> {
        let mut values = serde_json::Deserializer::from_str(self.rest).into_iter::<T>();
        let value = values.next().ok_or_else(malformed)??;
        let length = values.byte_offset();
        self.advance(length);
        Ok(value)
    }

    fn skip_blanks(&mut self) {
        let blanks = self.rest.len() - self.rest.trim_ascii_start().len();
        self.advance(blanks);
    }

    fn take(&mut self, byte: char) -> bool {
        let is_next = self.rest.starts_with(byte);
        self.advance(usize::from(is_next));
        is_next
    }

    fn advance(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
        self.read += bytes;
    }
}

fn malformed() -> serde_json::Error {
    serde::de::Error::custom("malformed document")
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    const DEEP: usize = 100_000;

    fn paths(written: &[&str]) -> Vec<Vec<String>> {
        written.iter().map(|path| path.split('.').map(str::to_owned).collect()).collect()
    }

    fn cut(document: &str, written: &[&str]) -> Result<String, serde_json::Error> {
        let mut out = String::new();
        without(document, &paths(written), &mut out).map(|()| out)
    }

    #[test]
    fn paths_are_cut_out_of_objects_and_of_the_elements_of_arrays() {
        for (document, written, expected) in [
            (r#"{"a":1,"b":2}"#, &["a"][..], r#"{"b":2}"#),
            (r#" { "b" : 2 , "a" : {"x":[1, 2]} } "#, &["a"], r#"{"b":2}"#),
            (r#"{"a":{"b":1,"c":2},"d":{"b":3}}"#, &["a.b"], r#"{"a":{"c":2},"d":{"b":3}}"#),
            (r#"[{"a":1},[{"a":2,"b":[]}],3]"#, &["a"], r#"[{},[{"b":[]}],3]"#),
            (r#"{"a":[{"b":1,"c":{"b":4}},2],"a":{"b":5}}"#, &["a.b", "x"], r#"{"a":[{"c":{"b":4}},2],"a":{}}"#),
            (r#"{"\u0061":1,"e\"":2}"#, &["a"], r#"{"e\"":2}"#),
            (r#"{"a":1}"#, &["a.b"], r#"{"a":1}"#),
            ("[]", &["a"], "[]"),
            ("-1.5e3", &["a"], "-1.5e3"),
        ] {
            assert_eq!(cut(document, written).unwrap(), expected, "{document}");
        }
    }

    #[test]
    fn a_malformed_document_is_an_error() {
        for document in [
            "", "{", "[", "[1", "[1,", "[1 2]", "[1]]", "{\"a\"}", "{\"a\":}", "{\"a\":1", "{1:2}", "[}", "{]", "[,1]",
            "1 2",
        ] {
            assert!(cut(document, &["x.y"]).is_err(), "{document}");
        }
    }

    #[test]
    fn a_hundred_thousand_levels_take_no_stack_and_are_read_once() {
        let arrays = "[".repeat(DEEP) + &"]".repeat(DEEP);
        let objects = "{\"a\":".repeat(DEEP) + "1" + &"}".repeat(DEEP);
        let mixed = "[{\"a\":".repeat(DEEP) + "1" + &"}]".repeat(DEEP);
        let long = vec!["a"; DEEP + 1].join(".");
        for document in [arrays, objects, mixed, "[[[1],{\"a\":[]}],".repeat(DEEP) + "1" + &"]".repeat(DEEP)] {
            for path in ["a", "b", "a.a.b", &long] {
                let paths = paths(&[path]);
                let below = vec![paths.iter().map(Vec::as_slice).collect()];
                let mut cutter = Cutter { rest: &document, below, open: Vec::new(), read: 0 };
                let mut out = String::new();
                cutter.cut(&mut out).unwrap();
                assert_eq!(cutter.read, document.len());
                assert!(out.len() <= document.len());
            }
            let whole = "{\"k\":".to_owned() + &document + "}";
            assert!(find(&whole, &["k".to_owned()]).unwrap().is_some());
        }
    }

    /// The specification, by recursion over a parsed document.
    fn expected(value: Value, paths: &[&[String]]) -> Value {
        match value {
            Value::Object(entries) => {
                let entries = entries.into_iter().filter_map(|(key, value)| {
                    let below: Vec<&[String]> = paths.iter().filter(|p| p[0] == key).map(|p| &p[1..]).collect();
                    let is_cut = below.iter().any(|path| path.is_empty());
                    (!is_cut).then(|| (key, expected(value, &below)))
                });
                Value::Object(entries.collect())
            }
            Value::Array(items) => Value::Array(items.into_iter().map(|item| expected(item, paths)).collect()),
            scalar => scalar,
        }
    }

    fn documents() -> impl Strategy<Value = Value> {
        let scalar =
            prop_oneof![Just(Value::Null), any::<i32>().prop_map(Value::from), "[a\"\\\\ü]{0,3}".prop_map(Value::from)];
        scalar.prop_recursive(6, 60, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[abc\"]", inner), 0..4).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn one_pass_cuts_what_the_specification_cuts(
            document in documents(),
            paths in prop::collection::vec(prop::collection::vec("[abc]", 1..4), 0..4),
        ) {
            let slices: Vec<&[String]> = paths.iter().map(Vec::as_slice).collect();
            for text in [document.to_string(), format!("{document:#}")] {
                let mut out = String::new();
                without(&text, &paths, &mut out).unwrap();
                prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected(document.clone(), &slices));
            }
        }

        #[test]
        fn no_text_makes_the_cutter_panic(text in "\\PC*", near in r#"[\[{]?[\"{}:, ua0-9\[\]é\\\\]{0,40}"#) {
            for text in [&text, &near] {
                let _ = cut(text, &["a", "a.b"]);
            }
        }
    }
}
