//! Targets that end statements at a time limit get smaller ones, in snapshots and in the stream.

use crate::support::pooler::Pooler;
use crate::support::process::{Process, config_file};
use crate::support::{Bed, pause};
use users_sync::throwaway::Options;

/// A table whose trigger takes a while for each row, and which may have a limit of its own for a statement.
fn table(seconds_per_row: f64, limit: &str) -> String {
    let limit = match limit {
        "" => String::new(),
        limit => format!(
            "IF clock_timestamp() - statement_timestamp() > '{limit}' THEN
               PERFORM pg_cancel_backend(pg_backend_pid()), pg_sleep(60);
             END IF;"
        ),
    };
    format!(
        "CREATE SCHEMA IF NOT EXISTS neon_auth;
         CREATE TABLE IF NOT EXISTS neon_auth.users_sync (id text PRIMARY KEY, raw_json jsonb NOT NULL, name text,
           email text, created_at timestamptz, deleted_at timestamptz, updated_at timestamptz);
         CREATE OR REPLACE FUNCTION neon_auth.slow() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_sleep({seconds_per_row}); {limit} RETURN NEW; END $$;
         CREATE OR REPLACE TRIGGER slow BEFORE INSERT OR UPDATE ON neon_auth.users_sync
           FOR EACH ROW EXECUTE FUNCTION neon_auth.slow()"
    )
}

/// Behind a pooler, the limit of an idle transaction applies from BEGIN until the settings that follow it. A shorter one would
/// end transactions on a busy machine.
const HURRIED: &str = "CREATE ROLE hurried LOGIN SUPERUSER; ALTER ROLE hurried SET statement_timeout = '300ms';
    ALTER ROLE hurried SET idle_in_transaction_session_timeout = '100ms'; ALTER ROLE hurried SET lock_timeout = '1ms';
    ALTER ROLE hurried SET idle_session_timeout = '300ms'";

async fn add(bed: &Bed, first: u32, last: u32) {
    for tenant in &bed.tenants {
        bed.auth(&format!(
            "INSERT INTO auth.users (id, org, first_name, updated_at)
             SELECT '{tenant}' || n, '{tenant}', 'Ann', now() FROM generate_series({first}, {last}) n"
        ))
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_a_time_limit_ends_get_smaller_until_they_fit() {
    // The timeout of the role, the same behind a pooler, a limit of the pooler, and one that any session could apply.
    let bed = Bed::start_with(&["role", "pooled", "pooler", "strict"], Options::new()).await;
    bed.server.sql("postgres", HURRIED).await.unwrap();
    let has_transaction_timeout = "SELECT current_setting('server_version_num')::int >= 170000";
    if bed.query("postgres", has_transaction_timeout).await[0][0].as_deref() == Some("t") {
        bed.server.sql("postgres", "ALTER ROLE hurried SET transaction_timeout = '300ms'").await.unwrap();
    }
    for tenant in &bed.tenants {
        bed.server.sql(tenant, &table(0.02, if tenant == "strict" { "100ms" } else { "" })).await.unwrap();
    }
    let pooled = Pooler::start(&bed.server, &["hurried"], "");
    let limited = Pooler::start(&bed.server, &["postgres"], "query_timeout = 1");
    let targets = [
        ("role", bed.server.url_for("hurried", "role")),
        ("pooled", pooled.url_for("hurried", "pooled")),
        ("pooler", limited.url_for("postgres", "pooler")),
        ("strict", bed.server.url("strict")),
    ];
    let targets = targets.map(|(tenant, url)| (tenant.to_owned(), url));
    add(&bed, 1, 100).await;
    let config = config_file(&bed.server.url("auth"), &targets, "");
    let (process, log) = Process::start_logged(&config);
    bed.equal().await;
    for tenant in &bed.tenants {
        bed.state_is(tenant, "following").await;
    }
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now()").await;
    bed.equal().await;
    add(&bed, 101, 200).await;
    bed.auth("DELETE FROM auth.users WHERE id ~ '^[a-z]+1[0-9]$'").await;
    bed.equal().await;
    // A snapshot that is merged.
    bed.auth("UPDATE auth.users SET email = 'a@b', updated_at = now()").await;
    bed.auth("INSERT INTO users_sync.request (slot, tenant, allow_deletes) SELECT slot, tenant, false FROM users_sync.tenant")
        .await;
    bed.becomes("auth", "SELECT count(*) FROM users_sync.request", "0").await;
    bed.equal().await;
    let rejected = "SELECT count(*) FROM users_sync.rejected";
    for tenant in &bed.tenants {
        bed.becomes(tenant, rejected, "0").await;
    }
    for tenant in &bed.tenants {
        bed.state_is(tenant, "following").await;
    }
    assert!(process.stop().await.success(), "{}", log.text());
    // On a busy machine one row alone may exceed the limit. Nothing else may park a tenant.
    let parked = log.text();
    let mut parked = parked.lines().filter(|line| line.contains(" parked "));
    assert!(parked.all(|line| line.contains("row_too_slow")), "{}", log.text());
}

/// Its source is not read again as long as the row that takes too long still does.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_writes_not_even_one_row_in_time_is_parked_and_takes_no_snapshots() {
    let bed = Bed::start_with(&["stuck"], Options::new()).await;
    bed.server.sql("stuck", &table(0.2, "100ms")).await.unwrap();
    add(&bed, 1, 30).await;
    let config = config_file(&bed.server.url("auth"), &[("stuck".to_owned(), bed.server.url("stuck"))], "");
    let (process, log) = Process::start_logged(&config);
    bed.state_is("stuck", "parked").await;
    bed.becomes("auth", "SELECT reason_code FROM users_sync.tenant", "row_too_slow").await;
    while log.text().matches("\"parked\"").count().max(log.text().matches(" parked ").count()) < 3 {
        assert_eq!(bed.query("auth", "SELECT state FROM users_sync.tenant").await[0][0].as_deref(), Some("parked"));
        pause().await;
    }
    let snapshots = |text: String| text.matches("snapshot requested").count();
    // One without a limit, and one in parts.
    assert_eq!(snapshots(log.text()), 2, "{}", log.text());
    let remedy = bed.query("auth", "SELECT remedy FROM users_sync.tenant").await[0][0].clone().unwrap();
    bed.server.sql("stuck", &remedy).await.unwrap();
    bed.server.sql("stuck", &table(0.0, "100ms")).await.unwrap();
    bed.equal().await;
    bed.state_is("stuck", "following").await;
    assert_eq!(snapshots(log.text()), 3, "{}", log.text());
    assert!(process.stop().await.success(), "{}", log.text());
}
