//! `hash`, `mask` and `only`: what a tenant receives in place of personal values. Pure.

use super::error::Fault;
use super::hash::Hash;
use super::mapping::Family;
use super::section::Reader;
use super::targets::Targets;
use super::tenants::Tenant;
use super::yaml::Node;
use crate::map::{EMAIL, HashKey, NAME, Redaction, Redactions, Rules, Value, optional};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A shorter key can be guessed.
const MIN_KEY_CHARACTERS: usize = 16;

/// One value of a mapping.
type OfRules = fn(&Rules) -> Option<&Value>;

/// The three keys, as a tenant or `targets` has them.
struct Keys<'a> {
    hash: Option<&'a Hash>,
    mask: Option<&'a Vec<String>>,
    only: Option<&'a Vec<String>>,
}

impl<'a> Keys<'a> {
    fn of_targets(targets: &'a Targets) -> Keys<'a> {
        Keys { hash: targets.hash.as_ref(), mask: targets.mask.as_ref(), only: targets.only.as_ref() }
    }

    fn of_tenant(tenant: &'a Tenant) -> Keys<'a> {
        Keys { hash: tenant.hash.as_ref(), mask: tenant.mask.as_ref(), only: tenant.only.as_ref() }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Keys { hash: None, mask: None, only: None })
    }

    /// These keys, and the others' where these lack one.
    fn or(self, other: Keys<'a>) -> Keys<'a> {
        Keys { hash: self.hash.or(other.hash), mask: self.mask.or(other.mask), only: self.only.or(other.only) }
    }

    fn masks(&self, name: &str) -> bool {
        self.mask.is_some_and(|mask| mask.iter().any(|masked| plain(masked) == name))
    }

    /// `raw_json` could reveal a value that is hashed or masked. So its other columns leave only if `only` lists them.
    fn resolve(&self, path: String) -> Redaction {
        let masked = self.mask.cloned().unwrap_or_default();
        let hides_value = self.hides_email() || self.masks(NAME);
        let columns = || masked.iter().filter(|name| ![NAME, EMAIL].contains(&plain(name))).cloned().collect();
        let only = self.only.cloned().or_else(|| hides_value.then(columns));
        let email_hash = self.hash.map(|hash| HashKey(hash.key.0.clone()));
        Redaction { path, email_hash, masked, only }
    }

    fn hides_email(&self) -> bool {
        self.hash.is_some() || self.masks(EMAIL)
    }

    /// Reports keys that contradict each other, and values that would reveal a hidden one. `node` has the keys.
    fn check(&self, node: &Node, path: &str, families: &[Family], reader: &mut Reader<'_>) {
        let mut report = |key: &str, message: String, help: &str| {
            reader.push(Fault::new(node.span_of(key), message).help(help));
        };
        if let Some(hash) = self.hash
            && hash.key.0.chars().count() < MIN_KEY_CHARACTERS
        {
            let message = format!("{path}.hash.key has fewer than {MIN_KEY_CHARACTERS} characters");
            report("hash.key", message, "generate one: openssl rand -hex 32");
        }
        if self.hash.is_some() && self.masks(EMAIL) {
            report("mask", format!("{path}: email is both hashed and masked"), "remove it from hash or from mask");
        }
        for (mapped, help) in [
            ("id", "references to the user need it as it is"),
            ("display_name", "write name, which masks both"),
            ("primary_email", "write email, which masks both"),
            ("signed_up_at_millis", "leave users.created_at out, for all tenants"),
        ] {
            if self.masks(mapped) {
                report("mask", format!("{path}.mask: {mapped} cannot be masked"), help);
            }
        }
        let hiding = if self.hash.is_some() { "hash" } else { "mask" };
        if self.hides_email() && families.iter().any(|family| shares_column(Some(&family.rules.id), &family.rules)) {
            let message = format!("{path}.{hiding}: users.id is read from a column of users.email, which is hidden");
            report(hiding, message, "use another column as users.id");
        }
        let has_name = |family: &Family| shares_column(family.rules.name.as_ref(), &family.rules);
        if self.hides_email() && !self.masks(NAME) && families.iter().any(has_name) {
            let message = format!("{path}.{hiding}: users.name is read from a column of users.email, which is hidden");
            report(hiding, message, "add name to mask, or take that column out of users.name");
        }
        let is_read = |value: OfRules, column: &str| {
            families.iter().any(|family| value(&family.rules).is_some_and(|value| value.reads(column)))
        };
        let values: [(&str, bool, OfRules); 2] = [
            (EMAIL, self.hides_email(), |rules| rules.email.as_ref()),
            (NAME, self.masks(NAME), |rules| rules.name.as_ref()),
        ];
        for (name, is_hidden, value) in values {
            for column in self.only.into_iter().flatten().map(|column| plain(column)) {
                if is_hidden && !self.masks(column) && is_read(value, column) {
                    let message = format!("{path}.only: the column {column} reveals users.{name}, which is hidden");
                    report("only", message, "remove the column from only, or add it to mask");
                }
            }
            for column in self.mask.into_iter().flatten().map(|column| plain(column)) {
                if !is_hidden && ![NAME, EMAIL].contains(&column) && is_read(value, column) {
                    let message = format!("{path}.mask: users.{name} reveals the column {column}, which is masked");
                    report("mask", message, &format!("add {name} to mask"));
                }
            }
        }
    }
}

/// Whether a value is read from what `users.email` is read from, or from a part of it.
fn shares_column(value: Option<&Value>, rules: &Rules) -> bool {
    let (Some(value), Some(email)) = (value, &rules.email) else { return false };
    email.inputs().into_iter().any(|input| value.reads(input))
        || value.inputs().into_iter().any(|input| email.reads(input))
}

/// A column's name without the `?` of one that the table may lack.
fn plain(name: &str) -> &str {
    optional(name).0
}

/// Checks the keys of `targets`.
pub(super) fn check_default(targets: &Targets, families: &[Family], root: &Node, reader: &mut Reader<'_>) {
    if let Some(node) = root.get("targets") {
        Keys::of_targets(targets).check(node, "targets", families, reader);
    }
}

/// Checks the keys of a tenant together with those of `targets`.
pub(super) fn check_tenant(
    tenant: &Tenant,
    targets: &Targets,
    families: &[Family],
    node: &Node,
    reader: &mut Reader<'_>,
) {
    let keys = Keys::of_tenant(tenant);
    if !keys.is_empty() {
        keys.or(Keys::of_targets(targets)).check(node, &path_of(tenant), families, reader);
    }
}

fn path_of(tenant: &Tenant) -> String {
    format!("tenants[{}]", tenant.id)
}

/// What the configured tenants receive, and all others.
pub(super) fn redactions(targets: &Targets, tenants: &[Arc<Tenant>]) -> Redactions {
    let default = Keys::of_targets(targets);
    let own = tenants.iter().filter(|tenant| !Keys::of_tenant(tenant).is_empty());
    let by_key: BTreeMap<String, Arc<Redaction>> = own
        .map(|tenant| {
            let keys = Keys::of_tenant(tenant).or(Keys::of_targets(targets));
            (tenant.key.as_str().to_owned(), Arc::new(keys.resolve(path_of(tenant))))
        })
        .collect();
    let default = (!default.is_empty()).then(|| Arc::new(default.resolve("targets".to_owned())));
    Redactions { default, by_key }
}
