//! A target that makes its users' snapshot wait is parked after `limits.park_after`, and the others go on.

use crate::support::process::{Log, Process, command, config_file, said};
use crate::support::{Bed, DEADLINE, PLAIN, pause};
use std::time::Instant;
use tempfile::NamedTempFile;

/// A tenant with a hostile owner, `acme`, beside an honest one, `globex`.
struct Scene {
    bed: Bed,
    process: Process,
    log: Log,
    config: NamedTempFile,
}

impl Scene {
    /// Starts with `sql` in the hostile target, whose table exists and is empty.
    async fn start(sql: &str) -> Scene {
        let bed = Bed::start(&["acme", "globex"]).await;
        bed.auth(
            "INSERT INTO auth.users (id, org, updated_at) SELECT tenant || '-' || n, tenant, now()
             FROM unnest(ARRAY['acme', 'globex']) tenant, generate_series(1, 20) n",
        )
        .await;
        bed.server.sql("acme", PLAIN).await.unwrap();
        bed.server.sql("acme", sql).await.unwrap();
        let targets = ["acme", "globex"].map(|tenant| (tenant.to_owned(), bed.server.url(tenant)));
        let config = config_file(&bed.server.url("auth"), &targets, "limits: {park_after: 2s}");
        let (process, log) = Process::start_logged(&config);
        bed.state_is("globex", "following").await;
        Scene { bed, process, log, config }
    }

    /// Waits until the hostile tenant is parked for lack of progress while it joins.
    async fn parks(&self) {
        let sql = "SELECT state, reason_code, reason, remedy FROM users_sync.tenant WHERE tenant = 'acme'";
        let deadline = Instant::now() + DEADLINE;
        loop {
            let rows = self.bed.query("auth", sql).await;
            if let [Some(state), Some(code), Some(reason), Some(remedy)] = &rows[0][..]
                && state == "parked"
                && code == "away"
                && reason.contains("its target has made no progress with the snapshot for 2s (limits.park_after)")
            {
                assert!(remedy.contains("end what keeps the target from answering"), "{remedy}");
                return;
            }
            assert!(Instant::now() < deadline, "{rows:?}: {}", self.log.text());
            pause().await;
        }
    }

    async fn recovers(self, sql: &str) {
        self.bed.server.sql("acme", sql).await.unwrap();
        self.bed.equal().await;
        self.bed.state_is("acme", "following").await;
        let text = self.log.text();
        assert_eq!(text.matches(" streaming slot=").count(), 1, "a session has ended: {text}");
        assert_eq!(text.matches("tenant{id=globex}: snapshot requested").count(), 1, "{text}");
        assert!(self.process.stop().await.success(), "{text}");
    }
}

const SLEEPS: &str = "CREATE FUNCTION sleeps() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(100000); RETURN NEW; END $$;
    CREATE TRIGGER sleeps BEFORE INSERT OR UPDATE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION sleeps()";

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_sleeps_during_copy_parks_a_joining_tenant() {
    let scene = Scene::start(SLEEPS).await;
    scene.parks().await;
    // No backend is left that holds a lock.
    scene.recovers("DROP TRIGGER sleeps ON neon_auth.users_sync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_sleeps_during_the_merge_parks_a_joining_tenant() {
    let scene = Scene::start("SELECT 1").await;
    scene.bed.equal().await;
    scene.bed.state_is("acme", "following").await;
    scene.bed.server.sql("acme", SLEEPS).await.unwrap();
    let differs = "ALTER TABLE neon_auth.users_sync DISABLE TRIGGER sleeps;
        UPDATE neon_auth.users_sync SET name = 'x'; ALTER TABLE neon_auth.users_sync ENABLE TRIGGER sleeps";
    scene.bed.server.sql("acme", differs).await.unwrap();
    let (output, code) = said(&command(&["resync", "-c", scene.config.path().to_str().unwrap(), "acme"]).await);
    assert!(output.contains("made no progress with the snapshot") && code == Some(1), "{output} {code:?}");
    scene.parks().await;
    scene.recovers("DROP TRIGGER sleeps ON neon_auth.users_sync").await;
}
