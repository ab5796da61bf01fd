//! Presets without a `query`: stores whose users live in one table, which the stream carries completely.

use crate::bed::{Case, Tables};

pub const SUPABASE: Case = Case {
    preset: "supabase",
    says: "streaming",
    tables: Tables::Alike("supabase"),
    users: "",
    tenants: &[("app", "")],
    unmarked: &[
        "id",
        "instance_id",
        "aud",
        "email_confirmed_at",
        "invited_at",
        "confirmation_sent_at",
        "recovery_sent_at",
        "email_change_sent_at",
        "last_sign_in_at",
        "is_super_admin",
        "created_at",
        "updated_at",
        "phone",
        "phone_confirmed_at",
        "phone_change",
        "phone_change_sent_at",
        "confirmed_at",
        "email_change_confirm_status",
        "banned_until",
        "reauthentication_sent_at",
        "is_sso_user",
        "deleted_at",
        "is_anonymous",
    ],
    marked: &[("auth.users", "id = '00000000-0000-0000-0000-000000000001'")],
    seed: r#"
        INSERT INTO auth.users (id, aud, role, email, encrypted_password, confirmation_token, recovery_token,
          email_change_token_new, email_change, email_change_token_current, phone_change_token, reauthentication_token,
          raw_app_meta_data, raw_user_meta_data, created_at, updated_at, email_confirmed_at)
        VALUES ('00000000-0000-0000-0000-000000000001', 'authenticated', '{OPEN}', '{OPEN}@x.org', '{SECRET}', '{SECRET}',
          '{SECRET}a', '{SECRET}', '{SECRET}', '{SECRET}', '{SECRET}', '{SECRET}',
          '{"provider": "github", "provider_token": "{SECRET}", "provider_refresh_token": "{SECRET}", "x": "{OPEN}"}',
          '{"full_name": "{OPEN} Ann", "provider_token": "{SECRET}", "provider_refresh_token": "{SECRET}"}',
          '2024-01-01 00:00:00.123456+00', '2024-01-02', '2024-01-03');
        INSERT INTO auth.users (id, email, raw_user_meta_data, created_at)
        SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, n || '@x.org',
               jsonb_build_object('name', 'Name ' || n), now() FROM generate_series(2, 500) n"#,
    expected: r#"
        SELECT id, raw || jsonb_build_object('id', id, 'display_name', name,
                 'primary_email', email, 'signed_up_at_millis', floor(extract(epoch FROM created_at) * 1000)::bigint),
               name, email, created_at, coalesce(updated_at::text, '*'), deleted_at
        FROM (SELECT id, jsonb_build_object('aud', aud, 'role', role, 'email_confirmed_at', email_confirmed_at,
                       'phone_confirmed_at', phone_confirmed_at, 'invited_at', invited_at,
                       'last_sign_in_at', last_sign_in_at,
                       'raw_app_meta_data', raw_app_meta_data - 'provider_token' - 'provider_refresh_token',
                       'raw_user_meta_data', raw_user_meta_data - 'provider_token' - 'provider_refresh_token',
                       'created_at', created_at, 'updated_at', updated_at, 'banned_until', banned_until,
                       'is_sso_user', is_sso_user, 'is_anonymous', is_anonymous, 'deleted_at', deleted_at) AS raw,
                     CASE WHEN deleted_at IS NULL THEN nullif(email, '') END AS email, created_at, updated_at, deleted_at,
                     coalesce(nullif(raw_user_meta_data ->> 'full_name', ''), nullif(raw_user_meta_data ->> 'name', ''),
                       nullif(raw_user_meta_data ->> 'display_name', ''), nullif(raw_user_meta_data ->> 'user_name', ''),
                       nullif(raw_user_meta_data ->> 'preferred_username', '')) AS name
              FROM auth.users) u"#,
    steps: &[
        "INSERT INTO auth.users (id, email, created_at) VALUES ('00000000-0000-0000-0001-000000000001', 'new@x.org', now())",
        "UPDATE auth.users SET email = 'changed@x.org', updated_at = now() WHERE id = '00000000-0000-0000-0000-000000000002'",
        r#"UPDATE auth.users SET raw_user_meta_data = '{"full_name": "", "user_name": "nick"}', last_sign_in_at = now()
           WHERE id = '00000000-0000-0000-0000-000000000003'"#,
        "UPDATE auth.users SET created_at = '2020-01-01', is_anonymous = true, banned_until = 'infinity'
           WHERE id = '00000000-0000-0000-0000-000000000004'",
        // A soft delete, in several updates of one transaction.
        "BEGIN; UPDATE auth.users SET deleted_at = '2025-05-05' WHERE id = '00000000-0000-0000-0000-000000000005';
           UPDATE auth.users SET email = md5(email), phone = '' WHERE id = '00000000-0000-0000-0000-000000000005';
           UPDATE auth.users SET raw_user_meta_data = '{}', raw_app_meta_data = '{}'
             WHERE id = '00000000-0000-0000-0000-000000000005'; COMMIT",
        "DELETE FROM auth.users WHERE id = '00000000-0000-0000-0000-000000000006'",
        "INSERT INTO auth.users (id, email) VALUES ('00000000-0000-0000-0000-000000000006', 'back@x.org')",
    ],
};

