//! `hash`, `mask` and `only`: what a tenant receives in place of personal values. Pure.

use super::error::Fault;
use super::key_types::{Choice, SecretText};
use super::mapping::Family;
use super::section::{Reader, section};
use super::targets::Targets;
use super::tenants::Tenant;
use super::top::Config;
use super::yaml::Node;
use crate::map::{EMAIL, HashKey, NAME, Redaction, Redactions, Rules, optional};
use crate::pg::Secret;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A shorter key can be guessed.
const MIN_KEY_CHARACTERS: usize = 16;

section! {
    /// A hash in place of the e-mail address, so that the target can compare addresses and not read them.
    ///
    /// ```yaml
    /// tenants:
    ///   - id: acme
    ///     target: ${ACME_DATABASE_URL}
    ///     hash: {email: sha256, key: "${ACME_HASH_KEY}"}
    ///     mask: [name]
    ///     only: [plan, locale]
    /// ```
    pub struct Hash {
        /// Algorithm of the hash.
        pub email: HashAlgorithm as Choice<HashAlgorithm>,
        /// Secret key of the hash, with at least 16 characters: without a secret, an address can be found by hashing many. A
        /// new key causes a snapshot of the tenant.
        pub key: Secret as SecretText,
    }
}

/// `hash.email`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HashAlgorithm {
    /// HMAC-SHA-256 of the address in lower case, in hexadecimal digits:
    /// `encode(hmac(lower(address), key, 'sha256'), 'hex')` of pgcrypto.
    Sha256,
}

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

    /// `raw_json` could tell a value that is hashed or masked. So its other columns leave only if `only` lists them.
    fn resolve(&self, path: String) -> Redaction {
        let masked = self.mask.cloned().unwrap_or_default();
        let hides_value = self.hash.is_some() || self.masks(NAME) || self.masks(EMAIL);
        let columns = || masked.iter().filter(|name| ![NAME, EMAIL].contains(&plain(name))).cloned().collect();
        let only = self.only.cloned().or_else(|| hides_value.then(columns));
        let email_hash = self.hash.map(|hash| HashKey(hash.key.0.clone()));
        Redaction { path, email_hash, masked, only }
    }

    /// Reports keys that contradict each other, and columns that would tell a hidden value. `node` has the keys.
    fn check(&self, node: &Node, path: &str, families: &[Family], reader: &mut Reader<'_>) {
        if let Some(hash) = self.hash
            && hash.key.0.chars().count() < MIN_KEY_CHARACTERS
        {
            let message = format!("{path}.hash.key has fewer than {MIN_KEY_CHARACTERS} characters");
            reader.push(Fault::new(node.span_of("hash.key"), message).help("generate one: openssl rand -hex 32"));
        }
        if self.hash.is_some() && self.masks(EMAIL) {
            let fault = Fault::new(node.span_of("mask"), format!("{path}: email is both hashed and masked"));
            reader.push(fault.help("remove it from hash or from mask"));
        }
        for (mapped, help) in [
            ("id", "references to the user need it as it is"),
            ("display_name", "write name, which masks both"),
            ("primary_email", "write email, which masks both"),
            ("signed_up_at_millis", "leave users.created_at out instead"),
        ] {
            if self.masks(mapped) {
                let fault = Fault::new(node.span_of("mask"), format!("{path}.mask: {mapped} cannot be masked"));
                reader.push(fault.help(help));
            }
        }
        for column in self.only.into_iter().flatten().map(|column| plain(column)) {
            if let Some(value) = self.tells(column, families) {
                let message = format!("{path}.only: the column {column} tells users.{value}, which is hidden");
                let help = "remove the column from only, or add it to mask";
                reader.push(Fault::new(node.span_of("only"), message).help(help));
            }
        }
    }

    /// The hashed or masked value that is read from this column.
    fn tells(&self, column: &str, families: &[Family]) -> Option<&'static str> {
        if self.masks(column) {
            return None;
        }
        let reads = |value: fn(&Rules) -> Option<&crate::map::Value>| {
            families.iter().any(|family| value(&family.rules).is_some_and(|value| value.reads(column)))
        };
        if (self.hash.is_some() || self.masks(EMAIL)) && reads(|rules| rules.email.as_ref()) {
            Some(EMAIL)
        } else if self.masks(NAME) && reads(|rules| rules.name.as_ref()) {
            Some(NAME)
        } else {
            None
        }
    }
}

/// A column's name without the `?` of one that the table may lack.
fn plain(name: &str) -> &str {
    optional(name).0
}

/// Checks the keys of `targets`.
pub(super) fn check_default(config: &Config, root: &Node, reader: &mut Reader<'_>) {
    if let Some(node) = root.get("targets") {
        Keys::of_targets(&config.targets).check(node, "targets", &config.families, reader);
    }
}

/// Checks the keys of a tenant together with those of `targets`.
pub(super) fn check_tenant(config: &Config, tenant: &Tenant, node: &Node, reader: &mut Reader<'_>) {
    let keys = Keys::of_tenant(tenant);
    if !keys.is_empty() {
        let keys = keys.or(Keys::of_targets(&config.targets));
        keys.check(node, &path_of(tenant), &config.families, reader);
    }
}

fn path_of(tenant: &Tenant) -> String {
    format!("tenants[{}]", tenant.id)
}

/// Gives the mapping of each layout what the configured tenants receive.
pub(super) fn set_redactions(config: &mut Config) {
    let default = Keys::of_targets(&config.targets);
    let own = config.tenants.iter().filter(|tenant| !Keys::of_tenant(tenant).is_empty());
    let by_key: BTreeMap<String, Arc<Redaction>> = own
        .map(|tenant| {
            let keys = Keys::of_tenant(tenant).or(Keys::of_targets(&config.targets));
            (tenant.key.as_str().to_owned(), Arc::new(keys.resolve(path_of(tenant))))
        })
        .collect();
    let default = (!default.is_empty()).then(|| Arc::new(default.resolve("targets".to_owned())));
    let redactions = Redactions { default, by_key };
    for family in &mut config.families {
        family.rules.redactions = redactions.clone();
    }
    config.users.redactions = redactions;
}
