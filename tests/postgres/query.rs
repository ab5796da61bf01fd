//! Query mappings: large transactions, changes during a read, ALTER TABLE, keys with blanks, and invalid queries.

use crate::support::process::{Process, command, said};
use crate::support::{Bed, DEADLINE, Service, pause};
use std::io::Write;
use std::time::Instant;
use tempfile::NamedTempFile;
use users_sync::config::Config;
use users_sync::map::{Query, Value, Watch};
use users_sync::model::TableName;
use users_sync::replicator::ServiceError;

const EMAILS: &str =
    "CREATE TABLE auth.emails (user_id text NOT NULL, n int NOT NULL, address text, PRIMARY KEY (user_id, n))";
const SQL: &str =
    "SELECT u.*, (SELECT max(e.address) FROM auth.emails e WHERE e.user_id = u.id) AS address FROM auth.users u";

fn watch(table: &str, key: &str) -> Watch {
    let table = TableName { schema: "auth".into(), name: table.into() };
    Watch { is_users_own: table.name == "users", table, key: vec![key.into()], tenant: None, via: None }
}

/// The e-mail address comes from the other table.
fn config(bed: &Bed, sql: &str) -> Config {
    let mut config = bed.config();
    config.limits.max_deletes.percent = 100.0;
    config.users.email = Some(Value::Column("address".into()));
    config.users.exclude = vec!["address".into()];
    let own = Watch { tenant: config.users.tenant.clone(), ..watch("users", "id") };
    config.users.query = Some(Query {
        sql: sql.into(),
        key: vec!["id".into()],
        watch: vec![own, watch("emails", "user_id")],
        distinct: Vec::new(),
    });
    config
}

/// The number of users, and of those with this address.
fn count(address: &str) -> String {
    format!(
        "SELECT count(*) || ' ' || count(*) FILTER (WHERE email = '{address}' AND raw_json ->> 'primary_email' = email)
         FROM neon_auth.users_sync WHERE deleted_at IS NULL"
    )
}

