//! What `setup` made, so that `teardown` can remove it. Pure.

/// The kinds of what is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadeKind {
    /// The publication.
    Publication,
    /// The replica identity of a table.
    Identity,
    /// The index that a replica identity uses.
    Index,
    /// A role.
    Role,
}

impl MadeKind {
    /// The name in the state's table.
    pub fn as_str(self) -> &'static str {
        match self {
            MadeKind::Publication => "publication",
            MadeKind::Identity => "identity",
            MadeKind::Index => "index",
            MadeKind::Role => "role",
        }
    }

    /// The kind of a name; `None` for one of a newer version.
    pub fn parse(name: &str) -> Option<MadeKind> {
        [MadeKind::Publication, MadeKind::Identity, MadeKind::Index, MadeKind::Role]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

/// Something that `setup` made or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// What it is.
    pub kind: MadeKind,
    /// Its schema; empty for a publication. Of a role, where it was made: `source`, `state`, or `target ` and the tenant.
    pub schema: String,
    /// Its name; of an identity, that of the table.
    pub name: String,
    /// Of an identity, the one before: `default`, `nothing`, `full`, or the name of an index after `index `.
    pub previous: String,
}
