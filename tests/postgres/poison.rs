//! Values that a target cannot take set aside their own rows only, by every path; they arrive once they fit.

use crate::support::process::Process;
use crate::support::{Bed, PLAIN};

/// No value of a row may appear in a log line or in a reason: all poisons have this word in them.
const WORD: &str = "Sesame";

/// A trigger that raises a code of its own with every field set, and one that skips a row.
const TRIGGERS: &str = "
    CREATE FUNCTION public.judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF NEW.name LIKE 'Coded%' THEN
        RAISE EXCEPTION '%', NEW.name USING ERRCODE = '45000', DETAIL = NEW.name, HINT = NEW.name, TABLE = NEW.name,
          COLUMN = NEW.name, CONSTRAINT = NEW.name;
      END IF;
      IF NEW.name LIKE 'Checked%' THEN
        RAISE EXCEPTION '%', NEW.name USING ERRCODE = '23514', CONSTRAINT = NEW.name;
      END IF;
      IF NEW.name LIKE 'Raised%' THEN RAISE EXCEPTION '%', NEW.name; END IF;
      IF NEW.name LIKE 'Divided%' THEN RAISE EXCEPTION '%', NEW.name USING ERRCODE = '22012'; END IF;
      IF NEW.name LIKE 'Skipped%' THEN RETURN NULL; END IF;
      RETURN NEW; END $$;
    CREATE TRIGGER judge BEFORE INSERT OR UPDATE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION public.judge()";

const POISONS: &str = r#"
    INSERT INTO auth.users (id, org, first_name, email, extra, updated_at) VALUES
      ('number', 'acme', 'Sesame', null, '{"n": 1e400000}', now()),
      ('exponent', 'acme', 'Sesame', null, '[1e-20000]', now()),
      ('deep', 'acme', 'Sesame', null, (repeat('[', 3000) || repeat(']', 3000))::json, now()),
      ('euro', 'acme', U&'Sesame \20ac', null, null, now()),
      (U&'\20ac', 'acme', 'Sesame', null, null, now()),
      ('json_euro', 'acme', 'Sesame', null, U&'["\20ac"]'::json, now()),
      ((SELECT string_agg(md5(n::text), '') FROM generate_series(1, 300) n), 'acme', 'Sesame', null, null, now()),
      ('wide', 'acme', 'Sesame', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 300) n), null, now()),
      ('coded', 'acme', 'Coded Sesame', null, null, now()),
      ('checked', 'acme', 'Checked Sesame', null, null, now()),
      ('skipped', 'acme', 'Skipped Sesame', null, null, now()),
      ('raised', 'acme', 'Raised Sesame', null, null, now()),
      ('divided', 'acme', 'Divided Sesame', null, null, now()),
      ('mail_euro', 'acme', 'Sesame', U&'\20ac@example.com', null, now())"#;

const RECORDED: &str =
    "SELECT string_agg(left(id, 9) || ' ' || sqlstate, ', ' ORDER BY id COLLATE \"C\") FROM users_sync.rejected";
const ALL: &str = "\\u{20AC} 22P05, c4ca4238a 54000, checked 23514, coded 45000, deep 54001, divided 22012, euro 22P05, exponent 22003, json_euro 22P05, \
    mail_euro 22P05, number 22003, raised P0001, skipped 02000, wide 54000";
const INNOCENT: &str = "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NULL AND name LIKE 'Ann%'";

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_a_resync_and_the_stream_set_aside_the_same_rows() {
    let all = ALL;
    let bed = Bed::start(&["acme"]).await;
    for sql in [
        "DROP DATABASE acme",
        "CREATE DATABASE acme ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
        "ALTER DATABASE acme SET max_stack_depth = '200kB'",
    ] {
        bed.server.sql("postgres", sql).await.unwrap();
    }
    bed.server.sql("acme", PLAIN).await.unwrap();
    bed.server.sql("acme", "CREATE INDEX ON neon_auth.users_sync (email)").await.unwrap();
    bed.server.sql("acme", TRIGGERS).await.unwrap();
    // A primary key limits an id's size, and allows it only once.
    bed.auth(
        "ALTER TABLE auth.users DROP CONSTRAINT users_pkey; ALTER TABLE auth.users REPLICA IDENTITY FULL;
              ALTER TABLE auth.users ADD COLUMN extra json",
    )
    .await;
    bed.auth("INSERT INTO auth.users (id, org, first_name, updated_at) SELECT 'u' || n, 'acme', 'Ann', now() FROM generate_series(1, 1000) n").await;
    bed.auth(POISONS).await;
    bed.auth("INSERT INTO auth.users (id, org, first_name, updated_at) VALUES ('u7', 'acme', 'Ann the second', now())")
        .await;
    let config = bed.config_file("");
    let (process, log) = Process::start_logged(&config);
    bed.state_is("acme", "following").await;
    let with_twice = all.replace(", wide", ", u7 21000, wide");
    bed.becomes("acme", RECORDED, &with_twice).await;
    bed.becomes("acme", INNOCENT, "1000").await;
    bed.becomes("acme", "SELECT name FROM neon_auth.users_sync WHERE id = 'u7'", "Ann the second").await;

    // A resync tries all of them.
    bed.auth("DELETE FROM auth.users WHERE id = 'u7' AND first_name = 'Ann'").await;
    bed.auth("INSERT INTO auth.users (id, org, first_name, updated_at) VALUES ('u7', 'acme', 'Ann', now())").await;
    bed.auth("INSERT INTO users_sync.request (slot, tenant, allow_deletes) VALUES ('users_sync', 'acme', false)").await;
    bed.becomes("auth", "SELECT count(*) FROM users_sync.request", "0").await;
    bed.state_is("acme", "following").await;
    bed.becomes("acme", RECORDED, &with_twice).await;
    bed.becomes("acme", INNOCENT, "1000").await;

    // The stream sets aside the same, and what fits arrives.
    bed.auth(
        "DELETE FROM auth.users WHERE id = 'u7' AND first_name = 'Ann'; UPDATE auth.users SET updated_at = now(),
              first_name = CASE first_name WHEN 'Ann' THEN 'Ann again' ELSE first_name END",
    )
    .await;
    bed.auth("UPDATE auth.users SET updated_at = now(), first_name = 'Ann again' WHERE id = 'u7'").await;
    bed.becomes("acme", RECORDED, all).await;
    bed.becomes(
        "acme",
        "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Ann again' AND deleted_at IS NULL",
        "1000",
    )
    .await;
    let reasons = bed.query("acme", "SELECT reason FROM users_sync.rejected").await;
    assert!(reasons.iter().all(|row| !row[0].as_deref().unwrap().contains(WORD)), "{reasons:?}");
    bed.auth("DELETE FROM auth.users WHERE length(id) > 1000 OR id = chr(8364);
              UPDATE auth.users SET first_name = 'Ann', email = null, extra = null, updated_at = now() WHERE id !~ '^u'").await;
    bed.becomes("acme", "SELECT coalesce(max(id), '') FROM users_sync.rejected", "").await;
    bed.becomes("acme", INNOCENT, "1012").await;
    assert!(process.stop().await.success());
    let text = log.text();
    assert!(!text.contains(WORD) && !text.contains(" parked "), "{text}");
}
