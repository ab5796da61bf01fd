//! The owner of a target changes the checkpoint: only that tenant is affected, and its remedy works.

use super::remedies::statements;
use crate::support::process::{Log, Process, adopts};
use crate::support::{Bed, DEADLINE, pause};
use std::time::Instant;
use tempfile::NamedTempFile;

const TENANTS: [&str; 3] = ["acme", "globex", "own"];
const FORGED: &str = "the checkpoint was changed by something other than users-sync";

struct Scene {
    bed: Bed,
    process: Process,
    log: Log,
    config: NamedTempFile,
    changes: usize,
}

impl Scene {
    async fn start() -> Scene {
        let bed = Bed::start(&TENANTS).await;
        for tenant in TENANTS {
            bed.auth(&format!("INSERT INTO auth.users (id, org, updated_at) VALUES ('u', '{tenant}', now())")).await;
        }
        let config = bed.config_file("");
        let (process, log) = Process::start_logged(&config);
        bed.equal().await;
        for tenant in TENANTS {
            bed.state_is(tenant, "following").await;
        }
        Scene { bed, process, log, config, changes: 0 }
    }

    /// Changes a user of the tenant. Returns the user's new name.
    async fn change(&mut self, tenant: &str) -> String {
        self.changes += 1;
        let name = format!("Name {}", self.changes);
        let sql = format!("UPDATE auth.users SET first_name = '{name}', updated_at = now() WHERE org = '{tenant}'");
        self.bed.auth(&sql).await;
        name
    }

    /// The other tenants follow, get their changes, and have not been resynced.
    async fn others_follow(&mut self) {
        for tenant in ["globex", "own"] {
            let name = self.change(tenant).await;
            let arrived = format!("SELECT count(*) FROM neon_auth.users_sync WHERE name = '{name}'");
            self.bed.becomes(tenant, &arrived, "1").await;
            let state = format!("SELECT state FROM users_sync.tenant WHERE tenant = '{tenant}'");
            assert_eq!(self.bed.query("auth", &state).await[0][0].as_deref(), Some("following"), "{tenant}");
            let text = self.log.text();
            let is_of_tenant = |line: &&str| line.contains(&format!("tenant{{id={tenant}}}"));
            let snapshots = text.lines().filter(is_of_tenant).filter(|line| line.contains("snapshot requested"));
            assert_eq!(snapshots.count(), 1, "{tenant}: {text}");
        }
        let generation = self.bed.query("auth", "SELECT generation FROM users_sync.source").await;
        assert_eq!(generation[0][0].as_deref(), Some("1"));
        let text = self.log.text();
        assert_eq!(text.matches(" streaming slot=").count(), 1, "a session has ended: {text}");
        assert!(self.process.is_running());
    }

    /// The remedy of the tenant, once it is parked for this reason.
    async fn parked(&self, tenant: &str, reason: &str) -> String {
        let sql = format!("SELECT state, reason, remedy FROM users_sync.tenant WHERE tenant = '{tenant}'");
        let deadline = Instant::now() + DEADLINE;
        loop {
            let rows = self.bed.query("auth", &sql).await;
            if let [Some(state), Some(found), Some(remedy)] = &rows[0][..]
                && state == "parked"
                && found.contains(reason)
            {
                return remedy.clone();
            }
            assert!(Instant::now() < deadline, "{tenant} is {rows:?}, and not parked because {reason}");
            pause().await;
        }
    }

    /// The owner of acme's target runs this, and acme is parked; the others are not affected. Following the remedy helps.
    async fn tampering_parks(&mut self, sql: &str, reason: &str) {
        println!("{sql}");
        self.bed.server.sql("acme", sql).await.unwrap();
        self.change("acme").await;
        let remedy = self.parked("acme", reason).await;
        self.others_follow().await;
        adopts(&remedy, self.config.path()).await;
        self.follows().await;
    }

    async fn recovers(&mut self) {
        // As `users-sync resync` does. The pause of a tenant that is parked again and again for one cause has grown.
        let request =
            "INSERT INTO users_sync.request (slot, tenant, allow_deletes) VALUES ('users_sync', 'acme', false)";
        self.bed.auth(request).await;
        self.follows().await;
    }

