//! Hides what may be a secret in the text of a file, so that its lines can be shown: every value except those of keys
//! that are known to be harmless, and every comment. Places stay the same, byte for byte. Pure.

use super::yaml::{Kind, Node, parse_yaml};
use std::ops::Range;

/// Keys whose values are names, numbers, times or switches.
const HARMLESS: &[&str] = &[
    "about",
    "allow",
    "column",
    "create_topics",
    "created_at",
    "deleted_at",
    "deletes",
    "email",
    "exactly_once",
    "exclude",
    "format",
    "from",
    "group",
    "has",
    "id",
    "include",
    "instance",
    "join",
    "kafka_wal",
    "key",
    "listen",
    "log",
    "mask",
    "max_deletes",
    "memory",
    "mode",
    "name",
    "notify",
    "on_slot_loss",
    "only",
    "park_after",
    "partitions",
    "positions_topic",
    "preset",
    "publication",
    "publish",
    "purge_after",
    "replication",
    "schema",
    "schemas",
    "share_role",
    "slot",
    "snapshot",
    "snapshot_age",
    "snapshots_topic",
    "source_wal",
    "stall",
    "table",
    "tenant",
    "tenant_memory",
    "to",
    "tombstone_on_delete",
    "topic",
    "unit",
    "unless",
    "updated_at",
    "verified",
    "wake_after",
];

/// Sections whose keys are judged one by one. Below any other key, everything is hidden.
const SECTIONS: &[&str] = &[
    "admin", "fan_out", "families", "kafka", "limits", "source", "spool", "state", "targets", "tenants", "users",
    "via", "watch",
];

/// Longer keys, and those with other characters, may be a value in the wrong place.
const MAX_KEY_LEN: usize = 40;

/// Longer values are no names.
const MAX_VALUE_LEN: usize = 100;

/// The text with `*` for everything that may be a secret.
pub(super) fn mask(text: &str) -> String {
    let mut parts = Vec::new();
    match parse_yaml(text) {
        Ok(root) => collect(&root, Trust::Section, text, &mut parts),
        Err(_) => parts.extend(line_keys(text).map(|place| Part { place, is_shown: true })),
    }
    parts.sort_by_key(|part| part.place.start);
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for Part { place, is_shown } in parts {
        // An alias has the place of its anchor, which is in front.
        let (Some(before), Some(part)) = (text.get(at..place.start), text.get(place.clone())) else { continue };
        hide(before, is_punctuation, &mut out);
        if is_shown {
            out.push_str(part);
        } else {
            hide(part, |_| false, &mut out);
        }
        at = place.end;
    }
    hide(&text[at..], is_punctuation, &mut out);
    out
}

/// Whether a value of this key can be shown.
pub(super) fn is_harmless(path: &str, value: &str) -> bool {
    let mut names = path.rsplit('.').map(|name| name.split('[').next().unwrap_or_default());
    names.next().is_some_and(|key| HARMLESS.contains(&key))
        && names.all(|section| SECTIONS.contains(&section) || HARMLESS.contains(&section))
        && is_plain(value)
}

/// A value without the signs of a URL or a password. The name of a variable or a file is not its value.
fn is_plain(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    value.len() <= MAX_VALUE_LEN && !["://", "password", "secret", "token", "@"].iter().any(|sign| lower.contains(sign))
}

/// A key or a value.
struct Part {
    place: Range<usize>,
    is_shown: bool,
}

/// What the key of a value says about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Values are shown, and keys are judged one by one.
    Harmless,
    /// Keys are judged one by one.
    Section,
    /// Everything is hidden.
    Unknown,
}

/// Adds the places of keys and values.
fn collect(node: &Node, trust: Trust, text: &str, parts: &mut Vec<Part>) {
    match &node.kind {
        Kind::Null => {}
        Kind::Scalar(value) => {
            let is_variable = value.starts_with("${") && value.find('}') == Some(value.len() - 1);
            let is_shown = is_variable || (trust == Trust::Harmless && is_plain(value));
            parts.push(Part { place: node.span.clone(), is_shown });
        }
        Kind::List(items) => items.iter().for_each(|item| collect(item, trust, text, parts)),
        Kind::Section(entries) => {
            for (key, value) in entries {
                let is_shown = is_key(text.get(key.span.clone()).unwrap_or_default());
                parts.push(Part { place: key.span.clone(), is_shown });
                let below = match key.name.as_str() {
                    _ if trust == Trust::Unknown => Trust::Unknown,
                    name if HARMLESS.contains(&name) => Trust::Harmless,
                    name if SECTIONS.contains(&name) => Trust::Section,
                    _ => Trust::Unknown,
                };
                collect(value, below, text, parts);
            }
        }
    }
}

fn is_key(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    text.len() <= MAX_KEY_LEN && text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(allowed)
}

