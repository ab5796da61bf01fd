//! A target's guard: from a wrong base or by a wrong process, nothing at all is written.

use crate::support::Bed;
use users_sync::apply::{Applied, Identity, Move, Rows, Target, plan_rows};
use users_sync::model::{
    Change, CheckpointKey, Deletes, Epoch, Generation, Lsn, Patch, Set, TargetId, TenantId, Timestamp, User, Xid,
};
use users_sync::pg::connect_target;

const TARGET: &str = "6a1c4f6e-0000-4000-8000-000000000001";

fn key() -> CheckpointKey {
    CheckpointKey::new(&[7; 32]).unwrap()
}

/// The signature of the checkpoint that this process writes at position 100.
fn mac(who: &Identity) -> String {
    let mac = who.checkpoint(Lsn(100), Some(&key())).mac.unwrap();
    mac.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn owner() -> Identity {
    Identity {
        tenant: TenantId::new("acme"),
        target_id: TargetId::new(TARGET),
        generation: Generation(2),
        epoch: Epoch(5),
        mapping: "m".into(),
    }
}

fn user(id: &str, name: &str) -> Change {
    Change::Upsert(User {
        id: id.into(),
        raw_json: format!(r#"{{"id": "{id}", "display_name": "{name}"}}"#),
        name: Some(name.into()),
        email: None,
        created_at: None,
        updated_at: None,
        deleted_at: None,
        updated_at_derived: false,
    })
}

fn patch(id: &str, name: &str) -> Change {
    Change::Patch(Patch {
        id: id.into(),
        raw_json: format!(r#"{{"display_name": "{name}"}}"#),
        name: Set::To(Some(name.into())),
        email: Set::Keep,
        created_at: Set::Keep,
        updated_at: Set::Keep,
        deleted_at: Set::Keep,
        updated_at_derived: false,
        xid: Xid(1),
        at: Timestamp(1),
    })
}

async fn open(bed: &Bed) -> Target {
    Target::open(connect_target(&bed.url("acme")).await.unwrap(), Deletes::Soft, false, &key()).await.unwrap().0
}

/// A target at position 100 with one user.
async fn bed() -> Bed {
    let bed = Bed::start(&["acme"]).await;
    drop(open(&bed).await);
    let sql = format!(
        "INSERT INTO users_sync.checkpoint (tenant, target_id, generation, position, epoch, mapping, mac)
           VALUES ('acme', '{TARGET}', 2, '0/64', 5, 'm', '{}');
         INSERT INTO neon_auth.users_sync (id, raw_json, name) VALUES ('there', '{{}}', 'Old')",
        mac(&owner())
    );
    bed.server.sql("acme", &sql).await.unwrap();
    bed
}

async fn state(bed: &Bed) -> Vec<Vec<Option<String>>> {
    let sql =
        "SELECT position::text, epoch::text, (SELECT string_agg(id || name, ',' ORDER BY id) FROM neon_auth.users_sync)
               FROM users_sync.checkpoint";
    bed.query("acme", sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_writes_and_only_from_the_targets_position() {
    let bed = bed().await;
    let mut target = open(&bed).await;
    let changes =
        [user("there", "Later"), user("fresh", "Later"), Change::Delete { id: "there".into(), at: Timestamp(1) }];
    let before = state(&bed).await;
    let here = Move { from: Lsn(100), to: Lsn(200) };
    let strangers = [
        (Identity { tenant: TenantId::new("globex"), ..owner() }, here),
        (Identity { target_id: TargetId::new("6a1c4f6e-0000-4000-8000-000000000002"), ..owner() }, here),
        (Identity { generation: Generation(1), ..owner() }, here),
        (Identity { generation: Generation(3), ..owner() }, here),
        (Identity { epoch: Epoch(4), ..owner() }, here),
        (Identity { mapping: "another".into(), ..owner() }, here),
        (owner(), Move { from: Lsn(99), ..here }),
        (owner(), Move { from: Lsn(101), ..here }),
    ];
    for (who, moving) in &strangers {
        let applied = target.apply(who, *moving, &plan_rows(&changes).rows).await.unwrap();
        assert_eq!(applied, Applied::Refused, "{who:?} {moving:?}");
        assert_eq!(target.begin_chunks(who, moving.from).await.unwrap(), Applied::Refused, "{who:?} {moving:?}");
        assert_eq!(state(&bed).await, before, "{who:?} {moving:?}");
    }
    let later = Identity { epoch: Epoch(6), ..owner() };
    // As its fence does.
    let fence = format!("UPDATE users_sync.checkpoint SET epoch = 6, mac = '{}'", mac(&later));
    bed.server.sql("acme", &fence).await.unwrap();
    assert_eq!(target.apply(&later, here, &plan_rows(&changes[..2]).rows).await.unwrap(), Applied::Yes);
    let expected = vec![vec![Some("0/C8".into()), Some("6".into()), Some("freshLater,thereLater".into())]];
    assert_eq!(state(&bed).await, expected);
    // Repeated as after a lost reply: already applied.
    assert_eq!(target.apply(&later, here, &plan_rows(&changes[..2]).rows).await.unwrap(), Applied::Refused);
    assert_eq!(state(&bed).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_without_a_live_row_rejects_its_whole_batch() {
    let bed = bed().await;
    let mut target = open(&bed).await;
    let before = state(&bed).await;
    let changes = [user("fresh", "Later"), patch("there", "Later"), patch("missing", "Later")];
    let moving = Move { from: Lsn(100), to: Lsn(200) };
    assert_eq!(target.apply(&owner(), moving, &plan_rows(&changes).rows).await.unwrap(), Applied::Refused);
    assert_eq!(state(&bed).await, before);
    bed.server.sql("acme", "UPDATE neon_auth.users_sync SET deleted_at = now()").await.unwrap();
    assert_eq!(target.apply(&owner(), moving, &plan_rows(&changes[..2]).rows).await.unwrap(), Applied::Refused);
    assert_eq!(state(&bed).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_become_visible_together_with_their_checkpoint_or_not_at_all() {
    let bed = bed().await;
    let mut target = open(&bed).await;
    let before = state(&bed).await;
    for commit in [false, true] {
        assert_eq!(target.begin_chunks(&owner(), Lsn(100)).await.unwrap(), Applied::Yes);
        for id in ["a", "b"] {
            assert_eq!(target.apply_chunk(&plan_rows(&[user(id, "Later")]).rows).await.unwrap(), Applied::Yes);
            assert_eq!(target.apply_chunk(&Rows::default()).await.unwrap(), Applied::Yes);
        }
        assert_eq!(state(&bed).await, before);
        if commit {
            let moving = Move { from: Lsn(100), to: Lsn(200) };
            assert_eq!(target.commit_chunks(&owner(), moving).await.unwrap(), Applied::Yes);
        } else {
            target.rollback().await.unwrap();
        }
    }
    let expected = vec![vec![Some("0/C8".into()), Some("5".into()), Some("aLater,bLater,thereOld".into())]];
    assert_eq!(state(&bed).await, expected);
}