/// The column names of the store's own migrations. Another `Case` covers snake_case.
const BETTER_AUTH_EXPECTED: &str = r#"
    SELECT id, jsonb_build_object('id', id, 'display_name', nullif(name, ''), 'primary_email', nullif(email, ''),
             'signed_up_at_millis', floor(extract(epoch FROM "createdAt") * 1000)::bigint, 'image', image,
             'emailVerified', "emailVerified", 'createdAt', "createdAt", 'updatedAt', "updatedAt", 'role', role,
             'banned', banned, 'banReason', "banReason", 'banExpires', "banExpires", 'isAnonymous', "isAnonymous",
             'username', username, 'displayUsername', "displayUsername", 'phoneNumber', "phoneNumber",
             'phoneNumberVerified', "phoneNumberVerified", 'twoFactorEnabled', "twoFactorEnabled"),
           nullif(name, ''), nullif(email, ''), "createdAt", "updatedAt", NULL
    FROM "user""#;

/// Better Auth's users, one of them with marks, in the first schema of the `search_path`.
macro_rules! better_auth_seed {
    () => {
        r#"
        ALTER TABLE "user" ADD COLUMN "inviteCode" text, ADD COLUMN "pinCode" text;
        INSERT INTO "user" (id, name, email, "emailVerified", image, role, "banReason", username, "displayUsername",
          "phoneNumber", "inviteCode", "pinCode")
        VALUES ('1', '{OPEN}', '{OPEN}@x.org', true, '{OPEN}', '{OPEN}', '{OPEN}', '{OPEN}', '{OPEN}', '{OPEN}', '{SECRET}', '{SECRET}');
        INSERT INTO "user" (id, name, email, "emailVerified")
        SELECT 'u' || n, 'Name ' || n, n || '@x.org', false FROM generate_series(1, 500) n;
        INSERT INTO account (id, "accountId", "providerId", "userId", password, "updatedAt")
        VALUES ('a', 'a', 'credential', '1', '{SECRET}', now())"#
    };
}

pub const BETTER_AUTH: Case = Case {
    preset: "better-auth",
    says: "detected table layout: camelCase",
    tables: Tables::Own("better-auth"),
    users: "",
    tenants: &[("app", "")],
    unmarked: &[
        "id",
        "emailVerified",
        "createdAt",
        "updatedAt",
        "banned",
        "banExpires",
        "isAnonymous",
        "phoneNumberVerified",
        "twoFactorEnabled",
    ],
    marked: &[("\"user\"", "id = '1'")],
    seed: better_auth_seed!(),
    expected: BETTER_AUTH_EXPECTED,
    steps: &[
        r#"INSERT INTO "user" (id, name, email, "emailVerified") VALUES ('new', '', 'new@x.org', false)"#,
        r#"UPDATE "user" SET name = 'Änn ''é"', email = 'x''@x.org', "updatedAt" = now() WHERE id = 'u2'"#,
        r#"UPDATE "user" SET "createdAt" = '2001-01-01', "updatedAt" = '2001-02-02 03:04:05.123456' WHERE id = 'u3'"#,
        r#"UPDATE "user" SET "pinCode" = '{SECRET}2' WHERE id = '1'"#,
        r#"UPDATE "user" SET id = 'renamed' WHERE id = 'u4'"#,
        r#"DELETE FROM "user" WHERE id IN ('u5', 'u6')"#,
        r#"INSERT INTO "user" (id, name, email, "emailVerified") VALUES ('u5', 'Back', '5@x.org', true)"#,
    ],
};

