//! The mapping, ready to run: a tuple in, a tenant's changes out. One pass, no allocation beyond the user's own.

use super::filter::{Condition, Truth};
use super::json::{JsonKind, Malformed, without};
use super::unmappable::Unmappable;
use super::value::{Input, Known, RowImage, Sent, Text, TimeSources};
use crate::model::{Cell, Change, Patch, Set, Timestamp, User, Xid, push_string};
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

/// [`Rules`](super::Rules), held against one relation version.
#[derive(Debug)]
pub struct RowPlan {
    pub(super) id: Text,
    pub(super) tenant: Option<Text>,
    pub(super) name: Option<Text>,
    pub(super) email: Option<Text>,
    pub(super) created_at: Option<TimeSources>,
    pub(super) updated_at: Option<TimeSources>,
    pub(super) deleted_at: Option<TimeSources>,
    /// Which rows are users.
    pub(super) filter: Option<Condition>,
    /// What a query's rows are looked up by.
    pub(super) key: Vec<Input>,
    /// What goes into `raw_json` beside the mapped keys, in the relation's order.
    pub(super) out: Vec<RawColumn>,
    /// What leaves under its own name.
    pub(super) exposed: Vec<String>,
    pub(super) withheld: Vec<(String, WithheldReason)>,
    /// Every column's name, for errors.
    pub(super) columns: Vec<String>,
    pub(super) decoded: Vec<bool>,
    pub(super) identity_gap: Vec<String>,
    /// The SQL that lets old tuples carry id and tenant.
    pub(super) remedy: String,
    pub(super) stripped: AtomicU64,
}

/// A column of `raw_json`.
#[derive(Debug)]
pub(super) struct RawColumn {
    pub column: usize,
    pub name: String,
    /// `"name":`
    pub key: String,
    pub kind: JsonKind,
    /// Paths that are taken out of a document.
    pub without: Vec<Vec<String>>,
}

/// Why a column is not in `raw_json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithheldReason {
    /// `users.exclude` names it.
    Excluded,
    /// Its name says that it may hold a secret.
    LooksSecret,
    /// `users.allow` does not name it.
    NotAllowed,
    /// A mapped value has its key.
    Replaced,
}

/// The transaction of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitInfo {
    /// When it was committed.
    pub commit_time: Timestamp,
    /// Its id.
    pub xid: Xid,
}

/// Whose user it is, as far as the row tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantRef<'a> {
    /// There is exactly one tenant.
    Only,
    /// What the tenant column holds.
    Key(Cow<'a, str>),
    /// The tenant column is null or empty.
    NoTenant,
    /// The tenant depends on a value that was not sent. Comes with [`Change::Reread`] only: who reads the row
    /// learns the tenant, too.
    Unsent,
}

/// What a change is made of: mapped values as far as they are known.
struct MappedValues<'a> {
    name: Set<Option<Cow<'a, str>>>,
    email: Set<Option<Cow<'a, str>>>,
    created_at: Set<Option<Timestamp>>,
    updated_at: Set<Option<Timestamp>>,
    deleted_at: Set<Option<Timestamp>>,
    updated_at_derived: bool,
}

impl RowPlan {
    /// Per column of the relation: whether the decoder has to produce it. All others are not to leave it.
    pub fn decoded(&self) -> &[bool] {
        &self.decoded
    }

    /// The columns that leave under their own names.
    pub fn exposed_columns(&self) -> impl Iterator<Item = &str> {
        self.exposed.iter().map(String::as_str)
    }

    /// The columns that are not in `raw_json`, and why.
    pub fn withheld_columns(&self) -> impl Iterator<Item = (&str, WithheldReason)> {
        self.withheld.iter().map(|(name, reason)| (name.as_str(), *reason))
    }

    /// The columns that id and tenant are read from and that the replica identity does not carry: without them a
    /// DELETE cannot be mapped.
    pub fn identity_gap(&self) -> &[String] {
        &self.identity_gap
    }

    /// The SQL that closes the gap.
    pub fn identity_remedy(&self) -> &str {
        &self.remedy
    }

    /// How many escapes of json values were taken out so far because jsonb refuses them (code point zero, and
    /// halves of surrogate pairs).
    pub fn stripped_escapes(&self) -> u64 {
        self.stripped.load(Ordering::Relaxed)
    }

