//! The section `hash` of a tenant: a hash in place of the e-mail address. Pure.

use super::key_types::{Choice, SecretText};
use super::section::section;
use crate::pg::Secret;
use schemars::JsonSchema;
use serde::Deserialize;

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
