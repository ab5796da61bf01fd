//! What is said of a change, under the configured kind of deletes. Pure.

use super::batch::Batch;
use super::encode::{Encoder, Event, Op, Place};
use crate::model::{Change, Deletes, User, push_string};

/// A change that is whole, of a known tenant.
pub struct Said<'a> {
    /// By its place among the tenants.
    pub tenant: usize,
    /// The tenant's id.
    pub tenant_id: &'a str,
    /// Neither a patch nor a reread: those are completed before.
    pub change: &'a Change,
    /// The user is new to the tenant.
    pub is_new: bool,
    /// The user before, where the replica identity carries it.
    pub before: Option<&'a User>,
    /// Where and when.
    pub place: Place,
}

/// Appends the messages of a change. `tombstones`: also behind soft deletes.
pub fn messages(said: &Said<'_>, deletes: Deletes, tombstones: bool, encoder: &Encoder, batch: &mut Batch) {
    let Said { tenant, tenant_id, change, is_new, before, place } = *said;
    let event = |op, after| Event { op, tenant, tenant_id, id: change.id(), before, after, place };
    let gone;
    let (event, buries) = match (change, deletes) {
        // What was before belongs to whoever had the user then.
        (Change::Upsert(user), _) if is_new => {
            (Event { before: None, ..event(Op::Create, Some(user)) }, tombstones && user.deleted_at.is_some())
        }
        (Change::Upsert(user), _) if user.deleted_at.is_some() => (event(Op::SoftDelete, Some(user)), tombstones),
        (Change::Upsert(user), _) => (event(Op::Update, Some(user)), false),
        (Change::Delete { .. }, Deletes::Hard) => (event(Op::Delete, None), !encoder.deletes_by_tombstone()),
        (Change::Delete { id, at }, Deletes::Soft) => {
            let user = before.cloned().unwrap_or_else(|| known_by_id(id));
            gone = User { deleted_at: user.deleted_at.or(Some(*at)), ..user };
            (event(Op::SoftDelete, Some(&gone)), tombstones)
        }
        // Nothing of these is known well enough to be said.
        (Change::Patch(_) | Change::Reread { .. }, _) => return,
    };
    encoder.put(&event, batch);
    if buries {
        encoder.put_tombstone(&event, batch);
    }
}

/// All that a replica identity of the key alone leaves of a deleted user.
fn known_by_id(id: &str) -> User {
    let mut raw_json = "{\"id\":".to_owned();
    push_string(id, &mut raw_json);
    raw_json.push('}');
    User {
        id: id.into(),
        raw_json,
        name: None,
        email: None,
        created_at: None,
        updated_at: None,
        deleted_at: None,
        updated_at_derived: true,
    }
}