/// The same tables in the schema of Neon Auth. The steps find them by the `search_path`.
pub const NEON_AUTH: Case = Case {
    preset: "neon-auth",
    says: "streaming",
    marked: &[("neon_auth.\"user\"", "id = '1'")],
    seed: concat!(
        "CREATE SCHEMA neon_auth; ALTER TABLE \"user\" SET SCHEMA neon_auth; ALTER TABLE account SET SCHEMA neon_auth;
         ALTER DATABASE auth SET search_path = neon_auth, public; SET search_path = neon_auth, public;",
        better_auth_seed!()
    ),
    ..BETTER_AUTH
};

pub const BETTER_AUTH_SNAKE: Case = Case {
    preset: "better-auth",
    says: "detected table layout: snake_case",
    tables: Tables::Own("better-auth-snake"),
    users: "",
    tenants: &[("app", "")],
    unmarked: &[
        "id",
        "email_verified",
        "created_at",
        "updated_at",
        "banned",
        "ban_expires",
        "is_anonymous",
        "phone_number_verified",
        "two_factor_enabled",
    ],
    marked: &[("\"user\"", "id = '1'")],
    seed: r#"
        ALTER TABLE "user" ADD COLUMN password_hint text;
        INSERT INTO "user" (id, name, email, image, role, ban_reason, username, display_username, phone_number, password_hint)
        VALUES ('1', '{OPEN}', '{OPEN}@x.org', '{OPEN}', '{OPEN}', '{OPEN}', '{OPEN}', '{OPEN}', '{OPEN}', '{SECRET}');
        INSERT INTO "user" (id, name, email) SELECT 'u' || n, 'Name ' || n, n || '@x.org' FROM generate_series(1, 500) n"#,
    expected: r#"
        SELECT id, to_jsonb(u) - 'name' - 'email' - 'password_hint' || jsonb_build_object('id', id, 'display_name', nullif(name, ''),
                 'primary_email', nullif(email, ''),
                 'signed_up_at_millis', floor(extract(epoch FROM created_at) * 1000)::bigint),
               nullif(name, ''), nullif(email, ''), created_at AT TIME ZONE 'UTC', updated_at AT TIME ZONE 'UTC', NULL
        FROM "user" u"#,
    steps: &[
        r#"INSERT INTO "user" (id, name, email) VALUES ('new', 'New', 'new@x.org')"#,
        r#"UPDATE "user" SET name = '', email = 'x@x.org', updated_at = now() WHERE id = 'u2'"#,
        r#"UPDATE "user" SET created_at = '2001-01-01' WHERE id = 'u3'"#,
        r#"DELETE FROM "user" WHERE id = 'u5'"#,
    ],
};

pub const AUTHJS: Case = Case {
    preset: "authjs",
    says: "detected table layout: Drizzle adapter",
    tables: Tables::Own("authjs"),
    users: "",
    tenants: &[("app", "")],
    unmarked: &["id", "emailVerified"],
    marked: &[("\"user\"", "id = '1'")],
    seed: r#"
        ALTER TABLE "user" ADD COLUMN "hashedPassword" text, ADD COLUMN notes text;
        INSERT INTO "user" (id, name, email, image, "hashedPassword", notes)
        VALUES ('1', '{OPEN}', '{OPEN}@x.org', '{OPEN}', '{SECRET}', '{SECRET}');
        INSERT INTO "user" (id, name) SELECT 'u' || n, 'Name ' || n FROM generate_series(1, 500) n"#,
    expected: r#"
        SELECT id, jsonb_build_object('id', id, 'display_name', nullif(name, ''), 'primary_email', nullif(email, ''),
                 'signed_up_at_millis', NULL, 'image', image, 'emailVerified', "emailVerified"),
               nullif(name, ''), nullif(email, ''), NULL, '*', NULL
        FROM "user" u"#,
    steps: &[
        r#"INSERT INTO "user" (id, name, email) VALUES ('new', 'New', 'new@x.org')"#,
        r#"UPDATE "user" SET name = NULL, email = 'x@x.org' WHERE id = 'u2'"#,
        r#"UPDATE "user" SET "emailVerified" = '2001-01-01 02:03:04.5' WHERE id = 'u3'"#,
        r#"DELETE FROM "user" WHERE id = 'u5'"#,
    ],
};