    async fn follows(&mut self) {
        self.bed.equal().await;
        self.bed.state_is("acme", "following").await;
        self.others_follow().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_checkpoint_parks_its_own_tenant_and_the_remedy_works() {
    let mut scene = Scene::start().await;
    for change in [
        "epoch = epoch + 1",
        "epoch = 9223372036854775807",
        "position = 'FFFFFFFF/0'",
        "position = '0/1'",
        "generation = generation + 1",
        "mapping = 'another'",
        "mac = NULL",
        "mac = sha256('')",
        "mac = NULL, epoch = epoch + 1",
        "mac = NULL, position = 'FFFFFFFF/0'",
    ] {
        scene.tampering_parks(&format!("UPDATE users_sync.checkpoint SET {change}"), FORGED).await;
    }
    scene.tampering_parks("ALTER TABLE users_sync.checkpoint DROP COLUMN mac", FORGED).await;
    assert!(scene.process.stop().await.success(), "{}", scene.log.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checkpoint_of_another_tenant_is_not_accepted() {
    let mut scene = Scene::start().await;
    let row = "SELECT format('tenant = %L, target_id = %L, generation = %L, position = %L, epoch = %L, mapping = %L, \
                 mac = %L', tenant, target_id, generation, position, epoch, mapping, mac) FROM users_sync.checkpoint";
    let of_globex = scene.bed.query("globex", row).await[0][0].clone().unwrap();
    scene.bed.server.sql("acme", &format!("UPDATE users_sync.checkpoint SET {of_globex}")).await.unwrap();
    scene.change("acme").await;
    let remedy = scene.parked("acme", "the target's checkpoint belongs to tenant globex").await;
    assert!(remedy.contains("point tenant acme at its own database"), "{remedy}");
    scene.others_follow().await;
    // As in the runbook.
    let empty = "DROP SCHEMA users_sync CASCADE; TRUNCATE neon_auth.users_sync";
    scene.bed.server.sql("acme", empty).await.unwrap();
    scene.recovers().await;
    let mine =
        format!("UPDATE users_sync.checkpoint SET {of_globex}, tenant = 'acme'").replace("tenant = 'globex', ", "");
    scene.tampering_parks(&mine, "the target was written by another installation").await;
    assert!(scene.process.stop().await.success(), "{}", scene.log.text());
}

/// A restart finds the checkpoint as its owner left it.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_changed_between_two_starts_parks_its_own_tenant() {
    let scene = Scene::start().await;
    let Scene { bed, process, log, config, changes } = scene;
    assert!(process.stop().await.success(), "{}", log.text());
    bed.server.sql("acme", "UPDATE users_sync.checkpoint SET epoch = epoch + 1, mac = NULL").await.unwrap();
    bed.server.sql("globex", "UPDATE users_sync.checkpoint SET position = 'FFFFFFFF/0'").await.unwrap();
    let (process, log) = Process::start_logged(&config);
    let mut scene = Scene { bed, process, log, config, changes };
    for tenant in ["acme", "globex"] {
        // Until something waits for it, a target is not looked at.
        scene.change(tenant).await;
        let remedy = scene.parked(tenant, FORGED).await;
        adopts(&remedy, scene.config.path()).await;
    }
    scene.bed.equal().await;
    for tenant in TENANTS {
        scene.bed.state_is(tenant, "following").await;
    }
    let generation = scene.bed.query("auth", "SELECT generation FROM users_sync.source").await;
    assert_eq!(generation[0][0].as_deref(), Some("1"));
    let text = scene.log.text();
    assert!(!text.contains("tenant{id=own}: snapshot requested"), "{text}");
    assert_eq!(text.matches(" streaming slot=").count(), 1, "{text}");
    assert!(scene.process.stop().await.success(), "{}", scene.log.text());
}

/// The role does not own the table, so that row security applies to it once it is enabled.
#[tokio::test(flavor = "multi_thread")]
async fn row_security_enabled_on_a_following_target_parks_it_and_loses_nothing() {
    let scene = Scene::start().await;
    let Scene { bed, process, log, config, changes } = scene;
    assert!(process.stop().await.success(), "{}", log.text());
    let limited = "CREATE ROLE limited LOGIN; GRANT USAGE ON SCHEMA users_sync, neon_auth TO limited;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA users_sync, neon_auth TO limited";
    bed.server.sql("acme", limited).await.unwrap();
    let text = std::fs::read_to_string(config.path()).unwrap();
    let url = bed.server.url("acme");
    assert!(text.contains(&url), "{text}");
    std::fs::write(config.path(), text.replace(&url, &bed.server.url_for("limited", "acme"))).unwrap();
    let (process, log) = Process::start_logged(&config);
    let mut scene = Scene { bed, process, log, config, changes };
    // A snapshot may not delete all users of a target.
    scene.bed.auth("INSERT INTO auth.users (id, org, updated_at) VALUES ('stays', 'acme', now())").await;
    let name = scene.change("acme").await;
    let arrived = format!("SELECT count(*) > 0 FROM neon_auth.users_sync WHERE name = '{name}'");
    scene.bed.becomes("acme", &arrived, "t").await;
    scene.bed.server.sql("acme", "ALTER TABLE neon_auth.users_sync ENABLE ROW LEVEL SECURITY").await.unwrap();
    scene.bed.auth("DELETE FROM auth.users WHERE org = 'acme' AND id <> 'stays'").await;
    let remedy = scene.parked("acme", "row security would hide rows of neon_auth.users_sync from role limited").await;
    assert_eq!(statements(&remedy), ["ALTER ROLE \"limited\" BYPASSRLS"], "{remedy}");
    scene.bed.server.sql("acme", &statements(&remedy)[0]).await.unwrap();
    scene.bed.equal().await;
    scene.bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NULL", "1").await;
    scene.bed.state_is("acme", "following").await;
    assert!(scene.process.stop().await.success(), "{}", scene.log.text());
}
