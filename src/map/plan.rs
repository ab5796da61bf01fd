//! A compiled mapping, applied row by row: a tuple in, one tenant's changes out. It makes one pass and allocates only what
//! the user needs. Pure.

use super::filter::{Condition, Truth};
use super::identity::IdentityGap;
use super::raw_json::RawJson;
use super::redaction::{Redaction, Redactions};
use super::row_types::WithheldReason;
pub use super::row_types::{CommitInfo, TenantRef};
use super::unmappable::Unmappable;
use super::value::{Input, Known, MappedValues, RowImage, Sent, Text, TimeSources};
use crate::model::{Cell, Change, ColumnIdx, Patch, Relation, Set, User};
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

/// [`Rules`](super::Rules), compiled for one relation version.
#[derive(Debug)]
pub struct RowPlan {
    pub(super) id: Text,
    pub(super) tenant: Option<Text>,
    pub(super) name: Option<Text>,
    pub(super) email: Option<Text>,
    pub(super) created_at: Option<TimeSources>,
    pub(super) updated_at: Option<TimeSources>,
    pub(super) deleted_at: Option<TimeSources>,
    /// Which rows are users; absent if all are.
    pub(super) filter: Option<Condition>,
    /// The columns by which a query's rows are looked up.
    pub(super) key: Vec<Input>,
    pub(super) raw_json: RawJson,
    pub(super) redactions: Redactions,
    /// The columns of `raw_json` that only the source can convert. The stream has only their text.
    pub(super) cast: Vec<ColumnIdx>,
    /// The columns that leave under their own names.
    pub(super) exposed: Vec<String>,
    pub(super) withheld: Vec<(String, WithheldReason)>,
    /// The name of every column, for errors.
    pub(super) columns: Vec<String>,
    pub(super) decoded: Vec<bool>,
    /// The columns that `decoded` marks.
    pub(super) decoded_columns: Vec<ColumnIdx>,
    /// What old tuples lack of id and tenant.
    pub(super) identity_gap: IdentityGap,
    /// Larger rows are set aside. In bytes of the values that are read.
    pub(super) max_row: usize,
    /// Optional values that did not parse.
    pub(super) unparsed: AtomicU64,
}

/// The first column whose value was not sent, and about how long `raw_json` will be.
pub(super) struct Measured {
    pub(super) unsent: Option<ColumnIdx>,
    pub(super) size: usize,
}

impl RowPlan {
    /// For each column of the relation, whether the decoder has to produce it. No other column may leave the decoder.
    pub fn decoded(&self) -> &[bool] {
        &self.decoded
    }

    /// Sets aside rows whose values have more bytes than this. Without it, rows have no limit.
    pub(crate) fn limit_rows(&mut self, bytes: usize) {
        self.max_row = bytes;
    }

    /// The most bytes of a row that is mapped.
    pub(crate) fn max_row(&self) -> usize {
        self.max_row
    }

    /// The columns that leave under their own names.
    pub fn exposed_columns(&self) -> impl Iterator<Item = &str> {
        self.exposed.iter().map(String::as_str)
    }

    /// The columns that leave, and that only the source can convert to JSON: a type of theirs has a cast to json.
    pub(crate) fn cast_columns(&self) -> impl Iterator<Item = &str> {
        self.cast.iter().filter_map(|column| column.of(&self.columns)).map(String::as_str)
    }

    /// A plan for rows in which the source has converted these columns. `relation` has the results after its own columns.
    pub(crate) fn read_converted(mut self, relation: &Relation) -> RowPlan {
        let results = relation.indexed_columns().skip(self.columns.len());
        for (from, (to, column)) in std::mem::take(&mut self.cast).into_iter().zip(results) {
            self.raw_json.read_converted(from, to);
            self.columns.push(column.name.clone());
            self.decoded.push(true);
            self.decoded_columns.push(to);
        }
        self
    }

    /// The columns of id and tenant that the replica identity does not carry: without them a DELETE cannot be mapped.
    pub(crate) fn identity_gap(&self) -> &[String] {
        &self.identity_gap.columns
    }

    /// The SQL that closes the gap.
    pub(crate) fn identity_remedy(&self) -> &str {
        &self.identity_gap.remedy
    }

    /// The number of escapes removed from json values since the last call, because jsonb rejects them: code point zero,
    /// and halves of surrogate pairs.
    pub(crate) fn take_stripped_escapes(&self) -> u64 {
        self.raw_json.take_stripped_escapes()
    }

    /// The number of optional values since the last call that did not parse, and are null therefore.
    pub(crate) fn take_unparsed_values(&self) -> u64 {
        self.unparsed.swap(0, Ordering::Relaxed)
    }

