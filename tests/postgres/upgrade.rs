//! A state that the previous version wrote is taken over: its tables gain the new columns, and its rows their codes.

use crate::support::process::Process;
use crate::support::{Bed, Service};
use std::sync::Arc;
use tokio_postgres::types::PgLsn;
use users_sync::model::{Lsn, ParkCause, Reason, TenantId};
use users_sync::pg;
use users_sync::state::{StateStore, TenantState};

/// `users_sync.tenant` as version 0.1 made it, with the rows that are there now.
const PREVIOUS_TABLE: &str = "
    ALTER TABLE users_sync.tenant RENAME TO tenant_now;
    CREATE TABLE users_sync.tenant (
      slot text NOT NULL REFERENCES users_sync.source ON DELETE CASCADE,
      tenant text NOT NULL,
      state text NOT NULL CHECK (state IN ('joining', 'following', 'parked')),
      since timestamptz NOT NULL,
      reason text,
      remedy text,
      target text NOT NULL,
      target_id uuid,
      generation bigint NOT NULL,
      position pg_lsn NOT NULL,
      position_at timestamptz NOT NULL,
      rejected bigint NOT NULL DEFAULT 0,
      relation oid,
      PRIMARY KEY (slot, tenant)
    );
    INSERT INTO users_sync.tenant SELECT slot, tenant, state, since, reason, remedy, target, target_id, generation,
      position, position_at, rejected, relation FROM users_sync.tenant_now;
    DROP TABLE users_sync.tenant_now";

/// A tenant that version 0.1 no longer found in its configuration, and one that it had parked for another reason.
const PREVIOUS_ROWS: &str = "
    UPDATE users_sync.tenant SET state = 'parked', since = now(), remedy = NULL,
      reason = 'the configuration does not have it any more' WHERE tenant = 'acme';
    UPDATE users_sync.tenant SET state = 'parked', since = now(), position = '0/0',
      reason = 'permission denied', remedy = 'grant it' WHERE tenant = 'initech'";

const ROWS: &str =
    "SELECT string_agg(concat_ws(' ', tenant, state, reason_code), ', ' ORDER BY tenant) FROM users_sync.tenant";

#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_the_previous_version_gains_its_codes_and_keeps_the_rest() {
    let bed = Bed::start(&["acme", "globex", "initech"]).await;
    bed.auth("INSERT INTO auth.users (id, org) SELECT 'u' || n, org FROM generate_series(1, 20) n, unnest('{acme,globex,initech}'::text[]) org").await;
    let service = Service::start(bed.config());
    for tenant in ["acme", "globex", "initech"] {
        bed.state_is(tenant, "following").await;
    }
    service.stop().await;
    bed.auth(PREVIOUS_TABLE).await;
    bed.auth(PREVIOUS_ROWS).await;
    bed.auth("UPDATE auth.users SET first_name = 'Meanwhile', updated_at = now()").await;
    let following = "SELECT since::text FROM users_sync.tenant WHERE tenant = 'globex'";
    let since = bed.query("auth", following).await;

    // `status` reads tables that have not been upgraded yet.
    let id = TenantId::new;
    let client = pg::connect(&bed.url("auth")).await.unwrap();
    let before = StateStore::read(&client, "users_sync").await.unwrap();
    assert!(before.tenants.values().all(|row| row.reason_code.is_none()));
    let flushed: PgLsn = client.query_one("SELECT pg_current_wal_flush_lsn()", &[]).await.unwrap().get(0);
    let store = StateStore::acquire(client, "users_sync", "test", Lsn(flushed.into())).await.unwrap();
    let upgraded = store.load().await.unwrap().tenants;
    assert_eq!(upgraded[&id("acme")].reason_code, Some(Reason::Park(ParkCause::NotConfigured)));
    for (tenant, state) in [("globex", TenantState::Following), ("initech", TenantState::Parked)] {
        let (row, known) = (&upgraded[&id(tenant)], &before.tenants[&id(tenant)]);
        assert_eq!((row.state, row.reason_code), (state, None), "{tenant}");
        assert_eq!(
            (&row.reason, &row.remedy, row.position, &row.target_id),
            (&known.reason, &known.remedy, known.position, &known.target_id),
            "{tenant}"
        );
    }
    store.release().await.unwrap();
    drop(store);

    // The tenant that comes back joins, also while its target is away; the other one stays parked until it is not.
    let mut config = bed.config();
    for tenant in [0, 2] {
        Arc::make_mut(&mut config.tenants[tenant]).target.port = 1;
    }
    let service = Service::start(config);
    bed.becomes("auth", ROWS, "acme joining target_unreachable, globex following, initech parked").await;
    bed.becomes("auth", "SELECT reason FROM users_sync.tenant WHERE tenant = 'initech'", "permission denied").await;
    service.stop().await;
    let service = Service::start(bed.config());
    bed.equal().await;
    bed.becomes("auth", ROWS, "acme following, globex following, initech following").await;
    assert_eq!(bed.query("auth", following).await, since, "it has followed all the while");
    service.stop().await;
}

