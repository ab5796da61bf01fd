//! Presets with a `query`: stores whose users live in several tables.

use crate::bed::{Case, Tables};

pub const STACK_AUTH: Case = Case {
    preset: "stack-auth",
    says: "streaming",
    tables: Tables::Alike("stack-auth"),
    users: "",
    tenants: &[("acme", "acme"), ("globex", "globex")],
    unmarked: &[
        "tenancyId",
        "projectUserId",
        "mirroredProjectId",
        "mirroredBranchId",
        "createdAt",
        "updatedAt",
        "lastActiveAt",
        "signedUpAt",
        "sequenceId",
        "shouldUpdateSequenceId",
        "requiresTotpMfa",
        "isAnonymous",
        "restrictedByAdmin",
        "signUpIpTrusted",
        "signUpRiskScoreBot",
        "signUpRiskScoreFreeTrialAbuse",
        "id",
        "type",
        "isPrimary",
        "usedForAuth",
        "isVerified",
        "authMethodId",
        "teamId",
        "isSelected",
    ],
    marked: &[
        ("\"ProjectUser\"", "\"displayName\" LIKE '%09e2%'"),
        ("\"ContactChannel\"", "value LIKE '%09e2%'"),
        ("\"PasswordAuthMethod\"", "\"projectUserId\" = u(1)"),
        ("\"PasskeyAuthMethod\"", "\"projectUserId\" = u(1)"),
        ("\"ProjectUserOAuthAccount\"", "\"projectUserId\" = u(1)"),
        ("\"TeamMember\"", "\"projectUserId\" = u(1)"),
    ],
    seed: r#"
        ALTER TABLE "ProjectUser" REPLICA IDENTITY FULL;
        ALTER TABLE "PasswordAuthMethod" REPLICA IDENTITY FULL;
        ALTER TABLE "OtpAuthMethod" REPLICA IDENTITY FULL;
        ALTER TABLE "PasskeyAuthMethod" REPLICA IDENTITY FULL;
        ALTER TABLE "ProjectUserOAuthAccount" REPLICA IDENTITY FULL;
        CREATE FUNCTION u(n int) RETURNS uuid IMMUTABLE LANGUAGE sql AS
          $$ SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid $$;
        INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "mirroredProjectId", "mirroredBranchId", "updatedAt", "signedUpAt",
          "displayName", "serverMetadata", "clientReadOnlyMetadata", "clientMetadata", "profileImageUrl", "totpSecret",
          "signUpCountryCode", "restrictedByAdminReason", "restrictedByAdminPrivateDetails", "signUpIp", "signUpEmailNormalized",
          "signUpEmailBase", "projectId")
        VALUES (u(1), u(1), 'acme', 'main', now(), '2024-01-01 00:00:00.123', '{OPEN}', '{"x": "{SECRET}"}', '{"x": "{OPEN}"}',
          '{"x": "{OPEN}"}', '{OPEN}', '\x{SECRET}', '{OPEN}', '{OPEN}', '{SECRET}', '{SECRET}', '{SECRET}', '{SECRET}', '{SECRET}');
        INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "mirroredProjectId", "mirroredBranchId", "updatedAt", "signedUpAt", "displayName")
        SELECT u(n % 3), u(n), (ARRAY['globex', 'acme', 'unlisted'])[1 + n % 3], CASE WHEN n % 50 = 0 THEN 'dev' ELSE 'main' END,
               now(), now(), 'Name ' || n FROM generate_series(2, 400) n;
        INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", id, type, "isPrimary", "usedForAuth", "isVerified", value, "updatedAt")
        SELECT "tenancyId", "projectUserId", gen_random_uuid(), 'EMAIL', 'TRUE', 'TRUE', true, '{OPEN}@x.org', now()
        FROM "ProjectUser" WHERE "displayName" LIKE '{OPEN}%';
        INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", id, type, "isPrimary", "isVerified", value, "updatedAt")
        SELECT "tenancyId", "projectUserId", gen_random_uuid(), 'EMAIL', 'TRUE', false, "displayName" || '@x.org', now()
        FROM "ProjectUser" WHERE "displayName" LIKE 'Name%';
        INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", id, type, "isVerified", value, "updatedAt")
        SELECT "tenancyId", "projectUserId", gen_random_uuid(), 'EMAIL', true, 'other' || "displayName" || '@x.org', now()
        FROM "ProjectUser" WHERE "displayName" LIKE 'Name%';
        INSERT INTO "PasswordAuthMethod" VALUES (u(1), u(1), u(1), '{SECRET}');
        INSERT INTO "PasskeyAuthMethod" VALUES (u(1), u(1), u(1), '{SECRET}', '{SECRET}');
        INSERT INTO "ProjectUserOAuthAccount" VALUES (u(1), u(1), u(1), '{OPEN}', '{OPEN}', '{OPEN}');
        INSERT INTO "TeamMember" VALUES (u(1), u(1), u(77), '{SECRET}', 'TRUE')"#,
    expected: r#"
        SELECT u."projectUserId", jsonb_build_object('id', u."projectUserId", 'display_name', nullif(u."displayName", ''),
                 'primary_email', c.value, 'signed_up_at_millis', floor(extract(epoch FROM u."signedUpAt") * 1000)::bigint,
                 'primary_email_verified', coalesce(c."isVerified", false),
                 'primary_email_auth_enabled', c."usedForAuth" IS NOT NULL, 'profile_image_url', u."profileImageUrl",
                 'client_metadata', u."clientMetadata", 'client_read_only_metadata', u."clientReadOnlyMetadata",
                 'requires_totp_mfa', u."requiresTotpMfa", 'is_anonymous', u."isAnonymous",
                 'restricted_by_admin', u."restrictedByAdmin", 'restricted_by_admin_reason', u."restrictedByAdminReason",
                 'country_code', u."signUpCountryCode",
                 'last_active_at_millis', floor(extract(epoch FROM u."lastActiveAt") * 1000)::bigint,
                 'has_password', u."projectUserId" IN (SELECT "projectUserId" FROM "PasswordAuthMethod"),
                 'otp_auth_enabled', u."projectUserId" IN (SELECT "projectUserId" FROM "OtpAuthMethod"),
                 'passkey_auth_enabled', u."projectUserId" IN (SELECT "projectUserId" FROM "PasskeyAuthMethod"),
                 'oauth_providers', coalesce((SELECT jsonb_agg(jsonb_build_object('id', "configOAuthProviderId", 'account_id',
                     "providerAccountId", 'email', email) ORDER BY "configOAuthProviderId")
                   FROM "ProjectUserOAuthAccount" a WHERE a."projectUserId" = u."projectUserId"), '[]'),
                 'selected_team_id', (SELECT "teamId" FROM "TeamMember" t
                   WHERE t."projectUserId" = u."projectUserId" AND "isSelected" = 'TRUE')),
               nullif(u."displayName", ''), c.value, u."signedUpAt" AT TIME ZONE 'UTC',
               greatest(u."updatedAt", c."updatedAt") AT TIME ZONE 'UTC', NULL
        FROM "ProjectUser" u
        LEFT JOIN "ContactChannel" c ON c."projectUserId" = u."projectUserId" AND c."isPrimary" = 'TRUE'
        WHERE u."mirroredBranchId" = 'main' AND u."mirroredProjectId" = $1"#,
    steps: &[
        r#"BEGIN;
           INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "mirroredProjectId", "mirroredBranchId", "updatedAt", "signedUpAt")
             VALUES (u(1), u(1001), 'acme', 'main', now(), now());
           INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", id, type, "isPrimary", "usedForAuth", "isVerified", value, "updatedAt")
             VALUES (u(1), u(1001), u(1), 'EMAIL', 'TRUE', 'TRUE', true, 'new@x.org', now());
           COMMIT"#,
        // Another address becomes the primary one; the user's own row does not change.
        r#"BEGIN;
           UPDATE "ContactChannel" SET "isPrimary" = NULL WHERE "projectUserId" = u(4) AND "isPrimary" = 'TRUE';
           UPDATE "ContactChannel" SET "isPrimary" = 'TRUE', "updatedAt" = now() + interval '1 s'
             WHERE "projectUserId" = u(4) AND value LIKE 'other%';
           COMMIT"#,
        r#"UPDATE "ProjectUser" SET "displayName" = '', "updatedAt" = now() + interval '2 s' WHERE "projectUserId" = u(7)"#,
        r#"UPDATE "ProjectUser" SET "signedUpAt" = '2001-02-03 04:05:06.789', "clientMetadata" = '{"a": [1]}' WHERE "projectUserId" = u(10)"#,
        r#"UPDATE "ProjectUser" SET "lastActiveAt" = '2025-05-05 05:05:05.055' WHERE "projectUserId" = u(10)"#,
        r#"INSERT INTO "PasswordAuthMethod" VALUES (u(1), u(2), u(4), '{SECRET}')"#,
        r#"INSERT INTO "OtpAuthMethod" VALUES (u(1), u(3), u(4))"#,
        r#"INSERT INTO "ProjectUserOAuthAccount" VALUES (u(1), u(9), u(4), 'github', '5', NULL)"#,
        r#"INSERT INTO "TeamMember" VALUES (u(1), u(4), u(8), 'x', 'TRUE')"#,
        r#"DELETE FROM "PasswordAuthMethod" WHERE "projectUserId" = u(4)"#,
        r#"DELETE FROM "ProjectUserOAuthAccount" WHERE "projectUserId" = u(4)"#,
        r#"DELETE FROM "ContactChannel" WHERE "projectUserId" = u(13)"#,
        // From one project into another, out of all, to another branch and back.
        r#"UPDATE "ProjectUser" SET "mirroredProjectId" = 'globex' WHERE "projectUserId" = u(16)"#,
        r#"UPDATE "ProjectUser" SET "mirroredProjectId" = 'unlisted' WHERE "projectUserId" = u(19)"#,
        r#"UPDATE "ProjectUser" SET "mirroredBranchId" = 'dev' WHERE "projectUserId" = u(22)"#,
        r#"UPDATE "ProjectUser" SET "mirroredBranchId" = 'main' WHERE "projectUserId" = u(22)"#,
        // The addresses are deleted by cascade, after the user. They must not bring the user back.
        r#"DELETE FROM "ProjectUser" WHERE "projectUserId" IN (u(25), u(28), u(1001))"#,
        r#"BEGIN; DELETE FROM "ProjectUser" WHERE "projectUserId" = u(31);
           INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "mirroredProjectId", "mirroredBranchId", "updatedAt", "signedUpAt", "displayName")
             VALUES (u(1), u(31), 'acme', 'main', now(), now(), 'Back'); COMMIT"#,
    ],
};

