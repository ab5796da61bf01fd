//! What the owner of a target has put in its database never runs as the administrator who sets it up.

use crate::support::process::{Process, command, config_file, said};
use crate::support::{Bed, USERS};
use users_sync::throwaway::{Options, PostgresServer};

/// `evil.trap` counts its runs as a superuser, also in transactions that are rolled back and in immutable functions.
const TRAP: &str = "
    CREATE SEQUENCE public.taken; GRANT ALL ON SEQUENCE public.taken TO PUBLIC;
    CREATE SCHEMA evil AUTHORIZATION evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
    SET ROLE evil;
    CREATE FUNCTION evil.trap() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
      IF pg_catalog.current_setting('is_superuser') OPERATOR(pg_catalog.=) 'on' THEN PERFORM pg_catalog.nextval('public.taken'); END IF; RETURN 'x'; END $$;
    CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
      PERFORM evil.trap(); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
    CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same);
    CREATE FUNCTION evil.same(name, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
      PERFORM evil.trap(); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
    CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = text, FUNCTION = evil.same);
    CREATE FUNCTION evil.current_database() RETURNS name LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.trap(); RETURN 'x'; END $$;
    CREATE FUNCTION evil.fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.trap(); RETURN NEW; END $$;
    CREATE DOMAIN evil.text AS pg_catalog.text CHECK (evil.trap() IS NOT NULL);
    ALTER DATABASE acme SET search_path = evil, pg_catalog;
    ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
    RESET ROLE";

/// A table whose every use runs the owner's code.
const TABLE: &str = "
    CREATE SCHEMA neon_auth;
    CREATE TABLE neon_auth.users_sync (
      id pg_catalog.text PRIMARY KEY DEFAULT evil.trap(), raw_json jsonb NOT NULL, name evil.text,
      email pg_catalog.text CHECK (evil.trap() IS NOT NULL),
      created_at timestamptz, deleted_at timestamptz, updated_at timestamptz,
      generated pg_catalog.text GENERATED ALWAYS AS (evil.trap() || name) STORED);
    CREATE INDEX ON neon_auth.users_sync ((evil.trap()));
    CREATE INDEX ON neon_auth.users_sync (id) WHERE evil.trap() IS NOT NULL;
    CREATE TRIGGER fire BEFORE INSERT OR UPDATE OR DELETE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION evil.fire();
    CREATE RULE also AS ON INSERT TO neon_auth.users_sync DO ALSO SELECT evil.trap();
    ALTER TABLE neon_auth.users_sync ENABLE ROW LEVEL SECURITY;
    CREATE POLICY every ON neon_auth.users_sync USING (evil.trap() IS NOT NULL);
    INSERT INTO neon_auth.users_sync (id, raw_json, name) VALUES ('x', '{}', 'x')";

/// The same names as views, with triggers and rules in the place of writes.
const VIEW: &str = "
    CREATE SCHEMA neon_auth;
    CREATE VIEW neon_auth.users_sync AS SELECT evil.trap() AS id, NULL::jsonb AS raw_json, evil.trap() AS name,
      evil.trap() AS email, NULL::timestamptz AS created_at, NULL::timestamptz AS deleted_at, NULL::timestamptz AS updated_at;
    CREATE TRIGGER fire INSTEAD OF INSERT ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION evil.fire();
    CREATE RULE instead AS ON UPDATE TO neon_auth.users_sync DO INSTEAD SELECT evil.trap()";

/// Our own schema, prepared by the owner.
const OWN: &str = "
    CREATE SCHEMA users_sync;
    CREATE TABLE users_sync.checkpoint (tenant pg_catalog.text DEFAULT evil.trap() CHECK (evil.trap() IS NOT NULL));
    CREATE TRIGGER fire BEFORE INSERT OR UPDATE ON users_sync.checkpoint FOR EACH ROW EXECUTE FUNCTION evil.fire();
    CREATE VIEW users_sync.rejected AS SELECT evil.trap() AS id;
    CREATE FUNCTION users_sync.wait_for(user_id pg_catalog.text, timeout interval DEFAULT evil.trap()::interval) RETURNS boolean
      LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN PERFORM evil.trap(); RETURN true; END $$";

async fn bed() -> Bed {
    let server = PostgresServer::start(Options::new()).await.unwrap();
    server.create_database("auth").await.unwrap();
    server.sql("auth", USERS).await.unwrap();
    server.sql("auth", "CREATE ROLE evil LOGIN; CREATE ROLE app; CREATE ROLE reader LOGIN SUPERUSER").await.unwrap();
    Bed { server, tenants: vec!["acme".to_owned()] }
}

/// Recreates the hostile database.
async fn hostile(bed: &Bed, own: &str) {
    for sql in ["DROP DATABASE IF EXISTS acme", "CREATE DATABASE acme OWNER evil"] {
        bed.server.sql("postgres", sql).await.unwrap();
    }
    bed.server.sql("acme", TRAP).await.unwrap();
    bed.server.sql("acme", &format!("SET search_path = pg_catalog; SET ROLE evil; {own}")).await.unwrap();
}

