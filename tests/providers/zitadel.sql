-- The projections of a recent Zitadel, and of the version before, which no longer changes.
CREATE SCHEMA projections;
CREATE TABLE projections.users14 (
  id text NOT NULL,
  instance_id text NOT NULL,
  resource_owner text NOT NULL,
  username text NOT NULL,
  state smallint NOT NULL,
  type smallint NOT NULL,
  sequence bigint NOT NULL,
  creation_date timestamptz NOT NULL,
  change_date timestamptz NOT NULL,
  PRIMARY KEY (instance_id, id)
);
CREATE TABLE projections.users14_humans (
  user_id text NOT NULL,
  instance_id text NOT NULL,
  first_name text NOT NULL,
  last_name text NOT NULL,
  nick_name text,
  display_name text,
  preferred_language text,
  avatar_key text,
  email text NOT NULL,
  is_email_verified boolean NOT NULL DEFAULT false,
  phone text,
  is_phone_verified boolean,
  password_change_required boolean NOT NULL DEFAULT false,
  PRIMARY KEY (instance_id, user_id),
  FOREIGN KEY (instance_id, user_id) REFERENCES projections.users14 (instance_id, id) ON DELETE CASCADE
);
CREATE TABLE projections.users14_machines (
  user_id text NOT NULL,
  instance_id text NOT NULL,
  name text NOT NULL,
  secret text,
  PRIMARY KEY (instance_id, user_id),
  FOREIGN KEY (instance_id, user_id) REFERENCES projections.users14 (instance_id, id) ON DELETE CASCADE
);
CREATE TABLE projections.users9 (LIKE projections.users14 INCLUDING ALL);
CREATE TABLE projections.users9_humans (LIKE projections.users14_humans INCLUDING ALL);