    /// The user of a row that cannot be mapped, with its tenant; `None` if the row does not tell them, or is not a user.
    pub(crate) fn identify<'a>(
        &self,
        old: Option<&'a [Cell<'a>]>,
        new: &'a [Cell<'a>],
        why: &Unmappable,
    ) -> Option<(TenantRef<'a>, User)> {
        let row = RowImage { new, old };
        self.check_width(new).ok()?;
        if matches!(self.is_user(row), Ok(Truth::False | Truth::Null)) {
            return None;
        }
        let id = self.new_id(row).ok()?;
        match self.tenant(row).ok()? {
            TenantRef::NoTenant | TenantRef::Unsent => None,
            tenant => Some((tenant, User::unmappable(&id, why.to_string()))),
        }
    }

    /// Maps an inserted row of the stream; `None` if the row is not a user.
    ///
    /// # Errors
    /// As [`RowPlan::insert`].
    pub(crate) fn inserted<'a>(
        &self,
        row: &'a [Cell<'a>],
        commit: CommitInfo,
    ) -> Result<Option<(TenantRef<'a>, Change)>, Unmappable> {
        let image = RowImage { new: row, old: None };
        if self.unconverted(image).is_none() {
            return Ok(self.insert(row)?.map(|(tenant, user)| (tenant, Change::Upsert(user))));
        }
        self.check_width(row)?;
        if self.is_user(image)? != Truth::True {
            return Ok(None);
        }
        let id = self.new_id(image)?;
        Ok(Some((self.tenant(image)?, reread(&id, commit))))
    }

    /// Maps a whole row; `None` if the row is not a user.
    ///
    /// # Errors
    /// If the row cannot be mapped. A value that was not sent is an error, too.
    pub fn insert<'a>(&self, row: &'a [Cell<'a>]) -> Result<Option<(TenantRef<'a>, User)>, Unmappable> {
        self.check_width(row)?;
        let row = RowImage { new: row, old: None };
        let Measured { unsent, size } = self.measure(row);
        if let Some(column) = unsent {
            return Err(self.unsent(Some(column)));
        }
        if self.is_user(row)? != Truth::True {
            return Ok(None);
        }
        if let Some(column) = self.unconverted(row) {
            return Err(self.unsent(Some(column)));
        }
        self.check_size(size)?;
        let id = self.new_id(row)?;
        let tenant = self.tenant(row)?;
        let user = self.user(&id, &tenant, row, size, None)?;
        Ok(Some((tenant, user)))
    }

    pub(super) fn user(
        &self,
        id: &str,
        tenant: &TenantRef<'_>,
        row: RowImage<'_>,
        size: usize,
        commit: Option<CommitInfo>,
    ) -> Result<User, Unmappable> {
        self.check_size(size)?;
        let redaction = self.redactions.of(tenant);
        let Some(mapped) = self.mapped(row, commit, redaction)? else {
            return Err(self.identity_gap.error());
        };
        let raw_json = self.raw_json.build(id, &mapped, row, size, redaction)?;
        fn known<T>(set: Set<Option<T>>) -> Option<T> {
            match set {
                Set::To(value) => value,
                Set::Keep => None,
            }
        }
        Ok(User {
            id: Box::from(id),
            raw_json,
            name: known(mapped.name).map(Cow::into_owned),
            email: known(mapped.email).map(Cow::into_owned),
            created_at: known(mapped.created_at),
            updated_at: known(mapped.updated_at),
            deleted_at: known(mapped.deleted_at),
            updated_at_derived: mapped.updated_at_derived,
        })
    }

    pub(super) fn patch(
        &self,
        id: &str,
        tenant: &TenantRef<'_>,
        row: RowImage<'_>,
        size: usize,
        commit: CommitInfo,
    ) -> Result<Change, Unmappable> {
        self.check_size(size)?;
        let redaction = self.redactions.of(tenant);
        let Some(mapped) = self.mapped(row, Some(commit), redaction)? else { return Ok(reread(id, commit)) };
        let raw_json = self.raw_json.build(id, &mapped, row, size, redaction)?;
        Ok(Change::Patch(Patch {
            id: Box::from(id),
            raw_json,
            name: mapped.name.map(Cow::into_owned),
            email: mapped.email.map(Cow::into_owned),
            created_at: mapped.created_at,
            updated_at: mapped.updated_at,
            deleted_at: mapped.deleted_at,
            updated_at_derived: mapped.updated_at_derived,
            xid: commit.xid,
            at: commit.commit_time,
        }))
    }

    /// `None` if a value depends both on columns that were sent and on others that were not. `commit` is set for an
    /// update.
    fn mapped<'a>(
        &self,
        row: RowImage<'a>,
        commit: Option<CommitInfo>,
        redaction: Option<&Redaction>,
    ) -> Result<Option<MappedValues<'a>>, Unmappable> {
        let text = |value: &Option<Text>| match value {
            Some(value) => self.optional(value.read(row)),
            None => Ok(Some(Set::To(None))),
        };
        let time = |value: &Option<TimeSources>| match value {
            Some(value) => self.optional(value.read(row)),
            None => Ok(Some(Set::To(None))),
        };
        let (Some(mut name), Some(mut email)) = (text(&self.name)?, text(&self.email)?) else { return Ok(None) };
        if let Some(redaction) = redaction {
            name = name.map(|name| redaction.name(name));
            email = email.map(|email| redaction.email(email));
        }
        let Some(created_at) = time(&self.created_at)? else { return Ok(None) };
        // Without it a deleted user would look alive.
        let deleted_at = match &self.deleted_at {
            Some(value) => value.read(row)?.set(),
            None => Some(Set::To(None)),
        };
        let Some(deleted_at) = deleted_at else { return Ok(None) };
        let (updated_at, updated_at_derived) = match time(&self.updated_at)? {
            Some(Set::To(None)) => (Set::To(commit.map(|commit| commit.commit_time)), true),
            Some(set) => (set, false),
            None => return Ok(None),
        };
        Ok(Some(MappedValues { name, email, created_at, updated_at, deleted_at, updated_at_derived }))
    }

    /// An optional value that does not parse is null. A document that does not is no value: `raw_json` contains it.
    fn optional<T>(&self, read: Result<Known<Option<T>>, Unmappable>) -> Result<Option<Set<Option<T>>>, Unmappable> {
        match read {
            Err(error) if !error.is_of_document() => {
                self.unparsed.fetch_add(1, Ordering::Relaxed);
                Ok(Some(Set::To(None)))
            }
            read => read.map(Known::set),
        }
    }

    pub(super) fn measure(&self, row: RowImage<'_>) -> Measured {
        let mut unsent = None;
        let mut size = self.raw_json.base_size();
        for column in &self.decoded_columns {
            match row.get(*column) {
                Sent::Text(text) => size += text.len(),
                Sent::Null => size += 2,
                Sent::Unsent => unsent = unsent.or(Some(*column)),
            }
        }
        Measured { unsent, size }
    }

    /// The first column whose value was sent, but has to be converted by the source.
    pub(super) fn unconverted(&self, row: RowImage<'_>) -> Option<ColumnIdx> {
        self.cast.iter().copied().find(|column| matches!(row.get(*column), Sent::Text(_)))
    }

    pub(super) fn new_id<'a>(&self, row: RowImage<'a>) -> Result<Cow<'a, str>, Unmappable> {
        match self.id.read(row)? {
            Known::Value(id) => id.ok_or_else(|| self.no_id()),
            Known::Unsent | Known::Mixed => {
                let inputs = self.id.inputs();
                let unsent = inputs.iter().find(|input| row.get(input.column) == Sent::Unsent);
                Err(self.unsent(unsent.map(|input| input.column)))
            }
        }
    }

    /// The query's key; `None` if a part of it is null.
    pub(crate) fn key_of<'a>(&self, row: &'a [Cell<'a>]) -> Result<Option<Vec<Cow<'a, str>>>, Unmappable> {
        let row = RowImage { new: row, old: None };
        self.key.iter().map(|input| Ok(input.raw(row)?.flatten())).collect()
    }

    pub(super) fn is_user(&self, row: RowImage<'_>) -> Result<Truth, Unmappable> {
        match &self.filter {
            Some(filter) => filter.holds(row),
            None => Ok(Truth::True),
        }
    }

    pub(super) fn tenant<'a>(&self, row: RowImage<'a>) -> Result<TenantRef<'a>, Unmappable> {
        let Some(tenant) = &self.tenant else { return Ok(TenantRef::Only) };
        Ok(match tenant.read(row)? {
            Known::Value(Some(key)) => TenantRef::Key(key),
            Known::Value(None) => TenantRef::NoTenant,
            Known::Unsent | Known::Mixed => TenantRef::Unsent,
        })
    }

    pub(super) fn check_width(&self, row: &[Cell<'_>]) -> Result<(), Unmappable> {
        let expected = self.decoded.len();
        if row.len() == expected { Ok(()) } else { Err(Unmappable::Width { expected, got: row.len() }) }
    }

    fn check_size(&self, bytes: usize) -> Result<(), Unmappable> {
        let limit = self.max_row;
        if bytes <= limit { Ok(()) } else { Err(Unmappable::TooLarge { bytes, limit }) }
    }

    pub(super) fn no_id(&self) -> Unmappable {
        let columns: Vec<_> = self.id.inputs().iter().map(|input| input.name.as_str()).collect();
        Unmappable::NoId { columns: columns.join(", ") }
    }

    fn unsent(&self, column: Option<ColumnIdx>) -> Unmappable {
        let name = column.and_then(|column| column.of(&self.columns)).cloned().unwrap_or_default();
        Unmappable::Unsent { column: name, remedy: self.identity_gap.remedy.clone() }
    }
}

pub(super) fn reread(id: &str, commit: CommitInfo) -> Change {
    Change::Reread { id: Box::from(id), xid: commit.xid, at: commit.commit_time, deleted_if_absent: false }
}
