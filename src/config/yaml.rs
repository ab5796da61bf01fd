//! YAML as a tree of scalars, lists and sections, each with its place in the text. Pure.
//!
//! Scalars keep their text: `id: 007` is `007`, although YAML reads a number.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};
use std::fmt;
use std::ops::Range;

/// A value and its place, in bytes of the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) span: Range<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Null,
    Scalar(String),
    List(Vec<Node>),
    Section(Vec<(YamlKey, Node)>),
}

/// A section's key and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct YamlKey {
    pub(super) name: String,
    pub(super) span: Range<usize>,
}

impl Node {
    /// The value of a key, unless it is null.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        let Kind::Section(entries) = &self.kind else { return None };
        let (_, node) = entries.iter().find(|(key, _)| key.name == name)?;
        (!matches!(node.kind, Kind::Null)).then_some(node)
    }

    /// As [`Node::get`], to change it.
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        let Kind::Section(entries) = &mut self.kind else { return None };
        let (_, node) = entries.iter_mut().find(|(key, _)| key.name == name)?;
        (!matches!(node.kind, Kind::Null)).then_some(node)
    }

    /// The text of a key whose value is a scalar.
    pub(super) fn scalar(&self, name: &str) -> Option<&str> {
        match &self.get(name)?.kind {
            Kind::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// The place of the value at `kafka.topic`, or of the innermost section that is there.
    pub(super) fn span_of(&self, path: &str) -> &Range<usize> {
        let mut node = self;
        for name in path.split('.') {
            let Some(inner) = node.get(name) else { break };
            node = inner;
        }
        &node.span
    }

    /// Gives the node, and all within it, one place.
    pub(super) fn relocate(&mut self, to: &Range<usize>) {
        self.span = to.clone();
        match &mut self.kind {
            Kind::Null | Kind::Scalar(_) => {}
            Kind::List(items) => items.iter_mut().for_each(|item| item.relocate(to)),
            Kind::Section(entries) => {
                for (key, node) in entries {
                    key.span = to.clone();
                    node.relocate(to);
                }
            }
        }
    }
}

/// The parser's own limit, which aliases in a short text may need.
const MIN_NODES: usize = 250_000;

/// The text is not YAML.
pub(super) struct Malformed {
    pub(super) message: String,
    pub(super) span: Range<usize>,
}

/// Parses a text. An empty one is null.
pub(super) fn parse_yaml(text: &str) -> Result<Node, Malformed> {
    // Repeated keys are reported together with the other faults of their section.
    let duplicate_keys = serde_saphyr::DuplicateKeyPolicy::PassThrough;
    // An installation may list 100,000 tenants. Without aliases, whose number is limited, a text has no more nodes than bytes.
    let nodes = text.len().max(MIN_NODES);
    let options = serde_saphyr::options! {
        with_snippet: false,
        duplicate_keys: duplicate_keys,
        budget: serde_saphyr::budget! { max_nodes: nodes, max_events: nodes.saturating_mul(4) },
    };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
        Ok(root) => Ok(node(root, text)),
        Err(error) => {
            let span = error.location().map_or(0..0, |at| span(at, text));
            let message = error.without_snippet().to_string();
            // The place is shown separately.
            let message = message.split(" at line ").next().unwrap_or_default().to_owned();
            Err(Malformed { message, span })
        }
    }
}

fn node(raw: Spanned<Raw>, text: &str) -> Node {
    let span = span(raw.defined, text);
    let kind = match raw.value {
        Raw::Null => Kind::Null,
        Raw::Text(text) => Kind::Scalar(text),
        Raw::AsWritten => Kind::Scalar(text.get(span.clone()).unwrap_or_default().trim().to_owned()),
        Raw::List(items) => Kind::List(items.into_iter().map(|item| node(item, text)).collect()),
        Raw::Section(entries) => {
            Kind::Section(entries.into_iter().map(|(key, value)| (self::key(key, text), node(value, text))).collect())
        }
    };
    Node { kind, span }
}

