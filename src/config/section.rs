//! How a section of the file is declared (`section!`), and how it is read from the tree. Pure.
//!
//! A declaration is the only place that knows a key: the parser, the JSON Schema and docs/CONFIGURATION.md all come from it.

use super::error::Fault;
use super::interpolate::{Env, interpolate};
use super::yaml::{Kind, Node, YamlKey, parse_yaml};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use std::ops::Range;

/// Keys less similar than this (Jaro-Winkler) are not suggested for an unknown one.
const SIMILAR: f64 = 0.75;

/// A key of a section, as the schema and the reference show it.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// The lines of its documentation.
    pub(super) doc: &'static [&'static str],
    /// In YAML.
    pub(super) default: Option<&'static str>,
    pub(super) is_optional: bool,
    pub(super) expected: fn() -> String,
    pub(super) allowed_values: fn() -> Vec<AllowedValue>,
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
    pub(super) nullable_schema: fn(&mut SchemaGenerator) -> Schema,
    pub(super) nested: fn() -> Option<Nested>,
}

/// One of the values that a key accepts, with its documentation.
pub(super) struct AllowedValue {
    pub(super) value: String,
    pub(super) doc: String,
}

/// The section that is a key's value, or each item of it.
pub(super) struct Nested {
    /// The lines of its documentation.
    pub(super) about: &'static [&'static str],
    pub(super) keys: &'static [Key],
    pub(super) is_list: bool,
}

/// The type of a key: how its value is written, read and documented.
pub(super) trait KeyType {
    type Value;
    /// The type whose JSON Schema the value has.
    type Schema: JsonSchema;
    /// A key that may be left out although it has no default.
    const IS_OPTIONAL: bool = false;
    /// Completes "expected ...".
    fn expected() -> String;
    /// The value of a key that is left out.
    fn absent() -> Option<Self::Value> {
        None
    }
    fn nested() -> Option<Nested> {
        None
    }
    /// The values of an enum.
    fn allowed_values() -> Vec<AllowedValue> {
        Vec::new()
    }
    /// Reads the value. `None` means that the reader has at least one more fault.
    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self::Value>;
}

/// Declares a section: a struct, its keys with their documentation and defaults, and how it is read.
///
/// `field: Type as KeyType = "default"`. The key type is left out where it is the type itself. A key without a default is
/// required unless its key type says otherwise. The default is written as in the file.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $vis:vis struct $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $field_vis:vis $field:ident: $type:ty $(as $key_type:ty)? $(= $default:literal)?,
            )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name {
            $($(#[doc = $doc])* $field_vis $field: $type,)*
        }

        impl $name {
            pub(in crate::config) const KEYS: &'static [$crate::config::section::Key] = &[$(
                $crate::config::section::Key {
                    name: $crate::config::section::key_name(stringify!($field)),
                    doc: &[$($doc),*],
                    default: $crate::config::section::first(&[$($default)?]),
                    is_optional: <$crate::config::section::key_type!($type $(, $key_type)?)
                        as $crate::config::section::KeyType>::IS_OPTIONAL,
                    expected: <$crate::config::section::key_type!($type $(, $key_type)?)
                        as $crate::config::section::KeyType>::expected,
                    schema: $crate::config::section::schema_of::<
                        $crate::config::section::key_type!($type $(, $key_type)?)>,
                    nullable_schema: $crate::config::section::schema_of::<
                        Option<$crate::config::section::key_type!($type $(, $key_type)?)>>,
                    nested: <$crate::config::section::key_type!($type $(, $key_type)?)
                        as $crate::config::section::KeyType>::nested,
                    allowed_values: <$crate::config::section::key_type!($type $(, $key_type)?)
                        as $crate::config::section::KeyType>::allowed_values,
                },
            )*];
        }

        impl $crate::config::section::KeyType for $name {
            type Value = $name;
            type Schema = $name;

            fn expected() -> String {
                "a section of keys".to_owned()
            }

            fn nested() -> Option<$crate::config::section::Nested> {
                Some($crate::config::section::Nested {
                    about: &[$($about),*],
                    keys: Self::KEYS,
                    is_list: false,
                })
            }

            fn read(
                node: &$crate::config::yaml::Node,
                path: &str,
                reader: &mut $crate::config::section::Reader<'_>,
            ) -> Option<$name> {
                let entries = $crate::config::section::Entries::of(node, path, Self::KEYS, reader)?;
                // Every key is read, so that one report has the faults of all.
                $(
                    let $field = entries.read::<$crate::config::section::key_type!($type $(, $key_type)?)>(
                        $crate::config::section::key_name(stringify!($field)),
                        reader,
                    );
                )*
                Some($name { $($field: $field?,)* })
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $crate::config::section::object_schema(Self::KEYS, &[$($about),*], generator)
            }
        }
    };
}
pub(super) use section;