async fn is_taken(bed: &Bed) -> bool {
    bed.query("acme", "SELECT is_called FROM public.taken").await[0][0].as_deref() == Some("t")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_hostile_owner_runs_as_the_administrator() {
    let bed = bed().await;
    let source = bed.server.url_for("reader", "auth");
    let targets = [("acme".to_owned(), bed.server.url_for("writer", "acme"))];
    let config = config_file(&source, &targets, "deletes: hard");
    let path = config.path().to_str().unwrap();
    let admin = format!("acme={}", bed.server.url("acme"));
    let owner = bed.server.url("auth");
    let setup = [
        &["setup", "-c", path, "--apply", "--application-role", "app"][..],
        &["--source-admin", &owner, "--target-admin", &admin],
    ]
    .concat();
    let view = "belongs to role evil and is not a table";
    for (own, refusal) in [("", None), (TABLE, None), (VIEW, Some(view)), (OWN, None)] {
        hostile(&bed, own).await;
        let before = "SELECT count(*) FROM pg_index WHERE indrelid = to_regclass('neon_auth.users_sync')";
        let indexes = bed.query("acme", before).await;
        for _ in 0..2 {
            let (text, code) = said(&command(&setup).await);
            match refusal {
                None => assert_eq!(code, Some(0), "{own}: {text}"),
                Some(refusal) => assert!(code == Some(1) && text.contains(refusal), "{own}: {text}"),
            }
            assert!(!is_taken(&bed).await, "{own}: {text}");
        }
        if own == TABLE {
            assert_eq!(bed.query("acme", before).await, indexes, "an index of a foreign table was built");
        }
        if own == OWN {
            let owners =
                "SELECT string_agg(DISTINCT relowner::regrole::text, ',') FROM pg_class WHERE relname = 'checkpoint'
                UNION ALL SELECT proowner::regrole::text || prosecdef FROM pg_proc WHERE proname = 'wait_for'";
            let owners = bed.query("acme", owners).await.concat();
            assert_eq!(owners, ["writer", "writerfalse"].map(|owner| Some(owner.to_owned())));
        }
        // The trap works: the same table, used by a superuser.
        if own == TABLE {
            let insert = "INSERT INTO neon_auth.users_sync (id, raw_json) VALUES ('y', '{}')";
            bed.server.sql("acme", insert).await.unwrap();
            assert!(is_taken(&bed).await);
        }
    }
}

/// An existing installation in which two tenants share a role follows the remedy of `check`.
#[tokio::test(flavor = "multi_thread")]
async fn setup_hands_a_target_over_to_another_role() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(
        "CREATE ROLE reader LOGIN SUPERUSER; CREATE ROLE shared LOGIN;
         INSERT INTO auth.users (id, org) SELECT tenant || '-' || n, tenant
         FROM unnest(ARRAY['acme', 'globex']) tenant, generate_series(1, 20) n",
    )
    .await;
    let source = bed.server.url_for("reader", "auth");
    let configured = |role: &dyn Fn(&str) -> String| {
        let target = |tenant: &str| (tenant.to_owned(), bed.server.url_for(&role(tenant), tenant));
        config_file(&source, &[target("acme"), target("globex")], "")
    };
    for tenant in ["acme", "globex"] {
        bed.server.sql(tenant, &format!("GRANT CREATE ON DATABASE {tenant} TO shared")).await.unwrap();
    }
    let shared = configured(&|_| "shared".to_owned());
    let (process, log) = Process::start_logged(&shared);
    bed.equal().await;
    assert!(process.stop().await.success(), "{}", log.text());
    for role in ["shared_acme", "shared_globex"] {
        bed.auth(&format!("CREATE ROLE {role} LOGIN")).await;
    }
    let own = configured(&|tenant| format!("shared_{tenant}"));
    let path = own.path().to_str().unwrap();
    let admin = |tenant: &str| format!("{tenant}={}", bed.server.url(tenant));
    let (acme, globex) = (admin("acme"), admin("globex"));
    let owner = bed.server.url("auth");
    let admins = ["--source-admin", &owner, "--target-admin", &acme, "--target-admin", &globex];
    let (text, code) = said(&command(&[&["setup", "-c", path, "--apply"][..], &admins].concat()).await);
    assert_eq!(code, Some(0), "{text}");
    let (text, code) = said(&command(&["check", "-c", path]).await);
    assert!(code == Some(0) && !text.contains("is used for"), "{text}");
    let (process, log) = Process::start_logged(&own);
    bed.auth("UPDATE auth.users SET email = 'changed', updated_at = now(); DELETE FROM auth.users WHERE id LIKE '%-1'")
        .await;
    bed.equal().await;
    for tenant in ["acme", "globex"] {
        bed.state_is(tenant, "following").await;
    }
    let text = log.text();
    let mut warnings = text.lines().filter(|line| line.contains("WARN") && !line.contains("no spool.directory"));
    assert!(warnings.next().is_none() && !text.contains("snapshot requested"), "{text}");
    assert!(process.stop().await.success());
}
