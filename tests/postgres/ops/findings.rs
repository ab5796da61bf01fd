//! What a running session finds at the source and a person has to fix is in every light, and clear once it is fixed.

use crate::support::lights::{Lights, free_address};
use crate::support::process::config_file;
use crate::support::{Bed, DEADLINE, pause};
use std::io::Write;
use std::time::Instant;
use tempfile::NamedTempFile;

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_identity_that_lacks_columns_is_in_every_light() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth("INSERT INTO auth.users (id, org, updated_at) VALUES ('a', 'acme', now())").await;
    bed.auth("CREATE UNIQUE INDEX by_id ON auth.users (id)").await;
    let at = free_address();
    let targets = [("acme".to_owned(), bed.server.url("acme"))];
    let mut lights =
        Lights::new(config_file(&bed.server.url("auth"), &targets, &format!("admin: {{listen: '{at}'}}")), at);
    let process = lights.run().await;
    lights.show("ok", "").await;
    for (fault, blocks_store) in [
        ("ALTER TABLE auth.users REPLICA IDENTITY NOTHING", true),
        ("ALTER TABLE auth.users REPLICA IDENTITY USING INDEX by_id", false),
        // An identity whose index is gone is none.
        ("DROP INDEX auth.by_id", true),
    ] {
        bed.auth(fault).await;
        lights.show("degraded", "replica_identity").await;
        let effect = "the store's own UPDATEs and DELETEs fail while the table is published";
        // Each of them has the code of the one before.
        let deadline = Instant::now() + DEADLINE;
        while lights.reason("replica_identity").await.contains(effect) != blocks_store {
            assert!(Instant::now() < deadline, "{fault}");
            pause().await;
        }
        let update = bed.server.sql("auth", "UPDATE auth.users SET updated_at = now()").await;
        assert_eq!(update.is_err(), blocks_store, "{fault}");
        assert!(lights.check().await.iter().any(|code| code == "replica_identity"), "{fault}");
    }
    bed.auth("ALTER TABLE auth.users REPLICA IDENTITY DEFAULT").await;
    lights.show("ok", "").await;
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_auth_store_is_in_every_light() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(include_str!("../../providers/zitadel.sql")).await;
    bed.auth(
        "ALTER TABLE projections.users14 REPLICA IDENTITY FULL; \
         INSERT INTO projections.users14 VALUES ('ann', 'i', 'acme', 'ann', 1, 1, 1, now(), now()); \
         INSERT INTO projections.users14_humans (user_id, instance_id, first_name, last_name, email) \
         VALUES ('ann', 'i', 'Ann', 'A', 'a@x.org')",
    )
    .await;
    let at = free_address();
    let mut config = NamedTempFile::new().unwrap();
    write!(
        config,
        "users: {{preset: zitadel}}\nsource: {{url: '{}'}}\nadmin: {{listen: '{at}'}}\ntenants:\n- {{id: acme, target: '{}'}}\n",
        bed.server.url("auth"),
        bed.server.url("acme")
    )
    .unwrap();
    let mut lights = Lights::new(config, at);
    let process = lights.run().await;
    lights.show("ok", "").await;
    bed.auth(
        "CREATE TABLE projections.users15 (LIKE projections.users14 INCLUDING ALL); \
         CREATE TABLE projections.users15_humans (LIKE projections.users14_humans INCLUDING ALL)",
    )
    .await;
    lights.show("degraded", "store_upgraded").await;
    let text = lights.reason("store_upgraded").await;
    assert!(text.contains("projections.users15") && text.contains("projections.users14"), "{text}");
    bed.auth("DROP TABLE projections.users15_humans, projections.users15").await;
    lights.show("ok", "").await;
    assert!(process.stop().await.success());
}