/// `users_sync.rejected` as version 0.2 made it, with one user.
const PREVIOUS_REJECTED: &str = "
    DROP TABLE users_sync.rejected;
    CREATE TABLE users_sync.rejected (
      id text PRIMARY KEY,
      reason text NOT NULL,
      sqlstate text NOT NULL,
      since timestamptz NOT NULL,
      tried_at timestamptz NOT NULL
    );
    INSERT INTO users_sync.rejected VALUES ('u1', 'Eve may not', '23514', '2020-01-01', '2020-01-01');
    GRANT SELECT ON users_sync.rejected TO public";

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_rejected_users_gains_its_key_and_keeps_its_users() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(
        "INSERT INTO auth.users (id, org, updated_at) SELECT 'u' || n, org, now() FROM generate_series(1, 3) n,
              unnest('{acme,globex}'::text[]) org",
    )
    .await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
    bed.server.sql("acme", PREVIOUS_REJECTED).await.unwrap();
    // It is still refused: a row that fits would leave the table.
    let refuses = "ALTER TABLE neon_auth.users_sync ADD CONSTRAINT no_eve CHECK (name <> 'Eve')";
    bed.server.sql("acme", refuses).await.unwrap();
    bed.auth("UPDATE auth.users SET first_name = 'Eve', updated_at = now() WHERE id = 'u1' AND org = 'acme'").await;
    bed.auth("UPDATE auth.users SET first_name = 'Cleo', updated_at = now() WHERE id = 'u2' AND org = 'globex'").await;
    // The role of the service does not own this one.
    bed.server.sql("globex", PREVIOUS_REJECTED).await.unwrap();
    bed.server
        .sql(
            "globex",
            "ALTER TABLE users_sync.rejected RENAME TO own; CREATE VIEW users_sync.rejected AS TABLE users_sync.own",
        )
        .await
        .unwrap();
    let service = Service::start(bed.config());
    bed.state_is("globex", "parked").await;
    let said = "SELECT remedy FROM users_sync.tenant WHERE tenant = 'globex'";
    let remedy = "ALTER VIEW users_sync.rejected RENAME TO \"rejected_old\";";
    bed.becomes("auth", said, remedy).await;
    bed.server.sql("globex", remedy).await.unwrap();
    bed.state_is("globex", "following").await;
    let held = "SELECT concat_ws(' ', id, sqlstate, since::date, id_hash = sha256('u1'),
                has_table_privilege('pg_monitor', 'users_sync.rejected', 'SELECT')) FROM users_sync.rejected";
    bed.becomes("acme", held, "u1 23514 2020-01-01 t t").await;
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now()").await;
    bed.becomes("acme", "SELECT count(*) FROM users_sync.rejected", "0").await;
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_of_a_newer_version_is_read_without_harm() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('u', 'acme')").await;
    let service = Service::start(bed.config());
    bed.state_is("acme", "following").await;
    service.stop().await;
    bed.auth("UPDATE users_sync.tenant SET state = 'parked', reason = 'new', reason_code = 'known_to_a_newer_version'")
        .await;
    let client = pg::connect(&bed.url("auth")).await.unwrap();
    let known = StateStore::read(&client, "users_sync").await.unwrap();
    let row = &known.tenants[&TenantId::new("acme")];
    assert_eq!((row.state, row.reason.as_deref(), row.reason_code), (TenantState::Parked, Some("new"), None));
    let service = Service::start(bed.config());
    bed.becomes("auth", ROWS, "acme following").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_state_is_stored_with_its_code() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.server.sql("postgres", "DROP DATABASE globex").await.unwrap();
    let service = Service::start(bed.config());
    bed.state_is("acme", "following").await;
    bed.becomes("auth", "SELECT reason_code FROM users_sync.tenant WHERE tenant = 'globex'", "login").await;
    service.stop().await;
    let mut config = bed.config();
    config.tenants.remove(0);
    let service = Service::start(config);
    bed.becomes("auth", ROWS, "acme parked not_configured, globex parked login").await;
    service.stop().await;
}

