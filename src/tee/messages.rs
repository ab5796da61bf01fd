//! The messages of a change, under the configured mode of deletes. Pure.

use super::batch::Batch;
use super::encode::Encoder;
use super::event::{Event, EventPosition, Op};
use crate::model::{Change, ConfiguredIdx, Deletes, User, push_string};

/// A complete change of a known tenant.
pub(crate) struct CompleteChange<'a> {
    /// The tenant.
    pub tenant: ConfiguredIdx,
    /// The tenant's id.
    pub tenant_id: &'a str,
    /// The change. Patches and re-reads are completed earlier.
    pub change: &'a Change,
    /// The user is new to the tenant.
    pub is_new: bool,
    /// The user before the change, if the replica identity carries it.
    pub before: Option<&'a User>,
    /// Position and time.
    pub place: EventPosition,
}

/// Appends the messages of a change. `tombstones`: a tombstone follows soft deletes, too.
pub(crate) fn messages(
    complete: &CompleteChange<'_>,
    deletes: Deletes,
    tombstones: bool,
    encoder: &Encoder,
    batch: &mut Batch,
) {
    let CompleteChange { tenant, tenant_id, change, is_new, before, place } = *complete;
    let event = |op, after| Event { op, tenant, tenant_id, id: change.id(), before, after, place };
    if let Some(reason) = change.why_unmappable() {
        encoder.put_unmappable(&event(Op::Update, None), reason, batch);
        return;
    }
    let gone;
    let (event, with_tombstone) = match (change, deletes) {
        // The old row belongs to the tenant that had the user before.
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
        // Incomplete changes have no message.
        (Change::Patch(_) | Change::Reread { .. }, _) => return,
    };
    encoder.put(&event, batch);
    if matches!(event.op, Op::SoftDelete | Op::Delete) && encoder.exceeds_limit(batch) {
        // A delete has to arrive: it is published with the key alone.
        let key_only = User { deleted_at: event.after.and_then(|user| user.deleted_at), ..known_by_id(event.id) };
        encoder.replace(&Event { before: None, after: event.after.map(|_| &key_only), ..event }, batch);
    }
    if with_tombstone {
        encoder.put_tombstone(&event, batch);
    }
}

/// A deleted user as a replica identity of the key alone carries it.
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
