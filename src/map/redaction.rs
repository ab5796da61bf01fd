//! What a tenant receives in place of personal values: a hash, a mask, or fewer columns. Pure.

use super::column_name::optional;
use super::row_types::TenantRef;
use crate::model::{TenantKey, hex};
use ring::{digest, hmac};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// What follows the first character of a masked value, and the whole of a masked column.
const MASK: &str = "***";
/// The names that stand for mapped values, and not for columns, in [`Redaction::masked`].
pub(crate) const NAME: &str = "name";
pub(crate) const EMAIL: &str = "email";

/// What one tenant receives in place of personal values. `hash`, `mask` and `only` of the configuration, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redaction {
    /// Where the configuration has it, such as `tenants[acme]`: for errors.
    pub(crate) path: String,
    /// The key of the hash that replaces the e-mail address.
    pub(crate) email_hash: Option<HashKey>,
    /// `name`, `email`, and columns of `raw_json`. A column that the table may lack ends in `?`.
    pub(crate) masked: Vec<String>,
    /// The only columns of `raw_json` beside the mapped values; absent: every column that may leave.
    pub(crate) only: Option<Vec<String>>,
}

/// The secret key of a hash.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HashKey(pub(crate) String);

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey")
    }
}

/// What becomes of a column of `raw_json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    AsIs,
    Masked,
    Hidden,
}

impl Redaction {
    pub(super) fn name<'a>(&self, name: Cow<'a, str>) -> Cow<'a, str> {
        if self.masks(NAME) { mask(&name).into() } else { name }
    }

    pub(super) fn email<'a>(&self, email: Cow<'a, str>) -> Cow<'a, str> {
        match &self.email_hash {
            Some(key) => key.hash(&email).into(),
            None if self.masks(EMAIL) => mask_email(&email).into(),
            None => email,
        }
    }

    pub(super) fn column(&self, column: &str) -> Shown {
        if self.only.as_ref().is_some_and(|only| !lists(only, column)) {
            Shown::Hidden
        } else if self.masks(column) {
            Shown::Masked
        } else {
            Shown::AsIs
        }
    }

    /// The names that stand for columns, as they are written, each with the key that has it.
    pub(super) fn columns(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let masked = self.masked.iter().map(|written| ("mask", written.as_str()));
        let masked = masked.filter(|(_, written)| ![NAME, EMAIL].contains(written));
        masked.chain(self.only.iter().flatten().map(|written| ("only", written.as_str())))
    }

    fn masks(&self, name: &str) -> bool {
        lists(&self.masked, name)
    }

    /// Changes whenever a user would look different to the tenant. The key cannot be computed from it.
    fn fingerprint(&self) -> String {
        let Redaction { path: _, email_hash, masked, only } = self;
        let key = email_hash.as_ref().map(|key| key.hash("fingerprint"));
        let (masked, only) = (masked.iter().collect::<BTreeSet<_>>(), only.as_ref().map(BTreeSet::from_iter));
        let text = format!("{key:?} {masked:?} {only:?}");
        hex(&digest::digest(&digest::SHA256, text.as_bytes()).as_ref()[..16])
    }
}

impl HashKey {
    /// HMAC-SHA-256 of the value in lower case, in hexadecimal digits. pgcrypto: `encode(hmac(lower(value), key, 'sha256'), 'hex')`.
    fn hash(&self, value: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes());
        hex(hmac::sign(&key, value.to_lowercase().as_bytes()).as_ref())
    }
}

fn lists(written: &[String], name: &str) -> bool {
    written.iter().any(|written| optional(written).0 == name)
}

fn mask(text: &str) -> String {
    text.chars().take(1).chain(MASK.chars()).collect()
}

/// `a***@example.com`: the domain stays.
fn mask_email(email: &str) -> String {
    match email.rsplit_once('@') {
        Some((local, domain)) => [&mask(local), "@", domain].concat(),
        None => mask(email),
    }
}

/// The text of a masked column that is not null, as JSON.
pub(super) const MASKED_COLUMN: &str = "\"***\"";

/// The redactions of all tenants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redactions {
    /// For the tenants that are not in `by_key`.
    pub(crate) default: Option<Arc<Redaction>>,
    /// By the tenant's key.
    pub(crate) by_key: BTreeMap<String, Arc<Redaction>>,
}

impl Redactions {
    /// The redaction of the tenant with this key.
    fn of_key(&self, key: &str) -> Option<&Redaction> {
        self.by_key.get(key).or(self.default.as_ref()).map(Arc::as_ref)
    }

    /// The redaction of the tenant of a row.
    pub(super) fn of(&self, tenant: &TenantRef<'_>) -> Option<&Redaction> {
        match tenant {
            TenantRef::Key(key) => self.of_key(key),
            // There is exactly one tenant.
            TenantRef::Only => self.by_key.values().next().or(self.default.as_ref()).map(Arc::as_ref),
            TenantRef::NoTenant | TenantRef::Unsent => None,
        }
    }

