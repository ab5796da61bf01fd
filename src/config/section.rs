//! A section of the file against the keys that it may have, and its values as text. Pure.

use super::error::Fault;
use super::interpolate::{Env, interpolate};
use super::raw::{Key, Kind, Node};
use crate::pg::PgUrl;
use std::ops::Range;

/// The keys of a section. `later` are settled, but not built yet: they are refused, never ignored.
pub(super) struct Known {
    /// The section's path, `limits`; empty at the top.
    pub(super) path: &'static str,
    pub(super) keys: &'static [&'static str],
    pub(super) later: &'static [&'static str],
}

pub(super) const TOP: Known = Known {
    path: "",
    keys: &[
        "source",
        "state",
        "users",
        "tenants",
        "include",
        "wake_after",
        "deletes",
        "notify",
        "limits",
        "on_slot_loss",
        "log",
        "kafka",
        "admin",
    ],
    later: &[],
};
pub(super) const SOURCE: Known = Known { path: "source", keys: &["url", "slot", "publication", "publish"], later: &[] };
pub(super) const STATE: Known = Known { path: "state", keys: &["url"], later: &[] };
pub(super) const USERS: Known = Known {
    path: "users",
    keys: &[
        "preset",
        "table",
        "id",
        "name",
        "email",
        "created_at",
        "updated_at",
        "deleted_at",
        "tenant",
        "where",
        "allow",
        "exclude",
        "query",
        "key",
        "watch",
        "fan_out",
    ],
    later: &[],
};
pub(super) const WATCH: Known = Known { path: "users.watch", keys: &["table", "key", "tenant", "via"], later: &[] };
pub(super) const VIA: Known = Known { path: "users.watch.via", keys: &["table", "from", "to"], later: &[] };
pub(super) const FAN_OUT: Known = Known { path: "users.fan_out", keys: &["table", "id", "tenant"], later: &[] };
pub(super) const PRESET: Known = Known { path: "", keys: &["about", "verified", "users", "families"], later: &[] };
pub(super) const FAMILY: Known = Known { path: "families", keys: &["name", "has", "users"], later: &[] };
pub(super) const TENANT: Known = Known { path: "tenants", keys: &["id", "key", "target", "wake_after"], later: &[] };
pub(super) const INCLUDED: Known = Known { path: "", keys: &["tenants"], later: &[] };
pub(super) const DELETES: Known = Known { path: "deletes", keys: &["mode", "purge_after"], later: &[] };
pub(super) const LIMITS: Known = Known {
    path: "limits",
    keys: &["source_wal", "memory", "tenant_memory", "park_after", "stall", "max_deletes", "snapshot_age", "kafka_wal"],
    later: &[],
};
pub(super) const KAFKA: Known = Known {
    path: "kafka",
    keys: &[
        "brokers",
        "topic",
        "format",
        "schemas",
        "tombstone_on_delete",
        "exactly_once",
        "snapshot",
        "create_topics",
        "partitions",
        "replication",
        "positions_topic",
        "slot",
        "properties",
    ],
    later: &[],
};
pub(super) const ADMIN: Known = Known { path: "admin", keys: &["listen", "token"], later: &[] };
const SECTIONS: [&Known; 12] =
    [&TOP, &SOURCE, &STATE, &USERS, &TENANT, &DELETES, &LIMITS, &WATCH, &VIA, &FAN_OUT, &KAFKA, &ADMIN];

pub(super) const SLOT: &str = "lower-case letters, digits and underscores, at most 63";

/// PostgreSQL's NAMEDATALEN leaves this many bytes to a name.
const LONGEST_NAME: usize = 63;

/// Below this, names have little to do with each other.
const SIMILAR: f64 = 0.75;

/// A section all of whose keys are known.
pub(super) struct Section<'a> {
    known: &'static Known,
    entries: &'a [(Key, Node)],
    span: &'a Range<usize>,
    from: &'a Env<'a>,
}