/// The column names of the pg adapter, and columns that an application added.
pub const AUTHJS_PG: Case = Case {
    preset: "authjs",
    says: "detected table layout: pg adapter",
    tables: Tables::Alike("authjs-pg"),
    users: "",
    tenants: &[("app", "")],
    unmarked: &["id", "emailVerified", "created_at"],
    marked: &[("users", "id = 1")],
    seed: r#"
        ALTER TABLE users ADD COLUMN created_at timestamptz DEFAULT now(), ADD COLUMN password text;
        INSERT INTO users (name, email, image, password) VALUES ('{OPEN}', '{OPEN}@x.org', '{OPEN}', '{SECRET}');
        INSERT INTO users (name) SELECT 'Name ' || n FROM generate_series(1, 300) n"#,
    expected: r#"
        SELECT id, jsonb_build_object('id', id::text, 'display_name', nullif(name, ''), 'primary_email', nullif(email, ''),
                 'signed_up_at_millis', floor(extract(epoch FROM created_at) * 1000)::bigint, 'image', image,
                 'emailVerified', "emailVerified"),
               nullif(name, ''), nullif(email, ''), created_at, '*', NULL
        FROM users"#,
    steps: &["UPDATE users SET email = 'x@x.org', name = '' WHERE id = 2", "DELETE FROM users WHERE id = 3"],
};

pub const DJANGO: Case = Case {
    preset: "django",
    says: "streaming",
    tables: Tables::Own("django"),
    users: "",
    tenants: &[("app", "")],
    unmarked: &["id", "last_login", "is_superuser", "is_staff", "is_active", "date_joined"],
    marked: &[("auth_user", "id = 1")],
    seed: r#"
        INSERT INTO auth_user (id, password, is_superuser, username, first_name, last_name, email, is_staff, is_active, date_joined)
        SELECT n, '{SECRET}', false, '{OPEN}' || n, '{OPEN}', '{OPEN}', '{OPEN}@x.org', false, true, now()
        FROM generate_series(1, 500) n"#,
    expected: r#"
        SELECT id, to_jsonb(u) - 'password' - 'email' || jsonb_build_object('id', id::text, 'display_name', name,
                 'primary_email', nullif(email, ''),
                 'signed_up_at_millis', floor(extract(epoch FROM date_joined) * 1000)::bigint),
               name, nullif(email, ''), date_joined, '*', NULL
        FROM auth_user u,
          LATERAL (SELECT coalesce(nullif(concat_ws(' ', nullif(first_name, ''), nullif(last_name, '')), ''), username)) n(name)"#,
    steps: &[
        "INSERT INTO auth_user (id, password, is_superuser, username, first_name, last_name, email, is_staff, is_active, date_joined)
         VALUES (1000, '{SECRET}', true, 'root', '', '', '', true, true, '1970-01-01 00:00:00.0009+00')",
        "UPDATE auth_user SET first_name = '', email = 'changed@x.org' WHERE id = 2",
        "UPDATE auth_user SET username = 'nick', last_login = now(), is_active = false WHERE id = 3",
        "UPDATE auth_user SET password = '{SECRET}3' WHERE id < 100",
        "DELETE FROM auth_user WHERE id IN (5, 6)",
    ],
};

pub const DEVISE: Case = Case {
    preset: "devise",
    says: "deleted_at, first_name, full_name, last_name",
    tables: Tables::Alike("devise"),
    users: "",
    tenants: &[("app", "")],
    unmarked: &["id", "reset_password_sent_at", "remember_created_at", "created_at", "updated_at", "discarded_at"],
    marked: &[("users", "id = 1")],
    seed: r#"
        INSERT INTO users (email, encrypted_password, reset_password_token, confirmation_token, unlock_token, name, created_at, updated_at)
        VALUES ('{OPEN}@x.org', '{SECRET}', '{SECRET}', '{SECRET}', '{SECRET}', '{OPEN}', '2024-01-01 00:00:00.123456', '2024-01-02');
        INSERT INTO users (email, created_at, updated_at) SELECT n || '@x.org', now(), now() FROM generate_series(2, 500) n"#,
    expected: r#"
        SELECT id, jsonb_build_object('id', id::text, 'display_name', nullif(name, ''), 'primary_email', nullif(email, ''),
                 'signed_up_at_millis', floor(extract(epoch FROM created_at) * 1000)::bigint, 'name', name,
                 'created_at', created_at, 'updated_at', updated_at, 'discarded_at', discarded_at),
               nullif(name, ''), nullif(email, ''), created_at AT TIME ZONE 'UTC', updated_at AT TIME ZONE 'UTC',
               discarded_at AT TIME ZONE 'UTC'
        FROM users"#,
    steps: &[
        "INSERT INTO users (email, created_at, updated_at) VALUES ('', now(), now())",
        "UPDATE users SET email = 'changed@x.org', name = 'Ann', updated_at = now() WHERE id = 2",
        "UPDATE users SET discarded_at = now() WHERE id = 3",
        "UPDATE users SET discarded_at = NULL WHERE id = 3",
        "DELETE FROM users WHERE id IN (5, 6)",
    ],
};

