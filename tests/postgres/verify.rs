//! Source and targets are compared beside the running process: every difference is found, none is invented.

use crate::support::process::{Process, command, said};
use crate::support::proxy::TcpProxy;
use crate::support::{Bed, GENERATED, PLAIN, Service};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

async fn fill(bed: &Bed, users: u32) {
    for tenant in &bed.tenants {
        bed.auth(&format!(
            "INSERT INTO auth.users (id, org, first_name, created_at, updated_at)
             SELECT '{tenant}-' || n, '{tenant}', 'Ann', date_trunc('second', now()), now() FROM generate_series(1, {users}) n"
        ))
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_difference_is_found_named_and_repaired_and_nothing_else_is_written() {
    for shape in ["", GENERATED] {
        let bed = Bed::start(&["acme", "globex"]).await;
        bed.server.sql("acme", shape).await.unwrap();
        fill(&bed, 300).await;
        // A user deleted at the source is not a difference.
        let service = Service::start(bed.config());
        bed.equal().await;
        bed.auth("DELETE FROM auth.users WHERE id IN ('acme-300', 'globex-300')").await;
        bed.equal().await;
        let file = bed.config_file("");
        let path = file.path().to_str().unwrap();
        let (text, code) = said(&command(&["verify", "-c", path]).await);
        assert_eq!((&*text, code), ("acme: equal, 299 users\nglobex: equal, 299 users\n", Some(0)));

        bed.server
            .sql("acme", "UPDATE neon_auth.users_sync SET raw_json = raw_json || '{\"first_name\": \"Mallory\"}' WHERE id IN ('acme-7', 'acme-8');
                          DELETE FROM neon_auth.users_sync WHERE id = 'acme-9';
                          UPDATE neon_auth.users_sync SET deleted_at = now() WHERE id = 'acme-10'")
            .await
            .unwrap();
        let columns = if shape.is_empty() {
            "(id, raw_json) VALUES ('ghost', '{}')"
        } else {
            "(raw_json) VALUES ('{\"id\": \"ghost\"}')"
        };
        bed.server.sql("acme", &format!("INSERT INTO neon_auth.users_sync {columns}")).await.unwrap();
        let (text, code) = said(&command(&["verify", "-c", path, "--ids", "2"]).await);
        let expected = "acme: 1 missing, 3 different, 1 extra of 299 users\n  missing: acme-9\n  \
                        different: acme-10, acme-7\n  extra: ghost\nglobex: equal, 299 users\n";
        assert_eq!((&*text, code), (expected, Some(1)));
        let (text, _) = said(&command(&["verify", "-c", path, "--json", "acme"]).await);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json[0]["missing"], &json[0]["examples"].as_array().unwrap().len()), (&1.into(), &5));

        let untouched = "SELECT id, xmin FROM neon_auth.users_sync WHERE id NOT IN ('acme-7', 'acme-8', 'acme-9', 'acme-10', 'ghost') ORDER BY id";
        let before = bed.query("acme", untouched).await;
        let (text, code) = said(&command(&["verify", "-c", path, "--repair"]).await);
        assert!(
            code == Some(0) && text.contains("repairing 1 tenants") && text.ends_with("acme: equal, 299 users\n"),
            "{text}"
        );
        bed.equal().await;
        assert_eq!(bed.query("acme", untouched).await, before);
        service.stop().await;
    }
}

/// Another tenant holds back the slot; a tenant without changes can still be compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_tenant_is_compared_while_another_is_unreachable() {
    let bed = Bed::start(&["acme", "globex"]).await;
    fill(&bed, 20).await;
    let proxy = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()))).await.unwrap();
    let mut config = bed.config();
    Arc::make_mut(&mut config.tenants[1]).target.port = proxy.port();
    let service = Service::start(config);
    bed.equal().await;
    proxy.freeze(true);
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now() WHERE org = 'globex'").await;
    bed.auth("CREATE TABLE auth.other AS SELECT n FROM generate_series(1, 100000) n").await;
    let file = bed.config_file("");
    let (text, code) = said(&command(&["verify", "-c", file.path().to_str().unwrap(), "acme"]).await);
    assert_eq!((&*text, code), ("acme: equal, 20 users\n", Some(0)));
    proxy.freeze(false);
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_only_real_differences_are_reported() {
    let bed = Arc::new(Bed::start(&["acme"]).await);
    fill(&bed, 2_000).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    bed.server.sql("acme", "UPDATE neon_auth.users_sync SET name = 'Mallory' WHERE id = 'acme-2000'").await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (bed, stop) = (bed.clone(), stop.clone());
        async move {
            let client = bed.server.connect("auth").await.unwrap();
            let mut writes = 0u32;
            while !stop.load(Ordering::Relaxed) {
                let (a, b) = (fastrand::u32(1..2000), fastrand::u32(1..2000));
                client
                    .batch_execute(&format!(
                        "UPDATE auth.users SET first_name = 'n{writes}', updated_at = clock_timestamp() WHERE id = 'acme-{a}';
                         DELETE FROM auth.users WHERE id = 'acme-{b}';
                         INSERT INTO auth.users (id, org, updated_at) VALUES ('acme-{b}', 'acme', clock_timestamp())"
                    ))
                    .await
                    .unwrap();
                writes += 1;
            }
            writes
        }
    });
    let file = bed.config_file("");
    let path = file.path().to_str().unwrap();
    for _ in 0..8 {
        let (text, code) = said(&command(&["verify", "-c", path]).await);
        assert!(code == Some(1) && text.contains(" 0 missing, 1 different, 0 extra of "), "{text}");
        assert!(text.contains("different: acme-2000\n"), "{text}");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 100);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_without_users_is_a_warning_with_the_nearest_key() {
    let bed = Bed::start(&["acme", "globex"]).await;
    fill(&bed, 10).await;
    bed.auth("UPDATE auth.users SET org = 'Globex' WHERE org = 'globex'").await;
    let service = Service::start(bed.config());
    bed.equal().await;
    let file = bed.config_file("");
    let path = file.path().to_str().unwrap();
    let (text, code) = said(&command(&["verify", "-c", path]).await);
    assert!(code == Some(1) && text.contains("acme: equal, 10 users\n"), "{text}");
    assert!(text.contains("globex: nothing was compared") && text.contains("key: 'Globex'"), "{text}");
    let (text, code) = said(&command(&["verify", "-c", path, "acme"]).await);
    assert_eq!(code, Some(0), "{text}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_cannot_be_compared_is_named_and_the_others_are_compared() {
    let bed = Bed::start(&["acme", "globex"]).await;
    fill(&bed, 10).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    bed.server.sql("globex", "ALTER TABLE neon_auth.users_sync RENAME raw_json TO profile").await.unwrap();
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now()").await;
    bed.state_is("globex", "parked").await;
    let file = bed.config_file("");
    let path = file.path().to_str().unwrap();
    let (text, code) = said(&command(&["verify", "-c", path]).await);
    assert!(code == Some(1) && text.starts_with("acme: equal, 10 users\nglobex: not compared: "), "{text}");
    let (text, code) = said(&command(&["verify", "-c", path, "glubex"]).await);
    assert!(code == Some(1) && text.contains("no tenant glubex") && text.contains("did you mean globex?"), "{text}");
    service.stop().await;
    // Without a process, an unapplied change is a difference.
    bed.auth("UPDATE auth.users SET first_name = 'Zed', updated_at = now() WHERE id = 'acme-1'").await;
    let (text, code) = said(&command(&["verify", "-c", path, "acme"]).await);
    assert!(code == Some(1) && text.contains("different: acme-1\n"), "{text}");
}

/// What a target's encoding, its indexes and its types cannot hold fits into no temporary table there either.
#[tokio::test(flavor = "multi_thread")]
async fn rejected_users_are_left_out_and_counted_whatever_their_rows_hold() {
    let bed = Bed::start(&["latin", "strict", "plain"]).await;
    for sql in ["DROP DATABASE latin", "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"] {
        bed.server.sql("postgres", sql).await.unwrap();
    }
    bed.server.sql("postgres", "ALTER DATABASE latin SET max_stack_depth = '200kB'").await.unwrap();
    for tenant in ["latin", "strict"] {
        bed.server.sql(tenant, PLAIN).await.unwrap();
    }
    bed.server.sql("strict", "CREATE UNIQUE INDEX ON neon_auth.users_sync (email)").await.unwrap();
    // An id of any size, and twice.
    bed.auth("ALTER TABLE auth.users DROP CONSTRAINT users_pkey, ADD extra json; ALTER TABLE auth.users REPLICA IDENTITY FULL")
        .await;
    fill(&bed, 20).await;
    let poison = r#"CREATE TABLE auth.poison AS SELECT * FROM auth.users WHERE false;
      INSERT INTO auth.poison (id, org, first_name, email, extra, updated_at) VALUES
      ('name', 'latin', U&'\20ac', null, null, now()), (U&'\20ac', 'latin', null, null, null, now()),
      ((SELECT string_agg(md5(n::text), '') FROM generate_series(1, 300) n), 'latin', null, null, null, now()),
      ('deep', 'latin', null, null, (repeat('[', 10000) || repeat(']', 10000))::json, now()),
      ('number', 'latin', null, null, '{"n": 1e400000}', now()),
      ('one', 'strict', null, 'a@x.org', null, now()), ('two', 'strict', null, 'a@x.org', null, now())"#;
    bed.auth(poison).await;
    let file = bed.config_file("");
    let path = file.path().to_str().unwrap();
    let rejected = "SELECT count(*) FROM users_sync.rejected";
    let process = Process::start(&file);
    bed.state_is("latin", "following").await;
    bed.auth("UPDATE auth.poison SET created_at = date_trunc('second', now()); INSERT INTO auth.users SELECT * FROM auth.poison").await;
    bed.becomes("latin", rejected, "5").await;
    bed.becomes("strict", rejected, "1").await;
    let (text, code) = said(&command(&["verify", "-c", path]).await);
    let expected = "latin: equal, 20 users, 5 rejected\nplain: equal, 20 users\nstrict: equal, 21 users, 1 rejected\n";
    assert_eq!((&*text, code), (expected, Some(1)));
    let (text, code) = said(&command(&["verify", "-c", path, "--json", "latin"]).await);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json[0]["rejected"], &json[0]["missing"], code), (&5.into(), &0.into(), Some(1)));
    assert_eq!(said(&command(&["verify", "-c", path, "plain"]).await).1, Some(0));
    assert!(process.stop().await.success());

    // What no process has seen is a difference: one row was there before, and one is there twice.
    bed.auth(
        r"UPDATE auth.poison SET id = 'new ' || id, email = null;
         INSERT INTO auth.users SELECT * FROM auth.poison WHERE org = 'latin';
         UPDATE auth.users SET first_name = U&'\20ac', updated_at = now() WHERE id = 'latin-3';
         INSERT INTO auth.users SELECT * FROM auth.users WHERE id = 'latin-4'",
    )
    .await;
    let (text, code) = said(&command(&["verify", "-c", path, "latin", "strict", "--ids", "2"]).await);
    assert!(text.starts_with("latin: 5 missing, 1 different, 0 extra of 25 users, 5 rejected\n"), "{text}");
    assert!(text.contains("  different: latin-3\n") && code == Some(1), "{text}");
    assert!(text.ends_with("strict: equal, 21 users, 1 rejected\n"), "{text}");
    // Beside a process, the comparison waits until it has seen them.
    let process = Process::start(&file);
    let (text, code) = said(&command(&["verify", "-c", path, "latin"]).await);
    assert_eq!((&*text, code), ("latin: equal, 19 users, 11 rejected\n", Some(1)));
    bed.auth(
        r"DELETE FROM auth.users WHERE length(id) > 1000 OR id ~ U&'\20ac';
         UPDATE auth.users SET first_name = 'Ann', extra = null, updated_at = now() WHERE org = 'latin';
         UPDATE auth.users SET email = id, updated_at = now() WHERE org = 'strict'",
    )
    .await;
    bed.becomes("latin", rejected, "0").await;
    bed.becomes("strict", rejected, "0").await;
    let (text, code) = said(&command(&["verify", "-c", path]).await);
    assert_eq!((&*text, code), ("latin: equal, 26 users\nplain: equal, 20 users\nstrict: equal, 22 users\n", Some(0)));
    assert!(process.stop().await.success());
}
