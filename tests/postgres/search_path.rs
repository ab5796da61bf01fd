//! Names are looked up in PostgreSQL's own schema on every connection, whatever the databases and roles set: a copy of
//! every built-in function and operator in a schema of the owner, first in the path, is never run.

use crate::support::Bed;
use crate::support::pooler::Pooler;
use crate::support::process::{Process, command, config_file, said};
use users_sync::capture::ReplicationConnection;
use users_sync::pg::{self, PgUrl};
use users_sync::throwaway::{Options, PostgresServer};

/// Copies of what is built in. They note that they ran on one of our connections, then do as the original.
const EVIL: &str = r#"
    CREATE SEQUENCE public.taken; GRANT ALL ON SEQUENCE public.taken TO PUBLIC;
    CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
    CREATE FUNCTION evil.note() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
      IF pg_catalog.starts_with(pg_catalog.current_setting('application_name'), 'users-sync') THEN
        PERFORM pg_catalog.nextval('public.taken');
      END IF; END $$;
    DO $do$
    DECLARE o record; n integer := 0;
    BEGIN
      FOR o IN SELECT oprname, format_type(oprleft, NULL) l, format_type(oprright, NULL) r, format_type(oprresult, NULL) t
               FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprkind = 'b' AND oprcode <> 0
                 AND NOT EXISTS (SELECT FROM pg_type WHERE oid IN (oprleft, oprright, oprresult) AND typtype = 'p')
      LOOP
        n := n + 1;
        EXECUTE format('CREATE FUNCTION evil.%I(%s, %s) RETURNS %s LANGUAGE plpgsql AS
                        $$ BEGIN PERFORM evil.note(); RETURN $1 OPERATOR(pg_catalog.%s) $2; END $$',
                       'operator_' || n, o.l, o.r, o.t, o.oprname);
        EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.%I)',
                       o.oprname, o.l, o.r, 'operator_' || n);
      END LOOP;
      FOR o IN SELECT proname, pg_get_function_identity_arguments(p.oid) arguments, format_type(prorettype, NULL) t,
                      (SELECT coalesce(string_agg('$' || i, ', ' ORDER BY i), '') FROM generate_series(1, pronargs) i) list
               FROM pg_proc p WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND NOT proretset
                 AND provariadic = 0 AND proargmodes IS NULL
                 AND NOT EXISTS (SELECT FROM pg_type t WHERE t.typtype = 'p' AND (t.oid = prorettype OR t.oid = ANY(proargtypes)))
      LOOP
        EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS
                        $$ BEGIN PERFORM evil.note(); RETURN pg_catalog.%I(%s); END $$',
                       o.proname, o.arguments, o.t, o.proname, o.list);
      END LOOP;
    END $do$;
    CREATE AGGREGATE evil.count(*) (SFUNC = pg_catalog.int8inc, STYPE = bigint, INITCOND = '0')"#;

/// The path for everyone who connects, set for the database and for the roles.
const PATH: &str = "
    ALTER DATABASE auth SET search_path = evil, pg_catalog; ALTER DATABASE state SET search_path = evil, pg_catalog;
    ALTER DATABASE acme SET search_path = evil, pg_catalog; ALTER DATABASE globex SET search_path = evil, pg_catalog;
    ALTER ROLE reader SET search_path = evil, pg_catalog; ALTER ROLE writer_acme SET search_path = evil, pg_catalog";

/// Names in the answers of our sessions would have quotes.
const QUOTES: &str = "
    ALTER ROLE reader SET quote_all_identifiers = on; ALTER ROLE writer_acme SET quote_all_identifiers = on;
    ALTER DATABASE globex SET quote_all_identifiers = on";

const DATABASES: [&str; 4] = ["auth", "state", "acme", "globex"];

async fn bed() -> Bed {
    let bed = Bed::start_with(&["acme", "globex"], Options::new()).await;
    bed.server.create_database("state").await.unwrap();
    bed.auth(
        "ALTER TABLE auth.users ADD COLUMN class regclass DEFAULT 'pg_class';
         CREATE ROLE reader LOGIN SUPERUSER; CREATE ROLE writer_acme LOGIN SUPERUSER; CREATE ROLE writer_globex LOGIN SUPERUSER;
         INSERT INTO auth.users (id, org) SELECT tenant || '-' || n, tenant
         FROM unnest(ARRAY['acme', 'globex']) tenant, generate_series(1, 20) n",
    )
    .await;
    for database in DATABASES {
        bed.server.sql(database, EVIL).await.unwrap();
    }
    bed.server.sql("postgres", PATH).await.unwrap();
    bed.server.sql("postgres", QUOTES).await.unwrap();
    bed
}

/// Whether a copy ran on one of our connections.
async fn taken(server: &PostgresServer) -> Vec<&'static str> {
    let mut taken = Vec::new();
    for database in DATABASES {
        let client = server.connect(database).await.unwrap();
        let row = client.query_one("SELECT is_called FROM public.taken", &[]).await.unwrap();
        if row.get(0) {
            taken.push(database);
        }
    }
    taken
}

