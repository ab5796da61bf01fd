-- The auth database of the trial: a provider's table with users of two tenants.
CREATE SCHEMA auth;
CREATE TABLE auth.users (
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  organization text NOT NULL,
  full_name text,
  email text,
  encrypted_password text NOT NULL DEFAULT md5(random()::text),
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz,
  -- A DELETE carries only the replica identity, which therefore has to include the tenant.
  PRIMARY KEY (id, organization)
);
INSERT INTO auth.users (organization, full_name, email)
SELECT (ARRAY['acme', 'globex'])[1 + n % 2], 'Early Bird ' || n, 'user' || n || '@example.com'
FROM generate_series(1, 200) n;
