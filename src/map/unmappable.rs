//! Why a row cannot become a user. The messages name columns, never values. Pure.

/// The row is set aside with this as its reason, and the following rows are mapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmappable {
    #[error("the user's id is null or empty (from {columns})")]
    NoId { columns: String },
    /// The source's encoding is SQL_ASCII.
    #[error("column {column:?}: the text is not valid UTF-8")]
    NotUtf8 { column: String },
    /// The text does not have the form of its type, or the form that the mapping declares.
    #[error("column {column:?}: the value is not a valid {expected}")]
    Malformed { column: String, expected: &'static str },
    #[error("column {column:?}: the value was not sent, and the row cannot be found without it; {remedy}")]
    Unsent { column: String, remedy: String },
    /// The old tuple does not tell which user of which tenant it was.
    #[error("the replica identity lacks {columns}, so a deleted or moved user cannot be found; {remedy}")]
    Identity { columns: String, remedy: String },
    /// Its values alone exceed the memory of a tenant. Known before any of them is copied.
    #[error(
        "the row has {bytes} bytes, more than limits.tenant_memory ({limit}); raise it, or list a column in users.exclude"
    )]
    TooLarge { bytes: usize, limit: usize },
    /// The tuple does not belong to this relation version.
    #[error("the tuple has {got} columns, but its relation has {expected}")]
    Width { expected: usize, got: usize },
}

/// What [`Unmappable::Malformed`] expects of a document.
pub(super) const DOCUMENT: &str = "JSON document";

impl Unmappable {
    /// Whether a whole document is malformed.
    pub(super) fn is_of_document(&self) -> bool {
        matches!(self, Unmappable::Malformed { expected: DOCUMENT, .. })
    }
}