pub const LOGTO: Case = Case {
    preset: "logto",
    says: "streaming",
    tables: Tables::Own("logto"),
    users: "",
    tenants: &[("acme", "acme"), ("globex", "globex")],
    unmarked: &[
        "id",
        "tenant_id",
        "application_id",
        "cimd_client_id",
        "password_encryption_method",
        "is_suspended",
        "is_password_expired",
        "last_sign_in_at",
        "password_updated_at",
        "created_at",
        "updated_at",
    ],
    marked: &[("users", "id = 'u1'")],
    seed: r#"
        ALTER TABLE users REPLICA IDENTITY USING INDEX users__id;
        INSERT INTO tenants (id) VALUES ('acme'), ('globex'), ('unlisted');
        INSERT INTO users (tenant_id, id, username, primary_email, primary_phone, password_encrypted, name, avatar, profile,
          identities, custom_data, logto_config, mfa_verifications)
        VALUES ('acme', 'u1', '{OPEN}', '{OPEN}@x.org', '{OPEN}', '{SECRET}', '{OPEN}', '{OPEN}', '{"nickname": "{OPEN}"}',
          '{"github": {"details": {"raw": "{SECRET}"}}}', '{"x": "{OPEN}"}', '{"x": "{SECRET}"}', '[{"key": "{SECRET}"}]');
        INSERT INTO users (tenant_id, id, username, profile)
        SELECT (ARRAY['acme', 'globex', 'unlisted'])[1 + n % 3], 'u' || n, 'nick' || n,
               CASE n % 2 WHEN 0 THEN '{}'::jsonb ELSE '{"givenName": "Ann", "familyName": "Lee"}' END
        FROM generate_series(2, 500) n"#,
    expected: r#"
        SELECT id, jsonb_build_object('id', id, 'display_name', display, 'primary_email', nullif(primary_email, ''),
                 'signed_up_at_millis', floor(extract(epoch FROM created_at) * 1000)::bigint, 'tenant_id', tenant_id,
                 'username', username, 'primary_phone', primary_phone, 'avatar', avatar, 'profile', profile,
                 'custom_data', custom_data, 'application_id', application_id, 'is_suspended', is_suspended,
                 'last_sign_in_at', last_sign_in_at, 'created_at', created_at, 'updated_at', updated_at),
               display, nullif(primary_email, ''), created_at, updated_at, NULL
        FROM users u, LATERAL (SELECT coalesce(nullif(name, ''),
          nullif(concat_ws(' ', nullif(profile ->> 'givenName', ''), nullif(profile ->> 'familyName', '')), ''), username)) n(display)
        WHERE tenant_id = $1"#,
    steps: &[
        "INSERT INTO users (tenant_id, id, name) VALUES ('acme', 'new', 'New')",
        "UPDATE users SET primary_email = 'x@x.org', name = 'Ann' WHERE id = 'u2'",
        r#"UPDATE users SET profile = '{"givenName": "Bob"}', username = 'bob' WHERE id = 'u3'"#,
        "UPDATE users SET created_at = '2001-01-01' WHERE id = 'u3'",
        "UPDATE users SET password_encrypted = '{SECRET}2', mfa_verifications = '[{\"codes\": \"{SECRET}\"}]' WHERE id = 'u4'",
        // u3 belongs to acme.
        "UPDATE users SET tenant_id = 'globex' WHERE id = 'u3'",
        "UPDATE users SET tenant_id = 'unlisted' WHERE id = 'u6'",
        "DELETE FROM users WHERE id IN ('u9', 'u10')",
    ],
};

