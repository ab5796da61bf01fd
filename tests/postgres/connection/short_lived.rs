//! Passwords of a file and of a command: the service goes on when they change, without a snapshot.

use crate::support::Bed;
use crate::support::process::{Process, command, said};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use users_sync::throwaway::Options;

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_that_change_under_load_cause_no_snapshot() {
    let bed = Bed::start_with(&["acme", "globex"], Options::new().auth("scram-sha-256")).await;
    let roles = "CREATE ROLE reader LOGIN SUPERUSER; CREATE ROLE app LOGIN;
                 ALTER DATABASE acme OWNER TO app; ALTER DATABASE globex OWNER TO app";
    bed.server.sql("auth", roles).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [passfile, token, config] = ["pgpass", "token", "users-sync.yaml"].map(|name| directory.path().join(name));
    let port = bed.server.port();
    let rotate = async |password: &str| {
        let sql = format!("ALTER ROLE reader PASSWORD 'r{password}'; ALTER ROLE app PASSWORD 'a{password}'");
        bed.server.sql("auth", &sql).await.unwrap();
        write(&passfile, &format!("# roles\n127.0.0.1:{port}:*:reader:r{password}\n"));
        // An expiry in the past: the command runs for each login. The other tenant's output is kept for a minute.
        write(&token, &format!("{{\"password\": \"a{password}\", \"expires_at\": 0}}"));
    };
    rotate("hunter1").await;
    let text = format!(
        "source: {{url: 'postgres://reader@127.0.0.1:{port}/auth?passfile={}'}}\n\
         users: {{table: auth.users, id: id, name: {{join: [first_name, last_name]}}, email: email, \
         created_at: created_at, updated_at: updated_at, deleted_at: deleted_at, tenant: org}}\n\
         targets: {{password_command: [cat, '{}']}}\n\
         tenants:\n\
         - {{id: acme, target: 'postgres://app@127.0.0.1:{port}/acme'}}\n\
         - {{id: globex, target: 'postgres://app@127.0.0.1:{port}/globex',\n\
             password_command: [sed, 's/.*\"\\(a[^\"]*\\)\".*/\\1/', '{}']}}\n",
        passfile.display(),
        token.display(),
        token.display()
    );
    write(&config, &text);
    let path = config.to_str().unwrap();
    let add = async |id: &str| {
        bed.auth(&format!("INSERT INTO auth.users (id, org) VALUES ('{id}', 'acme'), ('{id}', 'globex')")).await;
    };
    add("u0").await;
    let checked = said(&command(&["check", "-c", path]).await);
    assert_eq!(checked.1, Some(0), "{}", checked.0);
    let (process, log) = Process::start_logged(&config);
    bed.equal().await;
    for round in 1..4 {
        rotate(&format!("hunter{round}x")).await;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('reader', 'app')";
        bed.server.sql("postgres", end).await.unwrap();
        add(&format!("u{round}")).await;
        bed.equal().await;
    }
    // The role has its new password before the command gives it, also when a process starts.
    let refused =
        "SELECT string_agg(concat(tenant, ' ', state, ' ', reason_code), ',' ORDER BY tenant) FROM users_sync.tenant";
    bed.server.sql("auth", "ALTER ROLE app PASSWORD 'ahunter9x'").await.unwrap();
    bed.server
        .sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
        .await
        .unwrap();
    add("u4").await;
    bed.becomes("auth", refused, "acme following target_login,globex following target_login").await;
    let shown = said(&command(&["status", "-c", path]).await);
    // The last rotation's cut of the source may be shown, too.
    assert!(shown.1 != Some(0) && shown.0.contains("degraded target_login acme"), "{}", shown.0);
    assert!(process.stop().await.success());
    let (process, more) = Process::start_logged(&config);
    add("u5").await;
    more.says_times("reason_code=\"target_login\"", 4).await;
    rotate("hunter9x").await;
    bed.equal().await;
    assert!(process.stop().await.success());
    let text = log.text() + &more.text();
    assert_eq!(text.matches("snapshot requested").count(), 2, "{text}");
    assert!(!text.contains("hunter") && !text.contains("parked"), "{text}");

    // What cannot give a password is named, without the password.
    write(&token, "ahunter1\nahunter2\n");
    let (text, code) = said(&command(&["check", "-c", path]).await);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("password_command cat: it prints more than one line") && !text.contains("hunter"), "{text}");
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (text, code) = said(&command(&["check", "-c", path]).await);
    assert!(code == Some(1) && text.contains("chmod 600"), "{text}");
}