pub const KEYCLOAK: Case = Case {
    preset: "keycloak",
    says: "streaming",
    tables: Tables::Own("keycloak"),
    users: "",
    tenants: &[("acme", "acme"), ("globex", "globex")],
    unmarked: &[
        "id", "realm_id", "email_verified", "enabled", "created_timestamp", "service_account_client_link", "not_before",
        "last_modified_timestamp", "user_id", "name",
    ],
    marked: &[("user_entity", "id = 'ann'"), ("user_attribute", "id = '2'")],
    seed: r#"
        ALTER TABLE user_entity REPLICA IDENTITY FULL;
        ALTER TABLE user_attribute REPLICA IDENTITY FULL;
        INSERT INTO user_entity (id, realm_id, username, email, email_constraint, email_verified, enabled, first_name, last_name,
          federation_link, created_timestamp)
        VALUES ('ann', 'acme', '{OPEN}', '{OPEN}@x.org', '{SECRET}', true, true, '{OPEN}', '{OPEN}', '{OPEN}', 1704067200123);
        INSERT INTO user_entity (id, realm_id, username, email_constraint, email_verified, enabled, created_timestamp)
        SELECT 'u' || n, (ARRAY['acme', 'globex', 'unlisted'])[1 + n % 3], 'nick' || n, 'c' || n, false, true, n FROM generate_series(1, 400) n;
        INSERT INTO user_entity (id, realm_id, username, email_constraint, service_account_client_link)
        VALUES ('machine', 'acme', 'machine', 'm', 'client');
        INSERT INTO user_attribute (id, user_id, name, value) VALUES ('1', 'ann', 'locale', '{OPEN}'), ('2', 'ann', 'ssn', '{SECRET}'),
          ('3', 'u3', 'picture', 'a'), ('4', 'u3', 'picture', 'b');
        UPDATE user_attribute SET long_value = '{SECRET}', long_value_hash = '\x{SECRET}', long_value_hash_lower_case = '\x{SECRET}'
        WHERE id = '2'"#,
    expected: r#"
        SELECT id, jsonb_build_object('id', id, 'display_name', display, 'primary_email', nullif(email, ''), 'username', username,
                 'signed_up_at_millis', nullif(created_timestamp, 0), 'email_verified', email_verified, 'enabled', enabled,
                 'first_name', first_name, 'last_name', last_name, 'federation_link', federation_link,
                 'created_timestamp', created_timestamp,
                 'attributes', coalesce((SELECT jsonb_object_agg(name, v) FROM (SELECT name, jsonb_agg(value ORDER BY value) AS v
                   FROM user_attribute a WHERE a.user_id = u.id AND name <> 'ssn' GROUP BY name) a), '{}')),
               display, nullif(email, ''), to_timestamp(nullif(created_timestamp, 0) / 1000.0), '*', NULL
        FROM user_entity u, LATERAL (SELECT coalesce(nullif(concat_ws(' ', nullif(first_name, ''), nullif(last_name, '')), ''), username)) n(display)
        WHERE realm_id = $1 AND service_account_client_link IS NULL"#,
    steps: &[
        "INSERT INTO user_entity (id, realm_id, username, email_constraint, created_timestamp) VALUES ('new', 'acme', 'new', 'x', 1704067200999)",
        "UPDATE user_entity SET first_name = 'Ann', last_name = 'Lee', email = 'x@x.org', last_modified_timestamp = 1704067200456
         WHERE id = 'u3'",
        "UPDATE user_entity SET created_timestamp = 0, enabled = false WHERE id = 'u6'",
        "INSERT INTO user_attribute (id, user_id, name, value) VALUES ('5', 'u6', 'phoneNumber', '123')",
        "UPDATE user_attribute SET value = 'c' WHERE id = '3'",
        "UPDATE user_attribute SET user_id = 'u9' WHERE id = '4'",
        "DELETE FROM user_attribute WHERE id = '5'",
        "UPDATE user_entity SET realm_id = 'globex' WHERE id = 'u12'",
        "UPDATE user_entity SET service_account_client_link = 'x' WHERE id = 'u15'",
        "BEGIN; DELETE FROM user_attribute WHERE user_id = 'u3'; DELETE FROM user_entity WHERE id IN ('u3', 'u18'); COMMIT",
        "INSERT INTO user_attribute (id, user_id, name, value) VALUES ('6', 'ann', 'ssn', '{SECRET}2')",
    ],
};