/// The keys at the beginnings of lines, in a text that is not YAML.
fn line_keys(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    text.split_inclusive('\n').filter_map(move |line| {
        let begin = start;
        start += line.len();
        let inner = line.trim_start_matches([' ', '-']);
        let (key, _) = inner.split_once(':')?;
        let from = begin + line.len() - inner.len();
        is_key(key).then(|| from..from + key.len())
    })
}

/// The signs of YAML that stand around keys and values.
fn is_punctuation(c: char) -> bool {
    matches!(c, ':' | '-' | ',' | '[' | ']' | '{' | '}' | '"' | '\'' | '#' | '|' | '>')
}

/// Keeps white space and some signs.
fn hide(text: &str, keeps: impl Fn(char) -> bool, out: &mut String) {
    for c in text.chars() {
        if c.is_whitespace() || keeps(c) {
            out.push(c);
        } else {
            out.extend(std::iter::repeat_n('*', c.len_utf8()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_keys_and_harmless_values_are_shown() {
        for (text, expected) in [
            ("source:\n  url: ${DB}\n", "source:\n  url: ${DB}\n"),
            (
                "source: {url: postgres://u:pw@h/db, slot: s} # hint\n",
                "source: {url: ********************, slot: s} # ****\n",
            ),
            ("source: {url: \"postgres://é\"}", "source: {url: ***************}"),
            ("admin: {token: hunter2, listen: a:1}", "admin: {token: *******, listen: a:1}"),
            (
                "users: {id: [a, b], name: {join: [c, d], with: e}}",
                "users: {id: [a, b], name: {join: [c, d], with: *}}",
            ),
            ("users: {id: {constant: x, column: y}}", "users: {id: {constant: *, column: y}}"),
            (
                "kafka: {properties: {id: x, sasl.username: y}, topic: t}",
                "kafka: {properties: {id: *, sasl.username: *}, topic: t}",
            ),
            ("slott: hunter2\nsource: {slot: x}", "slott: *******\nsource: {slot: x}"),
            ("unknown: {name: hunter2}", "unknown: {name: *******}"),
            ("users: {id: my_password, name: 'a@b'}", "users: {id: ***********, name: *****}"),
            ("url postgres//u:pw: x", "*** **************: *"),
            ("hunter2", "*******"),
            ("source: here", "source: ****"),
            ("a:\n  - b: [hunter2\nurl: x", "a:\n  - b: [*******\nurl: *"),
        ] {
            let masked = mask(text);
            assert_eq!(masked.len(), text.len(), "{text}");
            assert_eq!(masked, expected, "{text}");
        }
    }

    #[test]
    fn block_texts_are_hidden_whole() {
        let text = "users:\n  query: |\n    SELECT 'hunter2'\n    FROM x\n  table: a.b\nadmin:\n  token: >-\n    hunter2\n    hunter3\n";
        let masked = mask(text);
        assert!(!masked.contains("hunter") && !masked.contains("SELECT") && masked.contains("table: a.b"), "{masked}");
    }

    #[test]
    fn values_are_shown_by_their_paths() {
        for path in ["source.slot", "tenants[c].wake_after", "users.id.unit", "limits.memory", "deletes"] {
            assert!(is_harmless(path, "x"), "{path}");
        }
        for path in ["source.url", "tenants[c].target", "admin.token", "kafka.properties.id", "zzz.id"] {
            assert!(!is_harmless(path, "x"), "{path}");
        }
        assert!(!is_harmless("source.slot", "postgres://u:pw@h"));
    }

    proptest! {
        #[test]
        fn secrets_are_hidden_whatever_is_wrong_around_them(
            around in "[\\[\\]{}:,'\"# \\n-]{0,8}", key in "url|target|token|sasl.password|zzz|with|constant|query",
        ) {
            for text in [
                format!("source:\n  {key}: {around}hunter2\n"),
                format!("users: {{{key}: {around}hunter2}}\n"),
                format!("tenants: [{{id: a, {key}: 'hunter2'}}]{around}\n"),
                format!("{around}\n{key}: hunter2 {around}"),
            ] {
                let masked = mask(&text);
                prop_assert_eq!(masked.len(), text.len());
                // Where the damage makes it a key, or the value of `id`, it is no value of the key.
                if let Ok(root) = parse_yaml(&text) && !is_key_or_harmless(&root) {
                    prop_assert!(!masked.contains("hunter2"), "{}", masked);
                }
            }
        }
    }

    fn is_key_or_harmless(node: &Node) -> bool {
        match &node.kind {
            Kind::Null | Kind::Scalar(_) => false,
            Kind::List(items) => items.iter().any(is_key_or_harmless),
            Kind::Section(entries) => {
                entries.iter().any(|(key, value)| key.name.contains("hunter2") || is_key_or_harmless(value))
            }
        }
    }
}
