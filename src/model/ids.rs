//! One type for each kind of id, so that the compiler keeps them apart. Pure.

use ring::digest::{SHA256, digest};
use std::fmt;
use std::sync::Arc;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Creates an id from its text.
            pub fn new(text: &str) -> Self {
                $name(Arc::from(text))
            }

            /// The id's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id! {
    /// A tenant, by the `id` that the configuration gives it.
    TenantId
}
text_id! {
    /// The value of the tenant column that stands for a tenant: the `key` of the configuration, or its `id`.
    TenantKey
}
text_id! {
    /// The random id of a target (a UUID in text), written into its checkpoint at the first start.
    TargetId
}

/// A user's unique id within its tenant. Personal data: never logged.
pub(crate) type UserId = Box<str>;

/// The SHA-256 of a user's id: a key of one size for ids of any size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct IdHash([u8; IdHash::BYTES]);

impl IdHash {
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn of(id: &str) -> IdHash {
        let mut bytes = [0; IdHash::BYTES];
        bytes.copy_from_slice(digest(&SHA256, id.as_bytes()).as_ref());
        IdHash(bytes)
    }

    /// A stored hash; `None` if it does not have its length.
    pub(crate) fn from_stored(bytes: &[u8]) -> Option<IdHash> {
        bytes.try_into().ok().map(IdHash)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first eight bytes, as PostgreSQL converts a bit string to a number.
    pub(crate) fn prefix(&self) -> i64 {
        self.0.iter().take(8).fold(0, |number, byte| number << 8 | i64::from(*byte))
    }
}

/// Number of a history in which positions are comparable. It grows when the slot, the system identifier or
/// the timeline changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub i64);

/// Number of the process that holds the slot: a fencing token that grows with each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub i64);

/// A transaction id as pgoutput's Begin message carries it: the low 32 bits of a full one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Xid(pub u32);

/// An object id of PostgreSQL.
pub type Oid = u32;

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_shown_as_plain_numbers() {
        assert_eq!((Generation(3).to_string(), Epoch(12).to_string()), ("3".to_owned(), "12".to_owned()));
    }
}