/// The key type of a field: the one that is given, or else its type.
macro_rules! key_type {
    ($type:ty) => {
        $type
    };
    ($type:ty, $key_type:ty) => {
        $key_type
    };
}
pub(super) use key_type;

/// A field's name without the `r#` of Rust's own words.
pub(super) const fn key_name(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

pub(super) fn schema_of<K: KeyType>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<K::Schema>()
}

pub(super) const fn first(list: &[&'static str]) -> Option<&'static str> {
    match list {
        [first, ..] => Some(first),
        [] => None,
    }
}

/// The lines of a doc comment as text in which a paragraph is one line. Code blocks keep their lines.
pub(super) fn prose(doc: &[&str]) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut in_code = false;
    for line in doc_lines(doc) {
        let is_fence = line.starts_with("```");
        let continues = !in_code && !is_fence && !line.is_empty() && !line.starts_with("- ");
        match lines.last_mut().filter(|last| continues && !last.is_empty() && !last.starts_with("```")) {
            Some(last) => {
                last.push(' ');
                last.push_str(line.trim_start());
            }
            None => lines.push(line.to_owned()),
        }
        in_code ^= is_fence;
    }
    lines.join("\n")
}

/// The lines of a doc comment without the space that follows the slashes.
pub(super) fn doc_lines<'a>(doc: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    doc.iter().map(|line| line.strip_prefix(' ').unwrap_or(line))
}

/// The JSON Schema of a section.
pub(super) fn object_schema(keys: &[Key], about: &[&str], generator: &mut SchemaGenerator) -> Schema {
    let mut properties = serde_json::Map::new();
    let mut required = Vec::new();
    for key in keys {
        let mut schema = match key.default {
            Some(_) => (key.nullable_schema)(generator),
            None => (key.schema)(generator),
        };
        if !key.doc.is_empty() {
            schema.insert("description".to_owned(), prose(key.doc).into());
        }
        match key.default {
            Some(default) => {
                let default = serde_saphyr::from_str::<serde_json::Value>(default).unwrap_or_default();
                schema.insert("default".to_owned(), default);
            }
            None if !key.is_optional => required.push(key.name),
            None => {}
        }
        properties.insert(key.name.to_owned(), schema.to_value());
    }
    let mut schema = schemars::json_schema!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if !about.is_empty() {
        schema.insert("description".to_owned(), prose(about).into());
    }
    if !required.is_empty() {
        schema.insert("required".to_owned(), required.into());
    }
    schema
}

/// The state of reading a file: where variables come from, and the faults so far.
pub(super) struct Reader<'a> {
    env: &'a Env<'a>,
    /// The keys at the top, for the advice on a key in the wrong section.
    top: &'static [Key],
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(env: &'a Env<'a>, top: &'static [Key]) -> Reader<'a> {
        Reader { env, top, faults: Vec::new() }
    }

    /// Adds a fault. A repeated one is dropped, because the families of a preset share the file's own keys.
    pub(super) fn push(&mut self, fault: Fault) {
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    /// Returns what was read, or the faults in the order of their places.
    pub(super) fn finish<T>(mut self, read: Option<T>) -> Result<T, Vec<Fault>> {
        self.faults.sort_by_key(|fault| fault.span.start);
        match read {
            Some(read) if self.faults.is_empty() => Ok(read),
            _ => Err(self.faults),
        }
    }

    /// A scalar's text with its variables and files put in.
    pub(super) fn text(&mut self, node: &Node, path: &str) -> Option<String> {
        let found = match &node.kind {
            Kind::Scalar(text) => match interpolate(text, self.env) {
                Ok(text) => return Some(text),
                Err(error) => {
                    let fault = Fault::new(&node.span, format!("{path}: {error}"));
                    let help = "${NAME} or ${NAME:-DEFAULT} is an environment variable, ${file:PATH} a file; a literal ${ is written $${";
                    self.push(fault.help(help));
                    return None;
                }
            },
            Kind::Null => "empty",
            Kind::List(_) => "a list",
            Kind::Section(_) => "a section",
        };
        self.push(Fault::new(&node.span, format!("{path} must be a single value, but is {found}")));
        None
    }

    /// Reports a value that its key type does not accept. The value is shown as the file has it.
    pub(super) fn invalid(&mut self, node: &Node, path: &str, expected: &str) {
        let fault = Fault::invalid(node, path);
        self.push(fault.help(format!("expected {expected}")));
    }
}

/// The entries of a section. Unknown and repeated ones have been reported.
pub(super) struct Entries<'a> {
    keys: &'static [Key],
    path: &'a str,
    entries: &'a [(YamlKey, Node)],
    span: &'a Range<usize>,
    /// Keys that resemble an unknown one, and so are not reported as missing.
    misspelt: Vec<&'static str>,
}

