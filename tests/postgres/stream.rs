//! The main path on real servers: snapshot, stream, restart, and everything a source transaction can contain.

use crate::support::process::Process;
use crate::support::{Bed, Service};

#[tokio::test(flavor = "multi_thread")]
async fn users_reach_their_tenant_and_follow_every_change() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(
        "INSERT INTO auth.users (id, org, first_name, email)
         SELECT 'u' || n, (ARRAY['acme', 'globex', 'unlisted'])[1 + n % 3], 'Ann', n || '@x.org' FROM generate_series(1, 3000) n",
    )
    .await;
    let service = Service::start(bed.config());
    bed.equal().await;
    let index = "SELECT to_regclass('neon_auth.users_sync_deleted_at_idx') IS NOT NULL";
    for tenant in &bed.tenants {
        bed.becomes(tenant, index, "t").await;
    }
    bed.auth("INSERT INTO auth.users (id, org, first_name, last_name) VALUES ('new', 'acme', 'New', 'One')").await;
    bed.auth("UPDATE auth.users SET email = '', last_name = 'Changed', updated_at = now() WHERE id < 'u2'").await;
    bed.auth("DELETE FROM auth.users WHERE id > 'u5'").await;
    bed.auth("UPDATE auth.users SET org = 'globex', updated_at = now() WHERE org = 'acme' AND id < 'u15'").await;
    bed.equal().await;
    service.stop().await;
    bed.auth("UPDATE auth.users SET email = 'while@away', updated_at = now() WHERE id LIKE '%7'").await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_committed_changes_arrive() {
    let bed = Bed::start(&["acme", "globex"]).await;
    let service = Service::start(bed.config());
    bed.state_is("acme", "following").await;
    for sql in [
        "BEGIN; INSERT INTO auth.users (id, org) VALUES ('rolled back', 'acme'); ROLLBACK",
        "BEGIN;
           INSERT INTO auth.users (id, org) VALUES ('kept', 'acme');
           SAVEPOINT a; INSERT INTO auth.users (id, org) VALUES ('undone', 'acme'); ROLLBACK TO a;
           SAVEPOINT b; UPDATE auth.users SET first_name = 'twice', updated_at = now() WHERE id = 'kept'; RELEASE b;
         COMMIT",
        "BEGIN; INSERT INTO auth.users (id, org) VALUES ('brief', 'acme'); DELETE FROM auth.users WHERE id = 'brief'; COMMIT",
        "INSERT INTO auth.users (id, org) VALUES ('old', 'acme'), ('gone', 'acme'), ('back', 'acme')",
    ] {
        bed.auth(sql).await;
    }
    bed.equal().await;
    for sql in [
        "UPDATE auth.users SET id = 'renamed', updated_at = now() WHERE id = 'old'",
        "DELETE FROM auth.users WHERE id = 'gone'",
        "DELETE FROM auth.users WHERE id = 'back'",
        "INSERT INTO auth.users (id, org, first_name) VALUES ('back', 'acme', 'again')",
    ] {
        bed.auth(sql).await;
    }
    bed.equal().await;
    let all = "SELECT string_agg(id || CASE WHEN deleted_at IS NULL THEN '' ELSE '-' END, ' ' ORDER BY id) \
               FROM neon_auth.users_sync";
    assert_eq!(bed.query("acme", all).await[0][0].as_deref(), Some("back gone- kept old- renamed"));
    service.stop().await;
}

