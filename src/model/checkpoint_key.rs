//! The key that signs checkpoints (HMAC-SHA-256, RFC 2104).

use ring::hmac;
use std::fmt;

/// Length of a key and of a signature, in bytes.
pub(crate) const CHECKPOINT_KEY_BYTES: usize = 32;

/// A secret of the state: proves that users-sync wrote a checkpoint. Never logged.
#[derive(Clone)]
pub struct CheckpointKey(hmac::Key);

impl CheckpointKey {
    /// The key with these bytes; `None` if there are too few for a secret.
    pub fn new(bytes: &[u8]) -> Option<CheckpointKey> {
        (bytes.len() >= CHECKPOINT_KEY_BYTES).then(|| CheckpointKey(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// The signature of `message`.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        hmac::sign(&self.0, message).as_ref().to_vec()
    }

    /// Whether `signature` is the one of `message`. Compares in constant time.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        hmac::verify(&self.0, message, signature).is_ok()
    }
}

impl fmt::Debug for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckpointKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_key_is_refused_and_no_key_is_shown() {
        assert!(CheckpointKey::new(&[7; 31]).is_none());
        let key = CheckpointKey::new(&[7; 32]).unwrap();
        assert_eq!(format!("{key:?}"), "CheckpointKey(redacted)");
        assert!(key.verifies(b"a", &key.sign(b"a")) && !key.verifies(b"b", &key.sign(b"a")));
    }
}