impl<'a> Entries<'a> {
    pub(super) fn of(
        node: &'a Node,
        path: &'a str,
        keys: &'static [Key],
        reader: &mut Reader<'_>,
    ) -> Option<Entries<'a>> {
        let entries: &[(YamlKey, Node)] = match &node.kind {
            Kind::Section(entries) => entries,
            Kind::Null => &[],
            Kind::Scalar(_) | Kind::List(_) => {
                let what = if path.is_empty() { "the file" } else { path };
                let fault = Fault::new(&node.span, format!("{what} must be a section of keys"));
                reader.push(fault.help(format!("its keys are {}", names(keys))));
                return None;
            }
        };
        report_duplicates(entries, path, reader);
        let mut misspelt = Vec::new();
        for (unknown, _) in entries.iter().filter(|(key, _)| !keys.iter().any(|known| known.name == key.name)) {
            let nearest = nearest(&unknown.name, keys);
            misspelt.extend(nearest);
            let help = match nearest {
                Some(nearest) => format!("did you mean {nearest}?"),
                None => advice(&unknown.name, path, keys, reader.top),
            };
            reader.push(Fault::new(&unknown.span, format!("unknown key {}", join(path, &unknown.name))).help(help));
        }
        Some(Entries { keys, path, entries, span: &node.span, misspelt })
    }

    /// A key's value, or its default.
    pub(super) fn read<K: KeyType>(&self, name: &str, reader: &mut Reader<'_>) -> Option<K::Value> {
        let path = join(self.path, name);
        let entry = self.entries.iter().find(|(key, _)| key.name == name);
        if let Some((_, node)) = entry.filter(|(_, node)| !matches!(node.kind, Kind::Null)) {
            return K::read(node, &path, reader);
        }
        let key = self.keys.iter().find(|key| key.name == name)?;
        if let Some(default) = key.default {
            let mut node = parse_yaml(default).ok()?;
            node.relocate(self.span);
            return K::read(&node, &path, reader);
        }
        let absent = K::absent();
        if absent.is_none() && !self.misspelt.contains(&name) {
            let span = entry.map_or(self.span, |(key, _)| &key.span);
            let doc = prose(key.doc);
            reader.push(Fault::new(span, format!("{path} is missing")).help(doc.lines().next().unwrap_or_default()));
        }
        absent
    }
}

/// Reports every key that its section already has.
pub(super) fn report_duplicates(entries: &[(YamlKey, Node)], path: &str, reader: &mut Reader<'_>) {
    for (index, (key, _)) in entries.iter().enumerate() {
        if entries[..index].iter().any(|(other, _)| other.name == key.name) {
            let fault = Fault::new(&key.span, format!("duplicate key {}", join(path, &key.name)));
            reader.push(fault.help("keep one of them"));
        }
    }
}

/// `limits.memory`: the full name of a key.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn names(keys: &[Key]) -> String {
    keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
}

/// The known key that an unknown one resembles.
fn nearest(unknown: &str, keys: &[Key]) -> Option<&'static str> {
    let unknown = unknown.to_lowercase();
    let score = |known: &str| match strsim::damerau_levenshtein(&unknown, known) {
        0 | 1 => 1.0,
        _ => strsim::jaro_winkler(&unknown, known),
    };
    let scored = keys.iter().map(|key| (score(key.name), key.name)).filter(|(score, _)| *score >= SIMILAR);
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// Advice on a key that resembles none of its section.
fn advice(unknown: &str, path: &str, keys: &[Key], top: &'static [Key]) -> String {
    if top.iter().any(|key| key.name == unknown) {
        return if path.is_empty() {
            format!("{unknown} belongs in the main file, not in an included one")
        } else {
            format!("{unknown} belongs at the top level")
        };
    }
    match section_of(unknown, top) {
        Some(path) => format!("{unknown} belongs below {path}"),
        None => format!("known keys: {}", names(keys)),
    }
}

/// The path of the first section that has a key of this name.
fn section_of(name: &str, keys: &'static [Key]) -> Option<String> {
    let nested = || keys.iter().filter_map(|key| Some((key.name, (key.nested)()?.keys)));
    let direct = nested().find(|(_, keys)| keys.iter().any(|key| key.name == name));
    direct
        .map(|(section, _)| section.to_owned())
        .or_else(|| nested().find_map(|(section, keys)| section_of(name, keys).map(|path| join(section, &path))))
}