/// With a deferrable key, two rows have the same id for a while.
#[tokio::test(flavor = "multi_thread")]
async fn ids_exchanged_within_a_transaction_stay_with_live_users() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(
        "ALTER TABLE auth.users DROP CONSTRAINT users_pkey;
         ALTER TABLE auth.users ADD PRIMARY KEY (id, org) DEFERRABLE INITIALLY DEFERRED;
         ALTER TABLE auth.users REPLICA IDENTITY FULL;
         INSERT INTO auth.users (id, org, first_name) SELECT n, 'acme', 'Ann ' || n FROM generate_series(1, 9) n;
         INSERT INTO auth.users (id, org, first_name) SELECT n, 'globex', 'Bo ' || n FROM generate_series(8, 9) n",
    )
    .await;
    let service = Service::start(bed.config());
    bed.equal().await;
    let to = |id: &str, name: &str| {
        format!("UPDATE auth.users SET id = '{id}', updated_at = now() WHERE first_name = '{name}'")
    };
    let swap = format!("{}; {}", to("2", "Ann 1"), to("1", "Ann 2"));
    let statements = [
        swap.clone(),
        // A row that is deleted after the exchange.
        format!("{swap}; DELETE FROM auth.users WHERE first_name = 'Ann 2'"),
        "INSERT INTO auth.users (id, org, first_name) VALUES ('1', 'acme', 'Ann 2')".to_owned(),
        // Each row takes the next id, and the last one takes the first.
        format!("{}; {}; {}", to("2", "Ann 1"), to("3", "Ann 2"), to("1", "Ann 3")),
        // A row passes through the id that another one leaves, which no row has any more.
        format!("{}; {}; {}", to("3", "Ann 3"), to("30", "Ann 2"), to("20", "Ann 3")),
        // The old row is deleted after a new one has its id.
        "INSERT INTO auth.users (id, org, first_name, updated_at) VALUES ('4', 'acme', 'New 4', now());
         DELETE FROM auth.users WHERE first_name = 'Ann 4'"
            .to_owned(),
        // The old row changes while both have the id.
        format!("{}; {}; {}", to("6", "Ann 5"), to("6", "Ann 6"), to("5", "Ann 6")),
        // Two tenants exchange their users.
        "UPDATE auth.users SET org = CASE org WHEN 'acme' THEN 'globex' ELSE 'acme' END, updated_at = now()
         WHERE id IN ('8', '9')"
            .to_owned(),
        "UPDATE auth.users SET id = id::int + 1, updated_at = now() WHERE org = 'acme'".to_owned(),
        "UPDATE auth.users SET id = id::int - 1, updated_at = now() WHERE org = 'acme'".to_owned(),
    ];
    for statements in statements {
        bed.auth(&format!("BEGIN; {statements}; COMMIT")).await;
        bed.equal().await;
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_values_arrive_unchanged() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(r#"ALTER TABLE auth.users ADD COLUMN extra json"#).await;
    let odd = [
        "'😀 \u{1F468}\u{200D}\u{1F469} ä ﷽', 'a''b\"c', E'back\\\\slash \\n\\t\\r'",
        "'', '', ''",
        "NULL, NULL, NULL",
        "E'\\\\N', E'\\\\.', E'\\\\x41'",
        "'{}', '\\\\', E'\\b\\f\\v\u{7f}'",
    ];
    let insert = |n: usize, values: &str| {
        format!(
            "INSERT INTO auth.users (id, org, first_name, last_name, email, profile)
             VALUES ('odd {n}', 'acme', {values}, jsonb_build_object('big', repeat('x', 1000000), 'odd', E'\"\\\\ 😀'))"
        )
    };
    for (n, values) in odd.iter().enumerate() {
        bed.auth(&insert(n, values)).await;
    }
    let service = Service::start(bed.config());
    bed.equal().await;
    for (n, values) in odd.iter().enumerate() {
        bed.auth(&insert(n + odd.len(), values)).await;
    }
    bed.equal().await;
    // The server itself cannot convert this value to jsonb, so there is nothing to compare with.
    bed.auth(r#"INSERT INTO auth.users (id, org, extra) VALUES ('zero', 'acme', '{"a": "x\u0000y", "b": "\\u0000"}')"#)
        .await;
    let extra = "SELECT raw_json ->> 'extra' FROM neon_auth.users_sync WHERE id = 'zero'";
    bed.becomes("acme", extra, r#"{"a": "xy", "b": "\\u0000"}"#).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsent_values_keep_what_the_target_has() {
    let bed = Bed::start(&["acme"]).await;
    let mut config = bed.config();
    let column = |name: &str| users_sync::map::Value::Column(name.to_owned());
    // One input is an unsent TOAST value and the other one was sent, so the whole user is read.
    config.users.email = Some(users_sync::map::Value::First(vec![column("profile.mail"), column("email")]));
    bed.auth(
        "ALTER TABLE auth.users ALTER profile SET STORAGE EXTERNAL;
         INSERT INTO auth.users (id, org, first_name, profile)
         SELECT 'u' || n, 'acme', 'Ann', jsonb_build_object('big', repeat(md5(n::text), 6000)) FROM generate_series(1, 20) n",
    )
    .await;
    let service = Service::start(config);
    bed.equal().await;
    bed.auth("UPDATE auth.users SET last_name = 'Kept', updated_at = now()").await;
    bed.equal().await;
    bed.auth("UPDATE auth.users SET first_name = 'Twice', updated_at = now()").await;
    bed.equal().await;
    service.stop().await;
    // If every input was sent, the row is patched, even one that the target has lost.
    let service = Service::start(bed.config());
    bed.state_is("acme", "following").await;
    bed.equal().await;
    bed.server.sql("acme", "DELETE FROM neon_auth.users_sync WHERE id = 'u7'").await.unwrap();
    bed.auth("UPDATE auth.users SET last_name = 'Patched', updated_at = now()").await;
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_version_wins_among_concurrent_writers() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(
        "INSERT INTO auth.users (id, org) SELECT 'u' || n, 'acme' FROM generate_series(1, 10) n;
         ALTER TABLE auth.users ADD COLUMN version int NOT NULL DEFAULT 0",
    )
    .await;
    let service = Service::start(bed.config());
    bed.equal().await;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let client = bed.server.connect("auth");
            async move {
                let client = client.await.unwrap();
                for round in 0..125 {
                    let user = format!("u{}", 1 + (writer * 7 + round * 3) % 10);
                    let org = if round % 25 == writer { "globex" } else { "acme" };
                    let sql = "UPDATE auth.users SET version = version + 1, org = $2, updated_at = clock_timestamp() \
                               WHERE id = $1";
                    client.execute(sql, &[&user, &org]).await.unwrap();
                }
            }
        })
        .collect();
    futures_util::future::join_all(writers).await;
    let versions = bed.query("auth", "SELECT sum(version) FROM auth.users").await;
    assert_eq!(versions[0][0].as_deref(), Some("1000"));
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_table_is_resynced() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth("INSERT INTO auth.users (id, org) SELECT 'u' || n, 'acme' FROM generate_series(1, 90) n").await;
    let mut config = bed.config();
    config.limits.max_deletes.percent = 100.0;
    let service = Service::start(config);
    bed.equal().await;
    bed.auth("BEGIN; TRUNCATE auth.users; INSERT INTO auth.users (id, org) VALUES ('first', 'acme'); COMMIT").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('second', 'globex')").await;
    bed.equal().await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NOT NULL", "90").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_reinserted_unchanged_after_a_truncation_is_present() {
    const SOME: &str = "INSERT INTO auth.users (id, org, first_name, created_at, updated_at)
        SELECT 'u' || n, 'acme', 'Ann', '2024-05-01', '2024-06-01' FROM generate_series(1, 3) n";
    let bed = Bed::start(&["acme"]).await;
    let service = Service::start(bed.config());
    bed.state_is("acme", "following").await;
    bed.auth(SOME).await;
    bed.equal().await;
    for _ in 0..2 {
        bed.auth("TRUNCATE auth.users").await;
        bed.state_is("acme", "parked").await;
        let allowed =
            "INSERT INTO users_sync.request (slot, tenant, allow_deletes) VALUES ('users_sync', 'acme', true)";
        bed.auth(allowed).await;
        bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NULL", "0").await;
        bed.state_is("acme", "following").await;
        bed.auth(SOME).await;
        bed.equal().await;
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_table_is_followed() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(
        "INSERT INTO auth.users (id, org, updated_at) SELECT 'u' || n, 'acme', now() FROM generate_series(1, 50) n",
    )
    .await;
    let config = bed.config_file("");
    let (process, log) = Process::start_logged(&config);
    bed.equal().await;
    for ddl in [
        "ALTER TABLE auth.users ADD COLUMN city text DEFAULT 'Rome'",
        "ALTER TABLE auth.users ADD COLUMN logins int DEFAULT 7",
        "ALTER TABLE auth.users ALTER logins TYPE text USING logins || ' times'",
        "ALTER TABLE auth.users DROP COLUMN city",
        "ALTER TABLE auth.users ADD COLUMN reset_token text DEFAULT 'secret'",
    ] {
        bed.auth(ddl).await;
        bed.auth("UPDATE auth.users SET first_name = 'After', updated_at = now() WHERE id = 'u1'").await;
        if ddl.contains("reset_token") {
            let leaked = "SELECT count(*) FROM neon_auth.users_sync WHERE raw_json ? 'reset_token'";
            bed.becomes("acme", "SELECT raw_json ->> 'first_name' FROM neon_auth.users_sync WHERE id = 'u1'", "After")
                .await;
            bed.becomes("acme", leaked, "0").await;
        } else {
            bed.equal().await;
        }
    }
    bed.auth("ALTER TABLE auth.users DROP COLUMN last_name; INSERT INTO auth.users (id, org) VALUES ('x', 'acme')")
        .await;
    log.says("replication has stopped until this is fixed").await;
    for name in ["users.name", "\"last_name\""] {
        log.says(name).await;
    }
    // The migration is undone.
    bed.auth("ALTER TABLE auth.users ADD COLUMN last_name text").await;
    bed.auth("ALTER TABLE auth.users DROP COLUMN reset_token").await;
    bed.equal().await;
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_any_size_is_seen_whole_or_not_at_all() {
    let bed = Bed::start(&["acme", "globex"]).await;
    let service = Service::start(bed.config());
    bed.state_is("acme", "following").await;
    let looking = tokio::spawn({
        let client = bed.server.connect("acme").await.unwrap();
        async move {
            loop {
                let row = client.query_one("SELECT count(*) FROM neon_auth.users_sync", &[]).await.unwrap();
                match row.get::<_, i64>(0) {
                    0 => crate::support::pause().await,
                    count => return count,
                }
            }
        }
    });
    bed.auth(
        "INSERT INTO auth.users (id, org, first_name)
         SELECT 'u' || n, (ARRAY['acme', 'globex'])[1 + n % 2], repeat('x', 100) FROM generate_series(1, 150000) n",
    )
    .await;
    assert_eq!(looking.await.unwrap(), 75_000);
    bed.equal().await;
    bed.auth("UPDATE auth.users SET email = id || '@x.org', updated_at = now()").await;
    bed.auth("UPDATE auth.users SET email = 'last@x.org', updated_at = now() WHERE id = 'u10'").await;
    bed.equal().await;
    service.stop().await;
}
