//! Columns whose type has a cast to json, which `to_jsonb` uses: the extension hstore, and types of the store's own.

use crate::support::process::{command, said};
use crate::support::{Bed, Service};
use users_sync::map::{Query, Watch};

const TYPES: &str = "
    CREATE EXTENSION hstore;
    CREATE TYPE auth.plan AS ENUM ('free', 'pro');
    CREATE TYPE auth.place AS (plan auth.plan, n int);
    CREATE DOMAIN auth.labels AS hstore;
    ALTER TABLE auth.users ADD COLUMN labels auth.labels, ADD COLUMN all_labels hstore[],
      ADD COLUMN plan auth.plan, ADD COLUMN plans auth.plan[], ADD COLUMN place auth.place,
      ALTER COLUMN encrypted_password TYPE auth.plan USING NULL;
    ALTER TABLE auth.users REPLICA IDENTITY FULL;
    CREATE FUNCTION auth.plan_json(auth.plan) RETURNS json LANGUAGE sql STABLE AS
      $$ SELECT pg_catalog.json_build_object('name', $1::text, 'is_free', $1 = 'free') $$;
    CREATE CAST (auth.plan AS json) WITH FUNCTION auth.plan_json(auth.plan)";

const USERS: &str = r#"
    INSERT INTO auth.users (id, org, email, updated_at, labels, all_labels, plan, plans, place, encrypted_password)
    SELECT 'u' || n, CASE WHEN n % 2 = 0 THEN 'acme' ELSE 'globex' END, 'a@x.org', now(),
           hstore(ARRAY['k "' || n, 'null', 'empty'], ARRAY[E'v\\ ü', NULL, '']), ARRAY[hstore('n', n::text), '', NULL],
           CASE WHEN n % 3 > 0 THEN 'free' END::auth.plan, ARRAY['pro', NULL]::auth.plan[], row('pro', n)::auth.place, 'pro'
    FROM generate_series(1, 20) n"#;

const CHANGES: [&str; 6] = [
    "UPDATE auth.users SET plan = 'pro', labels = labels || 'more=>1' WHERE id IN ('u1', 'u2')",
    "UPDATE auth.users SET plan = NULL, plans = NULL, place = NULL, labels = NULL WHERE id = 'u3'",
    "UPDATE auth.users SET profile = jsonb_build_object('big', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 500) n))",
    "UPDATE auth.users SET org = 'acme' WHERE id = 'u5'; UPDATE auth.users SET id = 'u7b' WHERE id = 'u7'",
    "DELETE FROM auth.users WHERE id = 'u8'; UPDATE auth.users SET first_name = 'Ann' WHERE id < 'u2'",
    "INSERT INTO auth.users (id, org, updated_at, plan, labels) VALUES ('new', 'acme', now(), 'free', 'a=>1, b=>NULL')",
];

async fn followed(bed: &Bed) {
    for change in CHANGES {
        bed.auth(change).await;
        bed.equal().await;
    }
}

async fn has_no_difference(bed: &Bed) {
    let file = bed.config_file("");
    let (text, code) = said(&command(&["verify", "-c", file.path().to_str().unwrap()]).await);
    assert_eq!(code, Some(0), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_with_a_cast_to_json_equals_to_jsonb() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(TYPES).await;
    bed.auth(USERS).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    followed(&bed).await;
    has_no_difference(&bed).await;
    // No message in the stream tells of these.
    for ddl in [
        "CREATE OR REPLACE FUNCTION auth.plan_json(auth.plan) RETURNS json LANGUAGE sql STABLE AS
           $$ SELECT pg_catalog.to_json('plan ' || $1::text) $$",
        "DROP CAST (auth.plan AS json)",
        "CREATE CAST (auth.plan AS json) WITH FUNCTION auth.plan_json(auth.plan)",
    ] {
        bed.auth(ddl).await;
        bed.equal().await;
        bed.auth("UPDATE auth.users SET plan = 'pro', updated_at = now() WHERE id = 'u4'").await;
        bed.equal().await;
    }
    service.stop().await;

    let mut config = bed.config();
    let own = Watch {
        table: config.users.table.clone(),
        key: vec!["id".into()],
        tenant: config.users.tenant.clone(),
        is_users_own: true,
        via: None,
    };
    config.users.query = Some(Query {
        sql: "SELECT * FROM auth.users".into(),
        key: vec!["id".into()],
        watch: vec![own],
        distinct: Vec::new(),
    });
    bed.auth("DELETE FROM auth.users").await;
    bed.auth(USERS).await;
    let service = Service::start(config);
    bed.equal().await;
    followed(&bed).await;
    service.stop().await;
}
