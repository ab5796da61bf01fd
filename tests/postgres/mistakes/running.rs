//! Mistakes that a running process meets: `status` names each with its code and remedy, and exits with 1 until it is fixed.

use super::{Expected, Shown, shown};
use crate::support::process::{Process, config_file};
use crate::support::{Bed, DEADLINE, pause};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The lines of this file.
pub const LINES: [u8; 4] = [25, 40, 44, 52];

/// Three hours ahead, for a process that loads it first.
const CLOCK_AHEAD: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *t) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
  int done = real(id, t);
  if (!done && id == CLOCK_REALTIME) t->tv_sec += 3 * 3600;
  return done;
}
"#;

fn clock_ahead(directory: &Path) -> PathBuf {
    let (code, library) = (directory.join("clock.c"), directory.join("clock.so"));
    std::fs::write(&code, CLOCK_AHEAD).unwrap();
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &code]).arg("-ldl").output().unwrap();
    assert!(built.status.success(), "{built:?}");
    library
}

struct Scene {
    bed: Bed,
    path: PathBuf,
    directory: tempfile::TempDir,
}

impl Scene {
    async fn status(&self) -> Shown {
        shown(&["status", "-c", self.path.to_str().unwrap()], self.directory.path(), &[]).await
    }

    /// Waits until `status` shows it, and then that nothing is left once `fixed` is done.
    async fn meets(&self, expected: Expected<'_>, fixed: impl AsyncFnOnce()) {
        let deadline = Instant::now() + DEADLINE;
        let shown = loop {
            let shown = self.status().await;
            if shown.has(expected.code, expected.words) || Instant::now() > deadline {
                break shown;
            }
            pause().await;
        };
        shown.is(&expected);
        fixed().await;
        loop {
            let Shown { exit, text, .. } = self.status().await;
            if exit == Some(0) {
                return;
            }
            assert!(Instant::now() < deadline + DEADLINE, "line {}: {text}", expected.line);
            pause().await;
        }
    }

    async fn at_target(&self, tenant: &str, sql: &str) {
        self.bed.server.sql(tenant, sql).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_beside_a_running_process_are_in_the_status_until_they_are_fixed() {
    let directory = tempfile::tempdir().unwrap();
    let bed = Bed::start(&["app", "limit", "down"]).await;
    for tenant in &bed.tenants {
        bed.auth(&format!("INSERT INTO auth.users (id, org, updated_at) VALUES ('u', '{tenant}', now())")).await;
    }
    bed.auth("CREATE ROLE writer LOGIN; GRANT CREATE ON DATABASE \"limit\" TO writer").await;
    let url = |tenant: &str| bed.server.url(tenant);
    let down = "postgresql://postgres@127.0.0.1:1/down";
    let targets = [("app", url("app")), ("limit", bed.server.url_for("writer", "limit")), ("down", down.to_owned())];
    let file = config_file(&url("auth"), &targets.map(|(id, url)| (id.to_owned(), url)), "");
    let mut command = Command::new(env!("CARGO_BIN_EXE_users-sync"));
    command.args(["run", "-c"]).arg(file.path()).env("LD_PRELOAD", clock_ahead(directory.path())).stdin(Stdio::null());
    let process = Process::spawn(command);
    let right = url("down");
    let scene = Scene { bed, path: file.path().to_owned(), directory };

    let words = ["cannot reach 127.0.0.1:1/down", "start the target's server, or correct host and port"];
    scene
        .meets(Expected { line: 25, code: "target_unreachable", exit: 1, words: &words }, async || {
            let text = std::fs::read_to_string(&scene.path).unwrap();
            std::fs::write(&scene.path, text.replace(down, &right)).unwrap();
        })
        .await;
    scene.bed.equal().await;

    scene.at_target("app", "ALTER TABLE neon_auth.users_sync ADD CONSTRAINT has_at CHECK (email LIKE '%@%')").await;
    scene.bed.auth("INSERT INTO auth.users (id, org, email, updated_at) VALUES ('bad', 'app', 'nowhere', now())").await;
    let words = ["its target rejects 1 user", "users-sync rejected app"];
    scene
        .meets(Expected { line: 40, code: "rejected_users", exit: 1, words: &words }, async || {
            let path = scene.path.to_str().unwrap();
            let listed = shown(&["rejected", "-c", path, "app"], scene.directory.path(), &[]).await;
            assert!(listed.exit == Some(1) && listed.text.contains("constraint has_at refuses it"), "{}", listed.text);
            scene.at_target("app", "ALTER TABLE neon_auth.users_sync DROP CONSTRAINT has_at").await;
            let tried = shown(&["rejected", "-c", path, "app", "--retry"], scene.directory.path(), &[]).await;
            assert_eq!(tried.exit, Some(0), "{}", tried.text);
        })
        .await;

    scene
        .at_target(
            "limit",
            "ALTER ROLE writer CONNECTION LIMIT 0;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'writer'",
        )
        .await;
    scene.bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now() WHERE org = 'limit'").await;
    let words = ["too many connections for role \"writer\"", "connections of the target's server"];
    scene
        .meets(Expected { line: 44, code: "target_no_resources", exit: 1, words: &words }, async || {
            scene.at_target("limit", "ALTER ROLE writer CONNECTION LIMIT -1").await;
        })
        .await;
    scene.bed.equal().await;

    // The clock of the machine goes back by three hours: the epochs come from the source's clock.
    assert!(process.stop().await.success());
    let process = Process::start_at(&scene.path);
    scene.bed.auth("UPDATE auth.users SET first_name = 'Cid', updated_at = now()").await;
    scene.bed.equal().await;
    let shown = scene.status().await;
    assert!(shown.exit == Some(0) && process.stop().await.success(), "line 52: {}", shown.text);
}