/// State and targets of the version that did not sign checkpoints. One target's role may not add the column.
#[tokio::test(flavor = "multi_thread")]
async fn unsigned_checkpoints_of_the_previous_version_are_taken_over_without_a_resync() {
    let tenants = ["acme", "globex", "initech"];
    let bed = Bed::start(&tenants).await;
    for tenant in tenants {
        bed.auth(&format!("INSERT INTO auth.users (id, org) VALUES ('u', '{tenant}')")).await;
    }
    let service = Service::start(bed.config());
    for tenant in tenants {
        bed.state_is(tenant, "following").await;
    }
    service.stop().await;
    bed.auth(
        "ALTER TABLE users_sync.source DROP COLUMN checkpoint_key; ALTER TABLE users_sync.tenant DROP COLUMN signed",
    )
    .await;
    for tenant in tenants {
        bed.server.sql(tenant, "ALTER TABLE users_sync.checkpoint DROP COLUMN mac").await.unwrap();
    }
    let limited = "CREATE ROLE limited LOGIN; GRANT USAGE ON SCHEMA users_sync, neon_auth TO limited;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA users_sync, neon_auth TO limited";
    bed.server.sql("initech", limited).await.unwrap();
    let config = bed.config_file("");
    let text = std::fs::read_to_string(config.path()).unwrap();
    let url = bed.server.url("initech");
    assert!(text.contains(&url), "{text}");
    std::fs::write(config.path(), text.replace(&url, &bed.server.url_for("limited", "initech"))).unwrap();
    bed.auth("UPDATE auth.users SET first_name = 'Meanwhile', updated_at = now()").await;
    for _ in 0..2 {
        let (process, log) = Process::start_logged(&config);
        bed.equal().await;
        for tenant in tenants {
            bed.state_is(tenant, "following").await;
        }
        let signed = "SELECT string_agg(tenant || ' ' || signed, ', ' ORDER BY tenant) FROM users_sync.tenant";
        bed.becomes("auth", signed, "acme true, globex true, initech false").await;
        bed.becomes("acme", "SELECT length(mac) FROM users_sync.checkpoint", "32").await;
        bed.auth("UPDATE auth.users SET first_name = first_name || '!', updated_at = now()").await;
        bed.equal().await;
        let said = log.text();
        assert!(!said.contains("snapshot requested"), "{said}");
        assert_eq!(said.matches("could not add users_sync.checkpoint.mac in the target").count(), 1, "{said}");
        assert!(process.stop().await.success(), "{said}");
    }
    // Without a signature, a checkpoint proves nothing about the source: the others are not affected.
    bed.server.sql("initech", "UPDATE users_sync.checkpoint SET position = 'FFFFFFFF/0'").await.unwrap();
    let (process, log) = Process::start_logged(&config);
    bed.state_is("initech", "parked").await;
    // The remedy of the warning, and the one of the tenant.
    let fix = "ALTER TABLE users_sync.checkpoint ADD COLUMN mac bytea;
        UPDATE users_sync.checkpoint SET target_id = '00000000-0000-0000-0000-000000000000', epoch = 0";
    bed.server.sql("initech", fix).await.unwrap();
    bed.equal().await;
    bed.state_is("initech", "following").await;
    bed.becomes("initech", "SELECT length(mac) FROM users_sync.checkpoint", "32").await;
    bed.becomes("auth", "SELECT generation FROM users_sync.source", "1").await;
    let said = log.text();
    assert!(!said.contains("tenant{id=acme}: snapshot requested"), "{said}");
    assert!(process.stop().await.success(), "{said}");
}
