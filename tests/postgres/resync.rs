//! Tenants are resynced on request, by the running process or without one, while the others are not disturbed.

use crate::support::process::{command, said};
use crate::support::{Bed, Service};
use std::sync::Arc;
use users_sync::config::Config;
use users_sync::model::{Deletes, TenantKey};

/// The transaction that wrote each row: an undisturbed tenant keeps its transactions.
const VERSIONS: &str = "SELECT id, xmin FROM neon_auth.users_sync WHERE id <> 'acme-3' ORDER BY id";

async fn fill(bed: &Bed, users: u32) {
    for tenant in &bed.tenants {
        bed.auth(&format!(
            "INSERT INTO auth.users (id, org, first_name, updated_at)
             SELECT '{tenant}-' || n, '{tenant}', 'Ann', now() FROM generate_series(1, {users}) n"
        ))
        .await;
    }
}

/// Changes a target by hand.
async fn spoil(bed: &Bed, tenant: &str) {
    let sql = "UPDATE neon_auth.users_sync SET name = 'Mallory' WHERE id = 'acme-3'";
    bed.server.sql(tenant, sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_process_resyncs_the_requested_tenant_and_writes_only_differences() {
    let bed = Bed::start(&["acme", "globex"]).await;
    fill(&bed, 50).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    let before = (bed.query("acme", VERSIONS).await, bed.query("globex", VERSIONS).await);
    spoil(&bed, "acme").await;
    let file = bed.config_file("");
    let path = file.path().to_str().unwrap();
    let (text, code) = said(&command(&["resync", "-c", path, "acme"]).await);
    assert!(code == Some(0) && text.contains("acme: resynced, caught up to"), "{text}");
    bed.equal().await;
    assert_eq!((bed.query("acme", VERSIONS).await, bed.query("globex", VERSIONS).await), before);
    assert_eq!(bed.query("auth", "SELECT count(*) FROM users_sync.request").await[0][0].as_deref(), Some("0"));
    let (text, code) = said(&command(&["resync", "-c", path, "acne"]).await);
    assert!(code == Some(1) && text.contains("no tenant acne") && text.contains("did you mean acme?"), "{text}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_running_process_resync_runs_itself_and_the_others_lose_nothing() {
    let bed = Bed::start(&["acme", "globex"]).await;
    fill(&bed, 50).await;
    let file = bed.config_file("");
    let path = file.path().to_str().unwrap();
    let (text, code) = said(&command(&["resync", "-c", path, "acme"]).await);
    assert!(code == Some(1) && text.contains("`run` has not started"), "{text}");
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
    spoil(&bed, "acme").await;
    // Changes of both tenants that are not applied yet.
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now() WHERE id LIKE '%-1%'").await;
    let (text, code) = said(&command(&["resync", "-c", path, "acme"]).await);
    assert!(code == Some(0) && text.contains("no process is running: resyncing here"), "{text}");
    assert_eq!(bed.expected("acme").await, bed.held("acme").await);
    assert_ne!(bed.expected("globex").await, bed.held("globex").await);
    // Nothing is applied twice, and the other tenant continues from its position.
    let (text, _) = said(&command(&["run", "--plan", "-c", path]).await);
    assert!(text.contains("0 of 2 tenants would be resynced"), "{text}");
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mass_delete_needs_permission() {
    let bed = Bed::start(&["acme"]).await;
    fill(&bed, 500).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
    let file = bed.config_file("");
    let path = file.path().to_str().unwrap();
    bed.becomes("auth", "SELECT active FROM pg_replication_slots", "f").await;
    // As at the start after a lost slot: most users were deleted, and the stream did not carry it.
    bed.auth("SELECT pg_drop_replication_slot('users_sync'); DELETE FROM auth.users WHERE id > 'acme-2'").await;
    let (text, _) = said(&command(&["run", "--plan", "-c", path]).await);
    assert!(text.contains("acme    resync") && text.contains("1 of 1 tenants would be resynced"), "{text}");
    let service = Service::start(bed.config());
    bed.state_is("acme", "parked").await;
    let (text, code) = said(&command(&["resync", "-c", path, "acme"]).await);
    assert!(code == Some(1) && text.contains("more than limits.max_deletes allows"), "{text}");
    assert!(text.contains("users-sync resync -c FILE acme --allow-deletes"), "{text}");
    let held = bed.query("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NULL").await;
    assert_eq!(held[0][0].as_deref(), Some("500"));
    let (text, code) = said(&command(&["resync", "-c", path, "--allow-deletes", "acme"]).await);
    assert!(code == Some(0) && text.contains("acme: resynced"), "{text}");
    bed.equal().await;
    service.stop().await;
}

/// A wrong `key` reads as a tenant without users.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_snapshot_deletes_no_user_without_permission() {
    let bed = Bed::start(&["acme", "globex"]).await;
    for (tenant, users) in [("acme", 50), ("globex", 2)] {
        bed.auth(&format!(
            "INSERT INTO auth.users (id, org, first_name) SELECT '{tenant}' || n, '{tenant}', 'Ann'
             FROM generate_series(1, {users}) n"
        ))
        .await;
    }
    for deletes in [Deletes::Hard, Deletes::Soft] {
        let right = Config { deletes, ..bed.config() };
        let service = Service::start(right.clone());
        bed.equal().await;
        service.stop().await;
        let mut wrong = right.clone();
        wrong
            .tenants
            .iter_mut()
            .for_each(|tenant| Arc::make_mut(tenant).key = TenantKey::new(&format!("Typo-{}", tenant.id)));
        let service = Service::start(wrong);
        for tenant in ["acme", "globex"] {
            bed.state_is(tenant, "parked").await;
        }
        service.stop().await;
        for (tenant, users) in [("acme", "50"), ("globex", "2")] {
            let live = bed.query(tenant, "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NULL").await;
            assert_eq!(live[0][0].as_deref(), Some(users), "{tenant} with {deletes:?}");
        }
    }
    // With `deletes: hard` a small tenant is protected as well: 11 of 50 users are more than 10 %.
    bed.auth("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").await;
    bed.auth("DELETE FROM auth.users WHERE id LIKE 'acme1%'").await;
    let service = Service::start(Config { deletes: Deletes::Hard, ..bed.config() });
    bed.state_is("acme", "parked").await;
    service.stop().await;
    let live = bed.query("acme", "SELECT count(*) FROM neon_auth.users_sync").await;
    assert_eq!(live[0][0].as_deref(), Some("50"));
}
