//! A target's own record of its tenant and position, with its signature. Pure.

use crate::model::{CheckpointKey, Epoch, Generation, Lsn, TargetId, TenantId};

/// The single row of `users_sync.checkpoint` in a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The tenant whose users the target holds.
    pub tenant: TenantId,
    /// The target's random id, which the state records too.
    pub target_id: TargetId,
    /// The history of the position.
    pub generation: Generation,
    /// The target has every transaction that committed before this position.
    pub position: Lsn,
    /// The process that wrote last.
    pub epoch: Epoch,
    /// Fingerprint of the mapping that produced the rows.
    pub mapping: String,
    /// The signature of the other fields; `None` if a version or a role without the column wrote them.
    pub mac: Option<Vec<u8>>,
}

/// Whether users-sync wrote a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authenticity {
    /// The signature is right.
    Verified,
    /// There is no signature.
    Unsigned,
    /// The signature is wrong.
    Forged,
}

/// Names the purpose and the version of the signed message.
const SIGNED_MESSAGE: &[u8] = b"users-sync checkpoint 1";

impl Checkpoint {
    /// Without a key nothing can be verified, and every checkpoint counts as unsigned.
    pub(crate) fn authenticity(&self, key: Option<&CheckpointKey>) -> Authenticity {
        let (Some(key), Some(mac)) = (key, &self.mac) else { return Authenticity::Unsigned };
        if key.verifies(&self.message(), mac) { Authenticity::Verified } else { Authenticity::Forged }
    }

    /// The signature of the other fields.
    pub(crate) fn sign(&self, key: &CheckpointKey) -> Vec<u8> {
        key.sign(&self.message())
    }

    /// The fields with their lengths, so that no two checkpoints have the same message.
    fn message(&self) -> Vec<u8> {
        let Checkpoint { tenant, target_id, generation, position, epoch, mapping, mac: _ } = self;
        let (generation, position, epoch) =
            (generation.0.to_be_bytes(), position.0.to_be_bytes(), epoch.0.to_be_bytes());
        let fields = [
            SIGNED_MESSAGE,
            tenant.as_str().as_bytes(),
            target_id.as_str().as_bytes(),
            &generation,
            &position,
            &epoch,
            mapping.as_bytes(),
        ];
        let mut message = Vec::new();
        for field in fields {
            message.extend_from_slice(&(field.len() as u64).to_be_bytes());
            message.extend_from_slice(field);
        }
        message
    }
}

/// An operator writes this id into a checkpoint to allow that the existing rows are taken over and merged.
pub(crate) const NIL_TARGET_ID: &str = "00000000-0000-0000-0000-000000000000";

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(checkpoint: Checkpoint, key: &CheckpointKey) -> Checkpoint {
        Checkpoint { mac: Some(checkpoint.sign(key)), ..checkpoint }
    }

    #[test]
    fn every_field_is_signed() {
        let key = CheckpointKey::new(&[1; 32]).unwrap();
        let ours = signed(
            Checkpoint {
                tenant: TenantId::new("acme"),
                target_id: TargetId::new("1"),
                generation: Generation(2),
                position: Lsn(3),
                epoch: Epoch(4),
                mapping: "5".into(),
                mac: None,
            },
            &key,
        );
        assert_eq!(ours.authenticity(Some(&key)), Authenticity::Verified);
        let changed = [
            Checkpoint { tenant: TenantId::new("globex"), ..ours.clone() },
            Checkpoint { target_id: TargetId::new("2"), ..ours.clone() },
            Checkpoint { generation: Generation(3), ..ours.clone() },
            Checkpoint { position: Lsn(4), ..ours.clone() },
            Checkpoint { epoch: Epoch(5), ..ours.clone() },
            Checkpoint { mapping: "6".into(), ..ours.clone() },
            // The same bytes, divided in another way.
            Checkpoint { tenant: TenantId::new("acme1"), target_id: TargetId::new(""), ..ours.clone() },
            Checkpoint { mac: Some(Vec::new()), ..ours.clone() },
        ];
        for changed in changed {
            assert_eq!(changed.authenticity(Some(&key)), Authenticity::Forged, "{changed:?}");
        }
        assert_eq!(ours.authenticity(CheckpointKey::new(&[2; 32]).as_ref()), Authenticity::Forged);
        assert_eq!(ours.authenticity(None), Authenticity::Unsigned);
        assert_eq!(Checkpoint { mac: None, ..ours }.authenticity(Some(&key)), Authenticity::Unsigned);
    }

    /// Another message would make every stored signature wrong.
    #[test]
    fn the_signed_message_does_not_change() {
        let checkpoint = Checkpoint {
            tenant: TenantId::new("a"),
            target_id: TargetId::new("b"),
            generation: Generation(1),
            position: Lsn(2),
            epoch: Epoch(3),
            mapping: "m".into(),
            mac: None,
        };
        let mut expected = Vec::new();
        let numbers = [[0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 2], [0, 0, 0, 0, 0, 0, 0, 3]];
        let fields: [&[u8]; 7] = [b"users-sync checkpoint 1", b"a", b"b", &numbers[0], &numbers[1], &numbers[2], b"m"];
        for field in fields {
            expected.extend([0, 0, 0, 0, 0, 0, 0, field.len() as u8]);
            expected.extend(field);
        }
        assert_eq!(checkpoint.message(), expected);
    }
}