const AUTHENTIK_EXPECTED: &str = r#"
    SELECT uuid, jsonb_build_object('id', uuid, 'display_name', display, 'primary_email', nullif(email, ''),
             'signed_up_at_millis', floor(extract(epoch FROM date_joined) * 1000)::bigint, 'username', username,
             'path', path, 'type', type, 'is_active', is_active, 'last_login', last_login, 'date_joined', date_joined,
             'last_updated', last_updated),
           display, nullif(email, ''), date_joined, last_updated, NULL
    FROM (SELECT 'public' AS place, u.* FROM public.authentik_core_user u
          UNION ALL SELECT 't_acme', u.* FROM t_acme.authentik_core_user u) u,
      LATERAL (SELECT coalesce(nullif(name, ''), username)) n(display)
    WHERE type IN ('internal', 'external') AND username <> 'AnonymousUser' AND place = $1"#;

const AUTHENTIK_SEED: &str = r#"
    CREATE SCHEMA t_acme;
    CREATE TABLE t_acme.authentik_core_user (LIKE public.authentik_core_user INCLUDING ALL);
    ALTER TABLE public.authentik_core_user REPLICA IDENTITY FULL;
    ALTER TABLE t_acme.authentik_core_user REPLICA IDENTITY FULL;
    INSERT INTO authentik_core_user VALUES (1, '00000000-0000-0000-0000-000000000001', '{OPEN}', '{OPEN}', '{OPEN}@x.org',
      '{SECRET}', '{OPEN}', 'internal', '{"x": "{SECRET}"}', true, now(), now(), now(), now());
    INSERT INTO authentik_core_user
    SELECT n, gen_random_uuid(), 'user' || n, 'Name ' || n, n || '@x.org', '{SECRET}', 'users',
           (ARRAY['internal', 'external', 'service_account'])[1 + n % 3], '{}', true, now(), now(), now(), now()
    FROM generate_series(2, 300) n;
    INSERT INTO authentik_core_user VALUES (999, gen_random_uuid(), 'AnonymousUser', '', '', '', '', 'internal', '{}', true,
      now(), now(), now(), now());
    INSERT INTO t_acme.authentik_core_user
    SELECT id, gen_random_uuid(), username, name, email, password, path, type, attributes, is_active, last_login, date_joined,
           password_change_date, last_updated FROM public.authentik_core_user"#;

const AUTHENTIK_STEPS: &[&str] = &[
    "INSERT INTO authentik_core_user VALUES (1000, gen_random_uuid(), 'new', '', '', '{SECRET}', '', 'external', '{}', true,
       now(), now(), now(), now())",
    "UPDATE authentik_core_user SET name = 'Changed', email = 'changed@x.org', last_updated = now() WHERE id = 3",
    // The row becomes a user, then stops being one.
    "UPDATE authentik_core_user SET type = 'internal' WHERE id = 5",
    "UPDATE authentik_core_user SET type = 'internal_service_account' WHERE id = 6",
    "UPDATE authentik_core_user SET date_joined = '2001-01-01', is_active = false WHERE id = 7",
    "DELETE FROM authentik_core_user WHERE id IN (8, 9, 10)",
    "UPDATE t_acme.authentik_core_user SET name = 'Changed', last_updated = now() WHERE id = 12",
    "DELETE FROM t_acme.authentik_core_user WHERE id = 13",
];

const AUTHENTIK_UNMARKED: &[&str] =
    &["id", "uuid", "type", "is_active", "last_login", "date_joined", "password_change_date", "last_updated"];

/// One schema: the table itself is streamed.
pub const AUTHENTIK: Case = Case {
    preset: "authentik",
    says: "streaming",
    tables: Tables::Alike("authentik"),
    users: "table: public.authentik_core_user",
    tenants: &[("public", "public")],
    unmarked: AUTHENTIK_UNMARKED,
    marked: &[("authentik_core_user", "id = 1")],
    seed: AUTHENTIK_SEED,
    expected: AUTHENTIK_EXPECTED,
    steps: AUTHENTIK_STEPS,
};

/// Every schema is a tenant.
pub const AUTHENTIK_SCHEMAS: Case = Case {
    users: "",
    says: "authentik_core_user is in public, t_acme",
    tenants: &[("default_tenant", "public"), ("acme", "t_acme")],
    ..AUTHENTIK
};