/// Asserts that one transaction's changes become visible together.
const HISTORY: &str = "
    CREATE TABLE seen (n bigserial, users bigint);
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO public.seen (users) SELECT count(*) FROM neon_auth.users_sync WHERE email = 'all@x.org'; RETURN NULL; END $$;
    CREATE TRIGGER seen AFTER UPDATE ON users_sync.checkpoint FOR EACH ROW EXECUTE FUNCTION see()";

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_read_in_many_parts_becomes_visible_as_a_whole() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(EMAILS).await;
    bed.auth("INSERT INTO auth.users (id, org) SELECT 'u' || n, 'acme' FROM generate_series(1, 12000) n").await;
    let service = Service::start(config(&bed, SQL));
    bed.state_is("acme", "following").await;
    bed.becomes("acme", &count("none"), "12000 0").await;
    bed.server.sql("acme", HISTORY).await.unwrap();
    bed.auth("INSERT INTO auth.emails SELECT id, 1, 'all@x.org' FROM auth.users").await;
    bed.becomes("acme", &count("all@x.org"), "12000 12000").await;
    let parts = bed.query("acme", "SELECT count(*) FROM seen WHERE users NOT IN (0, 12000)").await;
    assert_eq!(parts[0][0].as_deref(), Some("0"), "a part of the transaction was visible");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_version_arrives_despite_writes_during_the_read() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(EMAILS).await;
    bed.auth("INSERT INTO auth.users (id, org) SELECT 'u' || n, 'acme' FROM generate_series(1, 20) n").await;
    bed.auth("INSERT INTO auth.emails SELECT id, 1, 'first@x.org' FROM auth.users").await;
    let service = Service::start(config(&bed, SQL));
    let writers = (0..4).map(|writer| {
        let client = bed.server.connect("auth");
        async move {
            let client = client.await.unwrap();
            for round in 0..150 {
                let user = format!("u{}", 1 + (writer * 7 + round * 3) % 20);
                let address = format!("{writer}-{round}@x.org");
                let sql = match round % 10 {
                    0 => "UPDATE auth.users SET org = CASE org WHEN 'acme' THEN 'globex' ELSE 'acme' END WHERE id = $1 AND $2 <> ''",
                    5 => "DELETE FROM auth.emails WHERE user_id = $1 AND n = 2 AND $2 <> ''",
                    _ => "INSERT INTO auth.emails VALUES ($1, 1 + length($2) % 2, $2)
                          ON CONFLICT (user_id, n) DO UPDATE SET address = excluded.address",
                };
                client.execute(sql, &[&user, &address]).await.unwrap();
            }
        }
    });
    futures_util::future::join_all(writers).await;
    for tenant in ["acme", "globex"] {
        bed.state_is(tenant, "following").await;
        let expected = format!(
            "SELECT string_agg(concat_ws(' ', id, (SELECT max(address) FROM auth.emails WHERE user_id = id)), ', ' ORDER BY id)
             FROM auth.users WHERE org = '{tenant}'"
        );
        let expected = bed.query("auth", &expected).await[0][0].clone().unwrap_or_default();
        let held = "SELECT coalesce(string_agg(concat_ws(' ', id, email), ', ' ORDER BY id), '')
                    FROM neon_auth.users_sync WHERE deleted_at IS NULL";
        bed.becomes(tenant, held, &expected).await;
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_query_is_reported_and_changes_nothing() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(EMAILS).await;
    let wrong = Service::start(config(&bed, "SELECT * FROM auth.nowhere")).fails().await;
    assert!(matches!(&wrong, ServiceError::Query(_)) && wrong.to_string().contains("auth.nowhere"), "{wrong}");
    let wrong = Service::start(config(&bed, "SELECT id, org FROM auth.users")).fails().await;
    assert!(matches!(&wrong, ServiceError::Mapping(_)) && wrong.to_string().contains("users.email"), "{wrong}");
    bed.auth("ALTER TABLE auth.emails REPLICA IDENTITY NOTHING").await;
    let wrong = Service::start(config(&bed, SQL)).fails().await;
    let said = wrong.to_string();
    assert!(said.contains("auth.emails lacks user_id") && said.contains("REPLICA IDENTITY"), "{said}");
    bed.auth("ALTER TABLE auth.emails RENAME TO mails").await;
    let wrong = Service::start(config(&bed, "SELECT *, '' AS address FROM auth.users")).fails().await;
    assert!(wrong.to_string().contains("table auth.emails does not exist"), "{wrong}");
    for catalog in ["pg_publication", "pg_replication_slots"] {
        assert_eq!(bed.query("auth", &format!("SELECT FROM {catalog}")).await.len(), 0, "{catalog}");
    }
    assert_eq!(bed.query("acme", "SELECT to_regnamespace('neon_auth')").await[0][0], None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_table_behind_a_query_resyncs_every_tenant() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(EMAILS).await;
    bed.auth("INSERT INTO auth.users (id, org) SELECT 'u' || n, 'acme' FROM generate_series(1, 50) n").await;
    let service = Service::start(config(&bed, SQL));
    bed.state_is("acme", "following").await;
    bed.becomes("acme", &count("none"), "50 0").await;
    bed.auth("ALTER TABLE auth.users ADD COLUMN nick text DEFAULT 'unnamed'").await;
    bed.auth("UPDATE auth.users SET first_name = 'Ann' WHERE id = 'u1'").await;
    let nicks = "SELECT count(*) FROM neon_auth.users_sync WHERE raw_json ->> 'nick' = 'unnamed'";
    bed.becomes("acme", nicks, "50").await;
    bed.auth("TRUNCATE auth.users").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('only', 'acme')").await;
    bed.becomes("acme", &count("none"), "1 0").await;
    service.stop().await;
}

/// A configuration file with these `users`, for commands.
fn file(bed: &Bed, users: &str) -> NamedTempFile {
    let mut yaml = format!("source: {{url: '{}'}}\nusers: {users}\ntenants:\n", bed.server.url("auth"));
    for tenant in &bed.tenants {
        yaml.push_str(&format!("- {{id: {tenant}, target: '{}'}}\n", bed.server.url(tenant)));
    }
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(yaml.as_bytes()).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn each_alter_of_a_watched_table_resyncs_every_tenant_once() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(EMAILS).await;
    bed.auth("INSERT INTO auth.users (id, org) SELECT t || n, t FROM unnest(ARRAY['acme', 'globex']) t, generate_series(1, 20) n").await;
    bed.auth("INSERT INTO auth.emails SELECT id, 1, 'First@x.org' FROM auth.users").await;
    let users = format!(
        "{{table: auth.users, id: id, tenant: org, email: address, query: '{SQL}', watch: [{{table: auth.emails, key: user_id}}]}}"
    );
    let config = file(&bed, &users);
    let (service, log) = Process::start_logged(&config);
    let snapshots = |tenant: &str| {
        let text = log.text();
        let is_of_tenant = |line: &&str| line.contains("snapshot requested") && line.contains(tenant);
        text.lines().filter(is_of_tenant).count()
    };
    for tenant in &bed.tenants {
        bed.state_is(tenant, "following").await;
        bed.becomes(tenant, &count("First@x.org"), "20 20").await;
    }
    let alters = [
        "ALTER TABLE auth.emails ALTER COLUMN address TYPE varchar(100)",
        "ALTER TABLE auth.emails ALTER COLUMN address TYPE varchar(100) USING lower(address)",
        "ALTER TABLE auth.users ADD COLUMN nick text DEFAULT 'none'",
    ];
    for (done, alter) in alters.into_iter().enumerate() {
        bed.auth(alter).await;
        // Each table sends its new version with its next change.
        for round in 0..3 {
            let address = format!("{done}-{round}@x.org");
            bed.auth(&format!(
                "UPDATE auth.emails SET address = '{address}'; UPDATE auth.users SET first_name = '{round}'"
            ))
            .await;
            for tenant in &bed.tenants {
                bed.becomes(tenant, &count(&address), "20 20").await;
            }
        }
        for tenant in &bed.tenants {
            let deadline = Instant::now() + DEADLINE;
            while snapshots(tenant) < 2 + done {
                assert!(Instant::now() < deadline, "{alter}: no resync of {tenant}\n{}", log.text());
                pause().await;
            }
        }
    }
    assert!(service.stop().await.success());
    for tenant in &bed.tenants {
        assert_eq!(snapshots(tenant), 1 + alters.len(), "{tenant}\n{}", log.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_with_trailing_blanks_lead_to_the_same_users_everywhere() {
    // Blanks at the end of a text count, those of char(n) do not.
    const TABLES: &str = "
        CREATE DOMAIN auth.number AS char(10);
        CREATE TABLE auth.members (member auth.number PRIMARY KEY, user_id text NOT NULL);
        CREATE TABLE auth.phones (id int PRIMARY KEY, member char(6) NOT NULL, phone text);
        CREATE TABLE auth.cards (id int PRIMARY KEY, holder char(8) NOT NULL, card text);
        CREATE TABLE auth.holders (holder varchar PRIMARY KEY, user_id char(12) NOT NULL);
        ALTER TABLE auth.phones REPLICA IDENTITY FULL; ALTER TABLE auth.cards REPLICA IDENTITY FULL;
        ALTER TABLE auth.members REPLICA IDENTITY FULL; ALTER TABLE auth.holders REPLICA IDENTITY FULL;
        INSERT INTO auth.users (id, org, created_at) VALUES ('u1', 'acme', now()), ('u1 ', 'acme', now()), ('u2', 'globex', now());
        INSERT INTO auth.members VALUES ('m1 ', 'u1'), ('m2', 'u1 '), ('m3', 'u2');
        INSERT INTO auth.phones VALUES (1, 'm1', 'one'), (2, 'm2 ', 'two'), (3, 'm3', 'three');
        INSERT INTO auth.holders VALUES ('h1', 'u1'), ('h2', 'u2 ');
        INSERT INTO auth.cards VALUES (1, 'h1', 'c1'), (2, 'h2  ', 'c2')";
    const QUERY: &str = "SELECT u.id, u.org, p.phone, c.card FROM auth.users u
        LEFT JOIN auth.members m ON m.user_id = u.id LEFT JOIN auth.phones p ON p.member = m.member
        LEFT JOIN auth.holders h ON h.user_id::text = u.id LEFT JOIN auth.cards c ON c.holder::text = h.holder";
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(TABLES).await;
    let users = format!(
        "\n  {{table: auth.users, id: id, tenant: org, email: phone, name: card, query: '{QUERY}', watch: [\n    \
         {{table: auth.members, key: user_id}}, {{table: auth.holders, key: user_id}},\n    \
         {{table: auth.phones, key: member, via: {{table: auth.members, from: member, to: user_id}}}},\n    \
         {{table: auth.cards, key: holder, via: {{table: auth.holders, from: holder, to: user_id}}}}]}}"
    );
    let config = file(&bed, &users);
    let (service, log) = Process::start_logged(&config);
    let agree = async |change: &str| {
        if !change.is_empty() {
            bed.auth(change).await;
        }
        for tenant in &bed.tenants {
            let list = |id: &str, phone: &str, card: &str| {
                format!(
                    "coalesce(string_agg(concat_ws('/', {id} || '|', {phone}, {card}), ' ' ORDER BY {id} COLLATE \"C\"), '')"
                )
            };
            let sql = format!("SELECT {} FROM ({QUERY}) q WHERE org = '{tenant}'", list("id", "phone", "card"));
            let expected = bed.query("auth", &sql).await[0][0].clone().unwrap();
            let live = "FROM neon_auth.users_sync WHERE deleted_at IS NULL";
            bed.becomes(tenant, &format!("SELECT {} {live}", list("id", "email", "name")), &expected).await;
        }
        // The comparison reads the source as a snapshot does.
        let (text, code) = said(&command(&["verify", "-c", config.path().to_str().unwrap()]).await);
        assert_eq!(code, Some(0), "{change}: {text}");
    };
    for tenant in &bed.tenants {
        bed.state_is(tenant, "following").await;
    }
    for change in [
        "",
        "UPDATE auth.phones SET phone = phone || '!'",
        "UPDATE auth.cards SET card = card || '!'",
        "UPDATE auth.phones SET member = CASE member WHEN 'm1' THEN 'm2  ' ELSE 'm1' END WHERE id < 3",
        "DELETE FROM auth.phones WHERE id = 2; DELETE FROM auth.cards WHERE id = 2",
        "INSERT INTO auth.phones VALUES (4, 'm1    ', 'four'); INSERT INTO auth.cards VALUES (3, 'h2', 'c3')",
        "UPDATE auth.members SET user_id = CASE user_id WHEN 'u1' THEN 'u1 ' ELSE 'u1' END WHERE user_id LIKE 'u1%'",
        "DELETE FROM auth.users WHERE id = 'u1 '",
    ] {
        agree(change).await;
    }
    assert!(service.stop().await.success(), "{}", log.text());
}

/// The memberships have no unique index, and the users a json column, which a plain DISTINCT could not compare.
#[tokio::test(flavor = "multi_thread")]
async fn a_membership_that_is_stored_twice_counts_once() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(
        "CREATE TABLE auth.members (n bigserial PRIMARY KEY, user_id text, org text); ALTER TABLE auth.users ADD extra json;
         ALTER TABLE auth.members REPLICA IDENTITY FULL;
         INSERT INTO auth.users (id, org, updated_at) SELECT 'u' || n, '', now() FROM generate_series(1, 50) n;
         INSERT INTO auth.members (user_id, org) SELECT 'u' || n, org
         FROM generate_series(1, 50) n, unnest('{acme,acme,globex}'::text[]) org",
    )
    .await;
    let mut file = NamedTempFile::new().unwrap();
    let (source, acme, globex) = (bed.server.url("auth"), bed.server.url("acme"), bed.server.url("globex"));
    write!(
        file,
        "source: {{url: '{source}'}}\nusers: {{table: auth.users, id: id, name: first_name, updated_at: updated_at, \
         fan_out: {{table: auth.members, id: user_id, tenant: org}}}}\n\
         tenants: [{{id: acme, target: '{acme}'}}, {{id: globex, target: '{globex}'}}]\n"
    )
    .unwrap();
    let (process, log) = Process::start_logged(&file);
    let named = |name: &str| format!("SELECT count(*) FROM neon_auth.users_sync WHERE coalesce(name, '') = '{name}'");
    for tenant in ["acme", "globex"] {
        bed.state_is(tenant, "following").await;
        bed.becomes(tenant, &named(""), "50").await;
    }
    bed.auth(
        "UPDATE auth.users SET first_name = 'Bea', updated_at = now();
         INSERT INTO auth.members (user_id, org) SELECT 'u' || n, 'globex' FROM generate_series(1, 9) n",
    )
    .await;
    for tenant in ["acme", "globex"] {
        bed.becomes(tenant, &named("Bea"), "50").await;
        bed.becomes(tenant, "SELECT count(*) FROM users_sync.rejected", "0").await;
    }
    // One of two rows of a membership goes: the user stays.
    bed.auth(
        "DELETE FROM auth.members a USING auth.members b WHERE a.user_id = b.user_id AND a.org = b.org AND a.n > b.n",
    )
    .await;
    bed.auth("UPDATE auth.users SET first_name = 'Cleo', updated_at = now()").await;
    bed.becomes("acme", &named("Cleo"), "50").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NOT NULL", "0").await;
    assert!(process.stop().await.success(), "{}", log.text());
    assert!(!log.text().contains("parked") && !log.text().contains("row_refused"), "{}", log.text());
}