fn key(raw: Spanned<String>, text: &str) -> YamlKey {
    YamlKey { span: span(raw.defined, text), name: raw.value }
}

fn span(at: Location, text: &str) -> Range<usize> {
    let (Some(from), Some(len)) = (at.span().byte_offset(), at.span().byte_len()) else { return place(at, text) };
    let from = usize::try_from(from).unwrap_or(0).min(text.len());
    let to = from.saturating_add(usize::try_from(len).unwrap_or(0)).min(text.len());
    from..to
}

/// Errors of the scanner have only a line and a column, both from 1. The column counts characters.
fn place(at: Location, text: &str) -> Range<usize> {
    let line = usize::try_from(at.line()).unwrap_or(1).saturating_sub(1);
    let column = usize::try_from(at.column()).unwrap_or(1).saturating_sub(1);
    let mut lines = text.split_inclusive('\n');
    let before: usize = lines.by_ref().take(line).map(str::len).sum();
    let inside: usize = lines.next().unwrap_or_default().chars().take(column).map(char::len_utf8).sum();
    let at = before + inside;
    at..at
}

enum Raw {
    Null,
    Text(String),
    /// A number or a boolean. Its text is taken from the file.
    AsWritten,
    List(Vec<Spanned<Raw>>),
    Section(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a list or a section")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::AsWritten)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::AsWritten)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::AsWritten)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Raw, E> {
        Ok(Raw::AsWritten)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Raw, E> {
        Ok(Raw::AsWritten)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::AsWritten)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut section = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            section.push(entry);
        }
        Ok(Raw::Section(section))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree in one line, with the text that each scalar's place shows.
    fn show(node: &Node, text: &str) -> String {
        match &node.kind {
            Kind::Null => "~".into(),
            Kind::Scalar(value) => format!("{value}<{}>", &text[node.span.clone()]),
            Kind::List(items) => {
                format!("[{}]", items.iter().map(|item| show(item, text)).collect::<Vec<_>>().join(","))
            }
            Kind::Section(entries) => {
                let entry =
                    |(key, value): &(YamlKey, Node)| format!("{}={}", &text[key.span.clone()], show(value, text));
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(","))
            }
        }
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let node = parse_yaml(text).map_err(|error| error.message).unwrap();
        assert_eq!(show(&node, text), expected);
    }

    #[test]
    fn every_scalar_keeps_its_text_and_its_place() {
        check("a: b\nc: [d, 007, 1e3, no]\n", "{a=b<b>,c=[d<d>,007<007>,1e3<1e3>,no<no>]}");
        check("ä: {b: \"é f\"}  # c\n", "{ä={b=é f<\"é f\">}}");
        check("a:\n  b: 10%\n  c:\nd: ~\n", "{a={b=10%<10%>,c=~},d=~}");
        check("1: x\n", "{1=x<x>}");
    }

    #[test]
    fn repeated_keys_are_kept_and_overridden_merge_keys_are_not() {
        check("a: b\na: c\n", "{a=b<b>,a=c<c>}");
        check("x: &x {a: b, c: d}\ny:\n  <<: *x\n  a: e\n", "{x={a=b<b>,c=d<d>},y={a=e<e>,c=d<d>}}");
    }

    #[test]
    fn an_empty_text_is_null() {
        for text in ["", "\n# nothing\n", "---\n"] {
            check(text, "~");
        }
    }

    #[test]
    fn invalid_yaml_is_reported_with_its_place() {
        let Err(error) = parse_yaml("a: b\nc: [d\ne: f\n") else { panic!("that is no YAML") };
        assert_eq!(error.span.start, 12, "{}", error.message);
    }
    #[test]
    fn the_length_of_a_list_is_not_limited() {
        let text = "- {id: a}\n".repeat(100_000);
        let Ok(Node { kind: Kind::List(items), .. }) = parse_yaml(&text) else { panic!("it is a list") };
        assert_eq!(items.len(), 100_000);
    }
}
