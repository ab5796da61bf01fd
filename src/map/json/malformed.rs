//! The error of all parsers of text output. Pure.

/// The text is not valid output of the type. Never contains the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);