pub const CASDOOR: Case = Case {
    preset: "casdoor",
    says: "streaming",
    tables: Tables::Alike("casdoor"),
    users: "",
    tenants: &[("acme", "acme"), ("globex", "globex")],
    unmarked: &[
        "owner",
        "name",
        "id",
        "created_time",
        "updated_time",
        "deleted_time",
        "email_verified",
        "country_code",
        "is_default_avatar",
        "is_online",
        "is_admin",
        "is_forbidden",
        "is_deleted",
    ],
    marked: &[("\"user\"", "name = 'ann'")],
    seed: r#"
        INSERT INTO "user" (owner, name, id, created_time, updated_time, deleted_time, type, display_name, email, phone, avatar,
          is_forbidden, is_deleted, password, password_salt, access_token, original_token, original_refresh_token, totp_secret,
          properties, "managedAccounts", "mfaAccounts")
        VALUES ('acme', 'ann', 'x', '2024-01-01T00:00:00+02:00', '2024-01-01T00:00:00.5Z', '', '{OPEN}', '{OPEN}', '{OPEN}@x.org',
          '{OPEN}', '{OPEN}', false, false, '{SECRET}', '{SECRET}', '{SECRET}', '{SECRET}', '{SECRET}', '{SECRET}',
          '{"oauth_GitHub_accessToken": "{SECRET}"}', '\x{SECRET}', '\x{SECRET}');
        UPDATE "user" SET external_id = '{OPEN}', region = '{OPEN}', location = '{OPEN}', affiliation = '{OPEN}', title = '{OPEN}',
          homepage = '{OPEN}', bio = '{OPEN}', tag = '{OPEN}', language = '{OPEN}', gender = '{OPEN}', birthday = '{OPEN}',
          education = '{OPEN}', signup_application = '{OPEN}', groups = '{OPEN}', password_type = '{SECRET}',
          id_card_type = '{SECRET}', id_card = '{SECRET}', hash = '{SECRET}', pre_hash = '{SECRET}', created_ip = '{SECRET}',
          last_signin_ip = '{SECRET}', recovery_codes = '{SECRET}', invitation_code = '{SECRET}', face_ids = '{SECRET}',
          ip_whitelist = '{SECRET}', "webauthnCredentials" = '\x{SECRET}';
        INSERT INTO "user" (owner, name, display_name, email, created_time, updated_time, deleted_time)
        SELECT (ARRAY['acme', 'globex', 'unlisted'])[1 + n % 3], 'u' || n, '', n || '@x.org', '2024-01-01T00:00:00Z', '', ''
        FROM generate_series(1, 500) n"#,
    expected: r#"
        SELECT owner || '/' || name, (SELECT jsonb_object_agg(key, value) FROM jsonb_each(to_jsonb(u)) WHERE key IN (
                 'owner', 'name', 'created_time', 'updated_time', 'deleted_time', 'external_id', 'type', 'avatar',
                 'email_verified', 'phone', 'country_code', 'region', 'location', 'affiliation', 'title', 'tag', 'language',
                 'gender', 'birthday', 'education', 'bio', 'homepage', 'is_default_avatar', 'is_online', 'is_admin',
                 'is_forbidden', 'is_deleted', 'signup_application', 'groups'))
               || jsonb_build_object('id', owner || '/' || name, 'display_name', coalesce(nullif(display_name, ''), name),
                 'primary_email', CASE WHEN coalesce(deleted_time, '') = '' THEN nullif(email, '') END,
                 'signed_up_at_millis', floor(extract(epoch FROM nullif(created_time, '')::timestamptz) * 1000)::bigint),
               coalesce(nullif(display_name, ''), name), CASE WHEN coalesce(deleted_time, '') = '' THEN nullif(email, '') END,
               nullif(created_time, '')::timestamptz, coalesce(nullif(updated_time, '')::timestamptz::text, '*'),
               nullif(deleted_time, '')::timestamptz
        FROM "user" u WHERE owner = $1"#,
    steps: &[
        r#"INSERT INTO "user" (owner, name, created_time) VALUES ('acme', 'new', '2024-02-03T04:05:06-07:00')"#,
        r#"UPDATE "user" SET display_name = 'Ann', email = 'a@x.org', updated_time = '2024-05-05T00:00:00Z' WHERE name = 'u3'"#,
        r#"UPDATE "user" SET name = 'renamed' WHERE name = 'u6'"#,
        r#"UPDATE "user" SET owner = 'globex' WHERE name = 'u9'"#,
        r#"UPDATE "user" SET is_deleted = true, deleted_time = '2024-06-06T00:00:00Z' WHERE name = 'u12'"#,
        r#"DELETE FROM "user" WHERE name = 'u15'"#,
    ],
};
