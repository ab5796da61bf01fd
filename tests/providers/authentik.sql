-- The columns of authentik's models, as Django makes them on PostgreSQL.
CREATE TABLE authentik_core_user (
  id integer PRIMARY KEY,
  uuid uuid NOT NULL UNIQUE,
  username varchar(150) NOT NULL UNIQUE,
  name text NOT NULL,
  email varchar(254) NOT NULL,
  password varchar(128) NOT NULL,
  path text NOT NULL,
  type text NOT NULL,
  attributes jsonb NOT NULL,
  is_active boolean NOT NULL,
  last_login timestamptz,
  date_joined timestamptz NOT NULL,
  password_change_date timestamptz NOT NULL,
  last_updated timestamptz NOT NULL
);