pub const KRATOS: Case = Case {
    preset: "kratos",
    says: "streaming",
    tables: Tables::Own("kratos"),
    users: "",
    tenants: &[("acme", "00000000-0000-0000-0000-00000000000a"), ("globex", "00000000-0000-0000-0000-00000000000b")],
    unmarked: &[
        "id", "nid", "organization_id", "state", "state_changed_at", "available_aal", "created_at", "updated_at",
    ],
    marked: &[("identities", "id = u(1)")],
    seed: r#"
        ALTER TABLE identities REPLICA IDENTITY FULL;
        ALTER TABLE identity_verifiable_addresses REPLICA IDENTITY FULL;
        CREATE FUNCTION u(n int) RETURNS uuid IMMUTABLE LANGUAGE sql AS
          $$ SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid $$;
        INSERT INTO networks (id, created_at, updated_at) SELECT nid, now(), now() FROM unnest(ARRAY['00000000-0000-0000-0000-00000000000a',
          '00000000-0000-0000-0000-00000000000b', '00000000-0000-0000-0000-00000000000c']::uuid[]) nid;
        INSERT INTO identities (id, nid, schema_id, traits, metadata_public, metadata_admin, created_at, updated_at)
        VALUES (u(1), '00000000-0000-0000-0000-00000000000a', '{OPEN}', '{"email": "{OPEN}@x.org", "name": {"first": "{OPEN}", "last": "L"}}',
          '{"x": "{OPEN}"}', '{"x": "{SECRET}"}', '2024-01-01 00:00:00.123456', '2024-01-02');
        INSERT INTO identities (id, nid, schema_id, traits, created_at, updated_at)
        SELECT u(n), (ARRAY['00000000-0000-0000-0000-00000000000a', '00000000-0000-0000-0000-00000000000b',
                 '00000000-0000-0000-0000-00000000000c'])[1 + n % 3]::uuid, 'default',
               CASE n % 2 WHEN 0 THEN '{"name": "Plain"}' ELSE '{"full_name": "Full"}' END::jsonb, now(), now()
        FROM generate_series(2, 400) n;
        INSERT INTO identity_verifiable_addresses (id, identity_id, nid, via, value, status, verified, created_at, updated_at)
        SELECT u(n), u(n), (SELECT nid FROM identities i WHERE i.id = u(n)), 'email', n || '@x.org', 'pending', false, now(), now()
        FROM generate_series(2, 400) n"#,
    expected: r#"
        SELECT id, jsonb_build_object('id', id, 'display_name', display, 'primary_email', mail,
                 'signed_up_at_millis', floor(extract(epoch FROM created_at) * 1000)::bigint, 'schema_id', schema_id,
                 'traits', traits, 'metadata_public', metadata_public, 'state', state, 'state_changed_at', state_changed_at,
                 'organization_id', organization_id, 'created_at', created_at,
                 'updated_at', updated_at, 'address_verified',
                 (SELECT coalesce(bool_or(verified), false) FROM identity_verifiable_addresses a WHERE a.identity_id = u.id)),
               display, mail, created_at AT TIME ZONE 'UTC', updated_at AT TIME ZONE 'UTC', NULL
        FROM identities u, LATERAL (SELECT
          coalesce(CASE jsonb_typeof(traits -> 'name') WHEN 'string' THEN nullif(traits ->> 'name', '') END,
            nullif(concat_ws(' ', traits #>> '{name,first}', traits #>> '{name,last}'), ''), traits ->> 'full_name') AS display,
          coalesce(nullif(traits ->> 'email', ''), (SELECT value FROM identity_verifiable_addresses a
            WHERE a.identity_id = u.id ORDER BY verified DESC, created_at, id LIMIT 1)) AS mail) n
        WHERE nid = $1"#,
    steps: &[
        "INSERT INTO identities (id, nid, schema_id, traits, created_at, updated_at)
         VALUES (u(1001), '00000000-0000-0000-0000-00000000000a', 'default', '{}', now(), now())",
        "INSERT INTO identity_verifiable_addresses (id, identity_id, nid, via, value, status, verified, created_at, updated_at)
         VALUES (u(1001), u(1001), '00000000-0000-0000-0000-00000000000a', 'email', 'new@x.org', 'completed', true, now(), now())",
        "UPDATE identity_verifiable_addresses SET value = 'changed@x.org', verified = true WHERE id = u(3)",
        r#"UPDATE identities SET traits = '{"email": "own@x.org", "name": "Ann"}', updated_at = now() WHERE id = u(3)"#,
        r#"UPDATE identities SET state = 'inactive', created_at = '2001-01-01', metadata_admin = '{"x": "{SECRET}"}' WHERE id = u(6)"#,
        "UPDATE identities SET nid = '00000000-0000-0000-0000-00000000000b' WHERE id = u(1001)",
        "DELETE FROM identity_verifiable_addresses WHERE id = u(9)",
        "DELETE FROM identities WHERE id IN (u(12), u(15))",
    ],
};

pub const ZITADEL: Case = Case {
    preset: "zitadel",
    says: "the newest table is projections.users14",
    tables: Tables::Alike("zitadel"),
    users: "",
    tenants: &[("acme", "acme"), ("globex", "globex")],
    unmarked: &[
        "id", "instance_id", "resource_owner", "state", "type", "sequence", "creation_date", "change_date", "user_id",
        "is_email_verified", "is_phone_verified", "password_change_required",
    ],
    marked: &[("projections.users14", "id = 'ann'"), ("projections.users14_humans", "user_id = 'ann'")],
    seed: r#"
        ALTER TABLE projections.users14 REPLICA IDENTITY FULL;
        INSERT INTO projections.users9 VALUES ('old', 'i', 'acme', 'old', 1, 1, 1, now(), now());
        INSERT INTO projections.users14 VALUES ('ann', 'i', 'acme', '{OPEN}', 1, 1, 1, now(), now());
        INSERT INTO projections.users14_humans VALUES ('ann', 'i', '{OPEN}', '{OPEN}', '{OPEN}', '{OPEN}', '{OPEN}', '{OPEN}', '{OPEN}@x.org', true, '{OPEN}');
        INSERT INTO projections.users14
        SELECT 'u' || n, 'i', (ARRAY['acme', 'globex', 'unlisted'])[1 + n % 3], 'nick' || n, 1, 1 + (n % 10 = 0)::int, n, now(), now()
        FROM generate_series(1, 400) n;
        INSERT INTO projections.users14_humans (user_id, instance_id, first_name, last_name, email)
        SELECT id, instance_id, 'First', id, id || '@x.org' FROM projections.users14 WHERE type = 1 AND id <> 'ann';
        INSERT INTO projections.users14_machines SELECT id, instance_id, 'm', '{SECRET}' FROM projections.users14 WHERE type = 2"#,
    expected: r#"
        SELECT id, to_jsonb(u) - 'sequence' - 'type' || to_jsonb(h) - 'user_id' - 'email' - 'password_change_required' - 'display_name'
                 || jsonb_build_object('id', id, 'display_name', display, 'primary_email', nullif(email, ''),
                      'signed_up_at_millis', floor(extract(epoch FROM creation_date) * 1000)::bigint),
               display, nullif(email, ''), creation_date, change_date, NULL
        FROM projections.users14 u JOIN projections.users14_humans h ON h.user_id = u.id,
          LATERAL (SELECT coalesce(nullif(display_name, ''), nullif(concat_ws(' ', nullif(first_name, ''), nullif(last_name, '')), ''), username)) n(display)
        WHERE type = 1 AND resource_owner = $1"#,
    steps: &[
        "BEGIN; INSERT INTO projections.users14 VALUES ('new', 'i', 'acme', 'new', 1, 1, 1, now(), now());
           INSERT INTO projections.users14_humans (user_id, instance_id, first_name, last_name, email) VALUES ('new', 'i', '', '', ''); COMMIT",
        "UPDATE projections.users14_humans SET email = 'changed@x.org', display_name = 'Changed' WHERE user_id = 'u3'",
        "UPDATE projections.users14 SET username = 'x', creation_date = '2001-01-01', change_date = now() WHERE id = 'u6'",
        "UPDATE projections.users14 SET sequence = sequence + 1",
        "UPDATE projections.users14 SET resource_owner = 'globex' WHERE id = 'u9'",
        "DELETE FROM projections.users14 WHERE id IN ('u12', 'u15', 'new')",
    ],
};

pub const SUPERTOKENS: Case = Case {
    preset: "supertokens",
    says: "streaming",
    tables: Tables::Alike("supertokens"),
    users: "",
    tenants: &[("acme", "acme"), ("globex", "globex")],
    unmarked: &[
        "app_id", "user_id", "time_joined", "recipe_id", "primary_or_recipe_user_id", "is_linked_or_is_a_primary_user",
        "primary_or_recipe_user_time_joined", "tenant_id",
    ],
    marked: &[("emailpassword_users", "user_id = 'u1'"), ("user_metadata", "user_id = 'u1'")],
    seed: r#"
        ALTER TABLE app_id_to_user_id REPLICA IDENTITY FULL;
        ALTER TABLE all_auth_recipe_users REPLICA IDENTITY FULL;
        INSERT INTO app_id_to_user_id (app_id, user_id, recipe_id, primary_or_recipe_user_id)
        SELECT 'public', 'u' || n, 'emailpassword', 'u' || n FROM generate_series(1, 300) n;
        INSERT INTO all_auth_recipe_users (app_id, tenant_id, user_id, primary_or_recipe_user_id, recipe_id, time_joined, primary_or_recipe_user_time_joined)
        SELECT 'public', (ARRAY['acme', 'globex', 'unlisted'])[1 + n % 3], 'u' || n, 'u' || n, 'emailpassword', 1000 + n, n FROM generate_series(1, 300) n;
        INSERT INTO all_auth_recipe_users (app_id, tenant_id, user_id, primary_or_recipe_user_id, recipe_id, time_joined, primary_or_recipe_user_time_joined)
        VALUES ('public', 'acme', 'u1', 'u1', 'emailpassword', 500, 0);
        INSERT INTO emailpassword_users (app_id, user_id, email, password_hash, time_joined)
        SELECT 'public', 'u' || n, '{OPEN}' || n || '@x.org', '{SECRET}', n FROM generate_series(1, 300) n;
        INSERT INTO user_metadata VALUES ('public', 'u1', '{"first_name": "{OPEN}", "last_name": "Lee", "ssn": "{SECRET}"}')"#,
    expected: r#"
        SELECT trim(p), jsonb_build_object('id', trim(p), 'display_name', display, 'primary_email', mail, 'signed_up_at_millis', joined,
                 'tenant_id', $1, 'is_linked', array_length(recipes, 1) > 1, 'methods', to_jsonb(recipes)),
               display, mail, to_timestamp(joined / 1000.0), '*', NULL
        FROM (SELECT primary_or_recipe_user_id AS p, array_agg(recipe_id ORDER BY recipe_id, user_id) AS recipes,
                (SELECT min(time_joined) FROM all_auth_recipe_users a WHERE a.primary_or_recipe_user_id = r.primary_or_recipe_user_id) AS joined,
                (SELECT nullif(concat_ws(' ', user_metadata::jsonb ->> 'first_name', user_metadata::jsonb ->> 'last_name'), '')
                 FROM user_metadata m WHERE m.user_id = trim(r.primary_or_recipe_user_id)) AS display,
                (SELECT email FROM (SELECT user_id, email, time_joined FROM emailpassword_users UNION ALL SELECT user_id, email, time_joined FROM thirdparty_users
                   UNION ALL SELECT user_id, email, time_joined FROM passwordless_users WHERE email IS NOT NULL) e JOIN app_id_to_user_id x USING (user_id)
                 WHERE x.primary_or_recipe_user_id = r.primary_or_recipe_user_id
                 ORDER BY user_id <> r.primary_or_recipe_user_id, e.time_joined LIMIT 1) AS mail
              FROM app_id_to_user_id r GROUP BY 1) u
        WHERE EXISTS (SELECT FROM all_auth_recipe_users a WHERE a.primary_or_recipe_user_id = p AND a.tenant_id = $1)"#,
    steps: &[
        "BEGIN; INSERT INTO app_id_to_user_id (app_id, user_id, recipe_id, primary_or_recipe_user_id) VALUES ('public', 'new', 'passwordless', 'new');
           INSERT INTO all_auth_recipe_users (app_id, tenant_id, user_id, primary_or_recipe_user_id, recipe_id, time_joined, primary_or_recipe_user_time_joined)
             VALUES ('public', 'acme', 'new', 'new', 'passwordless', 7000, 7000);
           INSERT INTO passwordless_users (app_id, user_id, phone_number, time_joined) VALUES ('public', 'new', '123', 7000); COMMIT",
        "UPDATE emailpassword_users SET email = 'changed@x.org' WHERE user_id = 'u3'",
        "UPDATE emailpassword_users SET password_hash = '{SECRET}2'",
        r#"INSERT INTO user_metadata VALUES ('public', 'u3', '{"last_name": "Lee"}')"#,
        r#"UPDATE user_metadata SET user_metadata = '{}' WHERE user_id = 'u3'"#,
        // After linking, the telephone-only account has the other's address, and the other is no user of its own.
        "BEGIN; UPDATE app_id_to_user_id SET primary_or_recipe_user_id = 'new' WHERE user_id IN ('new', 'u6');
           UPDATE all_auth_recipe_users SET primary_or_recipe_user_id = 'new' WHERE user_id IN ('new', 'u6'); COMMIT",
        // The linked account's address is the user's.
        "UPDATE emailpassword_users SET email = 'linked@x.org' WHERE user_id = 'u6'",
        // Into one more tenant, and out of one.
        "INSERT INTO all_auth_recipe_users (app_id, tenant_id, user_id, primary_or_recipe_user_id, recipe_id, time_joined, primary_or_recipe_user_time_joined)
           VALUES ('public', 'globex', 'u9', 'u9', 'emailpassword', 10, 10)",
        "DELETE FROM all_auth_recipe_users WHERE user_id = 'u9' AND tenant_id = 'acme'",
        "DELETE FROM app_id_to_user_id WHERE user_id IN ('u12', 'u15')",
        // The linked account is deleted; the user stays.
        "DELETE FROM app_id_to_user_id WHERE user_id = 'u6'",
    ],
};

pub const FUSIONAUTH: Case = Case {
    preset: "fusionauth",
    says: "streaming",
    tables: Tables::Alike("fusionauth"),
    users: "",
    tenants: &[("acme", "00000000-0000-0000-0000-00000000000a"), ("globex", "00000000-0000-0000-0000-00000000000b")],
    unmarked: &[
        "id", "tenants_id", "active", "insert_instant", "last_update_instant", "last_login_instant", "users_id", "type",
        "is_primary", "verified",
    ],
    marked: &[("users", "full_name LIKE '%09e2%'"), ("identities", "email LIKE '%09e2%'")],
    seed: r#"
        ALTER TABLE users REPLICA IDENTITY FULL;
        ALTER TABLE identities REPLICA IDENTITY FULL;
        CREATE FUNCTION u(n int) RETURNS uuid IMMUTABLE LANGUAGE sql AS
          $$ SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid $$;
        INSERT INTO users VALUES (u(1), '00000000-0000-0000-0000-00000000000a', true, '{OPEN}', '{OPEN}', '{OPEN}', '{OPEN}', '{"x": "{SECRET}"}',
          '{SECRET}', '{SECRET}', 1704067200123, 1704067200124, NULL);
        INSERT INTO identities (users_id, tenants_id, value, email, username, is_primary, verified, password, salt, insert_instant, last_update_instant)
        VALUES (u(1), '00000000-0000-0000-0000-00000000000a', '{SECRET}', '{OPEN}@x.org', '{OPEN}', true, true, '{SECRET}', '{SECRET}', 1, 1);
        INSERT INTO users (id, tenants_id, active, insert_instant, last_update_instant)
        SELECT u(n), (ARRAY['00000000-0000-0000-0000-00000000000a', '00000000-0000-0000-0000-00000000000b',
                 '00000000-0000-0000-0000-00000000000c'])[1 + n % 3]::uuid, true, n, n FROM generate_series(2, 400) n;
        INSERT INTO identities (users_id, tenants_id, email, username, is_primary, verified, insert_instant, last_update_instant)
        SELECT id, tenants_id, insert_instant || '@x.org', 'nick' || insert_instant, true, false, 1, 1 FROM users WHERE id <> u(1)"#,
    expected: r#"
        SELECT u.id, jsonb_build_object('id', u.id, 'display_name', display, 'primary_email', i.email, 'signed_up_at_millis', u.insert_instant,
                 'active', active, 'full_name', full_name, 'first_name', first_name, 'last_name', last_name, 'image_url', image_url,
                 'insert_instant', u.insert_instant, 'last_login_instant', last_login_instant, 'username', i.username, 'verified', coalesce(i.verified, false)),
               display, i.email, to_timestamp(u.insert_instant / 1000.0), to_timestamp(greatest(u.last_update_instant, i.last_update_instant) / 1000.0), NULL
        FROM users u LEFT JOIN identities i ON i.users_id = u.id,
          LATERAL (SELECT coalesce(full_name, nullif(concat_ws(' ', first_name, last_name), ''), i.username)) n(display)
        WHERE u.tenants_id = $1"#,
    steps: &[
        "INSERT INTO users (id, tenants_id, active, insert_instant, last_update_instant) VALUES (u(1001), '00000000-0000-0000-0000-00000000000a', true, 5, 6)",
        "INSERT INTO identities (users_id, tenants_id, email, is_primary, verified, insert_instant, last_update_instant)
           VALUES (u(1001), '00000000-0000-0000-0000-00000000000a', 'new@x.org', true, false, 1, 7000)",
        "UPDATE users SET first_name = 'Ann', last_name = 'Lee', active = false, last_update_instant = 1704067200999 WHERE id = u(3)",
        "UPDATE identities SET email = 'changed@x.org', verified = true, last_update_instant = 1804067200999 WHERE users_id = u(3)",
        "UPDATE users SET insert_instant = 77, password = '{SECRET}2' WHERE id = u(6)",
        "DELETE FROM identities WHERE users_id = u(9)",
        "UPDATE users SET tenants_id = '00000000-0000-0000-0000-00000000000b' WHERE id = u(12)",
        "DELETE FROM users WHERE id IN (u(15), u(18))",
    ],
};

/// Members of organizations: a user is in as many tenants as it has memberships.
pub const BETTER_AUTH_ORGANIZATIONS: Case = Case {
    preset: "better-auth",
    says: "streaming",
    tables: Tables::Own("better-auth"),
    users: "fan_out: {table: public.member, id: userId, tenant: organizationId}",
    tenants: &[("acme", "o1"), ("globex", "o2")],
    unmarked: &[],
    marked: &[],
    seed: r#"
        ALTER TABLE member REPLICA IDENTITY FULL;
        INSERT INTO organization (id, name, slug, "createdAt") SELECT 'o' || n, 'o' || n, 'o' || n, now() FROM generate_series(1, 3) n;
        INSERT INTO "user" (id, name, email, "emailVerified")
        SELECT 'u' || n, '{OPEN} ' || n, n || '@x.org', false FROM generate_series(1, 200) n;
        INSERT INTO member (id, "organizationId", "userId", role, "createdAt")
        SELECT o || '-' || n, 'o' || o, 'u' || n, '{SECRET}', now() FROM generate_series(1, 200) n, generate_series(1, 3) o WHERE n % (o + 1) = 0"#,
    expected: r#"
        SELECT id, jsonb_build_object('id', id, 'display_name', nullif(name, ''), 'primary_email', nullif(email, ''),
                 'signed_up_at_millis', floor(extract(epoch FROM "createdAt") * 1000)::bigint, 'image', image,
                 'emailVerified', "emailVerified", 'createdAt', "createdAt", 'updatedAt', "updatedAt", 'role', role,
                 'banned', banned, 'banReason', "banReason", 'banExpires', "banExpires", 'isAnonymous', "isAnonymous",
                 'username', username, 'displayUsername', "displayUsername", 'phoneNumber', "phoneNumber",
                 'phoneNumberVerified', "phoneNumberVerified", 'twoFactorEnabled', "twoFactorEnabled"),
               nullif(name, ''), nullif(email, ''), "createdAt", "updatedAt", NULL
        FROM "user" u WHERE EXISTS (SELECT FROM member m WHERE m."userId" = u.id AND m."organizationId" = $1)"#,
    steps: &[
        r#"UPDATE "user" SET name = 'Changed' WHERE id IN ('u6', 'u7')"#,
        r#"INSERT INTO member (id, "organizationId", "userId", role, "createdAt") VALUES ('x', 'o1', 'u7', 'owner', now())"#,
        r#"UPDATE member SET "organizationId" = 'o2' WHERE id = 'x'"#,
        r#"DELETE FROM member WHERE "userId" = 'u6' AND "organizationId" = 'o1'"#,
        r#"BEGIN; INSERT INTO "user" (id, name, email, "emailVerified") VALUES ('new', 'New', 'new@x.org', true);
           INSERT INTO member (id, "organizationId", "userId", role, "createdAt") VALUES ('n1', 'o1', 'new', 'owner', now()), ('n2', 'o2', 'new', 'owner', now()); COMMIT"#,
        r#"DELETE FROM "user" WHERE id IN ('u12', 'new')"#,
        r#"DELETE FROM organization WHERE id = 'o2'"#,
    ],
};