    /// Maps an inserted row, or one read by a snapshot or a re-read: `None` where the row is no user.
    pub fn insert<'a>(&self, row: &'a [Cell<'a>]) -> Result<Option<(TenantRef<'a>, User)>, Unmappable> {
        self.check_width(row)?;
        let row = RowImage { new: row, old: None };
        let (unsent, size) = self.measure(row);
        if let Some(column) = unsent {
            return Err(self.unsent(column));
        }
        if self.is_user(row)? != Truth::True {
            return Ok(None);
        }
        let id = self.new_id(row)?;
        let tenant = self.tenant(row)?;
        Ok(Some((tenant, self.user(&id, row, size, None)?)))
    }

    /// Maps an update. A user whose id or tenant changed first leaves where it was, as far as the old tuple tells.
    /// After an error what was emitted stands: a user with an unmappable new row has still left its old place.
    pub fn update<'a>(
        &self,
        old: Option<&'a [Cell<'a>]>,
        new: &'a [Cell<'a>],
        at: CommitInfo,
        emit: &mut impl FnMut(TenantRef<'a>, Change),
    ) -> Result<(), Unmappable> {
        self.check_width(new)?;
        old.map_or(Ok(()), |old| self.check_width(old))?;
        let row = RowImage { new, old };
        let (unsent, size) = self.measure(row);
        let is_user = self.is_user(row)?;
        if matches!(is_user, Truth::False | Truth::Null) {
            // Whoever is a user no more leaves; whoever never was is not worth a word.
            return match old.map(|old| self.is_user(RowImage { new: old, old: None })).transpose()? {
                Some(Truth::False | Truth::Null) => Ok(()),
                Some(Truth::True) => old.map_or(Ok(()), |old| self.delete(old, at, emit)),
                Some(Truth::Unsent) | None => {
                    let (id, tenant) = (self.new_id(row)?, self.tenant(row)?);
                    if tenant == TenantRef::Unsent {
                        // Whoever reads the row finds no user, and learns no tenant.
                        return Err(self.gap());
                    }
                    emit(tenant, Change::Delete { id: Box::from(&*id), at: at.commit_time });
                    Ok(())
                }
            };
        }
        let id = match self.new_id(row) {
            Err(error) if !matches!(error, Unmappable::NoId { .. }) => return Err(error),
            id_or_none => id_or_none,
        };
        let tenant = self.tenant(row)?;
        let moved = match old {
            Some(old) => self.leave_old(RowImage { new: old, old: None }, id.as_deref().ok(), &tenant, at, emit),
            None => Ok(false),
        };
        let id = id?;
        let change = if unsent.is_none() {
            Change::Upsert(self.user(&id, row, size, Some(at))?)
        } else if is_user == Truth::Unsent || tenant == TenantRef::Unsent || !matches!(moved, Ok(false)) {
            Change::Reread { id: Box::from(&*id), xid: at.xid, at: at.commit_time }
        } else {
            self.patch(&id, row, size, at)?
        };
        emit(tenant, change);
        moved.map(|_| ())
    }

    /// Maps a delete: which user of which tenant it was.
    pub fn delete<'a>(
        &self,
        old: &'a [Cell<'a>],
        at: CommitInfo,
        emit: &mut impl FnMut(TenantRef<'a>, Change),
    ) -> Result<(), Unmappable> {
        self.check_width(old)?;
        let row = RowImage { new: old, old: None };
        if matches!(self.is_user(row)?, Truth::False | Truth::Null) {
            return Ok(());
        }
        let Known::Value(id) = self.id.read(row)? else { return Err(self.gap()) };
        let id = id.ok_or_else(|| self.no_id())?;
        let tenant = match self.tenant(row)? {
            TenantRef::Unsent => return Err(self.gap()),
            tenant => tenant,
        };
        emit(tenant, Change::Delete { id: Box::from(&*id), at: at.commit_time });
        Ok(())
    }

    /// Emits the delete of a user that is no longer where the old tuple says; whether it is so.
    fn leave_old<'a>(
        &self,
        old: RowImage<'a>,
        id: Option<&str>,
        tenant: &TenantRef<'a>,
        at: CommitInfo,
        emit: &mut impl FnMut(TenantRef<'a>, Change),
    ) -> Result<bool, Unmappable> {
        let old_tenant = match self.tenant(old)? {
            TenantRef::Unsent => None,
            old_tenant => Some(old_tenant),
        };
        let old_id = match self.id.read(old)? {
            Known::Value(Some(old_id)) => Some(old_id),
            // Without an id it was never a user.
            Known::Value(None) => return Ok(false),
            Known::Unsent | Known::Mixed => None,
        };
        // What the old tuple does not carry is taken to be what it was.
        let same_id = old_id.as_ref().is_none_or(|old_id| Some(&**old_id) == id);
        let same_tenant = old_tenant.as_ref().is_none_or(|old_tenant| old_tenant == tenant);
        if same_id && same_tenant {
            return Ok(false);
        }
        // The old tenant has to be known for certain: the new one may have another user of this id.
        let old_tenant = old_tenant.ok_or_else(|| self.gap())?;
        let old_id = old_id.as_deref().or(id).ok_or_else(|| self.gap())?;
        emit(old_tenant, Change::Delete { id: Box::from(old_id), at: at.commit_time });
        Ok(true)
    }

    fn user(&self, id: &str, row: RowImage<'_>, size: usize, at: Option<CommitInfo>) -> Result<User, Unmappable> {
        let Some(mapped) = self.mapped(row, at)? else {
            return Err(self.gap());
        };
        let raw_json = self.raw_json(id, &mapped, row, size)?;
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

    fn patch(&self, id: &str, row: RowImage<'_>, size: usize, at: CommitInfo) -> Result<Change, Unmappable> {
        let Some(mapped) = self.mapped(row, Some(at))? else {
            return Ok(Change::Reread { id: Box::from(id), xid: at.xid, at: at.commit_time });
        };
        let raw_json = self.raw_json(id, &mapped, row, size)?;
        let owned = |set| match set {
            Set::To(value) => Set::To(Option::map(value, Cow::into_owned)),
            Set::Keep => Set::Keep,
        };
        Ok(Change::Patch(Patch {
            id: Box::from(id),
            raw_json,
            name: owned(mapped.name),
            email: owned(mapped.email),
            created_at: mapped.created_at,
            updated_at: mapped.updated_at,
            deleted_at: mapped.deleted_at,
            updated_at_derived: mapped.updated_at_derived,
            xid: at.xid,
            at: at.commit_time,
        }))
    }

    /// The mapped values; `None` where one depends on what was sent and on what was not. `at`: for an update.
    fn mapped<'a>(&self, row: RowImage<'a>, at: Option<CommitInfo>) -> Result<Option<MappedValues<'a>>, Unmappable> {
        let text = |value: &Option<Text>| match value {
            Some(value) => Ok(value.read(row)?.set()),
            None => Ok(Some(Set::To(None))),
        };
        let time = |value: &Option<TimeSources>| match value {
            Some(value) => Ok(value.read(row)?.set()),
            None => Ok(Some(Set::To(None))),
        };
        let (Some(name), Some(email)) = (text(&self.name)?, text(&self.email)?) else { return Ok(None) };
        let Some(created_at) = time(&self.created_at)? else { return Ok(None) };
        let Some(deleted_at) = time(&self.deleted_at)? else { return Ok(None) };
        let (updated_at, updated_at_derived) = match time(&self.updated_at)? {
            Some(Set::To(None)) => (Set::To(at.map(|at| at.commit_time)), true),
            Some(said) => (said, false),
            None => return Ok(None),
        };
        Ok(Some(MappedValues { name, email, created_at, updated_at, deleted_at, updated_at_derived }))
    }

    /// The mapped keys and the columns, each as far as it is known.
    fn raw_json(
        &self,
        id: &str,
        mapped: &MappedValues<'_>,
        row: RowImage<'_>,
        size: usize,
    ) -> Result<String, Unmappable> {
        let length = |set: &Set<Option<Cow<'_, str>>>| match set {
            Set::To(Some(text)) => text.len(),
            Set::To(None) | Set::Keep => 0,
        };
        let mut json = String::with_capacity(size + id.len() + length(&mapped.name) + length(&mapped.email));
        json.push_str("{\"id\":");
        push_string(id, &mut json);
        for (key, value) in [(",\"display_name\":", &mapped.name), (",\"primary_email\":", &mapped.email)] {
            if let Set::To(value) = value {
                json.push_str(key);
                match value {
                    Some(text) => push_string(text, &mut json),
                    None => json.push_str("null"),
                }
            }
        }
        if let Set::To(created_at) = mapped.created_at {
            json.push_str(",\"signed_up_at_millis\":");
            match created_at.and_then(Timestamp::unix_millis_floor) {
                Some(millis) => json.push_str(itoa::Buffer::new().format(millis)),
                None => json.push_str("null"),
            }
        }
        let mut stripped = 0;
        for out in &self.out {
            match row.get(out.column) {
                Sent::Unsent => {}
                Sent::Null => {
                    json.push(',');
                    json.push_str(&out.key);
                    json.push_str("null");
                }
                Sent::Text(bytes) => {
                    let text =
                        std::str::from_utf8(bytes).map_err(|_| Unmappable::NotUtf8 { column: out.name.clone() })?;
                    json.push(',');
                    json.push_str(&out.key);
                    let malformed = |Malformed(expected)| Unmappable::Malformed { column: out.name.clone(), expected };
                    if out.without.is_empty() {
                        out.kind.append(text, &mut json, &mut stripped).map_err(malformed)?;
                    } else {
                        let mut whole = String::with_capacity(text.len());
                        out.kind.append(text, &mut whole, &mut stripped).map_err(malformed)?;
                        without(&whole, &out.without, &mut json).map_err(|_| malformed(Malformed("JSON document")))?;
                    }
                }
            }
        }
        json.push('}');
        if stripped > 0 {
            self.stripped.fetch_add(stripped, Ordering::Relaxed);
        }
        Ok(json)
    }

    /// The first column that should have been sent and was not, and about how long `raw_json` will be.
    fn measure(&self, row: RowImage<'_>) -> (Option<usize>, usize) {
        /// Keys and number of the four mapped values, and the braces.
        const MAPPED: usize = 96;
        /// The comma and quotes, and what a time grows by.
        const COLUMN: usize = 7;
        let mut unsent = None;
        let mut size = MAPPED;
        for (column, _) in self.decoded.iter().enumerate().filter(|(_, decoded)| **decoded) {
            match row.get(column) {
                Sent::Text(text) => size += text.len(),
                Sent::Null => size += 2,
                Sent::Unsent => unsent = unsent.or(Some(column)),
            }
        }
        (unsent, size + self.out.iter().map(|out| out.key.len() + COLUMN).sum::<usize>())
    }

    fn new_id<'a>(&self, row: RowImage<'a>) -> Result<Cow<'a, str>, Unmappable> {
        match self.id.read(row)? {
            Known::Value(id) => id.ok_or_else(|| self.no_id()),
            Known::Unsent | Known::Mixed => {
                let inputs = self.id.inputs();
                let unsent = inputs.iter().find(|input| row.get(input.column) == Sent::Unsent);
                Err(self.unsent(unsent.map_or(0, |input| input.column)))
            }
        }
    }

    /// The query's key, as text; `None` where a part of it is null.
    pub fn key_of<'a>(&self, row: &'a [Cell<'a>]) -> Result<Option<Vec<Cow<'a, str>>>, Unmappable> {
        let row = RowImage { new: row, old: None };
        self.key.iter().map(|input| Ok(input.raw(row)?.flatten())).collect()
    }

    fn is_user(&self, row: RowImage<'_>) -> Result<Truth, Unmappable> {
        self.filter.as_ref().map_or(Ok(Truth::True), |filter| filter.holds(row))
    }

    fn tenant<'a>(&self, row: RowImage<'a>) -> Result<TenantRef<'a>, Unmappable> {
        let Some(tenant) = &self.tenant else { return Ok(TenantRef::Only) };
        Ok(match tenant.read(row)? {
            Known::Value(Some(key)) => TenantRef::Key(key),
            Known::Value(None) => TenantRef::NoTenant,
            Known::Unsent | Known::Mixed => TenantRef::Unsent,
        })
    }

    fn check_width(&self, row: &[Cell<'_>]) -> Result<(), Unmappable> {
        let expected = self.decoded.len();
        if row.len() == expected { Ok(()) } else { Err(Unmappable::Width { expected, got: row.len() }) }
    }

    fn no_id(&self) -> Unmappable {
        let columns: Vec<_> = self.id.inputs().iter().map(|input| input.name.as_str()).collect();
        Unmappable::NoId { columns: columns.join(", ") }
    }

    fn unsent(&self, column: usize) -> Unmappable {
        let name = self.columns.get(column).cloned().unwrap_or_default();
        Unmappable::Unsent { column: name, remedy: self.remedy.clone() }
    }

    fn gap(&self) -> Unmappable {
        Unmappable::Identity { columns: self.identity_gap.join(", "), remedy: self.remedy.clone() }
    }
}