impl<'a> Section<'a> {
    /// Checks the keys of a node; an absent section is an empty one.
    pub(super) fn of(node: &'a Node, known: &'static Known, from: &'a Env<'a>) -> Result<Section<'a>, Fault> {
        let entries: &[(Key, Node)] = match &node.kind {
            Kind::Section(entries) => entries,
            Kind::Null => &[],
            Kind::Scalar(_) | Kind::List(_) => {
                let what = if known.path.is_empty() { "the file" } else { known.path };
                let help = format!("its keys are {}", known.keys.join(", "));
                return Err(Fault::new(&node.span, format!("{what} has to be a section of keys")).help(help));
            }
        };
        for (key, _) in entries {
            if known.later.contains(&&*key.name) {
                let message = format!("{} is not supported yet", known.full(&key.name));
                return Err(Fault::new(&key.span, message).help("leave it out"));
            }
            if !known.keys.contains(&&*key.name) {
                return Err(known.unknown(key));
            }
        }
        Ok(Section { known, entries, span: &node.span, from })
    }

    /// The node of a key, unless it is absent or null.
    pub(super) fn node(&self, name: &'static str) -> Option<&'a Node> {
        let (_, node) = self.entries.iter().find(|(key, _)| key.name == name)?;
        (!matches!(node.kind, Kind::Null)).then_some(node)
    }

    /// A key's text, if it is there.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<String>, Fault> {
        self.node(name).map(|node| text(node, &self.path(name), self.from)).transpose()
    }

    /// A key's node that has to be there.
    pub(super) fn required(&self, name: &'static str, help: &str) -> Result<&'a Node, Fault> {
        let span = self.entries.iter().find(|(key, _)| key.name == name).map_or(self.span, |(key, _)| &key.span);
        self.node(name).ok_or_else(|| Fault::new(span, format!("{} is missing", self.path(name))).help(help))
    }

    /// A key's value, read by `parse`, or its default.
    pub(super) fn parsed<T>(
        &self,
        name: &'static str,
        default: T,
        parse: impl Fn(&str) -> Option<T>,
        takes: &str,
    ) -> Result<T, Fault> {
        let Some(node) = self.node(name) else { return Ok(default) };
        let path = self.path(name);
        parse(&text(node, &path, self.from)?).ok_or_else(|| {
            Fault::new(&node.span, format!("{path} has no such value")).help(format!("it takes {takes}"))
        })
    }

    /// A key's texts; empty where it is absent.
    pub(super) fn texts(&self, name: &'static str) -> Result<Vec<String>, Fault> {
        let path = self.path(name);
        match self.node(name) {
            None => Ok(Vec::new()),
            Some(Node { kind: Kind::List(items), .. }) => {
                items.iter().map(|item| text(item, &path, self.from)).collect()
            }
            Some(node) => {
                Err(Fault::new(&node.span, format!("{path} has to be a list")).help(format!("{name}: [a, b]")))
            }
        }
    }

    /// The same, where one alone needs no list.
    pub(super) fn one_or_more(&self, name: &'static str) -> Result<Vec<String>, Fault> {
        match self.node(name) {
            Some(node @ Node { kind: Kind::Scalar(_), .. }) => Ok(vec![text(node, &self.path(name), self.from)?]),
            _ => self.texts(name),
        }
    }

    /// A key that is switched on or off.
    pub(super) fn switch(&self, name: &'static str, default: bool) -> Result<bool, Fault> {
        let parse = |text: &str| match text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        };
        self.parsed(name, default, parse, "true or false")
    }

    /// A key's own keys, whatever their names are, with their texts.
    pub(super) fn free(&self, name: &'static str) -> Result<Vec<(&'a Key, String)>, Fault> {
        let path = self.path(name);
        match self.node(name).map(|node| (&node.kind, node)) {
            None => Ok(Vec::new()),
            Some((Kind::Section(entries), _)) => entries
                .iter()
                .map(|(key, node)| Ok((key, text(node, &format!("{path}.{}", key.name), self.from)?)))
                .collect(),
            Some((_, node)) => {
                let help = format!("{name}: {{key: value}}");
                Err(Fault::new(&node.span, format!("{path} has to be a section of keys")).help(help))
            }
        }
    }

    /// `limits.memory`: as people speak of a key.
    pub(super) fn path(&self, name: &str) -> String {
        self.known.full(name)
    }
}

impl Known {
    fn full(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn unknown(&self, key: &Key) -> Fault {
        let fault = Fault::new(&key.span, format!("unknown key {}", self.full(&key.name)));
        let all = self.keys.iter().chain(self.later);
        let name = key.name.to_lowercase();
        let score = |known: &str| match strsim::damerau_levenshtein(&name, known) {
            0 | 1 => 1.0,
            _ => strsim::jaro_winkler(&name, known),
        };
        let scored = all.map(|known| (score(known), known));
        let nearest = scored.filter(|(score, _)| *score >= SIMILAR).max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, nearest)) = nearest {
            return fault.help(format!("did you mean {nearest}?"));
        }
        match SECTIONS.iter().find(|section| section.keys.contains(&&*key.name)) {
            Some(section) if section.path.is_empty() => {
                fault.help(format!("{} stands at the top, not in here", key.name))
            }
            Some(section) => fault.help(format!("{} belongs below {}", key.name, section.path)),
            None => fault.help(format!("known are {}", self.keys.join(", "))),
        }
    }
}

/// Whether the server takes it as a name.
pub(super) fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len()) && !name.contains('\0')
}

/// A scalar's text, with its variables and files put in.
pub(super) fn text(node: &Node, path: &str, from: &Env<'_>) -> Result<String, Fault> {
    let what = match &node.kind {
        Kind::Scalar(text) => {
            return interpolate(text, from).map_err(|error| {
                Fault::new(&node.span, format!("{path}: {error}"))
                    .help("${NAME} is an environment variable, ${file:PATH} a file; a literal ${ is written $${")
            });
        }
        Kind::Null => "empty",
        Kind::List(_) => "a list",
        Kind::Section(_) => "a section",
    };
    Err(Fault::new(&node.span, format!("{path} has to be a text, but is {what}")))
}

/// Whether the server takes it as a slot's name.
pub(super) fn is_slot(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    is_name(name) && name.bytes().all(allowed)
}

pub(super) fn url(node: &Node, path: &str, from: &Env<'_>) -> Result<PgUrl, Fault> {
    let text = text(node, path, from)?;
    if text.trim().is_empty() {
        return Err(Fault::new(&node.span, format!("{path} is empty")).help("postgres://user:password@host/database"));
    }
    PgUrl::parse(&text).map_err(|error| {
        Fault::new(&node.span, format!("{path} is not a usable URL: {error}"))
            .help("postgres://user:password@host:5432/database?sslmode=verify-full")
    })
}
