//! What an adoption does with rows that the source does not have. Pure.

/// What is done with rows of a taken-over target whose users the source does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExtraRows {
    /// They get `deleted_at`.
    MarkDeleted,
    /// They stay as they are, also in later snapshots.
    Keep,
}

impl ExtraRows {
    /// The name in the state's tables and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            ExtraRows::MarkDeleted => "mark-deleted",
            ExtraRows::Keep => "keep",
        }
    }

    /// The value of a name; `None` for a name of a newer version.
    pub fn parse(name: &str) -> Option<ExtraRows> {
        [ExtraRows::MarkDeleted, ExtraRows::Keep].into_iter().find(|extra| extra.as_str() == name)
    }
}
