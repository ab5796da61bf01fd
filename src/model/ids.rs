//! One type for each kind of id, so that no two of them can be mixed up.

use std::fmt;
use std::sync::Arc;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text as it is.
            pub fn new(text: &str) -> Self {
                $name(Arc::from(text))
            }

            /// The text as it was given.
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
    /// What the tenant column holds for a tenant: the `key` of the configuration, or its `id`.
    TenantKey
}
text_id! {
    /// The random id of a target, written into its checkpoint when it is first used (a UUID in text).
    TargetId
}

/// A user's unique id within its tenant. Personal data: never logged.
pub type UserId = Box<str>;

/// Counts unbroken histories of positions: it grows when the slot, the system or the timeline is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub i64);

/// Counts the processes that have held the slot: a fencing token, larger for the later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub i64);

/// A transaction id as pgoutput's Begin message carries it: the low 32 bits of a full one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Xid(pub u32);

/// PostgreSQL's object id.
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
