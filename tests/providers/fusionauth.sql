-- The user tables of a recent FusionAuth, as public dumps of it show them.
CREATE TABLE users (
  id uuid PRIMARY KEY,
  tenants_id uuid NOT NULL,
  active boolean NOT NULL,
  full_name varchar(255),
  first_name varchar(255),
  last_name varchar(255),
  image_url text,
  data text,
  password varchar(2048),
  password_salt varchar(255),
  insert_instant bigint NOT NULL,
  last_update_instant bigint NOT NULL,
  last_login_instant bigint
);
CREATE TABLE identities (
  id bigserial PRIMARY KEY,
  users_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
  tenants_id uuid NOT NULL,
  type smallint,
  value varchar(191),
  email varchar(191),
  username varchar(191),
  is_primary boolean,
  verified boolean NOT NULL,
  password varchar(255),
  salt varchar(255),
  insert_instant bigint NOT NULL,
  last_update_instant bigint NOT NULL
);
