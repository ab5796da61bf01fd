//! The kinds of rows that a target refuses, and of rows that look as if it would. One entry for each.

/// No value of a row may appear in a log line, a reason or a remedy: all poisons have this word in them.
pub const WORD: &str = "Sesame";

/// A row of the source.
pub struct Kind {
    pub tenant: &'static str,
    pub id: Id,
    /// What makes it special: assignments to the columns of `auth.users`.
    pub set: &'static str,
    /// SQLSTATE and reason; `None` if the target takes it.
    pub refused: Option<(&'static str, &'static str)>,
}

#[derive(Clone, Copy)]
pub enum Id {
    /// The id itself.
    Named(&'static str),
    /// An expression. A target may not be able to hold such an id, nor a primary key.
    Computed(&'static str),
}

impl Kind {
    /// The id as an SQL expression.
    pub fn id(&self) -> String {
        match self.id {
            Id::Named(name) => format!("'{name}'"),
            Id::Computed(expression) => expression.to_owned(),
        }
    }

    pub fn is_named(&self) -> bool {
        matches!(self.id, Id::Named(_))
    }
}

const ENCODING: &str = "the target's encoding lacks one of its characters";
const DEPTH: &str = "its document is nested deeper than the target's stack allows";
const NUMBER: &str = "one of its numbers is out of the target's range";
const KEY_SIZE: &str = "one of its values is too large for index users_sync_pkey";
const INDEX_SIZE: &str = "one of its values is too large for an index";
const CODE: &str = "a trigger, or a function that a constraint, an index or a column uses, refuses it";
const VALUE: &str = "the target cannot store one of its values";
const STRAYED: &str = "a trigger changes its id";
const SKIPPED: &str = "a trigger skips the row: it returns NULL";

const fn refused(
    tenant: &'static str,
    id: &'static str,
    set: &'static str,
    code: &'static str,
    why: &'static str,
) -> Kind {
    Kind { tenant, id: Id::Named(id), set, refused: Some((code, why)) }
}

const fn refused_id(tenant: &'static str, id: &'static str, code: &'static str, why: &'static str) -> Kind {
    Kind { tenant, id: Id::Computed(id), set: "last_name = 'Sesame'", refused: Some((code, why)) }
}

const fn taken(tenant: &'static str, id: &'static str, set: &'static str) -> Kind {
    Kind { tenant, id: Id::Named(id), set, refused: None }
}

pub const KINDS: &[Kind] = &[
    // Characters that LATIN1 lacks.
    refused("latin", "name_euro", r"first_name = U&'Sesame \20ac'", "22P05", ENCODING),
    refused("latin", "mail_euro", r"email = U&'Sesame\20ac@x.org'", "22P05", ENCODING),
    refused_id("latin", r"U&'\20ac'", "22P05", ENCODING),
    refused("latin", "key_euro", r#"extra = U&'{"\20ac": "Sesame"}'"#, "22P05", ENCODING),
    refused("latin", "value_euro", r#"extra = U&'["Sesame \20ac"]'"#, "22P05", ENCODING),
    refused("latin", "escape_euro", r#"extra = '["Sesame \u20ac"]'"#, "22P05", ENCODING),
    refused("latin", "escape_key", r#"extra = '{"Sesame \u20ac": 1}'"#, "22P05", ENCODING),
    taken("latin", "umlaut", r"first_name = U&'Sesame \00fc'"),
    refused("ascii", "ascii_escape", r#"extra = '["Sesame \u20ac"]'"#, "0A000", ENCODING),
    taken("ascii", "ascii_euro", r#"first_name = U&'Sesame \20ac', extra = U&'{"\20ac": "Sesame \00fc"}'"#),
    // Depth.
    refused(
        "latin",
        "deep",
        "extra = (repeat('[', 10000) || '\"Sesame\"' || repeat(']', 10000))::json",
        "54001",
        DEPTH,
    ),
    refused(
        "latin",
        "deep_keys",
        r#"extra = (repeat('{"Sesame":', 3000) || '1' || repeat('}', 3000))::json"#,
        "54001",
        DEPTH,
    ),
    refused(
        "ascii",
        "deepest",
        "extra = (repeat('[', 100000) || '\"Sesame\"' || repeat(']', 100000))::json",
        "54001",
        DEPTH,
    ),
    taken("strict", "less_deep", "extra = (repeat('[', 500) || repeat(']', 500))::json"),
    // Numbers.
    refused("latin", "exponent", r#"extra = '{"Sesame": 1e400000}'"#, "22003", NUMBER),
    refused("latin", "small", r#"extra = '["Sesame", 1e-20000]'"#, "22003", NUMBER),
    refused("latin", "digits", r#"extra = ('{"Sesame": ' || repeat('9', 200000) || '}')::json"#, "22003", NUMBER),
    taken("latin", "fewer_digits", "extra = repeat('9', 100000)::json"),
    taken("latin", "not_a_number", "number = 'NaN', float = 'NaN'"),
    taken("latin", "infinite", "float = '-Infinity'"),
    // Sizes.
    refused_id("latin", "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 100) n)", "54000", KEY_SIZE),
    refused_id("latin", "(SELECT string_agg(md5(n::text), '') FROM generate_series(2, 300) n)", "54000", INDEX_SIZE),
    refused_id("latin", "(SELECT string_agg(md5(n::text), '') FROM generate_series(3, 32768) n)", "54000", INDEX_SIZE),
    refused_id("neon", "(SELECT string_agg(md5(n::text), '') FROM generate_series(4, 100) n)", "54000", KEY_SIZE),
    refused(
        "latin",
        "mail_wide",
        "email = 'Sesame' || (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 100) n)",
        "54000",
        "one of its values is too large for index users_sync_email_idx",
    ),
    refused(
        "strict",
        "name_wide",
        "first_name = 'Sesame' || (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 300) n)",
        "54000",
        INDEX_SIZE,
    ),
    taken(
        "latin",
        "name_large",
        "first_name = 'Sesame' || (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 32768) n)",
    ),
    // Escapes that json allows and jsonb does not are removed.
    taken("latin", "nul", r#"extra = '{"Sesame\u0000": "\u0000"}'"#),
    taken("latin", "surrogate", r#"extra = '["Sesame \ud800", "\udc00\ud800"]'"#),
    // Times.
    taken("latin", "infinity", "created_at = 'infinity'"),
    taken("latin", "minus_infinity", "created_at = '-infinity'"),
    taken("latin", "before_christ", "created_at = '4713-01-01 00:00:00+00 BC'"),
    taken("latin", "last_year", "created_at = '294276-12-31 23:59:59+00'"),
    taken("neon", "neon_infinity", "created_at = 'infinity'"),
    taken("neon", "neon_before_christ", "created_at = '4713-01-01 00:00:00+00 BC'"),
    taken("neon", "neon_last_year", "created_at = '294276-12-31 23:59:59+00'"),
    refused("neon", "neon_exponent", r#"extra = '{"Sesame": 1e400000}'"#, "22003", NUMBER),
    // Constraints.
    refused(
        "strict",
        "twin_mail",
        "first_name = 'Sesame 1', email = '9@x.org'",
        "23505",
        "constraint one_mail refuses it",
    ),
    refused("strict", "twin_name", "first_name = 'ANN 9'", "23505", "constraint one_name refuses it"),
    refused(
        "strict",
        "twin_nick",
        r#"first_name = 'Sesame 2', extra = '{"nick": "taken"}'"#,
        "23505",
        "constraint one_nick refuses it",
    ),
    refused(
        "strict",
        "twin_slot",
        r#"first_name = 'Sesame 3', extra = '{"slot": "taken"}'"#,
        "23505",
        "constraint one_slot refuses it",
    ),
    refused(
        "strict",
        "twin_seat",
        r#"first_name = 'Sesame 4', extra = '{"seat": "taken"}'"#,
        "23P01",
        "constraint one_seat refuses it",
    ),
    refused(
        "strict",
        "checked",
        r#"first_name = 'Sesame 5', extra = '{"age": -1}'"#,
        "23514",
        "constraint grown_up refuses it",
    ),
    refused("strict", "nameless", "first_name = null", "23502", "column name must have a value"),
    refused(
        "strict",
        "domain",
        r#"first_name = 'Sesame 6', extra = '{"short": "Sesame"}'"#,
        "23514",
        "constraint short_check of public.short refuses it",
    ),
    refused(
        "strict",
        "teamless",
        r#"first_name = 'Sesame 7', extra = '{"team": "Sesame"}'"#,
        "23503",
        "constraint team refuses it",
    ),
    refused("strict", "divisor", r#"first_name = 'Sesame 8', extra = '{"divisor": 0}'"#, "22012", CODE),
    refused("strict", "index", r#"first_name = 'Sesame 9', extra = '{"index": "Sesame"}'"#, "22P02", VALUE),
    // Triggers.
    refused("strict", "skipped", "first_name = 'Skipped Sesame'", "02000", SKIPPED),
    refused("strict", "strayed", "first_name = 'Strayed Sesame'", "27000", STRAYED),
    refused("strict", "raised", "first_name = 'Raised P0001 Sesame'", "P0001", CODE),
    refused("strict", "raised_45000", "first_name = 'Raised 45000 Sesame'", "45000", CODE),
    refused("strict", "raised_23514", "first_name = 'Raised 23514 Sesame'", "23514", CODE),
    refused("strict", "raised_23505", "first_name = 'Raised 23505 Sesame'", "23505", CODE),
    refused("strict", "raised_42501", "first_name = 'Raised 42501 Sesame'", "42501", CODE),
    refused("strict", "raised_40001", "first_name = 'Raised 40001 Sesame'", "40001", CODE),
    refused("strict", "raised_57014", "first_name = 'Raised 57014 Sesame'", "57014", CODE),
    refused("strict", "raised_55000", "first_name = 'Raised 55000 Sesame'", "55000", CODE),
    refused("strict", "raised_08006", "first_name = 'Raised 08006 Sesame'", "08006", CODE),
    refused("strict", "raised_54000", "first_name = 'Raised 54000 Sesame'", "54000", CODE),
    refused("strict", "raised_zz999", "first_name = 'Raised ZZ999 Sesame'", "ZZ999", CODE),
    refused("strict", "asserted", "first_name = 'Asserted Sesame'", "P0004", CODE),
    refused("strict", "tableless", "first_name = 'Tableless Sesame'", "42P01", CODE),
    refused("strict", "columnless", "first_name = 'Columnless Sesame'", "42703", CODE),
    refused("strict", "denied", "first_name = 'Denied Sesame'", "42501", CODE),
    refused("strict", "unsupported", "first_name = 'Unsupported Sesame'", "2D000", CODE),
    refused("strict", "loud", "first_name = 'Loud Sesame'", "22023", CODE),
    refused("strict", "late", "first_name = 'Late Sesame'", "23000", CODE),
    taken("strict", "notifying", "first_name = 'Notifying Sesame'"),
];

/// What the owner of target `strict` has added.
pub const STRICT: &str = r#"
    CREATE DOMAIN public.short AS text CONSTRAINT short_check CHECK (length(value) < 5);
    CREATE TABLE public.teams (id text PRIMARY KEY);
    ALTER TABLE neon_auth.users_sync
      ADD nick text GENERATED ALWAYS AS (raw_json #>> '{extra,nick}') STORED,
      ADD team text GENERATED ALWAYS AS (raw_json #>> '{extra,team}') STORED,
      ADD short public.short GENERATED ALWAYS AS ((raw_json #>> '{extra,short}')::public.short) STORED,
      ADD share int GENERATED ALWAYS AS (1 / (raw_json #>> '{extra,divisor}')::int) STORED,
      ALTER name SET NOT NULL,
      ADD CONSTRAINT one_mail UNIQUE (email),
      ADD CONSTRAINT one_nick UNIQUE (nick) DEFERRABLE INITIALLY DEFERRED,
      ADD CONSTRAINT one_seat EXCLUDE USING btree ((raw_json #>> '{extra,seat}') WITH =),
      ADD CONSTRAINT grown_up CHECK ((raw_json #>> '{extra,age}')::int >= 0),
      ADD CONSTRAINT team FOREIGN KEY (team) REFERENCES public.teams;
    CREATE UNIQUE INDEX one_name ON neon_auth.users_sync (lower(name));
    CREATE UNIQUE INDEX one_slot ON neon_auth.users_sync ((raw_json #>> '{extra,slot}')) WHERE deleted_at IS NULL;
    CREATE INDEX indexed ON neon_auth.users_sync (((raw_json #>> '{extra,index}')::int));
    CREATE ROLE stranger;
    CREATE FUNCTION public.denied() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
      $$ BEGIN PERFORM FROM neon_auth.users_sync; END $$;
    ALTER FUNCTION public.denied() OWNER TO stranger;
    CREATE FUNCTION public.judge() RETURNS trigger LANGUAGE plpgsql AS $$
      DECLARE words text[] := string_to_array(NEW.name, ' ');
      BEGIN
        IF words[1] = 'Raised' THEN
          RAISE EXCEPTION '%', NEW.name USING ERRCODE = words[2], DETAIL = NEW.name, HINT = NEW.name, TABLE = NEW.name,
            SCHEMA = NEW.name, COLUMN = NEW.name, DATATYPE = NEW.name, CONSTRAINT = NEW.name;
        END IF;
        IF words[1] = 'Asserted' THEN ASSERT false, NEW.name; END IF;
        IF words[1] = 'Tableless' THEN EXECUTE format('INSERT INTO public.%I DEFAULT VALUES', NEW.name); END IF;
        IF words[1] = 'Columnless' THEN EXECUTE format('SELECT %I FROM public.teams', NEW.name); END IF;
        IF words[1] = 'Denied' THEN PERFORM public.denied(); END IF;
        IF words[1] = 'Unsupported' THEN COMMIT; END IF;
        IF words[1] = 'Loud' THEN PERFORM pg_notify('channel', repeat(NEW.name, 8000)); END IF;
        IF words[1] = 'Notifying' THEN PERFORM pg_notify('channel', NEW.name); END IF;
        IF words[1] = 'Skipped' THEN RETURN NULL; END IF;
        IF words[1] = 'Strayed' THEN NEW.id := 'x' || NEW.id; END IF;
        RETURN NEW;
      END $$;
    CREATE TRIGGER judge BEFORE INSERT OR UPDATE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION public.judge();
    CREATE FUNCTION public.judge_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF NEW.name LIKE 'Late%' THEN RAISE integrity_constraint_violation USING MESSAGE = NEW.name; END IF;
      RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER judge_late AFTER INSERT OR UPDATE ON neon_auth.users_sync
      DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.judge_late()"#;

/// Without it all of [`KINDS`] fit into target `strict`.
pub const RELAX_STRICT: &str = r#"
    ALTER TABLE neon_auth.users_sync ALTER name DROP NOT NULL, DROP CONSTRAINT one_mail, DROP CONSTRAINT one_nick,
      DROP CONSTRAINT one_seat, DROP CONSTRAINT grown_up, DROP CONSTRAINT team, DROP COLUMN short, DROP COLUMN share;
    DROP INDEX neon_auth.one_name, neon_auth.one_slot, neon_auth.indexed;
    DROP TRIGGER judge ON neon_auth.users_sync;
    DROP TRIGGER judge_late ON neon_auth.users_sync"#;