/// Runs every command with targets at these URLs, by role and database.
async fn every_command(bed: &Bed, url: impl Fn(&str, &str) -> String) {
    let targets = ["acme", "globex"].map(|tenant| (tenant.to_owned(), url(&format!("writer_{tenant}"), tenant)));
    let state = format!(
        "state: {{url: '{}'}}\ndeletes: {{mode: soft, purge_after: 1s}}",
        bed.server.url_for("reader", "state")
    );
    let source = bed.server.url_for("reader", "auth");
    let config = config_file(&source, &targets, &state);
    let path = config.path().to_str().unwrap();
    let run = async |arguments: &[&str]| {
        let arguments = [arguments, &["-c", path]].concat();
        let (text, code) = said(&command(&arguments).await);
        assert_eq!(code, Some(0), "{arguments:?}: {text}");
        let taken = taken(&bed.server).await;
        assert!(taken.is_empty(), "{arguments:?} ran a function of {taken:?}");
    };
    let admins = ["acme", "globex"].map(|tenant| format!("{tenant}={}", url("postgres", tenant)));
    let admin_of_source = bed.server.url("auth");
    let admin_of_state = bed.server.url("state");
    let setup = [
        ["setup", "--source-admin", &admin_of_source, "--state-admin", &admin_of_state],
        ["--target-admin", &admins[0], "--target-admin", &admins[1], "--apply"],
    ]
    .concat();
    run(&[&setup[..], &["--application-role", "reader"]].concat()).await;
    run(&["check"]).await;
    run(&["run", "--plan"]).await;
    let (process, log) = Process::start_logged(&config);
    bed.equal().await;
    let big = "INSERT INTO auth.users (id, org, first_name) SELECT 'b' || n, 'acme', repeat('x', 100) FROM generate_series(1, 3000) n";
    bed.auth("UPDATE auth.users SET email = 'changed', updated_at = now(); DELETE FROM auth.users WHERE id = 'acme-1'")
        .await;
    bed.auth(big).await;
    bed.equal().await;
    bed.becomes("acme", "SELECT pg_catalog.count(*) FROM neon_auth.users_sync WHERE deleted_at IS NOT NULL", "0").await;
    run(&["status"]).await;
    run(&["verify"]).await;
    run(&["resync", "--all"]).await;
    bed.equal().await;
    assert!(process.stop().await.success(), "{}", log.text());
    assert!(!log.text().contains("ERROR") && !log.text().contains("parked"), "{}", log.text());
    assert_eq!(taken(&bed.server).await, [""; 0], "{}", log.text());

    // A former tenant, and the end.
    let (name, url) = &targets[1];
    let rest = config_file(&source, &targets[..1], &state);
    std::fs::copy(rest.path(), config.path()).unwrap();
    run(&["forget", name, "--target", url, "--yes"]).await;
    run(&["teardown", "--yes"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_connection_has_our_path_unless_the_url_sets_one() {
    let server = PostgresServer::start(Options::new()).await.unwrap();
    server.sql("postgres", "ALTER DATABASE postgres SET search_path = evil, pg_catalog").await.unwrap();
    let plain = PgUrl::parse(&server.url("postgres")).unwrap();
    let own = PgUrl::parse(&format!("{}&options=-c%20search_path%3Dstore", server.url("postgres"))).unwrap();
    let shown = "SELECT pg_catalog.current_setting('search_path')";
    for (url, expected) in [(&plain, "pg_catalog,pg_temp"), (&own, "store")] {
        for client in [pg::connect(url).await.unwrap(), pg::connect_state(url).await.unwrap()] {
            assert_eq!(client.query_one(shown, &[]).await.unwrap().get::<_, String>(0), expected);
        }
        let mut walsender = ReplicationConnection::connect(url).await.unwrap();
        assert_eq!(walsender.simple_query(shown).await.unwrap(), [[Some(expected.to_owned())]]);
    }
}

/// A transaction around every statement is needed only where the startup option has no effect.
#[tokio::test(flavor = "multi_thread")]
async fn only_behind_a_pooler_each_transaction_sets_the_path() {
    let bed = Bed::start_with(&["acme"], Options::new().set("log_statement", "all")).await;
    let log = bed.server.data_dir().with_file_name("server.log");
    let pooler = Pooler::start(&bed.server, &["postgres"], "");
    for (url, sets) in [(bed.server.url("acme"), false), (pooler.url_for("postgres", "acme"), true)] {
        let config = config_file(&bed.server.url("auth"), &[("acme".to_owned(), url)], "");
        let (text, code) = said(&command(&["check", "-c", config.path().to_str().unwrap()]).await);
        assert_eq!(code, Some(0), "{text}");
        let text = std::fs::read_to_string(&log).unwrap();
        assert_eq!(text.contains("SET LOCAL search_path"), sets, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_runs_what_an_owner_put_first_in_the_path() {
    let bed = bed().await;
    every_command(&bed, |role, database| bed.server.url_for(role, database)).await;
    // The copies would have been noted.
    for database in DATABASES {
        let client = bed.server.connect(database).await.unwrap();
        client
            .batch_execute("SET application_name = 'users-sync'; SELECT 1 WHERE 'a'::text = 'b'::text")
            .await
            .unwrap();
    }
    assert_eq!(taken(&bed.server).await, DATABASES);
}

/// In transaction mode every statement may run on another connection to the server, whose path is the owner's.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_pooler_that_refuses_startup_options_no_command_runs_it_either() {
    for settings in ["", "ignore_startup_parameters = options"] {
        let bed = bed().await;
        let pooler = Pooler::start(&bed.server, &["writer_acme", "writer_globex", "postgres"], settings);
        every_command(&bed, |role, database| pooler.url_for(role, database)).await;
        // It would have been noted.
        let mut config: tokio_postgres::Config = pooler.url_for("writer_acme", "acme").parse().unwrap();
        let (client, connection) = config.application_name("users-sync").connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.simple_query("SELECT 1 WHERE 'a'::text = 'b'::text").await.unwrap();
        assert_eq!(taken(&bed.server).await, ["acme"]);
    }
}
