//! Why a row cannot become a user. Names columns, never values.

/// A row that cannot be mapped: it is set aside with this as its reason, and the rest goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmappable {
    /// The user has no id.
    #[error("the user's id is null or empty (from {columns})")]
    NoId {
        /// What the id is read from.
        columns: String,
    },
    /// The bytes are not UTF-8: the source's encoding is SQL_ASCII.
    #[error("column {column:?}: the text is not valid UTF-8")]
    NotUtf8 {
        /// The column.
        column: String,
    },
    /// The text is not of the form that its type, or the mapping, says.
    #[error("column {column:?}: the value is not a valid {expected}")]
    Malformed {
        /// The column.
        column: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// A tuple lacks a value that it has to have.
    #[error("column {column:?}: the value was not sent, and the row cannot be found without it; {remedy}")]
    Unsent {
        /// The column.
        column: String,
        /// The SQL that mends it.
        remedy: String,
    },
    /// The old tuple does not say which user of which tenant it was.
    #[error("the replica identity lacks {columns}, so a deleted or moved user cannot be found; {remedy}")]
    Identity {
        /// The columns that are not in it.
        columns: String,
        /// The SQL that mends it.
        remedy: String,
    },
    /// The tuple is not one of this relation version.
    #[error("the tuple has {got} columns where its relation has {expected}")]
    Width {
        /// As the relation says.
        expected: usize,
        /// As received.
        got: usize,
    },
}
