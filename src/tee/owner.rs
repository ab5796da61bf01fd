//! Who wrote a record of the positions topic: this installation, another one, or a program without its key. Pure.

use crate::model::{CheckpointKey, hex};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Field of a record: the id of the installation that wrote it.
const INSTALLATION: &str = "installation";
/// Field of a record: the signature of its key and its other fields.
const SIGNATURE: &str = "signature";
/// Bytes of a signature from which the installation's id is made. The id is public; the key is not.
const ID_BYTES: usize = 8;

/// An installation and its slot: writes records, and recognises its own.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    /// Name of the Kafka output's slot.
    pub(crate) slot: String,
    /// Id of the installation. Another state, or another slot in the same state, has another one.
    pub(crate) installation: String,
    key: CheckpointKey,
}

/// Whose record it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Written by this installation.
    Own,
    /// Without an installation, as version 0.2.0 writes it.
    Unsigned,
    /// It has this installation's id without its signature, or cannot be read.
    Altered,
    /// Written by the installation with this id.
    Foreign(String),
}

/// A record, with its writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opened<T> {
    pub(crate) origin: Origin,
    /// `None` if it cannot be read.
    pub(crate) content: Option<T>,
}

impl Owner {
    pub(crate) fn new(slot: &str, key: &CheckpointKey) -> Owner {
        let id = key.sign(b"users-sync: id of the installation in Kafka");
        Owner { slot: slot.to_owned(), installation: hex(&id[..ID_BYTES]), key: key.clone() }
    }

    /// The record's value, signed.
    pub(super) fn seal(&self, key: &str, content: &impl Serialize) -> String {
        let Ok(Value::Object(mut fields)) = serde_json::to_value(content) else { return String::new() };
        fields.insert(INSTALLATION.to_owned(), self.installation.clone().into());
        let signature = self.key.sign(&message(key, &fields));
        fields.insert(SIGNATURE.to_owned(), hex(&signature).into());
        Value::Object(fields).to_string()
    }

    /// Reads a record's value.
    pub(super) fn open<T: DeserializeOwned>(&self, key: &str, value: &[u8]) -> Opened<T> {
        let Ok(Value::Object(mut fields)) = serde_json::from_slice(value) else {
            return Opened { origin: Origin::Altered, content: None };
        };
        let signature = fields.remove(SIGNATURE);
        let origin = match fields.get(INSTALLATION) {
            None => Origin::Unsigned,
            Some(Value::String(id)) if *id != self.installation => Origin::Foreign(id.clone()),
            Some(_) => {
                let signature = signature.as_ref().and_then(Value::as_str).and_then(unhex).unwrap_or_default();
                if self.key.verifies(&message(key, &fields), &signature) { Origin::Own } else { Origin::Altered }
            }
        };
        match (origin, serde_json::from_value(Value::Object(fields)).ok()) {
            (Origin::Own | Origin::Unsigned, None) => Opened { origin: Origin::Altered, content: None },
            (origin, content) => Opened { origin, content },
        }
    }
}

/// What is signed. The fields of a JSON object are sorted.
fn message(key: &str, fields: &Map<String, Value>) -> Vec<u8> {
    format!("{key}\n{}", serde_json::to_string(fields).unwrap_or_default()).into_bytes()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn owner(byte: u8) -> Owner {
        Owner::new("s", &CheckpointKey::new(&[byte; 32]).unwrap())
    }

    #[test]
    fn a_record_is_recognised_by_its_signature() {
        let (own, other) = (owner(1), owner(2));
        let sealed = own.seal("k", &json!({"b": 1, "a": "x"}));
        let open = |owner: &Owner, key: &str, text: &str| owner.open::<Value>(key, text.as_bytes()).origin;
        assert_eq!(open(&own, "k", &sealed), Origin::Own);
        assert_eq!(open(&own, "another", &sealed), Origin::Altered);
        assert_eq!(open(&own, "k", &sealed.replace("\"b\":1", "\"b\":2")), Origin::Altered);
        assert_eq!(open(&other, "k", &sealed), Origin::Foreign(own.installation.clone()));
        assert_eq!(open(&own, "k", "{\"b\":1}"), Origin::Unsigned);
        for unreadable in ["", "no JSON", "[]", "{\"installation\":1}", &"[".repeat(1_000_000)] {
            assert_eq!(open(&own, "k", unreadable), Origin::Altered);
        }
        assert_eq!(own.open::<u64>("k", sealed.as_bytes()).origin, Origin::Altered);
    }
}
