-- The auth database of the trial: what a provider keeps, in one table, with people of two tenants.
CREATE SCHEMA auth;
CREATE TABLE auth.users (
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  organization text NOT NULL,
  full_name text,
  email text,
  encrypted_password text NOT NULL DEFAULT md5(random()::text),
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz,
  -- A DELETE carries only the replica identity, and has to say whose user it was.
  PRIMARY KEY (id, organization)
);
INSERT INTO auth.users (organization, full_name, email)
SELECT (ARRAY['acme', 'globex'])[1 + n % 2], 'Early Bird ' || n, 'user' || n || '@example.com'
FROM generate_series(1, 200) n;
