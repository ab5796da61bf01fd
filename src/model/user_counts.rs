//! How many users of the source belong to no configured tenant, and which tenants have none. Pure.

use super::TenantId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most characters that are kept of a key that is shown.
pub(crate) const SHOWN_KEY: usize = 100;
/// Most keys that are listed.
pub(crate) const LISTED_KEYS: usize = 20;
/// Configured keys for which a similar one is looked for: each is compared with every existing key.
const MAX_COMPARED: usize = 100;

/// The outcome of a count, as the state stores it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserCount {
    /// The source was read.
    Counted(UserCounts),
    /// Why it was not.
    Unknown(String),
}

/// The users of the source by tenant, as far as a tenant is missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserCounts {
    /// Users whose key is null or empty.
    pub without_key: u64,
    /// Users with a key that no configured tenant has.
    pub with_unknown_key: u64,
    /// Number of these keys.
    pub unknown_keys: u64,
    /// Those with the most users, each cut to 100 characters.
    pub listed: Vec<KeyCount>,
    /// Configured keys that no user has. Empty if the source has no user at all.
    pub unused: Vec<UnusedKey>,
}

/// A key and the number of its users.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeyCount {
    /// The value of `users.tenant`, at most 100 characters of it.
    pub key: String,
    /// Number of users.
    pub users: u64,
}

/// A configured key that no user has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnusedKey {
    /// The key.
    pub key: String,
    /// The key that was probably meant.
    pub nearest: Option<NearestKey>,
}

/// A key that users have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearestKey {
    /// The key.
    pub key: String,
    /// Why it may be the intended one.
    pub why: String,
}

/// What is known of the keys that users have.
#[derive(Debug, Default)]
pub(crate) struct ExistingKeys {
    pub(crate) keys: BTreeSet<String>,
    /// Keys, and the table that names them, by their name in lower case.
    pub(crate) named: BTreeMap<String, (String, String)>,
}

impl UserCounts {
    /// Users without a tenant.
    pub fn without_tenant(&self) -> u64 {
        self.without_key + self.with_unknown_key
    }

    pub(crate) fn describe(&self) -> String {
        describe_keys(self.without_key, self.with_unknown_key, &self.listed)
    }
}

/// `2 without a key, 3 of initech`: escaped, on one line.
pub(crate) fn describe_keys(without_key: u64, with_unknown_key: u64, listed: &[KeyCount]) -> String {
    let keyless = (without_key > 0).then(|| format!("{without_key} without a key"));
    let keys = listed.iter().map(|KeyCount { key, users }| format!("{users} of {}", super::printable_line(key)));
    let rest = with_unknown_key.saturating_sub(listed.iter().map(|count| count.users).sum());
    let rest = (rest > 0).then(|| format!("{rest} of other keys"));
    keyless.into_iter().chain(keys).chain(rest).collect::<Vec<_>>().join(", ")
}

impl UnusedKey {
    /// Each key with the existing one that is nearest to it.
    pub(crate) fn compare(keys: Vec<String>, existing: &ExistingKeys) -> Vec<UnusedKey> {
        let compared = keys.into_iter().enumerate().map(|(n, key)| {
            let nearest = existing.nearest(&key.to_lowercase(), n < MAX_COMPARED);
            UnusedKey { key, nearest }
        });
        compared.collect()
    }

    /// What is wrong, on one line.
    pub(crate) fn describe(&self) -> String {
        format!("no user of the source has the key {}", super::printable_line(&super::clip(&self.key)))
    }

    /// How to correct the key of this tenant.
    pub(crate) fn remedy(&self, tenant: &TenantId) -> String {
        match &self.nearest {
            Some(NearestKey { key, why }) => {
                format!("tenants: [{{id: {tenant}, key: '{}', ...}}]    # {why}", key.replace('\'', "''"))
            }
            None => {
                "set its key to the value that its users have in users.tenant, unless it has no users yet".to_owned()
            }
        }
    }
}

impl ExistingKeys {
    fn nearest(&self, lowered: &str, compares: bool) -> Option<NearestKey> {
        let found = |key: &str, why: String| Some(NearestKey { key: key.to_owned(), why });
        if let Some(key) = self.keys.iter().find(|key| key.to_lowercase() == lowered) {
            return found(key, "users have this key, which differs in upper and lower case".to_owned());
        }
        if let Some((key, table)) = self.named.get(lowered) {
            return found(key, format!("{table} has this key for that name"));
        }
        found(self.most_similar(lowered).filter(|_| compares)?, "did you mean this one?".to_owned())
    }

    fn most_similar(&self, lowered: &str) -> Option<&str> {
        /// Jaro-Winkler similarity below which keys are unrelated. Two random UUIDs have less.
        const MIN_SIMILARITY: f64 = 0.8;
        let scored = self.keys.iter().map(|key| (strsim::jaro_winkler(lowered, &key.to_lowercase()), key.as_str()));
        let similar = scored.filter(|(score, _)| *score >= MIN_SIMILARITY);
        similar.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "7b1d3f52-0c1e-4f6a-9b57-2f1f0a9f6c11";

    #[track_caller]
    fn check(key: &str, remedy: &str) {
        let existing = ExistingKeys {
            keys: [UUID, "globex", "it's", "another"].map(str::to_owned).into(),
            named: [("hooli".to_owned(), (UUID.to_owned(), "public.realm".to_owned()))].into(),
        };
        let [unused] = &UnusedKey::compare(vec![key.to_owned()], &existing)[..] else { panic!("not one") };
        assert_eq!(unused.describe(), format!("no user of the source has the key {key}"));
        let found = unused.remedy(&TenantId::new("acme"));
        assert!(found.contains(remedy), "{found}");
    }

    #[test]
    fn the_nearest_key_is_named() {
        check(&UUID.to_uppercase(), &format!("key: '{UUID}', ...}}]    # users have this key"));
        check("7b1d3f52-0c1e-4f6a-9b57-2f1f0a9f6c1l", &format!("key: '{UUID}', ...}}]    # did you mean"));
        check("Hooli", &format!("key: '{UUID}', ...}}]    # public.realm has this key for that name"));
        check("glboex", "key: 'globex'");
        check("its", "key: 'it''s'");
        check("e0a8f9c2-93d4-4b7e-8f20-6c5d4e3b2a19", "unless it has no users yet");
    }

    #[test]
    fn the_description_has_every_kind_and_no_control_character() {
        let listed =
            vec![KeyCount { key: "initech".into(), users: 3 }, KeyCount { key: "a\u{1b}[2J\n".into(), users: 2 }];
        let counts = UserCounts { without_key: 1, with_unknown_key: 9, unknown_keys: 7, listed, unused: Vec::new() };
        assert_eq!(counts.without_tenant(), 10);
        let expected = "1 without a key, 3 of initech, 2 of a\\u001b[2J\\n, 4 of other keys";
        assert_eq!(counts.describe(), expected);
    }
}
