//! The error of every parser here.

/// A text that is not what PostgreSQL writes for the type. Never holds the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);
