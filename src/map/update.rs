//! What becomes of an updated or deleted row: changes of the user, and of the place that the user has left. Pure.

use super::filter::Truth;
use super::plan::{CommitInfo, Measured, RowPlan, TenantRef, reread};
use super::unmappable::Unmappable;
use super::value::{Known, RowImage};
use crate::model::{Cell, Change};

impl RowPlan {
    /// Maps an update. If id or tenant changed, a delete under the old ones comes first, if the old tuple has them.
    ///
    /// # Errors
    /// If a row cannot be mapped. Emitted changes stay valid: a user with an unmappable new row has left its old place.
    pub fn update<'a>(
        &self,
        old: Option<&'a [Cell<'a>]>,
        new: &'a [Cell<'a>],
        commit: CommitInfo,
        emit: &mut impl FnMut(TenantRef<'a>, Change),
    ) -> Result<(), Unmappable> {
        let updated = self.map_update(old, new, commit, emit);
        if let Err(why) = &updated
            && !matches!(why, Unmappable::Identity { .. })
            && let Some((tenant, user)) = self.identify(old, new, why)
        {
            emit(tenant, Change::Upsert(user));
        }
        updated
    }

    fn map_update<'a>(
        &self,
        old: Option<&'a [Cell<'a>]>,
        new: &'a [Cell<'a>],
        commit: CommitInfo,
        emit: &mut impl FnMut(TenantRef<'a>, Change),
    ) -> Result<(), Unmappable> {
        self.check_width(new)?;
        if let Some(old) = old {
            self.check_width(old)?;
        }
        let row = RowImage { new, old };
        let is_user = self.is_user(row)?;
        if matches!(is_user, Truth::False | Truth::Null) {
            return self.update_of_no_user(row, commit, emit);
        }
        let id = match self.new_id(row) {
            Err(error) if !matches!(error, Unmappable::NoId { .. }) => return Err(error),
            id_or_none => id_or_none,
        };
        let tenant = self.tenant(row)?;
        let moved = match old {
            Some(old) => self.leave_old(RowImage { new: old, old: None }, id.as_deref().ok(), &tenant, commit, emit),
            None => Ok(false),
        };
        let id = id?;
        let Measured { unsent, size } = self.measure(row);
        let change = if self.unconverted(row).is_some() {
            reread(&id, commit)
        } else if unsent.is_none() {
            Change::Upsert(self.user(&id, &tenant, row, size, Some(commit))?)
        } else if is_user == Truth::Unsent || tenant == TenantRef::Unsent || !matches!(moved, Ok(false)) {
            reread(&id, commit)
        } else {
            self.patch(&id, &tenant, row, size, commit)?
        };
        emit(tenant, change);
        moved.map(|_| ())
    }

    /// The new row does not match `where`. If the old row did, or may have, the user is deleted.
    fn update_of_no_user<'a>(
        &self,
        row: RowImage<'a>,
        commit: CommitInfo,
        emit: &mut impl FnMut(TenantRef<'a>, Change),
    ) -> Result<(), Unmappable> {
        if let Some(old) = row.old {
            match self.is_user(RowImage { new: old, old: None })? {
                Truth::False | Truth::Null => return Ok(()),
                Truth::True => return self.delete(old, commit, emit),
                Truth::Unsent => {}
            }
        }
        let (id, tenant) = (self.new_id(row)?, self.tenant(row)?);
        if tenant == TenantRef::Unsent {
            // A point read would find no user, and so no tenant.
            return Err(self.identity_gap.error());
        }
        emit(tenant, Change::Delete { id: Box::from(&*id), at: commit.commit_time });
        Ok(())
    }

    /// Maps a delete to the user and tenant that the old tuple names.
    ///
    /// # Errors
    /// [`Unmappable::Identity`] if the old tuple does not carry them.
    pub(crate) fn delete<'a>(
        &self,
        old: &'a [Cell<'a>],
        commit: CommitInfo,
        emit: &mut impl FnMut(TenantRef<'a>, Change),
    ) -> Result<(), Unmappable> {
        self.check_width(old)?;
        let row = RowImage { new: old, old: None };
        if matches!(self.is_user(row)?, Truth::False | Truth::Null) {
            return Ok(());
        }
        let Known::Value(id) = self.id.read(row)? else { return Err(self.identity_gap.error()) };
        let id = id.ok_or_else(|| self.no_id())?;
        let tenant = self.tenant(row)?;
        if tenant == TenantRef::Unsent {
            return Err(self.identity_gap.error());
        }
        emit(tenant, Change::Delete { id: Box::from(&*id), at: commit.commit_time });
        Ok(())
    }

    /// Emits the delete of a user whose id or tenant is no longer that of the old tuple, and returns whether it did.
    fn leave_old<'a>(
        &self,
        old: RowImage<'a>,
        id: Option<&str>,
        tenant: &TenantRef<'a>,
        commit: CommitInfo,
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
        // A value that the old tuple does not carry is assumed to be unchanged.
        let same_id = old_id.as_ref().is_none_or(|old_id| Some(&**old_id) == id);
        let same_tenant = old_tenant.as_ref().is_none_or(|old_tenant| old_tenant == tenant);
        if same_id && same_tenant {
            return Ok(false);
        }
        // The old tenant must be known: the new tenant may have another user with this id.
        let old_tenant = old_tenant.ok_or_else(|| self.identity_gap.error())?;
        let old_id = old_id.as_deref().or(id).ok_or_else(|| self.identity_gap.error())?;
        emit(old_tenant, Change::Delete { id: Box::from(old_id), at: commit.commit_time });
        Ok(true)
    }
}
