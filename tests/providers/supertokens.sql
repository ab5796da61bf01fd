-- The tables of a SuperTokens core in its default schema, without a prefix, as its queries name them.
CREATE TABLE app_id_to_user_id (
  app_id varchar(64) NOT NULL DEFAULT 'public',
  user_id char(36) NOT NULL,
  recipe_id varchar(128) NOT NULL,
  primary_or_recipe_user_id char(36) NOT NULL,
  is_linked_or_is_a_primary_user boolean NOT NULL DEFAULT false,
  time_joined bigint NOT NULL DEFAULT 0,
  primary_or_recipe_user_time_joined bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (app_id, user_id)
);
CREATE INDEX app_id_to_user_id_primary_user_id_index ON app_id_to_user_id (primary_or_recipe_user_id, app_id);
CREATE TABLE all_auth_recipe_users (
  app_id varchar(64) NOT NULL DEFAULT 'public',
  tenant_id varchar(64) NOT NULL DEFAULT 'public',
  user_id char(36) NOT NULL,
  primary_or_recipe_user_id char(36) NOT NULL,
  is_linked_or_is_a_primary_user boolean NOT NULL DEFAULT false,
  recipe_id varchar(128) NOT NULL,
  time_joined bigint NOT NULL,
  primary_or_recipe_user_time_joined bigint NOT NULL,
  PRIMARY KEY (app_id, tenant_id, user_id),
  FOREIGN KEY (app_id, user_id) REFERENCES app_id_to_user_id ON DELETE CASCADE
);
CREATE TABLE emailpassword_users (
  app_id varchar(64) NOT NULL DEFAULT 'public',
  user_id char(36) NOT NULL,
  email varchar(256) NOT NULL,
  password_hash varchar(256) NOT NULL,
  time_joined bigint NOT NULL,
  PRIMARY KEY (app_id, user_id),
  FOREIGN KEY (app_id, user_id) REFERENCES app_id_to_user_id ON DELETE CASCADE
);
CREATE TABLE thirdparty_users (
  app_id varchar(64) NOT NULL DEFAULT 'public',
  third_party_id varchar(28) NOT NULL,
  third_party_user_id varchar(256) NOT NULL,
  user_id char(36) NOT NULL,
  email varchar(256) NOT NULL,
  time_joined bigint NOT NULL,
  PRIMARY KEY (app_id, user_id),
  FOREIGN KEY (app_id, user_id) REFERENCES app_id_to_user_id ON DELETE CASCADE
);
CREATE TABLE passwordless_users (
  app_id varchar(64) NOT NULL DEFAULT 'public',
  user_id char(36) NOT NULL,
  email varchar(256),
  phone_number varchar(256),
  time_joined bigint NOT NULL,
  PRIMARY KEY (app_id, user_id),
  FOREIGN KEY (app_id, user_id) REFERENCES app_id_to_user_id ON DELETE CASCADE
);
CREATE TABLE user_metadata (
  app_id varchar(64) NOT NULL DEFAULT 'public',
  user_id varchar(128) NOT NULL,
  user_metadata text NOT NULL,
  PRIMARY KEY (app_id, user_id)
);
