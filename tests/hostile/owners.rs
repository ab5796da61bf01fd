//! What the owners of real databases do to our tables, sessions and role there.

/// What becomes of the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is parked or retried, with a reason.
    Stops,
    /// It follows, and users arrive.
    Follows,
    /// It follows without the users that its target refuses.
    Rejects,
}

/// A behaviour with its name. `ROLE` and `DATABASE` stand for ours.
pub type Deed = (&'static str, &'static str, Then);

/// Holds a lock until its session is ended.
pub const LOCKS: &str = "BEGIN; LOCK TABLE neon_auth.users_sync; SELECT pg_sleep(100000)";

/// One list for each owner.
pub const DEEDS: [&[Deed]; 6] = [
    &[
        ("raises the epoch", "UPDATE users_sync.checkpoint SET epoch = epoch + 1", Then::Stops),
        (
            "makes a column a composite",
            "CREATE TYPE deep AS (a text);
             CREATE TABLE users_sync.other AS SELECT * FROM users_sync.checkpoint;
             ALTER TABLE users_sync.other ALTER epoch TYPE deep USING row('1')::deep;
             DROP TABLE users_sync.checkpoint; ALTER TABLE users_sync.other RENAME TO checkpoint",
            Then::Stops,
        ),
        (
            "makes rejected a view without end",
            "DROP TABLE users_sync.rejected; CREATE VIEW users_sync.rejected AS
             SELECT n::text AS id, ''::text AS reason, ''::text AS sqlstate, now() AS since, now() AS tried_at
             FROM generate_series(1, 1000000000000) n",
            Then::Stops,
        ),
        (
            "raises an error of 100 MB",
            "CREATE FUNCTION long() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION '%', repeat('x', 100000000) USING ERRCODE = '53100'; END $$;
             CREATE TRIGGER long BEFORE INSERT OR UPDATE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION long()",
            Then::Stops,
        ),
        ("allows no session", "ALTER DATABASE DATABASE CONNECTION LIMIT 0", Then::Stops),
    ],
    &[
        ("moves the position", "UPDATE users_sync.checkpoint SET position = 'FFFFFFFF/0'", Then::Stops),
        ("writes 200 MB into the checkpoint", "UPDATE users_sync.checkpoint SET mapping = repeat('x', 200000000)", Then::Stops),
        (
            "stores 400,000 rejected users",
            "INSERT INTO users_sync.rejected (id_hash, id, reason, sqlstate, since, tried_at)
             SELECT n::text::bytea, repeat('x', 500) || n, repeat('y', 500), '23514', now(), now() FROM generate_series(1, 400000) n",
            Then::Stops,
        ),
        (
            "sleeps in a trigger",
            "CREATE FUNCTION sleeps() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(100000); RETURN NEW; END $$;
             CREATE TRIGGER sleeps BEFORE INSERT OR UPDATE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION sleeps()",
            Then::Stops,
        ),
        ("refuses the role", "ALTER ROLE ROLE NOLOGIN", Then::Stops),
    ],
    &[
        ("removes the signature", "UPDATE users_sync.checkpoint SET mac = NULL", Then::Stops),
        (
            "puts operators before those of PostgreSQL",
            "CREATE SCHEMA evil; CREATE TABLE public.taken (role text);
             CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.taken VALUES (current_user); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
             CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same);
             GRANT ALL ON SCHEMA evil TO public; GRANT ALL ON public.taken TO public;
             ALTER DATABASE DATABASE SET search_path = evil, pg_catalog",
            Then::Follows,
        ),
        (
            "enables row security",
            "ALTER TABLE neon_auth.users_sync ENABLE ROW LEVEL SECURITY;
             ALTER TABLE neon_auth.users_sync FORCE ROW LEVEL SECURITY",
            Then::Stops,
        ),
        ("locks the table", LOCKS, Then::Stops),
        (
            "raises an SQLSTATE of its own",
            "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'odd' USING ERRCODE = 'ZZ999'; END $$;
             CREATE TRIGGER odd BEFORE INSERT OR UPDATE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION odd()",
            Then::Rejects,
        ),
    ],
    &[
        (
            "makes the table a view without end",
            "ALTER TABLE neon_auth.users_sync RENAME TO moved;
             CREATE VIEW neon_auth.users_sync AS SELECT m.* FROM neon_auth.moved m, generate_series(1, 1000000000000);
             GRANT ALL ON neon_auth.users_sync TO public",
            Then::Stops,
        ),
        (
            "stores names of 20 MB",
            "INSERT INTO neon_auth.users_sync (id, raw_json, name) SELECT '0' || n, '{}', repeat('x', 20000000)
             FROM generate_series(1, 50) n",
            Then::Follows,
        ),
        ("allows a millisecond", "ALTER ROLE ROLE SET statement_timeout = 1", Then::Follows),
        ("drops the table", "DROP TABLE neon_auth.users_sync", Then::Follows),
        (
            "makes the checkpoint a view that sleeps",
            "ALTER TABLE users_sync.checkpoint RENAME TO moved;
             CREATE VIEW users_sync.checkpoint AS SELECT m.* FROM users_sync.moved m, (SELECT pg_sleep(100000)) s;
             GRANT ALL ON users_sync.checkpoint TO public",
            Then::Stops,
        ),
    ],
    &[
        ("revokes the rights", "ALTER TABLE neon_auth.users_sync OWNER TO postgres", Then::Stops),
        ("makes the database read-only", "ALTER DATABASE DATABASE SET default_transaction_read_only = on", Then::Stops),
        ("changes the type of raw_json", "ALTER TABLE neon_auth.users_sync ALTER raw_json TYPE text", Then::Stops),
        ("deletes the checkpoint", "DELETE FROM users_sync.checkpoint", Then::Stops),
        ("refuses users", "ALTER TABLE neon_auth.users_sync ADD CHECK (name = 'x') NOT VALID", Then::Rejects),
    ],
    &[
        ("renames a column", "ALTER TABLE users_sync.checkpoint RENAME position TO moved", Then::Stops),
        ("sets another tenant's name", "UPDATE users_sync.checkpoint SET tenant = 't07'", Then::Stops),
        (
            "sends notices of a megabyte",
            "CREATE FUNCTION chatty() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE NOTICE '%', repeat('x', 1000000); RETURN NEW; END $$;
             CREATE TRIGGER chatty BEFORE INSERT OR UPDATE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION chatty()",
            Then::Follows,
        ),
        ("drops our schema", "DROP SCHEMA users_sync CASCADE", Then::Stops),
        ("makes a column a domain", "CREATE DOMAIN number AS bigint; GRANT ALL ON DOMAIN number TO public;
             ALTER TABLE users_sync.checkpoint ALTER epoch TYPE number", Then::Follows),
    ],
];