    /// The redactions, each once.
    pub(super) fn all(&self) -> impl Iterator<Item = &Redaction> {
        self.default.iter().chain(self.by_key.values()).map(Arc::as_ref)
    }

    /// The fingerprint of the mapping for one tenant: its key decides, too, which rows are its own.
    pub(crate) fn tenant_fingerprint(&self, mapping: &str, key: &TenantKey) -> String {
        match self.of_key(key.as_str()) {
            Some(redaction) => format!("{mapping}+{} {}", redaction.fingerprint(), key.as_str()),
            None => [mapping, key.as_str()].join(" "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redaction() -> Redaction {
        Redaction { path: "tenants[acme]".to_owned(), email_hash: None, masked: Vec::new(), only: None }
    }

    fn hashed(key: &str) -> Redaction {
        Redaction { email_hash: Some(HashKey(key.to_owned())), ..redaction() }
    }

    fn masking(names: &[&str]) -> Redaction {
        Redaction { masked: names.iter().map(|name| (*name).to_owned()).collect(), ..redaction() }
    }

    /// RFC 4231, test case 2: key "Jefe", data "what do ya want for nothing?".
    #[test]
    fn the_hash_is_that_of_the_standard_over_the_address_in_lower_case() {
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hashed("Jefe").email("What do ya WANT for nothing?".into()), expected);
        assert_ne!(hashed("other").email("what do ya want for nothing?".into()), expected);
    }

    #[test]
    fn a_mask_keeps_the_first_character_and_the_domain() {
        let masking = masking(&["name", "email"]);
        for (email, masked) in [
            ("ada@example.com", "a***@example.com"),
            ("@example.com", "***@example.com"),
            ("\"a@b\"@example.com", "\"***@example.com"),
            ("émile", "é***"),
        ] {
            assert_eq!(masking.email(email.into()), masked);
        }
        assert_eq!(masking.name("Ada Lovelace".into()), "A***");
        assert_eq!(redaction().name("Ada".into()), "Ada");
        assert_eq!(redaction().email("ada@example.com".into()), "ada@example.com");
    }

    #[test]
    fn columns_are_shown_masked_or_hidden() {
        let only = Redaction { only: Some(vec!["phone?".to_owned(), "plan".to_owned()]), ..masking(&["phone?"]) };
        assert_eq!(
            ["phone", "plan", "city"].map(|name| only.column(name)),
            [Shown::Masked, Shown::AsIs, Shown::Hidden]
        );
        assert_eq!(masking(&["phone"]).column("city"), Shown::AsIs);
        assert_eq!(only.columns().collect::<Vec<_>>(), [("mask", "phone?"), ("only", "phone?"), ("only", "plan")]);
        let mapped = masking(&["name", "email", "phone"]);
        assert_eq!(mapped.columns().collect::<Vec<_>>(), [("mask", "phone")]);
    }

    #[test]
    fn a_tenant_without_a_redaction_of_its_own_has_the_default() {
        let by_key = BTreeMap::from([("acme".to_owned(), Arc::new(masking(&["name"])))]);
        let redactions = Redactions { default: Some(Arc::new(hashed("k"))), by_key };
        assert_eq!(redactions.of(&TenantRef::Key("acme".into())), Some(&masking(&["name"])));
        assert_eq!(redactions.of(&TenantRef::Key("globex".into())), Some(&hashed("k")));
        assert_eq!(redactions.of(&TenantRef::Only), Some(&masking(&["name"])));
        assert_eq!(Redactions::default().of(&TenantRef::Only), None);
    }

    /// State, checkpoints and Kafka positions store it.
    #[test]
    fn the_fingerprint_of_a_tenant_without_a_redaction_never_changes() {
        let key = TenantKey::new("acme inc");
        let fingerprint = |redaction: Option<Redaction>| {
            Redactions { default: redaction.map(Arc::new), by_key: BTreeMap::new() }.tenant_fingerprint("00ff", &key)
        };
        assert_eq!(fingerprint(None), "00ff acme inc");
        let others = [
            fingerprint(Some(hashed("k"))),
            fingerprint(Some(hashed("l"))),
            fingerprint(Some(masking(&["name"]))),
            fingerprint(Some(masking(&["email"]))),
            fingerprint(Some(Redaction { only: Some(Vec::new()), ..redaction() })),
        ];
        for (place, other) in others.iter().enumerate() {
            assert!(other.starts_with("00ff+") && other.ends_with(" acme inc"), "{other}");
            assert!(!others[..place].contains(other), "{other}");
        }
        let reordered = masking(&["email", "name", "email"]);
        assert_eq!(fingerprint(Some(reordered)), fingerprint(Some(masking(&["name", "email"]))));
        let moved = Redaction { path: "targets".to_owned(), ..hashed("k") };
        assert_eq!(fingerprint(Some(moved)), others[0]);
    }
}
