//! Tenants that receive hashes, masks and fewer columns: from a snapshot, from the stream, and after the keys change.

use crate::support::Bed;
use crate::support::process::{Log, Process, command, said};
use std::path::PathBuf;
use tempfile::TempDir;

const KEY: &str = "0123456789abcdef-acme";

/// A configuration in which acme's line can be changed, and globex receives everything.
struct File {
    directory: TempDir,
    text: String,
}

impl File {
    fn new(bed: &Bed) -> File {
        let text = format!(
            "source: {{url: '{}'}}\nusers: {{table: auth.users, id: id, name: {{join: [first_name, last_name]}}, \
             email: email, updated_at: updated_at, tenant: org}}\ntenants:\n- {{id: globex, target: '{}'}}\n\
             - {{id: acme, target: '{}'",
            bed.server.url("auth"),
            bed.server.url("globex"),
            bed.server.url("acme")
        );
        File { directory: tempfile::tempdir().unwrap(), text }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("users-sync.yaml")
    }

    fn write(&self, keys: &str) {
        std::fs::write(self.path(), format!("{}{keys}}}\n", self.text)).unwrap();
    }
}

async fn start(bed: &Bed, file: &File) -> (Process, Log) {
    let started = Process::start_logged(file.path());
    for tenant in ["acme", "globex"] {
        bed.state_is(tenant, "following").await;
    }
    started
}

/// The number of users of acme whose row does not have the hash of the address, or has more than that of them.
async fn has_only_hashes(bed: &Bed, users: &str) {
    let hash = "encode(hmac(lower(id || '@Example.com'), '0123456789abcdef-acme', 'sha256'), 'hex')";
    let right = format!(
        "SELECT count(*) FROM neon_auth.users_sync u WHERE email = {hash} AND raw_json ->> 'primary_email' = email \
         AND name = 'A***' AND raw_json ->> 'display_name' = name AND u::text !~* 'example|lovelace'"
    );
    bed.becomes("acme", &right, users).await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync", users).await;
}

async fn sign_up(bed: &Bed, id: &str, org: &str) {
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, first_name, last_name, email, profile, updated_at) VALUES \
         ('{id}', '{org}', 'Ada', 'Lovelace', '{id}@Example.com', jsonb_build_object('plan', 'pro', 'text', \
          (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 300) n)), now())"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_receives_hashes_and_masks_and_the_other_one_everything() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.query("acme", "CREATE EXTENSION pgcrypto").await;
    let file = File::new(&bed);
    file.write(&format!(", hash: {{email: sha256, key: '{KEY}'}}, mask: [name, org], only: [profile, org]"));
    sign_up(&bed, "snapshot", "acme").await;
    sign_up(&bed, "other", "globex").await;
    let (process, log) = start(&bed, &file).await;
    has_only_hashes(&bed, "1").await;

    sign_up(&bed, "stream", "acme").await;
    has_only_hashes(&bed, "2").await;
    // The profile is stored out of line and not sent again: the update is merged into the target's row.
    bed.auth("UPDATE auth.users SET last_name = 'King', email = upper(email) WHERE id = 'stream'").await;
    bed.auth("INSERT INTO auth.users (id, org, first_name, email) VALUES ('last', 'acme', 'Ada', 'last@Example.com')")
        .await;
    has_only_hashes(&bed, "3").await;
    let keys = "SELECT string_agg(key, ',' ORDER BY key) FROM neon_auth.users_sync, jsonb_object_keys(raw_json) key \
                WHERE id = 'stream'";
    bed.becomes("acme", keys, "display_name,id,org,primary_email,profile,signed_up_at_millis").await;
    let columns = "SELECT raw_json ->> 'org' || ' ' || (raw_json #>> '{profile,plan}') FROM neon_auth.users_sync \
                   WHERE id = 'stream'";
    bed.becomes("acme", columns, "*** pro").await;
    let whole = "SELECT name || ' ' || email || ' ' || (raw_json ->> 'org') FROM neon_auth.users_sync";
    bed.becomes("globex", whole, "Ada Lovelace other@Example.com globex").await;

    let path = file.path();
    let (shown, code) = said(&command(&["verify", "-c", path.to_str().unwrap()]).await);
    assert_eq!(code, Some(0), "{shown}");
    assert!(!log.text().contains(KEY) && !log.text().contains("xample.com"), "{}", log.text());
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_redaction_is_applied_to_every_user_of_its_tenant_only() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.query("acme", "CREATE EXTENSION pgcrypto").await;
    let file = File::new(&bed);
    file.write("");
    sign_up(&bed, "a", "acme").await;
    sign_up(&bed, "g", "globex").await;
    let (process, log) = start(&bed, &file).await;
    bed.becomes("acme", "SELECT email FROM neon_auth.users_sync", "a@Example.com").await;
    let joined = "SELECT xmin::text FROM neon_auth.users_sync";
    let written = bed.query("globex", joined).await;

    file.write(&format!(", hash: {{email: sha256, key: '{KEY}'}}, mask: [name]"));
    has_only_hashes(&bed, "1").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE raw_json ? 'profile'", "0").await;
    // A mask that names no column would hide nothing: replication stops until the file is corrected.
    file.write(", mask: [emial]");
    log.says("tenants[acme].mask: there is no column \"emial\"; did you mean \"email\"?").await;
    file.write("");
    bed.becomes("acme", "SELECT email FROM neon_auth.users_sync", "a@Example.com").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE raw_json ? 'profile'", "1").await;
    assert_eq!(bed.query("globex", joined).await, written, "{}", log.text());
    assert!(process.stop().await.success());
}
